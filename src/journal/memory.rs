//! A bounded history in memory.

use std::collections::VecDeque;

use parking_lot::RwLock;

use super::{HistoryError, HistoryGone, JournalError, Record, Sink};
use crate::account::Balance;
use crate::kernel::Handle;
use crate::outcome::Outcome;

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
    fn append(&self, batch: &[Handle<Balance>], _noted: &[Record]) -> Result<(), JournalError> {
        let mut ring = self.ring.write();
        ring.entries.extend(batch.iter().cloned());
        let excess = ring.entries.len().saturating_sub(self.capacity);
        let dropped: Vec<_> = ring.entries.drain(..excess).collect();
        ring.oldest += excess as u64;
        drop(ring);
        // Outside the lock: the last handle of a transaction frees it.
        drop(dropped);
        Ok(())
    }

    /// What is kept is as durable as it gets.
    fn read(&self, from: u64, _through: u64, limit: usize) -> Result<Vec<Outcome>, HistoryError> {
        let ring = self.ring.read();
        let from = if from == 0 { ring.oldest } else { from };
        if from < ring.oldest {
            return Err(HistoryGone { oldest: ring.oldest }.into());
        }
        let skipped = usize::try_from(from - ring.oldest).unwrap_or(usize::MAX);
        let asked = ring.entries.iter().skip(skipped).take(limit);
        Ok(asked.map(|entry| Outcome::new(entry.clone(), None, false)).collect())
    }

    fn oldest(&self) -> u64 {
        self.ring.read().oldest
    }

    fn waits(&self) -> bool {
        false
    }

    fn shortage(&self) -> Option<(String, u64)> {
        None
    }

    fn close(&self) {}

    fn finish(&self) -> Result<(), JournalError> {
        Ok(())
    }
}
