//! The event as JSON: `{"event_id": "e", "product_id": "p", "quantity_change": -5}`.
//!
//! Read so that no two readers can understand it differently: a field that counts appears once, an id is text, and a
//! quantity is a number whose value is exactly an integer (`1.0` and `1e3` are), whatever its digits would become as a
//! floating-point number. Other fields are skipped, however deep they are.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::decode::Fields;
use super::malformed::{Malformed, shown};
use crate::{AccountId, TransactionId};

const FIELDS: [&str; 3] = ["event_id", "product_id", "quantity_change"];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The value of a record, or of the data in an envelope, as an object's text.
pub(super) fn text(value: &[u8]) -> Result<&str, Malformed> {
    if value.starts_with(BYTE_ORDER_MARK) {
        return Err(Malformed::ByteOrderMark);
    }
    let text = str::from_utf8(value).map_err(|error| Malformed::NotUtf8 { position: error.valid_up_to() })?;
    if text.bytes().all(is_space) { Err(Malformed::Empty) } else { Ok(text) }
}

/// What the object says.
pub(super) fn fields(place: &'static str, object: &str) -> Result<Fields, Malformed> {
    let [event_id, product_id, quantity_change] = pick(place, object, FIELDS)?;
    let id = event_id.map(|raw| {
        let text = string("event_id", raw)?;
        TransactionId::parse("event_id", &text).map_err(|invalid| Malformed::Id { invalid, got: shown(raw) })
    });
    let raw = product_id.ok_or(Malformed::Missing { field: "product_id" });
    let product = raw.and_then(|raw| {
        let text = string("product_id", raw)?;
        AccountId::parse("product_id", &text).map_err(|invalid| Malformed::Id { invalid, got: shown(raw) })
    });
    let raw = quantity_change.ok_or(Malformed::Missing { field: "quantity_change" });
    let change = raw.and_then(|raw| integer(raw).ok_or_else(|| Malformed::NotAnInteger { got: shown(raw) }));
    // In the order of the fields.
    Ok(Fields { id: id.transpose()?, product: product?, quantity_change: change? })
}

/// The fields of the object `text` that have these names, as they are written.
pub(super) fn pick<'a, const N: usize>(
    place: &'static str,
    text: &'a str,
    names: [&'static str; N],
) -> Result<[Option<&'a str>; N], Malformed> {
    let first = text.bytes().find(|byte| !is_space(*byte));
    // The parser would quote what was there in full.
    if first.is_some_and(|first| first != b'{') {
        return Err(Malformed::NotAnObject { place, got: shown(text) });
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let picked = Pick(&names).deserialize(&mut parser);
    let picked = picked.and_then(|picked| parser.end().map(|()| picked));
    picked.map_err(|error| Malformed::NotJson { place, what: error.to_string() })?
}

/// The text of a field that must be one.
pub(super) fn string<'a>(field: &'static str, raw: &'a str) -> Result<Cow<'a, str>, Malformed> {
    let quoted = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    let not_text = || Malformed::NotText { field, got: shown(raw) };
    match quoted {
        None => Err(not_text()),
        Some(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
        // Half of a surrogate pair is no character.
        Some(_) => serde_json::from_str(raw).map(Cow::Owned).map_err(|_| not_text()),
    }
}

/// The integer that a JSON number is exactly, if it is one.
fn integer(raw: &str) -> Option<i64> {
    if let Ok(plain) = raw.parse() {
        return Some(plain);
    }
    let (negative, number) = match raw.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, raw),
    };
    if !number.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digit = |at: usize| whole.as_bytes().get(at).or_else(|| fraction.as_bytes().get(at - whole.len()));
    let Some(last) = (0..whole.len() + fraction.len()).rev().find(|at| digit(*at) != Some(&b'0')) else {
        return Some(0);
    };
    // How many of the digits, with zeros after them, stand before the point once the exponent has moved it. An exponent
    // that does not fit is out of range, or a fraction, either way.
    let point = exponent.parse::<i64>().ok()?.checked_add(i64::try_from(whole.len()).ok()?)?;
    let point = usize::try_from(point).ok()?;
    if last >= point {
        return None;
    }
    let mut magnitude = 0_i128;
    for at in 0..point {
        let digit = digit(at).map_or(0, |digit| i128::from(digit - b'0'));
        magnitude = magnitude * 10 + digit;
        if magnitude > -i128::from(i64::MIN) {
            return None;
        }
    }
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// What JSON calls white space.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Takes the fields with these names out of an object.
struct Pick<'n, const N: usize>(&'n [&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Pick<'_, N> {
    type Value = Result<[Option<&'de str>; N], Malformed>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Pick<'_, N> {
    type Value = Result<[Option<&'de str>; N], Malformed>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Pick(names) = self;
        let mut found = [None; N];
        let (mut twice, mut before) = (None, None);
        let after = |before: Option<&str>, error: A::Error| match before {
            Some(field) => A::Error::custom(format_args!("after {field}: {error}")),
            None => error,
        };
        while let Some(key) = map.next_key_seed(Key(names)).map_err(|error| after(before, error))? {
            before = key.map(|at| names[at]);
            let Some(at) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = names[at];
            let raw: Result<&RawValue, _> = map.next_value();
            let raw = raw.map_err(|error| A::Error::custom(format_args!("{field}: {error}")))?;
            if found[at].replace(raw.get()).is_some() {
                twice = twice.or(Some(field));
            }
        }
        Ok(match twice {
            Some(field) => Err(Malformed::Twice { field }),
            None => Ok(found),
        })
    }
}

/// Which of the names a key is; keys are compared as they read, not as they are written.
struct Key<'n, const N: usize>(&'n [&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Key<'_, N> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<const N: usize> Visitor<'_> for Key<'_, N> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case A16: a quantity is exactly the integer that was written, or none.
    #[test]
    fn an_integer_is_exact_or_none() {
        let cases = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.0e7", Some(0)),
            ("0e99999999999999999999", Some(0)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("1E+3", Some(1000)),
            ("-5e0", Some(-5)),
            ("1.25e2", Some(125)),
            ("1200e-2", Some(12)),
            ("0.0012e4", Some(12)),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9.223372036854775807e18", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-922337203685477580800e-2", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("1.5", None),
            ("1.25e1", None),
            ("1e-1", None),
            ("1e400", None),
            ("1e19", None),
            ("1e-99999999999999999999", None),
            ("1e99999999999999999999", None),
            ("1e9223372036854775807", None),
            ("99999999999999999999", None),
            ("\"5\"", None),
            ("null", None),
            ("[1]", None),
        ];
        for (raw, expected) in cases {
            assert_eq!(integer(raw), expected, "{raw}");
        }
    }
}
