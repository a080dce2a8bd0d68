//! The journal: where decided transactions go, in commit order, and what makes them durable.
//!
//! One seam, [`Sink`]: in memory now, a data directory next. The flusher takes what was committed, gives it to the
//! sink, publishes the durable sequence and wakes whoever waits for it. The next batch is what arrived meanwhile.

use std::collections::VecDeque;

use parking_lot::{Mutex, RwLock};
use thiserror::Error;

use crate::account::Balance;
use crate::kernel::{Consumer, Handle, Kernel, pin};
use crate::outcome::Outcome;
use crate::wait::Waiters;

/// How many transactions' accounts are trimmed under one epoch pin.
const TRIM_STRIDE: usize = 64;

/// A place that keeps what was committed.
pub(crate) trait Sink: Send + Sync {
    /// Keeps `batch`, dense and in commit order; when it returns the batch is as safe as the sink can make it.
    fn append(&self, batch: &[Handle<Balance>]);
    /// Up to `limit` entries from sequence `from` on (0: the oldest kept).
    fn read(&self, from: u64, limit: usize) -> Result<Vec<Outcome>, HistoryError>;
    /// The oldest sequence kept, or the next one to come.
    fn oldest(&self) -> u64;
}

/// The sequence asked for is older than what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("history before sequence {oldest} is gone")]
pub struct HistoryGone {
    /// The oldest sequence kept, or the next one to come.
    pub oldest: u64,
}

/// Why entries cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// They are no longer kept.
    #[error(transparent)]
    Gone(#[from] HistoryGone),
    /// The journal cannot be read.
    #[error("the journal cannot be read: {what}")]
    Unreadable {
        /// The file, and what is wrong with it.
        what: String,
    },
}

/// Keeps the newest entries in memory, bounded; a process that dies loses them.
pub(crate) struct Memory {
    capacity: usize,
    ring: RwLock<Ring>,
}

struct Ring {
    /// The sequence of the front entry.
    oldest: u64,
    entries: VecDeque<Handle<Balance>>,
}

impl Memory {
    /// A history of up to `capacity` entries that begins after sequence `after`.
    pub(crate) fn new(capacity: usize, after: u64) -> Self {
        Memory { capacity, ring: RwLock::new(Ring { oldest: after + 1, entries: VecDeque::new() }) }
    }
}

impl Sink for Memory {
    fn append(&self, batch: &[Handle<Balance>]) {
        let mut ring = self.ring.write();
        ring.entries.extend(batch.iter().cloned());
        let excess = ring.entries.len().saturating_sub(self.capacity);
        let dropped: Vec<_> = ring.entries.drain(..excess).collect();
        ring.oldest += excess as u64;
        drop(ring);
        // Outside the lock: the last handle of a transaction frees it.
        drop(dropped);
    }

    fn read(&self, from: u64, limit: usize) -> Result<Vec<Outcome>, HistoryError> {
        let ring = self.ring.read();
        let from = if from == 0 { ring.oldest } else { from };
        if from < ring.oldest {
            return Err(HistoryGone { oldest: ring.oldest }.into());
        }
        let skipped = usize::try_from(from - ring.oldest).unwrap_or(usize::MAX);
        Ok(ring
            .entries
            .iter()
            .skip(skipped)
            .take(limit)
            .map(|entry| Outcome::new(entry.clone(), None, false))
            .collect())
    }

    fn oldest(&self) -> u64 {
        self.ring.read().oldest
    }
}

/// Moves the durable sequence: one at a time, whoever gets here first.
pub(crate) struct Flusher {
    sink: Box<dyn Sink>,
    working: Mutex<Working>,
}

struct Working {
    consumer: Consumer<Balance>,
    batch: Vec<Handle<Balance>>,
}

/// What an attempt to flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything committed at the call is durable.
    Done,
    /// Somebody else is at it.
    Busy,
}

impl Flusher {
    pub(crate) fn new(sink: Box<dyn Sink>, consumer: Consumer<Balance>) -> Self {
        Flusher { sink, working: Mutex::new(Working { consumer, batch: Vec::new() }) }
    }

    pub(crate) fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Makes everything committed durable, unless somebody is at it.
    pub(crate) fn try_flush(&self, kernel: &Kernel<Balance>, waiters: &Waiters) -> Flushed {
        match self.working.try_lock() {
            Some(mut working) => {
                self.flush_locked(&mut working, kernel, waiters);
                Flushed::Done
            }
            None => Flushed::Busy,
        }
    }

    /// Makes everything committed durable.
    pub(crate) fn flush(&self, kernel: &Kernel<Balance>, waiters: &Waiters) {
        self.flush_locked(&mut self.working.lock(), kernel, waiters);
    }

    fn flush_locked(&self, working: &mut Working, kernel: &Kernel<Balance>, waiters: &Waiters) {
        loop {
            let guard = pin();
            let through = kernel.begin_flush(&guard);
            if through == kernel.durable() {
                return;
            }
            working.consumer.take(kernel, through, &mut working.batch, &guard);
            drop(guard);
            self.sink.append(&working.batch);
            kernel.end_flush(through);
            for entries in working.batch.chunks(TRIM_STRIDE) {
                let guard = pin();
                entries.iter().for_each(|entry| kernel.trim_legs(entry, &guard));
            }
            working.batch.clear();
            if !waiters.reached(through) {
                return;
            }
        }
    }
}
