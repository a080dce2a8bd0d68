//! `equipoise dead-letters`: the records that could not become events, and sending them again.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde::Serialize;

use super::exit::Failure;
use super::kafka::Kafka;
use super::output::{Output, Page, Record, escape};
use super::produce::{PATIENCE, within};
use super::record::rfc3339;
use crate::kafka::{Log, LogRecord, Offsets, Producer};

const REASON: &str = "equipoise-reason";
const TOPIC: &str = "equipoise-topic";
const PARTITION: &str = "equipoise-partition";
const OFFSET: &str = "equipoise-offset";
const TIMESTAMP: &str = "equipoise-timestamp";
const CUT: &str = "equipoise-cut";

/// Look through the records that could not become events, and send them again
///
/// They lie in a topic of their own, as they came, with headers that say where from and why. Nothing here needs a consumer
/// group or changes that topic: a letter that was sent again stays until the topic's retention takes it. Sending one again
/// is safe, since an event has its effect once; one that is still no event becomes a dead letter again.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise dead-letters list
  equipoise dead-letters show 0:42
  equipoise dead-letters redrive 0:42 1:7
  equipoise dead-letters redrive --all --reason product_id")]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print one line a letter: where it is, where it came from, and why it is here
    List {
        /// Only letters whose reason contains this text
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        kafka: Kafka,
    },
    /// Print one letter whole
    Show {
        /// Which one: its partition and offset in the topic of the dead letters, as list prints them
        #[arg(value_name = "PARTITION:OFFSET")]
        place: Place,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        kafka: Kafka,
    },
    /// Send letters to the topics that they came from, with the key, value and headers that they had
    Redrive {
        /// Which ones, as list prints them
        #[arg(value_name = "PARTITION:OFFSET", required_unless_present = "all", conflicts_with = "all")]
        places: Vec<Place>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Of all, only letters whose reason contains this text
        #[arg(long, value_name = "TEXT", requires = "all")]
        reason: Option<String>,
        /// Print what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        kafka: Kafka,
    },
}

