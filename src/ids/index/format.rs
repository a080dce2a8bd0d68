//! How a run lies in its file: names, header, pages of records.

use crate::account::TransactionId;
use crate::format::Format;

use super::{IdRecord, Indexed, Key};

pub(super) const MAGIC: [u8; 8] = *b"EQPIDRN1";
pub(super) const VERSION: u32 = 1;
pub(super) const FORMAT: Format = Format { kind: *b"EQPIDRN", version: VERSION };

/// What of the header is in use, and under its checksum.
const HEADER: usize = 128;
pub(super) const PAGE: usize = 4096;
pub(super) const RECORD: usize = 36;
pub(super) const PER_PAGE: usize = 113;
/// Where the records of a page end, and what says which page it is begins.
const PAGE_TAIL: usize = PER_PAGE * RECORD;
const PAGE_CHECKSUM: usize = PAGE - 4;
pub(super) const FENCE: usize = 16;
pub(super) const BLOCK: usize = 64;

/// The entries whose ids a run holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) fn name(self) -> String {
        format!("{:020}-{:020}.run", self.first, self.last)
    }

    /// Until it is complete.
    pub(super) fn unfinished_name(self) -> String {
        format!("{:020}-{:020}.tmp", self.first, self.last)
    }

    pub(super) fn of_name(name: &str) -> Option<Span> {
        let (first, last) = name.strip_suffix(".run")?.split_once('-')?;
        let number = |digits: &str| {
            let strict = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
            strict.then(|| digits.parse().ok()).flatten()
        };
        let span = Span { first: number(first)?, last: number(last)? };
        (1 <= span.first && span.first <= span.last && span.last < u64::MAX).then_some(span)
    }
}

/// Makes keys of a ledger's ids.
pub(super) struct Keys([u8; 32]);

impl Keys {
    pub(super) fn new(ledger: &[u8; 16]) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(ledger);
        key[16..].copy_from_slice(ledger);
        Keys(key)
    }

    pub(super) fn key(&self, id: &TransactionId) -> Key {
        let mut first = [0; 16];
        first.copy_from_slice(&blake3::keyed_hash(&self.0, id.as_str().as_bytes()).as_bytes()[..16]);
        Key(u128::from_be_bytes(first))
    }
}

impl IdRecord {
    pub(super) fn bytes(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..16].copy_from_slice(&self.key.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.indexed.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.indexed.time.to_le_bytes());
        bytes[32..].copy_from_slice(&self.indexed.member.to_le_bytes());
        bytes
    }

    pub(super) fn read(bytes: &[u8; RECORD]) -> IdRecord {
        let indexed = Indexed { sequence: u64_at(bytes, 16), time: u64_at(bytes, 24), member: u32_at(bytes, 32) };
        IdRecord { key: Key(u128::from_be_bytes(array_at(bytes, 0))), indexed }
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// What a run says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) ledger: [u8; 16],
    pub(super) span: Span,
    pub(super) records: u64,
    /// Of the filter.
    pub(super) blocks: u64,
    /// Of fences and filter.
    pub(super) checksum: u32,
    /// Where the index begins that it is part of, or 0.
    pub(super) begin: u64,
}

impl Header {
    /// The first page of the file.
    pub(super) fn page(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(&MAGIC);
        page[12..16].copy_from_slice(&VERSION.to_le_bytes());
        page[16..32].copy_from_slice(&self.ledger);
        page[32..40].copy_from_slice(&self.span.first.to_le_bytes());
        page[40..48].copy_from_slice(&self.span.last.to_le_bytes());
        page[48..56].copy_from_slice(&self.records.to_le_bytes());
        page[56..64].copy_from_slice(&self.blocks.to_le_bytes());
        page[64..68].copy_from_slice(&self.checksum.to_le_bytes());
        page[68..76].copy_from_slice(&self.begin.to_le_bytes());
        let checksum = crc32c::crc32c(&page[12..HEADER]);
        page[8..12].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    pub(super) fn read(page: &[u8; PAGE]) -> Result<Header, &'static str> {
        if page[..8] != MAGIC {
            return Err("it does not begin like a run of ids");
        }
        if u32_at(page, 8) != crc32c::crc32c(&page[12..HEADER]) {
            return Err("its header's checksum is wrong");
        }
        if u32_at(page, 12) != VERSION {
            return Err("it has another format version");
        }
        Ok(Header {
            ledger: array_at(page, 16),
            span: Span { first: u64_at(page, 32), last: u64_at(page, 40) },
            records: u64_at(page, 48),
            blocks: u64_at(page, 56),
            checksum: u32_at(page, 64),
            begin: u64_at(page, 68),
        })
    }

    /// Pages of records.
    pub(super) fn pages(&self) -> u64 {
        self.records.div_ceil(PER_PAGE as u64)
    }

    /// Where the fences begin, and how long they and the filter are; `None` past what 64 bits count.
    pub(super) fn tail(&self) -> Option<(u64, u64)> {
        let begin = self.pages().checked_add(1)?.checked_mul(PAGE as u64)?;
        let fences = self.pages().checked_mul(FENCE as u64)?;
        Some((begin, fences.checked_add(self.blocks.checked_mul(BLOCK as u64)?)?))
    }

    /// How many records page `number` has, from 0.
    pub(super) fn records_in(&self, number: u64) -> usize {
        self.records.saturating_sub(number * PER_PAGE as u64).min(PER_PAGE as u64) as usize
    }
}

/// Completes the page that begins with records: says which page of which run it is.
pub(super) fn seal(page: &mut [u8], number: u64, span: Span) {
    page[PAGE_TAIL..PAGE_TAIL + 8].copy_from_slice(&number.to_le_bytes());
    page[PAGE_TAIL + 8..PAGE_TAIL + 16].copy_from_slice(&span.first.to_le_bytes());
    page[PAGE_TAIL + 16..PAGE_CHECKSUM].copy_from_slice(&span.last.to_le_bytes());
    let checksum = crc32c::crc32c(&page[..PAGE_CHECKSUM]);
    page[PAGE_CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
}

/// The records of a page, if it is page `number` of the run with `header`.
pub(super) fn records<'a>(page: &'a [u8], number: u64, header: &Header) -> Result<&'a [[u8; RECORD]], &'static str> {
    if u32_at(page, PAGE_CHECKSUM) != crc32c::crc32c(&page[..PAGE_CHECKSUM]) {
        return Err("a page's checksum is wrong");
    }
    let says = [PAGE_TAIL, PAGE_TAIL + 8, PAGE_TAIL + 16].map(|at| u64_at(page, at));
    if says != [number, header.span.first, header.span.last] {
        return Err("a page is not where it belongs");
    }
    let (records, _) = page[..PAGE_TAIL].as_chunks();
    Ok(&records[..header.records_in(number)])
}
