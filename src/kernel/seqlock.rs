//! Accounts and their versions: a seqlock that anyone can help to even.
//!
//! The cell of an account points at its newest version. While that version belongs to an undecided transaction the
//! seqlock is *odd*; readers then answer from the before-image that the version carries, so they never retry.

use std::marker::PhantomData;

use super::State;
use super::sync::{
    AtomicPtr, AtomicU64, Guard, Mutant,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    Plain, count_kept, mutant, prefetch,
};
use super::transaction::{ACTIVE, Transaction, cached_word};

/// The cached sequence of a version whose transaction was refused: its before-image holds.
pub(super) const REFUSED: u64 = u64::MAX;

/// The cached sequence of a version while only its transaction knows the outcome.
pub(super) const UNDECIDED: u64 = 0;

/// One account: one cache line, permanent.
pub(crate) struct Account<S: State> {
    pub(super) cell: AtomicPtr<Version<S>>,
    /// The state while the cell is empty, and the sequence of its change. It is stored here because an earlier process
    /// may leave more accounts than anybody ever touches: a version for each would take most of a start's time.
    origin: (u64, S),
    key: S::Key,
}

/// One committed or attempted change of an account.
#[repr(align(64))]
pub(super) struct Version<S: State> {
    /// [`UNDECIDED`], [`REFUSED`], or the commit sequence: a cache of the transaction's decision.
    sequence: AtomicU64,
    body: Plain<Body<S>>,
}

/// What a version carries; immutable once published.
pub(super) struct Body<S: State> {
    pub(super) transaction: *const Transaction<S>,
    pub(super) new: S,
    pub(super) old_sequence: u64,
    pub(super) old: S,
    pub(super) prev: Chain<S>,
}

impl<S: State> Clone for Body<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: State> Copy for Body<S> {}

/// The older versions that open snapshots need: a pointer with the chain's depth in its low six bits.
pub(super) struct Chain<S: State>(*mut Version<S>, PhantomData<S>);

impl<S: State> Clone for Chain<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: State> Copy for Chain<S> {}

impl<S: State> Chain<S> {
    pub(super) const EMPTY: Self = Chain(std::ptr::null_mut(), PhantomData);
    /// The deepest count that fits the tag; a deeper chain says this too.
    pub(super) const DEEPEST: usize = align_of::<Version<S>>() - 1;

    pub(super) fn new(head: *mut Version<S>, depth: usize) -> Self {
        Chain(head.map_addr(|address| address | depth.min(Self::DEEPEST)), PhantomData)
    }

    pub(super) fn head(self) -> *mut Version<S> {
        self.0.map_addr(|address| address & !Self::DEEPEST)
    }

    pub(super) fn depth(self) -> usize {
        self.0.addr() & Self::DEEPEST
    }
}

/// How a version's transaction ended, as far as its reader knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Undecided,
    Refused,
    Accepted(u64),
}

impl<S: State> Version<S> {
    pub(super) fn new(sequence: u64, body: Body<S>) -> Self {
        Version { sequence: AtomicU64::new(sequence), body: Plain::new(body) }
    }

    #[inline]
    pub(super) fn body(&self) -> &Body<S> {
        // Safety: I1. Written before the CAS that published it, whose AcqRel pairs with the Acquire that found it.
        unsafe { self.body.get() }
    }

    /// # Safety
    /// The version was never published.
    pub(super) unsafe fn rewrite(&self, body: Body<S>) {
        // Safety: the caller's promise.
        unsafe { self.body.set(body) };
    }

    /// [`UNDECIDED`], [`REFUSED`] or a commit sequence.
    #[inline]
    pub(super) fn cached(&self) -> u64 {
        // Acquire: pairs with the Release in `cache`; whoever sees a decision here sees what it decided.
        self.sequence.load(Acquire)
    }

    #[inline]
    pub(super) fn cache(&self, decision: u64) {
        // Release: pairs with the Acquire in `cached`. Every writer stores the same value.
        self.sequence.store(decision, Release);
    }

    /// What became of the transaction, without helping it.
    #[inline]
    pub(super) fn fate(&self, _guard: &Guard) -> Fate {
        match self.cached() {
            UNDECIDED => {
                // Safety: I2, the cached sequence was undecided after the pin.
                let state = unsafe { &*self.body().transaction }.state();
                if state == ACTIVE { Fate::Undecided } else { Fate::of(cached_word(state)) }
            }
            decision => Fate::of(decision),
        }
    }
}

impl Fate {
    #[inline]
    fn of(decision: u64) -> Fate {
        if decision == REFUSED { Fate::Refused } else { Fate::Accepted(decision) }
    }
}

/// The error of [`Account::read_at`] when the version for the sequence is gone; only an unregistered sequence can meet
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trimmed;

impl<S: State> Account<S> {
    /// An account that nobody opened yet.
    pub(crate) fn new(key: S::Key) -> Self {
        Account { cell: AtomicPtr::new(std::ptr::null_mut()), origin: (0, S::ABSENT), key }
    }

    /// The account's id.
    pub(crate) fn key(&self) -> &S::Key {
        &self.key
    }

