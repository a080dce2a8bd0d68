//! The journal as one chain of batches: through all segments, in order, up to its end.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::batch::{Batch, Place};
use super::bytes::hex;
use super::directory::Directory;
use super::problem::Problem;
use super::segment::{self, HEADER, Header};

/// Is shown the chain: each batch links to those shown before.
pub(crate) trait Visitor {
    type Error: From<Problem>;

    fn segment(&mut self, file: &Path, header: &Header) -> Result<(), Self::Error>;
    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Self::Error>;
    /// `bytes` more of the journal were gone through.
    fn passed(&mut self, _bytes: u64) {}
}

/// The state of the chain, which determines the next batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ledger: [u8; 16],
    /// The number of the next batch, and the sequence of its first entry.
    pub(crate) batch: u64,
    pub(crate) sequence: u64,
    /// The hash of the batch before.
    pub(crate) hash: [u8; 32],
}

/// How the journal ends.
#[derive(Debug)]
pub(crate) struct End {
    /// None if not even a header of a segment is there.
    pub(crate) link: Option<Link>,
    /// The number of the last segment that has a header.
    pub(super) segment: u64,
    pub(crate) notes: Vec<String>,
}

impl End {
    /// The last sequence in the journal; 0 when there is none.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.sequence - 1)
    }
}

/// Shows `visitor` the chain from the segment at `start` on.
pub(crate) fn walk<V: Visitor>(directory: &Directory, start: usize, visitor: &mut V) -> Result<End, V::Error> {
    let mut walk = Walk { directory, index: start, segment: Vec::new(), number: 0, link: None, visitor };
    while walk.index < directory.segments.len() {
        segment::load(walk.file(), &mut walk.segment)?;
        if let Some(note) = walk.one_segment()? {
            return Ok(End { link: walk.link, segment: walk.number, notes: note });
        }
        walk.visitor.passed(walk.segment.len() as u64);
        walk.index += 1;
    }
    Ok(End { link: walk.link, segment: walk.number, notes: Vec::new() })
}

struct Walk<'a, V> {
    directory: &'a Directory,
    index: usize,
    segment: Vec<u8>,
    /// Of the last segment that has a header.
    number: u64,
    link: Option<Link>,
    visitor: &'a mut V,
}

impl<'a, V: Visitor> Walk<'a, V> {
    fn file(&self) -> &'a Path {
        &self.directory.segments[self.index]
    }

    fn newest(&self) -> bool {
        self.index + 1 == self.directory.segments.len()
    }

    /// Whether a service may be writing into the loaded segment.
    fn may_change(&self) -> bool {
        self.directory.live() && self.newest()
    }

    fn number(&self) -> u64 {
        self.directory.first_number.saturating_add(self.index as u64)
    }

    /// Goes through the loaded segment; notes when the journal ends in it, or before it.
    fn one_segment(&mut self) -> Result<Option<Vec<String>>, V::Error> {
        let file = self.file();
        let mut patience = Patience::default();
        let mut header = Header::read(&self.segment);
        while header.is_err()
            && !segment::unused(&self.segment, self.newest())
            && self.may_change()
            && patience.again(file, &mut self.segment, 0)?
        {
            header = Header::read(&self.segment);
        }
        let header = match header {
            Ok(header) => header,
            Err(_) if segment::unused(&self.segment, self.newest()) => {
                self.nothing_after(file, 0, "an unused segment")?;
                return Ok(Some(vec![format!("{} is an unused segment: the journal ends before it", file.display())]));
            }
            Err(wrong) => return Err(self.problem(wrong.at, wrong.what).into()),
        };
        header.check(&self.segment, self.number()).map_err(|wrong| self.problem(wrong.at, wrong.what))?;
        let mut link = self.continues(&header)?;
        self.number = header.number;
        self.visitor.segment(file, &header)?;
        let mut at = HEADER;
        let torn = loop {
            match Batch::read(file, &self.segment, at, &header.salt) {
                Place::End => break None,
                Place::Good(batch) => {
                    follows(&batch, &link)?;
                    link = next(&batch, link)?;
                    at = batch.end();
                    self.visitor.batch(&batch)?;
                }
                Place::Bad(what) => {
                    if !(self.may_change() && patience.again(file, &mut self.segment, at)?) {
                        break Some(what);
                    }
                }
            }
        };
        self.link = Some(link);
        match torn {
            None => Ok(None),
            Some(what) => self.torn(at, what).map(Some),
        }
    }

    /// Where the chain stands at the beginning of the segment with `header`.
    fn continues(&self, header: &Header) -> Result<Link, Problem> {
        let wrong = |at, what: &str, says: String, expected: String| {
            Err(self.problem(at, format!("{what} {says} in the segment's header; the journal before says {expected}")))
        };
        let here = Link {
            ledger: header.ledger,
            batch: header.first_batch,
            sequence: header.first_sequence,
            hash: header.hash,
        };
        let expected = match &self.link {
            Some(link) => link.clone(),
            None if header.number == 1 => Link { batch: 1, sequence: 1, hash: [0; 32], ..here },
            None if here.batch == 0 || here.sequence == 0 => {
                return Err(self.problem(24, "batches and sequences are numbered from 1"));
            }
            None => here.clone(),
        };
        if here.ledger != expected.ledger {
            return wrong(40, "ledger", hex(&here.ledger), hex(&expected.ledger));
        }
        if here.batch != expected.batch {
            return wrong(24, "first batch", here.batch.to_string(), expected.batch.to_string());
        }
        if here.sequence != expected.sequence {
            return wrong(32, "first sequence", here.sequence.to_string(), expected.sequence.to_string());
        }
        if here.hash != expected.hash {
            return wrong(72, "hash", hex(&here.hash), hex(&expected.hash));
        }
        Ok(expected)
    }

    /// Distinguishes a torn tail at `at` from damage: after a torn tail, nothing good follows anywhere.
    fn torn(&self, at: usize, what: String) -> Result<Vec<String>, V::Error> {
        let file = self.file();
        self.nothing_after(file, at, &what)?;
        let bytes = self.segment[at..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let end = match self.directory.live() {
            true => "the service is writing there",
            false => "the next start cuts it",
        };
        Ok(vec![format!("torn tail at {} offset {at}, {bytes} bytes: {end}", file.display())])
    }

    /// Fails when the journal goes on after `at` of the loaded segment, where `what` is wrong.
    fn nothing_after(&self, file: &Path, at: usize, what: &str) -> Result<(), Problem> {
        let damage = |place: String| Err(self.problem(at, format!("{what}, and {place}")));
        if let Ok(header) = Header::read(&self.segment)
            && let Some(good) = any_batch(file, &self.segment, at + 8, &header.salt)
        {
            return damage(format!("there is a good batch after it, at offset {good}"));
        }
        let mut later = Vec::new();
        let next = self.link.as_ref().map_or(1, |link| link.batch);
        for (index, path) in self.directory.segments.iter().enumerate().skip(self.index + 1) {
            segment::load(path, &mut later)?;
            match Header::read(&later) {
                Ok(header) => {
                    if let Some(good) = any_batch(path, &later, HEADER, &header.salt) {
                        return damage(format!("there is a good batch after it, at {} offset {good}", path.display()));
                    }
                    if header.first_batch != next {
                        let first = header.first_batch;
                        return damage(format!("{} says that batch {first} comes next", path.display()));
                    }
                }
                Err(_) if segment::unused(&later, index + 1 == self.directory.segments.len()) => {}
                Err(wrong) => return Err(Problem::at(path, wrong.at, wrong.what)),
            }
        }
        Ok(())
    }

    /// An error in the loaded segment.
    fn problem(&self, at: usize, what: impl Into<String>) -> Problem {
        let problem = Problem::at(self.file(), at, what);
        match &self.link {
            Some(link) => problem.in_batch(link.batch, link.sequence),
            None => problem,
        }
    }
}

