//! The sources: how far each was read, and which of their records were put aside.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::bytes::{Bytes, Read, Wrong};
use super::problem::Problem;

const CONTINUES: u8 = 1;
const GOES_ON: u8 = 2;
const LONGEST_NAME: u16 = 512;

/// One change, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Position { source: &'a str, next: i64, fingerprint: i64, anew: bool },
    Parked { number: u64, record: &'a [u8] },
    Unparked { number: u64 },
}

/// Joins the sections of consecutive batches.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    /// A section that began, and continues in the next batch.
    begun: Option<Vec<u8>>,
    /// The changes in the section that the last batch completed.
    ended: Vec<u8>,
}

impl Sections {
    /// Takes the next batch's section. A continuation whose beginning was not shown is an error; with `first` it is
    /// skipped.
    pub(crate) fn take(&mut self, batch: &Batch<'_>, first: bool) -> Result<(), Problem> {
        let begun = self.begun.take();
        self.ended.clear();
        let Some((flags, bytes)) = batch.section().split_first() else { return Ok(()) };
        let wrong = |what: String| Err(batch.problem(super::batch::HEADER, batch.first_sequence, what));
        if flags & !(CONTINUES | GOES_ON) != 0 {
            return wrong(format!("unknown flags {flags:#x} of the sources"));
        }
        if bytes.is_empty() {
            return wrong("sources without a change".to_owned());
        }
        let mut changes = match (flags & CONTINUES != 0, begun) {
            (true, None) if first => return Ok(()),
            (true, None) => return wrong("it goes on with sources that the batch before did not begin".to_owned()),
            (true, Some(begun)) => begun,
            // A section that began was never completed: a process died, and told nobody of it.
            (false, _) => Vec::new(),
        };
        changes.extend_from_slice(bytes);
        match flags & GOES_ON != 0 {
            true => self.begun = Some(changes),
            false => self.ended = changes,
        }
        Ok(())
    }

    /// Shows `each` the changes that the batch taken last ended.
    pub(crate) fn changes<E: From<Problem>>(
        &self,
        batch: &Batch<'_>,
        mut each: impl FnMut(Change<'_>) -> Result<Result<(), String>, E>,
    ) -> Result<(), E> {
        let mut bytes = Bytes::new(&self.ended);
        while !bytes.is_empty() {
            let here = bytes;
            let wrong = |Wrong { what, .. }| batch.problem(super::batch::HEADER, batch.first_sequence, what);
            let change = change(&mut bytes).map_err(wrong)?;
            each(change)?.map_err(|what| wrong(here.wrong(what)))?;
        }
        Ok(())
    }
}

fn change<'a>(bytes: &mut Bytes<'a>) -> Read<Change<'a>> {
    let begin = *bytes;
    Ok(match bytes.u8()? {
        kind @ (1 | 4) => {
            let length = bytes.u16()?;
            let source = std::str::from_utf8(bytes.take(usize::from(length))?);
            let source = source.map_err(|_| begin.wrong("the name of a source that is not UTF-8"))?;
            if length == 0 || length > LONGEST_NAME || source.chars().any(char::is_control) {
                return Err(begin.wrong(format!("the name of a source, {length} bytes, that cannot be one")));
            }
            Change::Position { source, next: bytes.i64()?, fingerprint: bytes.i64()?, anew: kind == 4 }
        }
        2 => {
            let (number, length) = (bytes.u64()?, bytes.u32()?);
            Change::Parked { number, record: bytes.take(length as usize)? }
        }
        3 => Change::Unparked { number: bytes.u64()? },
        other => return Err(begin.wrong(format!("unknown kind {other} of a change of the sources"))),
    })
}

/// The state after the changes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    /// The next offset of each source, and its fingerprint.
    positions: BTreeMap<Box<str>, (i64, i64)>,
    /// The hashes of the parked records, by number.
    parked: BTreeMap<u64, [u8; 32]>,
    /// The highest number of a parked record.
    last: u64,
}

impl Sources {
    pub(super) fn count(&self) -> u64 {
        self.positions.len() as u64
    }

    pub(super) fn parked(&self) -> u64 {
        self.parked.len() as u64
    }

    /// Applies `change`, or returns what is wrong with it.
    pub(super) fn apply(&mut self, change: Change<'_>) -> Result<(), String> {
        match change {
            Change::Position { source, next, fingerprint, anew } => {
                let before = self.positions.get(source).filter(|(before, _)| *before > next);
                if let Some((before, _)) = before.filter(|_| !anew) {
                    return Err(format!("source {source} goes back from {before} to {next}"));
                }
                if anew && before.is_none() {
                    return Err(format!("source {source} begins anew at {next}, and that is not back"));
                }
                self.positions.insert(source.into(), (next, fingerprint));
            }
            Change::Parked { number, record } => {
                if number != self.last.saturating_add(1) {
                    return Err(format!("record {number} is parked; {} was the last one", self.last));
                }
                self.last = number;
                self.parked.insert(number, *blake3::hash(record).as_bytes());
            }
            Change::Unparked { number } => {
                if self.parked.remove(&number).is_none() {
                    return Err(format!("record {number} is taken back, and was not parked"));
                }
            }
        }
        Ok(())
    }

    /// Reads the section of a checkpoint; `last` is the highest number of a parked record.
    pub(super) fn of_checkpoint(section: &[u8], last: u64) -> Read<Self> {
        let mut sources = Sources { last, ..Sources::default() };
        let mut bytes = Bytes::new(section);
        while !bytes.is_empty() {
            let begin = bytes;
            match change(&mut bytes)? {
                Change::Position { anew: true, source, .. } => {
                    return Err(begin.wrong(format!("source {source} begins anew in a checkpoint")));
                }
                Change::Position { source, .. }
                    if sources.positions.last_key_value().is_some_and(|(before, _)| **before >= *source)
                        || !sources.parked.is_empty() =>
                {
                    return Err(begin.wrong(format!("source {source} is out of order")));
                }
                Change::Position { source, next, fingerprint, .. } => {
                    sources.positions.insert(source.into(), (next, fingerprint));
                }
                Change::Parked { number, .. }
                    if number == 0
                        || number > last
                        || sources.parked.last_key_value().is_some_and(|(before, _)| *before >= number) =>
                {
                    return Err(begin.wrong(format!("parked record {number} is out of order")));
                }
                Change::Parked { number, record } => {
                    sources.parked.insert(number, *blake3::hash(record).as_bytes());
                }
                Change::Unparked { number } => {
                    return Err(begin.wrong(format!("record {number} is taken back in a checkpoint")));
                }
            }
        }
        Ok(sources)
    }

    /// How `stated`, of a checkpoint, differs from this.
    pub(super) fn difference(&self, stated: &Sources) -> Option<String> {
        if self == stated {
            return None;
        }
        for source in self.positions.keys().chain(stated.positions.keys()) {
            let (replayed, stated) = (self.positions.get(source), stated.positions.get(source));
            if replayed != stated {
                return Some(format!("source {source} is at {stated:?}; the journal says {replayed:?}"));
            }
        }
        for number in self.parked.keys().chain(stated.parked.keys()) {
            if self.parked.get(number) != stated.parked.get(number) {
                return Some(format!("parked record {number} is not as the journal has it"));
            }
        }
        Some(format!("{} was the last parked record; the journal says {}", stated.last, self.last))
    }
}