    /// Prefetches its newest version.
    #[inline]
    pub(crate) fn prefetch(&self) {
        // Relaxed: a hint, which is not followed.
        prefetch(self.cell.load(Relaxed));
    }

    /// Gives it the state that it had after commit `sequence` of an earlier process.
    #[cfg(equipoise_engine)]
    pub(crate) fn restore(&mut self, sequence: u64, state: S) {
        debug_assert!((1..REFUSED).contains(&sequence), "a commit sequence");
        // Relaxed: `&mut self`, nobody else is there.
        debug_assert!(self.cell.load(Relaxed).is_null(), "nobody changed it yet");
        self.origin = (sequence, state);
    }

    /// What its first version replaces.
    #[inline]
    pub(super) fn origin(&self) -> (u64, S) {
        self.origin
    }

    #[inline]
    pub(super) fn head<'g>(&self, _guard: &'g Guard) -> (*mut Version<S>, Option<&'g Version<S>>) {
        // Acquire: pairs with the AcqRel CAS that installed the version; its body is visible after this.
        let head = self.cell.load(Acquire);
        // Safety: I1, loaded after the pin.
        (head, unsafe { head.as_ref() })
    }

    /// Replaces the head `old` by `new`.
    #[inline]
    pub(super) fn install(&self, old: *mut Version<S>, new: *mut Version<S>) -> bool {
        if mutant(Mutant::RelaxedCell) {
            return self.cell.compare_exchange(old, new, Relaxed, Relaxed).is_ok();
        }
        // AcqRel: publishes the version's body to the Acquire in `head`, and sees the body of the one it replaces.
        self.cell.compare_exchange(old, new, AcqRel, Acquire).is_ok()
    }

    /// The newest committed state and the sequence of its change (0: never opened). Wait-free: two loads, three while
    /// the newest version is undecided.
    #[inline]
    pub(crate) fn read(&self, guard: &Guard) -> (u64, S) {
        let (_, Some(head)) = self.head(guard) else { return self.origin };
        let body = head.body();
        match head.fate(guard) {
            Fate::Accepted(sequence) => (sequence, body.new),
            Fate::Undecided | Fate::Refused if mutant(Mutant::RejectedKeepsNew) => (body.old_sequence, body.new),
            Fate::Undecided | Fate::Refused => (body.old_sequence, body.old),
        }
    }

    /// The state at commit sequence `at`, and the sequence of its last change up to there. Wait-free.
    pub(crate) fn read_at(&self, at: u64, guard: &Guard) -> Result<(u64, S), Trimmed> {
        let (_, Some(head)) = self.head(guard) else {
            return if self.origin.0 <= at { Ok(self.origin) } else { Err(Trimmed) };
        };
        let body = head.body();
        match head.fate(guard) {
            Fate::Accepted(sequence) if sequence <= at => return Ok((sequence, body.new)),
            _ if body.old_sequence <= at => return Ok((body.old_sequence, body.old)),
            _ => {}
        }
        let mut next = body.prev.head();
        // Safety: I1, reached from a head loaded after the pin.
        while let Some(version) = unsafe { next.as_ref() } {
            let body = version.body();
            let fate = version.fate(guard);
            let accepted = matches!(fate, Fate::Accepted(_));
            if matches!(fate, Fate::Accepted(sequence) if sequence <= at) {
                // Between this version and the one above it there may have been others.
                return if mutant(Mutant::ImageBelowGap) { Ok((at, body.new)) } else { Err(Trimmed) };
            }
            if body.old_sequence <= at {
                return if accepted { Ok((body.old_sequence, body.old)) } else { Err(Trimmed) };
            }
            next = body.prev.head();
        }
        Err(Trimmed)
    }

    /// The seqlock's word: twice the sequence of the last committed change, plus one while a writer holds the account.
    pub(crate) fn word(&self, guard: &Guard) -> u64 {
        let odd = match self.head(guard) {
            (_, Some(head)) => u64::from(head.fate(guard) == Fate::Undecided),
            (_, None) => 0,
        };
        2 * self.read(guard).0 + odd
    }

    /// How many versions hang below the head.
    #[cfg(test)]
    pub(super) fn depth(&self, guard: &Guard) -> usize {
        let (_, head) = self.head(guard);
        head.map_or(0, |head| head.body().prev.depth())
    }

    /// Whether any version still has to ask its transaction.
    #[cfg(all(test, equipoise_ids))]
    pub(super) fn asks_transaction(&self, guard: &Guard) -> bool {
        let mut version = self.head(guard).1;
        while let Some(asked) = version {
            if asked.cached() == UNDECIDED {
                return true;
            }
            // Safety: I1, reached from a head loaded after the pin.
            version = unsafe { asked.body().prev.head().as_ref() };
        }
        false
    }
}

impl<S: State> Drop for Account<S> {
    fn drop(&mut self) {
        // Relaxed: `&mut self`, nobody else is left.
        let head = self.cell.load(Relaxed);
        let freed = super::drive::free_chain(Chain::new(head, 1));
        // All but the head were counted as kept.
        count_kept::<Version<S>>(1 - freed.max(1));
    }
}
