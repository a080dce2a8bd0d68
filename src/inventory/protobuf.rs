//! The event as Protobuf: `equipoise.v1.InventoryEvent`.
//!
//! Protobuf cannot tell an empty text from a missing one, nor 0 from a missing number: an empty `event_id` counts as
//! missing, a missing `quantity_change` as 0. A field that comes twice is refused, although Protobuf takes the last
//! one: otherwise two concatenated events would be read as one.

use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::Event;
use super::decode::Fields;
use super::malformed::{Malformed, shown};
use crate::{AccountId, InvalidRequest, TransactionId};

use proto::InventoryEvent;

mod proto {
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated code")]

    include!(concat!(env!("OUT_DIR"), "/events/equipoise.v1.rs"));
}

/// By their numbers.
const FIELDS: [&str; 3] = ["event_id", "product_id", "quantity_change"];

/// What the message says.
pub(super) fn fields(value: &[u8]) -> Result<Fields, Malformed> {
    let not_protobuf = |error: prost::DecodeError| {
        let what = error.to_string();
        let what = what.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&what);
        Malformed::NotProtobuf { what: what.to_owned() }
    };
    let event = InventoryEvent::decode(value).map_err(not_protobuf)?;
    if let Some(field) = twice(value).map_err(not_protobuf)? {
        return Err(Malformed::Twice { field });
    }
    let got = |text: &str| shown(&format!("{text:?}"));
    let id = match event.event_id.as_str() {
        "" => None,
        text => Some(TransactionId::parse("event_id", text).map_err(|invalid| id_error(invalid, got(text)))?),
    };
    if event.product_id.is_empty() {
        return Err(Malformed::Missing { field: "product_id" });
    }
    let product = AccountId::parse("product_id", &event.product_id);
    let product = product.map_err(|invalid| id_error(invalid, got(&event.product_id)))?;
    Ok(Fields { id, product, quantity_change: event.quantity_change })
}

fn id_error(invalid: InvalidRequest, got: String) -> Malformed {
    Malformed::Id { invalid, got }
}

/// The field that is there more than once.
fn twice(mut value: &[u8]) -> Result<Option<&'static str>, prost::DecodeError> {
    let mut seen = [false; FIELDS.len()];
    while !value.is_empty() {
        let (number, wire_type) = decode_key(&mut value)?;
        skip_field(wire_type, number, &mut value, DecodeContext::default())?;
        let at = usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1);
        if let Some(seen) = seen.get_mut(at)
            && std::mem::replace(seen, true)
        {
            return Ok(FIELDS.get(at).copied());
        }
    }
    Ok(None)
}

/// The message, as [`fields`] reads it.
pub(super) fn encode(event: &Event) -> Vec<u8> {
    let event = InventoryEvent {
        event_id: event.id.to_string(),
        product_id: event.product.to_string(),
        quantity_change: event.quantity_change,
    };
    event.encode_to_vec()
}
