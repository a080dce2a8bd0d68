//! How a ledger is made: its limits and its parts.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::account::{Balance, TransactionId};
use crate::blocking::Blocking;
use crate::clock::{Clock, nanoseconds};
use crate::core::{Core, Limits};
use crate::directory::Directory;
use crate::event::Event;
use crate::folder::Folder;
use crate::foreign::Observer;
use crate::ids::{DiskIndex, IdRecord, Ids, Index as _, IndexError, Indexed, JournalSpan};
use crate::journal::disk::files::{CHECKPOINTS, Files, JOURNAL, OnDisk};
use crate::journal::disk::recovery::Recovery;
use crate::journal::disk::{Disk, LedgerId, Position};
use crate::journal::{Flusher, Memory, Noted, Sink as _};
use crate::kernel::Kernel;
use crate::ledger::Ledger;
use crate::lock::Lock;
use crate::opening::{OpenError, Progress};
use crate::request::DEFAULT_ID_WINDOW;
use crate::restoration::Restoration;
use crate::site::Site;
use crate::upkeep;

/// The number of entries whose ids are indexed in one run while a ledger is opened.
const INDEXED_AT_ONCE: u64 = 250_000;

/// When a call returns that changes something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// As soon as it is decided and every reader sees it; a crash may still take it back.
    #[default]
    Applied,
    /// When what it answers is on disk. In a ledger in memory the same as `Applied`.
    OnDisk,
}

/// How a ledger is to be made.
pub struct Builder {
    history: Option<usize>,
    id_capacity: usize,
    look_up_cache: bool,
    reserve_accounts: usize,
    garbage_cap: u64,
    max_backlog: Option<u64>,
    segment_bytes: u64,
    checkpoint_every: u64,
    id_window: Duration,
    progress: Box<dyn FnMut(Progress) -> ControlFlow<()> + Send>,
    observer: Observer,
    blocking: Blocking,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            history: None,
            id_capacity: 100_000,
            look_up_cache: true,
            reserve_accounts: 0,
            garbage_cap: 1 << 30,
            max_backlog: None,
            segment_bytes: 16 << 20,
            checkpoint_every: 1_000_000,
            id_window: DEFAULT_ID_WINDOW,
            progress: Box::new(|_| ControlFlow::Continue(())),
            observer: Observer::new(|_| {}),
            blocking: Blocking::default(),
        }
    }
}

impl Builder {
    /// Keeps the newest `entries` of the journal in memory for [`Ledger::history`]; fewer if large ones would take more
    /// than 256 MiB. Starts the flusher, a thread that moves the durable sequence.
    #[must_use]
    pub fn history(mut self, entries: usize) -> Self {
        self.history = Some(entries);
        self
    }

    /// How many ids stay in memory (default 100,000). With a data directory older ids are looked up on disk. Without
    /// one they are forgotten: a request with such an id is executed again.
    #[must_use]
    pub fn id_capacity(mut self, ids: usize) -> Self {
        self.id_capacity = ids;
        self
    }

    /// Whether a hash map stands in front of the ordered accounts (default true). It takes about 90 bytes per account,
    /// and reduces a look-up to a fraction of the time. After [`Builder::open`] a thread fills it in the background.
    #[must_use]
    pub fn look_up_cache(mut self, on: bool) -> Self {
        self.look_up_cache = on;
        self
    }

    /// Grows the look-up cache for this many accounts beforehand, since growing takes locks. That allocates 12 to 24
    /// bytes per account at once, 8 GiB at most; without enough memory the process aborts, as after any failed
    /// allocation.
    #[must_use]
    pub fn reserve(mut self, accounts: usize) -> Self {
        self.reserve_accounts = accounts;
        self
    }

    /// How many bytes of garbage may wait for a suspended thread, over the whole process (default 1 GiB), before
    /// writes are refused with [`Exhausted::Garbage`](crate::Exhausted::Garbage). Reads go on.
    #[must_use]
    pub fn garbage_cap(mut self, bytes: u64) -> Self {
        self.garbage_cap = bytes;
        self
    }

