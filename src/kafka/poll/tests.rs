use rdkafka::types::RDKafkaRespErr;

use super::*;
use crate::inventory::Position;
use crate::kafka::shared::tests::shared;

struct Bench {
    shared: Arc<Shared>,
    poller: Poller,
    runtime: tokio::runtime::Runtime,
    _stop: watch::Sender<bool>,
}

/// A poll thread's insides, without the thread and without a broker.
fn bench() -> Bench {
    let shared = shared();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let consumer = shared.settings.for_consumer().create_with_context(Context(Arc::clone(&shared)));
    let (stop, stopped) = watch::channel(false);
    let poller = Poller::new(Arc::clone(&shared), consumer.expect("a consumer"), runtime.handle().clone(), stopped);
    Bench { shared, poller, runtime, _stop: stop }
}

impl Bench {
    /// Assigns them, and takes what is to be done for them as begun.
    fn begin(&self, partitions: &[i32]) -> Vec<(i32, Generation)> {
        let mut assignment = self.shared.assignment.lock();
        assignment.assign(partitions, Instant::now());
        assignment.due(Instant::now()).wanted
    }

    fn settled(&self, (partition, generation): (i32, Generation), result: Step) {
        self.poller.settled(&[Settled { partition, generation, result }], Instant::now());
    }

    fn waiting(&self) -> Option<String> {
        self.shared.status().waiting
    }
}

fn ready(partition: i32) -> Step {
    Step::Ready { position: Position { partition, epoch: 1, next: Some(5), fingerprint: UNKNOWN }, start: 5 }
}

fn again(why: &str) -> Step {
    Step::Again(None, why.to_owned())
}

/// D9: one look that failed is forgotten with the next one, also where that finds nothing new.
#[test]
fn a_look_that_failed_passes() {
    let mut bench = bench();
    let begun = bench.begin(&[0]);
    bench.settled(begun[0], ready(0));
    let timed_out = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
    bench.poller.looked(Err(timed_out), Instant::now());
    assert!(bench.waiting().is_some_and(|why| why.contains("not known")), "{:?}", bench.waiting());
    bench.poller.looked(Ok(vec![0]), Instant::now());
    assert_eq!(bench.waiting(), None);
}

/// D9: the service is not ready while one partition waits, whatever became of another meanwhile.
#[test]
fn what_one_partition_waits_for_is_not_forgotten_for_another() {
    let bench = bench();
    let begun = bench.begin(&[0, 1]);
    bench.settled(begun[0], again("no leader"));
    bench.settled(begun[1], ready(1));
    assert_eq!(bench.waiting().as_deref(), Some("no leader"));
    let due = bench.shared.assignment.lock().due(Instant::now() + Duration::from_secs(60)).wanted;
    bench.settled(due[0], ready(0));
    assert_eq!(bench.waiting(), None);
}

/// D9: without partitions of its own, a member hears that there is no topic, and then that there is one by what the
/// group gives it.
#[test]
fn a_topic_that_is_missing_is_waited_for_until_the_group_gives_something() {
    let bench = bench();
    bench.begin(&[]);
    complain(&bench.shared, &KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition));
    let rebalance = |event| {
        let mut list = TopicPartitionList::new();
        rdkafka::consumer::ConsumerContext::rebalance(
            &Context(Arc::clone(&bench.shared)),
            &bench.poller.consumer,
            event,
            &mut list,
        );
    };
    assert!(bench.waiting().is_some());
    rebalance(RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS);
    assert!(bench.waiting().is_some(), "there still is none");
    rebalance(RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS);
    assert_eq!(bench.waiting(), None);
}

/// D9: a topic that may not be read any more is no quiet one.
#[test]
fn a_topic_that_may_not_be_read_is_waited_for() {
    let bench = bench();
    let begun = bench.begin(&[0]);
    bench.settled(begun[0], ready(0));
    complain(&bench.shared, &KafkaError::MessageConsumption(RDKafkaErrorCode::TopicAuthorizationFailed));
    assert!(bench.waiting().is_some_and(|why| why.contains("uthorization")), "{:?}", bench.waiting());
    let due = bench.shared.assignment.lock().due(Instant::now() + Duration::from_secs(60)).wanted;
    bench.settled(due[0], ready(0));
    assert_eq!(bench.waiting(), None);
}

/// D6: records that cannot be read are not passed over: what comes after them is not taken.
#[test]
fn unreadable_records_are_not_passed_over() {
    use RDKafkaErrorCode::{BadCompression, BadMessage, NotImplemented};
    for code in [BadMessage, BadCompression, NotImplemented] {
        let bench = bench();
        let begun = bench.begin(&[0]);
        bench.settled(begun[0], ready(0));
        assert!(bench.shared.lanes.wants(0, 7));
        let context = Context(Arc::clone(&bench.shared));
        rdkafka::ClientContext::error(&context, KafkaError::Global(code), "MessageSet at offset 5 (58 bytes) failed");
        complain(&bench.shared, &KafkaError::MessageConsumption(code));
        assert!(!bench.shared.lanes.wants(0, 7), "{code:?}");
        assert!(bench.waiting().is_some(), "{code:?}");
        assert!(bench.shared.assignment.lock().due(Instant::now()).is_empty(), "after a pause");
    }
}

