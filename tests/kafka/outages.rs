//! A store and a broker that do not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::broker::{Topic, unique};
use crate::service::{Service, settings, settings_at};
use crate::store::Memory;

/// D6: an unavailable store is asked again with the same, and nothing is lost or doubled when it had done it all along.
#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_store_is_asked_again() {
    let topic = Topic::new("unavailable", 3).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| {
        orders.take_over_unavailable = 3;
        orders.unavailable = 4;
        orders.answers_lost = 3;
    });
    topic.write_events("n", 0..10_000, 3);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("trouble", |it| it.status().not_ready().is_some_and(|why| why.contains("unavailable"))).await;
    service.until_events(10_000).await;
    service.until("an end of it", |it| it.status().not_ready().is_none()).await;
    assert_eq!(store.records(), 10_000);
    assert_eq!(service.metrics.apply_retries.get(), 7);
    assert_eq!((service.metrics.fenced.get(), service.metrics.rebalances.get()), (0, 1));
    service.stop().await;
}

/// D6, D9: while the store is away for longer than the longest poll interval, the member stays one, and its lag grows with the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_of_the_store_costs_no_membership() {
    let topic = Topic::new("outage", 1).await;
    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("the partition", |it| it.consuming() == [0]).await;
    store.order(|orders| orders.unavailable = usize::MAX);
    topic.write_events("n", 0..30_000, 1);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!((store.records(), service.metrics.rebalances.get()), (0, 1));
    assert!(service.metrics.consumed.get() < 20_000, "what waits is bounded");
    topic.write_events("n", 30_000..31_000, 1);
    service.until("the lag", |it| it.lag(0) == 31_000).await;
    store.order(|orders| orders.unavailable = 0);
    service.until_events(31_000).await;
    assert_eq!((store.records(), service.metrics.rebalances.get()), (31_000, 1));
    service.until("none", |it| it.lag(0) == 0).await;
    service.stop().await;
}

/// D6: a store that needs somebody is asked again, slowly, and says why; when somebody was there the consuming goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_store_is_asked_again() {
    let topic = Topic::new("failed", 2).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| orders.failed = true);
    topic.write_events("n", 0..100, 2);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("the failure", |it| it.status().not_ready().is_some_and(|why| why.contains("told so"))).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert!(
            service.status().not_ready().is_some(),
            "what else it is asked for meanwhile tells nothing of the events"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((store.records(), service.status().failed), (0, None));
    store.order(|orders| orders.failed = false);
    service.until_events(100).await;
    service.until("readiness", |it| it.status().not_ready().is_none()).await;
    service.stop().await;
}

/// D6, D7: a partition that has to wait holds up no other, however many calls are under way, and says so; then it goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_waits_holds_up_no_other() {
    let topic = Topic::new("held", 3).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| {
        (orders.behind, orders.delay) = (1, Duration::from_millis(100));
        (orders.held, orders.held_from) = (vec![0, 1], 3_000);
    });
    topic.write_events("n", 0..30_000, 3);
    let service = Service::start(settings(&topic, &[]), &store);
    let has_all = |it: &Service, partition| it.store.contents(partition).len() == 10_000;
    service.until("the third", |it| has_all(it, 2)).await;
    service.until("the word", |it| it.status().not_ready().is_some_and(|why| why.contains("[0, 1] wait"))).await;
    assert!(!has_all(&service, 0) && !has_all(&service, 1) && service.metrics.fenced.get() == 0);
    store.order(|orders| orders.held = vec![1]);
    service.until("the first", |it| has_all(it, 0)).await;
    assert!(!has_all(&service, 1));
    store.order(|orders| orders.held.clear());
    service.until_events(30_000).await;
    service.until("readiness", |it| it.status().not_ready().is_none()).await;
    store.assert_content();
    service.stop().await;
}

/// D6: a store that panics ends the consuming.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_panics_ends_the_consuming() {
    let topic = Topic::new("panics", 1).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| orders.panics = true);
    topic.write_events("n", 0..10, 1);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("the failure", |it| it.status().not_ready().is_some_and(|why| why.contains("panicked"))).await;
    service.stop().await;
}

/// D6: so does one that panics when it is asked again for what had to wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_panics_while_a_partition_waits_ends_the_consuming() {
    let topic = Topic::new("panics-later", 1).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| orders.held = vec![0]);
    topic.write_events("n", 0..10, 1);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("the word", |it| it.status().not_ready().is_some_and(|why| why.contains("[0] wait"))).await;
    store.order(|orders| orders.panics = true);
    service.until("the failure", |it| it.status().not_ready().is_some_and(|why| why.contains("panicked"))).await;
    service.stop().await;
}

/// D6: a broker that is away for a while is waited for; without one, stopping takes no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_is_waited_for() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
    let topic = Topic { name: unique("mock") };
    cluster.create_topic(&topic.name, 2, 1).unwrap();
    let store = Arc::new(Memory::default());
    let brokers = cluster.bootstrap_servers();
    let service = Service::start(settings_at(&brokers, &topic, &[]), &store);
    service.until("the partitions", |it| it.consuming().len() == 2).await;
    cluster.broker_down(1).unwrap();
    service.until("no broker", |it| it.status().disconnected.is_some()).await;
    cluster.broker_up(1).unwrap();
    service.until("the broker", |it| it.status().not_ready().is_none() && it.consuming().len() == 2).await;
    cluster.broker_down(1).unwrap();
    service.until("no broker", |it| it.status().disconnected.is_some()).await;
    service.stop_in_time().await;
}

/// Without any broker, it starts, says why nothing is consumed, and stops in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_broker_is_no_failure() {
    let topic = Topic { name: unique("nobody") };
    let service = Service::start(settings_at("127.0.0.1:1", &topic, &[]), &Arc::default());
    service.until("the reason", |it| it.status().not_ready().is_some_and(|why| why.contains("no broker"))).await;
    assert_eq!(service.status().failed, None);
    service.stop_in_time().await;
}

/// D6: a partition that cannot be taken over, since somebody has locked its row, waits alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_partition_is_taken_over_later() {
    let topic = Topic::new("locked", 3).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| orders.locked = vec![0]);
    topic.write_events("n", 0..300, 3);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until_events(200).await;
    let why = service.status().not_ready().expect("one waits");
    assert!(why.contains("somebody has locked"), "{why}");
    store.order(|orders| orders.locked.clear());
    service.until_events(300).await;
    service.until("an end of it", |it| it.status().not_ready().is_none()).await;
    service.stop().await;
}
