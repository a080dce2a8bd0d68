//! Notes in the files: a sequence of changes, cut into as many sections as needed.

use std::sync::Arc;

use super::bytes::Bytes;
use super::frame::Malformed;
use super::segment::COUNTS;
use crate::journal::{Noted, Parked, Record, SourcePosition};

/// The section goes on with what the batch before began.
const HAS_PREVIOUS: u8 = 1;
/// The next batch goes on with it.
const HAS_NEXT: u8 = 2;

const POSITION: u8 = 1;
const PARKED: u8 = 2;
const UNPARKED: u8 = 3;
const ANEW: u8 = 4;

/// Appends `record` to `into`.
pub(super) fn encode(record: &Record, into: &mut Vec<u8>) {
    match record {
        Record::Position { source, at, anew } => put_position(if *anew { ANEW } else { POSITION }, source, *at, into),
        Record::Parked(Parked { number, payload }) => put_parked(*number, payload, into),
        Record::Unparked(number) => {
            into.push(UNPARKED);
            into.extend_from_slice(&number.to_le_bytes());
        }
    }
}

fn put_position(kind: u8, source: &str, at: SourcePosition, into: &mut Vec<u8>) {
    into.push(kind);
    // A name was checked when it came.
    into.extend_from_slice(&(source.len() as u16).to_le_bytes());
    into.extend_from_slice(source.as_bytes());
    into.extend_from_slice(&at.next.to_le_bytes());
    into.extend_from_slice(&at.fingerprint.to_le_bytes());
}

fn put_parked(number: u64, payload: &[u8], into: &mut Vec<u8>) {
    into.push(PARKED);
    into.extend_from_slice(&number.to_le_bytes());
    into.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    into.extend_from_slice(payload);
}

/// All that is noted, as a checkpoint has it.
pub(super) fn encode_all(noted: &Noted) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (source, at) in &noted.sources {
        put_position(POSITION, source, *at, &mut bytes);
    }
    for (number, payload) in &noted.parked {
        put_parked(*number, payload, &mut bytes);
    }
    bytes
}

/// What a checkpoint's `bytes` say is noted, when the highest number of a parked record was `last`.
pub(super) fn decode_all(bytes: &[u8], last: u64) -> Result<Noted, Malformed> {
    if last > *COUNTS.end() {
        return Err("an impossible number");
    }
    let mut noted = Noted::default();
    let mut bytes = Bytes(bytes);
    while !bytes.0.is_empty() {
        match record(&mut bytes).ok_or("a malformed note")? {
            Record::Parked(Parked { number, payload }) => {
                if number > last || noted.parked.last_key_value().is_some_and(|(before, _)| *before >= number) {
                    return Err("parked records out of order");
                }
                noted.put(number, payload);
            }
            Record::Unparked(_) => return Err("a record taken back"),
            // None of them can go back here.
            position => noted.apply(position)?,
        }
    }
    noted.last = last;
    Ok(noted)
}

fn record(bytes: &mut Bytes<'_>) -> Option<Record> {
    let kind = bytes.u8()?;
    Some(match kind {
        POSITION | ANEW => {
            let length = bytes.u16()?;
            let source = Arc::from(std::str::from_utf8(bytes.take(usize::from(length))?).ok()?);
            let at = SourcePosition { next: bytes.i64()?, fingerprint: bytes.i64()? };
            Record::Position { source, at, anew: kind == ANEW }
        }
        PARKED => {
            let (number, length) = (bytes.u64()?, bytes.u32()?);
            Record::Parked(Parked { number, payload: bytes.take(length as usize)?.into() })
        }
        UNPARKED => Record::Unparked(bytes.u64()?),
        _ => return None,
    })
}

/// What is left to write of some changes.
pub(super) struct Sections<'a> {
    rest: &'a [u8],
    begun: bool,
}

