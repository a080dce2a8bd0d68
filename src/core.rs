//! The parts of a ledger, and what follows a commit.

use std::sync::Arc;

use arc_swap::ArcSwapWeak;

use crate::account::{Balance, TransactionId};
use crate::clock::Clock;
use crate::directory::Directory;
use crate::error::SubmitError;
use crate::event::Event;
use crate::ids::{Found, Ids, Indexed};
use crate::journal::disk::Disk;
use crate::journal::{Flushed, Flusher, Flushing, HistoryError, JournalError, Note, NoteError, Noted, Notes, Noting};
use crate::kernel::cells::{Counter, Gauge, Latch};
use crate::kernel::doorbell::Doorbell;
use crate::kernel::{Handle, Kernel, garbage, pin};
use crate::lock::Lock;
use crate::outcome::{Outcome, Record};
use crate::snapshot::Open;
use crate::wait::Waiters;

/// The parts, in the order in which they must be dropped: handles before the kernel, the kernel before the accounts.
pub(crate) struct Core {
    pub(crate) ids: Ids,
    pub(crate) flusher: Option<Flusher>,
    /// The flusher's sink, where that is a disk.
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) kernel: Kernel<Balance>,
    pub(crate) directory: Directory,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) notes: Notes,
    pub(crate) bell: Doorbell,
    /// Wakes the thread that writes checkpoints.
    pub(crate) checkpoint_bell: Doorbell,
    pub(crate) closed: Latch,
    /// How often the journal's failure was noticed; only the first time is reported.
    failures_told: Counter,
    pub(crate) opened: Counter,
    /// How many requests were refused because the disk takes no next segment, or no ids.
    pub(crate) refused_for_space: Counter,
    /// How many stretches of accounts were trimmed by callers.
    pub(crate) trimmed: Counter,
    /// Bytes of the large requests that were decided and are not durable.
    pub(crate) large: Gauge,
    pub(crate) newest: ArcSwapWeak<Open>,
    pub(crate) newest_durable: ArcSwapWeak<Open>,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    /// Held as long as anything may touch the data directory.
    _lock: Option<Arc<Lock>>,
}

/// Limits that protect the process.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// The most bytes of garbage before writes are refused.
    pub(crate) garbage: u64,
    /// Decided entries that are not durable, before writes are refused.
    pub(crate) backlog: u64,
    /// Entries between checkpoints.
    pub(crate) checkpoint_every: u64,
}

/// What a caller does once its request is decided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It returns, so the flusher is told.
    Returns,
    /// It waits until the decision is durable, and flushes by itself.
    Waits,
}

impl Core {
    pub(crate) fn new(
        kernel: Kernel<Balance>,
        flusher: Option<Flusher>,
        disk: Option<(Arc<Disk>, Arc<Lock>, Noted)>,
        directory: Directory,
        ids: Ids,
        clock: Clock,
        limits: Limits,
    ) -> Self {
        let (disk, lock, noted) = match disk {
            Some((disk, lock, noted)) => (Some(disk), Some(lock), noted),
            None => (None, None, Noted::default()),
        };
        Core {
            ids,
            flusher,
            disk,
            kernel,
            directory,
            waiters: Arc::default(),
            notes: Notes::new(noted),
            bell: Doorbell::new(),
            checkpoint_bell: Doorbell::new(),
            closed: Latch::new(),
            failures_told: Counter::new(),
            opened: Counter::new(),
            refused_for_space: Counter::new(),
            trimmed: Counter::new(),
            large: Gauge::new(),
            newest: ArcSwapWeak::default(),
            newest_durable: ArcSwapWeak::default(),
            clock,
            limits,
            _lock: lock,
        }
    }

    /// The journal's record of the entry that the id index names.
    pub(crate) fn recorded(&self, entry: Indexed) -> Result<Record, HistoryError> {
        match &self.disk {
            Some(disk) => disk.record(entry.sequence),
            None => Err(HistoryError::Unreadable { what: "an id index without a journal".to_owned() }),
        }
    }

    /// What was decided for `id`, if anything was.
    pub(crate) fn transaction(&self, id: &TransactionId) -> Result<Option<Outcome>, HistoryError> {
        let found = self.ids.find(id).map_err(|error| HistoryError::Unreadable { what: error.to_string() })?;
        match found {
            None => Ok(None),
            Some(Found::Recorded(entry)) => {
                Ok(Some(Outcome::recorded(self.recorded(entry)?, Some(entry.member), false)))
            }
            Some(Found::Claimed(claim)) => {
                let decided = claim.handle.decision().is_some();
                Ok(decided.then(|| Outcome::new(claim.handle, Some(claim.member), false)))
            }
        }
    }

