//! One run of the id index: a file of ids, sorted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::bytes::{Bytes, Read as Parsed, Wrong, hex, zeros};
use super::problem::Problem;

const PAGE: usize = 4096;
const RECORD: usize = 36;
const PER_PAGE: u64 = 113;
/// Members of an entry.
const MOST_MEMBERS: u32 = 1024;

/// Where the index says that an id was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) time: u64,
    pub(super) member: u32,
}

/// A run, open.
pub(super) struct Run {
    pub(super) path: PathBuf,
    pub(super) first: u64,
    pub(super) last: u64,
    ledger: [u8; 16],
    /// The sequence with which its index begins, or 0 if unknown.
    pub(super) begin: u64,
    records: u64,
    file: File,
    /// The first key of each page.
    fences: Vec<[u8; 16]>,
    /// The filter, in blocks of 64 bytes.
    filter: Vec<u8>,
}

impl Run {
    /// How many ids it holds.
    pub(super) fn count(&self) -> u64 {
        self.records
    }

    /// What an index that is in use keeps of it in memory, in bytes: the filter, and the upper 32 bits of each fence.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.filter.len() as u64 + self.fences.len() as u64 * 4
    }

    /// The first and the last sequence in a file's name.
    pub(super) fn span(name: &str) -> Option<(u64, u64)> {
        let (first, last) = name.strip_suffix(".run")?.split_once('-')?;
        let digits = |text: &str| text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(first) && digits(last)).then_some(())?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (0 < first && first <= last && last < u64::MAX).then_some((first, last))
    }

    /// Opens the run that is named so, and reads all but its records.
    pub(super) fn open(folder: &Path, first: u64, last: u64) -> Result<Run, Problem> {
        let path = folder.join(format!("{first:020}-{last:020}.run"));
        let unreadable = |error| Problem::unreadable(&path, &error);
        let mut file = File::open(&path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut header = [0; PAGE];
        if length < PAGE as u64 {
            return Err(Problem::new(&path, "it is shorter than a header"));
        }
        file.read_exact(&mut header).map_err(unreadable)?;
        let wrong = |wrong: Wrong| Problem::at(&path, wrong.at, wrong.what);
        let Header { ledger, span, records, blocks, checksum, begin: index_begin } =
            Header::read(&header).map_err(wrong)?;
        if span != (first, last) {
            return Err(Problem::at(&path, 32, format!("sequences {} to {} in its header", span.0, span.1)));
        }
        let pages = records.div_ceil(PER_PAGE);
        let begin = u128::from(pages + 1) * PAGE as u128;
        let expected = begin + u128::from(pages) * 16 + u128::from(blocks) * 64;
        if u128::from(length) != expected {
            return Err(Problem::new(&path, format!("{length} bytes; its header says {expected}")));
        }
        // Both are less than the file's length.
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(begin as u64)).map_err(unreadable)?;
        file.read_to_end(&mut tail).map_err(unreadable)?;
        if crc32c::crc32c(&tail) != checksum {
            return Err(Problem::at(&path, begin as usize, "the checksum of fences and filter is wrong"));
        }
        let filter = tail.split_off(pages as usize * 16);
        let fences = tail.as_chunks().0.to_vec();
        Ok(Run { path, first, last, ledger, begin: index_begin, records, file, fences, filter })
    }

    /// Fails if a journal of `ledger` (None: it has not begun) that ends with sequence `end` lacks entries that this
    /// run has ids of.
    pub(super) fn is_within(&self, ledger: Option<&[u8; 16]>, end: u64) -> Result<(), Problem> {
        if self.last <= end || ledger.is_some_and(|ledger| *ledger != self.ledger) {
            return Ok(());
        }
        let last = self.last;
        let what =
            format!("it has the ids of entries up to sequence {last}; the journal ends at {end}: a tail is missing");
        Err(Problem::at(&self.path, 40, what))
    }

    /// Goes through all of it; it should be of `ledger`.
    pub(super) fn check(&self, ledger: &[u8; 16]) -> Result<(), Problem> {
        if self.ledger != *ledger {
            let (ledger, expected) = (hex(&self.ledger), hex(ledger));
            let what = format!("the id index is of ledger {ledger}, the journal of {expected}");
            return Err(Problem::at(&self.path, 16, what));
        }
        let mut before = None;
        for number in 0..self.fences.len() {
            let page = self.page(number)?;
            for (record, place) in self.records(number, &page)?.iter().zip(0..) {
                let wrong = |what: String| Err(self.problem(number, place * RECORD, what));
                let (key, place) = read(record).map_err(|error| self.problem(number, place * RECORD, error.what))?;
                if before.is_some_and(|before| before >= key) {
                    return wrong("a key that is not after the one before".to_owned());
                }
                if !(self.first..=self.last).contains(&place.sequence) {
                    return wrong(format!("sequence {} in the run of {} to {}", place.sequence, self.first, self.last));
                }
                if place.member >= MOST_MEMBERS {
                    return wrong(format!("member {}", place.member));
                }
                if !self.may_hold(&key) {
                    return wrong("a key that the filter does not know".to_owned());
                }
                before = Some(key);
            }
            if self.records(number, &page)?.first().is_none_or(|record| record[..16] != self.fences[number]) {
                return Err(self.problem(number, 0, "its fence is not its first key".to_owned()));
            }
        }
        Ok(())
    }

    /// The place that the run has for an id, if any.
    pub(super) fn get(&self, key: &[u8; 16]) -> Result<Option<Place>, Problem> {
        if !self.may_hold(key) {
            return Ok(None);
        }
        let after = self.fences.partition_point(|fence| fence <= key);
        let Some(number) = after.checked_sub(1) else { return Ok(None) };
        let page = self.page(number)?;
        let record = self.records(number, &page)?.iter().find(|record| record[..16] == key[..]);
        let read = |record| read(record).map_err(|error| self.problem(number, error.at, error.what));
        Ok(record.map(read).transpose()?.map(|(_, place)| place))
    }

    fn page(&self, number: usize) -> Result<[u8; PAGE], Problem> {
        let mut page = [0; PAGE];
        let at = (number as u64 + 1) * PAGE as u64;
        self.file.read_exact_at(&mut page, at).map_err(|error| Problem::unreadable(&self.path, &error))?;
        Ok(page)
    }

    /// The records of page `number`.
    fn records<'a>(&self, number: usize, page: &'a [u8; PAGE]) -> Result<&'a [[u8; RECORD]], Problem> {
        let in_page = (self.records - number as u64 * PER_PAGE).min(PER_PAGE) as usize;
        let mut bytes = Bytes::new(page);
        let mut tail = || {
            let records = bytes.take(PER_PAGE as usize * RECORD)?;
            let says = [bytes.u64()?, bytes.u64()?, bytes.u64()?];
            if bytes.u32()? != crc32c::crc32c(&page[..PAGE - 4]) {
                return Err(bytes.wrong("the checksum of the page is wrong"));
            }
            if says != [number as u64, self.first, self.last] {
                let [number, first, last] = says;
                return Err(bytes.wrong(format!("it says it is page {number} of sequences {first} to {last}")));
            }
            if !zeros(&records[in_page * RECORD..]) {
                return Err(bytes.wrong("there is more than zeros after the last record"));
            }
            Ok(records)
        };
        let records = tail().map_err(|wrong: Wrong| self.problem(number, 0, wrong.what))?;
        Ok(&records.as_chunks().0[..in_page])
    }

    fn may_hold(&self, key: &[u8; 16]) -> bool {
        let key = u128::from_be_bytes(*key);
        let (upper, lower) = (key >> 64, key as u64);
        let block = (upper * (self.filter.len() as u128 / 64)) >> 64;
        let Some(block) = self.filter.get(block as usize * 64..).and_then(|rest| rest.get(..64)) else { return false };
        [0, 9, 18, 27, 36, 45].into_iter().all(|shift| {
            let bit = (lower >> shift) & 0x1ff;
            // Words are little-endian: bit b of a block is bit b % 8 of its byte b / 8.
            block[(bit / 8) as usize] & (1 << (bit % 8)) != 0
        })
    }

    fn problem(&self, number: usize, at: usize, what: String) -> Problem {
        Problem::at(&self.path, (number + 1) * PAGE + at, what)
    }
}

