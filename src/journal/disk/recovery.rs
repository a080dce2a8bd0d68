//! From the files of a data directory to the state that they tell of. Nothing is written before all of it was found
//! good.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::batch::{self, Draft};
use super::checkpoint::{self, Covered};
use super::files::{CHECKPOINTS, Files, JOURNAL, PIECE, pieces, read_full, write_all, written_pieces};
use super::load::{Checkpoint, load};
use super::newer;
use super::scan::{Scan, cannot, damaged, numbers, open, read_header};
use super::section::Fold;
use super::segment::{self, Flaw, Segment};
use super::spare;
use super::tail::{Next, Tail};
use crate::account::{AccountId, Balance};
use crate::event::Event;
use crate::journal::Noted;
use crate::kernel::Account;
use crate::kernel::slab::Loaded;
use crate::opening::{OpenError, Progress};

/// A part of what is recovered, in this order.
pub(crate) enum Recovered {
    /// All accounts of the checkpoint, in ascending order of their ids.
    Loaded(Loaded<Account<Balance>>),
    /// An account after an entry that follows the checkpoint; a later one replaces it.
    Changed(Recorded),
}

/// One account after an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) id: AccountId,
    pub(crate) state: Balance,
    /// The entry's sequence.
    pub(crate) sequence: u64,
}

/// Callbacks that receive what is recovered.
pub(crate) struct Recovery<'a> {
    pub(crate) install: &'a mut dyn FnMut(Recovered) -> Result<(), OpenError>,
    pub(crate) progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    pub(crate) tell: &'a dyn Fn(&Event),
}

/// The result of reading the journal on disk.
pub(super) struct Found {
    /// By their first sequence.
    pub(super) segments: Vec<Arc<Segment>>,
    /// Where the journal ends; None: it has not begun.
    pub(super) end: Option<End>,
    /// Segments behind the end that hold nothing.
    pub(super) unused: Vec<u64>,
    /// The sequence of the newest good checkpoint, 0 without one.
    pub(super) checkpoint: u64,
    /// What is noted at the end.
    pub(super) noted: Noted,
    /// The torn tail there, to be told of when it is cut off.
    pub(super) torn: Option<Event>,
}

/// The place after the last good batch.
pub(super) struct End {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    /// Where the last batch in the segment begins, if there is one.
    pub(super) last: Option<u64>,
    pub(super) next: Next,
}

/// Reads the newest good checkpoint and what the journal says after it.
pub(super) fn recover(files: &dyn Files, recovery: &mut Recovery<'_>) -> Result<Found, OpenError> {
    newer::check(files)?;
    let numbers = numbers(files)?;
    let (checkpoint, noted) = load_checkpoint(files, recovery)?.unzip();
    let covered = checkpoint.map_or(Covered::NOTHING, |checkpoint| checkpoint.covered());
    let (mut segments, rest) = superseded(files, &numbers, &covered)?;
    let mut scan = Scan::new(files, recovery, covered, rest)?;
    scan.fold = Some(Fold::after(noted.unwrap_or_default()));
    while let Some(segment) = scan.next_segment(segments.last())? {
        segments.push(segment);
    }
    let (mut end, unused, torn) = (scan.end, scan.unused, scan.torn);
    let noted = scan.fold.map(|fold| fold.noted).unwrap_or_default();
    if let (Some(end), Some(checkpoint)) = (&mut end, &checkpoint) {
        // The segment scanned may hold nothing, and time must not run back.
        end.next.time = end.next.time.max(checkpoint.time);
    }
    if let (None, Some(first @ 2..)) = (&end, numbers.first()) {
        let what = "an empty segment, and the ones before are missing";
        return Err(damaged(files.path(&segment::name(*first)), 0, what));
    }
    if let Some(checkpoint) = &checkpoint {
        check_against_checkpoint(files, checkpoint, end.as_ref(), segments.last())?;
    }
    if let Some(End { segment, next, .. }) = &end {
        spare::check(files, &segment.header, next)?;
    }
    let checkpoint = checkpoint.map_or(0, |checkpoint| checkpoint.sequence);
    Ok(Found { segments, end, unused, checkpoint, noted, torn })
}

