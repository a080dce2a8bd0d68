//! How a ledger is made: its limits and its parts.

use std::sync::Arc;

use crate::core::{Clock, Core, Limits};
use crate::directory::Directory;
use crate::ids::Ids;
use crate::journal::{Flusher, Memory};
use crate::kernel::Kernel;
use crate::ledger::Ledger;

/// How a ledger is to be made.
#[derive(Clone, Debug)]
pub struct Builder {
    history: Option<usize>,
    id_capacity: usize,
    look_up_cache: bool,
    reserve_accounts: usize,
    reserve_ids: usize,
    garbage_cap: u64,
    max_backlog: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            history: None,
            id_capacity: 100_000,
            look_up_cache: true,
            reserve_accounts: 0,
            reserve_ids: 0,
            garbage_cap: 1 << 30,
            max_backlog: 1_000_000,
        }
    }
}

impl Builder {
    /// Keeps the newest `entries` of the journal in memory, for [`Ledger::history`]. Starts a thread, the flusher,
    /// which moves the durable sequence.
    #[must_use]
    pub fn history(mut self, entries: usize) -> Self {
        self.history = Some(entries);
        self
    }

    /// How many ids are kept (default 100,000). Past it the ones used first are forgotten: sending one of those again
    /// executes again.
    #[must_use]
    pub fn id_capacity(mut self, ids: usize) -> Self {
        self.id_capacity = ids;
        self
    }

    /// Whether a hash map stands in front of the skiplist (default true): about 90 bytes an account for a look-up that
    /// costs a fraction.
    #[must_use]
    pub fn look_up_cache(mut self, on: bool) -> Self {
        self.look_up_cache = on;
        self
    }

    /// Grows the tables for so many accounts and ids beforehand: growing takes locks.
    #[must_use]
    pub fn reserve(mut self, accounts: usize, ids: usize) -> Self {
        self.reserve_accounts = accounts;
        self.reserve_ids = ids;
        self
    }

    /// How many bytes of garbage may wait for a suspended thread, over the whole process (default 1 GiB), before
    /// writes are refused with [`Exhausted::Garbage`](crate::Exhausted::Garbage). Reads go on.
    #[must_use]
    pub fn garbage_cap(mut self, bytes: u64) -> Self {
        self.garbage_cap = bytes;
        self
    }

    /// How many decided transactions may wait to become durable (default 1,000,000) before writes are refused with
    /// [`Exhausted::Backlog`](crate::Exhausted::Backlog).
    #[must_use]
    pub fn max_backlog(mut self, entries: u64) -> Self {
        self.max_backlog = entries;
        self
    }

    /// Makes the ledger.
    ///
    /// # Panics
    /// If the operating system cannot start the flusher's thread (only with [`Builder::history`]).
    #[must_use]
    pub fn build(self) -> Ledger {
        let clock = Clock::start();
        let (kernel, flusher) = match self.history {
            Some(entries) => {
                let (kernel, consumer) = Kernel::with_consumer(0, clock.now());
                (kernel, Some(Flusher::new(Box::new(Memory::new(entries, 0)), consumer)))
            }
            None => (Kernel::new(0, clock.now()), None),
        };
        let core = Arc::new(Core::new(
            kernel,
            flusher,
            Directory::new(self.look_up_cache, self.reserve_accounts),
            Ids::in_memory(self.id_capacity, self.reserve_ids),
            clock,
            Limits { garbage: self.garbage_cap, backlog: self.max_backlog },
        ));
        let thread = core.flusher.is_some().then(|| {
            let core = Arc::clone(&core);
            let builder = std::thread::Builder::new().name("equipoise-flusher".into());
            builder.spawn(move || core.flush_until_closed()).expect("the flusher's thread starts")
        });
        Ledger::over(core, thread)
    }
}
