//! Reads the segments of a journal in order: finds torn or damaged batches, and the accounts as the entries left them.

use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;

use super::batch::{self, Batch};
use super::bytes::written;
use super::checkpoint::Covered;
use super::files::{File, Files, JOURNAL, read_full, written_pieces};
use super::frame::Frame;
use super::recovery::{End, Recorded, Recovered, Recovery};
use super::section::Fold;
use super::segment::{self, Flaw, Segment};
use super::tail::Next;
use crate::account::AccountId;
use crate::event::Event;
use crate::opening::{OpenError, Progress};

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
    while let Some(segment) = scan.next_segment(last.as_ref())? {
        let (batch, next, time) = scan.end.as_ref().map_or((segment.header.batch, segment.header.first, 0), |end| {
            (end.next.batch, end.next.sequence, end.next.time)
        });
        let (header, noted) = (segment.header, std::mem::take(&mut scan.noted));
        extents.push(Extent { header, batch: batch - 1, next, time, noted });
        last = Some(segment);
    }
    Ok(extents)
}

/// Goes through the segments from the checkpoint on.
pub(super) struct Scan<'a, 'r> {
    files: &'a dyn Files,
    recovery: &'a mut Recovery<'r>,
    covered: Covered,
    /// Collects the notes; None: notes are not read.
    pub(super) fold: Option<Fold>,
    /// Whether a batch has notes.
    noted: bool,
    /// The segments that were not read yet.
    numbers: std::vec::IntoIter<u64>,
    pub(super) end: Option<End>,
    /// Segments behind the end that hold nothing.
    pub(super) unused: Vec<u64>,
    /// The torn tail at the end.
    pub(super) torn: Option<Event>,
    progress: Progress,
    /// The buffer of the previous image, for reuse.
    buffer: Vec<u8>,
}

impl<'a, 'r> Scan<'a, 'r> {
    pub(super) fn new(
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
        let numbers = Vec::from(numbers).into_iter();
        let (end, unused, buffer) = (None, Vec::new(), Vec::new());
        let torn = None;
        Ok(Scan { files, recovery, covered, fold: None, noted: false, numbers, end, unused, torn, progress, buffer })
    }

