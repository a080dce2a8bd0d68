//! One process that has all the partitions, without a group.

use std::sync::Arc;

use crate::broker::Topic;
use crate::service::{Service, settings};
use crate::store::Memory;

/// D4: all partitions are consumed, those too that come later, and it goes on where the store says.
#[tokio::test(flavor = "multi_thread")]
async fn all_partitions_are_consumed_without_a_group() {
    let topic = Topic::new("alone", 3).await;
    let store = Arc::new(Memory::default());
    topic.write_events("n", 0..3_000, 3);
    let service = Service::start(settings(&topic, &[]).alone(), &store);
    service.until_events(3_000).await;
    assert_eq!(service.consuming(), [0, 1, 2]);
    topic.grow_to(5).await;
    service.until("the new ones", |it| it.consuming() == [0, 1, 2, 3, 4]).await;
    topic.write_events("n", 3_000..8_000, 5);
    service.until_events(8_000).await;
    assert_eq!(service.metrics.rebalances.get(), 0);
    assert_eq!(service.status().not_ready(), None);
    service.stop().await;
    topic.write_events("n", 8_000..9_000, 5);
    let service = Service::start(settings(&topic, &[]).alone(), &store);
    service.until_events(9_000).await;
    assert_eq!(store.records(), 9_000);
    service.stop().await;
}

/// D5: a second process on the same state is told so.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_without_a_group_do_not_go_on() {
    let topic = Topic::new("both", 1).await;
    let store = Arc::new(Memory::default());
    let first = Service::start(settings(&topic, &[]).alone(), &store);
    topic.write_events("n", 0..10, 1);
    first.until_events(10).await;
    let second = Service::start(settings(&topic, &[]).alone(), &store);
    second.until("the partition", |it| it.consuming() == [0]).await;
    topic.write_events("n", 10..20, 1);
    first.until("the end", |it| it.status().failed.is_some_and(|why| why.contains("another process"))).await;
    second.until_events(20).await;
    assert_eq!(store.records(), 20);
    first.stop().await;
    second.stop().await;
}

/// A topic that is deleted and made anew is noticed without a group, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_topic_is_noticed_without_a_group() {
    let topic = Topic::new("alone-replaced", 1).await;
    let store = Arc::new(Memory::default());
    topic.write_events("old", 0..20, 1);
    let service = Service::start(settings(&topic, &[]).alone(), &store);
    service.until_events(20).await;
    topic.delete().await;
    topic.recreate(1).await;
    topic.write_events("new", 0..50, 1);
    service.until("a stop", |it| it.status().stopped.iter().any(|(_, why)| why.contains("another one"))).await;
    assert_eq!(store.events(), 20);
    service.stop().await;
}
