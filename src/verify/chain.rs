//! The journal as one chain of batches: through all segments, in order, up to its end.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::batch::{Batch, Place};
use super::bytes::hex;
use super::directory::Directory;
use super::problem::Problem;
use super::segment::{HEADER, Header, Image};

const PADDING: &str = "the padding of the batch is not zero";

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
    let (image, notes) = (Image::default(), Vec::new());
    let mut walk = Walk { directory, index: start, image, number: 0, link: None, notes, visitor };
    while walk.index < directory.segments.len() {
        walk.image.load(walk.file())?;
        walk.one_segment()?;
        walk.visitor.passed(walk.image.length);
        walk.index += 1;
    }
    Ok(End { link: walk.link, segment: walk.number, notes: walk.notes })
}

struct Walk<'a, V> {
    directory: &'a Directory,
    index: usize,
    image: Image,
    /// Of the last segment that has a header.
    number: u64,
    link: Option<Link>,
    notes: Vec<String>,
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
    fn one_segment(&mut self) -> Result<(), V::Error> {
        let file = self.file();
        let mut patience = Patience::default();
        let Some(header) = self.header(&mut patience)? else {
            self.notes.push(format!("{} is an unused segment: the journal ends before it", file.display()));
            return Ok(());
        };
        self.image.check_page().map_err(|wrong| self.problem(wrong.at, wrong.what))?;
        let mut link = self.continues(&header)?;
        self.number = header.number;
        self.visitor.segment(file, &header)?;
        // Where the next batch begins, and what of that is clean: less if padding is not zero.
        let (mut at, mut clean) = (HEADER, HEADER);
        let torn = loop {
            match Batch::read(file, self.image.segment(&header), at, &header.salt) {
                Place::End if clean < at && self.newest() => break Some(PADDING.to_owned()),
                Place::Good(_) | Place::End if clean < at => {
                    let before = Problem::at(file, clean, PADDING);
                    return Err(before.in_batch(link.batch - 1, link.sequence).into());
                }
                Place::End => break None,
                Place::Good(batch) => {
                    follows(&batch, &link)?;
                    link = next(&batch, link)?;
                    (at, clean) = (batch.end(), batch.clean_end());
                    self.visitor.batch(&batch)?;
                }
                Place::Bad(what) => {
                    if !(self.may_change() && patience.again(file, &mut self.image, at)?) {
                        break Some(what);
                    }
                }
            }
        };
        self.link = Some(link);
        Ok(self.tail(&header, clean, torn)?)
    }

    /// The header of the loaded segment; none if it is unused, which the newest one may be.
    fn header(&mut self, patience: &mut Patience) -> Result<Option<Header>, Problem> {
        loop {
            let wrong = match Header::of(&self.image.bytes, self.number()) {
                Ok(header) => return Ok(Some(header)),
                Err(wrong) => wrong,
            };
            if self.newest() && self.image.is_unused() {
                if self.index == 0 && self.number() > 1 {
                    return Err(self.problem(0, "an unused segment, and the ones before are missing"));
                }
                return Ok(None);
            }
            if !(self.may_change() && patience.again(self.file(), &mut self.image, 0)?) {
                return Err(self.problem(wrong.at, wrong.what));
            }
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

    /// Takes what follows the last batch of the segment with `header`: where that is something else than zeros, `torn`
    /// says what, and `at` where. It is a torn tail if no good batch and no segment follows, and so is a newest file of
    /// another length than it should have.
    fn tail(&mut self, header: &Header, at: usize, torn: Option<String>) -> Result<(), Problem> {
        let (segment, wrong_length) = (self.image.segment(header), self.image.wrong_length(header));
        if let Some(what) = &torn {
            self.nothing_after(header, at, what)?;
        }
        if let Some((end, _, what)) = wrong_length.as_ref().filter(|_| !self.newest()) {
            return Err(self.problem(*end, what.clone()));
        }
        let (at, bytes, cut) = match (torn, wrong_length) {
            (Some(_), _) => {
                (at, segment[at..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1), String::new())
            }
            (None, Some((end, more, what))) => (end, more, format!("{what}; ")),
            (None, None) => return Ok(()),
        };
        let then = match (self.directory.live(), bytes) {
            (true, _) => "the service is writing there",
            (false, 0) => "the next start fills it up",
            (false, _) => "the next start cuts it",
        };
        self.notes.push(format!("torn tail at {} offset {at}, {bytes} bytes: {cut}{then}", self.file().display()));
        Ok(())
    }

    /// Fails when the journal goes on after `at` of the segment with `header`, where `what` is wrong.
    fn nothing_after(&self, header: &Header, at: usize, what: &str) -> Result<(), Problem> {
        let damage = |place: String| Err(self.problem(at, format!("{what}, and {place}")));
        if let Some(good) = any_batch(self.file(), self.image.segment(header), at + 1, &header.salt) {
            return damage(format!("there is a good batch after it, at offset {good}"));
        }
        let Some(path) = self.directory.segments.get(self.index + 1) else { return Ok(()) };
        let mut later = Image::default();
        later.load(path)?;
        // Where the next segment is none, that is what is wrong, unless it is unused.
        let Ok(header) = Header::of(&later.bytes, self.number().saturating_add(1)) else { return Ok(()) };
        match any_batch(path, later.segment(&header), HEADER, &header.salt) {
            Some(good) => damage(format!("there is a good batch after it, at {} offset {good}", path.display())),
            None => damage(format!("{} says that batch {} comes next", path.display(), header.first_batch)),
        }
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
    fn again(&mut self, file: &Path, image: &mut Image, at: usize) -> Result<bool, Problem> {
        const LOOKS: u32 = 100;
        const PAUSE: Duration = Duration::from_millis(2);
        let mut newer = Image::default();
        while self.0 < LOOKS {
            self.0 += 1;
            thread::sleep(PAUSE);
            newer.load(file)?;
            if newer.bytes.get(at..) != image.bytes.get(at..) {
                *image = newer;
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
