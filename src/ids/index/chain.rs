//! Which runs are there when the index is opened: a chain without a gap, from the journal's oldest entry or before it.

use std::cmp::Reverse;
use std::io::Read as _;
use std::sync::Arc;

use super::format::{FORMAT, Span};
use super::run::Run;
use super::{DAMAGE_MARK, IndexError, JournalSpan, damaged, unreadable, unwritable};
use crate::folder::Folder;
use crate::format::HEADER;

/// The runs that can be used, the oldest first.
pub(super) struct Chain {
    pub(super) runs: Vec<Arc<Run>>,
    /// Why it holds less than the files did, if so.
    pub(super) lost: Option<String>,
}

impl Chain {
    /// Where it begins.
    pub(super) fn first(&self) -> Option<u64> {
        self.runs.first().map(|run| run.span().first)
    }

    /// Where it ends.
    pub(super) fn last(&self) -> Option<u64> {
        self.runs.last().map(|run| run.span().last)
    }
}

/// What is wrong with a file of the index.
struct Flaw {
    name: String,
    what: String,
}

/// Opens the runs of `ledger` in `dir`; `journal` says which entries the journal has. Removes the others: runs that a
/// larger one contains, and everything from the first bad place on; or all of them, if ids of entries before the
/// journal's oldest cannot be relied on.
///
/// # Errors
/// [`IndexError::Damaged`] if ids from before the journal's oldest entry may be honoured and are lost; nothing is
/// removed then.
pub(super) fn open(dir: &Folder, ledger: &[u8; 16], journal: JournalSpan) -> Result<Chain, IndexError> {
    let JournalSpan { oldest, honoured_before, .. } = journal;
    let spans = tidy(dir)?;
    let mark = mark(dir)?;
    let is_marked = mark.is_some();
    let (runs, mut flaw) = match mark {
        Some(mark) => (Vec::new(), Some(mark)),
        None => link(dir, ledger, journal, &spans)?,
    };
    let mut chain = Chain { runs, lost: None };
    if let Some(gap) = gap_before(oldest, dir, ledger, &spans, &chain) {
        let Flaw { name, what } = flaw.unwrap_or(gap);
        if honoured_before {
            return Err(damaged(&dir.path_of(&name), &cannot_be_made_again(&what, oldest)));
        }
        chain.runs.clear();
        flaw = Some(Flaw { name, what });
    }
    if spans.is_empty() && honoured_before {
        let what = format!("the ids of entries before sequence {oldest}, where the journal begins, are gone");
        flaw = flaw.or(Some(Flaw { name: "it is missing".to_owned(), what }));
    }
    let highest = spans.iter().map(|span| span.last).max();
    let is_whole = highest.is_some() && chain.last() == highest;
    chain.lost = flaw.filter(|_| !is_whole).map(|Flaw { name, what }| format!("{name}: {what}"));

    for span in spans.iter().filter(|span| chain.runs.iter().all(|run| run.span() != **span)) {
        remove(dir, &span.name())?;
    }
    if is_marked {
        // What says that runs are damaged goes when they are gone for good.
        dir.sync().map_err(|error| unwritable(dir.path(), &error))?;
        remove(dir, DAMAGE_MARK)?;
    }
    Ok(chain)
}

fn cannot_be_made_again(what: &str, oldest: u64) -> String {
    format!(
        "{what}. Ids are in there of entries before sequence {oldest}, where the journal begins: the index cannot be made again. Put \
         the folder ids back from a copy; to go on without it, and execute requests with these ids again, remove the folder ids"
    )
}

/// What `chain` lacks of the ids that the index had of entries before `oldest`, where the journal begins, if it lacks
/// any.
fn gap_before(oldest: u64, dir: &Folder, ledger: &[u8; 16], spans: &[Span], chain: &Chain) -> Option<Flaw> {
    if oldest <= 1 {
        return None;
    }
    // As the names and the headers say. A run that cannot be read says nothing.
    let headers = spans.iter().filter_map(|span| Run::open_header(dir, *span, Some(ledger)).ok());
    let said = headers.map(|(_, header)| header.begin).filter(|begin| *begin > 0);
    let begin = said.chain(spans.iter().map(|span| span.first)).min().filter(|begin| *begin < oldest)?;
    let reaches = chain.first() == Some(begin) && chain.last().is_some_and(|last| last + 1 >= oldest);
    (!reaches).then(|| Flaw {
        name: chain.runs.first().map_or(String::new(), |run| run.span().name()),
        what: format!("the index began with sequence {begin}, and some runs are missing"),
    })
}

/// The runs that form a chain, and the first flaw; the runs after a flaw are unusable because of it.
fn link(
    dir: &Folder,
    ledger: &[u8; 16],
    journal: JournalSpan,
    spans: &[Span],
) -> Result<(Vec<Arc<Run>>, Option<Flaw>), IndexError> {
    let (mut runs, mut flaw) = (Vec::<Arc<Run>>::new(), None);
    for span in spans {
        let last = runs.last().map(|run| run.span().last);
        let next = last.map_or(journal.oldest, |last| last + 1);
        let what = if last.is_some_and(|last| span.last <= last) {
            continue;
        } else if span.last > journal.end {
            format!("it goes beyond the journal's end, sequence {}", journal.end)
        } else if span.first > next || (last.is_some() && span.first != next) {
            format!("sequence {next} and what follows it are missing")
        } else {
            match Run::open(dir, *span, Some(ledger)) {
                Ok(run) => {
                    runs.push(Arc::new(run));
                    continue;
                }
                Err(IndexError::Damaged { what, .. }) => what,
                Err(error) => return Err(error),
            }
        };
        flaw.get_or_insert(Flaw { name: span.name(), what });
    }
    Ok((runs, flaw))
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

/// What damage was found before, if any was.
fn mark(dir: &Folder) -> Result<Option<Flaw>, IndexError> {
    if !names(dir)?.iter().any(|name| name == DAMAGE_MARK) {
        return Ok(None);
    }
    let mut what = String::new();
    // The text is for people; the file's presence is what counts.
    let _ = dir.open_read(DAMAGE_MARK).and_then(|file| file.take(1_000).read_to_string(&mut what));
    Ok(Some(Flaw { name: DAMAGE_MARK.to_owned(), what: format!("damage was found before ({what})") }))
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
