//! Offsets that do not fit the log.

use std::sync::Arc;
use std::time::Duration;

use equipoise::kafka::Settings;

use crate::broker::{Topic, Writer, committed_in_kafka};
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

/// D6: what follows the last record of a quiet partition, markers and aborted records, are no records: when retention takes them
/// nothing was lost.
#[tokio::test(flavor = "multi_thread")]
async fn markers_are_no_lost_records() {
    let topic = Topic::new("markers", 2).await;
    let writer = Writer::new(&[("transactional.id", &topic.name)]);
    writer.begin_transactions();
    let write = |commit, partition, name: &str| {
        writer.transaction(commit, |writer| {
            (0..3).for_each(|n| writer.event(&topic.name, partition, &format!("{name}-{n}")));
        });
    };
    write(true, 0, "kept");
    write(false, 1, "aborted");
    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    service.until_events(3).await;
    service.until("the ends", |_| [0, 1].map(|it| store.next(it)) == [Some(4), Some(4)]).await;
    write(false, 0, "aborted");
    service.until("what was aborted", |_| store.next(0) == Some(8)).await;
    let calls = store.calls();
    service.until("its offset in Kafka", |_| committed_in_kafka(&topic.name, &topic.name, 0) == Some(8)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.calls(), calls, "a quiet partition asks nothing of the store");
    service.stop().await;

    topic.delete_before(0, 8).await;
    topic.delete_before(1, 4).await;
    write(true, 0, "more");
    write(true, 1, "more");
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("all", |it| it.store.records() == 9).await;
    assert_eq!(store.offsets(0), [0, 1, 2, 8, 9, 10]);
    assert_eq!(store.offsets(1), [4, 5, 6]);
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

/// The same for a topic that was consumed to a marker at its end, while the other one has a marker at this place, too.
#[tokio::test(flavor = "multi_thread")]
async fn another_topic_is_told_behind_a_marker() {
    let topic = Topic::new("behind-marker", 1).await;
    let write = |name: &str, count: usize| {
        let writer = Writer::new(&[("transactional.id", &topic.name)]);
        writer.begin_transactions();
        for n in 0..count {
            writer.transaction(true, |writer| writer.event(&topic.name, 0, &format!("{name}-{n}")));
        }
    };
    let store = Arc::new(Memory::default());
    for round in 1..3 {
        write("old", 2);
        let service = Service::start(settings(&topic, &[]), &store);
        service.until("the end", |_| store.next(0) == Some(round * 4)).await;
        service.stop().await;
    }
    topic.delete().await;
    topic.recreate(1).await;
    write("new", 6);
    is_stopped(settings(&topic, &[]), &store, "another one").await;
}

/// The record before a marker was compacted away: the one before it says nothing of the topic.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_record_is_compared_than_the_last_one() {
    let topic = Topic::new("compacted", 1).await;
    let write = |commits: [bool; 2]| {
        let writer = Writer::new(&[("transactional.id", &topic.name)]);
        writer.begin_transactions();
        for (n, commit) in commits.into_iter().enumerate() {
            writer.transaction(commit, |writer| writer.event(&topic.name, 0, &format!("it-{n}")));
        }
    };
    let store = Arc::new(Memory::default());
    write([true, true]);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("the end", |_| store.next(0) == Some(4)).await;
    service.stop().await;
    topic.delete().await;
    topic.recreate(1).await;
    // As if compacted: at 2, where the last record was, is none that is shown.
    write([true, false]);
    write([true, true]);
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("the new ones", |_| store.next(0) == Some(8)).await;
    assert_eq!(store.offsets(0), [0, 2, 4, 6]);
    service.stop().await;
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