impl<'a> Sections<'a> {
    pub(super) fn of(changes: &'a [u8]) -> Self {
        Sections { rest: changes, begun: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How long the last section would be, if it came now.
    pub(super) fn length(&self) -> usize {
        1 + self.rest.len()
    }

    /// The next section, of at most `most` bytes or of two: its first byte, and the others.
    pub(super) fn next(&mut self, most: usize) -> (u8, &'a [u8]) {
        let (section, rest) = self.rest.split_at(self.rest.len().min(most.max(2) - 1));
        let previous = if self.begun { HAS_PREVIOUS } else { 0 };
        let next = if rest.is_empty() { 0 } else { HAS_NEXT };
        (self.rest, self.begun) = (rest, true);
        (previous | next, section)
    }
}

/// Puts together what the sections of the batches say, one after the other.
#[derive(Default)]
pub(super) struct Fold {
    pub(super) noted: Noted,
    /// The sections so far of changes that go on.
    begun: Option<Vec<u8>>,
}

impl Fold {
    pub(super) fn after(noted: Noted) -> Self {
        Fold { noted, begun: None }
    }

    /// Takes the next batch's section; empty when it has none.
    pub(super) fn take(&mut self, section: &[u8]) -> Result<(), Malformed> {
        // Incomplete sections have no effect: the process died before it wrote the last one.
        let begun = self.begun.take();
        let Some((flags, section)) = section.split_first() else { return Ok(()) };
        let continued = match (flags & HAS_PREVIOUS != 0, begun) {
            (true, None) => return Err("notes that go on what was not begun"),
            (true, begun) => begun,
            (false, _) => None,
        };
        match (flags & !(HAS_PREVIOUS | HAS_NEXT), flags & HAS_NEXT != 0, continued) {
            (0, true, continued) => {
                let mut begun = continued.unwrap_or_default();
                begun.extend_from_slice(section);
                self.begun = Some(begun);
                Ok(())
            }
            (0, false, None) => self.apply(section),
            (0, false, Some(mut changes)) => {
                changes.extend_from_slice(section);
                self.apply(&changes)
            }
            _ => Err("notes with unknown flags"),
        }
    }

    fn apply(&mut self, changes: &[u8]) -> Result<(), Malformed> {
        let mut bytes = Bytes(changes);
        while !bytes.0.is_empty() {
            self.noted.apply(record(&mut bytes).ok_or("a malformed note")?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(source: &str, next: i64) -> Record {
        Record::Position { source: source.into(), at: SourcePosition { next, fingerprint: -next }, anew: false }
    }

    fn anew(source: &str, next: i64) -> Record {
        Record::Position { source: source.into(), at: SourcePosition { next, fingerprint: -next }, anew: true }
    }

    fn parked(number: u64, payload: &[u8]) -> Record {
        Record::Parked(Parked { number, payload: payload.into() })
    }

    fn encoded(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| encode(record, &mut bytes));
        bytes
    }

    fn noted(records: &[Record]) -> Noted {
        let mut noted = Noted::default();
        records.iter().for_each(|record| noted.apply(record.clone()).expect("right"));
        noted
    }

    fn sections(bytes: &[u8], most: usize) -> Vec<Vec<u8>> {
        let mut left = Sections::of(bytes);
        let mut sections = Vec::new();
        while !left.is_empty() {
            let (flags, section) = left.next(most);
            assert!(section.len() < most);
            sections.push([&[flags], section].concat());
        }
        sections
    }

    /// D4: however the changes are cut, they read back as they were; and without the last cut, as nothing.
    #[test]
    fn changes_read_back_from_sections_of_any_length() {
        let records = [
            position("kafka/inventory-events/3", i64::MAX),
            position("é", i64::MIN + 1),
            anew("kafka/inventory-events/3", 7),
            parked(1, b""),
            parked(2, &[7; 300]),
            Record::Unparked(1),
            parked(3, b"three"),
        ];
        let bytes = encoded(&records);
        for most in 2..bytes.len() + 3 {
            let sections = sections(&bytes, most);
            let mut fold = Fold::default();
            for section in &sections {
                assert_eq!(fold.noted, Noted::default(), "not before the last of {}", sections.len());
                fold.take(section).expect("right");
            }
            assert_eq!(fold.noted, noted(&records), "in sections of {most}");
            if let [begun, .., _] = &sections[..] {
                let mut fold = Fold::default();
                fold.take(begun).expect("right");
                fold.take(&[]).expect("right");
                assert!(fold.take(sections.last().expect("one")).is_err(), "nothing to go on");
                fold.take(begun).expect("right");
                fold.take(&[&[0], &encoded(&[parked(1, b"new")])[..]].concat()).expect("right");
                assert_eq!(fold.noted, noted(&[parked(1, b"new")]), "what was begun counts for nothing");
            }
        }
    }

    /// C6: a checkpoint's section reads back, with the highest number, which nobody needs to have any more.
    #[test]
    fn a_checkpoint_keeps_all_of_it() {
        let records = [parked(1, b"1"), position("b", 2), position("a", 1), parked(2, b"2"), Record::Unparked(2)];
        let noted = noted(&records);
        assert_eq!(decode_all(&encode_all(&noted), noted.last), Ok(noted.clone()));
        assert_eq!(noted.last, 2);
        assert!(decode_all(&encode_all(&noted), 0).is_err());
        assert!(decode_all(&encode_all(&noted), u64::MAX).is_err(), "nobody comes so far");
        assert!(decode_all(&encoded(&records), 2).is_err());
    }

    /// D3: what contradicts what came before is damage, as is what cannot be read.
    #[test]
    fn contradictions_and_cuts_are_malformed() {
        let wrong = |records: &[Record]| {
            let mut fold = Fold::default();
            fold.take(&[&[0], &encoded(records)[..]].concat()).expect_err("wrong")
        };
        assert_eq!(wrong(&[position("a", 2), position("a", 1)]), "a source that goes back");
        assert!(wrong(&[position("a", 2), anew("a", 2)]).contains("does not go back"));
        assert!(wrong(&[anew("a", 2)]).contains("does not go back"));
        assert!(wrong(&[parked(2, b"")]).contains("numbered"));
        assert!(wrong(&[parked(1, b""), parked(1, b"")]).contains("numbered"));
        assert!(wrong(&[Record::Unparked(1)]).contains("not parked"));
        let whole = encoded(&[position("a", 2), parked(1, b"xyz"), Record::Unparked(1)]);
        for end in (1..whole.len()).filter(|end| ![20, 36].contains(end)) {
            let mut fold = Fold::default();
            assert!(fold.take(&[&[0], &whole[..end]].concat()).is_err(), "cut at {end}");
        }
        assert!(Fold::default().take(&[4]).is_err());
        assert!(Fold::default().take(&[0, 9]).is_err());
    }
}
