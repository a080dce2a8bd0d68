//! The id index on disk: sorted runs of ids, merged as they become many. Derived data.
//!
//! A **run** holds the ids of all entries of a span of sequences, in a file that never changes, named
//! `{first:020}-{last:020}.run`. All of it is little-endian but the keys:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `EQPIDRN1` |
//! | 8 | 4 | CRC32C of bytes 12 to 128 |
//! | 12 | 4 | format version, 1 |
//! | 16 | 16 | the ledger's id |
//! | 32 | 8 | sequence of the first entry of the span |
//! | 40 | 8 | sequence of the last |
//! | 48 | 8 | count of records |
//! | 56 | 8 | count of the filter's blocks |
//! | 64 | 4 | CRC32C of fences and filter |
//! | 68 | 8 | sequence with which the index begins that the run is part of, or 0: not said |
//! | 76 | 4,020 | zeros |
//! | 4,096 | | pages of 4,096 bytes, see below |
//! | | | fences: of each page the first key (16) |
//! | | | the filter: blocks of eight u64 |
//!
//! A **page** has 113 records (the last page what is left, then zeros), its number from 0 (u64), the first and the last
//! sequence of the span (u64 each), and the CRC32C of all that (u32).
//!
//! A **record** is a key (16), sequence (u64), time (u64), and the member's place (u32). The key is the first 16 bytes
//! of the id's BLAKE3, keyed with the ledger's id twice: two ids with one key will not occur by chance, nor can they be
//! found on purpose. Keys ascend strictly, compared as bytes; an id that was used twice has one record, of its newest
//! entry. The **filter** shows that a key is absent. A key's block is (upper 64 bits of the key × blocks) >> 64. In it,
//! the key sets six bits of 512, counted from the lowest of the first u64: the six 9-bit numbers at the key's lower
//! end.
//!
//! # Finding
//!
//! In memory are the filters, and the upper 32 bits of each fence: 10.3 bits per id in large runs and 20.3 in small
//! ones. There are more small ones, and a filter that lets an absent id pass costs a page read, as much as some hundred
//! filter checks. A look-up asks the runs from the newest to the oldest: one cache line of each filter and, if that
//! does not exclude the key, one page of the file. The page comes from the system's cache if it is there, otherwise
//! from a read that may wait for the disk ([`Blocking`]). Several ids are looked up together, run by run, while the
//! lines of the next run are prefetched: most ids are new, and cost no more than that. A look-up takes no lock and
//! waits for nothing: the set of runs is swapped whole, and a merged run stays readable as long as somebody holds it.
//!
//! # Writing
//!
//! A run is written under a name that ends with `.tmp`, made durable, and renamed; then the folder is made durable.
//! There is no manifest: the names say which runs exist. A start removes the runs that a larger one contains (left by a
//! merge that had just ended), and everything from the first bad place on: a gap, a bad checksum, another ledger's run.
//! The caller then adds the ids from there on from the journal. Ids of entries before the journal's oldest, which
//! compaction leaves, cannot be made again: if a run of these is bad and they may still be honoured, nothing is removed
//! and the index is not opened. A good run that reaches beyond the journal's end proves that durable entries are
//! missing there; the caller checks for that before it opens the index (`beyond`). A page is checked when it is read.
//! Damage found then cannot be repaired while the ledger runs, since ids that have left the table would be new
//! meanwhile. Such reads fail, a mark is left in the directory, and the next start rebuilds the index. Runs of a newer
//! format version are neither damaged nor ours to remove: the caller checks for them before anything is opened
//! (`newer`).

mod chain;
mod fences;
mod filter;
mod format;
mod merge;
mod run;
mod writer;

use std::cmp::Reverse;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustix::io::Errno;
use thiserror::Error;

use crate::account::TransactionId;
use crate::blocking::Blocking;
use crate::folder::{Folder, is_out_of_room};
use crate::kernel::cells::{Latch, Watermark};
use crate::kernel::doorbell::Doorbell;

use self::format::{Keys, Span};
use self::run::Run;
use self::writer::Writer;
use super::{IdRecord, Index, Indexed, Key};

/// Its presence says that damage was found.
const DAMAGE_MARK: &str = "damaged";

/// Why the index could not be used. It never makes an id count as new.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum IndexError {
    /// No room for the next run.
    #[error("no space for the id index in {}", path.display())]
    NoSpace { path: PathBuf },
    /// The file system failed.
    #[error("the id index in {} failed: {what}", path.display())]
    Failed { path: PathBuf, what: String },
    /// It contains something impossible; the next start rebuilds it, if it can.
    #[error("the id index in {} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
}

