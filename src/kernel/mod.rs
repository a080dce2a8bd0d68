//! The kernel: balances of any kind, changed by many threads at once, in one order that everybody sees.
//!
//! It knows no money, no I/O and no async; all unsafe code and every `Ordering` of the crate live here. It keeps one
//! [`State`] per account. A [`Transaction`](transaction::Transaction) installs a version in each of its accounts,
//! ascending by id ([`drive`]), and is then linked into the commit list ([`commit`]); one CAS on its state word
//! publishes the decision to all its accounts at once. A thread that meets an undecided transaction finishes it, so a
//! writer suspended between any two instructions blocks nobody.
//!
//! # What keeps memory alive
//!
//! Every `Safety:` comment names the invariant that it stands on.
//!
//! | | dereference | kept alive by |
//! |---|---|---|
//! | I1 | cell → version, `prev` → version | an epoch pin taken before the load; a version is retired only by the CAS that removed it from the one chain it was in |
//! | I2 | version → transaction, only while the version's cached sequence is undecided | the decision is cached before its transaction is freed: in a replaced version *before* the replacing CAS; in a head by a driver with a handle or, if no driver got there, by the thread that gives the last reference back. A later pin reads the cache; an earlier pin delays the free |
//! | I3 | list head → entry, entry → transaction | one counted reference per linked transaction, created with it and given back once its successor is linked (and the consumer has passed it); loads need a guard |
//! | I4 | entry → `prev` | the consumer and the kernel's Drop follow it down to the entry that the consumer kept: all of these are referenced. Other threads follow it only among entries that one CAS linked, and only while the newest of them is undecided: until then none of them is given back |
//! | I5 | a helper's boxed entry | if it is never linked, its creator frees it at once; if it is linked, it dies with its transaction |
//! | I6 | handle → transaction | the count; the last handle frees through the epoch |
//! | I7 | leg → account | the slab, which outlives every transaction: a ledger drops its handles before its kernel |
//! | I8 | transaction → its predecessor in the group, only while the transaction is undecided | the group holds a handle of each of its transactions until all are decided or closed; a pin taken before the transaction was found undecided delays the free |
//! | I9 | transaction → its block | the block counts its referenced transactions, and is retired through the epoch with the last; until then a transaction in it may outlive its own last reference |
//! | I10 | claimed slot → transaction | one counted reference per slot, given back by the CAS that ends the claim; a thread that loaded the word under a guard may read the transaction until the guard ends, and takes a handle of it only while its count is not zero |
//! | I11 | newest table → older ones | a pin taken before the load; the collecting thread removes a table when all its slots are sealed or gone, and retires it through the epoch |

#![expect(unsafe_code, reason = "the one place for it; every block names its invariant")]

mod block;
#[cfg(equipoise_ids)]
pub(crate) mod cells;
#[cfg(any(equipoise_ids, test))]
pub(crate) mod claims;
mod commit;
mod contention;
#[cfg(equipoise_ids)]
pub(crate) mod doorbell;
mod drive;
#[cfg(equipoise_engine)]
pub(crate) mod garbage;
mod group;
#[cfg(equipoise_engine)]
pub(crate) mod hints;
#[cfg(test)]
mod models;
#[cfg(equipoise_engine)]
mod reuse;
mod seqlock;
#[cfg(equipoise_engine)]
pub(crate) mod slab;
mod snapshot;
mod step;
mod sync;
mod transaction;

use crossbeam_utils::CachePadded;

use commit::Entry;
use sync::{AtomicPtr, AtomicU64};

pub(crate) use commit::Consumer;
#[cfg(equipoise_ids)]
pub(crate) use contention::Contended;
#[cfg(equipoise_ids)]
pub(crate) use group::{GROUP, Group};
pub(crate) use seqlock::Account;
pub(crate) use sync::{pin, prefetch};
pub(crate) use transaction::{Handle, Leg, Owned, Plan};
#[cfg(equipoise_engine)]
pub(crate) use {
    snapshot::{MAX_SNAPSHOTS, Registered},
    sync::Guard,
};
#[cfg(equipoise_ids)]
pub(crate) use {
    sync::{Mutant, mutant},
    transaction::Gate,
};

/// One account's value: small and plain; every version holds two copies.
pub(crate) trait State: Copy + Eq + Send + Sync + 'static {
    /// A change; everything it needs rides inside.
    type Op: Send + Sync + 'static;
    /// Why a change was refused, with what the message needs. Of two refusals of one operation the smaller counts.
    type Reject: Copy + Ord + Send + Sync + 'static;
    /// An account's id; transactions acquire accounts in its order.
    type Key: Ord + Send + Sync + 'static;
    /// The part of a request that the journal needs.
    type Request: Send + Sync + 'static;
    /// An account that nobody opened yet; opening is an operation on it.
    const ABSENT: Self;
    /// Roughly how many bytes a request has allocated on the heap.
    fn spilled(_request: &Self::Request) -> usize {
        0
    }
    /// The state after `op`. Pure, total, short, repeatable, and blind to other accounts: every helper calls it.
    fn apply(&self, op: &Self::Op) -> Result<Self, Self::Reject>;
}

/// An operation that was refused, and why. The earlier of two is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refused<R> {
    /// Its place in the request.
    pub(crate) place: u32,
    pub(crate) reject: R,
}

/// The earlier of two optional refusals.
#[inline]
pub(crate) fn earlier<R: Ord>(one: Option<Refused<R>>, other: Option<Refused<R>>) -> Option<Refused<R>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The commit list, the snapshots and the watermark of one ledger.
pub(crate) struct Kernel<S: State> {
    list: CachePadded<AtomicPtr<Entry<S>>>,
    durable: CachePadded<AtomicU64>,
    snapshots: snapshot::Snapshots,
    genesis: *mut Entry<S>,
    /// Whether a [`Consumer`] takes the entries; otherwise each is let go when its successor is linked.
    consumed: bool,
    consumed_to: AtomicPtr<Entry<S>>,
    /// What a seeded bug draws sequences from.
    #[cfg(equipoise_mutants)]
    drawn: AtomicU64,
    contention: contention::Contention,
}

// Safety: the raw pointers are the list's own entries (I3, I4); everything in them is Send and Sync by State's bounds.
unsafe impl<S: State> Send for Kernel<S> {}
// Safety: as for Send.
unsafe impl<S: State> Sync for Kernel<S> {}

impl<S: State> Kernel<S> {
    /// A kernel without a consumer; its durable sequence means nothing.
    pub(crate) fn new(sequence: u64, time: u64) -> Self {
        let (genesis, list) = commit::genesis(sequence, time);
        Kernel {
            list: CachePadded::new(list),
            durable: CachePadded::new(AtomicU64::new(sequence)),
            snapshots: snapshot::Snapshots::new(),
            genesis,
            consumed: false,
            consumed_to: AtomicPtr::new(genesis),
            #[cfg(equipoise_mutants)]
            drawn: AtomicU64::new(sequence),
            contention: contention::Contention::default(),
        }
    }

    /// A kernel with a durable sequence, and the one who moves it: the consumer takes what was committed.
    pub(crate) fn with_consumer(sequence: u64, time: u64) -> (Self, Consumer<S>) {
        let mut kernel = Kernel::new(sequence, time);
        kernel.consumed = true;
        kernel.snapshots.register_flusher(sequence);
        let consumer = Consumer::new(kernel.genesis);
        (kernel, consumer)
    }
}
