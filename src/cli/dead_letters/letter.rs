//! A dead letter, and how it is printed.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::Timestamp;
use serde::Serialize;

use crate::cli::output::{Page, Record, escape};
use crate::cli::record::rfc3339;
use crate::inventory::DeadLetter;

const REASON: &str = "equipoise-reason";
const TOPIC: &str = "equipoise-topic";
const PARTITION: &str = "equipoise-partition";
const OFFSET: &str = "equipoise-offset";
const TIMESTAMP: &str = "equipoise-timestamp";
const CUT: &str = "equipoise-cut";

/// The header of a record that was sent again: which letter it was.
const REDRIVEN: &str = "equipoise-redriven";

/// Where a letter is in the topic of the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
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

/// A dead letter, without the headers that say so.
pub(in crate::cli) struct Letter {
    pub(super) place: Place,
    pub(super) record: DeadLetter,
    reason: String,
    /// Where it came from. None: it is no dead letter of ours.
    pub(super) topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    /// Milliseconds since the Unix epoch.
    timestamp: Option<i64>,
    /// The record was too large for the topic, and is not whole here.
    pub(super) cut: bool,
}

impl Letter {
    pub(in crate::cli) fn new(mut record: DeadLetter) -> Self {
        // Our headers come last: the record may have had headers with these names.
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

    /// Which letter it is, whatever becomes of either topic: where its record came from, and when that was written.
    pub(in crate::cli) fn identity(&self) -> String {
        format!("{}@{}", ListedRecord::from(self).origin(), self.timestamp.unwrap_or(-1))
    }

    /// Which letter was sent again, and came back as this one.
    pub(super) fn former(&self) -> Option<String> {
        let (_, identity) = self.record.headers.iter().rfind(|(name, _)| name == REDRIVEN)?;
        identity.as_deref().map(|identity| String::from_utf8_lossy(identity).into_owned())
    }

    /// The headers that its record has when it is sent again as the letter `identity`.
    pub(super) fn headers_again<'a>(&'a self, identity: &'a str) -> Vec<(&'a str, Option<&'a [u8]>)> {
        let theirs = self.record.headers.iter().filter(|(name, _)| name != REDRIVEN);
        let theirs = theirs.map(|(name, value)| (name.as_str(), value.as_deref()));
        theirs.chain([(REDRIVEN, Some(identity.as_bytes()))]).collect()
    }

    /// Whether its reason contains `reason`.
    pub(super) fn matches(&self, reason: Option<&str>) -> bool {
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
pub(super) struct ListedRecord<'a> {
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
pub(super) struct WholeRecord<'a> {
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

    fn record(headers: &[(&str, &str)]) -> DeadLetter {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), Some(value.as_bytes().to_vec()));
        DeadLetter {
            topic: "inventory-events-dead-letters".to_owned(),
            reason: String::new(),
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

    /// D6: what came back is known by the letter that was sent.
    #[test]
    fn a_letter_that_comes_back_names_the_one_that_was_sent() {
        let envelope = [(REASON, "r"), (TOPIC, "t"), (PARTITION, "2"), (OFFSET, "77"), (TIMESTAMP, "5")];
        let first = Letter::new(record(&[&[("x", "y")], &envelope[..]].concat()));
        assert_eq!((first.identity().as_str(), first.former()), ("t/2:77@5", None));
        let sent: Vec<_> = [("x", "y"), (REDRIVEN, "t/2:77@5")].into();
        let identity = first.identity();
        let texts = |headers: Vec<(&str, Option<&[u8]>)>| {
            let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            headers.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect::<Vec<_>>()
        };
        let owned: Vec<_> = sent.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(texts(first.headers_again(&identity)), owned);
        let second = Letter::new(record(&[&sent[..], &envelope].concat()));
        assert_eq!(second.former(), Some(identity));
        assert_eq!(second.headers_again("other").len(), 2, "one says so, the newest");
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
