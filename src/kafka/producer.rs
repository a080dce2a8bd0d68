//! Writes records to a topic, and knows which ones arrived.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message as _};

use super::error::TopicError;
use super::{Settings, create};

/// How long the brokers may take to say what they know of a topic, or to create one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for room in the queue before looking again.
const PAUSE: Duration = Duration::from_millis(2);

/// Writes records to one topic, each once, in order within a partition.
pub struct Producer {
    producer: BaseProducer<Reports>,
    topic: String,
    partitions: i32,
}

/// What became of the records so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Records that the brokers have.
    pub acknowledged: u64,
    /// Records that they do not have.
    pub failed: u64,
    /// Why the first of them failed.
    pub failure: Option<String>,
    /// The newest complaint of the connection; it may be over.
    pub trouble: Option<String>,
    /// By partition, the offset after the last record that the brokers have.
    pub next_offsets: BTreeMap<i32, i64>,
}

impl Producer {
    /// Connects. A topic that does not exist is created with `partitions`, or is an error if that is None.
    ///
    /// # Errors
    /// [`TopicError`].
    pub fn connect(settings: &Settings, topic: &str, partitions: Option<i32>) -> Result<Self, TopicError> {
        let mut config = settings.for_producer();
        config.set("enable.idempotence", "true").set("statistics.interval.ms", "0");
        config.set_log_level(RDKafkaLogLevel::Critical);
        let producer: BaseProducer<Reports> =
            config.create_with_context(Reports::default()).map_err(TopicError::settings)?;
        let mut producer = Producer { producer, topic: topic.to_owned(), partitions: 0 };
        let known = match (producer.known_partitions()?, partitions) {
            (0, None) => {
                return Err(TopicError::Topic { topic: topic.to_owned(), what: "there is no such topic".to_owned() });
            }
            (0, Some(partitions)) => {
                create(&config, topic, partitions)?;
                producer.wait_for_topic()?
            }
            (known, _) => known,
        };
        producer.partitions = known;
        Ok(producer)
    }

    /// How many partitions the topic has.
    #[must_use]
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Queues a record, to the partition of its key; waits for room.
    ///
    /// # Errors
    /// [`TopicError::Topic`]: it can never be sent, [`TopicError::NotDelivered`]: an earlier one was given up.
    pub fn send(
        &self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), TopicError> {
        self.send_while(|| true, key, value, headers).map(|_| ())
    }

    /// As [`Producer::send`], and waits for room as long as `goes_on` says; whether the record was queued.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub fn send_while(
        &self,
        goes_on: impl Fn() -> bool,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<bool, TopicError> {
        let mut record = BaseRecord::to(&self.topic);
        (record.key, record.payload) = (key, value);
        if !headers.is_empty() {
            let list = OwnedHeaders::new_with_capacity(headers.len());
            let insert =
                |list: OwnedHeaders, (key, value): &(&str, Option<&[u8]>)| list.insert(Header { key, value: *value });
            record.headers = Some(headers.iter().fold(list, insert));
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(true),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    self.serve(PAUSE)?;
                    record = refused;
                }
                Err((error, _)) => {
                    return Err(TopicError::Topic { topic: self.topic.clone(), what: error.to_string() });
                }
            }
            if !goes_on() {
                return Ok(false);
            }
        }
    }

    /// Processes delivery reports for `time`; to be called often.
    ///
    /// # Errors
    /// [`TopicError::NotDelivered`].
    pub fn serve(&self, time: Duration) -> Result<(), TopicError> {
        self.producer.poll(time);
        self.check()
    }

    /// Waits until every record arrived or was given up; `look` is called now and then, and says whether to go on.
    ///
    /// # Errors
    /// [`TopicError::NotDelivered`].
    pub fn finish(&self, mut look: impl FnMut(&Delivered) -> bool) -> Result<Delivered, TopicError> {
        const LOOK: Duration = Duration::from_millis(100);
        while look(&self.delivered()) {
            if self.producer.flush(LOOK).is_ok() {
                break;
            }
            self.check()?;
        }
        self.check()?;
        let delivered = self.delivered();
        match u64::try_from(self.producer.in_flight_count()) {
            Ok(0) | Err(_) => Ok(delivered),
            Ok(failed) => {
                let what = delivered.trouble.unwrap_or_else(|| "they were not waited for".to_owned());
                Err(TopicError::NotDelivered { failed, what })
            }
        }
    }

    /// What became of the records so far.
    #[must_use]
    pub fn delivered(&self) -> Delivered {
        self.producer.context().0.lock().clone()
    }

    fn check(&self) -> Result<(), TopicError> {
        let reports = self.producer.context().0.lock();
        match &reports.failure {
            None => Ok(()),
            Some(what) => Err(TopicError::NotDelivered { failed: reports.failed, what: what.clone() }),
        }
    }

    /// 0: there is no such topic.
    fn known_partitions(&self) -> Result<i32, TopicError> {
        let metadata = self.producer.client().fetch_metadata(Some(&self.topic), PATIENCE).map_err(|error| {
            // Before it gives up, it says why.
            self.producer.poll(Duration::ZERO);
            let what = self.delivered().trouble.unwrap_or_else(|| error.to_string());
            TopicError::Unreachable { what }
        })?;
        let Some(topic) = metadata.topics().first() else { return Ok(0) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(0),
            // Being made.
            Some(RDKafkaErrorCode::LeaderNotAvailable) => Ok(0),
            Some(error) => Err(TopicError::Topic { topic: self.topic.clone(), what: error.to_string() }),
        }
    }

    /// Waits for a new topic, which not every broker knows at once.
    fn wait_for_topic(&self) -> Result<i32, TopicError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.known_partitions()? {
                0 if Instant::now() > deadline => {
                    let what = "was made and does not appear".to_owned();
                    return Err(TopicError::Topic { topic: self.topic.clone(), what });
                }
                0 => std::thread::sleep(Duration::from_millis(50)),
                known => return Ok(known),
            }
        }
    }
}

fn create(config: &ClientConfig, topic: &str, partitions: i32) -> Result<(), TopicError> {
    let failed = |what: String| TopicError::Topic { topic: topic.to_owned(), what };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    runtime.block_on(create::create(config, topic, partitions, PATIENCE)).map_err(failed)
}

/// Collects delivery reports.
#[derive(Default)]
struct Reports(Mutex<Delivered>);

impl ClientContext for Reports {
    /// Nothing goes past the caller, who hears of it by [`Delivered::trouble`].
    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        self.0.lock().trouble = Some(text.to_owned());
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.lock().trouble = Some(if reason.is_empty() { error.to_string() } else { reason.to_owned() });
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut delivered = self.0.lock();
        match result {
            Ok(message) => {
                delivered.acknowledged += 1;
                let next = delivered.next_offsets.entry(message.partition()).or_default();
                *next = (*next).max(message.offset() + 1);
            }
            Err((error, _)) => {
                delivered.failed += 1;
                delivered.failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}
