//! All accounts as of one sequence: the newest checkpoint at or before it, and the entries after that done again.

use std::path::Path;

use super::batch::Batch;
use super::chain::{Visitor, walk};
use super::checkpoint::{self, Expected};
use super::directory::Directory;
use super::frame::{Entry, State};
use super::problem::Problem;
use super::replay::Replay;
use super::segment::{self, Header};

/// The accounts, in memory.
pub(crate) struct Accounts {
    pub(crate) ledger: [u8; 16],
    /// The accounts contain every entry up to this sequence, and none after it.
    pub(crate) sequence: u64,
    /// Checkpoints that were skipped.
    pub(crate) notes: Vec<String>,
    replay: Replay,
}

/// Why there are none to show.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The directory is not whole, or cannot be read.
    Problem(Problem),
    /// The entries that would be needed were dropped.
    Dropped {
        /// The first sequence that is left.
        oldest: u64,
    },
    /// The journal does not reach that far yet.
    Ahead {
        /// The last sequence in the journal.
        last: u64,
    },
}

impl From<Problem> for Unavailable {
    fn from(problem: Problem) -> Self {
        Unavailable::Problem(problem)
    }
}

impl Accounts {
    /// The accounts as of sequence `at`, or as of the journal's present end. `progress` gets the number of bytes read,
    /// and of how many.
    pub(crate) fn read(
        directory: &Directory,
        at: Option<u64>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Unavailable> {
        let through = at.unwrap_or(u64::MAX);
        let mut notes = Vec::new();
        let first = segment::peek(&directory.segments[0])?;
        let (replay, base) = begin(directory, &first, through, &mut notes)?;
        let start = directory.segment_of(base + 1);
        let total = directory.bytes_from(start);
        let mut forward = Forward { replay, last: base, through, done: 0, total, progress };
        match walk(directory, start, &mut forward) {
            Ok(end) => {
                let last = end.last_sequence();
                if last < base {
                    let what = format!("a checkpoint at sequence {base}; the journal ends at {last}");
                    return Err(Problem::new(&directory.path.join("checkpoints"), what).into());
                }
            }
            Err(Stop::Enough) => {}
            Err(Stop::Problem(problem)) => return Err(problem.into()),
        }
        let Forward { replay, last, .. } = forward;
        match at {
            Some(at) if at > last => Err(Unavailable::Ahead { last }),
            _ => Ok(Accounts { ledger: first.ledger, sequence: last, notes, replay }),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.replay.accounts()
    }

    /// Each account with its state and the sequence of its last change, in the order of the ids' bytes.
    pub(crate) fn in_order(&self) -> Vec<(&str, State, u64)> {
        let all = self.replay.all().map(|(id, account)| (id, account.state, account.changed));
        let mut accounts: Vec<_> = all.collect();
        accounts.sort_unstable_by_key(|(id, ..)| *id);
        accounts
    }
}

/// What the replay begins with, and its sequence.
fn begin(
    directory: &Directory,
    first: &Header,
    through: u64,
    notes: &mut Vec<String>,
) -> Result<(Replay, u64), Unavailable> {
    let reachable = |sequence: u64| sequence <= through && first.first_sequence <= sequence.saturating_add(1);
    for (sequence, path, file) in directory.checkpoints.iter().rev().filter(|(sequence, ..)| reachable(*sequence)) {
        let mut replay = Replay::default();
        let expected = Expected { sequence: *sequence, time: None, ledger: first.ledger, replay: &Replay::default() };
        match checkpoint::adopt(path, file, &expected, &mut replay) {
            Ok(_) => return Ok((replay, *sequence)),
            Err(problem) => notes.push(format!("passed over: {problem}")),
        }
    }
    match first.first_sequence {
        1 => Ok((Replay::default(), 0)),
        _ => {
            let reach = |(sequence, ..): &&(u64, _, _)| first.first_sequence <= sequence.saturating_add(1);
            let oldest =
                directory.checkpoints.iter().find(reach).map_or(first.first_sequence, |(sequence, ..)| *sequence);
            Err(Unavailable::Dropped { oldest })
        }
    }
}

/// The replay under way.
struct Forward<'a> {
    replay: Replay,
    /// The last sequence that was done.
    last: u64,
    /// The last sequence wanted.
    through: u64,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

enum Stop {
    Enough,
    Problem(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Stop::Problem(problem)
    }
}

impl Visitor for Forward<'_> {
    type Error = Stop;

    fn segment(&mut self, _file: &Path, _header: &Header) -> Result<(), Stop> {
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Stop> {
        if batch.first_sequence.saturating_add(u64::from(batch.count)) <= self.last + 1 {
            return Ok(());
        }
        let mut entry = Entry::default();
        let mut frames = batch.frames();
        while frames.next(&mut entry)? {
            if entry.sequence <= self.last {
                continue;
            }
            if entry.sequence > self.through {
                return Err(Stop::Enough);
            }
            self.replay.apply(&entry).map_err(|what| batch.problem(entry.at, entry.sequence, what))?;
            self.last = entry.sequence;
        }
        Ok(())
    }

    fn passed(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(self.done, self.total);
    }
}
