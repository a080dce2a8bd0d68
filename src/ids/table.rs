//! The ids in memory, each with the transaction that claimed it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use crossbeam_queue::SegQueue;
use foldhash::fast::RandomState;
use papaya::{Equivalent, HashMap};
use parking_lot::Mutex;
use seize::{Collector, Guard as _};
use smallvec::SmallVec;

use crate::account::{Balance, TransactionId};
use crate::kernel::cells::Gauge;
use crate::kernel::{GROUP, Gate, Handle};
use crate::request::Request;

use super::ids_of;

/// How many removed entries papaya reclaims together: each batch costs a barrier that interrupts every thread.
const RECLAIM_BATCH: usize = 1024;

/// After how many claims a thread flushes its batch of retired entries, however few they are. Every few hundred thousand ids
/// papaya moves to a new table, and whoever moves the last entry retires the old one: one entry of the batch, but megabytes
/// of memory. A caller retires little else, so without the flush it would keep a thousand old tables.
const RECLAIM_EVERY: u32 = 1 << 12;

/// Ids that are forgotten under one guard: enough for the cache misses of their transactions to overlap.
const FORGOTTEN_AT_ONCE: usize = 16;

thread_local! {
    static CLAIMS: Cell<u32> = const { Cell::new(0) };
}

/// Whose an id is: a transaction, and which of its members carries it. The id itself is the transaction's, not copied.
#[derive(Clone)]
pub(crate) struct Claim {
    hash: u64,
    pub(crate) handle: Handle<Balance>,
    pub(crate) member: u32,
    /// For how many extra ids' worth of memory this id is charged: a large transaction's memory is shared among its ids.
    more: u32,
}

impl Claim {
    /// For how many ids' worth of memory it counts.
    pub(super) fn room(&self) -> usize {
        1 + self.more as usize
    }

    fn id(&self) -> Option<&TransactionId> {
        self.handle.request().members().get(self.member as usize)?.id.as_ref()
    }
}

/// Two claims are equal when they are of one id, so there is one for each id.
impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.id() == other.id()
    }
}

impl Eq for Claim {}

impl Hash for Claim {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// An id that is looked for.
struct Wanted<'a> {
    hash: u64,
    id: &'a TransactionId,
}

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Claim> for Wanted<'_> {
    fn equivalent(&self, claim: &Claim) -> bool {
        self.hash == claim.hash && claim.id() == Some(self.id)
    }
}

/// One claim that is looked for; another's of the same id is not found.
struct Own<'a>(&'a Claim);

impl Hash for Own<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl Equivalent<Claim> for Own<'_> {
    fn equivalent(&self, claim: &Claim) -> bool {
        self.0.member == claim.member && self.0.handle.same(&claim.handle)
    }
}

/// Hands on what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// What an id takes in memory, about, in bytes, with a small transaction.
const ID_BYTES: u64 = 470;

/// For how many extra ids' worth of memory each id of `request` is charged. Walks all members: call it once per request.
#[inline]
pub(super) fn more_room(request: &Request) -> u32 {
    let Some(weight) = request.weight() else { return 0 };
    let ids = ids_of(request).count().max(1) as u64;
    (weight / ID_BYTES / ids) as u32
}

pub(super) struct Table {
    // Handles free through crossbeam-epoch, so it does not matter that papaya reclaims by seize (I6).
    claims: HashMap<Claim, (), BuildHasherDefault<Hashed>>,
    hasher: RandomState,
    /// The claims of transactions whose gate is open, oldest first: in this order they are forgotten.
    order: SegQueue<Claim>,
    /// For how many extra ids' worth of memory those count.
    more: Gauge,
    /// Taken off `order`, and not allowed to go yet. Whoever holds the lock forgets.
    forgetting: Mutex<VecDeque<Claim>>,
    pub(super) capacity: usize,
}

impl Table {
    /// A table that keeps `capacity` ids, grown for `reserved`. Not lock-free while it grows further.
    pub(super) fn new(capacity: usize, reserved: usize) -> Self {
        Table {
            claims: HashMap::builder()
                .capacity(reserved)
                .hasher(BuildHasherDefault::default())
                .collector(Collector::new().batch_size(RECLAIM_BATCH))
                .build(),
            hasher: RandomState::default(),
            order: SegQueue::new(),
            more: Gauge::new(),
            forgetting: Mutex::default(),
            capacity,
        }
    }

    /// How many ids are claimed.
    pub(super) fn len(&self) -> usize {
        self.claims.len()
    }

