//! A segment: its header, and the whole file in memory.

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
    /// Reads the header at the start of `segment`, which is the whole file or at least the header's fields.
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
        Ok(Header {
            number: bytes.u64()?,
            first_batch: bytes.u64()?,
            first_sequence: bytes.u64()?,
            ledger: bytes.array()?,
            salt: bytes.array()?,
            hash: bytes.array()?,
            length: bytes.u64()?,
        })
    }

    /// Checks the header against the whole file `segment`, beyond its checksum.
    pub(super) fn check(&self, segment: &[u8], number: u64) -> bytes::Read<()> {
        if self.number != number {
            let what = format!("the header says segment {}, the file's name says {number}", self.number);
            return Err(Wrong { at: 16, what });
        }
        if self.length != segment.len() as u64 {
            let what = format!("the file is {} bytes long, its header says {}", segment.len(), self.length);
            return Err(Wrong { at: 104, what });
        }
        let rest = segment.get(112..HEADER).ok_or(Wrong { at: 104, what: "shorter than a header".to_owned() })?;
        match rest.iter().position(|byte| *byte != 0) {
            Some(at) => Err(Wrong { at: 112 + at, what: "a byte after the header's fields is not zero".to_owned() }),
            None => Ok(()),
        }
    }
}

/// Whether a file with a bad header may be the end of the journal nevertheless: nothing was ever written to it, or, in
/// the newest segment, no more than a header.
pub(super) fn unused(segment: &[u8], newest: bool) -> bool {
    zeros(segment) || (newest && zeros(segment.get(HEADER..).unwrap_or_default()))
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
    let mut spare = Vec::new();
    load(path, &mut spare)?;
    if unused(&spare, true) {
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

/// Reads the whole file into `buffer`.
pub(super) fn load(path: &Path, buffer: &mut Vec<u8>) -> Result<(), Problem> {
    let unreadable = |error| Problem::unreadable(path, &error);
    buffer.clear();
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > LARGEST {
        return Err(Problem::new(path, format!("a segment of {length} bytes; they have at most {LARGEST}")));
    }
    buffer.reserve_exact(length as usize);
    file.take(LARGEST).read_to_end(buffer).map_err(unreadable)?;
    Ok(())
}
