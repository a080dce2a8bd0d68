//! What operators do to a database while it is written: restart it, make it read-only, swap it for a standby, put a backup in its
//! place.

use std::time::Duration;

use tokio::time::sleep;

use crate::backup;
use crate::events::{Events, Load};
use crate::instance::serve;
use crate::model::everything_once;
use crate::proxy::Proxy;
use crate::servers::{Server, fresh_database, shared_broker};
use crate::service::{SOON, Service};
use crate::state::{connect, consumed};
use crate::topic::Topic;

/// How long each state lasts: some commits, and longer than the store is patient.
const WHILE: Duration = Duration::from_secs(7);

/// D4, D6, case A19: one process lives through all of it, and every event has its effect once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_outlives_what_operators_do() {
    let mut database = Server::database(28534);
    let (brokers, url) = (shared_broker(), database.address.clone());
    let topic = Topic::create(&brokers, "operators").await;
    let service = Service::start(&mut serve(&brokers, &topic, &url));
    let load = Load::start(topic.producer(), Events::new("operators", 50, 3), 500, true);
    for _ in 0..3 {
        sleep(Duration::from_secs(2)).await;
        database.restart_immediately();
    }
    sleep(Duration::from_secs(2)).await;
    let read_only = |on: &str| format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
    for state in ["on", "off"] {
        let admin = connect(&url).await;
        admin.batch_execute("SET default_transaction_read_only = off").await.unwrap();
        admin.batch_execute(&read_only(state)).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        sleep(WHILE).await;
    }
    database.demote();
    let standby = connect(&url).await;
    let written = "SELECT count(*) FROM processed_events";
    let before: i64 = standby.query_one(written, &[]).await.unwrap().get(0);
    sleep(WHILE).await;
    assert_eq!(standby.query_one(written, &[]).await.unwrap().get::<_, i64>(0), before, "it is a standby");
    standby.batch_execute("SELECT pg_promote()").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    load.end();
    consumed(&connect(&url).await, &topic, SOON).await;
    everything_once(&connect(&url).await, &topic).await;
    service.stop();
}

/// D4, D6: a backup takes the place of the database. Events since then are consumed again, from where the backup is, and what the
/// instance remembers of the time after it counts for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_outlives_a_restored_backup() {
    let (brokers, url) = (shared_broker(), fresh_database("backup").await);
    let topic = Topic::create(&brokers, "backup").await;
    let service = Service::start(&mut serve(&brokers, &topic, &url));
    let load = Load::start(topic.producer(), Events::new("backup", 50, 4), 500, true);
    let second = Duration::from_secs(1);
    sleep(2 * second).await;
    backup::save(&url).await;
    sleep(4 * second).await;
    backup::restore(&url).await;
    sleep(2 * second).await;
    load.end();
    consumed(&connect(&url).await, &topic, SOON).await;
    everything_once(&connect(&url).await, &topic).await;
    service.stop();
}

/// D4, D6: the address moves to a standby that was promoted, which lacks the newest commits; the former primary still answers, as a standby,
/// and connections to it live on. Nothing is written there any more, and nothing is believed that only it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_follows_its_database_to_another_server() {
    let [mut former, mut next] = [28536, 28537].map(Server::database);
    let topic = Topic::create(&shared_broker(), "moved").await;
    let proxy = Proxy::before(&former.address).await;
    let service = Service::start(&mut serve(&shared_broker(), &topic, &proxy.url));
    let load = Load::start(topic.producer(), Events::new("moved", 50, 5), 500, true);
    let second = Duration::from_secs(1);
    sleep(3 * second).await;
    next.become_copy_of(&mut former);
    sleep(3 * second).await;
    former.demote();
    sleep(second).await;
    proxy.lead_to(28537);
    sleep(2 * second).await;
    load.end();
    consumed(&connect(&next.address).await, &topic, SOON).await;
    everything_once(&connect(&next.address).await, &topic).await;
    service.stop();
}