/// The segments that `covered` supersedes (only their headers are read), and the numbers of those to scan: from the
/// last one that may hold the first entry or note after the checkpoint.
fn superseded<'n>(
    files: &dyn Files,
    numbers: &'n [u64],
    covered: &Covered,
) -> Result<(Vec<Arc<Segment>>, &'n [u64]), OpenError> {
    let mut headers = Vec::with_capacity(numbers.len());
    for number in numbers {
        headers.push(read_header(files, *number)?);
    }
    let good = |header: &Result<segment::Header, Flaw>| header.is_ok_and(|header| covered.is_continued_from(&header));
    let start = headers.iter().rposition(good).unwrap_or(0);
    if let Some(Ok(first)) = headers.first()
        && !covered.joins(first)
    {
        let what =
            format!("the journal begins at sequence {}, and no good checkpoint covers what came before", first.first);
        return Err(damaged(files.path(&segment::name(first.number)), segment::FIRST_AT, what));
    }
    let mut segments = Vec::with_capacity(numbers.len());
    for (header, number) in headers[..start].iter().zip(numbers) {
        let flawed = |flaw: Flaw| damaged(files.path(&segment::name(*number)), flaw.at, flaw.what);
        let header = header.map_err(flawed)?;
        let before: Option<&Arc<Segment>> = segments.last();
        before.map_or(Ok(()), |before| header.follow(&before.header)).map_err(flawed)?;
        segments.push(Arc::new(Segment::new(header)));
    }
    Ok((segments, &numbers[start..]))
}

/// Fails where the journal, which ends at `end`, in `last`, cannot be the one that `checkpoint` was made of.
fn check_against_checkpoint(
    files: &dyn Files,
    checkpoint: &checkpoint::Header,
    end: Option<&End>,
    last: Option<&Arc<Segment>>,
) -> Result<(), OpenError> {
    let file = files.path(&checkpoint::name(checkpoint.sequence));
    let (batch, newest) = end.map_or((0, 0), |end| (end.next.batch - 1, end.next.sequence - 1));
    if newest < checkpoint.sequence || checkpoint.covered().batch.is_some_and(|covered| batch < covered) {
        let what =
            format!("it is at sequence {}, but the journal ends at {newest}: a tail is missing", checkpoint.sequence);
        let offset = if newest < checkpoint.sequence { checkpoint::SEQUENCE_AT } else { checkpoint::BATCH_AT };
        return Err(damaged(file, offset, what));
    }
    if last.is_some_and(|segment| segment.header.ledger != checkpoint.ledger) {
        return Err(damaged(file, checkpoint::LEDGER_AT, "it is another ledger's"));
    }
    Ok(())
}

fn load_checkpoint(
    files: &dyn Files,
    recovery: &mut Recovery<'_>,
) -> Result<Option<(checkpoint::Header, Noted)>, OpenError> {
    let sequences = checkpoint::all(files).map_err(cannot("list", files.path(CHECKPOINTS)))?;
    for sequence in sequences {
        let name = checkpoint::name(sequence);
        let file = open(files, &name)?;
        match load(&*file).map_err(cannot("start a thread to read", files.path(&name)))? {
            Ok(Checkpoint { header, noted, accounts }) if header.sequence == sequence => {
                (recovery.install)(Recovered::Loaded(accounts))?;
                return Ok(Some((header, noted)));
            }
            checked => {
                let what = checked.err().unwrap_or_else(|| "it is at another sequence than its name says".to_owned());
                (recovery.tell)(&Event::CheckpointDamaged { file: files.path(&name), what });
            }
        }
    }
    Ok(None)
}

impl End {
    /// Prepares the end for writing: zeros what follows the last batch, and writes that batch again, since an earlier
    /// process may have died because its fdatasync failed, or before the names were durable.
    pub(super) fn repair(&self, files: &dyn Files) -> Result<Tail, OpenError> {
        let name = segment::name(self.segment.header.number);
        let path = || files.path(&name);
        let file = open(files, &name)?;
        let length = self.segment.header.length;
        let there = file.length().map_err(cannot("read", path()))?;
        let zeros = vec![0; PIECE];
        let clear = |range: Range<u64>| write_all(&*file, &zeros[..(range.end - range.start) as usize], range.start);
        written_pieces(&*file, self.offset, there.min(length), clear).map_err(cannot("write", path()))?;
        if there != length {
            file.set_length(length).map_err(cannot("cut", path()))?;
            pieces(there.max(self.offset), length).try_for_each(clear).map_err(cannot("write", path()))?;
        }
        if let Some(last) = self.last {
            let mut batch = vec![0; (self.offset - last) as usize];
            read_full(&*file, &mut batch, last).map_err(cannot("read", path()))?;
            // A torn tail may begin in the padding, which the checksum does not cover.
            let length = batch::Header::read(&batch).map_or(batch.len(), |header| header.unpadded());
            batch[length..].fill(0);
            write_all(&*file, &batch, last).map_err(cannot("write", path()))?;
        }
        file.sync().map_err(cannot("sync", path()))?;
        files.sync_folder(JOURNAL).map_err(cannot("sync", files.path(JOURNAL)))?;
        let (segment, offset, next) = (self.segment.clone(), self.offset, self.next);
        Ok(Tail { segment, file, offset, next, draft: Draft::new() })
    }
}
