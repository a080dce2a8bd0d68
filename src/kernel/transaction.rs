//! Transactions: the plan that any thread can finish, and the counted handles that keep it alive.

use std::ops::Deref;
use std::ptr::NonNull;

use smallvec::SmallVec;

use super::block::Block;
use super::commit::{Entry, EntryBody};
use super::seqlock::{Account, REFUSED, UNDECIDED};
use super::sync::{
    AtomicBool, AtomicPtr, AtomicU64, Guard, Mutant,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    mutant, pin, prefetch, retire_bytes,
};
use super::{Refused, State};

/// A transaction's state word before its decision; after it, `sequence << 1 | accepted`.
pub(super) const ACTIVE: u64 = 0;

/// The gate's word before it is settled.
const UNSETTLED: u64 = 0;
/// The gate's word once the transaction may be driven.
const OPEN: u64 = 1;
/// The gate's word once the transaction may never be driven.
const CLOSED: u64 = 2;

/// What the state word of a decided transaction says to a version's cache: the sequence, or [`REFUSED`].
#[inline]
pub(super) fn cached_word(state: u64) -> u64 {
    if state & 1 == 1 { state >> 1 } else { REFUSED }
}

/// One account's part in a transaction: its operations, each with its place in the request, in request order.
pub(crate) struct Leg<S: State> {
    pub(super) account: *const Account<S>,
    pub(super) ops: SmallVec<[(u32, S::Op); 1]>,
}

impl<S: State> Leg<S> {
    /// A leg on `account`, which must belong to the kernel that will drive it.
    pub(crate) fn new(account: &Account<S>) -> Self {
        Leg { account, ops: SmallVec::new() }
    }

    /// Adds an operation: `place` is its index in the request.
    pub(crate) fn push(&mut self, place: u32, op: S::Op) {
        self.ops.push((place, op));
    }

    fn key(&self) -> &S::Key {
        self.account().key()
    }

    /// The operations, each with its place in the request.
    pub(crate) fn ops(&self) -> &[(u32, S::Op)] {
        &self.ops
    }

    /// The account of this leg.
    #[inline]
    pub(crate) fn account(&self) -> &Account<S> {
        // Safety: I7, the slab outlives every transaction on its accounts.
        unsafe { &*self.account }
    }

    /// The state after all operations on top of `base`, or the first that is refused.
    #[inline]
    pub(super) fn fold(&self, base: S) -> Result<S, Refused<S::Reject>> {
        let mut ops = self.ops.iter();
        ops.try_fold(base, |state, (place, op)| state.apply(op).map_err(|reject| Refused { place: *place, reject }))
    }
}

// Safety: I7; the account is Sync and the operations are Send and Sync.
unsafe impl<S: State> Send for Leg<S> {}
// Safety: as for Send.
unsafe impl<S: State> Sync for Leg<S> {}

/// A transaction's work, complete before anyone sees it.
pub(crate) struct Plan<S: State> {
    /// One leg per account, in ascending id order.
    pub(crate) legs: SmallVec<[Leg<S>; 2]>,
    /// A refusal that is known before any leg is looked at: an unknown account.
    pub(crate) refusal: Option<Refused<S::Reject>>,
    /// The sequence up to which `refusal` holds for certain: read before its account was looked for.
    pub(crate) as_of: u64,
    /// Nanoseconds since the epoch; the entry's time is at least its predecessor's.
    pub(crate) time: u64,
    /// What the journal needs to know of the request.
    pub(crate) request: S::Request,
}

impl<S: State> Plan<S> {
    /// How many bytes it has allocated on the heap.
    pub(super) fn spilled_bytes(&self) -> usize {
        let legs = if self.legs.spilled() { self.legs.len() * size_of::<Leg<S>>() } else { 0 };
        let spilled = self.legs.iter().filter(|leg| leg.ops.spilled());
        S::spilled(&self.request) + legs + spilled.map(|leg| size_of_val(leg.ops())).sum::<usize>()
    }
}

/// A plan on its way to its decision, which any thread can bring it to.
pub(crate) struct Transaction<S: State> {
    state: AtomicU64,
    entry: AtomicPtr<Entry<S>>,
    references: AtomicU64,
    gate: AtomicU64,
    /// Whether some driver has taken the embedded entry.
    embedded_taken: AtomicBool,
    /// Whether some version of it has older ones below.
    kept_older: AtomicBool,
    /// Whether the decision was cached in every head that is still ours.
    released: AtomicBool,
    /// The claims of this many parts, from the first on, have ended for good.
    claims_ended: AtomicU64,
    /// The one before it in its group (I8); null where there is none.
    before: *const Transaction<S>,
    /// Where it lies with others (I9); null where it has memory of its own.
    block: *const Block<S>,
    embedded: Entry<S>,
    pub(super) plan: Plan<S>,
}

