//! The thread that owns librdkafka's consumer, and never stops polling it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::inventory::{Content, Record};

use super::assignment::{Generation, Settled, Step};
use super::check::{self, Extent};
use super::context::Context;
use super::doubt::Doubt;
use super::fingerprint::{UNKNOWN, fingerprint};
use super::lanes::Pushed;
use super::record::copied;
use super::settings::{Membership, NeverConsumed};
use super::shared::Shared;
use super::take_over;

/// The most records taken before anything else is looked at.
const AT_ONCE: usize = 500;

/// How long a poll may wait: for nothing in particular, and for something that only the next round sees.
const WAIT: Duration = Duration::from_millis(50);
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// How often offsets are committed for lag tools.
const COMMITS: Duration = Duration::from_secs(1);

/// How long nothing must come of a partition for it to count as quiet.
const QUIET: Duration = Duration::from_secs(2);

/// A round this late means that the process slept, and that the group may have gone on without it.
const SLEPT: Duration = Duration::from_secs(3);

/// How long partitions are left alone once their topic, or an offset of theirs, is gone.
const AFTER_LOSS: Duration = Duration::from_secs(2);

/// How long until the topic's partitions are asked for again, after an error or while there is no such topic.
const NOT_TOLD: Duration = Duration::from_secs(2);

/// What tasks tell the poll thread.
pub(super) enum Told {
    Settled(Vec<Settled>),
    Partitions(KafkaResult<Vec<i32>>),
    Extents(Vec<(i32, Extent)>),
}

/// A task that settles some partitions, and their generations.
struct Task {
    partitions: Vec<(i32, Generation)>,
    handle: JoinHandle<()>,
}

pub(super) struct Poller {
    shared: Arc<Shared>,
    consumer: BaseConsumer<Context>,
    runtime: Handle,
    stop: watch::Receiver<bool>,
    inbox: Receiver<Told>,
    outbox: Sender<Told>,
    tasks: Vec<Task>,
    doubt: Doubt,
    last_round: Instant,
    last_commit: Instant,
    last_pass: Instant,
    /// When to look at the topic's partitions next; only without a group, which would name them.
    next_look: Option<Instant>,
    /// A task that asks for the ends of logs that librdkafka does not know, and when to ask again.
    asking: Option<JoinHandle<()>>,
    next_ask: Instant,
}

impl Poller {
    pub(super) fn new(
        shared: Arc<Shared>,
        consumer: BaseConsumer<Context>,
        runtime: Handle,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (outbox, inbox) = std::sync::mpsc::channel();
        let now = Instant::now();
        let next_look = (shared.settings.membership == Membership::Alone).then_some(now);
        Poller {
            shared,
            consumer,
            runtime,
            stop,
            inbox,
            outbox,
            tasks: Vec::new(),
            doubt: Doubt::default(),
            last_round: now,
            last_commit: now,
            last_pass: now,
            next_look,
            asking: None,
            next_ask: now,
        }
    }

    /// Runs until it is told to stop, or consuming has failed. Leaves the group when it returns.
    pub(super) fn run(mut self) {
        if self.shared.settings.membership == Membership::Group {
            self.subscribe();
        }
        while !self.is_stopped() && !self.shared.has_failed() {
            self.round();
        }
        for task in &self.tasks {
            task.handle.abort();
        }
        self.commit();
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    fn round(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.last_round) > SLEPT {
            self.shared.assignment.lock().hold_back(now, SLEPT);
        }
        self.last_round = now;
        while let Ok(told) = self.inbox.try_recv() {
            match told {
                Told::Settled(settled) => self.settled(&settled, now),
                Told::Partitions(partitions) => self.looked(partitions, now),
                Told::Extents(extents) => self.shared.behind(&extents),
            }
        }
        self.rejoin_in_doubt(now);
        self.look(now);
        self.ask(now);
        self.hold_up(now);
        self.begin_work(now);
        self.attach();
        self.resume();
        if now.duration_since(self.last_commit) >= COMMITS {
            self.last_commit = now;
            self.commit();
        }
        if now.duration_since(self.last_pass) >= QUIET {
            self.last_pass = now;
            self.shared.lanes.stuck(now).into_iter().for_each(|partition| self.shared.hold_up(partition, now));
            self.pass(now);
        }
        let pressed = !self.tasks.is_empty() || self.shared.lanes.any_paused();
        self.poll(if pressed { SHORT_WAIT } else { WAIT });
    }

