//! Compaction: the oldest segments go, when no start and no transaction id needs them any more.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::checkpoint::{self, Covered};
use super::files::{CHECKPOINTS, Files, JOURNAL, OnDisk};
use super::recovery::{Recovery, recover};
use super::scan::{Extent, read_through};
use super::segment::{self, LedgerId};
use crate::clock::nanoseconds;
use crate::opening::{OpenError, Progress};
use crate::request::DEFAULT_ID_WINDOW;
use crate::site::Site;

/// What [`compact`] has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactOptions {
    /// At least so many of the newest entries stay (default 0).
    pub keep_entries: u64,
    /// How long a transaction id is honoured (default 24 hours): what the ledger is opened with.
    pub id_window: Duration,
    /// Removes nothing, and tells what would be removed.
    pub dry_run: bool,
}

impl Default for CompactOptions {
    fn default() -> Self {
        CompactOptions { keep_entries: 0, id_window: DEFAULT_ID_WINDOW, dry_run: false }
    }
}

/// What [`compact`] did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The segments that went, from the oldest on.
    pub dropped: Vec<DroppedSegment>,
    /// How many stay.
    pub kept: u64,
    /// The total length of the segments that stay, in bytes.
    pub kept_bytes: u64,
    /// The sequence of the oldest entry that stays, or of the next one to come.
    pub oldest: u64,
    /// Why the oldest segment that stays does so.
    pub because: KeptBecause,
}

impl Compacted {
    /// How many bytes were freed.
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.dropped.iter().map(|segment| segment.bytes).sum()
    }
}

/// A segment that is no longer needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedSegment {
    /// Its file.
    pub file: PathBuf,
    /// The sequence of its first entry.
    pub first: u64,
    /// The sequence of its last entry; before `first` when it has none.
    pub last: u64,
    /// How long the file is, in bytes.
    pub bytes: u64,
}

/// Why a segment stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeptBecause {
    /// The next entry is written there.
    #[error("the journal ends there")]
    Tail,
    /// There are fewer than two good checkpoints, so a start may have to begin further back.
    #[error("two good checkpoints are needed, and there are {good}{}", in_brackets(passed_over.as_deref()))]
    TooFewCheckpoints {
        /// How many there are.
        good: usize,
        /// A checkpoint that cannot be used, and why.
        passed_over: Option<String>,
    },
    /// A start from the older of the two newest good checkpoints reads it.
    #[error("a start from the checkpoint at sequence {sequence} reads it")]
    Checkpoint {
        /// That checkpoint's sequence.
        sequence: u64,
    },
    /// Its ids are still honoured.
    #[error("its newest transaction ids are still honoured")]
    Window,
    /// So many of the newest entries were to be kept.
    #[error("the newest {entries} entries are to be kept")]
    Entries {
        /// How many.
        entries: u64,
    },
}

fn in_brackets(text: Option<&str>) -> String {
    text.map_or(String::new(), |text| format!(" ({text})"))
}

