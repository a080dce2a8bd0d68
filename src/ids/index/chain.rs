//! Which runs are there when the index is opened: a chain without a gap, from the journal's oldest entry or before it.

use std::cmp::Reverse;
use std::io::Read as _;
use std::sync::Arc;

use super::format::{FORMAT, Span};
use super::run::Run;
use super::{DAMAGE_MARK, IndexError, unreadable, unwritable};
use crate::folder::Folder;
use crate::format::HEADER;

/// The runs that can be used, the oldest first.
pub(super) struct Chain {
    pub(super) runs: Vec<Arc<Run>>,
    /// Why it reaches less far than the files did, if so.
    pub(super) lost: Option<String>,
}

impl Chain {
    /// Where it ends.
    pub(super) fn last(&self) -> Option<u64> {
        self.runs.last().map(|run| run.span().last)
    }
}

/// Opens the runs in `dir` of the ledger whose journal has the entries from `oldest` to `end`, and removes every other:
/// those that a larger one contains, and from the first bad place on all that follows.
pub(super) fn open(dir: &Folder, ledger: &[u8; 16], oldest: u64, end: u64) -> Result<Chain, IndexError> {
    let spans = tidy(dir)?;
    let highest = spans.iter().map(|span| span.last).max();
    let mut chain = Chain { runs: Vec::new(), lost: None };
    for span in spans {
        let next = chain.last().map_or(oldest, |last| last + 1);
        let begins = chain.runs.is_empty();
        let why_not = match span {
            Span { last, .. } if !begins && last < next => None,
            Span { last, .. } if last > end => {
                Some(format!("{} goes beyond the journal's end, sequence {end}", span.name()))
            }
            Span { first, .. } if first > next || (!begins && first != next) => {
                Some(format!("sequence {next} and what follows it are missing"))
            }
            span => match Run::open(dir, span, Some(ledger)) {
                Ok(run) => {
                    chain.runs.push(Arc::new(run));
                    continue;
                }
                Err(IndexError::Damaged { what, .. }) => Some(format!("{}: {what}", span.name())),
                Err(error) => return Err(error),
            },
        };
        // The first reason: what follows is bad because of it.
        chain.lost = chain.lost.or(why_not);
        remove(dir, &span.name())?;
    }
    if chain.last() == highest {
        chain.lost = None;
    }
    Ok(chain)
}

/// The run that goes furthest beyond sequence `end`, if a good one does; of any ledger, where `ledger` is not known.
pub(super) fn beyond(dir: &Folder, ledger: Option<&[u8; 16]>, end: u64) -> Result<Option<Span>, IndexError> {
    let mut spans: Vec<_> = names(dir)?.iter().filter_map(|name| Span::of_name(name)).collect();
    spans.retain(|span| span.last > end);
    spans.sort_unstable_by_key(|span| Reverse(span.last));
    for span in spans {
        match Run::open(dir, span, ledger) {
            Ok(_) => return Ok(Some(span)),
            // What is not as it was written proves nothing.
            Err(IndexError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A run that a newer release wrote, and its format version: it is neither damaged nor ours to remove.
pub(super) fn newer(dir: &Folder) -> Result<Option<(Span, u32)>, IndexError> {
    for span in names(dir)?.iter().filter_map(|name| Span::of_name(name)) {
        let (name, mut header) = (span.name(), Vec::new());
        let read = dir.open_read(&name).and_then(|file| file.take(HEADER as u64).read_to_end(&mut header));
        // One that cannot be read is damaged, which is found when it is opened.
        if let (Ok(_), Some(version)) = (read, FORMAT.newer(&header)) {
            return Ok(Some((span, version)));
        }
    }
    Ok(None)
}

/// Whether damage was found before.
pub(super) fn is_marked(dir: &Folder) -> Result<bool, IndexError> {
    Ok(names(dir)?.iter().any(|name| name == DAMAGE_MARK))
}

/// Removes all runs for good, and only then what says that they are damaged.
pub(super) fn wipe(dir: &Folder) -> Result<(), IndexError> {
    for span in tidy(dir)? {
        remove(dir, &span.name())?;
    }
    dir.sync().map_err(|error| unwritable(dir.path(), &error))?;
    remove(dir, DAMAGE_MARK)
}

/// The runs by first sequence, of several the longest first. Removes what was not completed.
fn tidy(dir: &Folder) -> Result<Vec<Span>, IndexError> {
    let mut spans = Vec::new();
    for name in names(dir)? {
        spans.extend(Span::of_name(&name));
        if name.ends_with(".tmp") {
            remove(dir, &name)?;
        }
    }
    spans.sort_unstable_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
    Ok(spans)
}

fn names(dir: &Folder) -> Result<Vec<String>, IndexError> {
    dir.list().map_err(|error| unreadable(dir.path(), &error))
}

fn remove(dir: &Folder, name: &str) -> Result<(), IndexError> {
    dir.remove(name).map_err(|error| unwritable(&dir.path_of(name), &error))
}