    fn poll(&mut self, wait: Duration) {
        let mut wait = wait;
        for _ in 0..AT_ONCE {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => take(&self.shared, &self.consumer, &message),
                Some(Err(error)) => return complain(&self.shared, &error),
                None => return,
            }
            wait = Duration::ZERO;
        }
    }

    fn subscribe(&self) {
        if let Err(error) = self.consumer.subscribe(&[&self.shared.settings.topic]) {
            self.shared.fail(error.to_string());
        }
    }

    /// Leaves the group and joins it again, where the store contradicts it for longer than a rebalance would take.
    fn rejoin_in_doubt(&mut self, now: Instant) {
        if self.doubt.may_rejoin(now) {
            return self.subscribe();
        }
        if !self.doubt.must_leave(self.shared.assignment.lock().any_fenced(), now) {
            return;
        }
        if self.shared.settings.membership == Membership::Alone {
            let why = "another process has taken over the partitions, and only one may consume them".to_owned();
            return self.shared.fail(why);
        }
        tracing::warn!("joining the group anew: the store says that partitions of ours belong to another member");
        self.consumer.unsubscribe();
    }

    /// Without a group, looks for partitions from time to time.
    fn look(&mut self, now: Instant) {
        if self.next_look.is_some_and(|next| next <= now) {
            self.next_look = Some(now + self.shared.settings.metadata_interval());
            let (shared, outbox) = (Arc::clone(&self.shared), self.outbox.clone());
            self.runtime.spawn_blocking(move || {
                // The receiver is gone once the poll thread has ended.
                drop(outbox.send(Told::Partitions(check::partitions(&shared.settings))));
            });
        }
    }

    /// Asks from time to time how far the logs are of which nothing is fetched.
    fn ask(&mut self, now: Instant) {
        if self.next_ask > now || self.asking.as_ref().is_some_and(|asking| !asking.is_finished()) {
            return;
        }
        self.next_ask = now + self.shared.settings.statistics_interval();
        let partitions: Vec<_> = self.shared.held_up().into_keys().collect();
        if !partitions.is_empty() {
            let (shared, outbox) = (Arc::clone(&self.shared), self.outbox.clone());
            self.asking = Some(self.runtime.spawn_blocking(move || {
                drop(outbox.send(Told::Extents(check::extents(&shared.settings, &partitions))));
            }));
        }
    }

    fn looked(&mut self, partitions: KafkaResult<Vec<i32>>, now: Instant) {
        let partitions = match partitions {
            Ok(partitions) => partitions,
            Err(error) if is_missing(&error) => Vec::new(),
            Err(error) => {
                self.next_look = Some(now + NOT_TOLD);
                self.shared.trouble.lock().unknown = Some(format!("the partitions are not known: {error}"));
                return;
            }
        };
        let known = self.shared.assignment.lock().all();
        let gone: Vec<_> = known.iter().filter(|it| !partitions.contains(it)).copied().collect();
        let new: Vec<_> = partitions.iter().filter(|it| !known.contains(it)).copied().collect();
        self.shared.give_up(&gone);
        self.shared.assignment.lock().assign(&new, now);
        if partitions.is_empty() {
            self.next_look = Some(now + NOT_TOLD);
            let topic = &self.shared.settings.topic;
            self.shared.trouble.lock().unknown = Some(format!("there is no topic {topic}"));
        } else {
            self.shared.known();
        }
    }

    /// Starts a task for the work that is due, and aborts tasks that are no longer wanted.
    fn begin_work(&mut self, now: Instant) {
        let mut assignment = self.shared.assignment.lock();
        self.tasks.retain(|task| {
            let current = |(partition, generation): &(i32, Generation)| assignment.is_current(*partition, *generation);
            let is_wanted = task.partitions.iter().any(current);
            if !is_wanted {
                task.handle.abort();
            }
            is_wanted && !task.handle.is_finished()
        });
        let work = assignment.due(now);
        drop(assignment);
        if !work.is_empty() {
            let partitions = work.partitions().collect();
            let settling = take_over::settle(Arc::clone(&self.shared), work, self.outbox.clone());
            self.tasks.push(Task { partitions, handle: self.runtime.spawn(settling) });
        }
    }

    /// Holds up the shut partitions, once the store has everything that came before.
    fn hold_up(&self, now: Instant) {
        self.shared.lanes.drained().into_iter().for_each(|partition| self.shared.hold_up(partition, now));
    }

    fn settled(&self, settled: &[Settled], now: Instant) {
        let latest = self.shared.settings.never_consumed == NeverConsumed::Latest;
        let mut waiting = None;
        for settled in settled {
            // Opened under the lock: otherwise a revocation in between would find nothing to close.
            let mut assignment = self.shared.assignment.lock();
            let before = assignment.stopped().find(|(it, _)| *it == settled.partition).map(|(_, why)| why.to_owned());
            let consumed = assignment.settle(settled, now);
            match &settled.result {
                Step::Ready { position, start } if consumed => {
                    let announce = position.next.map_or(latest, |next| next != *start);
                    self.shared.lanes.open(settled.generation, *position, *start, announce);
                    self.shared.known();
                    tracing::info!(partition = settled.partition, epoch = position.epoch, from = start, "consuming");
                }
                Step::Stop(_, why) if before.as_ref() == Some(why) => {}
                Step::Stop(_, why) => tracing::error!(partition = settled.partition, "stopped: {why}"),
                Step::Again(..) if before.is_some() => {}
                Step::Again(_, why) => waiting = Some(why.clone()),
                Step::Ready { .. } => {}
            }
        }
        if let Some(why) = &waiting
            && let Some(repeated) = self.shared.quiet.may_say("take over")
        {
            tracing::warn!(repeated, "partitions wait to be consumed: {why}");
        }
    }

    /// Has librdkafka fetch exactly the partitions that can be consumed.
    fn attach(&self) {
        let assignment = self.shared.assignment.lock();
        let wanted: BTreeSet<_> = assignment.consuming().collect();
        self.shared.metrics.partitions.set(wanted.len() as i64);
        self.shared.metrics.stopped.set(assignment.stopped().count() as i64);
        drop(assignment);
        let mut attached = self.shared.attached.lock();
        if *attached == wanted {
            return;
        }
        let result = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.attach_incrementally(&attached, &wanted),
            _ => self.list(wanted.iter().copied()).and_then(|list| {
                self.consumer.assign(&list)?;
                self.consumer.resume(&list)
            }),
        };
        match result {
            Ok(()) => *attached = wanted,
            Err(error) => self.shared.complaint(error.to_string()),
        }
    }

    fn attach_incrementally(&self, attached: &BTreeSet<i32>, wanted: &BTreeSet<i32>) -> KafkaResult<()> {
        let mut gone = TopicPartitionList::new();
        for partition in attached.difference(wanted) {
            gone.add_partition(&self.shared.settings.topic, *partition);
        }
        if gone.count() > 0 {
            self.consumer.incremental_unassign(&gone)?;
        }
        let new = self.list(wanted.difference(attached).copied())?;
        if new.count() > 0 {
            self.consumer.incremental_assign(&new)?;
            // A partition stays paused beyond the assignment in which it was paused.
            self.consumer.resume(&new)?;
        }
        Ok(())
    }

    /// Where to fetch these partitions from.
    fn list(&self, partitions: impl Iterator<Item = i32>) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in self.shared.lanes.attach(partitions) {
            list.add_partition_offset(&self.shared.settings.topic, partition, Offset::Offset(offset))?;
        }
        Ok(list)
    }

    fn resume(&self) {
        let mut list = TopicPartitionList::new();
        for partition in self.shared.lanes.resumable() {
            list.add_partition(&self.shared.settings.topic, partition);
        }
        if list.count() > 0
            && let Err(error) = self.consumer.resume(&list)
        {
            self.shared.complaint(error.to_string());
        }
    }

    /// Moves quiet partitions past the offsets behind their last record (markers of transactions, aborted records).
    /// Otherwise it would look as if records had been lost once retention removes these.
    fn pass(&self, now: Instant) {
        let quiet = self.shared.lanes.quiet();
        if quiet.is_empty() {
            return;
        }
        // The position is never past what polls returned: a poll passes a marker only after the records before it.
        let Ok(positions) = self.consumer.position() else { return };
        for element in positions.elements_for_topic(&self.shared.settings.topic) {
            if let Offset::Offset(end) = element.offset()
                && quiet.contains(&element.partition())
                && self.shared.lanes.pass(element.partition(), end) == Pushed::BehindHole
            {
                self.shared.hold_up(element.partition(), now);
            }
        }
    }

    /// Commits offsets for lag tools. Nothing reads them back or waits for the commit.
    fn commit(&self) {
        if self.shared.trouble.lock().disconnected.is_some() {
            return;
        }
        let offsets = std::mem::take(&mut *self.shared.to_commit.lock());
        let mut list = TopicPartitionList::new();
        let topic = &self.shared.settings.topic;
        let all_in =
            offsets.iter().all(|(it, next)| list.add_partition_offset(topic, *it, Offset::Offset(*next)).is_ok());
        if all_in
            && list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!("the offsets for lag tools were not sent: {error}");
        }
    }
}

