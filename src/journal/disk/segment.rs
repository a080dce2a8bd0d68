//! Segments: the files that the journal is made of.

use parking_lot::Mutex;

use super::batch::{self, Hash, Salt};
use super::bytes::Bytes;
use super::files::JOURNAL;
use super::tail::Next;
use crate::format::Format;

/// Batches begin here.
pub(super) const HEADER: u64 = 4096;
/// How long a segment may be, in bytes.
pub(crate) const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;

/// The numbers of segments, batches and entries; nobody reaches the end.
pub(super) const COUNTS: std::ops::RangeInclusive<u64> = 1..=1 << 62;

const MAGIC: [u8; 8] = *b"EQPSEGM1";
const VERSION: u32 = 1;
pub(super) const FORMAT: Format = Format { kind: *b"EQPSEGM", version: VERSION };
const NEWER: &str = "a segment of another format than this program reads: a newer version wrote it";
/// How much of the header is checked.
const CHECKED: usize = 128;
pub(super) const NUMBER_AT: u64 = 16;
const BATCH_AT: u64 = 24;
pub(super) const FIRST_AT: u64 = 32;
const LEDGER_AT: u64 = 40;
const BEFORE_AT: u64 = 72;
const LENGTH_AT: u64 = 104;
/// For every so many bytes of a segment, the offset of about one batch is remembered.
const REMEMBERED_EVERY: u64 = 32 * 1024;

/// What tells one ledger's files from another's.
pub(crate) type LedgerId = [u8; 16];

/// What is wrong in a segment's header or a batch's, and how far behind its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) at: u64,
    pub(super) what: &'static str,
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    /// The number of its first batch.
    pub(super) batch: u64,
    /// The sequence of its first entry.
    pub(super) first: u64,
    pub(super) ledger: LedgerId,
    pub(super) salt: Salt,
    /// The hash of the batch before.
    pub(super) before: Hash,
    /// How long the file is, in bytes.
    pub(super) length: u64,
}

impl Header {
    /// The whole header, as it is written.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut checked = Vec::with_capacity(HEADER as usize);
        checked.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.number, self.batch, self.first] {
            checked.extend_from_slice(&number.to_le_bytes());
        }
        checked.extend_from_slice(&self.ledger);
        checked.extend_from_slice(&self.salt);
        checked.extend_from_slice(&self.before);
        checked.extend_from_slice(&self.length.to_le_bytes());
        checked.resize(CHECKED - 12, 0);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&checked).to_le_bytes());
        bytes.extend_from_slice(&checked);
        bytes.resize(HEADER as usize, 0);
        bytes
    }

    /// The header at the start of a segment's `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Flaw> {
        const NONE: Flaw = Flaw { at: 0, what: "a segment without a whole header" };
        let flaw = |at, what| Err(Flaw { at, what });
        let checked = bytes.get(..CHECKED).ok_or(NONE)?;
        let mut header = Bytes(checked);
        match header.array() {
            Some(MAGIC) => {}
            Some([kind @ .., _]) if kind == MAGIC[..7] => return flaw(0, NEWER),
            _ => return flaw(0, "a segment that does not begin like one"),
        }
        if header.u32() != Some(crc32c::crc32c(&checked[12..])) {
            return flaw(8, "a segment's header whose checksum is wrong");
        }
        match header.u32() {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return flaw(12, NEWER),
            _ => return flaw(12, "a segment of a format version that there never was"),
        }
        let read = |mut header: Bytes<'_>| {
            Some(Header {
                number: header.u64()?,
                batch: header.u64()?,
                first: header.u64()?,
                ledger: header.array()?,
                salt: header.array()?,
                before: header.array()?,
                length: header.u64()?,
            })
        };
        let header = read(header).ok_or(NONE)?;
        if !SEGMENT_BYTES.contains(&header.length) || !header.length.is_multiple_of(batch::ALIGNMENT as u64) {
            return flaw(LENGTH_AT, "a segment of an impossible length");
        }
        let counts = [(NUMBER_AT, header.number), (BATCH_AT, header.batch), (FIRST_AT, header.first)];
        match counts.iter().find(|(_, count)| !COUNTS.contains(count)) {
            Some((at, _)) => flaw(*at, "a segment of an impossible number"),
            None => Ok(header),
        }
    }

    /// Fails unless this may be the segment after the one with header `before`, as far as their headers tell.
    pub(super) fn follow(&self, before: &Header) -> Result<(), Flaw> {
        let flaws = [
            (LEDGER_AT, self.ledger == before.ledger),
            (NUMBER_AT, self.number == before.number + 1),
            (BATCH_AT, self.batch >= before.batch),
            (FIRST_AT, self.first >= before.first),
        ];
        first(&flaws, "a segment that does not continue the one before")
    }

    /// Fails unless this continues what was read of `ledger`.
    pub(super) fn go_on(&self, ledger: &LedgerId, next: &Next) -> Result<(), Flaw> {
        let flaws = [
            (LEDGER_AT, self.ledger == *ledger),
            (BATCH_AT, self.batch == next.batch),
            (FIRST_AT, self.first == next.sequence),
            (BEFORE_AT, self.before == next.before),
        ];
        first(&flaws, "a segment that does not continue the one before: batches are missing")
    }
}

