//! A dead letter as bytes, for stores that keep bytes.

use super::DeadLetter;

/// The first byte: how the others are to be read.
const VERSION: u8 = 1;

/// Encodes a letter: texts and bytes behind their length (u32), optional parts behind 0 or 1, little-endian.
pub(super) fn encode(letter: &DeadLetter) -> Vec<u8> {
    let DeadLetter { topic, partition, offset, timestamp, key, value, headers, reason } = letter;
    let mut bytes = vec![VERSION];
    put(topic.as_bytes(), &mut bytes);
    bytes.extend_from_slice(&partition.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    match timestamp {
        Some(timestamp) => {
            bytes.push(1);
            bytes.extend_from_slice(&timestamp.to_le_bytes());
        }
        None => bytes.push(0),
    }
    put_option(key.as_deref(), &mut bytes);
    put_option(value.as_deref(), &mut bytes);
    bytes.extend_from_slice(&(headers.len() as u32).to_le_bytes());
    for (name, value) in headers {
        put(name.as_bytes(), &mut bytes);
        put_option(value.as_deref(), &mut bytes);
    }
    put(reason.as_bytes(), &mut bytes);
    bytes
}

fn put(field: &[u8], bytes: &mut Vec<u8>) {
    // No broker takes a record of 4 GiB.
    bytes.extend_from_slice(&(field.len() as u32).to_le_bytes());
    bytes.extend_from_slice(field);
}

fn put_option(field: Option<&[u8]>, bytes: &mut Vec<u8>) {
    bytes.push(u8::from(field.is_some()));
    if let Some(field) = field {
        put(field, bytes);
    }
}

/// Decodes a letter; None if `bytes` are not one.
pub(super) fn decode(bytes: &[u8]) -> Option<DeadLetter> {
    let mut rest = Rest(bytes);
    if rest.array() != Some([VERSION]) {
        return None;
    }
    let topic = rest.text()?;
    let (partition, offset) = (i32::from_le_bytes(rest.array()?), i64::from_le_bytes(rest.array()?));
    let timestamp = if rest.is_some()? { Some(i64::from_le_bytes(rest.array()?)) } else { None };
    let (key, value) = (rest.option()?, rest.option()?);
    let mut headers = Vec::new();
    for _ in 0..u32::from_le_bytes(rest.array()?) {
        headers.push((rest.text()?, rest.option()?));
    }
    let reason = rest.text()?;
    let letter = DeadLetter { topic, partition, offset, timestamp, key, value, headers, reason };
    rest.0.is_empty().then_some(letter)
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = u32::from_le_bytes(self.array()?);
        let (taken, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(taken.to_vec())
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    fn is_some(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn option(&mut self) -> Option<Option<Vec<u8>>> {
        if self.is_some()? { self.bytes().map(Some) } else { Some(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            topic: "inventory-events".to_owned(),
            partition: 3,
            offset: i64::MAX,
            timestamp: Some(-1),
            key: None,
            value: Some(b"{\xff".to_vec()),
            headers: vec![
                ("ce_id".to_owned(), Some(b"x".to_vec())),
                ("ce_id".to_owned(), None),
                (String::new(), Some(vec![])),
            ],
            reason: "quantity_change is missing".to_owned(),
        }
    }

    /// D6: a letter comes back untouched.
    #[test]
    fn letters_read_back() {
        let empty = DeadLetter { timestamp: None, key: Some(vec![]), value: None, headers: vec![], ..letter() };
        for letter in [letter(), empty] {
            assert_eq!(decode(&encode(&letter)), Some(letter));
        }
    }

    #[test]
    fn what_is_no_letter_is_none() {
        let bytes = encode(&letter());
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(decode(&[&[2], &bytes[1..]].concat()), None);
    }
}