/// Decodes a record and queues it for the store; pauses its partition if a limit is reached.
fn take(shared: &Shared, consumer: &BaseConsumer<Context>, message: &BorrowedMessage<'_>) {
    let (partition, offset) = (message.partition(), message.offset());
    if !shared.lanes.wants(partition, offset) {
        return;
    }
    shared.metrics.consumed.inc();
    let content = (shared.decode)(copied(message, &shared.settings.topic));
    let print = match content {
        Content::Tombstone => fingerprint(message.timestamp().to_millis(), message.key(), message.payload()),
        _ => UNKNOWN,
    };
    match shared.lanes.push(partition, Record { offset, content }, print) {
        Pushed::Waits | Pushed::Dropped => {}
        Pushed::BehindHole => shared.hold_up(partition, Instant::now()),
        Pushed::Full => {
            let mut list = TopicPartitionList::new();
            list.add_partition(&shared.settings.topic, partition);
            if let Err(error) = consumer.pause(&list) {
                shared.complaint(error.to_string());
            }
        }
    }
}

fn is_missing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicId, UnknownTopicOrPartition};
    let code = error.rdkafka_error_code();
    [UnknownPartition, UnknownTopic, UnknownTopicId, UnknownTopicOrPartition].map(Some).contains(&code)
}

