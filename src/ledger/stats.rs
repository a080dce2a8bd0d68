//! Statistics of a ledger.

use std::time::Duration;

use super::Ledger;
#[cfg(doc)]
use crate::error::Exhausted;
use crate::journal::{Flusher, Sink};
use crate::kernel::Contended;

/// Numbers about a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Accounts opened.
    pub accounts: u64,
    /// Accounts that take memory but are not open: the request that would open them was refused or is still undecided.
    pub unopened_accounts: u64,
    /// Ids kept in memory.
    pub ids: u64,
    /// The newest commit sequence.
    pub sequence: u64,
    /// The durable sequence.
    pub durable: u64,
    /// Snapshots open now; equal sequences share one.
    pub open_snapshots: u64,
    /// How often a thread finished a transaction that was not its own.
    pub helps: u64,
    /// How often a thread was overtaken on an account or on the commit list, and tried again.
    pub retries: u64,
    /// How long other threads held threads up (helping them, and trying again), summed over all threads.
    pub waiting: Duration,
    /// Bytes that cannot be freed yet. Over the whole process: what old readers and open snapshots may still need. In
    /// this ledger, if it is in memory: ids that a suspended thread was about to forget.
    pub garbage_bytes: u64,
    /// The oldest sequence of the history, or the next one to come.
    pub history_oldest: u64,
    /// The journal's next segment cannot be allocated now: writes are refused until it can.
    pub short_of_space: bool,
    /// The id index cannot be written now: ids wait in memory, and once too many do, requests that carry ids are
    /// refused until it can.
    pub ids_index_failing: bool,
    /// Requests refused with [`Exhausted::Disk`], [`Exhausted::Segment`], or [`Exhausted::Ids`] because the index
    /// cannot be written.
    pub refused_for_space: u64,
}

impl Ledger {
    /// Numbers about the ledger. With a history in memory it waits while the flusher adds a batch.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let core = self.core();
        let sink = core.flusher.as_ref().map(Flusher::sink);
        let Contended { helps, retries, waiting } = core.kernel.contended();
        Stats {
            accounts: core.opened.get(),
            unopened_accounts: core.directory.unopened(),
            ids: core.ids.len() as u64,
            sequence: self.sequence(),
            durable: self.durable(),
            open_snapshots: u64::from(core.kernel.snapshot_count()),
            helps,
            retries,
            waiting,
            garbage_bytes: core.garbage_bytes(),
            history_oldest: sink.map_or(self.sequence() + 1, Sink::oldest),
            short_of_space: sink.is_some_and(|sink| sink.shortage().is_some()),
            ids_index_failing: core.ids.degraded().is_some(),
            refused_for_space: core.refused_for_space.get(),
        }
    }
}