    fn wanted<'a>(&self, id: &'a TransactionId) -> Wanted<'a> {
        Wanted { hash: self.hasher.hash_one(id.as_str()), id }
    }

    /// What claims `id`, a member's of `handle`'s request, which takes the room of so many `more`.
    #[inline]
    pub(super) fn claim_of(&self, id: &TransactionId, handle: &Handle<Balance>, member: u32, more: u32) -> Claim {
        Claim { hash: self.wanted(id).hash, handle: handle.clone(), member, more }
    }

    /// Whose `id` is. The transaction may be undecided, its gate unsettled.
    #[inline]
    pub(super) fn find(&self, id: &TransactionId) -> Option<Claim> {
        let wanted = self.wanted(id);
        loop {
            let guard = &self.claims.guard();
            let (claim, ()) = self.claims.get_key_value(&wanted, guard)?;
            if claim.handle.gate() != Gate::Closed {
                return Some(claim.clone());
            }
            self.remove(claim, guard);
        }
    }

    /// Which of some ids is the first that is claimed, in whatever state the claim is. Nothing but reads in a row, so their
    /// cache misses overlap.
    pub(super) fn first_claimed<'a>(&self, ids: impl Iterator<Item = &'a TransactionId>) -> Option<usize> {
        let wanted: SmallVec<[Wanted<'a>; GROUP]> = ids.map(|id| self.wanted(id)).collect();
        let guard = &self.claims.guard();
        wanted.iter().position(|wanted| self.claims.contains_key(wanted, guard))
    }

    /// Claims `id` for a member of `handle`'s request, unless another transaction holds it: that one is returned.
    #[inline]
    pub(super) fn claim(
        &self,
        id: &TransactionId,
        handle: &Handle<Balance>,
        member: u32,
    ) -> Result<(), Handle<Balance>> {
        let guard = &self.claims.guard();
        let claims = CLAIMS.get().wrapping_add(1);
        CLAIMS.set(claims);
        if claims.is_multiple_of(RECLAIM_EVERY) {
            guard.flush();
        }
        let wanted = self.wanted(id);
        let claim = || Claim { hash: wanted.hash, handle: handle.clone(), member, more: 0 };
        loop {
            if self.claims.try_insert(claim(), (), guard).is_ok() {
                return Ok(());
            }
            match self.claims.get_key_value(&wanted, guard) {
                Some((owner, ())) if owner.handle.same(handle) => return Ok(()),
                Some((owner, ())) => return Err(owner.handle.clone()),
                // Withdrawn meanwhile.
                None => {}
            }
        }
    }

    /// Removes the claim of `id` if it is `handle`'s.
    pub(super) fn withdraw(&self, id: &TransactionId, handle: &Handle<Balance>) {
        let _ = self.claims.pin().remove_if(&self.wanted(id), |claim, ()| claim.handle.same(handle));
    }

    fn remove(&self, claim: &Claim, guard: &impl seize::Guard) {
        self.claims.remove(&Own(claim), guard);
    }

    /// Appends a claim whose gate is open to those that wait to be forgotten.
    #[inline]
    pub(super) fn note_claimed(&self, claim: Claim) {
        if claim.more > 0 {
            self.more.add(u64::from(claim.more));
        }
        self.order.push(claim);
    }

    /// How many claims wait for their turn to be forgotten.
    #[cfg(all(test, equipoise_engine))]
    pub(super) fn noted(&self) -> usize {
        self.order.len()
    }

    /// Whether the table is so far past its bound that callers must help to forget.
    #[inline]
    pub(super) fn is_overfull(&self) -> bool {
        self.order.len() + self.more() > self.capacity.saturating_add(self.capacity / 8)
    }

    fn more(&self) -> usize {
        usize::try_from(self.more.get()).unwrap_or(usize::MAX)
    }

    /// Forgets the oldest ids while more than `keep` ids' worth of memory is in use, and at most `most` ids' worth: no caller
    /// pays for many. An id for which `may_go` says no holds up the ones after it.
    pub(super) fn forget(&self, keep: usize, most: usize, may_go: impl Fn(&Claim) -> bool) {
        let Some(mut oldest) = self.forgetting.try_lock() else { return };
        let mut left = most;
        loop {
            // Some of those noted may be gone: an id that was used again after its window has another claim.
            let kept = self.claims.len().max(self.order.len() + oldest.len()) + self.more();
            let now = kept.saturating_sub(keep).min(left).min(FORGOTTEN_AT_ONCE);
            while oldest.len() < now
                && let Some(claim) = self.order.pop()
            {
                claim.handle.prefetch();
                oldest.push_back(claim);
            }
            let now = now.min(oldest.len());
            if now == 0 {
                return;
            }
            let guard = &self.claims.guard();
            // Each removal ends with a write that nothing overtakes. So first all are read.
            let present = oldest.iter().take(now).filter(|claim| self.claims.contains_key(&Own(claim), guard)).count();
            std::hint::black_box(present);
            for _ in 0..now {
                if !oldest.front().is_some_and(&may_go) {
                    return;
                }
                if let Some(claim) = oldest.pop_front() {
                    self.remove(&claim, guard);
                    left = left.saturating_sub(claim.room());
                    if claim.more > 0 {
                        self.more.subtract(u64::from(claim.more));
                        // That may do.
                        break;
                    }
                }
            }
        }
    }
}
