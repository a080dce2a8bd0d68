//! From the files of a data directory to the state that they tell of. Nothing is written before all of it was found good.

use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;

use super::batch::{self, Batch, Draft};
use super::bytes::written;
use super::checkpoint::{self, Covered};
use super::files::{CHECKPOINTS, File, Files, JOURNAL, PIECE, pieces, read_full, write_all, written_pieces};
use super::frame::Frame;
use super::load::{Checkpoint, load};
use super::section::Fold;
use super::segment::{self, Segment};
use super::spare;
use super::tail::{Next, Tail};
use crate::account::{AccountId, Balance};
use crate::event::Event;
use crate::journal::Noted;
use crate::kernel::Account;
use crate::kernel::slab::Loaded;
use crate::opening::{OpenError, Progress};

/// What is found, in this order.
pub(crate) enum Recovered {
    /// All accounts of the checkpoint, in ascending order of their ids.
    Loaded(Loaded<Account<Balance>>),
    /// What an entry after the checkpoint made of an account; a later one of the same account counts.
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

/// Who takes what is recovered, and hears of it.
pub(crate) struct Recovery<'a> {
    pub(crate) install: &'a mut dyn FnMut(Recovered) -> Result<(), OpenError>,
    pub(crate) progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    pub(crate) tell: &'a dyn Fn(&Event),
}

/// What the journal on disk comes to.
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
    /// The torn batch there, to be told of when it is cut off.
    pub(super) torn: Option<Event>,
}

/// The place after the last good batch.
pub(super) struct End {
    segment: Arc<Segment>,
    offset: u64,
    /// Where the last batch in the segment begins, if there is one.
    last: Option<u64>,
    pub(super) next: Next,
}

/// A segment in memory.
struct Image {
    name: String,
    header: Result<segment::Header, &'static str>,
    /// As much of it as its header says, if the file is as long; nothing without a header.
    bytes: Vec<u8>,
    /// How long the file is.
    length: u64,
    /// Whether nothing was ever written after the header, or behind the file's end; looked at when the header is bad.
    blank: bool,
}

impl Image {
    fn damaged(&self, files: &dyn Files, offset: u64, what: impl Into<String>) -> OpenError {
        damaged(files.path(&self.name), offset, what)
    }
}

fn damaged(file: PathBuf, offset: u64, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { file, offset, what: what.into() }
}

fn cannot(what: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io { path, what, error }
}

