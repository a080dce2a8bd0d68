//! A bounded history in memory.

use std::collections::VecDeque;

use parking_lot::RwLock;

use super::{HistoryError, HistoryGone, JournalError, Record, Sink};
use crate::account::Balance;
use crate::error::Exhausted;
use crate::kernel::Handle;
use crate::outcome::Outcome;

/// The most bytes of large entries that are kept.
const LARGE: u64 = 256 << 20;

/// Keeps the newest entries in memory, bounded; they are lost with the process.
pub(crate) struct Memory {
    capacity: usize,
    ring: RwLock<Ring>,
}

struct Ring {
    /// The sequence of the front entry.
    oldest: u64,
    entries: VecDeque<Handle<Balance>>,
    /// About how many bytes the large ones take.
    large: u64,
}

impl Ring {
    fn push(&mut self, entry: &Handle<Balance>) {
        self.large += entry.request().weight().unwrap_or(0);
        self.entries.push_back(entry.clone());
    }

    /// Takes the oldest entry out if there is more than may stay.
    fn excess(&mut self, capacity: usize) -> Option<Handle<Balance>> {
        if self.entries.len() <= capacity && self.large <= LARGE {
            return None;
        }
        let oldest = self.entries.pop_front()?;
        self.oldest += 1;
        self.large -= oldest.request().weight().unwrap_or(0);
        Some(oldest)
    }
}

impl Memory {
    /// A history of up to `capacity` entries that begins after sequence `after`.
    pub(crate) fn new(capacity: usize, after: u64) -> Self {
        Memory { capacity, ring: RwLock::new(Ring { oldest: after + 1, entries: VecDeque::new(), large: 0 }) }
    }
}

impl Sink for Memory {
    fn append(&self, batch: &[Handle<Balance>], _noted: &[Record]) -> Result<(), JournalError> {
        let mut ring = self.ring.write();
        batch.iter().for_each(|entry| ring.push(entry));
        let dropped: Vec<_> = std::iter::from_fn(|| ring.excess(self.capacity)).collect();
        drop(ring);
        // Outside the lock: the last handle of a transaction frees it.
        drop(dropped);
        Ok(())
    }

    fn read(&self, from: u64, through: u64, limit: usize, _: usize) -> Result<Vec<Outcome>, HistoryError> {
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

    fn blocks(&self) -> bool {
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

#[cfg(all(test, equipoise_engine))]
mod tests {
    use crate::request::MAX_LEGS;
    use crate::{AccountId, Ledger, Member, Operation, Outcome, Request};

    /// C6: large entries are kept as long as all of them take a bounded room.
    #[test]
    fn large_entries_leave_it_sooner() {
        let ledger = Ledger::builder().history(100_000).build();
        let account = AccountId::new("a").expect("an id");
        ledger.create(&account, 0).expect("made");
        let member = Member { id: None, operation: Operation::update(account, 1) };
        let large = Request::chain(vec![member; MAX_LEGS]).expect("a chain");
        let most = super::LARGE / large.weight().expect("it is large");
        let mut newest = 0;
        while newest < most + 10 {
            // Refused while too much of it waits for the flusher.
            newest = ledger.submit(large.clone()).map_or(newest, |outcome| outcome.sequence());
        }
        ledger.wait_durable(newest).expect("open");
        let oldest = ledger.history(0, 1).expect("kept")[0].sequence();
        assert_eq!(newest - oldest + 1, most);
    }

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
            sink.read(from, through, 10, usize::MAX).expect("kept").iter().map(Outcome::sequence).collect()
        };
        assert_eq!(read(2, 4), [2, 3, 4]);
        assert_eq!(read(0, 1), [1]);
        assert_eq!(read(5, 4), Vec::<u64>::new());
        assert_eq!(read(6, 4), Vec::<u64>::new());
    }
}
