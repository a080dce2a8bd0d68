//! The flusher: moves the durable sequence.

use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::notes::Due;
use super::{JournalError, NoteError, Notes, Sink};
use crate::account::Balance;
use crate::error::SubmitError;
use crate::kernel::{Consumer, Handle, Kernel, pin};
use crate::wait::Waiters;

/// How many transactions' accounts are trimmed under one epoch pin.
const TRIM_STRIDE: usize = 64;

/// Moves the durable sequence; the first thread that comes does it, one at a time.
pub(crate) struct Flusher {
    sink: Arc<dyn Sink>,
    working: Mutex<Working>,
    /// Why the sink failed; nothing becomes durable after that.
    failure: OnceLock<JournalError>,
}

struct Working {
    consumer: Consumer<Balance>,
    batch: Vec<Handle<Balance>>,
}

/// The parts of a ledger that a flush works on.
pub(crate) struct Flushing<'a> {
    pub(crate) kernel: &'a Kernel<Balance>,
    pub(crate) waiters: &'a Waiters,
    pub(crate) notes: &'a Notes,
    /// Sees each batch once it is durable, and its last sequence.
    pub(crate) on_durable: &'a dyn Fn(&[Handle<Balance>], u64),
}

/// The result of an attempt to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// What was committed at the call is durable, or never will be.
    Done,
    /// Like [`Flushed::Done`], and another flush is due: others wait, or only notes were written.
    More,
    /// Another thread is flushing.
    Busy,
}

impl Flusher {
    pub(crate) fn new(sink: Arc<dyn Sink>, consumer: Consumer<Balance>) -> Self {
        let working = Mutex::new(Working { consumer, batch: Vec::new() });
        Flusher { sink, working, failure: OnceLock::new() }
    }

    pub(crate) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Why nothing becomes durable any more.
    pub(crate) fn failure(&self) -> Option<&JournalError> {
        self.failure.get()
    }

    /// Makes what was committed at the call durable, unless another thread is flushing. Flushes only once: a caller
    /// does not work for others without end.
    pub(crate) fn try_flush(&self, of: &Flushing<'_>) -> Flushed {
        let Some(mut working) = self.working.try_lock() else { return Flushed::Busy };
        if self.flush_batch(&mut working, of) { Flushed::More } else { Flushed::Done }
    }

    /// Makes everything committed durable, also what comes meanwhile as long as somebody waits for it.
    pub(crate) fn flush(&self, of: &Flushing<'_>) {
        loop {
            let mut working = self.working.lock();
            let more = self.flush_batch(&mut working, of);
            // Under load there is always more; so a thread in `paused` gets the lock next.
            MutexGuard::unlock_fair(working);
            if !more {
                return;
            }
        }
    }

    /// Runs `then` while the durable sequence does not move. Not after the sink has failed: it may then hold more
    /// entries than anybody was told about.
    pub(crate) fn paused<T>(&self, then: impl FnOnce() -> T) -> Option<T> {
        let _standing = self.working.lock();
        self.failure.get().is_none().then(then)
    }

    /// Makes what is committed durable. Returns whether to flush again: somebody waits for more, or only notes were
    /// written.
    fn flush_batch(&self, working: &mut Working, of: &Flushing<'_>) -> bool {
        let Flushing { kernel, waiters, notes, on_durable } = *of;
        if self.failure.get().is_some() {
            return false;
        }
        let guard = pin();
        let through = kernel.begin_flush(&guard);
        let due = notes.take(through);
        if through == kernel.durable() {
            drop(guard);
            return !due.is_empty() && self.keep_notes(due, waiters, notes);
        }
        working.consumer.take(kernel, through, &mut working.batch, &guard);
        drop(guard);
        if let Err(failure) = self.sink.append(&working.batch, &due.records) {
            working.batch.clear();
            self.fail(failure, due, waiters, notes);
            return false;
        }
        kernel.end_flush(through);
        waiters.reached(through);
        notes.kept(due);
        on_durable(&working.batch, through);
        for entries in working.batch.chunks(TRIM_STRIDE) {
            let guard = pin();
            entries.iter().for_each(|entry| kernel.trim_legs(entry, &guard));
        }
        working.batch.clear();
        waiters.is_awaited(kernel.now(&pin()))
    }

    /// Writes notes that accompany no entries; whether that succeeded.
    fn keep_notes(&self, due: Due, waiters: &Waiters, notes: &Notes) -> bool {
        let kept = if due.records.is_empty() { Ok(()) } else { self.sink.append(&[], &due.records) };
        match kept {
            Ok(()) => notes.kept(due),
            Err(failure) => {
                self.fail(failure, due, waiters, notes);
                return false;
            }
        }
        true
    }

    /// Fails although the sink has not, unless it has by now.
    pub(crate) fn give_up(&self, failure: JournalError, waiters: &Waiters, notes: &Notes) {
        let _standing = self.working.lock();
        if self.failure.get().is_none() {
            self.fail(failure, Due::default(), waiters, notes);
        }
    }

    fn fail(&self, failure: JournalError, due: Due, waiters: &Waiters, notes: &Notes) {
        let why = NoteError::Closed(SubmitError::JournalFailed { what: failure.what.clone() });
        // Only we set it, under the lock.
        let _ = self.failure.set(failure);
        waiters.close();
        notes.close(due, &why);
    }
}
