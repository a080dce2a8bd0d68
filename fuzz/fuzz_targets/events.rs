//! Records to the decoder of inventory events: no panic, a complaint that is short and harmless, and for every event that
//! is read, each format gives it back, and a reader that shares no code agrees about the JSON.

#![no_main]

use arbitrary::Arbitrary;
use equipoise::inventory::{Event, Format, Message, decode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// A record: bytes, or a nearly right event around bytes.
#[derive(Arbitrary, Debug)]
struct Record {
    content_type: ContentType,
    ce_id: Option<Option<Vec<u8>>>,
    more: Vec<(String, Option<Vec<u8>>)>,
    value: Body,
}

#[derive(Arbitrary, Debug)]
enum ContentType {
    None,
    Json,
    Protobuf,
    Envelope,
    Other(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Body {
    Bytes(Vec<u8>),
    /// The raw texts of the three fields.
    Object(String, String, String),
    Quantity(String),
    Data(String),
    DataBase64(String),
}

impl Body {
    fn bytes(self) -> Vec<u8> {
        let text = match self {
            Body::Bytes(bytes) => return bytes,
            Body::Object(id, product, quantity) => {
                format!(r#"{{"event_id":{id},"product_id":{product},"quantity_change":{quantity}}}"#)
            }
            Body::Quantity(raw) => format!(r#"{{"event_id":"e","product_id":"p","quantity_change":{raw}}}"#),
            Body::Data(raw) => format!(r#"{{"specversion":"1.0","id":"e","data":{raw}}}"#),
            Body::DataBase64(raw) => format!(
                r#"{{"specversion":"1.0","id":"e","datacontenttype":"application/protobuf","data_base64":"{raw}"}}"#
            ),
        };
        text.into_bytes()
    }
}

fuzz_target!(|record: Record| {
    let Record { content_type, ce_id, more, value } = record;
    let content_type = match &content_type {
        ContentType::None => None,
        ContentType::Json => Some(&b"application/json"[..]),
        ContentType::Protobuf => Some(&b"application/protobuf"[..]),
        ContentType::Envelope => Some(&b"application/cloudevents+json"[..]),
        ContentType::Other(bytes) => Some(&bytes[..]),
    };
    let mut headers: Vec<(&str, Option<&[u8]>)> =
        more.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    headers.extend(content_type.map(|content_type| ("content-type", Some(content_type))));
    headers.extend(ce_id.as_ref().map(|id| ("ce_id", id.as_deref())));
    let value = value.bytes();
    match decode(&Message { key: None, value: Some(&value), headers: &headers }) {
        Ok(Some(event)) => {
            for format in [Format::Json, Format::CloudEvents, Format::CloudEventsStructured, Format::Protobuf] {
                again(format, &event);
            }
            if headers.is_empty() {
                agrees(&event, &value);
            }
        }
        Ok(None) => panic!("a value is no tombstone"),
        Err(malformed) => {
            let reason = malformed.to_string();
            // 60 characters of the record at most, each as ten bytes where it is escaped.
            assert!(reason.len() < 750 && !reason.contains(char::is_control), "{reason:?}");
        }
    }
});

fn again(format: Format, event: &Event) {
    let encoded = format.encode(event);
    let headers: Vec<(&str, Option<&[u8]>)> =
        encoded.headers.iter().map(|(name, value)| (*name, Some(&value[..]))).collect();
    let read = decode(&Message { key: None, value: Some(&encoded.value), headers: &headers });
    assert_eq!(read.as_ref().ok().and_then(Option::as_ref), Some(event), "{format:?}");
}

/// What serde_json makes of the value, where it reads it at all: its depth is limited.
fn agrees(event: &Event, value: &[u8]) {
    let Ok(read) = serde_json::from_slice::<Value>(value) else { return };
    assert_eq!(read["event_id"].as_str(), Some(event.id.as_str()));
    assert_eq!(read["product_id"].as_str(), Some(event.product.as_str()));
    match (read["quantity_change"].as_i64(), read["quantity_change"].as_f64()) {
        (Some(exact), _) => assert_eq!(exact, event.quantity_change),
        // Written with a point or an exponent: the nearest double.
        (None, Some(near)) => assert_eq!(near, event.quantity_change as f64),
        (None, None) => panic!("no number: {read}"),
    }
}
