//! A record as it came, copied out of librdkafka's memory.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};

use rdkafka::Message as _;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _};

use crate::inventory::{self, Content, DeadLetter};

/// Decodes a record, which is passed as it came and with an empty reason. Must not block: the consumer does not poll
/// meanwhile.
pub type Decode = Arc<dyn Fn(DeadLetter) -> Content + Send + Sync>;

/// What [`inventory::decode`] says of a record.
#[must_use]
pub fn decode(record: DeadLetter) -> Content {
    let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let message = inventory::Message { key: record.key.as_deref(), value: record.value.as_deref(), headers: &headers };
    match inventory::decode(&message) {
        Ok(Some(event)) => Content::Event { event, original: Arc::new(record) },
        Ok(None) => Content::Tombstone,
        Err(malformed) => {
            let reason = malformed.to_string();
            Content::Malformed(Arc::new(DeadLetter { reason, ..record }))
        }
    }
}

/// Stands for a header whose name is not UTF-8. rdkafka gives neither its name nor its value.
const UNREADABLE: &str = "\u{fffd}";

pub(super) fn copied(message: &BorrowedMessage<'_>, topic: &str) -> DeadLetter {
    DeadLetter {
        topic: topic.to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map(headers).unwrap_or_default(),
        reason: String::new(),
    }
}

fn headers(headers: &BorrowedHeaders) -> Vec<(String, Option<Vec<u8>>)> {
    (0..headers.count()).map(|index| header(headers, index)).collect()
}

fn header(headers: &BorrowedHeaders, index: usize) -> (String, Option<Vec<u8>>) {
    // rdkafka 0.39 unwraps `to_str` on a header's name, so a name that is not UTF-8 panics, and there is no other way
    // to ask.
    let read = quietly(|| headers.try_get(index).map(|it| (it.key.to_owned(), it.value.map(<[u8]>::to_vec))));
    read.flatten().unwrap_or_else(|| (UNREADABLE.to_owned(), None))
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `read`; None if it panics. The panic's message is kept off standard error, which a producer could otherwise
/// fill.
fn quietly<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                others(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    QUIET.set(false);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: Option<&str>) -> DeadLetter {
        DeadLetter {
            topic: "t".to_owned(),
            partition: 0,
            offset: 1,
            timestamp: None,
            key: None,
            value: value.map(|value| value.as_bytes().to_vec()),
            headers: vec![("h".to_owned(), None)],
            reason: String::new(),
        }
    }

    /// D1: an event with the record that it came in, which is there to be refused by the store.
    #[test]
    fn a_record_is_an_event_a_tombstone_or_malformed() {
        let good = record(Some(r#"{"event_id":"e","product_id":"p","quantity_change":-5}"#));
        let Content::Event { event, original } = decode(good.clone()) else { panic!("an event") };
        assert_eq!((event.id.as_str(), event.product.as_str(), event.quantity_change), ("e", "p", -5));
        assert_eq!(*original, good);
        assert_eq!(decode(record(None)), Content::Tombstone);
        let bad = record(Some(r#"{"event_id":"e","product_id":"p"}"#));
        let Content::Malformed(letter) = decode(bad.clone()) else { panic!("malformed") };
        assert!(letter.reason.contains("quantity_change"), "{}", letter.reason);
        assert_eq!(DeadLetter { reason: String::new(), ..DeadLetter::clone(&letter) }, bad);
    }

    #[test]
    fn a_panic_in_a_reader_is_nothing_read() {
        assert_eq!(quietly(|| 7), Some(7));
        assert_eq!(quietly(|| -> u8 { panic!("a name that is not UTF-8") }), None);
        assert!(!QUIET.get());
    }
}
