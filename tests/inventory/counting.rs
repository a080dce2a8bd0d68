//! What operators are told of a consumer, compared with what was sent.

use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::instance::serve;
use crate::servers::{PARTITIONS, fresh_database, shared_broker};
use crate::service::{SOON, Service, serve_with};
use crate::state::connect;
use crate::topic::{Producer, Topic};

/// So many of each kind: no two numbers are the same, so none can stand for another.
const APPLIED: u64 = 23;
const DUPLICATES: u64 = 11;
const REJECTED: u64 = 7;
const POISON: u64 = 5;

/// Of these, so many repeat a refused event, and so many poisoned records use an id for something else.
const REFUSED_BEFORE: u64 = 3;
const USED_OTHERWISE: u64 = 2;

/// The counters of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    consumed: u64,
    applied: u64,
    duplicates: u64,
    rejected: u64,
    dead_letters: u64,
    dead_letters_published: u64,
    fenced: u64,
    rebalances: u64,
}

impl Counters {
    fn of(service: &Service) -> Self {
        let counter = |name| service.metric(&format!("equipoise_kafka_{name}_total"));
        Counters {
            consumed: counter("consumed"),
            applied: counter("applied"),
            duplicates: counter("duplicates"),
            rejected: counter("rejected"),
            dead_letters: counter("dead_letters"),
            dead_letters_published: counter("dead_letters_published"),
            fenced: counter("fenced"),
            rebalances: counter("rebalances"),
        }
    }

    /// Of what [`send_mixture`] sends, and of nothing else.
    fn of_mixture(rebalances: u64) -> Self {
        Counters {
            consumed: APPLIED + DUPLICATES + REJECTED + POISON,
            applied: APPLIED,
            duplicates: DUPLICATES,
            rejected: REJECTED,
            dead_letters: POISON,
            dead_letters_published: POISON,
            fenced: 0,
            rebalances,
        }
    }

    /// Whether every record that was read has been counted, and every letter published.
    fn are_settled(&self, sent: u64) -> bool {
        let decided = self.applied + self.duplicates + self.rejected + self.dead_letters;
        self.consumed >= sent && decided >= sent && self.dead_letters_published >= POISON
    }
}

/// A product for each partition.
fn send(producer: &Producer, number: u64, id: &str, quantity: i64) {
    let partition = i32::try_from(number).unwrap() % PARTITIONS;
    let event = format!(r#"{{"event_id":"{id}","product_id":"p{partition}","quantity_change":{quantity}}}"#);
    producer.send(Some(partition), "", event.as_bytes());
}

fn send_mixture(producer: &Producer) {
    (0..APPLIED).for_each(|number| send(producer, number, &format!("in-{number}"), 1));
    (0..REJECTED).for_each(|number| send(producer, number, &format!("out-{number}"), -1_000));
    (0..DUPLICATES - REFUSED_BEFORE).for_each(|number| send(producer, number, &format!("in-{number}"), 1));
    (0..REFUSED_BEFORE).for_each(|number| send(producer, number, &format!("out-{number}"), -1_000));
    (0..USED_OTHERWISE).for_each(|number| send(producer, number, &format!("in-{number}"), 2));
    (USED_OTHERWISE..POISON).for_each(|_| producer.send(None, "", b"not an event"));
    producer.flush();
}

async fn until(service: &Service, what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < until, "{what}: {:?}, lag {:?}", Counters::of(service), lags(service));
        sleep(Duration::from_millis(20)).await;
    }
}

