//! The kernel's only door to the machine: atomics, plain shared data, epochs, spinning.
//!
//! One source, three builds: `std` with crossbeam-epoch, `--cfg equipoise_loom` and `--cfg equipoise_shuttle`. The
//! model checkers leak by nature, so [`retire`] does nothing there; reclamation is proved by the sanitizer runs.

use std::cell::UnsafeCell;

#[cfg(equipoise_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64};
#[cfg(equipoise_shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64};
#[cfg(equipoise_engine)]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64};

pub(crate) use std::sync::atomic::Ordering;

#[cfg(equipoise_engine)]
pub(crate) use crossbeam_epoch::{Guard, pin};

/// Stands in for an epoch guard where nothing is ever freed.
#[cfg(any(equipoise_loom, equipoise_shuttle))]
pub(crate) struct Guard;

#[cfg(any(equipoise_loom, equipoise_shuttle))]
pub(crate) fn pin() -> Guard {
    Guard
}

/// Garbage of at least this many bytes does not wait until its thread has more.
#[cfg(equipoise_engine)]
const LARGE: usize = 1 << 20;

/// How many bytes crossbeam uses to remember one deferred free.
#[cfg(equipoise_engine)]
const DEFERRED: usize = 4 * size_of::<usize>();

/// Frees `garbage` once no guard that is pinned now remains.
///
/// # Safety
/// `garbage` came from [`Box::into_raw`], is retired once, and no later pin can reach it.
#[inline]
pub(crate) unsafe fn retire<T>(guard: &Guard, garbage: *mut T) {
    // Safety: the caller's promise.
    unsafe { retire_bytes(guard, garbage, size_of::<T>()) };
}

/// Like [`retire`], for an object that frees `bytes` in all.
///
/// # Safety
/// As for [`retire`].
#[inline]
pub(crate) unsafe fn retire_bytes<T>(guard: &Guard, garbage: *mut T, bytes: usize) {
    #[cfg(any(equipoise_loom, equipoise_shuttle))]
    let _ = (guard, garbage, bytes);
    #[cfg(equipoise_engine)]
    {
        let counted = (bytes + DEFERRED) as i64;
        super::garbage::count(counted);
        let free = move || {
            super::garbage::count(-counted);
            // Safety: the caller's promise, handed on: this closure runs once, after every guard of today is gone.
            super::reuse::let_go(unsafe { Box::from_raw(garbage) });
        };
        // Safety: `free` owns what it touches. It may run on another thread: everything the kernel retires is Send.
        unsafe { guard.defer_unchecked(free) };
        if bytes >= LARGE {
            guard.flush();
        }
    }
}

/// Boxes `value`, in memory that was retired before if there is some.
#[inline]
pub(crate) fn boxed<T>(value: T) -> Box<T> {
    #[cfg(equipoise_engine)]
    return super::reuse::boxed(value);
    #[cfg(any(equipoise_loom, equipoise_shuttle))]
    Box::new(value)
}

/// Counts `more` objects of type `T` as kept for snapshots.
#[inline]
pub(crate) fn count_kept<T>(more: i64) {
    #[cfg(any(equipoise_loom, equipoise_shuttle))]
    let _ = more;
    #[cfg(equipoise_engine)]
    super::garbage::count(more * size_of::<T>() as i64);
}

/// Prefetches the cache line at `address`, which may be any.
#[inline]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // Safety: a hint, which faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Hints that the thread waits for another one; under a model checker, yields to the others.
#[inline]
pub(crate) fn spin() {
    #[cfg(equipoise_loom)]
    loom::thread::yield_now();
    #[cfg(equipoise_shuttle)]
    shuttle::thread::yield_now();
    #[cfg(equipoise_engine)]
    std::hint::spin_loop();
}

/// Under loom only: restores the total order of SeqCst, which loom does not model.
#[inline]
pub(crate) fn loom_fence() {
    #[cfg(equipoise_loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// Plain data, written before it is published and never after. loom checks that claim for data races.
pub(crate) struct Plain<T> {
    value: UnsafeCell<T>,
    #[cfg(equipoise_loom)]
    race: loom::cell::UnsafeCell<()>,
}

impl<T> Plain<T> {
    #[inline]
    pub(crate) fn new(value: T) -> Self {
        Plain {
            value: UnsafeCell::new(value),
            #[cfg(equipoise_loom)]
            race: loom::cell::UnsafeCell::new(()),
        }
    }

    /// The value.
    ///
    /// # Safety
    /// Every write happened before this call, and none follows while the reference lives.
    #[inline]
    pub(crate) unsafe fn get(&self) -> &T {
        #[cfg(equipoise_loom)]
        self.race.with(|_| ());
        // Safety: the caller's promise.
        unsafe { &*self.value.get() }
    }

    /// Replaces the value.
    ///
    /// # Safety
    /// Nobody else can reach it: it is not published yet.
    #[inline]
    pub(crate) unsafe fn set(&self, value: T) {
        #[cfg(equipoise_loom)]
        self.race.with_mut(|_| ());
        // Safety: the caller's promise.
        unsafe { *self.value.get() = value };
    }
}

/// A seeded bug, chosen by the environment variable `EQUIPOISE_MUTANT` in a build with `--cfg equipoise_mutants`.
/// `scripts/mutants.sh` runs them all; docs/mutants.md says which model catches which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    StateBeforeHead,
    StateBeforeSequence,
    PredecessorNotFinalized,
    SnapshotNotFinalized,
    #[cfg(equipoise_mutants)]
    SequenceBeforePublish,
    RelaxedCell,
    RelaxedList,
    RegisterAfterClock,
    DurableBeforeRegistering,
    ImageBelowGap,
    VerdictBeforeInstall,
    DecidedBeforeLastLeg,
    PrevCutInPlace,
    WatermarkSwapped,
    BitmapNotReread,
    FlushSlotAfterDurable,
    UncachedOnReplace,
    HeadsNotReleased,
    DriveBeforeGate,
    GateOverwritten,
    KeepBeforeResolve,
    RebuildDropsOldest,
    RejectedKeepsNew,
    RemovedBeforePublished,
    DrivenBeforeProbe,
    ProbeNotRepeated,
    PublishedBeforeIngested,
    OnlyNewestFinalized,
    GroupOutOfOrder,
    GroupKeepsDecided,
    BlockGoesWithFirst,
    OlderNotSealed,
    SlotUsedAgain,
    TableGoesUnsealed,
    LateClaimStays,
    PartsLookAlike,
    PartsHeldTogether,
    LateHelperEndsAll,
}

/// Whether `mutant` is switched on; constant `false` in every build that people use.
#[inline(always)]
pub(crate) fn mutant(mutant: Mutant) -> bool {
    #[cfg(equipoise_mutants)]
    {
        static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| std::env::var("EQUIPOISE_MUTANT").ok());
        chosen.as_deref().is_some_and(|name| name == format!("{mutant:?}"))
    }
    #[cfg(not(equipoise_mutants))]
    {
        let _ = mutant;
        false
    }
}
