//! Reads a topic as it lies there, without a group and without leaving a trace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use thiserror::Error;

use super::{Settings, record};

/// How long the brokers may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long they may be silent while records are due.
const PATIENCE: Duration = Duration::from_secs(15);

/// A topic's records.
pub struct Log {
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it is.
    pub partition: i32,
    /// Where it is.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// By partition, an offset.
pub type Offsets = BTreeMap<i32, i64>;

/// Why a topic cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LogError {
    /// librdkafka does not take the settings.
    #[error("the settings of the consumer are refused: {what}")]
    Settings {
        /// What it says.
        what: String,
    },
    /// The brokers do not answer.
    #[error("cannot reach the brokers: {what}")]
    Unreachable {
        /// What librdkafka says.
        what: String,
    },
    /// The brokers do not let it be read.
    #[error("topic {topic}: {what}")]
    Topic {
        /// Its name.
        topic: String,
        /// What they say.
        what: String,
    },
}

impl Log {
    /// Connects with the first question.
    ///
    /// # Errors
    /// [`LogError::Settings`].
    pub fn open(settings: &Settings, topic: &str) -> Result<Self, LogError> {
        // It is in no group, as it only assigns, and commits nothing.
        let mut config = settings.for_look();
        config.set("auto.offset.reset", "earliest").set("allow.auto.create.topics", "false");
        config.set_log_level(RDKafkaLogLevel::Critical);
        let consumer = config
            .create_with_context(Quiet)
            .map_err(|error: KafkaError| LogError::Settings { what: error.to_string() })?;
        Ok(Log { consumer, topic: topic.to_owned() })
    }

    /// By partition, the oldest offset and the one after the newest; empty when there is no such topic.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn ends(&self) -> Result<(Offsets, Offsets), LogError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ANSWER).map_err(unreachable)?;
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
            let (low, high) = watermarks.map_err(unreachable)?;
            oldest.insert(partition.id(), low);
            ends.insert(partition.id(), high);
        }
        Ok((oldest, ends))
    }

    /// Hands over every record from `from` up to, and not, `ends`, in order within a partition. `take` says whether to go on.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(
        &self,
        from: &Offsets,
        ends: &Offsets,
        mut take: impl FnMut(LogRecord) -> bool,
    ) -> Result<(), LogError> {
        let mut open: BTreeMap<i32, i64> = ends.clone();
        open.retain(|partition, end| from.get(partition).copied().unwrap_or(0) < *end);
        let mut assignment = TopicPartitionList::new();
        for partition in open.keys() {
            let offset = Offset::Offset(from.get(partition).copied().unwrap_or(0));
            assignment.add_partition_offset(&self.topic, *partition, offset).map_err(unreachable)?;
        }
        self.consumer.assign(&assignment).map_err(unreachable)?;
        // A list that outlives its consumer makes the consumer's drop hang.
        drop(assignment);
        let result = self.follow(&mut open, &mut take);
        self.consumer.unassign().map_err(unreachable)?;
        result
    }

    fn follow(&self, open: &mut BTreeMap<i32, i64>, take: &mut impl FnMut(LogRecord) -> bool) -> Result<(), LogError> {
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
                Some(Err(error)) if heard.elapsed() > PATIENCE => return Err(unreachable(error)),
                None if heard.elapsed() > PATIENCE => {
                    return Err(LogError::Unreachable { what: "no records come".to_owned() });
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
            let headers = record.headers().map(record::headers);
            let record = LogRecord {
                partition,
                offset,
                timestamp: record.timestamp().to_millis(),
                key: record.key().map(<[u8]>::to_vec),
                value: record.payload().map(<[u8]>::to_vec),
                headers: headers.unwrap_or_default(),
            };
            if !take(record) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn refused(&self, error: RDKafkaErrorCode) -> LogError {
        LogError::Topic { topic: self.topic.clone(), what: error.to_string() }
    }
}

fn unreachable(error: KafkaError) -> LogError {
    LogError::Unreachable { what: error.to_string() }
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
