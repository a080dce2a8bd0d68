//! Two processes, events keyed at random, and calls of the same products through both: one id space, one truth.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::client::{Client, Order};
use crate::events::{Events, Load};
use crate::instance::serve;
use crate::model::{Model, replay};
use crate::servers::{fresh_database, shared_broker};
use crate::service::{SOON, Service};
use crate::state::{State, connect, consumed};
use crate::topic::Topic;

const PRODUCTS: u64 = 20;
/// Of each instance.
const CALLERS: u64 = 4;
/// Of each caller.
const CALLS: u64 = 50;

/// D2, B4: no update is lost, no stock negative, no id used twice, and nobody starves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doors_of_both_processes_are_exact() {
    let (brokers, url) = (shared_broker(), fresh_database("sharing").await);
    let topic = Topic::create(&brokers, "sharing").await;
    let start = || Service::start(&mut serve(&brokers, &topic, &url));
    let instances = [start(), start()];
    let opener = instances[0].client().await;
    for product in 0..PRODUCTS {
        Order::create(&format!("open-{product}"), &format!("p{product}"), 100).send(&opener).await.unwrap();
    }
    let load = Load::start(topic.producer(), Events::new("sharing", PRODUCTS, 2), 500, false);
    let mut callers = Vec::new();
    for (instance, service) in instances.iter().enumerate() {
        for caller in 0..CALLERS {
            callers.push(tokio::spawn(call(service.client().await, format!("{instance}-{caller}"), caller)));
        }
    }
    for caller in callers {
        tokio::time::timeout(SOON, caller).await.expect("nobody starves").unwrap();
    }
    load.end();
    let database = connect(&url).await;
    consumed(&database, &topic, SOON).await;
    let state = State::read(&database, &topic).await;
    replay(&state);
    let (events, callers) = (Model::of(&topic), callers_ids());
    let sent: BTreeSet<_> = events.ids().chain(callers.iter().map(String::as_str)).collect();
    let processed: BTreeSet<_> = state.processed.keys().map(String::as_str).collect();
    assert!(processed == sent, "not exactly what was sent: {:?}", processed.symmetric_difference(&sent));
    for instance in instances {
        let client = instance.client().await;
        for (sku, product) in &state.products {
            let told = crate::client::balance(&client, sku).await.unwrap();
            assert_eq!((told.balance, told.version), (product.stock, product.version.unsigned_abs()), "{sku}");
        }
        instance.stop();
    }
}

/// The ids of all calls.
fn callers_ids() -> Vec<String> {
    let opened = (0..PRODUCTS).map(|product| format!("open-{product}"));
    let callers = (0..2).flat_map(|instance| (0..CALLERS).map(move |caller| format!("{instance}-{caller}")));
    opened.chain(callers.flat_map(|name| (0..CALLS).map(move |round| format!("call-{name}-{round}")))).collect()
}

/// Own updates, each sent twice.
async fn call(client: Client, name: String, caller: u64) {
    for round in 0..CALLS {
        let product = format!("p{}", (round * 7 + caller) % PRODUCTS);
        let order = Order::update(&format!("call-{name}-{round}"), &product, if round % 2 == 0 { -3 } else { 2 });
        let first = order.send(&client).await.unwrap();
        let again = order.send(&client).await.unwrap();
        assert!(!first[0].replayed && again[0].replayed, "{first:?} {again:?}");
        assert_eq!((first[0].sequence, &first[0].accounts), (again[0].sequence, &again[0].accounts));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// B4, D3: an id that came through one door is known at the other, in both directions, in every process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_known_at_both_doors() {
    let (brokers, url) = (shared_broker(), fresh_database("doors").await);
    let topic = Topic::create(&brokers, "doors").await;
    let instances = [(); 2].map(|()| Service::start(&mut serve(&brokers, &topic, &url)));
    let clients = [instances[0].client().await, instances[1].client().await];
    let producer = topic.producer();
    let event = |id: &str, quantity: i64| {
        producer.send(
            None,
            "tea",
            format!(r#"{{"event_id":"{id}","product_id":"tea","quantity_change":{quantity}}}"#).as_bytes(),
        );
        producer.flush();
    };
    let database = connect(&url).await;
    event("through-kafka", 10);
    consumed(&database, &topic, SOON).await;
    for client in &clients {
        let told = Order::update("through-kafka", "tea", 10).send(client).await.unwrap();
        assert_eq!((told[0].replayed, told[0].accounts.clone()), (true, vec![("tea".to_owned(), 10, 2)]));
        let status = Order::update("through-kafka", "tea", 11).send(client).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("delta"), "{status:?}");
    }
    Order::update("through-grpc", "tea", -4).send(&clients[0]).await.unwrap();
    event("through-grpc", -4);
    event("another", 1);
    // Used with another quantity: no event of ours, so a dead letter.
    event("through-grpc", -5);
    consumed(&database, &topic, SOON).await;
    let state = State::read(&database, &topic).await;
    replay(&state);
    assert_eq!((state.products["tea"].stock, state.products["tea"].version), (7, 4));
    let letters = topic.read(&topic.dead_letters());
    let reasons: Vec<_> =
        letters.iter().flatten().map(|letter| crate::topic::header(letter, "equipoise-reason").unwrap()).collect();
    assert!(reasons.len() == 1 && reasons[0].contains("through-grpc"), "{reasons:?}");
    for instance in instances {
        instance.stop();
    }
}

/// D6, case A16: two instances that both see the outbox publish each letter once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_record_has_one_letter() {
    const BAD: usize = 1_200;
    let (brokers, url) = (shared_broker(), fresh_database("letters").await);
    let topic = Topic::create(&brokers, "letters").await;
    let instances = [(); 2].map(|()| Service::start(&mut serve(&brokers, &topic, &url)));
    let database = connect(&url).await;
    let producer = topic.producer();
    for record in 0..BAD {
        producer.send(None, &format!("key{record}"), b"not an event");
        // So that both always have some.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    producer.flush();
    consumed(&database, &topic, SOON).await;
    let letters: usize = topic.read(&topic.dead_letters()).iter().map(Vec::len).sum();
    assert_eq!(letters, BAD);
    for instance in instances {
        instance.stop();
    }
}