/// Whether the error is about records that librdkafka could not read, and goes on behind: a wrong checksum, an unknown
/// codec or format.
pub(super) fn is_unreadable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{BadCompression, BadMessage, NotImplemented};
    [BadCompression, BadMessage, NotImplemented].map(Some).contains(&error.rdkafka_error_code())
}

/// The offset that librdkafka names where it could not read something: "… at offset 7 …", "… of message at 7 of 20
/// bytes …".
fn offset_in(text: &str) -> Option<i64> {
    text.split(" at ").skip(1).find_map(|rest| {
        let rest = rest.strip_prefix("offset ").unwrap_or(rest);
        let end = rest.find(|it: char| !it.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

/// Draws the consequences of a poll's error for the partitions; the error itself was recorded before.
fn complain(shared: &Shared, error: &KafkaError) {
    let now = Instant::now();
    match error {
        KafkaError::MessageConsumptionFatal(code) => {
            let last = shared.trouble.lock().last_error.clone().unwrap_or_default();
            shared.fail(format!("Kafka has ended this consumer for good: {code}: {last}"));
        }
        _ if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PollExceeded) => {
            // What is assigned now may be somebody else's; the group says so before or after this.
            let mut assignment = shared.assignment.lock();
            shared.close(&assignment.doubt_all());
        }
        _ if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
            shared.begin_again(now + AFTER_LOSS, "the log does not have the next offset any more");
        }
        _ if is_unreadable(error) => {
            let at = shared.trouble.lock().unreadable.as_deref().and_then(offset_in);
            for partition in shared.lanes.unreadable(at, now) {
                shared.hold_up(partition, now);
            }
        }
        _ if is_missing(error) || error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            let why = format!("the topic is not to be had: {error}");
            shared.begin_again(now + AFTER_LOSS, &why);
            shared.trouble.lock().unknown = Some(why);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
