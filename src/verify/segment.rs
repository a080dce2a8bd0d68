//! A segment: its header, and its file in memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::bytes::{self, Bytes, Wrong, zeros};
use super::chain::Link;
use super::problem::Problem;

/// The bytes before the first batch.
pub(super) const HEADER: usize = 4096;
const FIELDS: usize = 128;
const LARGEST: u64 = 1 << 30;
/// No segment, batch or entry has a higher number.
const MOST: u64 = 1 << 62;

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) first_batch: u64,
    pub(crate) first_sequence: u64,
    pub(crate) ledger: [u8; 16],
    pub(super) salt: [u8; 16],
    /// Of the batch before.
    pub(super) hash: [u8; 32],
    length: u64,
}

impl Header {
    /// Reads the header at the start of `segment`, which is the file's beginning with at least the header's fields.
    pub(super) fn read(segment: &[u8]) -> bytes::Read<Self> {
        let mut bytes = Bytes::new(segment);
        let fields = Bytes::new(segment).take(FIELDS)?;
        match &bytes.array::<8>()? {
            b"EQPSEGM1" => {}
            [b'E', b'Q', b'P', b'S', b'E', b'G', b'M', _] => {
                let what = "a segment of another format than this program reads: a newer version wrote it";
                return Err(Wrong { at: 0, what: what.to_owned() });
            }
            _ => return Err(Wrong { at: 0, what: "this is not a segment of a journal".to_owned() }),
        }
        if bytes.u32()? != crc32c::crc32c(&fields[12..]) {
            return Err(Wrong { at: 8, what: "the checksum of the segment's header does not match".to_owned() });
        }
        let version = bytes.u32()?;
        if version != 1 {
            return Err(Wrong { at: 12, what: format!("format version {version}; this program reads version 1") });
        }
        let header = Header {
            number: bytes.u64()?,
            first_batch: bytes.u64()?,
            first_sequence: bytes.u64()?,
            ledger: bytes.array()?,
            salt: bytes.array()?,
            hash: bytes.array()?,
            length: bytes.u64()?,
        };
        if header.length > LARGEST || header.length < HEADER as u64 || !header.length.is_multiple_of(8) {
            return Err(Wrong { at: 104, what: format!("a segment of {} bytes", header.length) });
        }
        for (at, number) in [(16, header.number), (24, header.first_batch), (32, header.first_sequence)] {
            if number == 0 || number > MOST {
                return Err(Wrong { at, what: format!("a segment, batch or sequence of number {number}") });
            }
        }
        Ok(header)
    }

    /// Reads the header of the file that is named for the segment `number`.
    pub(super) fn of(segment: &[u8], number: u64) -> bytes::Read<Self> {
        let header = Self::read(segment)?;
        if header.number != number {
            let what = format!("the header says segment {}, the file's name says {number}", header.number);
            return Err(Wrong { at: 16, what });
        }
        Ok(header)
    }
}

/// A segment's file in memory.
#[derive(Default)]
pub(super) struct Image {
    /// The file's bytes, as far as a segment can reach.
    pub(super) bytes: Vec<u8>,
    /// How long the file is.
    pub(super) length: u64,
}

impl Image {
    /// Reads the file `path` instead of what is there.
    pub(super) fn load(&mut self, path: &Path) -> Result<(), Problem> {
        let unreadable = |error| Problem::unreadable(path, &error);
        self.bytes.clear();
        let file = File::open(path).map_err(unreadable)?;
        self.length = file.metadata().map_err(unreadable)?.len();
        self.bytes.reserve_exact(self.length.min(LARGEST) as usize);
        file.take(LARGEST).read_to_end(&mut self.bytes).map_err(unreadable)?;
        self.length = self.length.max(self.bytes.len() as u64);
        Ok(())
    }

    /// What there is of the segment with `header`.
    pub(super) fn segment(&self, header: &Header) -> &[u8] {
        &self.bytes[..self.bytes.len().min(header.length as usize)]
    }

    /// Whether nothing was ever written to it, but perhaps a header.
    pub(super) fn is_unused(&self) -> bool {
        self.length <= LARGEST && zeros(self.bytes.get(HEADER..).unwrap_or_default())
    }

    /// What is wrong with the rest of the header's page.
    pub(super) fn check_page(&self) -> bytes::Read<()> {
        let page = &self.bytes[..self.bytes.len().min(HEADER)];
        match page.iter().skip(112).position(|byte| *byte != 0) {
            Some(at) => Err(Wrong { at: 112 + at, what: "a byte after the header's fields is not zero".to_owned() }),
            None => Ok(()),
        }
    }

    /// Where the file is too short for `header` or too long, how many bytes it is too long by, and what is wrong.
    pub(super) fn wrong_length(&self, header: &Header) -> Option<(usize, u64, String)> {
        let what = || format!("the file is {} bytes long, its header says {}", self.length, header.length);
        (self.length != header.length)
            .then(|| (self.segment(header).len(), self.length.saturating_sub(header.length), what()))
    }
}

/// Fails if the spare is no spare: a segment with content that lost its name, and continues the journal at its end.
pub(super) fn check_spare(path: &Path, last: u64, link: &Link) -> Result<(), Problem> {
    if !path.exists() {
        return Ok(());
    }
    let Ok(header) = Header::read(&fields(path)?) else { return Ok(()) };
    let Link { ledger, batch, sequence, hash } = *link;
    let follows = (header.number, header.ledger, header.hash) == (last + 1, ledger, hash);
    if !follows || (header.first_batch, header.first_sequence) != (batch, sequence) {
        return Ok(());
    }
    let mut spare = Image::default();
    spare.load(path)?;
    if spare.is_unused() {
        return Ok(());
    }
    let what = format!("it is the segment that belongs to journal/{:010}.segment, with something in it", header.number);
    Err(Problem::at(path, HEADER, what))
}

/// The header's fields alone.
pub(super) fn peek(path: &Path) -> Result<Header, Problem> {
    Header::read(&fields(path)?).map_err(|Wrong { at, what }| Problem::at(path, at, what))
}

fn fields(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut fields = Vec::with_capacity(FIELDS);
    let file = File::open(path).map_err(|error| Problem::unreadable(path, &error))?;
    file.take(FIELDS as u64).read_to_end(&mut fields).map_err(|error| Problem::unreadable(path, &error))?;
    Ok(fields)
}