/// The lag of each partition; None for one of which nothing is told yet.
fn lags(service: &Service) -> Vec<Option<i64>> {
    let (_, text) = service.told("/metrics");
    let lag = |partition| {
        let name = format!("equipoise_kafka_lag{{partition=\"{partition}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
    };
    (0..PARTITIONS).map(lag).collect()
}

async fn no_lag(service: &Service) {
    until(service, "nothing waits", || lags(service) == vec![Some(0); lags(service).len()]).await;
}

/// Sends the mixture, and then some of it in later batches.
async fn count_mixture(service: &Service, producer: &Producer, rebalances: u64, read_again: bool) {
    let mut right = Counters::of_mixture(rebalances);
    // A batch that fails for a moment is read again.
    let right_of = |right: &Counters| {
        let told = Counters::of(service);
        let consumed = if read_again { told.consumed.max(right.consumed) } else { right.consumed };
        assert_eq!(told, Counters { consumed, ..*right });
    };
    send_mixture(producer);
    until(service, "the mixture", || Counters::of(service).are_settled(right.consumed)).await;
    right_of(&right);
    (0..APPLIED).for_each(|number| send(producer, number, &format!("in-{number}"), 1));
    producer.flush();
    (right.consumed, right.duplicates) = (right.consumed + APPLIED, right.duplicates + APPLIED);
    until(service, "the same again", || Counters::of(service).are_settled(right.consumed)).await;
    right_of(&right);
    no_lag(service).await;
}

/// Nobody is taken for dead on a busy machine.
fn patiently(command: &mut Command) -> &mut Command {
    command.env("KAFKA_SESSION_TIMEOUT_MS", "60000").env("KAFKA_STATISTICS_INTERVAL_MS", "200")
}

/// D9: every record counts where it belongs, and nowhere else, with the data directory behind; nobody else is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_directory_keeps_is_counted() {
    let (brokers, dir) = (shared_broker(), tempfile::tempdir().unwrap());
    let topic = Topic::create(&brokers, "counted-disk").await;
    let mut command = serve_with(dir.path(), &["--metrics-listen", "127.0.0.1:0"]);
    command.env("KAFKA_BROKERS", &brokers).env("KAFKA_TOPIC", &topic.name);
    let service = Service::start(patiently(&mut command));
    count_mixture(&service, &topic.producer(), 0, false).await;
    service.stop();
}

/// D9: the same with PostgreSQL behind; what waits is the lag, and the fence and the group's changes count once each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_database_keeps_is_counted() {
    const WAITING: u64 = 6;
    let (brokers, url) = (shared_broker(), fresh_database("counted").await);
    let topic = Topic::create(&brokers, "counted").await;
    let service = Service::start(patiently(&mut serve(&brokers, &topic, &url)));
    let producer = topic.producer();
    until(&service, "all partitions", || service.metric("equipoise_kafka_partitions") == PARTITIONS as u64).await;
    let rebalances = Counters::of(&service).rebalances;
    assert!(rebalances > 0);
    count_mixture(&service, &producer, rebalances, true).await;
    let mut right = Counters::of(&service);

    let mut locker = connect(&url).await;
    let lock = locker.transaction().await.unwrap();
    lock.execute("SELECT FROM products WHERE sku = 'p3' FOR UPDATE", &[]).await.unwrap();
    (0..WAITING).for_each(|number| send(&producer, 3, &format!("waiting-{number}"), 1));
    producer.flush();
    let waiting = |partition| Some(if partition == 3 { WAITING.cast_signed() } else { 0 });
    until(&service, "the lag", || lags(&service) == (0..PARTITIONS).map(waiting).collect::<Vec<_>>()).await;
    lock.rollback().await.unwrap();
    right.applied += WAITING;
    until(&service, "what waited", || Counters::of(&service).applied >= right.applied).await;
    no_lag(&service).await;
    // What waits may be read more than once.
    right.consumed = Counters::of(&service).consumed;
    assert_eq!(Counters::of(&service), right);

    let take_over = "UPDATE consumer_offsets SET epoch = epoch + 1 WHERE topic = $1 AND partition = 3";
    assert_eq!(locker.execute(take_over, &[&topic.name]).await.unwrap(), 1);
    send(&producer, 3, "fenced", 1);
    producer.flush();
    until(&service, "the fence", || Counters::of(&service).fenced > 0).await;
    // The group knows of nobody else, so the instance leaves it and joins anew.
    (right.applied, right.fenced, right.rebalances) = (right.applied + 1, 1, right.rebalances + 2);
    until(&service, "its way back", || Counters::of(&service).applied >= right.applied).await;
    no_lag(&service).await;
    right.consumed = Counters::of(&service).consumed;
    assert_eq!(Counters::of(&service), right);
    service.stop();
}