    fn read_image(&mut self, number: u64) -> Result<Image, OpenError> {
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
    pub(super) fn next_segment(&mut self, before: Option<&Arc<Segment>>) -> Result<Option<Arc<Segment>>, OpenError> {
        let Some(number) = self.numbers.next() else { return Ok(None) };
        let image = self.read_image(number)?;
        match image.header {
            Ok(header) => {
                let segment = self.replay_segment(&image, header, before)?;
                self.buffer = image.bytes;
                Ok(Some(segment))
            }
            Err(_) if self.numbers.len() == 0 && image.blank => {
                self.unused.push(number);
                Ok(None)
            }
            Err(flaw) => Err(image.damaged(self.files, flaw.at, flaw.what)),
        }
    }

    /// Replays one segment.
    fn replay_segment(
        &mut self,
        image: &Image,
        header: segment::Header,
        before: Option<&Arc<Segment>>,
    ) -> Result<Arc<Segment>, OpenError> {
        let mut next = self.expected(image, &header, before)?;
        let segment = Arc::new(Segment::new(header));
        let bytes = image.bytes.as_slice();
        let (mut at, mut last) = (segment::HEADER as usize, None);
        // Where the last batch ends, without its padding.
        let mut unpadded = at;
        while let Some(batch) = bytes.get(at..).and_then(|rest| Batch::read(rest, &header.salt)) {
            next.check(&batch).map_err(|flaw| image.damaged(self.files, at as u64 + flaw.at, flaw.what))?;
            self.replay(&batch).map_err(|what| match what {
                Stop::Malformed(what) => image.damaged(self.files, at as u64, what),
                Stop::Error(error) => error,
            })?;
            segment.remember_offset(batch.header.first, at as u64);
            next = next.after(&batch.header);
            last = Some(at as u64);
            unpadded = at + batch.header.unpadded();
            at += batch.header.span();
            self.report(batch.header.span() as u64)?;
        }
        self.torn = self.tail(image, unpadded..at, &header)?;
        self.report(bytes.len().saturating_sub(at) as u64)?;
        self.end = Some(End { segment: segment.clone(), offset: at as u64, last, next });
        Ok(segment)
    }

    /// What the first batch of a segment must continue. Fails unless the segment continues `before` and what was read.
    fn expected(
        &self,
        image: &Image,
        header: &segment::Header,
        before: Option<&Arc<Segment>>,
    ) -> Result<Next, OpenError> {
        let continued = match (&self.end, before) {
            (Some(end), _) => header.go_on(&end.segment.header.ledger, &end.next),
            (None, Some(before)) => header.follow(&before.header),
            (None, None) => Ok(()),
        };
        continued.map_err(|flaw| image.damaged(self.files, flaw.at, flaw.what))?;
        let first = Next { batch: header.batch, sequence: header.first, before: header.before, time: 0 };
        Ok(self.end.as_ref().map_or(first, |end| end.next))
    }

    /// The torn tail behind the last batch of a segment, which ends with `padding`, if there is one. In the newest
    /// segment that may be the file's length alone.
    fn tail(&self, image: &Image, padding: Range<usize>, header: &segment::Header) -> Result<Option<Event>, OpenError> {
        let (bytes, newest) = (image.bytes.as_slice(), self.numbers.len() == 0);
        let behind = padding.end.min(bytes.len());
        // What tore the tail off may have begun in the padding, which no checksum covers.
        let begin = (padding.start..behind).find(|at| bytes[*at] != 0).unwrap_or(behind);
        let mut torn = None;
        if written(&bytes[behind..]) > 0 || (newest && begin < behind) {
            torn = Some(self.torn_tail(image, begin, header)?);
        }
        if image.length != header.length {
            let offset = bytes.len() as u64;
            if !newest {
                return Err(image.damaged(self.files, offset, "a segment of another length than its header says"));
            }
            let file = self.files.path(&image.name);
            let bytes = image.length.saturating_sub(header.length);
            torn = torn.or(Some(Event::TornTail { file, offset, bytes }));
        }
        Ok(torn)
    }

    /// A batch that is bad and not zeros: the journal may end here, unless something good comes later.
    fn torn_tail(&self, image: &Image, at: usize, header: &segment::Header) -> Result<Event, OpenError> {
        let wrong = |what: String| Err(image.damaged(self.files, at as u64, what));
        if let Some(good) = batch::find(&image.bytes, at + 1, &header.salt) {
            return wrong(format!("a damaged batch, with a good one after it at offset {good}"));
        }
        if let Some(later) = self.numbers.as_slice().first()
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
        // Often enough to react to a signal, rarely enough to cost nothing.
        if before >> 18 == self.progress.bytes >> 18 {
            return Ok(());
        }
        match (self.recovery.progress)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(OpenError::Cancelled),
        }
    }
}

/// A segment in memory.
struct Image {
    name: String,
    header: Result<segment::Header, Flaw>,
    /// The file's bytes, up to the length in its header; empty if the header is bad.
    bytes: Vec<u8>,
    /// How long the file is.
    length: u64,
    /// Whether the file holds only zeros after the header, or nothing; determined only when the header is bad.
    blank: bool,
}

impl Image {
    fn damaged(&self, files: &dyn Files, offset: u64, what: impl Into<String>) -> OpenError {
        damaged(files.path(&self.name), offset, what)
    }
}

/// Why a batch cannot be replayed.
enum Stop {
    Malformed(&'static str),
    Error(OpenError),
}

/// The segments' numbers, dense.
pub(super) fn numbers(files: &dyn Files) -> Result<Vec<u64>, OpenError> {
    let names = files.list(JOURNAL).map_err(cannot("list", files.path(JOURNAL)))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        Some(gap) => Err(damaged(files.path(&segment::name(gap[0] + 1)), 0, "the segment is missing")),
        None => Ok(numbers),
    }
}

pub(super) fn open(files: &dyn Files, name: &str) -> Result<Box<dyn File>, OpenError> {
    files.open(name).map_err(cannot("open", files.path(name)))
}

pub(super) fn read_header(files: &dyn Files, number: u64) -> Result<Result<segment::Header, Flaw>, OpenError> {
    let name = segment::name(number);
    let mut bytes = vec![0; segment::HEADER as usize];
    let read = read_full(&*open(files, &name)?, &mut bytes, 0);
    let read = read.map_err(cannot("read", files.path(&name)))?;
    let header = segment::Header::read(&bytes[..read]);
    Ok(header.and_then(|header| match header.number == number {
        true => Ok(header),
        false => Err(Flaw { at: segment::NUMBER_AT, what: "a segment under another's name" }),
    }))
}

pub(super) fn damaged(file: PathBuf, offset: u64, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { file, offset, what: what.into() }
}

pub(super) fn cannot(what: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io { path, what, error }
}
