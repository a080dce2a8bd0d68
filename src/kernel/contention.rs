//! What meeting others in one place costs: transactions finished for them, lost CASes, and the time of both.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::sync::Ordering::Relaxed;

/// The number of shards: threads that contend should not contend for the counters as well.
pub(super) const SHARDS: usize = 16;

/// Since the kernel was made. Not the model checkers' atomics: nothing follows from what these say.
#[derive(Default)]
pub(super) struct Contention {
    shards: [CachePadded<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    helps: AtomicU64,
    retries: AtomicU64,
    nanoseconds: AtomicU64,
}

/// How much contention there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contended {
    /// Transactions that a thread finished for another.
    pub(crate) helps: u64,
    /// Lost CASes on an account or on the commit list, each tried again.
    pub(crate) retries: u64,
    /// The time between meeting another thread and continuing with its own transaction, summed.
    pub(crate) waiting: Duration,
}

impl Contention {
    /// Adds what a drive met.
    #[inline]
    pub(super) fn add(&self, met: &Meter) {
        if met.contended != Contended::default() {
            self.add_met(&met.contended);
        }
    }

    #[cold]
    fn add_met(&self, met: &Contended) {
        let shard = &self.shards[own_shard()];
        // Relaxed, here and below: statistics; they order nothing.
        shard.helps.fetch_add(met.helps, Relaxed);
        shard.retries.fetch_add(met.retries, Relaxed);
        shard.nanoseconds.fetch_add(u64::try_from(met.waiting.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn sum(&self) -> Contended {
        let mut sum = Contended::default();
        for shard in &self.shards {
            sum.helps += shard.helps.load(Relaxed);
            sum.retries += shard.retries.load(Relaxed);
            sum.waiting += Duration::from_nanos(shard.nanoseconds.load(Relaxed));
        }
        sum
    }
}

/// Where the calling thread counts.
#[inline]
pub(super) fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Relaxed) % SHARDS;
    }
    OWN.with(|own| *own)
}

/// What one drive meets. Free where it meets nothing: the clock is read only where somebody was in the way.
#[derive(Default)]
pub(super) struct Meter {
    contended: Contended,
    began: Option<Instant>,
}

/// Whether it was this call that started the clock: helping meets contention of its own, and its time counts once.
#[must_use]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Started(bool);

impl Started {
    pub(super) fn or(self, other: Started) -> Started {
        Started(self.0 | other.0)
    }
}

impl Meter {
    /// Somebody is in the way.
    pub(super) fn start(&mut self) -> Started {
        let first = self.began.is_none();
        if first {
            self.began = Some(Instant::now());
        }
        Started(first)
    }

    /// The thread goes on.
    #[inline]
    pub(super) fn stop(&mut self, started: Started) {
        if started.0
            && let Some(began) = self.began.take()
        {
            self.contended.waiting += began.elapsed();
        }
    }

    /// Another thread's transaction is being finished.
    pub(super) fn helped(&mut self) {
        self.contended.helps += 1;
    }

    /// A CAS was lost, and is tried again.
    #[cold]
    pub(super) fn lost(&mut self) -> Started {
        self.contended.retries += 1;
        self.start()
    }
}
