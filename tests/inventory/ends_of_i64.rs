//! Case A06: quantities at the ends of their range.

use crate::client::Order;
use crate::instance::serve;
use crate::servers::{fresh_database, shared_broker};
use crate::service::{SOON, Service};
use crate::state::{State, connect, consumed};
use crate::topic::Topic;

/// D6, A12, A13: what does not fit is a recorded rejection, not a dead letter and no wrap; its id is used, with the text of the calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_a_recorded_rejection() {
    let (brokers, url) = (shared_broker(), fresh_database("ends").await);
    let topic = Topic::create(&brokers, "ends").await;
    let service = Service::start(&mut serve(&brokers, &topic, &url));
    let producer = topic.producer();
    for (id, quantity) in [("first", i64::MAX), ("second", i64::MAX), ("least", i64::MIN), ("none", 0)] {
        let event = format!(r#"{{"event_id":"{id}","product_id":"max","quantity_change":{quantity}}}"#);
        producer.send(None, "max", event.as_bytes());
    }
    producer.flush();
    let database = connect(&url).await;
    consumed(&database, &topic, SOON).await;
    let state = State::read(&database, &topic).await;
    assert_eq!(state.products["max"].stock, i64::MAX);
    let applied = |id: &str| state.journal.iter().find(|entry| entry.id.as_deref() == Some(id)).unwrap().applied;
    assert_eq!(["first", "second", "least", "none"].map(applied), [true, false, false, true]);
    assert!(topic.read(&topic.dead_letters()).iter().all(Vec::is_empty));
    let client = service.client().await;
    let texts = [
        ("second", i64::MAX, format!("Balance out of range: current={}, delta={}", i64::MAX, i64::MAX)),
        ("least", i64::MIN, format!("Insufficient balance: current={}, delta={}", i64::MAX, i64::MIN)),
    ];
    for (id, delta, text) in texts {
        let told = Order::update(id, "max", delta).send(&client).await.unwrap();
        assert_eq!((told[0].replayed, &told[0].message), (true, &text));
    }
    service.stop();
}
