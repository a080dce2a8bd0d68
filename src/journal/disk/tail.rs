//! The end of the journal, where batches are written: one after another, each durable before the next begins.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Disk;
use super::batch::{self, Batch, Draft, Hash};
use super::files::{File, write_all};
use super::frame;
use super::section::{self, Sections};
use super::segment::{self, Flaw, Segment};
use crate::account::Balance;
use crate::journal::{JournalError, Record};
use crate::kernel::Handle;

/// A batch is closed once its body is this long, so only its last frame may exceed this; at most half a segment.
const BODY: usize = 1 << 20;

/// Where the next batch goes.
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Box<dyn File>,
    pub(super) offset: u64,
    pub(super) next: Next,
    pub(super) draft: Draft,
}

/// What the next batch continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) batch: u64,
    pub(super) sequence: u64,
    pub(super) before: Hash,
    /// The time of the newest entry, nanoseconds since the Unix epoch.
    pub(super) time: u64,
}

impl Next {
    /// Fails unless `batch` continues this.
    pub(super) fn check(&self, batch: &Batch<'_>) -> Result<(), Flaw> {
        let flaw = |at| Err(Flaw { at, what: "a batch that does not continue the one before" });
        if batch.header.number != self.batch {
            return flaw(batch::NUMBER_AT);
        }
        if batch.header.first != self.sequence {
            return flaw(batch::FIRST_AT);
        }
        if !batch.continues(&self.before) {
            return flaw(batch::HASH as u64);
        }
        Ok(())
    }

    /// What comes after the batch with `header`, which continues this.
    pub(super) fn after(&self, header: &batch::Header) -> Next {
        let time = header.time.max(self.time);
        Next { batch: self.batch + 1, sequence: header.next(), before: header.hash, time }
    }
}

impl Disk {
    /// Writes `entries` and returns when they are durable. What was noted is in the batch of the last one, or after it.
    pub(super) fn write(
        &self,
        tail: &mut Tail,
        entries: &[Handle<Balance>],
        noted: &[Record],
    ) -> Result<(), JournalError> {
        let most = BODY.min(self.spare.length as usize / 2);
        for entry in entries {
            tail.draft.push(|into| frame::encode(entry, into));
            if tail.draft.length() >= most {
                self.write_batch(tail)?;
            }
        }
        if !noted.is_empty() {
            self.write_notes(tail, noted, most)?;
        }
        if tail.draft.is_empty() { Ok(()) } else { self.write_batch(tail) }
    }

    /// Puts what was noted into the draft, and into as many batches as it takes.
    fn write_notes(&self, tail: &mut Tail, noted: &[Record], most: usize) -> Result<(), JournalError> {
        let mut changes = Vec::new();
        noted.iter().for_each(|record| section::encode(record, &mut changes));
        let mut sections = Sections::of(&changes);
        while !sections.is_empty() {
            if !tail.draft.is_empty() && tail.draft.length() + sections.length() > most {
                self.write_batch(tail)?;
            }
            tail.draft.put_notes(sections.next(most - tail.draft.length()));
        }
        Ok(())
    }

    /// Says that the journal ends here on purpose.
    pub(super) fn write_closing(&self, tail: &mut Tail) -> Result<(), JournalError> {
        debug_assert!(tail.draft.is_empty(), "everything is written");
        self.write_batch(tail)
    }

    fn write_batch(&self, tail: &mut Tail) -> Result<(), JournalError> {
        let length = tail.draft.length().next_multiple_of(batch::ALIGNMENT) as u64;
        if tail.offset + length > tail.segment.header.length {
            self.begin_segment(tail)?;
        }
        let Tail { segment, file, offset, next, draft } = tail;
        let (header, bytes) = draft.seal(next.batch, next.sequence, next.time, &next.before, &segment.header.salt);
        let failed = |error| self.failed(segment.header.number, *offset, error);
        write_all(&**file, bytes, *offset).map_err(failed)?;
        file.sync().map_err(failed)?;
        segment.remember_offset(header.first, *offset);
        *offset += bytes.len() as u64;
        *next = next.after(&header);
        draft.clear();
        Ok(())
    }

    pub(super) fn begin_segment(&self, tail: &mut Tail) -> Result<(), JournalError> {
        let (segment, file) = self.new_segment(tail.segment.header.number + 1, &tail.next)?;
        (tail.segment, tail.file, tail.offset) = (segment, file, segment::HEADER);
        Ok(())
    }

    /// Makes the spare segment `number` of the journal.
    pub(super) fn new_segment(&self, number: u64, next: &Next) -> Result<(Arc<Segment>, Box<dyn File>), JournalError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| self.failed(number, 0, io::Error::other(error)))?;
        let header = segment::Header {
            number,
            batch: next.batch,
            first: next.sequence,
            ledger: self.ledger,
            salt,
            before: next.before,
            length: self.spare.length,
        };
        let file = self.spare.take(&segment::name(number), &header.bytes());
        let file = file.map_err(|error| self.failed(number, 0, error))?;
        let segment = Arc::new(Segment::new(header));
        self.segments.write().insert(header.first, segment.clone());
        Ok((segment, file))
    }

    fn failed(&self, segment: u64, offset: u64, error: io::Error) -> JournalError {
        let path: PathBuf = self.files.path(&segment::name(segment));
        JournalError { what: format!("cannot write {} at offset {offset}: {error}", path.display()) }
    }
}
