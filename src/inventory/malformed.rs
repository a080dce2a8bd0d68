//! Why a message is no event, in words for whoever looks through the dead letters.

use thiserror::Error;

use crate::InvalidRequest;

/// Why a message is no event. The text names the field and shows what was there, shortened and without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A header that decides how to read the value, or which event it is, cannot be used.
    #[error("header {name} {what}")]
    Header {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing, or nothing but white space: not a tombstone, which has no value at all.
    #[error("the value is empty")]
    Empty,
    /// Text in no encoding that events are written in.
    #[error("the value is not UTF-8 from byte {position} on")]
    NotUtf8 {
        /// The first byte that is none.
        position: usize,
    },
    /// JSON does not begin so.
    #[error("the value begins with a byte order mark")]
    ByteOrderMark,
    /// Another JSON value than an object.
    #[error("{place} must be a JSON object, got {got}")]
    NotAnObject {
        /// The value, or the field of an envelope.
        place: &'static str,
        /// What was there.
        got: String,
    },
    /// Not JSON.
    #[error("{place} is not JSON: {what}")]
    NotJson {
        /// The value, or the field of an envelope.
        place: &'static str,
        /// What the parser says, with the field in which it failed.
        what: String,
    },
    /// Not the message that the content type promises.
    #[error("the value is not an equipoise.v1.InventoryEvent: {what}")]
    NotProtobuf {
        /// What the parser says.
        what: String,
    },
    /// A field of a structured CloudEvent that cannot be used.
    #[error("{field} {what}, got {got}")]
    Envelope {
        /// Its name.
        field: &'static str,
        /// What it must be.
        what: &'static str,
        /// What was there.
        got: String,
    },
    /// A field that an event needs.
    #[error("{field} is missing")]
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field that is there more than once: readers differ in which one counts.
    #[error("{field} appears twice")]
    Twice {
        /// Its name.
        field: &'static str,
    },
    /// A field that is no text.
    #[error("{field} must be text, got {got}")]
    NotText {
        /// Its name.
        field: &'static str,
        /// What was there.
        got: String,
    },
    /// An id against the rules for ids.
    #[error("{invalid}: {got}")]
    Id {
        /// Which rule, and the field's name.
        invalid: InvalidRequest,
        /// What was there.
        got: String,
    },
    /// A quantity that is no integer of 64 bits.
    #[error("quantity_change must be an integer from {} to {}, got {got}", i64::MIN, i64::MAX)]
    NotAnInteger {
        /// What was there.
        got: String,
    },
}

/// How much of a value is shown, in characters.
const SHOWN: usize = 60;

/// The beginning of `text`, with what could forge a line or steer a terminal spelled as an escape.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    let mut characters = text.chars();
    for character in characters.by_ref().take(SHOWN) {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            character => shown.extend(character.escape_debug()),
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// As [`shown`], for what may be no text.
pub(super) fn shown_bytes(bytes: &[u8]) -> String {
    // One character more than is shown, of four bytes at most, so that what was left out is marked.
    shown(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * (SHOWN + 1))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_harmless() {
        assert_eq!(shown("\"a\\u0000\" é"), "\"a\\u0000\" é");
        assert_eq!(shown("a\n\u{1b}[2J\u{202e}\u{0}"), r"a\n\u{1b}[2J\u{202e}\0");
        assert_eq!(shown(&"x".repeat(60)), "x".repeat(60));
        assert_eq!(shown(&"é".repeat(61)), format!("{}…", "é".repeat(60)));
        assert_eq!(shown_bytes(&[b'x'; 900_000]), format!("{}…", "x".repeat(60)));
        assert_eq!(shown_bytes(b"\xffa"), "\u{fffd}a");
    }
}