/// Removes the oldest segments of the ledger in the data directory `dir`, which must not be open. A segment is removed
/// if it lies entirely behind the older of the two newest good checkpoints, and its newest entry is older than the id
/// window, by the journal's own time. Records of old transactions are gone then ([`HistoryError::Gone`]); balances are
/// not affected.
///
/// The whole journal and both checkpoints are read before anything is removed. Segments are removed one by one, each
/// durably before the next, so an interruption leaves a journal without a gap. `progress` is called with the progress
/// of reading; Break ends it with [`OpenError::Cancelled`].
///
/// [`HistoryError::Gone`]: crate::HistoryError::Gone
///
/// # Errors
/// [`OpenError`]: in use, damaged, or the system refused something; after a refused removal the ones before it are
/// gone.
pub fn compact(
    dir: impl AsRef<Path>,
    options: &CompactOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Compacted, OpenError> {
    let dir = dir.as_ref();
    let folder = dir.join(JOURNAL);
    // Nothing is made where there is no ledger.
    folder.metadata().map_err(|error| OpenError::Io { path: folder, what: "find", error })?;
    Site::look(dir, &[CHECKPOINTS]).occupy(|root, _lock| {
        let files =
            OnDisk::within(root).map_err(|error| OpenError::Io { path: dir.to_owned(), what: "open", error })?;
        compact_in(&files, options, progress)
    })
}

/// As [`compact`], on any kind of disk, whose lock the caller has.
pub(super) fn compact_in(
    files: &dyn Files,
    options: &CompactOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Compacted, OpenError> {
    // As a start would: the journal and the newest checkpoint belong together.
    let silent = &mut |_| ControlFlow::Continue(());
    recover(files, &mut Recovery { install: &mut |_| Ok(()), progress: silent, tell: &|_| {} })?;
    let extents = read_through(files, &mut Recovery { install: &mut |_| Ok(()), progress, tell: &|_| {} })?;
    if extents.is_empty() {
        let what = "there is no segment".to_owned();
        return Err(OpenError::Damaged { file: files.path(JOURNAL), offset: 0, what });
    }
    let (count, because) = droppable(files, &extents, options)?;
    let (dropped, kept) = extents.split_at(count);
    if !options.dry_run {
        for extent in dropped {
            remove(files, extent.header.number)?;
        }
    }
    Ok(Compacted {
        dropped: dropped.iter().map(|extent| describe(files, extent)).collect(),
        kept: kept.len() as u64,
        kept_bytes: kept.iter().map(|extent| extent.header.length).sum(),
        oldest: kept.first().map_or(1, |extent| extent.header.first),
        because,
    })
}

/// How many segments may go, from the oldest on, and why the next one may not.
fn droppable(
    files: &dyn Files,
    extents: &[Extent],
    options: &CompactOptions,
) -> Result<(usize, KeptBecause), OpenError> {
    let Some(tail) = extents.last() else { return Ok((0, KeptBecause::Tail)) };
    let good = good_checkpoints(files, tail.header.ledger)?;
    let covered = match good {
        Ok(older) => older,
        Err(few) => return Ok((0, if extents.len() == 1 { KeptBecause::Tail } else { few })),
    };
    let window = nanoseconds(options.id_window);
    let newest = tail.next - 1;
    let why = |extent: &Extent| {
        let last = extent.next - 1;
        if extent.header.number == tail.header.number {
            Some(KeptBecause::Tail)
        } else if last > covered.sequence || covered.batch.map_or(extent.noted, |batch| extent.batch > batch) {
            Some(KeptBecause::Checkpoint { sequence: covered.sequence })
        } else if extent.time.saturating_add(window) >= tail.time {
            Some(KeptBecause::Window)
        } else if newest.saturating_sub(last) < options.keep_entries {
            Some(KeptBecause::Entries { entries: options.keep_entries })
        } else {
            None
        }
    };
    let kept = extents.iter().enumerate().find_map(|(place, extent)| Some((place, why(extent)?)));
    Ok(kept.unwrap_or((0, KeptBecause::Tail)))
}

/// What the older of the two newest good checkpoints has; or that there are too few.
fn good_checkpoints(files: &dyn Files, ledger: LedgerId) -> Result<Result<Covered, KeptBecause>, OpenError> {
    let cannot = |what, name: &str| {
        let path = files.path(name);
        move |error| OpenError::Io { path, what, error }
    };
    let (mut good, mut passed_over) = (0, None);
    for sequence in checkpoint::all(files).map_err(cannot("list", CHECKPOINTS))? {
        let name = checkpoint::name(sequence);
        let file = files.open(&name).map_err(cannot("open", &name))?;
        match checkpoint::read(&*file) {
            Ok(header) if header.sequence == sequence && header.ledger == ledger => {
                good += 1;
                if good == 2 {
                    return Ok(Ok(header.covered()));
                }
            }
            Ok(_) => drop(passed_over.get_or_insert(format!("{}: it belongs elsewhere", files.path(&name).display()))),
            Err(what) => drop(passed_over.get_or_insert(format!("{}: {what}", files.path(&name).display()))),
        }
    }
    Ok(Err(KeptBecause::TooFewCheckpoints { good, passed_over }))
}

fn describe(files: &dyn Files, extent: &Extent) -> DroppedSegment {
    let file = files.path(&segment::name(extent.header.number));
    DroppedSegment { file, first: extent.header.first, last: extent.next - 1, bytes: extent.header.length }
}

/// Removes one for good: were a later one gone before it, the journal would have a gap.
fn remove(files: &dyn Files, number: u64) -> Result<(), OpenError> {
    let name = segment::name(number);
    let removed = files.remove(&name).and_then(|()| files.sync_folder(JOURNAL));
    removed.map_err(|error| OpenError::Io { path: files.path(&name), what: "remove", error })
}
