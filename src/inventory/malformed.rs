//! Why a message is no event, in words for whoever looks through the dead letters.

use thiserror::Error;

use crate::InvalidRequest;

/// Why a message is no event. The text names the field and shows what was there, shortened and without control
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A header that decides how to read the value, or which event it is, cannot be used.
    #[error("header {name} {what}")]
    Header {
        /// The header's name.
        name: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// Empty, or only white space. (A tombstone has no value at all.)
    #[error("the value is empty")]
    Empty,
    /// Not UTF-8, the only encoding of JSON events.
    #[error("the value is not UTF-8 from byte {position} on")]
    NotUtf8 {
        /// The first byte that is not UTF-8.
        position: usize,
    },
    /// A byte order mark, with which JSON does not begin.
    #[error("the value begins with a byte order mark")]
    ByteOrderMark,
    /// A JSON value that is not an object.
    #[error("{place} must be a JSON object, got {got}")]
    NotAnObject {
        /// Where it is: the value, or a field of an envelope.
        place: &'static str,
        /// The beginning of what was there.
        got: String,
    },
    /// Not JSON.
    #[error("{place} is not JSON: {what}")]
    NotJson {
        /// Where it is: the value, or a field of an envelope.
        place: &'static str,
        /// The parser's message, with the field in which it failed.
        what: String,
    },
    /// Not the message that the content type promises.
    #[error("the value is not an equipoise.v1.InventoryEvent: {what}")]
    NotProtobuf {
        /// The parser's message.
        what: String,
    },
    /// A field of a structured CloudEvent that cannot be used.
    #[error("{field} {what}, got {got}")]
    Envelope {
        /// The field's name.
        field: &'static str,
        /// What the field must be.
        what: &'static str,
        /// The beginning of what was there.
        got: String,
    },
    /// A field that an event needs is missing.
    #[error("{field} is missing")]
    Missing {
        /// The field's name.
        field: &'static str,
    },
    /// A field is there more than once: readers differ in which one counts.
    #[error("{field} appears twice")]
    Twice {
        /// The field's name.
        field: &'static str,
    },
    /// A field is not text.
    #[error("{field} must be text, got {got}")]
    NotText {
        /// The field's name.
        field: &'static str,
        /// The beginning of what was there.
        got: String,
    },
    /// An id that breaks a rule for ids.
    #[error("{invalid}: {got}")]
    Id {
        /// The rule, and the field's name.
        invalid: InvalidRequest,
        /// The beginning of the id.
        got: String,
    },
    /// A quantity that is not a 64-bit integer.
    #[error("quantity_change must be an integer from {} to {}, got {got}", i64::MIN, i64::MAX)]
    NotAnInteger {
        /// The beginning of what was there.
        got: String,
    },
}

/// How much of a value is shown, in characters.
const SHOWN: usize = 60;

/// The beginning of `text`; characters that could forge a line or steer a terminal are escaped.
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

/// As [`shown`], for bytes that may not be text.
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
