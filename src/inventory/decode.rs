//! From a record's bytes to an event.
//!
//! The header `content-type` says how the value is written: Protobuf (`application/protobuf`,
//! `application/x-protobuf`), a CloudEvents envelope (`application/cloudevents+json`), or JSON for anything else, and
//! where the header is missing. No other header makes a good event a bad one.

use super::malformed::{Malformed, shown};
use super::{Event, cloudevents, json, protobuf};
use crate::{AccountId, TransactionId};

/// A header: its name, and its value if it has one. Names may come twice.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// A record as the broker has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message<'a> {
    /// Chooses the partition, and is not read: the product is in the value.
    pub key: Option<&'a [u8]>,
    /// What happened; None is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in their order.
    pub headers: &'a [Header<'a>],
}

/// The event in a record; None for a record without a value (a tombstone).
///
/// # Errors
/// [`Malformed`]: the record can never become an event.
pub fn decode(message: &Message<'_>) -> Result<Option<Event>, Malformed> {
    let Some(value) = message.value else { return Ok(None) };
    let fields = match Encoding::of_headers(message.headers)? {
        Encoding::Envelope => return cloudevents::structured(value).map(Some),
        Encoding::Protobuf => protobuf::fields(value)?,
        Encoding::Json => json::fields("the value", json::text(value)?)?,
    };
    fields.with_id(|| cloudevents::id_of(message.headers)).map(Some)
}

/// What a value says, whatever it is written in.
pub(super) struct Fields {
    pub(super) id: Option<TransactionId>,
    pub(super) product: AccountId,
    pub(super) quantity_change: i64,
}

impl Fields {
    /// The event; if it has no id of its own, it gets the envelope's.
    pub(super) fn with_id(
        self,
        envelope: impl FnOnce() -> Result<Option<TransactionId>, Malformed>,
    ) -> Result<Event, Malformed> {
        let Fields { id, product, quantity_change } = self;
        let id = match id {
            Some(id) => id,
            None => envelope()?.ok_or(Malformed::Missing { field: "event_id" })?,
        };
        Ok(Event { id, product, quantity_change })
    }
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Protobuf,
    /// A structured CloudEvent.
    Envelope,
}

const CONTENT_TYPE: &str = "content-type";

impl Encoding {
    /// Of a record with these headers. Two content types may be there as long as they mean the same.
    fn of_headers(headers: &[Header<'_>]) -> Result<Self, Malformed> {
        let wrong = |what: &str| Malformed::Header { name: CONTENT_TYPE, what: what.to_owned() };
        let mut known = None;
        for (_, value) in headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE)) {
            let text = value.and_then(|value| str::from_utf8(value).ok()).unwrap_or_default();
            let encoding = Encoding::of(text);
            let encoding = encoding.ok_or_else(|| wrong(&format!("is not supported: {}", shown(text))))?;
            if *known.get_or_insert(encoding) != encoding {
                return Err(wrong("appears twice, with different meanings"));
            }
        }
        Ok(known.unwrap_or(Encoding::Json))
    }

    /// Of a media type; None for an envelope that is not read.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/protobuf" | "application/x-protobuf" => Some(Encoding::Protobuf),
            "application/cloudevents+json" | "application/cloudevents" => Some(Encoding::Envelope),
            other if other.starts_with("application/cloudevents") => None,
            _ => Some(Encoding::Json),
        }
    }
}
