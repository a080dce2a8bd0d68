//! A doorbell for one thread that sleeps while there is nothing to do.

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

use super::sync::{AtomicBool, Ordering::SeqCst};

/// Wakes one listener; ringing costs a load while it is awake.
pub(crate) struct Doorbell {
    listener: OnceLock<Thread>,
    asleep: AtomicBool,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Doorbell { listener: OnceLock::new(), asleep: AtomicBool::new(false) }
    }

    /// Wakes the listener if it sleeps.
    #[inline]
    pub(crate) fn ring(&self) {
        // SeqCst: pairs with the store in `listen`: either we see it asleep, or it sees what we did before ringing.
        if self.asleep.load(SeqCst)
            && self.asleep.swap(false, SeqCst)
            && let Some(listener) = self.listener.get()
        {
            listener.unpark();
        }
    }

    /// Sleeps until rung, unless `busy` says that there is work already. For one thread, always the same.
    pub(crate) fn listen(&self, busy: impl Fn() -> bool) {
        self.listener.get_or_init(std::thread::current);
        self.asleep.store(true, SeqCst);
        if !busy() {
            std::thread::park_timeout(Duration::from_secs(1));
        }
        self.asleep.store(false, SeqCst);
    }
}

/// A value that is set once: zero until then.
pub(crate) struct Latch(super::sync::AtomicU64);

impl Latch {
    pub(crate) fn new() -> Self {
        Latch(super::sync::AtomicU64::new(0))
    }

    pub(crate) fn set(&self) {
        self.0.store(1, SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(SeqCst) != 0
    }
}

/// A running count for statistics.
pub(crate) struct Counter(crossbeam_utils::CachePadded<super::sync::AtomicU64>);

impl Counter {
    pub(crate) fn new() -> Self {
        Counter(crossbeam_utils::CachePadded::new(super::sync::AtomicU64::new(0)))
    }

    pub(crate) fn add(&self, by: i64) -> u64 {
        // Relaxed: a statistic; it orders nothing.
        self.0.fetch_add(by as u64, super::sync::Ordering::Relaxed).wrapping_add(by as u64)
    }

    pub(crate) fn get(&self) -> u64 {
        // Relaxed: a statistic; it orders nothing.
        self.0.load(super::sync::Ordering::Relaxed)
    }
}

/// A sequence that only rises, and what was done before it rose is seen by whoever sees it risen.
pub(crate) struct Watermark(crossbeam_utils::CachePadded<super::sync::AtomicU64>);

impl Watermark {
    pub(crate) fn new(sequence: u64) -> Self {
        Watermark(crossbeam_utils::CachePadded::new(super::sync::AtomicU64::new(sequence)))
    }

    /// Raises it to `sequence`, unless it is there already.
    pub(crate) fn raise(&self, sequence: u64) {
        // SeqCst: pairs with the load in `get`; one order with everything else that the sequence guards.
        self.0.fetch_max(sequence, SeqCst);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        // SeqCst: pairs with `raise`.
        self.0.load(SeqCst)
    }
}