/// Where a letter is in the topic of the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    partition: i32,
    offset: i64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':');
        let parsed = parts.and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
        match parsed {
            Some((partition, offset)) if partition >= 0 && offset >= 0 => Ok(Place { partition, offset }),
            _ => Err("expected PARTITION:OFFSET, as in 0:42".to_owned()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl DeadLetters {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.action {
            Action::List { reason, json, kafka } => list(kafka, reason.as_deref(), *json),
            Action::Show { place, json, kafka } => show(kafka, *place, *json),
            Action::Redrive { places, reason, dry_run, json, kafka, .. } => {
                let wanted = (!places.is_empty()).then(|| places.iter().copied().collect());
                redrive(kafka, wanted.as_ref(), reason.as_deref(), *dry_run, *json)
            }
        }
    }

    pub(super) fn json(&self) -> bool {
        match self.action {
            Action::List { json, .. } | Action::Show { json, .. } | Action::Redrive { json, .. } => json,
        }
    }
}

fn list(kafka: &Kafka, reason: Option<&str>, json: bool) -> Result<(), Failure> {
    let mut output = Output::new(json);
    output.heading(format_args!("{:<12} {:<30} {:<32} REASON", "LETTER", "RECORD'S TIME", "RECORD"))?;
    read(kafka, None, |letter| {
        if letter.matches(reason) {
            output.record(&ListedRecord::from(&letter))?;
        }
        Ok(())
    })?;
    Ok(output.flush()?)
}

fn show(kafka: &Kafka, place: Place, json: bool) -> Result<(), Failure> {
    let mut output = Output::new(json);
    read(kafka, Some(&BTreeSet::from([place])), |letter| Ok(output.record(&WholeRecord::from(&letter))?))?;
    Ok(output.flush()?)
}

fn redrive(
    kafka: &Kafka,
    wanted: Option<&BTreeSet<Place>>,
    reason: Option<&str>,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    let mut letters = Vec::new();
    read(kafka, wanted, |letter| {
        if letter.matches(reason) {
            letters.push(letter);
        }
        Ok(())
    })?;
    let mut output = Output::new(json);
    let mut kept = 0;
    let topics: BTreeSet<String> = letters.iter().filter_map(|letter| letter.topic.clone()).collect();
    for topic in &topics {
        let producer = match dry_run {
            true => None,
            false => Some(Producer::connect(kafka.config()?, topic, 1)?),
        };
        let of_topic = letters.iter().filter(|letter| letter.topic.as_ref() == Some(topic));
        for letter in of_topic.filter(|letter| !letter.cut) {
            if let Some(producer) = &producer {
                let (key, value) = (letter.record.key.as_deref(), letter.record.value.as_deref());
                let headers: Vec<_> =
                    letter.record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
                producer.send(key, value, &headers)?;
            }
            output.record(&ListedRecord::from(letter))?;
        }
        if let Some(producer) = producer {
            producer.finish(within(PATIENCE))?;
        }
    }
    for letter in letters.iter().filter(|letter| letter.cut || letter.topic.is_none()) {
        kept += 1;
        let why = if letter.cut { "it is not whole" } else { "it does not say where it came from" };
        super::note(&format!("{} is not sent: {why}", letter.place));
    }
    output.flush()?;
    match kept {
        0 => Ok(()),
        _ => Err(Failure::Refused(format!("{kept} of {} letters cannot be sent again", letters.len()))),
    }
}

/// Hands over the letters that are there now: all, or those that are wanted, each of which must be there.
fn read(
    kafka: &Kafka,
    wanted: Option<&BTreeSet<Place>>,
    mut take: impl FnMut(Letter) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let topic = kafka.dead_letter_topic();
    let log = Log::open(kafka.config()?, &topic)?;
    let (oldest, ends) = log.ends()?;
    let (mut from, mut until) = (oldest, ends);
    let mut missing = wanted.cloned().unwrap_or_default();
    if let Some(wanted) = wanted {
        // From the first that is wanted to the last, in each partition.
        let bounds = |partition: i32| {
            let offsets = wanted.iter().filter(move |place| place.partition == partition).map(|place| place.offset);
            (offsets.clone().min(), offsets.max())
        };
        until.retain(|partition, _| bounds(*partition).0.is_some());
        narrow(&mut from, |partition, oldest| bounds(partition).0.map_or(oldest, |first| first.max(oldest)));
        narrow(&mut until, |partition, end| bounds(partition).1.map_or(end, |last| end.min(last.saturating_add(1))));
    }
    let mut result = Ok(());
    log.read(&from, &until, |record| {
        let letter = Letter::new(record);
        if wanted.is_none_or(|wanted| wanted.contains(&letter.place)) {
            missing.remove(&letter.place);
            result = take(letter);
        }
        result.is_ok()
    })?;
    result?;
    match missing.first() {
        None => Ok(()),
        Some(place) => Err(Failure::Refused(format!("there is no letter {place} in {topic}"))),
    }
}

fn narrow(offsets: &mut Offsets, bound: impl Fn(i32, i64) -> i64) {
    for (partition, offset) in offsets.iter_mut() {
        *offset = bound(*partition, *offset);
    }
}

/// A dead letter, without the headers that say so.
struct Letter {
    place: Place,
    record: LogRecord,
    reason: String,
    /// None: it is no dead letter of ours.
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    /// Milliseconds since the Unix epoch.
    timestamp: Option<i64>,
    /// The record was too large for the topic, and is not whole here.
    cut: bool,
}

impl Letter {
    fn new(mut record: LogRecord) -> Self {
        // Ours come last; a record may have had headers with these names.
        let begin = record.headers.iter().rposition(|(name, _)| name == REASON).unwrap_or(record.headers.len());
        let ours = record.headers.split_off(begin);
        let text = |wanted: &str| {
            let found = ours.iter().find(|(name, _)| name == wanted);
            found.and_then(|(_, value)| value.as_deref()).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        Letter {
            place: Place { partition: record.partition, offset: record.offset },
            reason: text(REASON).unwrap_or_default(),
            topic: text(TOPIC),
            partition: text(PARTITION).and_then(|text| text.parse().ok()),
            offset: text(OFFSET).and_then(|text| text.parse().ok()),
            timestamp: text(TIMESTAMP).and_then(|text| text.parse().ok()),
            cut: text(CUT).is_some(),
            record,
        }
    }

    fn matches(&self, reason: Option<&str>) -> bool {
        reason.is_none_or(|reason| self.reason.contains(reason))
    }

    fn time(&self) -> Option<String> {
        let milliseconds = self.timestamp?;
        let nanos = i32::try_from(milliseconds.rem_euclid(1000) * 1_000_000).unwrap_or_default();
        Some(rfc3339(&Timestamp { seconds: milliseconds.div_euclid(1000), nanos }))
    }
}

/// A letter on one line.
#[derive(Serialize)]
struct ListedRecord<'a> {
    letter: String,
    topic: Option<&'a str>,
    partition: Option<i32>,
    offset: Option<i64>,
    time: Option<String>,
    cut: bool,
    reason: &'a str,
}

impl<'a> From<&'a Letter> for ListedRecord<'a> {
    fn from(letter: &'a Letter) -> Self {
        ListedRecord {
            letter: letter.place.to_string(),
            topic: letter.topic.as_deref(),
            partition: letter.partition,
            offset: letter.offset,
            time: letter.time(),
            cut: letter.cut,
            reason: &letter.reason,
        }
    }
}

impl ListedRecord<'_> {
    /// Where the record was.
    fn origin(&self) -> String {
        let number = |number: Option<i64>| number.map_or("?".to_owned(), |number| number.to_string());
        let topic = escape(self.topic.unwrap_or("?"));
        format!("{topic}/{}:{}", number(self.partition.map(i64::from)), number(self.offset))
    }
}

