//! The flusher: moves the durable sequence.

use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::notes::{Answers, Due};
use super::{JournalError, NoteError, Notes, Sink};
use crate::account::Balance;
use crate::error::SubmitError;
use crate::kernel::cells::Latch;
use crate::kernel::{Consumer, Handle, Kernel, pin};
use crate::wait::Waiters;

/// How many transactions' accounts are trimmed under one epoch pin.
const TRIM_STRIDE: usize = 64;

/// Moves the durable sequence. Any thread may do that, one at a time.
pub(crate) struct Flusher {
    sink: Arc<dyn Sink>,
    working: Mutex<Consumer<Balance>>,
    /// Memory for the next batch, kept from earlier ones.
    room: Mutex<Vec<Handle<Balance>>>,
    /// Why the sink failed; nothing becomes durable after that.
    failure: OnceLock<JournalError>,
}

/// The parts of a ledger that a flush works on.
pub(crate) struct Flushing<'a> {
    pub(crate) kernel: &'a Kernel<Balance>,
    pub(crate) waiters: &'a Waiters,
    pub(crate) notes: &'a Notes,
    /// Set once nothing more becomes durable.
    pub(crate) closed: &'a Latch,
    /// Sees each batch once it is durable, and its last sequence.
    pub(crate) on_durable: &'a dyn Fn(&[Handle<Balance>], u64),
}

/// What is left to do after the flusher's lock is released. It runs the embedder's code, which may call the flusher.
#[must_use]
enum Left {
    Nothing,
    /// A batch that ends with sequence `through` is durable, with its notes.
    Durable {
        batch: Vec<Handle<Balance>>,
        through: u64,
        noted: Answers,
    },
    /// Notes that accompany no entries are durable.
    Noted(Answers),
    /// Nothing more becomes durable, these notes included.
    Failed {
        due: Due,
        why: NoteError,
    },
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
        Flusher { sink, working: Mutex::new(consumer), room: Mutex::default(), failure: OnceLock::new() }
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
        let left = self.flush_batch(&mut working, of);
        drop(working);
        if self.finish(left, of) { Flushed::More } else { Flushed::Done }
    }

    /// Makes everything committed durable, and goes on with what is committed meanwhile while somebody waits for it.
    pub(crate) fn flush(&self, of: &Flushing<'_>) {
        loop {
            let mut working = self.working.lock();
            let left = self.flush_batch(&mut working, of);
            // Under load there is always more to flush, so a thread in `paused` gets the lock next.
            MutexGuard::unlock_fair(working);
            if !self.finish(left, of) {
                return;
            }
        }
    }

    /// Runs `then` while the durable sequence stands still. None after the sink has failed: it may then hold entries
    /// that were never reported durable.
    pub(crate) fn paused<T>(&self, then: impl FnOnce() -> T) -> Option<T> {
        let _standing = self.working.lock();
        self.failure.get().is_none().then(then)
    }

    /// Flushes what is committed and the notes that are due.
    fn flush_batch(&self, consumer: &mut Consumer<Balance>, of: &Flushing<'_>) -> Left {
        let Flushing { kernel, notes, on_durable, .. } = *of;
        if self.failure.get().is_some() {
            return Left::Nothing;
        }
        let guard = pin();
        let through = kernel.begin_flush(&guard);
        let due = notes.take(through);
        if through == kernel.durable() {
            drop(guard);
            return if due.is_empty() { Left::Nothing } else { self.keep_notes(due, notes) };
        }
        let mut batch = std::mem::take(&mut *self.room.lock());
        consumer.take(kernel, through, &mut batch, &guard);
        drop(guard);
        if let Err(failure) = self.sink.append(&batch, &due.records) {
            return self.fail(failure, due);
        }
        kernel.end_flush(through);
        on_durable(&batch, through);
        Left::Durable { batch, through, noted: notes.kept(due) }
    }

    /// Writes notes that accompany no entries.
    fn keep_notes(&self, due: Due, notes: &Notes) -> Left {
        let kept = if due.records.is_empty() { Ok(()) } else { self.sink.append(&[], &due.records) };
        match kept {
            Ok(()) => Left::Noted(notes.kept(due)),
            Err(failure) => self.fail(failure, due),
        }
    }

    /// Does the work left by a flush. Returns whether another flush is due.
    fn finish(&self, left: Left, of: &Flushing<'_>) -> bool {
        let Flushing { kernel, waiters, notes, closed, .. } = *of;
        match left {
            Left::Nothing => false,
            Left::Durable { batch, through, noted } => {
                waiters.reached(through);
                noted.give();
                self.let_go(batch, kernel);
                waiters.is_awaited(kernel.now(&pin()))
            }
            Left::Noted(noted) => {
                noted.give();
                true
            }
            Left::Failed { due, why } => {
                // First, so that a woken caller finds the ledger closed.
                closed.set();
                waiters.close();
                notes.close(due, &why);
                false
            }
        }
    }

    /// Trims what only the flush needed, and keeps the memory of `batch` for the next flush.
    fn let_go(&self, mut batch: Vec<Handle<Balance>>, kernel: &Kernel<Balance>) {
        for entries in batch.chunks(TRIM_STRIDE) {
            let guard = pin();
            entries.iter().for_each(|entry| kernel.trim_legs(entry, &guard));
        }
        batch.clear();
        let mut room = self.room.lock();
        if room.capacity() < batch.capacity() {
            std::mem::swap(&mut *room, &mut batch);
        }
    }

    /// Closes the flusher with `failure`, although the sink has not failed. Does nothing if it has by now.
    pub(crate) fn give_up(&self, failure: JournalError, of: &Flushing<'_>) {
        let standing = self.working.lock();
        let left = if self.failure.get().is_none() { self.fail(failure, Due::default()) } else { Left::Nothing };
        drop(standing);
        self.finish(left, of);
    }

    fn fail(&self, failure: JournalError, due: Due) -> Left {
        let why = NoteError::Closed(SubmitError::JournalFailed { what: failure.what.clone() });
        // Set only here, under the lock.
        let _ = self.failure.set(failure);
        Left::Failed { due, why }
    }
}