impl IndexError {
    /// About how many bytes a run and its merging take.
    pub(crate) const ROOM: u64 = 8 << 20;
}

/// The journal's entries, as far as an index has to know them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JournalSpan {
    /// The sequence of the oldest entry, or of the next one to come.
    pub(crate) oldest: u64,
    /// The sequence of the newest entry.
    pub(crate) end: u64,
    /// Whether ids of entries before the oldest may still be honoured.
    pub(crate) honoured_before: bool,
}

/// The ids of one ledger on disk.
pub(crate) struct DiskIndex {
    dir: Folder,
    ledger: [u8; 16],
    /// The sequence from which on it has all ids.
    begin: u64,
    keys: Keys,
    /// The oldest first, without a gap.
    runs: ArcSwap<Vec<Arc<Run>>>,
    published: Watermark,
    /// One run at a time.
    ingesting: Mutex<()>,
    /// Wakes the merging thread.
    merge_bell: Doorbell,
    wiped: Option<String>,
    marked: Latch,
    blocking: Blocking,
}

impl DiskIndex {
    /// The name of its folder in a data directory.
    pub(crate) const FOLDER: &str = "ids";
    /// Where in a run the last sequence of its span is.
    pub(crate) const SPAN_END: u64 = 40;

    /// Its folder in the data directory `root`; makes it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn folder(root: &Folder) -> Result<Folder, IndexError> {
        let made = root.open_or_create_folder(Self::FOLDER).and_then(|dir| root.sync().map(|()| dir));
        made.map_err(|error| unwritable(&root.path_of(Self::FOLDER), &error))
    }

    /// The run in the data directory `root` that a newer release wrote, its format version, and the newest that this
    /// one reads.
    ///
    /// # Errors
    /// [`IndexError::Failed`] when the file system does not let it.
    pub(crate) fn newer(root: &Folder) -> Result<Option<(PathBuf, u32, u32)>, IndexError> {
        let Some(dir) = Self::find(root)? else { return Ok(None) };
        let newer = chain::newer(&dir)?;
        Ok(newer.map(|(span, version)| (dir.path_of(&span.name()), version, format::VERSION)))
    }

    fn find(root: &Folder) -> Result<Option<Folder>, IndexError> {
        root.find(Self::FOLDER).map_err(|error| unreadable(&root.path_of(Self::FOLDER), &error))
    }

    /// A run in the data directory `root` with ids of entries after `end`, the last sequence in the journal of `ledger`
    /// (None: the journal has not begun), and the last of these entries. They were durable, so they are missing.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`IndexError::Failed`] when the file system does not let it.
    pub(crate) fn beyond(
        root: &Folder,
        ledger: Option<&[u8; 16]>,
        end: u64,
    ) -> Result<Option<(PathBuf, u64)>, IndexError> {
        let Some(dir) = Self::find(root)? else { return Ok(None) };
        let beyond = chain::beyond(&dir, ledger, end)?;
        Ok(beyond.map(|span| (dir.path_of(&span.name()), span.last)))
    }

    /// Opens the index of `ledger` in `dir`; `journal` says which entries the journal has. First deletes what cannot be
    /// used, see [`Self::wiped`]. The caller then passes the ids of all entries after [`Index::published`] to
    /// [`Self::catch_up`].
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when ids are lost that the journal does not have either; nothing was deleted then.
    /// [`IndexError::NoSpace`], [`IndexError::Failed`] when the file system refuses.
    pub(crate) fn open(dir: Folder, ledger: [u8; 16], journal: JournalSpan) -> Result<DiskIndex, IndexError> {
        let chain = chain::open(&dir, &ledger, journal)?;
        let published = chain.last().unwrap_or(journal.oldest.saturating_sub(1));
        let begin = chain.first().unwrap_or(journal.oldest);
        Ok(DiskIndex {
            dir,
            ledger,
            begin,
            keys: Keys::new(&ledger),
            runs: ArcSwap::from_pointee(chain.runs),
            published: Watermark::new(published),
            ingesting: Mutex::new(()),
            merge_bell: Doorbell::new(),
            wiped: chain.lost,
            marked: Latch::new(),
            blocking: Blocking::default(),
        })
    }

    /// Reads pages by `blocking` from now on.
    pub(crate) fn with_blocking(self, blocking: Blocking) -> Self {
        DiskIndex { blocking, ..self }
    }

    /// Why some or all of the index was deleted when it was opened, if it was.
    pub(crate) fn wiped(&self) -> Option<&str> {
        self.wiped.as_deref()
    }

    /// While a ledger is opened: takes the ids of the entries after [`Index::published`] up to `through`.
    pub(crate) fn catch_up(&self, run: &mut Vec<IdRecord>, through: u64) -> Result<(), IndexError> {
        self.ingest(run, through)?;
        self.publish(through);
        Ok(())
    }

    /// How many records there are; an id that was used again after the window counts twice until its runs are merged.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.runs.load().iter().map(|run| run.count()).sum()
    }

    /// What the directory takes on disk.
    #[cfg(test)]
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
    }

    fn writer(&self, span: Span, ids: u64) -> Result<Writer<'_>, IndexError> {
        Writer::new(&self.dir, self.ledger, self.begin, span, ids)
    }

    /// Marks the index as wrong, so that the next start rebuilds it if it can.
    pub(crate) fn distrust(&self, what: String) -> IndexError {
        self.mark(IndexError::Damaged { path: self.dir.path().to_owned(), what })
    }

    /// Leaves the mark by which the next start knows of damage.
    fn mark(&self, error: IndexError) -> IndexError {
        if matches!(error, IndexError::Damaged { .. }) && !self.marked.is_set() {
            // If that fails, the next failing read tries again.
            let marked = self.dir.create(DAMAGE_MARK).and_then(|mut mark| write!(mark, "{error}"));
            if marked.is_ok() {
                self.marked.set();
            }
        }
        error
    }
}

