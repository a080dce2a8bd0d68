//! CloudEvents 1.0 on Kafka, in both content modes of its protocol binding.
//!
//! * Binary: headers that begin with `ce_` are the attributes, the value is the event. Only `ce_id` counts, and only if
//!   the event has no `event_id` of its own. All sources share one id space: a producer whose ids are not unique there
//!   puts an `event_id` into the event.
//! * Structured (`content-type: application/cloudevents+json`): the value is an envelope with the event in `data` or
//!   `data_base64`; its `id` counts as `ce_id` does. Batches and other envelopes are not read.
//!
//! `event_id` decides, whatever the envelope's id: a bridge may forward an event in a new envelope, and it is still the
//! same event. `type`, `source` and extensions are not read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Event;
use super::decode::{Encoding, Fields, Header};
use super::malformed::{Malformed, shown, shown_bytes};
use super::{json, protobuf};
use crate::TransactionId;

const ID_HEADER: &str = "ce_id";

/// The id that the headers of a binary event give it, if they do.
pub(super) fn id_of(headers: &[Header<'_>]) -> Result<Option<TransactionId>, Malformed> {
    let wrong = |what: &str| Malformed::Header { name: ID_HEADER, what: what.to_owned() };
    let mut ids = headers.iter().filter(|(name, _)| *name == ID_HEADER).map(|(_, value)| *value);
    let Some(id) = ids.next() else { return Ok(None) };
    if ids.next().is_some() {
        return Err(wrong("appears twice, and there is no event_id"));
    }
    let id = id.ok_or_else(|| wrong("has no value, and there is no event_id"))?;
    let text = str::from_utf8(id).map_err(|_| wrong(&format!("is not UTF-8: {}", shown_bytes(id))))?;
    let parsed = TransactionId::parse(ID_HEADER, text);
    parsed.map(Some).map_err(|invalid| Malformed::Id { invalid, got: shown(&format!("{text:?}")) })
}

/// The event in an envelope.
pub(super) fn structured(value: &[u8]) -> Result<Event, Malformed> {
    let names = ["specversion", "id", "datacontenttype", "data", "data_base64"];
    let picked = json::pick("the value", json::text(value)?, names)?;
    // An attribute that is null is one that is not set.
    let [version, id, content_type, data, base64] = picked.map(|raw| raw.filter(|raw| *raw != "null"));
    let version = version.ok_or(Malformed::Missing { field: "specversion" })?;
    if json::string("specversion", version)? != "1.0" {
        let got = shown(version);
        return Err(Malformed::Envelope { field: "specversion", what: "must be \"1.0\"", got });
    }
    let encoding = match content_type {
        None => Encoding::Json,
        Some(raw) => match Encoding::of(&json::string("datacontenttype", raw)?) {
            Some(encoding @ (Encoding::Json | Encoding::Protobuf)) => encoding,
            _ => {
                let what = "must be JSON or Protobuf";
                return Err(Malformed::Envelope { field: "datacontenttype", what, got: shown(raw) });
            }
        },
    };
    let fields = match (data, base64) {
        (None, None) => return Err(Malformed::Missing { field: "data" }),
        (Some(_), Some(raw)) => {
            return Err(Malformed::Envelope { field: "data_base64", what: "is there beside data", got: shown(raw) });
        }
        (Some(raw), None) if encoding == Encoding::Json => json::fields("data", raw)?,
        (Some(raw), None) => {
            let what = "must be in data_base64, as it is Protobuf";
            return Err(Malformed::Envelope { field: "data", what, got: shown(raw) });
        }
        (None, Some(raw)) => encoded(encoding, raw)?,
    };
    fields.with_id(|| id.map(envelope_id).transpose())
}

/// The event in `data_base64`.
fn encoded(encoding: Encoding, raw: &str) -> Result<Fields, Malformed> {
    const FIELD: &str = "data_base64";
    let text = json::string(FIELD, raw)?;
    let bytes = STANDARD.decode(text.as_bytes());
    let bytes = bytes.map_err(|_| Malformed::Envelope { field: FIELD, what: "must be base64", got: shown(raw) })?;
    match encoding {
        Encoding::Protobuf => protobuf::fields(&bytes),
        _ => json::fields(FIELD, json::text(&bytes)?),
    }
}

fn envelope_id(raw: &str) -> Result<TransactionId, Malformed> {
    let text = json::string("id", raw)?;
    TransactionId::parse("id", &text).map_err(|invalid| Malformed::Id { invalid, got: shown(raw) })
}
