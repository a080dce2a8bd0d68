//! Reads a topic as it lies there, without a group and without leaving a trace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::error::TopicError;
use super::record::copied;
use super::settings::Settings;
use crate::inventory::DeadLetter;

/// How long the brokers may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long they may be silent while records are due.
const PATIENCE: Duration = Duration::from_secs(15);

/// A topic's records.
pub struct Log {
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

/// By partition, an offset.
pub type Offsets = BTreeMap<i32, i64>;

impl Log {
    /// Connects with the first question.
    ///
    /// # Errors
    /// [`TopicError::Settings`].
    pub fn open(settings: &Settings, topic: &str) -> Result<Self, TopicError> {
        // It is in no group, as it only assigns, and commits nothing.
        let mut config = settings.for_look();
        config.set("auto.offset.reset", "earliest").set("allow.auto.create.topics", "false");
        config.set_log_level(RDKafkaLogLevel::Critical);
        let consumer = config.create_with_context(Quiet).map_err(TopicError::settings)?;
        Ok(Log { consumer, topic: topic.to_owned() })
    }

    /// By partition, the oldest offset and the one after the newest; empty when there is no such topic.
    ///
    /// # Errors
    /// [`TopicError`].
    pub fn ends(&self) -> Result<(Offsets, Offsets), TopicError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ANSWER).map_err(TopicError::unreachable)?;
        let Some(topic) = metadata.topics().first() else { return Ok(Default::default()) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(Default::default());
            }
            Some(error) => return Err(self.refused(error)),
        }
        let (mut oldest, mut ends) = (Offsets::new(), Offsets::new());
        for partition in topic.partitions() {
            let watermarks = self.consumer.fetch_watermarks(&self.topic, partition.id(), ANSWER);
            let (low, high) = watermarks.map_err(TopicError::unreachable)?;
            oldest.insert(partition.id(), low);
            ends.insert(partition.id(), high);
        }
        Ok((oldest, ends))
    }

    /// Hands over every record from `from` up to, but not including, `ends`, in order within a partition: as it lies
    /// there, and without a reason. `take` says whether to go on.
    ///
    /// # Errors
    /// [`TopicError`].
    pub fn read(
        &self,
        from: &Offsets,
        ends: &Offsets,
        mut take: impl FnMut(DeadLetter) -> bool,
    ) -> Result<(), TopicError> {
        let mut open: BTreeMap<i32, i64> = ends.clone();
        open.retain(|partition, end| from.get(partition).copied().unwrap_or(0) < *end);
        let mut assignment = TopicPartitionList::new();
        for partition in open.keys() {
            let offset = Offset::Offset(from.get(partition).copied().unwrap_or(0));
            assignment.add_partition_offset(&self.topic, *partition, offset).map_err(TopicError::unreachable)?;
        }
        self.consumer.assign(&assignment).map_err(TopicError::unreachable)?;
        // A list that outlives its consumer makes the consumer's drop hang.
        drop(assignment);
        let result = self.follow(&mut open, &mut take);
        self.consumer.unassign().map_err(TopicError::unreachable)?;
        result
    }

    fn follow(
        &self,
        open: &mut BTreeMap<i32, i64>,
        take: &mut impl FnMut(DeadLetter) -> bool,
    ) -> Result<(), TopicError> {
        let mut heard = Instant::now();
        while !open.is_empty() {
            let record = match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => record,
                // A partition's end, where the last records are markers of transactions.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                    continue;
                }
                Some(Err(KafkaError::MessageConsumption(error))) if !transient(error) => {
                    return Err(self.refused(error));
                }
                Some(Err(error)) if heard.elapsed() > PATIENCE => return Err(TopicError::unreachable(error)),
                None if heard.elapsed() > PATIENCE => {
                    return Err(TopicError::Unreachable { what: "no records come".to_owned() });
                }
                Some(Err(_)) | None => continue,
            };
            heard = Instant::now();
            let (partition, offset) = (record.partition(), record.offset());
            let Some(end) = open.get(&partition).copied() else { continue };
            if offset + 1 >= end {
                open.remove(&partition);
            }
            if offset >= end {
                continue;
            }
            if !take(copied(&record, &self.topic)) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn refused(&self, error: RDKafkaErrorCode) -> TopicError {
        TopicError::Topic { topic: self.topic.clone(), what: error.to_string() }
    }
}

/// What librdkafka goes on after.
fn transient(error: RDKafkaErrorCode) -> bool {
    matches!(
        error,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition
    )
}

/// Says nothing on standard error; what matters comes as a result.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {}
