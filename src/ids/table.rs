//! The ids in memory, each with the transaction that claimed it.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use crossbeam_queue::SegQueue;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::account::{Balance, TransactionId};
use crate::kernel::cells::Gauge;
use crate::kernel::claims::{Claims, PARTS, Part};
use crate::kernel::{GROUP, Gate, Handle, Mutant, mutant};
use crate::request::{MAX_LEGS, Request};

use super::ids_of;

/// Ids that are forgotten together: enough for the cache misses of their transactions to overlap.
const FORGOTTEN_AT_ONCE: usize = 16;

/// The user of an id: a transaction, and the member that carries the id.
#[derive(Clone)]
pub(crate) struct Claim {
    hash: u64,
    pub(crate) handle: Handle<Balance>,
    pub(crate) member: u32,
    /// For how many extra ids' worth of memory this id is charged: a large transaction's memory is shared among its
    /// ids.
    extra: u32,
}

impl Claim {
    /// One that was met in the table.
    fn met(hash: u64, (handle, part): (Handle<Balance>, Part)) -> Self {
        Claim { hash, handle, member: part.unwrap_or(0), extra: 0 }
    }

    fn part(&self) -> Part {
        part_of(self.handle.request(), self.member)
    }

    /// For how many ids' worth of memory it counts.
    pub(super) fn room(&self) -> usize {
        1 + self.extra as usize
    }
}

/// About how many bytes an id with a small transaction takes in memory.
const ID_BYTES: u64 = 470;

/// For how many extra ids' worth of memory each id of `request` is charged. Walks all members: call it once per
/// request.
#[inline]
pub(super) fn extra_room(request: &Request) -> u32 {
    let Some(weight) = request.weight() else { return 0 };
    let ids = ids_of(request).count().max(1) as u64;
    (weight / ID_BYTES / ids) as u32
}

pub(super) struct Table {
    claims: Claims<Balance>,
    hasher: RandomState,
    /// The claims of transactions whose gate is open, oldest first: they are forgotten in this order.
    order: SegQueue<Claim>,
    /// The sum of the `extra` of these claims.
    extra: Gauge,
    /// Claims that were taken off `order` and may not go yet. The thread that holds the lock forgets.
    forgetting: Mutex<VecDeque<Claim>>,
    pub(super) capacity: usize,
}

impl Table {
    /// A table that keeps `capacity` ids.
    pub(super) fn new(capacity: usize) -> Self {
        Table {
            claims: Claims::new(capacity),
            hasher: RandomState::default(),
            order: SegQueue::new(),
            extra: Gauge::new(),
            forgetting: Mutex::default(),
            capacity,
        }
    }

    /// How many ids are claimed.
    pub(super) fn len(&self) -> usize {
        self.claims.len()
    }

    fn hash(&self, id: &TransactionId) -> u64 {
        // In the models every id looks like any other.
        if cfg!(equipoise_shuttle) { 0 } else { self.hasher.hash_one(id.as_str()) }
    }

    /// The claim of `handle` on `id`, the id of its member `member`, charged for `extra` more ids.
    #[inline]
    pub(super) fn claim_of(&self, id: &TransactionId, handle: &Handle<Balance>, member: u32, extra: u32) -> Claim {
        Claim { hash: self.hash(id), handle: handle.clone(), member, extra }
    }

    /// The claim on `id`. Its transaction may be undecided, and its gate unsettled.
    #[inline]
    pub(super) fn find(&self, id: &TransactionId) -> Option<Claim> {
        let hash = self.hash(id);
        loop {
            let claim = Claim::met(hash, self.claims.find(hash, |request, part| carries(request, part, id))?);
            if claim.handle.gate() != Gate::Closed {
                return Some(claim);
            }
            self.withdraw(&claim);
        }
    }