/// Fails with the first place that is not as it should be.
fn first(places: &[(u64, bool)], what: &'static str) -> Result<(), Flaw> {
    places.iter().find(|(_, good)| !good).map_or(Ok(()), |(at, _)| Err(Flaw { at: *at, what }))
}

/// The name of segment `number`.
pub(super) fn name(number: u64) -> String {
    format!("{JOURNAL}/{number:010}.segment")
}

/// The number of the segment called `file` within its folder.
pub(super) fn number(file: &str) -> Option<u64> {
    let number = file.strip_suffix(".segment")?.parse().ok().filter(|number| COUNTS.contains(number))?;
    // Only one spelling of a number is a segment's name.
    (name(number).strip_prefix(JOURNAL)?.strip_prefix('/')? == file).then_some(number)
}

/// A segment that can be read from: where in it some sequences are.
pub(super) struct Segment {
    pub(super) header: Header,
    /// Ascending: a batch's first sequence, and its offset.
    offsets: Mutex<Vec<(u64, u64)>>,
}

impl Segment {
    pub(super) fn new(header: Header) -> Self {
        Segment { header, offsets: Mutex::new(Vec::new()) }
    }

    /// Remembers that the batch with first sequence `first` is at `offset`, if no near one is remembered.
    pub(super) fn remember_offset(&self, first: u64, offset: u64) {
        let mut offsets = self.offsets.lock();
        let after = offsets.last().map_or((self.header.first, HEADER), |last| *last);
        if first > after.0 && offset >= after.1 + REMEMBERED_EVERY {
            offsets.push((first, offset));
        }
    }

    /// Where to look for `sequence`: the offset of a batch that begins at or before it.
    pub(super) fn offset_before(&self, sequence: u64) -> u64 {
        let offsets = self.offsets.lock();
        let after = offsets.partition_point(|(first, _)| *first <= sequence);
        after.checked_sub(1).map_or(HEADER, |last| offsets[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { number: 7, batch: 100, first: 5_000, ledger: [3; 16], salt: [4; 16], before: [5; 32], length: 1 << 20 }
    }

    #[test]
    fn a_header_reads_back_and_no_flipped_bit_passes() {
        let bytes = header().bytes();
        assert_eq!(bytes.len() as u64, HEADER);
        assert_eq!(Header::read(&bytes), Ok(header()));
        for bit in 0..CHECKED * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&flipped).is_err(), "bit {bit}");
        }
        assert!(Header::read(&bytes[..100]).is_err());
    }

    /// E6: only what is newer is said to be newer.
    #[test]
    fn a_version_that_never_was_is_no_newer_one() {
        let of_version = |version: u32| {
            let mut bytes = header().bytes();
            bytes[12..16].copy_from_slice(&version.to_le_bytes());
            let checksum = crc32c::crc32c(&bytes[12..CHECKED]);
            bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
            Header::read(&bytes).expect_err("another version")
        };
        assert_eq!(of_version(2), Flaw { at: 12, what: NEWER });
        assert!(!of_version(0).what.contains("newer"), "{:?}", of_version(0));
    }

    #[test]
    fn numbers_that_nobody_comes_to_are_no_header() {
        for (number, batch, first, length) in [
            (0, 1, 1, 1 << 20),
            (1, 0, 1, 1 << 20),
            (1, 1, 0, 1 << 20),
            (1, u64::MAX, 1, 1 << 20),
            (1, 1, 1, (1 << 20) + 1),
        ] {
            let odd = Header { number, batch, first, length, ..header() };
            assert!(Header::read(&odd.bytes()).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn names_read_back() {
        assert_eq!(name(12), "journal/0000000012.segment");
        assert_eq!(number("0000000012.segment"), Some(12));
        for odd in ["0000000000.segment", "12.segment", "spare", "0000000012.segment.tmp", "-000000012.segment"] {
            assert_eq!(number(odd), None, "{odd}");
        }
        for odd in ["00000000012.segment", "+000000012.segment", "18446744073709551615.segment"] {
            assert_eq!(number(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_sequence_is_found_from_the_nearest_remembered_batch() {
        let segment = Segment::new(header());
        for batch in 1..100 {
            segment.remember_offset(5_000 + batch * 10, HEADER + batch * 1_000);
        }
        assert_eq!(segment.offset_before(5_000), HEADER);
        assert_eq!(segment.offset_before(5_329), HEADER);
        assert_eq!(segment.offset_before(5_330), HEADER + 33_000);
        assert_eq!(segment.offset_before(u64::MAX), HEADER + 99_000);
    }
}
