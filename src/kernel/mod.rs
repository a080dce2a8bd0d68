//! The kernel: balances of any kind, changed by many threads at once, in one order that everybody sees.
//!
//! It knows no money, no I/O and no async; all unsafe code and every `Ordering` of the crate live here. It keeps one
//! [`State`] per account. A [`Transaction`](transaction::Transaction) installs a version in each of its accounts,
//! ascending by id ([`drive`]), and is then linked into the commit list ([`commit`]); one store on its state word
//! decides it, everywhere at once. Whoever meets an undecided transaction finishes it, so a writer suspended between
//! any two instructions holds nobody up.
//!
//! # What keeps memory alive
//!
//! Every `Safety:` comment names the invariant that it stands on.
//!
//! | | dereference | kept alive by |
//! |---|---|---|
//! | I1 | cell → version, `prev` → version | an epoch pin taken before the load; a version is retired only by the CAS that took it out of the one chain it was in |
//! | I2 | version → transaction, only while the version's cached sequence is undecided | a replaced version had its decision cached *before* the replacing CAS; a driver with a handle caches it in the remaining heads; the last reference does where no driver got there. A later pin reads the cache, an earlier one holds the free back |
//! | I3 | list head → entry, entry → transaction | one counted reference per linked transaction, made with it and given back once its successor is linked (and the consumer has passed it); loads need a guard |
//! | I4 | entry → `prev` | only the consumer and the kernel's Drop follow it down to the entry that the consumer kept; anyone follows it among entries that were linked together while the newest of them is undecided: nothing undecided is given back |
//! | I5 | a helper's boxed entry | never linked: freed at once by its maker; linked: dies with its transaction |
//! | I6 | handle → transaction | the count; the last one frees through the epoch |
//! | I7 | leg → account | the slab, which outlives every transaction: a ledger drops its handles before its kernel |
//! | I8 | transaction → the one before it in its group, only while it is undecided | the group holds a handle of each of its transactions until all are decided or closed; a pin taken before the later one was found undecided holds the free back |
//! | I9 | transaction → the block that it lies in | the block counts its referenced transactions, and goes through the epoch with the last; so one in it outlives its own last reference until then |
//! | I10 | claimed slot → transaction | one counted reference per slot, given back by the CAS that ends the claim; whoever loaded the word under a guard may look at the transaction until the guard ends, and takes a handle of it only while its count is not zero |
//! | I11 | newest table → older ones | a pin taken before the load; a table goes through the epoch once it was taken out, by the one who collects, when all its slots were sealed or gone |

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

/// One account's value: small, plain, copied twice into every version.
pub(crate) trait State: Copy + Eq + Send + Sync + 'static {
    /// A change; everything it needs rides inside.
    type Op: Send + Sync + 'static;
    /// Why a change was refused, with what the message needs. Of two refusals of one operation the smaller counts.
    type Reject: Copy + Ord + Send + Sync + 'static;
    /// An account's id; transactions acquire accounts in its order.
    type Key: Ord + Send + Sync + 'static;
    /// What the journal needs to know of a request.
    type Request: Send + Sync + 'static;
    /// An account that nobody opened yet; opening is an operation on it.
    const ABSENT: Self;
    /// Bytes that a request has allocated outside itself, about.
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

/// The earlier of two refusals, of which none, one or both are there.
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
    /// A kernel whose entries nobody takes: the durable sequence means nothing in it.
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