    /// The position of the first id that is claimed, in whatever state. The cache misses of all ids overlap.
    pub(super) fn first_claimed<'a>(&self, ids: impl Iterator<Item = &'a TransactionId>) -> Option<usize> {
        let wanted: SmallVec<[(u64, &'a TransactionId); GROUP]> = ids.map(|id| (self.hash(id), id)).collect();
        wanted.iter().for_each(|(hash, _)| self.claims.prefetch(*hash));
        let is_claimed =
            |(hash, id): &(u64, &TransactionId)| self.claims.contains(*hash, |it, part| carries(it, part, id));
        wanted.iter().position(is_claimed)
    }

    /// Claims `id`, a member's of `handle`'s request. Returns the other claim if there is one.
    #[inline]
    pub(super) fn claim(&self, id: &TransactionId, handle: &Handle<Balance>, member: u32) -> Result<(), Claim> {
        let (hash, part) = (self.hash(id), part_of(handle.request(), member));
        let claimed = self.claims.claim(hash, handle, part, |request, part| carries(request, part, id));
        claimed.map_err(|met| Claim::met(hash, met))
    }

    /// Removes this claim, if it is one.
    pub(super) fn withdraw(&self, claim: &Claim) {
        self.claims.end(claim.hash, &claim.handle, claim.part());
    }

    /// Appends a claim whose gate is open to those that wait to be forgotten.
    #[inline]
    pub(super) fn note_claimed(&self, claim: Claim) {
        if claim.extra > 0 {
            self.extra.add(u64::from(claim.extra));
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
        self.noted_room() > self.capacity.saturating_add(self.capacity / 8)
    }

    /// The bytes of the ids past the capacity, which may be forgotten.
    #[inline]
    pub(super) fn overdue_bytes(&self) -> u64 {
        self.noted_room().saturating_sub(self.capacity) as u64 * ID_BYTES
    }

    /// For how many ids' worth of memory the claims count that wait to be forgotten.
    #[inline]
    fn noted_room(&self) -> usize {
        self.order.len() + self.extra()
    }

    /// Runs `then` while a thread that forgets is suspended.
    #[cfg(all(test, equipoise_engine))]
    pub(super) fn while_forgetting(&self, then: impl FnOnce()) {
        let _oldest = self.forgetting.lock();
        then();
    }

    fn extra(&self) -> usize {
        usize::try_from(self.extra.get()).unwrap_or(usize::MAX)
    }

    /// Forgets the oldest ids while more than `keep` ids' worth of memory is in use, but at most about `most` ids'
    /// worth: no caller pays for many. An id that `may_go` rejects holds up the ones after it.
    pub(super) fn forget(&self, keep: usize, most: usize, may_go: impl Fn(&Claim) -> bool) {
        let Some(mut oldest) = self.forgetting.try_lock() else { return };
        let mut left = most;
        loop {
            // Some of those noted may be gone: an id that was used again after its window has another claim.
            let kept = self.claims.len().max(self.order.len() + oldest.len()) + self.extra();
            let now = kept.saturating_sub(keep).min(left).min(FORGOTTEN_AT_ONCE);
            while oldest.len() < now
                && let Some(claim) = self.order.pop()
            {
                claim.handle.prefetch();
                self.claims.prefetch(claim.hash);
                oldest.push_back(claim);
            }
            let now = now.min(oldest.len());
            if now == 0 {
                return;
            }
            self.claims.collect();
            for _ in 0..now {
                if !oldest.front().is_some_and(&may_go) {
                    return;
                }
                if let Some(claim) = oldest.pop_front() {
                    self.claims.end_for_good(claim.hash, &claim.handle, claim.part());
                    left = left.saturating_sub(claim.room());
                    if claim.extra > 0 {
                        self.extra.subtract(u64::from(claim.extra));
                        // This may have been enough.
                        break;
                    }
                }
            }
        }
    }
}

const _: () = assert!(MAX_LEGS <= PARTS, "each member has legs, and its own part");

/// The part of its transaction that a member of `request` is.
#[inline]
fn part_of(request: &Request, member: u32) -> Part {
    (request.members().len() > 1).then_some(member)
}

#[inline]
fn carries(request: &Request, part: Part, id: &TransactionId) -> bool {
    if mutant(Mutant::PartsHeldTogether) {
        return ids_of(request).any(|(carried, _)| carried == id);
    }
    request.members().get(part.unwrap_or(0) as usize).is_some_and(|member| member.id.as_ref() == Some(id))
}
