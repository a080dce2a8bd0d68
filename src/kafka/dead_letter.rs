//! Publishes the dead letters that the store keeps, to their topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::OwnedDeliveryResult;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::sync::watch;

use crate::inventory::{DeadLetter, StoreError, StoredDeadLetter};

use super::backoff::Backoff;
use super::create::create;
use super::shared::{Asker, Shared};

/// Letters on their way at once.
const AT_ONCE: usize = 500;

/// How often the store is asked for letters that another process left behind.
const ASKED: Duration = Duration::from_secs(5);

/// If the store takes this long to answer, its letters are given back and asked for again: they may not stay ours for
/// long enough.
const LATE: Duration = Duration::from_secs(12);

/// How long the brokers may take for a letter, whatever the settings say. Together with [`LATE`] and [`QUEUED`] this is
/// less than the time for which letters are ours.
const DELIVERED: (&str, &str) = ("message.timeout.ms", "20000");

/// How long to wait for room in the producer's queue.
const QUEUED: Duration = Duration::from_secs(10);

/// How long the brokers may take to create the topic.
const MADE: Duration = Duration::from_secs(10);

/// How many bytes are kept of a part that is cut: enough to see what it was, and under the smallest limit that brokers
/// have.
const CUT_VALUE: usize = 16 << 10;
const CUT_KEY: usize = 256;
const CUT_REASON: usize = 512;

/// Publishes the letters in the store's outbox, each once, or twice if this process or its store ends before the letter
/// is marked as published: the headers `equipoise-topic`, `equipoise-partition` and `equipoise-offset` identify
/// duplicates. A letter that the broker finds too large is cut, and its header `equipoise-cut` names the parts that are
/// not whole; the whole record is where those three headers say.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    producer: FutureProducer<Logged>,
    /// Letters that the brokers have, but that the store failed to forget: they are not sent again.
    delivered: Vec<StoredDeadLetter>,
    /// The topic exists, or could not be created.
    prepared: bool,
}

impl Publisher {
    pub(super) fn new(shared: Arc<Shared>) -> KafkaResult<Self> {
        let producer = producer(&shared)?;
        Ok(Publisher { shared, producer, delivered: Vec::new(), prepared: false })
    }

    /// Runs until `stop` is set, its sender is gone, or the consumer has failed.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::default();
        while !*stop.borrow() && !self.shared.has_failed() {
            let wait = match self.publish_some().await {
                Ok(given) => {
                    backoff = Backoff::default();
                    if given > 0 {
                        continue;
                    }
                    ASKED
                }
                Err(why) => {
                    self.complain(&why);
                    backoff.next()
                }
            };
            let news = self.shared.dead_letters.notified();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // While publishing fails, new letters do not end the wait.
                () = news, if wait == ASKED => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
        // The queue should be empty, since each letter was waited for.
        drop(self.producer.flush(Duration::from_millis(500)));
    }

    fn complain(&mut self, why: &str) {
        self.shared.metrics.dead_letter_retries.inc();
        if let Some(repeated) = self.shared.quiet.may_say("dead letters") {
            tracing::warn!(repeated, "dead letters are not published, trying again: {why}");
        }
        if self.producer.client().fatal_error().is_some()
            && let Ok(producer) = producer(&self.shared)
        {
            self.producer = producer;
        }
    }

