//! The id index against the journal: every run is gone through, and every id of every entry looked up.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::batch::Batch;
use super::chain::{Link, Visitor};
use super::frame::Entry;
use super::ids::key;
use super::problem::Problem;
use super::run::{Place, Run};
use super::segment::Header;

/// How often the folder is listed again, because a service has merged runs meanwhile.
const LISTINGS: u32 = 20;

/// The index, open: changes to its files by a service have no effect.
pub(super) struct Index {
    path: PathBuf,
    /// By sequence; each begins where the one before ends.
    runs: Vec<Run>,
}

/// Opens the index in `path`, or returns why it is skipped: it is derived data, which the next start makes anew. To be
/// called before the journal is listed: otherwise the index may contain entries beyond the journal's end.
pub(super) fn open(path: &Path, live: bool) -> Result<Result<Index, String>, Problem> {
    let skipped = |why: &str| Ok(Err(format!("the id index was not checked: {why}")));
    if !path.exists() {
        return skipped("there is none");
    }
    if path.join("damaged").exists() {
        return skipped("it is marked as damaged");
    }
    let mut listings = 0;
    let runs = loop {
        listings += 1;
        if let Some(runs) = list(path, live && listings < LISTINGS)? {
            break runs;
        }
    };
    if runs.is_empty() {
        return skipped("it was never filled");
    }
    Ok(Ok(Index { path: path.to_owned(), runs }))
}

/// The good run with the newest entries' ids. Its entries were durable, so the journal has them, even if the index is
/// to be made anew.
pub(super) fn furthest(path: &Path) -> Option<Run> {
    let names = std::fs::read_dir(path).ok()?.flatten().map(|entry| entry.file_name());
    let mut spans: Vec<_> = names.filter_map(|name| Run::span(name.to_str()?)).collect();
    spans.sort_unstable_by_key(|(_, last)| std::cmp::Reverse(*last));
    spans.into_iter().find_map(|(first, last)| Run::open(path, first, last).ok())
}

/// The runs that no other run contains; `None` if one was removed after the folder was listed.
fn list(path: &Path, may_vanish: bool) -> Result<Option<Vec<Run>>, Problem> {
    let mut spans = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| Problem::unreadable(path, &error))? {
        let name = entry.map_err(|error| Problem::unreadable(path, &error))?.file_name();
        spans.extend(name.to_str().and_then(Run::span));
    }
    spans.sort_unstable_by_key(|(first, last)| (*first, std::cmp::Reverse(*last)));
    let mut runs: Vec<Run> = Vec::new();
    for (first, last) in spans {
        let before = runs.last().map(|run| run.last);
        if before.is_some_and(|before| last <= before) {
            continue;
        }
        match Run::open(path, first, last) {
            Err(problem) if problem.unreadable && may_vanish => return Ok(None),
            Err(problem) => return Err(problem),
            Ok(run) if before.is_some_and(|before| before + 1 != first) => {
                let before = before.unwrap_or_default();
                return Err(Problem::new(&run.path, format!("the run before it ends with sequence {before}")));
            }
            Ok(run) => runs.push(run),
        }
    }
    Ok(Some(runs))
}

impl Index {
    /// How many ids it holds; one that was used again after the window may count twice.
    pub(super) fn count(&self) -> u64 {
        self.runs.iter().map(Run::count).sum()
    }

    /// What a ledger that uses it keeps of it in memory, in bytes.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.runs.iter().map(Run::resident_bytes).sum()
    }

    /// Goes through all runs, and then looks up every id that `walk` shows; the journal ends at `end`.
    pub(super) fn check(self, oldest: u64, end: &Link) -> Result<Check, Problem> {
        if let Some(run) = self.runs.first()
            && run.first > oldest
        {
            return Err(Problem::new(&run.path, format!("it is the first; the journal begins with sequence {oldest}")));
        }
        let said = self.runs.iter().map(|run| run.begin).filter(|begin| *begin > 0).min();
        if let (Some(run), Some(begin)) = (self.runs.first(), said)
            && run.first > begin
        {
            return Err(Problem::new(&run.path, format!("it is the first; the index began with sequence {begin}")));
        }
        self.runs.iter().try_for_each(|run| run.check(&end.ledger))?;
        let published = self.runs.last().map_or(0, |run| run.last);
        Ok(Check { ledger: end.ledger, index: self, published, found: 0, reused: HashMap::new() })
    }

    fn get(&self, key: &[u8; 16]) -> Result<Option<Place>, Problem> {
        for run in self.runs.iter().rev() {
            if let Some(place) = run.get(key)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// The comparison under way.
pub(super) struct Check {
    index: Index,
    ledger: [u8; 16],
    published: u64,
    found: u64,
    /// Ids that the index knows from a later entry than the one that was looked at: used again after the window.
    reused: HashMap<u128, (String, Place)>,
}

impl Check {
    /// How many ids were found, when all were shown.
    pub(super) fn end(self) -> Result<u64, Problem> {
        match self.reused.into_values().min_by_key(|(_, place)| place.sequence) {
            None => Ok(self.found),
            Some((id, place)) => {
                let what = format!("id {id} is said to be used by sequence {}, which does not", place.sequence);
                Err(Problem { sequence: Some(place.sequence), ..Problem::new(&self.index.path, what) })
            }
        }
    }

    fn hashed(&self, id: &str) -> [u8; 16] {
        let mut keyed = blake3::Hasher::new_keyed(&[self.ledger, self.ledger].concat().try_into().unwrap_or_default());
        let mut first = [0; 16];
        first.copy_from_slice(&keyed.update(id.as_bytes()).finalize().as_bytes()[..16]);
        first
    }

    /// Looks up the ids of `entry`, and says what is wrong with them.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Result<(), String>, Problem> {
        if entry.sequence > self.published {
            return Ok(Ok(()));
        }
        for (place, member, _) in entry.parts() {
            let Some(id) = member.id else { continue };
            let expected = Place { sequence: entry.sequence, time: entry.time, member: place };
            match self.index.get(&self.hashed(id))? {
                Some(place) if place == expected => {
                    self.found += 1;
                    self.reused.remove(&key(id));
                }
                Some(place) if place.sequence > entry.sequence => {
                    self.reused.insert(key(id), (id.to_owned(), place));
                }
                Some(place) => {
                    let Place { sequence, time, member } = place;
                    return Ok(Err(format!(
                        "the id index has id {id} at sequence {sequence}, time {time}, member {member}; \
                         the journal at sequence {}, time {}, member {}",
                        expected.sequence, expected.time, expected.member,
                    )));
                }
                None => return Ok(Err(format!("id {id} is missing in the id index"))),
            }
        }
        Ok(Ok(()))
    }
}

impl Visitor for Check {
    type Error = Problem;

    fn segment(&mut self, _file: &Path, _header: &Header) -> Result<(), Problem> {
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Problem> {
        let mut entry = Entry::default();
        let mut frames = batch.frames();
        while frames.next(&mut entry)? {
            self.entry(&entry)?.map_err(|what| batch.problem(entry.at, entry.sequence, what))?;
        }
        Ok(())
    }
}