// Safety: the raw pointers inside are the kernel's own (I3, I5, I7, I8); everything else is Send and Sync by State's
// bounds.
unsafe impl<S: State> Send for Transaction<S> {}
// Safety: as for Send; every shared field is atomic or immutable once published.
unsafe impl<S: State> Sync for Transaction<S> {}

/// What the gate of a transaction says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Nobody has settled yet whether the transaction may run.
    Unsettled,
    /// It may be driven, by anyone.
    Open,
    /// It never runs.
    Closed,
}

impl Gate {
    fn word(self) -> u64 {
        match self {
            Gate::Unsettled => UNSETTLED,
            Gate::Open => OPEN,
            Gate::Closed => CLOSED,
        }
    }

    fn of(word: u64) -> Gate {
        match word {
            UNSETTLED => Gate::Unsettled,
            OPEN => Gate::Open,
            _ => Gate::Closed,
        }
    }
}

impl<S: State> Transaction<S> {
    /// One that nobody has seen, in `block` unless that is null, to be decided after `before`.
    #[inline]
    pub(super) fn new(plan: Plan<S>, before: Option<&Handle<S>>, block: *const Block<S>) -> Self {
        debug_assert!(plan.legs.is_sorted_by(|a, b| a.key() < b.key()), "legs ascend by account id");
        Transaction {
            state: AtomicU64::new(ACTIVE),
            entry: AtomicPtr::new(std::ptr::null_mut()),
            // The handle's, and the one that the commit list will hold.
            references: AtomicU64::new(2),
            gate: AtomicU64::new(UNSETTLED),
            embedded_taken: AtomicBool::new(false),
            kept_older: AtomicBool::new(false),
            released: AtomicBool::new(false),
            claims_ended: AtomicU64::new(0),
            before: before.map_or(std::ptr::null(), |before| before.0.as_ptr()),
            block,
            embedded: Entry::empty(),
            plan,
        }
    }

    /// [`ACTIVE`], or how it was decided.
    #[inline]
    pub(super) fn state(&self) -> u64 {
        // Acquire: pairs with the CAS in `decide`; the entry and its results are visible after a decision.
        self.state.load(Acquire)
    }

    /// Publishes the decision that the linked `entry` stands for. Idempotent.
    #[inline]
    pub(super) fn decide(&self, entry: *const Entry<S>, body: &EntryBody<S>) {
        if self.state() != ACTIVE {
            return;
        }
        // Release: pairs with the Acquire in `Handle::decision`. Only one entry of a transaction is ever linked, so all
        // store the same.
        self.entry.store(entry.cast_mut(), Release);
        let decided = body.sequence << 1 | u64::from(body.refusal.is_none());
        // AcqRel: releases every account at once, with what its versions hold, to the Acquire in `state`.
        if let Err(earlier) = self.state.compare_exchange(ACTIVE, decided, AcqRel, Acquire) {
            assert_eq!(earlier, decided, "two entries of one transaction were linked");
        }
    }

    /// The embedded entry, for the first who asks.
    pub(super) fn take_embedded(&self) -> Option<*mut Entry<S>> {
        // Relaxed: only uniqueness matters; nobody reads the entry before a list CAS publishes it.
        let taken = self.embedded_taken.swap(true, Relaxed);
        (!taken).then(|| std::ptr::from_ref(&self.embedded).cast_mut())
    }

    /// Whether there is one that must be decided before it.
    #[inline]
    pub(super) fn is_grouped(&self) -> bool {
        !self.before.is_null()
    }