    /// How many bytes of garbage wait for a suspended thread.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        garbage::bytes() + self.ids.overdue_bytes()
    }

    /// The durable sequence; `u64::MAX` without a flusher, since everything counts as durable then.
    pub(crate) fn durable(&self) -> u64 {
        if self.flusher.is_some() { self.kernel.durable() } else { u64::MAX }
    }

    /// Makes everything committed durable, and reports a failure.
    pub(crate) fn flush(&self) {
        if let Some(flusher) = &self.flusher {
            self.flushing(|of| flusher.flush(of));
            self.note_failure(flusher);
        }
    }

    /// Makes what is committed durable, unless another thread is flushing. Wakes the flusher if another flush is due.
    fn try_flush(&self, flusher: &Flusher) -> Flushed {
        let flushed = self.flushing(|of| flusher.try_flush(of));
        self.note_failure(flusher);
        if flushed == Flushed::More {
            self.bell.ring();
        }
        flushed
    }

    /// Takes a note, which is written with its entries, or alone where these are durable already.
    pub(crate) fn note(&self, note: Note) -> Noting {
        if self.closed.is_set() {
            return Noting::refused(NoteError::Closed(self.why_closed()));
        }
        let Some(flusher) = &self.flusher else {
            let noting = self.notes.add(note);
            self.notes.keep_all();
            return noting;
        };
        if let Some(shortage) = flusher.sink().shortage() {
            return Noting::refused(shortage.into());
        }
        let noting = self.notes.add(note);
        self.flush_soon(flusher);
        noting
    }

    /// Starts making durable what is committed, without waiting for a device.
    pub(crate) fn flush_soon(&self, flusher: &Flusher) {
        // Where the sink is memory, to flush costs less than to wait for the flusher's thread.
        if flusher.sink().blocks() || self.try_flush(flusher) == Flushed::Busy {
            self.bell.ring();
        }
    }

    /// Makes everything committed durable on the calling thread, which waits for `sequence`, unless another thread
    /// waits or flushes. That saves two hand-overs to and from the flusher, which take as long as the disk. If others
    /// wait, all of them share the flusher's next batch.
    pub(crate) fn flush_alone(&self, sequence: u64) {
        let Some(flusher) = &self.flusher else { return };
        if self.kernel.durable() < sequence && !self.waiters.is_awaited(self.kernel.now(&pin())) {
            self.try_flush(flusher);
        }
    }

    fn flushing<T>(&self, flush: impl FnOnce(&Flushing<'_>) -> T) -> T {
        let on_durable = |batch: &[_], through| self.became_durable(batch, through);
        flush(&Flushing {
            kernel: &self.kernel,
            waiters: &self.waiters,
            notes: &self.notes,
            closed: &self.closed,
            on_durable: &on_durable,
        })
    }

    /// What follows a flush of `batch`, which ends with sequence `through`.
    fn became_durable(&self, batch: &[Handle<Balance>], through: u64) {
        self.large.subtract(batch.iter().filter_map(|entry| entry.request().weight()).sum());
        self.ids.queue_durable(batch, through);
    }

    /// Tells the observer, once, that the journal failed.
    fn note_failure(&self, flusher: &Flusher) {
        if let (Some(failure), Some(disk)) = (flusher.failure(), &self.disk)
            && self.failures_told.add(1) == 0
        {
            disk.tell(&Event::JournalFailed { what: failure.what.clone() });
        }
    }

    /// Closes a ledger whose journal must not be written any more.
    pub(crate) fn give_up(&self, failure: JournalError) {
        if let Some(flusher) = &self.flusher {
            // Ends every wait for a segment.
            flusher.sink().close();
            self.flushing(|of| flusher.give_up(failure, of));
            self.note_failure(flusher);
        }
    }

    /// The error for a request to a closed ledger.
    pub(crate) fn why_closed(&self) -> SubmitError {
        match self.failure() {
            Some(what) => SubmitError::JournalFailed { what },
            None => SubmitError::Closed,
        }
    }

    /// Why the journal failed, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        Some(self.flusher.as_ref()?.failure()?.what.clone())
    }

    /// Refuses new requests, makes what was committed durable, and wakes everybody who waits for more. Idempotent.
    pub(crate) fn close(&self) {
        let first = !self.closed.is_set();
        self.closed.set();
        if let Some(flusher) = &self.flusher {
            flusher.sink().close();
            self.flush();
            if first && flusher.failure().is_none() {
                // The next start needs neither.
                let _ = flusher.sink().finish();
                let _ = self.ids.sweep(true);
            }
            self.ids.wake();
            if let Some(index) = self.ids.index() {
                index.wake();
            }
        }
        self.waiters.close();
        self.notes.close(Default::default(), &NoteError::Closed(self.why_closed()));
        self.bell.ring();
        self.checkpoint_bell.ring();
    }
}
