//! Single words that threads share outside the kernel, each with the orderings that its use needs.

use crossbeam_utils::CachePadded;

use super::sync::{
    AtomicBool, AtomicI64, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// Set once, for good.
pub(crate) struct Latch(AtomicBool);

impl Latch {
    pub(crate) fn new() -> Self {
        Latch(AtomicBool::new(false))
    }

    pub(crate) fn set(&self) {
        // SeqCst: pairs with `is_set`; one order with a doorbell that is rung after it.
        self.0.store(true, SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        // SeqCst: pairs with `set`.
        self.0.load(SeqCst)
    }
}

/// Whether something is so now. The details are under a lock of their own; reading the flag takes none.
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn new() -> Self {
        Flag(AtomicBool::new(false))
    }

    pub(crate) fn set_to(&self, on: bool) {
        // Relaxed: it orders nothing; whoever needs to know more takes the lock.
        self.0.store(on, Relaxed);
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Relaxed: as in `set_to`.
        self.0.load(Relaxed)
    }
}

/// How often something happened.
pub(crate) struct Counter(CachePadded<AtomicU64>);

impl Counter {
    pub(crate) fn new() -> Self {
        Counter(CachePadded::new(AtomicU64::new(0)))
    }

    /// Counts `more`; how many there were before.
    pub(crate) fn add(&self, more: u64) -> u64 {
        // Relaxed: a count orders nothing.
        self.0.fetch_add(more, Relaxed)
    }

    pub(crate) fn get(&self) -> u64 {
        // Relaxed: as in `add`.
        self.0.load(Relaxed)
    }
}

/// The amount of something that is added and removed, in whatever order the changes are reported.
pub(crate) struct Gauge(CachePadded<AtomicI64>);

impl Gauge {
    pub(crate) fn new() -> Self {
        Gauge(CachePadded::new(AtomicI64::new(0)))
    }

    #[inline]
    pub(crate) fn add(&self, more: u64) {
        // Relaxed: it orders nothing; a bound that rests on it may be passed by what others add meanwhile.
        self.0.fetch_add(more.cast_signed(), Relaxed);
    }

    #[inline]
    pub(crate) fn subtract(&self, less: u64) {
        // Relaxed: as in `add`.
        self.0.fetch_sub(less.cast_signed(), Relaxed);
    }

    /// The present amount; 0 while more was removed than added so far.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        // Relaxed: as in `add`.
        self.0.load(Relaxed).max(0).cast_unsigned()
    }
}

/// A sequence that only rises. A thread that sees it risen also sees what was done before.
pub(crate) struct Watermark(CachePadded<AtomicU64>);

impl Watermark {
    pub(crate) fn new(sequence: u64) -> Self {
        Watermark(CachePadded::new(AtomicU64::new(sequence)))
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