    /// The one that must be decided before it, if there is any.
    #[inline]
    pub(super) fn before<'g>(&self, _guard: &'g Guard) -> Option<&'g Transaction<S>> {
        // Safety: I8, the caller found this one undecided after the pin.
        unsafe { self.before.as_ref() }
    }

    /// Notes that a version of it is being installed above older ones.
    #[inline]
    pub(super) fn note_kept(&self) {
        // Relaxed: a hint for the janitor; the decision, which it reads first, comes after with AcqRel.
        self.kept_older.store(true, Relaxed);
    }

    /// Whether some version of it was installed above older ones.
    pub(super) fn kept_older(&self) -> bool {
        // Relaxed: as in `note_kept`.
        self.kept_older.load(Relaxed)
    }

    /// Caches the decision in those of its versions that are still heads.
    pub(super) fn release(&self, guard: &Guard) {
        let decision = cached_word(self.state());
        for leg in &self.plan.legs {
            let (_, Some(head)) = leg.account().head(guard) else { continue };
            if head.cached() == UNDECIDED && std::ptr::eq(head.body().transaction, self) {
                head.cache(decision);
            }
        }
        // Release: pairs with the Acquire in `drop_reference`.
        self.released.store(true, Release);
    }

    /// Another counted reference; None if the last one was given back before the caller, who met it under a guard, got
    /// here.
    ///
    /// # Safety
    /// `transaction` was met under a guard that is still pinned (I10).
    #[inline]
    pub(super) unsafe fn try_handle(transaction: *const Self) -> Option<Handle<S>> {
        // Safety: the caller's promise.
        let counted = &unsafe { &*transaction }.references;
        // Relaxed, both: as in `Handle::clone`; the load that led here saw what the transaction is made of.
        let mut references = counted.load(Relaxed);
        while references > 0 {
            match counted.compare_exchange(references, references + 1, Relaxed, Relaxed) {
                // Safety: the reference was counted above.
                Ok(_) => return Some(unsafe { Handle::from_counted(transaction) }),
                Err(now) => references = now,
            }
        }
        None
    }

    /// Gives one counted reference back.
    ///
    /// # Safety
    /// The caller owns that reference and uses `transaction` no more, but for what `guard` still protects.
    pub(super) unsafe fn drop_reference(transaction: *const Self, guard: &Guard) {
        // Safety: the caller's promise.
        if unsafe { Transaction::was_last(transaction) } {
            // Safety: it was the last.
            unsafe { Transaction::free(transaction, guard) };
        }
    }

    /// Gives one counted reference back, and says whether it was the last: then the caller is to free the transaction.
    ///
    /// # Safety
    /// As for [`Transaction::drop_reference`].
    #[inline]
    unsafe fn was_last(transaction: *const Self) -> bool {
        // Safety: the reference that is being given back kept it alive until here.
        let this = unsafe { &*transaction };
        // AcqRel: every holder's last use happens before the free.
        this.references.fetch_sub(1, AcqRel) == 1
    }

    /// # Safety
    /// The last counted reference was given back, and nobody else heard that.
    unsafe fn free(transaction: *const Self, guard: &Guard) {
        // Safety: only the caller frees it.
        let this = unsafe { &*transaction };
        // Acquire: pairs with the Release in `release`. A driver that died on the way never got there.
        if !this.released.load(Acquire)
            && this.gate() == Gate::Open
            && this.state() != ACTIVE
            && !mutant(Mutant::HeadsNotReleased)
        {
            this.release(guard);
        }
        if !this.block.is_null() {
            // Safety: the caller's promise.
            unsafe { Block::let_go(this.block, guard) };
            return;
        }
        // Safety: I2, no head asks this transaction any more, and the count says that no handle is left.
        unsafe { retire_bytes(guard, transaction.cast_mut(), size_of::<Self>() + this.plan.spilled_bytes()) };
    }

    /// What the gate says now.
    #[inline]
    pub(crate) fn gate(&self) -> Gate {
        // Acquire: pairs with the CAS in `Handle::settle`.
        Gate::of(self.gate.load(Acquire))
    }
}

impl<S: State> Drop for Transaction<S> {
    fn drop(&mut self) {
        // Relaxed: `&mut self`, nobody else is left.
        let entry = self.entry.load(Relaxed);
        if !entry.is_null() && !std::ptr::eq(entry, &self.embedded) {
            // Safety: I5, a helper's linked entry dies with its transaction, and this one was linked.
            drop(unsafe { Box::from_raw(entry) });
        }
    }
}

/// A transaction outside of any group, which nobody else has seen.
pub(crate) struct Owned<S: State>(Box<Transaction<S>>);

impl<S: State> Owned<S> {
    pub(crate) fn new(plan: Plan<S>) -> Self {
        Owned(Box::new(Transaction::new(plan, None, std::ptr::null())))
    }

    /// Makes it shareable; it runs once its gate is open.
    pub(crate) fn publish(self) -> Handle<S> {
        Handle(NonNull::from(Box::leak(self.0)))
    }

    /// As [`Owned::publish`], with the gate open from the start.
    #[cfg(test)]
    pub(super) fn publish_open(mut self) -> Handle<S> {
        self.0.gate = AtomicU64::new(OPEN);
        self.publish()
    }
}

/// A counted reference to a transaction, whose Drop defers through the epoch.
pub(crate) struct Handle<S: State>(NonNull<Transaction<S>>);

// Safety: a handle is a counted reference to a Send and Sync transaction (I6).
unsafe impl<S: State> Send for Handle<S> {}
// Safety: as for Send.
unsafe impl<S: State> Sync for Handle<S> {}