    /// How many decided transactions may wait to become durable (default 100,000 on disk, 1,000,000 in memory) before
    /// writes are refused with [`Exhausted::Backlog`](crate::Exhausted::Backlog). From half of that on, some calls
    /// first yield the processor; from three quarters on, all do.
    #[must_use]
    pub fn max_backlog(mut self, entries: u64) -> Self {
        self.max_backlog = Some(entries);
        self
    }

    /// How long each file of the journal is (default 16 MiB, from 1 MiB to 1 GiB). Two are allocated at the start.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// How many entries lie between checkpoints (default 1,000,000): about as many are replayed at a start.
    #[must_use]
    pub fn checkpoint_every(mut self, entries: u64) -> Self {
        self.checkpoint_every = entries;
        self
    }

    /// How long an id is honoured (default 24 hours), by the journal's own time.
    #[must_use]
    pub fn id_window(mut self, window: Duration) -> Self {
        self.id_window = window;
        self
    }

    /// Calls `told` from time to time with the progress of [`Builder::open`]. If it returns Break, opening fails with
    /// [`OpenError::Cancelled`].
    #[must_use]
    pub fn progress(mut self, told: impl FnMut(Progress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.progress = Box::new(told);
        self
    }

    /// Calls `told` with events that an operator may want to know, while the ledger is opened and afterwards: on the
    /// thread that opens it, on its own threads, and on a caller's thread that finds that the journal failed. No lock
    /// is held, so `told` may call the ledger, even [`Ledger::close`]. It should return soon and must not wait for the
    /// disk ([`Durability::OnDisk`]): it may run on the thread that makes the segments, which makes none meanwhile. A
    /// panic in `told` is caught, and later events are still reported.
    #[must_use]
    pub fn observer(mut self, told: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.observer = Observer::new(told);
        self
    }

    /// Runs reads that may wait for a disk (for an id that left memory, for old entries) inside `hook`, which must call
    /// its argument once, on the same thread (default: they run directly). [`Ledger::submit`] and similar calls,
    /// [`Ledger::transaction`] and [`Ledger::history`] use it. On a worker of an async runtime such a read would hold
    /// up other tasks; a multi-threaded tokio runtime can first move those to another thread:
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// let builder = equipoise::Ledger::builder().blocking(|read| tokio::task::block_in_place(read));
    /// ```
    #[must_use]
    pub fn blocking(mut self, hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        self.blocking = Blocking::by(hook);
        self
    }

    /// Opens the ledger in the data directory `dir`, which is created if it is missing. Reads the newest checkpoint and
    /// the journal after it; nobody sees the ledger before that is complete.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing durable has changed, and empty directories that this call created are removed. What an
    /// interrupted process left (a torn tail, unfinished files) may have been cleaned up.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Ledger, OpenError> {
        let dir = dir.as_ref();
        Site::look(dir, &[JOURNAL, CHECKPOINTS, DiskIndex::FOLDER]).occupy(|root, lock| {
            let files =
                OnDisk::within(root).map_err(|error| OpenError::Io { path: dir.to_owned(), what: "make", error })?;
            self.open_in(Arc::new(files), lock)
        })
    }

    /// As [`Builder::open`], on any kind of disk.
    pub(crate) fn open_in(self, files: Arc<dyn Files>, lock: Arc<Lock>) -> Result<Ledger, OpenError> {
        self.open_by(files, lock, &mut upkeep::spawn)
    }

