//! A batch: the unit in which the journal is torn or damaged.

use std::path::Path;

use super::bytes::{Bytes, Wrong, zeros};
use super::frame::Frames;
use super::problem::Problem;

pub(super) const HEADER: usize = 80;
const MAGIC: [u8; 4] = *b"EQBT";
const CLOSING: u32 = 1;

/// What is at a place where a batch may begin.
pub(super) enum Place<'a> {
    /// Zeros up to the segment's end.
    End,
    /// Not a batch, or one whose checksum does not match: torn or damaged.
    Bad(String),
    Good(Batch<'a>),
}

/// A batch whose checksum matches.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) file: &'a Path,
    pub(crate) offset: usize,
    pub(crate) number: u64,
    pub(crate) first_sequence: u64,
    pub(crate) count: u32,
    sources: u32,
    flags: u32,
    pub(crate) time: u64,
    pub(crate) hash: [u8; 32],
    hashed: &'a [u8],
    body: &'a [u8],
    padding: &'a [u8],
}

impl<'a> Batch<'a> {
    /// What is in `segment` at `offset`.
    pub(super) fn read(file: &'a Path, segment: &'a [u8], offset: usize, salt: &[u8; 16]) -> Place<'a> {
        let rest = segment.get(offset..).unwrap_or_default();
        if rest.iter().take(MAGIC.len()).all(|byte| *byte == 0) {
            return match zeros(rest) {
                true => Place::End,
                false => Place::Bad("zeros where a batch or the end of the segment should be".to_owned()),
            };
        }
        match Self::parse(file, rest, offset, salt) {
            Ok(batch) => Place::Good(batch),
            Err(wrong) => Place::Bad(wrong.what),
        }
    }

    fn parse(file: &'a Path, rest: &'a [u8], offset: usize, salt: &[u8; 16]) -> Result<Self, Wrong> {
        let mut bytes = Bytes::new(rest);
        if bytes.array()? != MAGIC {
            return Err(bytes.wrong("neither a batch nor the end of the segment"));
        }
        let checksum = bytes.u32()?;
        let (number, first_sequence, count) = (bytes.u64()?, bytes.u64()?, bytes.u32()?);
        let (length, sources, flags, time) = (bytes.u32()?, bytes.u32()?, bytes.u32()?, bytes.u64()?);
        let hash = bytes.array()?;
        let what = || bytes.wrong("a batch that reaches past the end of the segment");
        let body = bytes.clone().take(length as usize).map_err(|_| what())?;
        let checked = rest.get(8..HEADER).ok_or_else(what)?;
        let expected =
            [salt, checked, body].into_iter().fold(0, |sum: u32, part: &[u8]| crc32c::crc32c_append(sum, part));
        if checksum != expected {
            return Err(bytes.wrong("the checksum of the batch does not match"));
        }
        let end = HEADER + body.len();
        let padding = rest.get(end..end.next_multiple_of(8)).unwrap_or_default();
        let hashed = rest.get(8..48).ok_or_else(what)?;
        Ok(Batch { file, offset, number, first_sequence, count, sources, flags, time, hash, hashed, body, padding })
    }

    /// Where the next batch begins.
    pub(super) fn end(&self) -> usize {
        self.offset + self.bytes()
    }

    /// With header and padding.
    pub(crate) fn bytes(&self) -> usize {
        (HEADER + self.body.len()).next_multiple_of(8)
    }

    /// Whether it marks a clean stop.
    pub(crate) fn closing(&self) -> bool {
        self.flags & CLOSING != 0
    }

    /// What a batch must keep beside its place in the chain.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let at = |at: usize, what: String| Err(self.problem(at, self.first_sequence, what));
        if self.flags & !CLOSING != 0 {
            return at(36, format!("unknown flags {:#x}", self.flags));
        }
        if self.sources as usize > self.body.len() {
            return at(32, format!("sources of {} bytes in a body of {}", self.sources, self.body.len()));
        }
        if self.closing() && (self.count != 0 || !self.body.is_empty()) {
            return at(24, "a closing batch with entries".to_owned());
        }
        if !self.closing() && self.count == 0 && self.sources == 0 {
            return at(24, "a batch without entries that is no closing one".to_owned());
        }
        Ok(())
    }

    /// Where its padding is not zero, which the checksum does not cover; else where the next batch begins.
    pub(super) fn clean_end(&self) -> usize {
        let spoiled = self.padding.iter().position(|byte| *byte != 0);
        spoiled.map_or(self.end(), |place| self.offset + HEADER + self.body.len() + place)
    }

    /// The batch's hash, if `before` is the hash of the batch before.
    pub(super) fn chained(&self, before: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(before).update(self.hashed).update(self.body);
        *hasher.finalize().as_bytes()
    }

    /// What it says about sources; empty when it says nothing.
    pub(crate) fn section(&self) -> &'a [u8] {
        self.body.get(..self.sources as usize).unwrap_or_default()
    }

    /// Its entries.
    pub(crate) fn frames(&'a self) -> Frames<'a> {
        Frames::new(self)
    }

    /// The frames' bytes, and where in the batch they begin.
    pub(super) fn frame_bytes(&self) -> (&'a [u8], usize) {
        let sources = (self.sources as usize).min(self.body.len());
        (&self.body[sources..], HEADER + sources)
    }

    /// An error `at` bytes after the batch's beginning.
    pub(super) fn problem(&self, at: usize, sequence: u64, what: impl Into<String>) -> Problem {
        Problem::at(self.file, self.offset + at, what).in_batch(self.number, sequence)
    }
}