    /// Publishes letters from the store, and returns how many it gave. Those delivered are forgotten even if others
    /// were not.
    async fn publish_some(&mut self) -> Result<usize, String> {
        let asked = Instant::now();
        let letters = self.shared.store.dead_letters(AT_ONCE).await;
        // A member without partitions asks the store nothing else.
        match &letters {
            Ok(_) => self.shared.available(Asker::Publish),
            Err(StoreError::Unavailable { what }) => self.shared.unavailable(Asker::Publish, what),
            Err(_) => {}
        }
        let letters = letters.map_err(|error| error.to_string())?;
        if letters.is_empty() {
            return Ok(0);
        }
        self.prepare().await;
        let given = letters.len();
        let (mut delivered, letters): (Vec<_>, Vec<_>) =
            letters.into_iter().partition(|letter| self.delivered.contains(letter));
        if asked.elapsed() > LATE {
            // The others are given back, and asked for again.
            self.forget(delivered).await?;
            return Ok(given);
        }
        let mut failure = None;
        let topic = &self.shared.settings.dead_letter_topic;
        // All of them are handed over before the first is waited for.
        let sent: Vec<_> =
            letters.iter().map(|it| self.producer.send_result(Form::Whole.record(topic, &it.letter)).ok()).collect();
        for (letter, sent) in letters.into_iter().zip(sent) {
            let answer = match sent {
                Some(delivery) => delivery.await.ok(),
                None => None,
            };
            let answer = match answer {
                Some(answer) => answer,
                // The producer's queue was full.
                None if asked.elapsed() < LATE => self.send(&letter, Form::Whole).await,
                None => {
                    failure = Some(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
                    continue;
                }
            };
            match self.in_some_form(&letter, answer, asked).await {
                Ok(()) => {
                    let DeadLetter { partition, offset, reason, .. } = &letter.letter;
                    tracing::warn!(partition, offset, reason, "a record became a dead letter");
                    delivered.push(letter);
                }
                Err(error) => failure = Some(error),
            }
        }
        self.forget(delivered).await?;
        // The topic may have been deleted, or nobody could create it before.
        self.prepared &= failure.is_none();
        let topic = &self.shared.settings.dead_letter_topic;
        failure.map_or(Ok(given), |error| Err(format!("{topic}: {error}")))
    }

    /// Has the store forget what the brokers have, and give others their turn.
    async fn forget(&mut self, delivered: Vec<StoredDeadLetter>) -> Result<(), String> {
        self.delivered = delivered;
        let numbers = self.delivered.iter().map(|letter| letter.number).collect::<Vec<_>>();
        self.shared.store.published(&numbers).await.map_err(|error| error.to_string())?;
        self.delivered.clear();
        self.shared.metrics.dead_letters_published.inc_by(numbers.len() as u64);
        Ok(())
    }

    /// Creates the topic if it does not exist: a producer would wait for it in vain. Without the right to create
    /// topics, the process may still write to one.
    async fn prepare(&mut self) {
        if std::mem::replace(&mut self.prepared, true) {
            return;
        }
        let topic = &self.shared.settings.dead_letter_topic;
        // One partition: they are few, and read in the order in which they died.
        if let Err(what) = create(&self.shared.settings.for_producer(), topic, 1, MADE).await {
            tracing::info!("the topic {topic} {what}");
        }
    }

    /// Cuts the letter until the broker takes it, or until it may soon be another publisher's. `asked` is when the
    /// store was asked.
    async fn in_some_form(
        &self,
        letter: &StoredDeadLetter,
        delivered: OwnedDeliveryResult,
        asked: Instant,
    ) -> Result<(), KafkaError> {
        let mut delivered = delivered;
        // Whole once more: it may have been its batch that was too large.
        for form in [Form::Whole, Form::CutValue, Form::Origin] {
            match delivered {
                Err((error, _)) if is_too_large(&error) && asked.elapsed() < LATE => {
                    delivered = self.send(letter, form).await;
                }
                _ => break,
            }
        }
        delivered.map(|_| ()).map_err(|(error, _)| error)
    }

    async fn send(&self, letter: &StoredDeadLetter, form: Form) -> OwnedDeliveryResult {
        self.producer.send(form.record(&self.shared.settings.dead_letter_topic, &letter.letter), QUEUED).await
    }
}

fn producer(shared: &Arc<Shared>) -> KafkaResult<FutureProducer<Logged>> {
    let mut config = shared.settings.for_producer();
    config.set("enable.idempotence", "true").set("acks", "all");
    // How large a record may be is the broker's to say.
    let defaults = [("message.max.bytes", "1000000000"), ("linger.ms", "5")];
    for (property, value) in defaults {
        if config.get(property).is_none() {
            config.set(property, value);
        }
    }
    config.remove("delivery.timeout.ms");
    config.set(DELIVERED.0, DELIVERED.1).set("statistics.interval.ms", "0");
    config.create_with_context(Logged(Arc::clone(shared)))
}

fn is_too_large(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    [RDKafkaErrorCode::MessageSizeTooLarge, RDKafkaErrorCode::InvalidMessageSize].map(Some).contains(&code)
}

/// How much of a letter is published.
#[derive(Clone, Copy)]
enum Form {
    Whole,
    /// All but the end of the value.
    CutValue,
    /// Where it came from, and the beginnings of the key and the reason.
    Origin,
}

impl Form {
    fn record<'a>(self, topic: &'a str, letter: &'a DeadLetter) -> FutureRecord<'a, [u8], [u8]> {
        let (key, value, reason) = match self {
            Form::Whole => (usize::MAX, usize::MAX, usize::MAX),
            Form::CutValue => (usize::MAX, CUT_VALUE, usize::MAX),
            Form::Origin => (CUT_KEY, 0, CUT_REASON),
        };
        let mut record = FutureRecord::to(topic).headers(self.headers(letter, reason));
        if let Some(whole) = &letter.key {
            record = record.key(&whole[..whole.len().min(key)]);
        }
        if let Some(whole) = &letter.value {
            record = record.payload(&whole[..whole.len().min(value)]);
        }
        record
    }

    fn headers(self, letter: &DeadLetter, reason: usize) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new_with_capacity(letter.headers.len() + 6);
        if !matches!(self, Form::Origin) {
            for (name, value) in &letter.headers {
                headers = headers.insert(Header { key: name, value: value.as_deref() });
            }
        }
        let mut add = |name: &str, value: &str| {
            let header = Header { key: name, value: Some(value.as_bytes()) };
            headers = std::mem::take(&mut headers).insert(header);
        };
        add("equipoise-reason", beginning(&letter.reason, reason));
        add("equipoise-topic", &letter.topic);
        add("equipoise-partition", &letter.partition.to_string());
        add("equipoise-offset", &letter.offset.to_string());
        if let Some(timestamp) = letter.timestamp {
            add("equipoise-timestamp", &timestamp.to_string());
        }
        match self {
            Form::Whole => {}
            Form::CutValue => add("equipoise-cut", "value"),
            Form::Origin => add("equipoise-cut", "value, key, headers, reason"),
        }
        headers
    }
}

/// At most the first `bytes` of a text, in whole characters.
fn beginning(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// The producer's log goes where the consumer's goes.
struct Logged(Arc<Shared>);

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.quiet.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.complaint(format!("{error}: {reason}"));
    }
}