    /// As [`Builder::open_in`], with threads that `spawn` starts.
    pub(crate) fn open_by(
        mut self,
        files: Arc<dyn Files>,
        lock: Arc<Lock>,
        spawn: &mut upkeep::Spawn,
    ) -> Result<Ledger, OpenError> {
        let mut restoration = Restoration::new(self.look_up_cache, self.reserve_accounts);
        let observer = self.observer.clone();
        let recovery = Recovery {
            install: &mut |recovered| restoration.take(recovered).map_err(|_| too_many_accounts()),
            progress: &mut self.progress,
            tell: &|event| observer.tell(event),
        };
        let nothing_beyond = |ledger: Option<&LedgerId>, end| no_ids_beyond(files.root(), ledger, end);
        let (disk, position, noted) =
            Disk::open(files.clone(), self.segment_bytes, recovery, self.observer.clone(), nothing_beyond)?;
        lock.begin();
        let clock = Clock::start(position.time);
        let ids = self.open_ids(files.root(), &disk, position, clock.now())?;
        let disk = Arc::new(disk.with_blocking(self.blocking.clone()));
        let (kernel, consumer) = Kernel::with_consumer(position.sequence, position.time);
        let flusher = Flusher::new(disk.clone(), consumer);
        let core = self.core(kernel, Some(flusher), Some((disk, lock, noted)), restoration.finish(), ids, clock);
        core.opened.add(u64::from(core.directory.recovered()));
        let (threads, started) = upkeep::start(&core, position.checkpoint, spawn);
        // Dropped, it ends those that were started.
        let ledger = Ledger::over(core, threads);
        let path = files.root().path().to_owned();
        started.map_err(|error| OpenError::Io { path, what: "start threads for", error })?;
        Ok(ledger)
    }

    /// Opens the id index in the data directory `root`, at the journal's time `now`, and adds the ids that it lacks.
    fn open_ids(&mut self, root: &Folder, disk: &Disk, at: Position, now: u64) -> Result<Ids, OpenError> {
        let window = nanoseconds(self.id_window);
        let honoured_before = may_honour_dropped(disk, at, now, window);
        let journal = JournalSpan { oldest: disk.oldest(), end: at.sequence, honoured_before };
        let index = DiskIndex::folder(root).and_then(|dir| DiskIndex::open(dir, disk.ledger(), journal));
        let index = index.map_err(|error| unusable(root, "open", error))?;
        if let Some(what) = index.wiped() {
            self.observer.tell(&Event::IndexRebuilt { what: what.to_owned() });
        }
        self.index_missing(root, &index, disk, at.sequence)?;
        Ok(Ids::with_index(self.id_capacity, index.with_blocking(self.blocking.clone()), window))
    }

    /// Adds to `index` the ids that it lacks, of the journal's entries up to `end`.
    fn index_missing(&mut self, root: &Folder, index: &DiskIndex, disk: &Disk, end: u64) -> Result<(), OpenError> {
        let mut from = index.published() + 1;
        while from <= end {
            let through = from.saturating_add(INDEXED_AT_ONCE - 1).min(end);
            let mut run = Vec::new();
            let mut malformed = None;
            let read = disk.ids(from, through, |id, sequence, time, member| match TransactionId::new(id) {
                Ok(id) => run.push(IdRecord { key: index.key(&id), indexed: Indexed { sequence, time, member } }),
                Err(error) => malformed = Some(error),
            });
            read.map_err(|error| failed(root, "read the ids of the journal for", &error))?;
            if let Some(error) = malformed {
                return Err(failed(root, "take the ids of the journal into", &error));
            }
            index.catch_up(&mut run, through).map_err(|error| unusable(root, "write", error))?;
            let told = Progress { replayed: through, bytes: 0, total_bytes: 0 };
            if (self.progress)(told).is_break() {
                return Err(OpenError::Cancelled);
            }
            from = through + 1;
        }
        Ok(())
    }

    /// Makes a ledger in memory.
    ///
    /// # Panics
    /// If the operating system cannot start the flusher's thread (only with [`Builder::history`]).
    #[must_use]
    pub fn build(self) -> Ledger {
        let clock = Clock::start(0);
        let (kernel, flusher) = match self.history {
            Some(entries) => {
                let (kernel, consumer) = Kernel::with_consumer(0, clock.now());
                (kernel, Some(Flusher::new(Arc::new(Memory::new(entries, 0)), consumer)))
            }
            None => (Kernel::new(0, clock.now()), None),
        };
        let directory = Directory::new(self.look_up_cache, self.reserve_accounts);
        let ids = Ids::in_memory(self.id_capacity);
        let core = self.core(kernel, flusher, None, directory, ids, clock);
        let (threads, started) = upkeep::start(&core, 0, &mut upkeep::spawn);
        started.expect("the flusher's thread starts");
        Ledger::over(core, threads)
    }