impl Record for ListedRecord<'_> {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let time = self.time.as_deref().unwrap_or("-");
        let cut = if self.cut { " (not whole)" } else { "" };
        page.line(format_args!("{:<12} {time:<30} {:<32} {}{cut}", self.letter, self.origin(), escape(self.reason)))
    }
}

/// A letter with all that is in it.
#[derive(Serialize)]
struct WholeRecord<'a> {
    #[serde(flatten)]
    listed: ListedRecord<'a>,
    key: Option<Bytes<'a>>,
    value: Option<Bytes<'a>>,
    headers: Vec<HeaderRecord<'a>>,
}

#[derive(Serialize)]
struct HeaderRecord<'a> {
    name: &'a str,
    value: Option<Bytes<'a>>,
}

/// As text where it is, else in base64.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Bytes<'a> {
    Text(&'a str),
    Base64(String),
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text),
            Err(_) => Bytes::Base64(STANDARD.encode(bytes)),
        }
    }
}

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bytes::Text(text) => write!(f, "{}", escape(text)),
            Bytes::Base64(text) => write!(f, "base64 {text}"),
        }
    }
}

impl<'a> From<&'a Letter> for WholeRecord<'a> {
    fn from(letter: &'a Letter) -> Self {
        let record = &letter.record;
        let header = |(name, value): &'a (String, Option<Vec<u8>>)| HeaderRecord {
            name,
            value: value.as_deref().map(Bytes::from),
        };
        WholeRecord {
            listed: ListedRecord::from(letter),
            key: record.key.as_deref().map(Bytes::from),
            value: record.value.as_deref().map(Bytes::from),
            headers: record.headers.iter().map(header).collect(),
        }
    }
}

impl Record for WholeRecord<'_> {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let or_none = |bytes: &Option<Bytes<'_>>| bytes.as_ref().map_or("(none)".to_owned(), Bytes::to_string);
        page.field("letter", &self.listed.letter)?;
        page.field("record", self.listed.origin())?;
        page.field("time", self.listed.time.as_deref().unwrap_or("-"))?;
        page.field("reason", escape(self.listed.reason))?;
        if self.listed.cut {
            page.field("note", "not whole: the record was too large for this topic")?;
        }
        page.field("key", or_none(&self.key))?;
        for header in &self.headers {
            page.field("header", format_args!("{}: {}", escape(header.name), or_none(&header.value)))?;
        }
        page.field("value", or_none(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&str, &str)]) -> LogRecord {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), Some(value.as_bytes().to_vec()));
        LogRecord {
            partition: 3,
            offset: 9,
            timestamp: None,
            key: Some(b"k".to_vec()),
            value: Some(b"\xff".to_vec()),
            headers: headers.iter().map(header).collect(),
        }
    }

    /// D6: what is sent again has the headers that it came with, also those that look like ours.
    #[test]
    fn a_letter_is_taken_out_of_its_envelope() {
        let letter = Letter::new(record(&[
            ("ce_id", "e"),
            (REASON, "an old one"),
            ("x", "y"),
            (REASON, "quantity_change is missing"),
            (TOPIC, "inventory-events"),
            (PARTITION, "2"),
            (OFFSET, "77"),
            (TIMESTAMP, "1700000000123"),
        ]));
        assert_eq!(letter.record.headers, record(&[("ce_id", "e"), (REASON, "an old one"), ("x", "y")]).headers);
        assert_eq!(letter.place.to_string(), "3:9");
        assert_eq!(ListedRecord::from(&letter).origin(), "inventory-events/2:77");
        assert_eq!(letter.time().as_deref(), Some("2023-11-14T22:13:20.123000000Z"));
        assert!(letter.matches(Some("quantity_change")) && !letter.matches(Some("old")) && !letter.cut);
        let json = serde_json::to_value(WholeRecord::from(&letter)).expect("JSON");
        assert_eq!(json["key"]["text"], "k");
        assert_eq!(json["value"]["base64"], "/w==");
        assert_eq!(json["offset"], 77);
    }

    #[test]
    fn a_record_of_somebody_else_goes_nowhere() {
        let letter = Letter::new(record(&[("x", "y")]));
        assert_eq!((letter.topic.as_deref(), letter.record.headers.len()), (None, 1));
        assert_eq!(ListedRecord::from(&letter).origin(), "?/?:?");
        assert!(Letter::new(record(&[(REASON, "r"), (TOPIC, "t"), (CUT, "value")])).cut);
    }

    #[test]
    fn a_place_is_a_partition_and_an_offset() {
        assert_eq!("0:42".parse(), Ok(Place { partition: 0, offset: 42 }));
        for wrong in ["", "0", ":", "0:", "-1:0", "0:-1", "a:b", "0:1:2"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
