//! From an event to a record's bytes: what [`decode`](super::decode()) reads, in each of the ways that it may be
//! written.

use serde::Serialize;

use super::{Event, protobuf};

/// A way to write an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    Json,
    /// A CloudEvent in binary mode: its id is the header `ce_id` and nowhere else.
    CloudEvents,
    /// A CloudEvent in structured mode: an envelope with the event in it.
    CloudEventsStructured,
    /// `equipoise.v1.InventoryEvent`.
    Protobuf,
}

/// An event as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The value.
    pub value: Vec<u8>,
    /// The headers.
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

const TYPE: &str = "equipoise.inventory.stock_changed.v1";
const SOURCE: &str = "/equipoise/produce";

impl Format {
    /// `event` written so.
    #[must_use]
    pub fn encode(self, event: &Event) -> Encoded {
        let id = event.id.as_str();
        let data =
            |event_id| Data { event_id, product_id: event.product.as_str(), quantity_change: event.quantity_change };
        let content_type = |text: &str| ("content-type", text.as_bytes().to_vec());
        match self {
            Format::Json => Encoded { value: json(&data(Some(id))), headers: Vec::new() },
            Format::CloudEvents => Encoded {
                value: json(&data(None)),
                headers: vec![
                    ("ce_specversion", b"1.0".to_vec()),
                    ("ce_type", TYPE.as_bytes().to_vec()),
                    ("ce_source", SOURCE.as_bytes().to_vec()),
                    ("ce_id", id.as_bytes().to_vec()),
                    content_type("application/json"),
                ],
            },
            Format::CloudEventsStructured => {
                let envelope = Envelope {
                    specversion: "1.0",
                    r#type: TYPE,
                    source: SOURCE,
                    id,
                    datacontenttype: "application/json",
                    data: data(None),
                };
                let headers = vec![content_type("application/cloudevents+json; charset=UTF-8")];
                Encoded { value: json(&envelope), headers }
            }
            Format::Protobuf => {
                Encoded { value: protobuf::encode(event), headers: vec![content_type("application/protobuf")] }
            }
        }
    }
}

/// Texts and numbers are always JSON.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    product_id: &'a str,
    quantity_change: i64,
}

#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    r#type: &'static str,
    source: &'static str,
    id: &'a str,
    datacontenttype: &'static str,
    data: Data<'a>,
}