/// How often a place that a service may just be writing is looked at again.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    /// Reads the segment again; whether it has changed from `at` on.
    fn again(&mut self, file: &Path, segment: &mut Vec<u8>, at: usize) -> Result<bool, Problem> {
        const LOOKS: u32 = 100;
        const PAUSE: Duration = Duration::from_millis(2);
        let mut newer = Vec::new();
        while self.0 < LOOKS {
            self.0 += 1;
            thread::sleep(PAUSE);
            segment::load(file, &mut newer)?;
            if newer.get(at..) != segment.get(at..) {
                *segment = newer;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether `batch` is the one that `link` asks for.
fn follows(batch: &Batch<'_>, link: &Link) -> Result<(), Problem> {
    let wrong = |at, what: String| Err(batch.problem(at, link.sequence, what));
    if batch.number != link.batch {
        return wrong(8, format!("batch {} where batch {} should be", batch.number, link.batch));
    }
    if batch.first_sequence != link.sequence {
        let expected = link.sequence;
        return wrong(16, format!("it begins with sequence {}; {expected} comes next", batch.first_sequence));
    }
    let expected = batch.chained(&link.hash);
    if batch.hash != expected {
        return wrong(48, format!("hash {} breaks the chain: {} is expected", hex(&batch.hash), hex(&expected)));
    }
    batch.check()
}

fn next(batch: &Batch<'_>, link: Link) -> Result<Link, Problem> {
    let numbers = link.batch.checked_add(1).zip(link.sequence.checked_add(u64::from(batch.count)));
    let (number, sequence) = numbers.ok_or_else(|| batch.problem(8, link.sequence, "the numbers end here"))?;
    Ok(Link { batch: number, sequence, hash: batch.hash, ledger: link.ledger })
}

/// Where a good batch is in `segment`, at `from` or after it.
fn any_batch(file: &Path, segment: &[u8], from: usize, salt: &[u8; 16]) -> Option<usize> {
    let may_be = |at: &usize| segment.get(*at..).is_some_and(|rest| rest.starts_with(b"EQBT"));
    (from.max(HEADER).next_multiple_of(8)..segment.len())
        .step_by(8)
        .filter(may_be)
        .find(|at| matches!(Batch::read(file, segment, *at, salt), Place::Good(_)))
}