impl Index for DiskIndex {
    fn published(&self) -> u64 {
        self.published.get()
    }

    fn key(&self, id: &TransactionId) -> Key {
        self.keys.key(id)
    }

    fn find(&self, key: Key) -> Result<Option<Indexed>, IndexError> {
        let runs = self.runs.load();
        runs.iter().for_each(|run| run.filter.prefetch(key));
        for run in runs.iter().rev().filter(|run| run.filter.may_hold(key)) {
            let found = run.find_cached(key).unwrap_or_else(|| self.blocking.run(|| run.find(key)));
            if let Some(found) = found.map_err(|error| self.mark(error))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn candidates(&self, keys: &[Key]) -> u64 {
        let runs = self.runs.load();
        let prefetch = |run: &Arc<Run>| keys.iter().for_each(|key| run.filter.prefetch(*key));
        runs.first().into_iter().for_each(prefetch);
        let mut candidates = 0;
        for (run, next) in runs.iter().zip(1..) {
            // The next run's lines are prefetched while this one is read.
            runs.get(next).into_iter().for_each(prefetch);
            for (key, place) in keys.iter().zip(0..) {
                candidates |= u64::from(run.filter.may_hold(*key)) << place;
            }
        }
        candidates
    }

    fn ingest(&self, run: &mut Vec<IdRecord>, through: u64) -> Result<(), IndexError> {
        let _one = self.ingesting.lock();
        let first = self.published() + 1;
        if through < first {
            return Ok(());
        }
        let span = Span { first, last: through };
        // The newest entry of an id comes first and stays.
        run.sort_unstable_by_key(|record| (record.key, Reverse(record.indexed.sequence)));
        run.dedup_by_key(|record| record.key);
        let mut writer = self.writer(span, run.len() as u64)?;
        run.iter().try_for_each(|record| writer.push(record))?;
        let written = Arc::new(writer.finish()?);
        self.runs.rcu(|runs| {
            // One that was written and never published is contained in this one.
            let before = runs.iter().take_while(|run| run.span().last < first);
            before.chain([&written]).cloned().collect::<Vec<_>>()
        });
        Ok(())
    }

    fn publish(&self, through: u64) {
        self.published.raise(through);
        if self.has_due() {
            self.merge_bell.ring();
        }
    }
}

/// The error of a call that writes.
fn unwritable(path: &Path, error: &io::Error) -> IndexError {
    if !is_out_of_room(error) {
        return IndexError::Failed { path: path.to_owned(), what: error.to_string() };
    }
    // It is the folder that has no room, not a file in it.
    let folder = path.extension().and_then(|_| path.parent());
    IndexError::NoSpace { path: folder.unwrap_or(path).to_owned() }
}

/// The error of a call that reads: what a disk cannot read any more is damaged.
fn unreadable(path: &Path, error: &io::Error) -> IndexError {
    let lost = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData);
    match lost || Errno::from_io_error(error) == Some(Errno::IO) {
        true => damaged(path, &error.to_string()),
        false => IndexError::Failed { path: path.to_owned(), what: error.to_string() },
    }
}

fn damaged(path: &Path, what: &str) -> IndexError {
    IndexError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

#[cfg(all(test, equipoise_engine))]
mod tests;
