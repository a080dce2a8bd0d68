//! The flusher: moves the durable sequence.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::notes::Due;
use super::{JournalError, NoteError, Notes, Sink};
use crate::account::Balance;
use crate::error::SubmitError;
use crate::kernel::{Consumer, Handle, Kernel, pin};
use crate::wait::Waiters;

/// How many transactions' accounts are trimmed under one epoch pin.
const TRIM_STRIDE: usize = 64;

/// Moves the durable sequence: one at a time, whoever gets here first.
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

/// What an attempt to flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything committed at the call is durable, or never will be.
    Done,
    /// As [`Flushed::Done`], and others wait for what was committed since.
    More,
    /// Somebody else is at it.
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

    /// Makes everything committed durable, unless somebody is at it. `durable` sees each batch once it is, and its
    /// last sequence.
    pub(crate) fn try_flush(
        &self,
        kernel: &Kernel<Balance>,
        waiters: &Waiters,
        notes: &Notes,
        durable: impl FnMut(&[Handle<Balance>], u64),
    ) -> Flushed {
        match self.working.try_lock() {
            Some(mut working) => {
                self.flush_locked(&mut working, kernel, waiters, notes, durable);
                Flushed::Done
            }
            None => Flushed::Busy,
        }
    }

    /// As [`Flusher::try_flush`], but of what was committed at the call only: a caller does not work for others without an end.
    pub(crate) fn try_flush_once(
        &self,
        kernel: &Kernel<Balance>,
        waiters: &Waiters,
        notes: &Notes,
        mut durable: impl FnMut(&[Handle<Balance>], u64),
    ) -> Flushed {
        match self
            .working
            .try_lock()
            .map(|mut working| self.flush_batch(&mut working, kernel, waiters, notes, &mut durable))
        {
            Some(true) => Flushed::More,
            Some(false) => Flushed::Done,
            None => Flushed::Busy,
        }
    }

    /// Makes everything committed durable.
    pub(crate) fn flush(
        &self,
        kernel: &Kernel<Balance>,
        waiters: &Waiters,
        notes: &Notes,
        durable: impl FnMut(&[Handle<Balance>], u64),
    ) {
        self.flush_locked(&mut self.working.lock(), kernel, waiters, notes, durable);
    }

    /// Runs `then` while the durable sequence stands still; not once the sink has failed, since that may hold more by then than anybody was
    /// told.
    pub(crate) fn paused<T>(&self, then: impl FnOnce() -> T) -> Option<T> {
        let _standing = self.working.lock();
        self.failure.get().is_none().then(then)
    }

    fn flush_locked(
        &self,
        working: &mut Working,
        kernel: &Kernel<Balance>,
        waiters: &Waiters,
        notes: &Notes,
        mut durable: impl FnMut(&[Handle<Balance>], u64),
    ) {
        while self.flush_batch(working, kernel, waiters, notes, &mut durable) {}
    }

    /// Makes what is committed durable; whether somebody waits for more.
    fn flush_batch(
        &self,
        working: &mut Working,
        kernel: &Kernel<Balance>,
        waiters: &Waiters,
        notes: &Notes,
        durable: &mut impl FnMut(&[Handle<Balance>], u64),
    ) -> bool {
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
        let more = waiters.reached(through);
        notes.kept(due);
        durable(&working.batch, through);
        for entries in working.batch.chunks(TRIM_STRIDE) {
            let guard = pin();
            entries.iter().for_each(|entry| kernel.trim_legs(entry, &guard));
        }
        working.batch.clear();
        more
    }

    /// Notes that no entry waits with; whether they are kept.
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

    fn fail(&self, failure: JournalError, due: Due, waiters: &Waiters, notes: &Notes) {
        let why = NoteError::Closed(SubmitError::JournalFailed { what: failure.what.clone() });
        // Only we set it, under the lock.
        let _ = self.failure.set(failure);
        waiters.close();
        notes.close(due, &why);
    }
}
