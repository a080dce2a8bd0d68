//! Several members of a group, and those that believe they still are.

use std::sync::Arc;
use std::time::Duration;

use equipoise::inventory::DeadLetter;
use parking_lot::Mutex;

use crate::broker::Topic;
use crate::service::{Service, decode, settings};
use crate::store::Memory;

const COOPERATIVE: (&str, &str) = ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "cooperative-sticky");
const EAGER: (&str, &str) = ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "range");

async fn shared_by_two(strategy: (&str, &str)) {
    // Longer than anything is waited for here: a member that leaves is not.
    let variables = &[strategy, ("KAFKA_SESSION_TIMEOUT_MS", "300000"), ("KAFKA_MAX_POLL_INTERVAL_MS", "300000")];
    let topic = Topic::new("two", 6).await;
    let store = Arc::new(Memory::default());
    topic.write_events("n", 0..6_000, 6);
    let first = Service::start(settings(&topic, variables), &store);
    first.until("all partitions", |it| it.consuming().len() == 6).await;
    let second = Service::start(settings(&topic, variables), &store);
    second.until("a half", |it| it.consuming().len() == 3 && first.consuming().len() == 3).await;
    topic.write_events("n", 6_000..12_000, 6);
    first.until_events(12_000).await;
    assert!(first.consuming().iter().all(|partition| !second.consuming().contains(partition)));
    assert!(second.metrics.consumed.get() > 0);
    first.stop().await;
    second.until("the other half", |it| it.consuming().len() == 6).await;
    topic.write_events("n", 12_000..18_000, 6);
    second.until_events(18_000).await;
    assert_eq!(store.records(), 18_000, "each once");
    second.stop().await;
}

/// D5: members share the partitions, and one that leaves is replaced at once; eager protocol.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_the_partitions_eagerly() {
    shared_by_two(EAGER).await;
}

/// D5: the same in the cooperative protocol.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_the_partitions_cooperatively() {
    shared_by_two(COOPERATIVE).await;
}

/// D5, case A18: a member that stood still longer than the group allows finds its partitions taken; it drops what it had, comes
/// back by itself, and takes only what it is assigned.
async fn stalled(strategy: (&str, &str)) {
    let topic = Topic::new("stalled", 4).await;
    let store = Arc::new(Memory::default());
    let stall = Arc::new(Mutex::new(Duration::ZERO));
    let stalling = Arc::clone(&stall);
    let sleepy = Service::with(
        settings(&topic, &[strategy]),
        &store,
        Arc::new(move |letter: DeadLetter| {
            let pause = std::mem::take(&mut *stalling.lock());
            std::thread::sleep(pause);
            decode(letter)
        }),
    );
    sleepy.until("all partitions", |it| it.consuming().len() == 4).await;
    topic.write_events("n", 0..4_000, 4);
    sleepy.until_events(4_000).await;
    let awake = Service::start(settings(&topic, &[strategy]), &store);
    awake.until("a half", |it| it.consuming().len() == 2 && sleepy.consuming().len() == 2).await;
    let epochs: i64 = (0..4).map(|partition| store.epoch(partition)).sum();

    *stall.lock() = Duration::from_secs(12);
    topic.write_events("n", 4_000..8_000, 4);
    awake.until("all partitions", |it| it.consuming().len() == 4).await;
    awake.until_events(8_000).await;
    topic.write_events("n", 8_000..12_000, 4);
    sleepy
        .until("its way back", |it| {
            it.consuming().len() == 2 && awake.consuming().len() == 2 && it.status().not_ready().is_none()
        })
        .await;
    topic.write_events("n", 12_000..16_000, 4);
    sleepy.until_events(16_000).await;
    assert_eq!(store.records(), 16_000, "each once");
    let risen = (0..4).map(|partition| store.epoch(partition)).sum::<i64>() - epochs;
    assert!(risen <= 16, "epochs rose by {risen}: a duel");
    sleepy.stop().await;
    awake.stop().await;
}

/// D5: eager protocol.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stood_still_comes_back_eagerly() {
    stalled(EAGER).await;
}

/// D5: cooperative protocol.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stood_still_comes_back_cooperatively() {
    stalled(COOPERATIVE).await;
}

/// D5: a member that the store refuses, and the group does not, joins the group anew; nothing is lost, nothing comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_member_joins_anew() {
    let topic = Topic::new("fenced", 2).await;
    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    topic.write_events("n", 0..1_000, 2);
    service.until_events(1_000).await;
    assert_eq!((store.epoch(0), store.epoch(1)), (1, 1));
    store.steal(0);
    topic.write_events("n", 1_000..2_000, 2);
    service.until("the fence", |it| it.metrics.fenced.get() == 1).await;
    assert_eq!(service.consuming(), [1]);
    service.until_events(2_000).await;
    assert_eq!(store.records(), 2_000);
    assert_eq!(store.epoch(0), 3, "taken over once");
    assert_eq!(service.metrics.fenced.get(), 1);
    service.stop().await;
}

/// D5: a static member that comes back in time keeps its partitions, and the store knows it as a new owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_comes_back() {
    let topic = Topic::new("static", 2).await;
    let store = Arc::new(Memory::default());
    let member = [("KAFKA_GROUP_INSTANCE_ID", "one")];
    for round in 1..3 {
        let service = Service::start(settings(&topic, &member), &store);
        topic.write_events("n", (round - 1) * 100..round * 100, 2);
        service.until_events(round * 100).await;
        service.stop().await;
        assert_eq!(store.epoch(0), round as i64);
    }
    assert_eq!(store.records(), 200);
}

/// D5: two members with one instance id: the earlier one is ended by Kafka, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn one_instance_id_is_for_one_member() {
    let topic = Topic::new("instance", 1).await;
    let store = Arc::new(Memory::default());
    let member = [("KAFKA_GROUP_INSTANCE_ID", "one")];
    let first = Service::start(settings(&topic, &member), &store);
    first.until("the partition", |it| it.consuming() == [0]).await;
    let second = Service::start(settings(&topic, &member), &store);
    first.until("the end", |it| it.status().failed.is_some_and(|why| why.contains("for good"))).await;
    topic.write_events("n", 0..100, 1);
    second.until_events(100).await;
    first.stop().await;
    second.stop().await;
}

/// New partitions of the topic are shared out too.
#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_are_consumed() {
    let topic = Topic::new("growing", 1).await;
    let service = Service::start(settings(&topic, &[]), &Arc::default());
    service.until("the partition", |it| it.consuming() == [0]).await;
    topic.grow_to(3).await;
    topic.write_events("n", 0..300, 3);
    service.until_events(300).await;
    service.stop().await;
}