/// Reads the newest good checkpoint and what the journal says after it.
pub(super) fn recover(files: &dyn Files, recovery: &mut Recovery<'_>) -> Result<Found, OpenError> {
    let numbers = numbers(files)?;
    let (checkpoint, noted) = load_checkpoint(files, recovery)?.unzip();
    let after = checkpoint.map_or(0, |checkpoint| checkpoint.sequence);
    let covered = checkpoint.map_or(Covered::NOTHING, |checkpoint| checkpoint.covered());
    let mut headers = Vec::with_capacity(numbers.len());
    for number in &numbers {
        headers.push(read_header(files, *number)?);
    }
    // The last segment that may hold what comes after the checkpoint; the ones before are superseded.
    let good = |header: &Result<segment::Header, &'static str>| header.is_ok_and(|header| covered.reaches(&header));
    let start = headers.iter().rposition(good).unwrap_or(0);
    if let Some(Ok(first)) = headers.first()
        && !covered.reaches_back(first)
    {
        let what =
            format!("the journal begins at sequence {}, and no good checkpoint covers what came before", first.first);
        return Err(damaged(files.path(&segment::name(first.number)), 0, what));
    }
    let superseded = headers[..start].iter().zip(&numbers);
    let mut segments = Vec::with_capacity(numbers.len());
    for (header, number) in superseded {
        let header = header.map_err(|what| damaged(files.path(&segment::name(*number)), 0, what))?;
        if segments.last().is_some_and(|before: &Arc<Segment>| !before.header.may_precede(&header)) {
            let what = "a segment that does not continue the one before";
            return Err(damaged(files.path(&segment::name(*number)), 0, what));
        }
        segments.push(Arc::new(Segment::new(header)));
    }
    let mut scan = Scan::new(files, recovery, covered, &numbers[start..])?;
    scan.fold = Some(Fold::after(noted.unwrap_or_default()));
    while let Some(segment) = scan.step(segments.last())? {
        segments.push(segment);
    }
    let (mut end, unused, torn) = (scan.end, scan.unused, scan.torn);
    let noted = scan.fold.map(|fold| fold.noted).unwrap_or_default();
    if let (Some(end), Some(checkpoint)) = (&mut end, &checkpoint) {
        // The segment scanned may hold nothing, and time must not run back.
        end.next.time = end.next.time.max(checkpoint.time);
    }
    if let (None, Some(first @ 2..)) = (&end, numbers.first()) {
        return Err(damaged(
            files.path(&segment::name(*first)),
            0,
            "an empty segment, and the ones before are missing",
        ));
    }
    let newest = end.as_ref().map_or(0, |end| end.next.sequence - 1);
    if let Some(checkpoint) = checkpoint {
        let file = files.path(&checkpoint::name(checkpoint.sequence));
        let last = end.as_ref().map_or(0, |end| end.next.batch - 1);
        if newest < checkpoint.sequence || covered.batch.is_some_and(|batch| last < batch) {
            let what = format!(
                "it is at sequence {}, but the journal ends at {newest}: a tail is missing",
                checkpoint.sequence
            );
            return Err(damaged(file, 16, what));
        }
        if segments.last().is_some_and(|segment| segment.header.ledger != checkpoint.ledger) {
            return Err(damaged(file, 32, "it is another ledger's"));
        }
    }
    if let Some(End { segment, next, .. }) = &end {
        spare::check(files, &segment.header, next)?;
    }
    Ok(Found { segments, end, unused, checkpoint: after, noted, torn })
}

/// A segment that was read through.
pub(super) struct Extent {
    pub(super) header: segment::Header,
    /// The number of its last batch, or of the one before it.
    pub(super) batch: u64,
    /// The sequence after its last entry.
    pub(super) next: u64,
    /// The journal's time at its end.
    pub(super) time: u64,
    /// Whether one of its batches has notes.
    pub(super) noted: bool,
}

/// Reads the whole journal, from the oldest segment there is.
pub(super) fn read_through(files: &dyn Files, recovery: &mut Recovery<'_>) -> Result<Vec<Extent>, OpenError> {
    let mut scan = Scan::new(files, recovery, Covered::NOTHING, &numbers(files)?)?;
    let mut extents = Vec::new();
    let mut last = None;
    while let Some(segment) = scan.step(last.as_ref())? {
        let (batch, next, time) = scan.end.as_ref().map_or((segment.header.batch, segment.header.first, 0), |end| {
            (end.next.batch, end.next.sequence, end.next.time)
        });
        let (header, noted) = (segment.header, std::mem::take(&mut scan.noted));
        extents.push(Extent { header, batch: batch - 1, next, time, noted });
        last = Some(segment);
    }
    Ok(extents)
}

/// The segments' numbers, dense.
fn numbers(files: &dyn Files) -> Result<Vec<u64>, OpenError> {
    let names = files.list(JOURNAL).map_err(cannot("list", files.path(JOURNAL)))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        Some(gap) => Err(damaged(files.path(&segment::name(gap[0] + 1)), 0, "the segment is missing")),
        None => Ok(numbers),
    }
}

fn open(files: &dyn Files, name: &str) -> Result<Box<dyn File>, OpenError> {
    files.open(name).map_err(cannot("open", files.path(name)))
}

fn read_header(files: &dyn Files, number: u64) -> Result<Result<segment::Header, &'static str>, OpenError> {
    let name = segment::name(number);
    let mut bytes = vec![0; segment::HEADER as usize];
    let read = read_full(&*open(files, &name)?, &mut bytes, 0);
    let read = read.map_err(cannot("read", files.path(&name)))?;
    let header = segment::Header::read(&bytes[..read]);
    Ok(header
        .and_then(|header| if header.number == number { Ok(header) } else { Err("a segment under another's name") }))
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