    /// Makes a ledger in memory that continues from accounts kept elsewhere. They are as of sequence 1, so its first
    /// commit has sequence 2. It starts no thread.
    #[cfg(feature = "postgres")]
    pub(crate) fn build_with<'a>(
        self,
        accounts: impl IntoIterator<Item = (&'a crate::AccountId, Balance)>,
    ) -> Result<Ledger, crate::Exhausted> {
        let clock = Clock::start(0);
        let mut directory = Directory::new(self.look_up_cache, self.reserve_accounts);
        for (id, state) in accounts {
            let index = directory.find_or_make_open(id)?;
            directory.restore(index, 1, state);
        }
        let ids = Ids::in_memory(self.id_capacity);
        let core = self.core(Kernel::new(1, clock.now()), None, None, directory, ids, clock);
        Ok(Ledger::over(core, Vec::new()))
    }

    fn core(
        &self,
        kernel: Kernel<Balance>,
        flusher: Option<Flusher>,
        disk: Option<(Arc<Disk>, Arc<Lock>, Noted)>,
        directory: Directory,
        ids: Ids,
        clock: Clock,
    ) -> Arc<Core> {
        let limits = Limits {
            garbage: self.garbage_cap,
            backlog: self.max_backlog.unwrap_or(if disk.is_some() { 100_000 } else { 1_000_000 }),
            checkpoint_every: self.checkpoint_every.max(1),
        };
        Arc::new(Core::new(kernel, flusher, disk, directory, ids, clock, limits))
    }
}

/// Whether ids of entries that compaction dropped may still be honoured at the journal's time `now`.
fn may_honour_dropped(disk: &Disk, at: Position, now: u64, window: u64) -> bool {
    let oldest = disk.oldest();
    if oldest <= 1 {
        return false;
    }
    // What compaction dropped is no later than the oldest entry left. If that entry cannot be read, the ids count as
    // honoured: a start reads no more of the journal than it needs, so its damage is not reported here.
    let until = if oldest > at.sequence { Ok(at.time) } else { disk.record(oldest).map(|entry| entry.time) };
    until.map_or(true, |until| now.saturating_sub(until) <= window)
}

/// The error for an id index in the data directory `root` that cannot be used.
fn unusable(root: &Folder, what: &'static str, error: IndexError) -> OpenError {
    match error {
        IndexError::NoSpace { path } => {
            OpenError::NoRoom { path, needed: IndexError::ROOM, error: std::io::ErrorKind::StorageFull.into() }
        }
        IndexError::Damaged { path: file, what } => OpenError::Damaged { file, offset: 0, what },
        error => failed(root, what, &error),
    }
}

fn failed(root: &Folder, what: &'static str, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Io { path: root.path_of(DiskIndex::FOLDER), what, error: std::io::Error::other(error.to_string()) }
}

/// Fails if the id index refers to entries past `end`, the journal's last sequence.
fn no_ids_beyond(root: &Folder, ledger: Option<&LedgerId>, end: u64) -> Result<(), OpenError> {
    let unreadable = |error: IndexError| failed(root, "read", &error);
    if let Some((file, found, known)) = DiskIndex::newer(root).map_err(unreadable)? {
        return Err(OpenError::Newer { file, found, known });
    }
    let Some((file, last)) = DiskIndex::beyond(root, ledger, end).map_err(unreadable)? else { return Ok(()) };
    let what = format!(
        "it has the ids of entries up to sequence {last}, but the journal ends at {end}: a tail is missing. Put it back; to go on \
         without it, remove the folder ids, and then what the next start names"
    );
    Err(OpenError::Damaged { file, offset: DiskIndex::SPAN_END, what })
}

fn too_many_accounts() -> OpenError {
    OpenError::TooManyAccounts { limit: u32::MAX }
}