/// D6: what was read before them gets to the store first, however late that is; else it would be read, and dropped,
/// again and again.
#[test]
fn records_before_unreadable_ones_are_not_dropped() {
    let bench = bench();
    let begun = bench.begin(&[0]);
    bench.settled(begun[0], ready(0));
    for offset in [5, 6] {
        let record = Record { offset, content: Content::Tombstone };
        assert_eq!(bench.shared.lanes.push(0, record, UNKNOWN), Pushed::Waits);
    }
    let code = RDKafkaErrorCode::BadMessage;
    let context = Context(Arc::clone(&bench.shared));
    for _ in 0..2 {
        rdkafka::ClientContext::error(&context, KafkaError::Global(code), "MessageSet at offset 7 (58 bytes) failed");
        complain(&bench.shared, &KafkaError::MessageConsumption(code));
        bench.poller.hold_up(Instant::now());
    }
    let batch = bench.shared.lanes.take();
    assert_eq!(batch.runs.iter().map(|run| run.next).collect::<Vec<_>>(), [7]);
    assert!(!bench.shared.lanes.wants(0, 8), "nothing behind them");
    bench.poller.hold_up(Instant::now());
    assert_eq!(bench.shared.assignment.lock().consuming().count(), 1, "the store has not answered");
    bench.shared.lanes.applied(&batch);
    bench.poller.hold_up(Instant::now());
    assert_eq!(bench.shared.assignment.lock().consuming().count(), 0);
    assert!(bench.waiting().is_some_and(|why| why.contains("held up at offset 7")), "{:?}", bench.waiting());
}

/// D9: the service is not ready while a partition waits for the store before it is held up, whatever showed that it has
/// to be.
#[test]
fn a_partition_that_is_about_to_be_held_up_is_told() {
    let bench = bench();
    let begun = bench.begin(&[0]);
    bench.settled(begun[0], ready(0));
    let push = |offset| bench.shared.lanes.push(0, Record { offset, content: Content::Tombstone }, UNKNOWN);
    let code = RDKafkaErrorCode::BadMessage;
    let text = "MessageSet at offset 9 (58 bytes) failed";
    rdkafka::ClientContext::error(&Context(Arc::clone(&bench.shared)), KafkaError::Global(code), text);
    complain(&bench.shared, &KafkaError::MessageConsumption(code));
    assert_eq!((push(5), push(10)), (Pushed::Waits, Pushed::BehindHole));
    bench.shared.hold_up(0, Instant::now());
    assert!(bench.waiting().is_some_and(|why| why.contains("[0]") && why.contains(text)), "{:?}", bench.waiting());
    bench.shared.lanes.applied(&bench.shared.lanes.take());
    bench.poller.hold_up(Instant::now());
    assert!(bench.waiting().is_some_and(|why| why.contains("held up at offset 6")), "{:?}", bench.waiting());
}

/// D9: the service is not ready while it is not known whose records cannot be read.
#[test]
fn records_that_nobody_owns_are_told() {
    let bench = bench();
    for begun in bench.begin(&[0, 1]) {
        bench.settled(begun, ready(begun.0));
    }
    assert_eq!(bench.waiting(), None);
    let (code, text) = (RDKafkaErrorCode::NotImplemented, "Unsupported Message(Set) MagicByte 9 at offset 5");
    rdkafka::ClientContext::error(&Context(Arc::clone(&bench.shared)), KafkaError::Global(code), text);
    complain(&bench.shared, &KafkaError::MessageConsumption(code));
    assert_eq!(bench.shared.assignment.lock().consuming().count(), 2);
    assert!(bench.waiting().is_some_and(|why| why.contains(text)), "{:?}", bench.waiting());
    for _ in 0..2 {
        [0, 1].iter().for_each(|partition| bench.shared.lanes.ends(*partition, 5));
    }
    assert_eq!(bench.waiting(), None);
}

/// In the words of librdkafka 2.12.
#[test]
fn unreadable_records_are_named_by_their_offset() {
    let texts = [
        ("MessageSet at offset 20 (58 bytes) failed CRC32C check (original 0xbad != calculated 0x8910a47)", Some(20)),
        ("Message at offset 7 (30 bytes) failed CRC32 check (original 0x0 != calculated 0x1)", Some(7)),
        ("Message at relative offset 7 (30 bytes) failed CRC32 check (original 0x0 != calculated 0x1)", None),
        ("Decompression (codec 0x1) of message at 12 of 34 bytes failed: Local: Bad message format", Some(12)),
        ("Unsupported Message(Set) MagicByte 9 at offset 0", Some(0)),
        ("Fetch from broker 1 failed at offset 5 (leader epoch 3): Local: Bad message format", Some(5)),
        ("Local: Bad message format", None),
        ("something at offset 99999999999999999999", None),
    ];
    for (text, offset) in texts {
        assert_eq!(offset_in(text), offset, "{text}");
    }
}

/// D6: what a task left undone that panicked, as the store of this bench does, is done again.
#[test]
fn what_a_task_left_undone_is_done_again() {
    let mut bench = bench();
    let now = Instant::now();
    bench.shared.assignment.lock().assign(&[0], now);
    bench.poller.begin_work(now);
    bench.runtime.block_on(async { (&mut bench.poller.tasks[0].handle).await.expect("it tells") });
    bench.poller.round();
    assert!(bench.waiting().is_some_and(|why| why.contains("panicked")), "{:?}", bench.waiting());
    assert!(bench.poller.tasks.is_empty());
    assert_eq!(bench.shared.assignment.lock().due(now + Duration::from_secs(60)).wanted.len(), 1);
}