/// Goes through the segments from the checkpoint on.
struct Scan<'a, 'r> {
    files: &'a dyn Files,
    recovery: &'a mut Recovery<'r>,
    covered: Covered,
    /// None: notes are not looked into.
    fold: Option<Fold>,
    /// Whether a batch has notes.
    noted: bool,
    images: std::vec::IntoIter<u64>,
    end: Option<End>,
    unused: Vec<u64>,
    torn: Option<Event>,
    progress: Progress,
    /// What the last image was read into, for the next.
    buffer: Vec<u8>,
}

impl<'a, 'r> Scan<'a, 'r> {
    fn new(
        files: &'a dyn Files,
        recovery: &'a mut Recovery<'r>,
        covered: Covered,
        numbers: &[u64],
    ) -> Result<Self, OpenError> {
        let mut total_bytes = 0;
        for number in numbers {
            let name = segment::name(*number);
            total_bytes += open(files, &name)?.length().map_err(cannot("read", files.path(&name)))?;
        }
        let progress = Progress { replayed: 0, bytes: 0, total_bytes };
        let images = Vec::from(numbers).into_iter();
        let (end, unused, buffer) = (None, Vec::new(), Vec::new());
        let torn = None;
        Ok(Scan { files, recovery, covered, fold: None, noted: false, images, end, unused, torn, progress, buffer })
    }

    fn image(&mut self, number: u64) -> Result<Image, OpenError> {
        let name = segment::name(number);
        let file = open(self.files, &name)?;
        let failed = || cannot("read", self.files.path(&name));
        let length = file.length().map_err(failed())?;
        let header = read_header(self.files, number)?;
        let (mut bytes, mut blank) = (Vec::new(), false);
        match header {
            Ok(header) => {
                bytes = std::mem::take(&mut self.buffer);
                bytes.resize(usize::try_from(length.min(header.length)).unwrap_or(usize::MAX), 0);
                let read = read_full(&*file, &mut bytes, 0).map_err(failed())?;
                bytes.truncate(read);
            }
            Err(_) => blank = written_pieces(&*file, segment::HEADER, length, |_| Ok(())).map_err(failed())? == 0,
        }
        Ok(Image { name, header, bytes, length, blank })
    }

    /// Reads the next segment, which follows on `before`, unless the journal ended before it.
    fn step(&mut self, before: Option<&Arc<Segment>>) -> Result<Option<Arc<Segment>>, OpenError> {
        let Some(number) = self.images.next() else { return Ok(None) };
        let image = self.image(number)?;
        match image.header {
            Ok(header) => {
                let segment = self.segment(&image, header, before)?;
                self.buffer = image.bytes;
                Ok(Some(segment))
            }
            Err(_) if self.images.len() == 0 && image.blank => {
                self.unused.push(number);
                Ok(None)
            }
            Err(what) => Err(image.damaged(self.files, 0, what)),
        }
    }

