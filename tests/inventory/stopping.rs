//! Case A11: an instance is told to end while its database does not answer.

use std::time::Duration;

use crate::events::{Events, Load};
use crate::instance::serve;
use crate::model::everything_once;
use crate::proxy::{Proxy, Trouble};
use crate::servers::{fresh_database, shared_broker};
use crate::service::{SOON, Service};
use crate::state::{connect, consumed};
use crate::topic::Topic;

/// E4, D4: it ends in time, and whoever comes next does what it left, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_database_does_not_answer_ends_in_time() {
    let (brokers, url) = (shared_broker(), fresh_database("stopping").await);
    let topic = Topic::create(&brokers, "stopping").await;
    let proxy = Proxy::before(&url).await;
    let service = Service::start(&mut serve(&brokers, &topic, &proxy.url));
    let load = Load::start(topic.producer(), Events::new("stopping", 20, 11), 500, true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.plan(Trouble::Hold(Duration::from_secs(120)), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(proxy.troubled() > 0, "a commit waits for its answer");
    service.stop_in_time();

    let next = Service::start(&mut serve(&brokers, &topic, &url));
    load.end();
    let database = connect(&url).await;
    consumed(&database, &topic, SOON).await;
    everything_once(&database, &topic).await;
    next.stop();
}