impl<S: State> Handle<S> {
    /// # Safety
    /// The caller owns a counted reference and gives it to the handle.
    pub(super) unsafe fn from_counted(transaction: *const Transaction<S>) -> Self {
        // Safety: the caller's promise; a counted reference is never null.
        Handle(unsafe { NonNull::new_unchecked(transaction.cast_mut()) })
    }

    /// Settles whether the transaction runs; the first value wins and is returned.
    pub(crate) fn settle(&self, gate: Gate) -> Gate {
        debug_assert_ne!(gate, Gate::Unsettled, "settling says something");
        if mutant(Mutant::GateOverwritten) {
            self.gate.store(gate.word(), SeqCst);
            return gate;
        }
        // AcqRel: whoever sees the gate settled sees what its settler saw.
        match self.gate.compare_exchange(UNSETTLED, gate.word(), AcqRel, Acquire) {
            Ok(_) => {
                if gate == Gate::Closed {
                    // Safety: I3, a closed transaction is never linked, so the list's reference is nobody's; only the
                    // winner of this CAS gets here.
                    unsafe { Transaction::drop_reference(self.0.as_ptr(), &pin()) };
                }
                gate
            }
            Err(earlier) => Gate::of(earlier),
        }
    }

    pub(super) fn as_ptr(&self) -> *const Transaction<S> {
        self.0.as_ptr()
    }

    /// Prefetches the transaction.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self.0.as_ptr());
    }

    /// Notes that the claims of the first `parts` parts are over for good: a thread that still makes one must end it.
    #[inline]
    pub(super) fn end_claims(&self, parts: u32) {
        // SeqCst: pairs with the load in `claims_ended`.
        self.claims_ended.fetch_max(u64::from(parts), SeqCst);
    }

    /// The claims of how many parts, from the first on, are over for good: a claim made later must be ended.
    #[inline]
    pub(crate) fn claims_ended(&self) -> u64 {
        // SeqCst: one order with `Claims::end_for_good`, which either meets an earlier claim or makes its note visible
        // here.
        self.claims_ended.load(SeqCst)
    }

    /// Whether both are handles of one transaction.
    pub(crate) fn same(&self, other: &Handle<S>) -> bool {
        self.0 == other.0
    }

    /// What was asked.
    pub(crate) fn request(&self) -> &S::Request {
        &self.plan.request
    }

    /// The sequence at which its planned refusal was true, if that is what refused it.
    pub(crate) fn as_of(&self) -> Option<u64> {
        let planned = self.plan.refusal?;
        (self.decision()?.refusal == Some(planned)).then_some(self.plan.as_of)
    }

    /// How it ended; None while it is undecided.
    #[inline]
    pub(crate) fn decision(&self) -> Option<Decision<'_, S>> {
        if self.state() == ACTIVE {
            return None;
        }
        // Acquire: pairs with the Release in `decide`, which came before the state.
        let entry = self.entry.load(Acquire);
        // Safety: I3, I5: the linked entry lives as long as its transaction, which this handle keeps alive.
        let entry = unsafe { &*entry };
        let body = entry.body();
        Some(Decision {
            sequence: body.sequence,
            time: body.time,
            refusal: body.refusal,
            legs: &self.plan.legs,
            before: entry.before(),
        })
    }
}

impl<S: State> Deref for Handle<S> {
    type Target = Transaction<S>;

    #[inline]
    fn deref(&self) -> &Transaction<S> {
        // Safety: I6, the handle counts.
        unsafe { self.0.as_ref() }
    }
}

impl<S: State> Clone for Handle<S> {
    fn clone(&self) -> Self {
        // Relaxed: made from a live handle, so the count cannot reach zero meanwhile.
        self.references.fetch_add(1, Relaxed);
        Handle(self.0)
    }
}

impl<S: State> Drop for Handle<S> {
    fn drop(&mut self) {
        // Safety: I6, the handle owns one reference and is gone after this.
        if unsafe { Transaction::was_last(self.0.as_ptr()) } {
            // Safety: it was the last. Most are not, and need no pin.
            unsafe { Transaction::free(self.0.as_ptr(), &pin()) };
        }
    }
}

/// How a transaction ended.
pub(crate) struct Decision<'a, S: State> {
    /// Its place in the commit list.
    pub(crate) sequence: u64,
    /// Nanoseconds since the epoch, never before an earlier entry's.
    pub(crate) time: u64,
    /// The first operation that was refused, and why; None when all were applied.
    pub(crate) refusal: Option<Refused<S::Reject>>,
    /// The legs, in ascending account order.
    pub(crate) legs: &'a [Leg<S>],
    /// The state of each leg's account before the transaction.
    pub(crate) before: &'a [S],
}
