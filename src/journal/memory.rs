//! A bounded history in memory.

use std::collections::VecDeque;

use parking_lot::RwLock;

use super::{HistoryError, HistoryGone, JournalError, Record, Sink};
use crate::account::Balance;
use crate::error::Exhausted;
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

    fn read(&self, from: u64, through: u64, limit: usize) -> Result<Vec<Outcome>, HistoryError> {
        let ring = self.ring.read();
        let from = if from == 0 { ring.oldest } else { from };
        if from < ring.oldest {
            return Err(HistoryGone { oldest: ring.oldest }.into());
        }
        let skipped = usize::try_from(from - ring.oldest).unwrap_or(usize::MAX);
        // An entry is appended before the durable sequence reaches it.
        let durable = usize::try_from(through.saturating_add(1).saturating_sub(from)).unwrap_or(usize::MAX);
        let asked = ring.entries.iter().skip(skipped).take(limit.min(durable));
        Ok(asked.map(|entry| Outcome::new(entry.clone(), None, false)).collect())
    }

    fn oldest(&self) -> u64 {
        self.ring.read().oldest
    }

    fn waits(&self) -> bool {
        false
    }

    fn shortage(&self) -> Option<Exhausted> {
        None
    }

    fn close(&self) {}

    fn finish(&self) -> Result<(), JournalError> {
        Ok(())
    }
}

#[cfg(all(test, not(any(equipoise_loom, equipoise_shuttle))))]
mod tests {
    use crate::{AccountId, Ledger, Outcome};

    /// C3: what was appended and is not durable yet is not shown.
    #[test]
    fn only_what_is_durable_is_read() {
        let ledger = Ledger::builder().history(10).build();
        for number in 0..5 {
            ledger.create(&AccountId::new(&format!("a{number}")).expect("an id"), 0).expect("made");
        }
        ledger.wait_durable(5).expect("open");
        let sink = ledger.core().flusher.as_ref().expect("a history").sink();
        let read = |from, through| -> Vec<_> {
            sink.read(from, through, 10).expect("kept").iter().map(Outcome::sequence).collect()
        };
        assert_eq!(read(2, 4), [2, 3, 4]);
        assert_eq!(read(0, 1), [1]);
        assert_eq!(read(5, 4), Vec::<u64>::new());
        assert_eq!(read(6, 4), Vec::<u64>::new());
    }
}
