//! Reading entries back out of the segments, while others are written.

use std::sync::Arc;

use super::Disk;
use super::batch::{self, Batch};
use super::files::{File, Files, read_full};
use super::frame::Frame;
use super::segment::{self, Segment};
use crate::journal::{HistoryError, HistoryGone};

/// How much is read ahead at once, in bytes.
const WINDOW: usize = 64 * 1024;

/// Walks over the batches of a segment.
pub(super) struct Cursor<'a> {
    files: &'a dyn Files,
    segment: Arc<Segment>,
    file: Box<dyn File>,
    /// Where the next batch begins.
    offset: u64,
    window: Vec<u8>,
    /// Where the window begins in the file.
    start: u64,
}

impl<'a> Cursor<'a> {
    /// Before the batch with `sequence`, or an earlier one.
    fn open(files: &'a dyn Files, segment: Arc<Segment>, sequence: u64) -> Result<Self, HistoryError> {
        let name = segment::name(segment.header.number);
        let file = files.open(&name).map_err(|error| unreadable(files, &segment, &error.to_string()))?;
        let offset = segment.offset_before(sequence);
        Ok(Cursor { files, segment, file, offset, window: Vec::new(), start: offset })
    }

    /// The next batch, if it is good; its frames are checked.
    fn next(&mut self, wanted: impl Fn(&batch::Header) -> bool) -> Result<Option<Batch<'_>>, HistoryError> {
        loop {
            let Some(bytes) = self.bytes(batch::HEADER)? else { return Ok(None) };
            let Some(header) = batch::Header::read(bytes) else { return Ok(None) };
            self.segment.remember_offset(header.first, self.offset);
            let at = self.offset;
            if wanted(&header) {
                self.bytes(batch::HEADER + header.length as usize)?;
                self.offset += header.span() as u64;
                let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
                let batch = self.window.get(from..).and_then(|bytes| Batch::read(bytes, &self.segment.header.salt));
                let what = format!("no good batch at offset {at}");
                return batch.map(Some).ok_or_else(|| unreadable(self.files, &self.segment, &what));
            }
            self.offset += header.span() as u64;
        }
    }

    /// What begins at the offset, at least `least` bytes of it; None when the file has fewer.
    fn bytes(&mut self, least: usize) -> Result<Option<&[u8]>, HistoryError> {
        let held = |cursor: &Self| {
            let from = usize::try_from(cursor.offset - cursor.start).unwrap_or(usize::MAX);
            cursor.window.len().checked_sub(from).is_some_and(|held| held >= least).then_some(from)
        };
        if held(self).is_none() {
            let most = usize::try_from(self.segment.header.length.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            self.window.resize(least.max(WINDOW).min(most), 0);
            let read = read_full(&*self.file, &mut self.window, self.offset)
                .map_err(|error| unreadable(self.files, &self.segment, &error.to_string()))?;
            self.window.truncate(read);
            self.start = self.offset;
        }
        Ok(held(self).map(|from| &self.window[from..]))
    }
}

fn unreadable(files: &dyn Files, segment: &Segment, what: &str) -> HistoryError {
    let path = files.path(&segment::name(segment.header.number));
    HistoryError::Unreadable { what: format!("{}: {what}", path.display()) }
}

impl Disk {
    /// Shows `each` the entries from sequence `from` up to `through`, in order, until it says that it has enough.
    pub(super) fn walk(
        &self,
        from: u64,
        through: u64,
        mut each: impl FnMut(u64, &Frame<'_>) -> Result<bool, &'static str>,
    ) -> Result<(), HistoryError> {
        let oldest = self.first_kept();
        if from < oldest {
            return Err(HistoryGone { oldest }.into());
        }
        let mut sequence = from;
        while sequence <= through {
            let found = self.segments.read().range(..=sequence).next_back().map(|(_, segment)| segment.clone());
            let Some(segment) = found else { return Ok(()) };
            let mut cursor = Cursor::open(&*self.files, segment.clone(), sequence)?;
            let begun = sequence;
            while sequence <= through {
                let Some(batch) = cursor.next(|header| header.next() > sequence)? else { break };
                let mut frames = batch.frames();
                for at in batch.header.first..batch.header.next() {
                    let frame = Frame::next(&mut frames).unwrap_or(Err("a batch with too few frames"));
                    if at < sequence {
                        continue;
                    }
                    if at > through {
                        return Ok(());
                    }
                    let enough = frame.and_then(|frame| each(at, &frame));
                    if enough.map_err(|what| unreadable(&*self.files, &segment, &format!("sequence {at}: {what}")))? {
                        return Ok(());
                    }
                    sequence = at + 1;
                }
            }
            if sequence == begun {
                return Err(unreadable(&*self.files, &segment, &format!("sequence {sequence} is not in it")));
            }
        }
        Ok(())
    }
}