fn read(record: &[u8; RECORD]) -> Parsed<([u8; 16], Place)> {
    let mut bytes = Bytes::new(record);
    let key = bytes.array()?;
    Ok((key, Place { sequence: bytes.u64()?, time: bytes.u64()?, member: bytes.u32()? }))
}

struct Header {
    ledger: [u8; 16],
    span: (u64, u64),
    records: u64,
    blocks: u64,
    checksum: u32,
    begin: u64,
}

impl Header {
    fn read(page: &[u8; PAGE]) -> Parsed<Header> {
        let mut bytes = Bytes::new(page);
        if bytes.array()? != *b"EQPIDRN1" {
            return Err(Bytes::new(page).wrong("it does not begin like a run of ids"));
        }
        let checked = bytes;
        if bytes.u32()? != crc32c::crc32c(&page[12..128]) {
            return Err(checked.wrong("the checksum of its header is wrong"));
        }
        let version = bytes;
        if bytes.u32()? != 1 {
            return Err(version.wrong("it has another format version"));
        }
        let header = Header {
            ledger: bytes.array()?,
            span: (bytes.u64()?, bytes.u64()?),
            records: bytes.u64()?,
            blocks: bytes.u64()?,
            checksum: bytes.u32()?,
            begin: bytes.u64()?,
        };
        match zeros(&page[bytes.at()..]) {
            true => Ok(header),
            false => Err(bytes.wrong("there is more than zeros after its header")),
        }
    }
}