    /// Replays one segment.
    fn segment(
        &mut self,
        image: &Image,
        header: segment::Header,
        before: Option<&Arc<Segment>>,
    ) -> Result<Arc<Segment>, OpenError> {
        let wrong = |offset, what: &str| Err(image.damaged(self.files, offset, what));
        if before.is_some_and(|before| !before.header.may_precede(&header)) {
            return wrong(0, "a segment that does not continue the one before");
        }
        let mut next = Next { batch: header.batch, sequence: header.first, before: header.before, time: 0 };
        if let Some(end) = &self.end {
            let expected = Next { time: 0, ..end.next };
            if expected != next || end.segment.header.ledger != header.ledger {
                return wrong(0, "a segment that does not continue the one before: batches are missing");
            }
            next.time = end.next.time;
        }
        let segment = Arc::new(Segment::new(header));
        let bytes = image.bytes.as_slice();
        let (mut at, mut last) = (segment::HEADER as usize, None);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(batch) = Batch::read(rest, &header.salt) else {
                if written(rest) > 0 {
                    self.torn = Some(self.torn(image, at, &header)?);
                }
                break;
            };
            if batch.header.number != next.batch
                || batch.header.first != next.sequence
                || !batch.continues(&next.before)
            {
                return wrong(at as u64, "a batch that does not continue the one before");
            }
            self.replay(&batch).map_err(|what| match what {
                Stop::Malformed(what) => image.damaged(self.files, at as u64, what),
                Stop::Error(error) => error,
            })?;
            segment.note(batch.header.first, at as u64);
            next = Next {
                batch: next.batch + 1,
                sequence: batch.header.next(),
                before: batch.header.hash,
                time: batch.header.time.max(next.time),
            };
            last = Some(at as u64);
            at += batch.header.span();
            self.report(batch.header.span() as u64)?;
        }
        if self.images.len() > 0 && image.length != header.length {
            return wrong(bytes.len() as u64, "a segment of another length than its header says");
        }
        self.report(bytes.len().saturating_sub(at) as u64)?;
        self.end = Some(End { segment: segment.clone(), offset: at as u64, last, next });
        Ok(segment)
    }

    /// A batch that is bad and not zeros: the journal may end here, unless something good comes later.
    fn torn(&self, image: &Image, at: usize, header: &segment::Header) -> Result<Event, OpenError> {
        let wrong = |what: String| Err(image.damaged(self.files, at as u64, what));
        if let Some(good) = batch::find(&image.bytes, at + 1, &header.salt) {
            return wrong(format!("a damaged batch, with a good one after it at offset {good}"));
        }
        if let Some(later) = self.images.as_slice().first()
            && let Ok(later) = read_header(self.files, *later)?
        {
            return wrong(format!("a damaged batch, with segment {} after it", later.number));
        }
        let written = written(&image.bytes[at..]);
        let file = self.files.path(&image.name);
        Ok(Event::TornTail { file, offset: at as u64, bytes: written as u64 })
    }

    fn replay(&mut self, batch: &Batch<'_>) -> Result<(), Stop> {
        if let Some(fold) = &mut self.fold
            && !self.covered.notes_of(&batch.header)
        {
            fold.take(batch.notes()).map_err(Stop::Malformed)?;
        }
        self.noted |= batch.header.notes > 0;
        let mut frames = batch.frames();
        for sequence in batch.header.first..batch.header.next() {
            let frame =
                Frame::next(&mut frames).unwrap_or(Err("a batch with too few frames")).map_err(Stop::Malformed)?;
            if sequence <= self.covered.sequence || frame.refusal.is_some() {
                continue;
            }
            for member in frame.members() {
                for change in member.map_err(Stop::Malformed)?.changes {
                    let id = AccountId::new(change.account)
                        .map_err(|_| Stop::Malformed("an account's id that cannot be"))?;
                    let changed = Recovered::Changed(Recorded { id, state: change.state, sequence });
                    (self.recovery.install)(changed).map_err(Stop::Error)?;
                }
            }
        }
        if !frames.0.is_empty() {
            return Err(Stop::Malformed("a batch with more bytes than frames"));
        }
        let replayed = batch.header.next().saturating_sub(batch.header.first.max(self.covered.sequence + 1));
        self.progress.replayed += replayed;
        Ok(())
    }

    /// Tells how far it is after `bytes` more.
    fn report(&mut self, bytes: u64) -> Result<(), OpenError> {
        let before = self.progress.bytes;
        self.progress.bytes += bytes;
        // Often enough for a signal to be heeded, seldom enough to cost nothing.
        if before >> 18 == self.progress.bytes >> 18 {
            return Ok(());
        }
        match (self.recovery.progress)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(OpenError::Cancelled),
        }
    }
}

enum Stop {
    Malformed(&'static str),
    Error(OpenError),
}

impl End {
    /// Makes the end fit to be written on: what is behind the last batch becomes zeros, and that batch is written again, for an earlier
    /// process may have died of the fdatasync that failed on it, or before the names were durable.
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
            // What tore the tail off may have begun in its padding, which its checksum does not cover.
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
