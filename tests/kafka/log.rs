//! Offsets that do not fit the log.

use std::sync::Arc;
use std::time::Duration;

use equipoise::kafka::Settings;

use crate::broker::{Topic, Writer};
use crate::service::{Service, settings};
use crate::store::Memory;

/// A topic of one partition whose first `count` records were consumed.
async fn consumed(name: &str, count: usize) -> (Topic, Arc<Memory>) {
    let topic = Topic::new(name, 1).await;
    topic.write_events("old", 0..count, 1);
    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    service.until_events(count).await;
    service.stop().await;
    (topic, store)
}

/// Its partition is stopped, and the service not ready, with `reason`.
async fn is_stopped(settings: Settings, store: &Arc<Memory>, reason: &str) {
    let records = store.records();
    let service = Service::start(settings, store);
    service.until("a stop", |it| it.status().stopped.iter().any(|(_, why)| why.contains(reason))).await;
    assert!(service.status().not_ready().is_some_and(|why| why.contains(reason)));
    service.until("its metric", |it| it.metrics.stopped.get() == 1).await;
    assert_eq!(store.records(), records, "nothing is consumed");
    service.stop().await;
}

/// D6: records that retention took before they were consumed are not passed over in silence.
#[tokio::test(flavor = "multi_thread")]
async fn lost_records_stop_a_partition() {
    let (topic, store) = consumed("lost", 10).await;
    topic.write_events("new", 0..20, 1);
    topic.delete_before(0, 15).await;
    is_stopped(settings(&topic, &[]), &store, "records were lost").await;
    let service = Service::start(settings(&topic, &[("KAFKA_ON_LOST_RECORDS", "earliest")]), &store);
    service.until_events(25).await;
    assert_eq!(store.offsets(0), (0..10).chain(15..30).collect::<Vec<_>>());
    service.stop().await;
}

/// D9: how far behind a stopped partition is stays known, and grows with the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_partition_has_a_lag() {
    let (topic, store) = consumed("stopped-lag", 10).await;
    topic.write_events("new", 0..20, 1);
    topic.delete_before(0, 15).await;
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("a stop", |it| !it.status().stopped.is_empty()).await;
    service.until("the lag", |it| it.lag(0) == 20).await;
    topic.write_events("more", 0..7, 1);
    service.until("more of it", |it| it.lag(0) == 27).await;
    service.stop().await;
}

/// D6: a stopped partition goes on by itself when somebody has corrected its offset in the store, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_partition_goes_on_from_a_corrected_offset() {
    let (topic, store) = consumed("corrected", 10).await;
    topic.write_events("new", 0..20, 1);
    topic.delete_before(0, 15).await;
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("a stop", |it| !it.status().stopped.is_empty()).await;
    let epoch = store.epoch(0);
    service.until("another look", |_| store.epoch(0) > epoch).await;
    assert_eq!((service.status().stopped.len(), store.records()), (1, 10));
    store.set(0, 20, 0);
    service.until_events(20).await;
    assert_eq!(service.status().not_ready(), None);
    assert_eq!(store.offsets(0), (0..10).chain(20..30).collect::<Vec<_>>());
    service.stop().await;
}

/// D6: records that are lost while they are being consumed are noticed too.
#[tokio::test(flavor = "multi_thread")]
async fn records_lost_meanwhile_stop_a_partition() {
    let (topic, store) = consumed("lost-meanwhile", 10).await;
    topic.write_events("new", 0..100_000, 1);
    store.order(|orders| orders.delay = std::time::Duration::from_secs(4));
    let service = Service::start(settings(&topic, &[]), &store);
    // What waits fills up, and the partition is paused; meanwhile the rest goes.
    service.until("a full buffer", |it| it.metrics.consumed.get() >= 10_000).await;
    topic.delete_before(0, 90_000).await;
    store.order(|orders| orders.delay = std::time::Duration::ZERO);
    service.until("a stop", |it| it.status().stopped.iter().any(|(_, why)| why.contains("records were lost"))).await;
    let next = store.next(0).unwrap();
    assert_eq!(store.offsets(0), (0..next).collect::<Vec<_>>(), "nothing was passed over");
    service.stop().await;
}

/// A topic that was deleted and created anew, and is shorter than what was consumed of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_topic_of_the_same_name_stops_the_partition() {
    let (topic, store) = consumed("recreated", 20).await;
    topic.delete().await;
    topic.recreate(1).await;
    topic.write_events("new", 0..5, 1);
    is_stopped(settings(&topic, &[]), &store, "another one").await;
}

/// One that is longer would be read on in silence, if nothing of the record before were kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_longer_topic_of_the_same_name_stops_the_partition() {
    let (topic, store) = consumed("regrown", 20).await;
    topic.delete().await;
    topic.recreate(1).await;
    topic.write_events("new", 0..50, 1);
    is_stopped(settings(&topic, &[]), &store, "another one").await;
    let service = Service::start(settings(&topic, &[("KAFKA_ON_ANOTHER_TOPIC", "earliest")]), &store);
    service.until_events(70).await;
    assert_eq!(store.next(0), Some(50));
    service.consumer.stop().await;
}

/// D6: a log that lost its end cannot be told from another topic. Going back in it never comes to a record whose id may be
/// forgotten: it would be applied a second time.
#[tokio::test(flavor = "multi_thread")]
async fn going_back_stays_within_the_window_of_ids() {
    let topic = Topic::new("truncated", 1).await;
    let writer = Writer::new(&[]);
    let hour = Duration::from_secs(3_600);
    for n in 0..10 {
        writer.event_of_age(&topic.name, 0, &format!("old-{n}"), 25 * hour);
    }
    writer.flush();
    topic.write_events("young", 0..5, 1);
    let store = Arc::new(Memory::default());
    store.set(0, 1_000, 9);
    is_stopped(settings(&topic, &[]), &store, "lost its end").await;
    let service = Service::start(settings(&topic, &[("KAFKA_ON_ANOTHER_TOPIC", "earliest")]), &store);
    service.until("the young ones", |_| store.next(0) == Some(15)).await;
    assert_eq!(store.offsets(0), (10..15).collect::<Vec<_>>());
    service.stop().await;
}

/// A topic that is deleted and created anew while it is consumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_replaced_meanwhile_stops_the_partition() {
    let topic = Topic::new("replaced", 1).await;
    topic.write_events("old", 0..20, 1);
    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    service.until_events(20).await;
    topic.delete().await;
    topic.recreate(1).await;
    topic.write_events("new", 0..50, 1);
    service.until("a stop", |it| it.status().stopped.iter().any(|(_, why)| why.contains("another one"))).await;
    assert_eq!(store.events(), 20, "nothing of the new topic is consumed");
    service.stop().await;
}

/// A topic that is not there yet is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_comes_later_is_waited_for() {
    let topic = Topic::new("later", 1).await;
    topic.delete().await;
    let service = Service::start(settings(&topic, &[]), &Arc::default());
    service.until("the reason", |it| it.status().not_ready().is_some()).await;
    topic.recreate(2).await;
    topic.write_events("n", 0..10, 2);
    service.until_events(10).await;
    service.until("ready", |it| it.status().not_ready().is_none()).await;
    service.stop().await;
}
