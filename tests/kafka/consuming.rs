//! What is consumed, from where, and how fast the store has to be.

use std::sync::Arc;
use std::time::Duration;

use equipoise::kafka::Partition;

use crate::broker::{self, Topic, Writer};
use crate::service::{Service, settings};
use crate::store::Memory;

/// D3: every record once, in the order of its partition, over the gaps that aborted transactions leave.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_consumed_once_and_in_order() {
    let topic = Topic::new("gaps", 4).await;
    topic.write_events("plain", 0..20_000, 4);
    let writer = Writer::new(&[("transactional.id", &topic.name)]);
    writer.begin_transactions();
    for (round, commit) in [true, false, true, false].into_iter().enumerate() {
        writer.transaction(commit, |writer| {
            for n in 0..100 {
                writer.event(&topic.name, n % 4, &format!("transaction-{round}-{n}"));
            }
        });
    }
    let service = Service::start(settings(&topic, &[]), &Arc::default());
    service.until_events(20_200).await;
    let lag = |partition| service.metrics.lag.get_or_create(&Partition { partition }).get();
    service.until("no lag", |it| (0..4).all(|partition| lag(partition) == 0) && it.consuming().len() == 4).await;
    assert_eq!((service.store.events(), service.store.records()), (20_200, 20_200));
    assert_eq!(service.metrics.applied.get(), 20_200);
    assert!(service.store.largest_batch() > 100, "records are applied by the batch");
    assert_eq!(service.status().not_ready(), None);
    service.stop().await;
}

/// D4: the store's offset counts; Kafka's own is written for others, and not read.
#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_the_store_says() {
    let topic = Topic::new("resume", 1).await;
    topic.write_events("n", 0..100, 1);
    broker::commit_in_kafka(&topic.name, &topic.name, 0, 80);
    let store = Arc::new(Memory::default());
    store.set(0, 50, 0);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until_events(50).await;
    assert_eq!(store.offsets(0), (50..100).collect::<Vec<_>>());
    // Lag tools see how far it is.
    service.until("Kafka's offset", |_| broker::committed_in_kafka(&topic.name, &topic.name, 0) == Some(100)).await;
    service.stop().await;

    topic.write_events("n", 100..150, 1);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until_events(100).await;
    assert_eq!(store.offsets(0), (50..150).collect::<Vec<_>>());
    service.stop().await;
}

/// D6: a store that is slower than Kafka's longest poll interval costs no membership, and what waits is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_costs_no_membership() {
    let topic = Topic::new("slow", 2).await;
    topic.write_events("n", 0..60_000, 2);
    let store = Arc::new(Memory::default());
    store.order(|orders| orders.delay = Duration::from_secs(8));
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("the first batch", |it| it.store.calls() > 0).await;
    let waiting = service.metrics.consumed.get() as usize - store.events();
    assert!(waiting < 30_000, "{waiting} records wait");
    service.until("the second batch", |it| it.store.calls() > 1).await;
    assert_eq!((service.metrics.rebalances.get(), service.metrics.fenced.get()), (1, 0));
    store.order(|orders| orders.delay = Duration::ZERO);
    service.until_events(60_000).await;
    assert_eq!(store.records(), 60_000);
    service.stop().await;
}

/// D4: with `latest`, what comes after the first start is consumed, however the process ends before it applied anything.
#[tokio::test(flavor = "multi_thread")]
async fn latest_is_remembered_from_the_first_start() {
    let topic = Topic::new("latest", 1).await;
    topic.write_events("before", 0..10, 1);
    let store = Arc::new(Memory::default());
    let latest = [("KAFKA_AUTO_OFFSET_RESET", "latest")];
    let service = Service::start(settings(&topic, &latest), &store);
    service.until("the beginning", |it| it.store.next(0) == Some(10)).await;
    service.stop().await;
    topic.write_events("after", 0..10, 1);
    let service = Service::start(settings(&topic, &latest), &store);
    service.until_events(10).await;
    assert_eq!(store.offsets(0), (10..20).collect::<Vec<_>>());
    service.stop().await;
}
