//! The id table: which transaction an id belongs to. One map for every door.
//!
//! An id is claimed with the complete plan, before anything runs; whoever comes with the same id meanwhile finishes
//! what the first began. A chain claims all its ids in sorted order before its gate opens; an id that is another
//! transaction's closes the gate, and the chain never runs.

use crossbeam_queue::SegQueue;
use foldhash::fast::RandomState;
use papaya::HashMap;
use parking_lot::Mutex;
use seize::Collector;

use crate::account::{Balance, TransactionId};
use crate::kernel::{Gate, Handle};

/// How many removed entries papaya reclaims together: each batch costs a barrier that interrupts every thread.
const RECLAIM_BATCH: usize = 1024;

/// Whose an id is: a transaction, and which of its members carries it.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) handle: Handle<Balance>,
    pub(crate) member: u32,
}

pub(crate) struct Ids {
    // Handles free through crossbeam-epoch, so it does not matter that papaya reclaims by seize (I6).
    claims: HashMap<TransactionId, Claim, RandomState>,
    /// The transactions whose ids were claimed, the next to be forgotten first.
    order: SegQueue<Handle<Balance>>,
    /// One at a time forgets; here lies the one whose turn it is, while it may not go yet.
    forgetting: Mutex<Option<Handle<Balance>>>,
    capacity: usize,
}

impl Ids {
    /// A table that keeps `capacity` ids, grown for `reserved`. Not lock-free while it grows further.
    pub(crate) fn new(capacity: usize, reserved: usize) -> Self {
        Ids {
            claims: HashMap::builder()
                .capacity(reserved)
                .hasher(RandomState::default())
                .collector(Collector::new().batch_size(RECLAIM_BATCH))
                .build(),
            order: SegQueue::new(),
            forgetting: Mutex::new(None),
            capacity,
        }
    }

    /// How many ids are claimed.
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whose `id` is. The transaction may be undecided, its gate unsettled.
    #[inline]
    pub(crate) fn find(&self, id: &TransactionId) -> Option<Claim> {
        loop {
            let claim = self.claims.pin().get(id).cloned()?;
            if !matches!(claim.handle.gate(), Gate::Closed(_)) {
                return Some(claim);
            }
            self.withdraw(id, &claim.handle);
        }
    }

    /// Claims `id` for the only member of `handle`'s request. Open: it may run; closed: the id is another's, and it
    /// never does.
    #[inline]
    pub(crate) fn claim(&self, id: &TransactionId, handle: &Handle<Balance>) -> Gate {
        let claimed = self.claim_member(id, handle, 0);
        handle.settle(if claimed { Gate::Open } else { Gate::Closed(0) })
    }

    /// Settles the gate of `handle`'s transaction: open once every id of it is claimed, closed (with the member's
    /// index) when one is another's. Idempotent: duplicates and those in its way run it as well.
    pub(crate) fn settle(&self, handle: &Handle<Balance>) -> Gate {
        if let gate @ (Gate::Open | Gate::Closed(_)) = handle.gate() {
            return gate;
        }
        let mut members: Vec<_> = handle
            .request()
            .members()
            .iter()
            .zip(0_u32..)
            .filter_map(|(member, index)| member.id.as_ref().map(|id| (id, index)))
            .collect();
        members.sort_unstable();
        let owned_by_another = members.iter().find(|(id, index)| !self.claim_member(id, handle, *index));
        let gate = handle.settle(match owned_by_another {
            Some((_, index)) => Gate::Closed(u64::from(*index)),
            None => Gate::Open,
        });
        if let Gate::Closed(_) = gate {
            for (id, _) in &members {
                self.withdraw(id, handle);
            }
        }
        gate
    }

    /// Whether `id` is `handle`'s now.
    fn claim_member(&self, id: &TransactionId, handle: &Handle<Balance>, member: u32) -> bool {
        loop {
            let claims = self.claims.pin();
            let claim = Claim { handle: handle.clone(), member };
            let owner = match claims.try_insert(id.clone(), claim) {
                Ok(_) => return true,
                Err(occupied) => occupied.current.handle.clone(),
            };
            drop(claims);
            if owner.same(handle) {
                return true;
            }
            // Another chain may still lose; ids are claimed in order, so this ends.
            if let Gate::Closed(_) = self.settle(&owner) {
                self.withdraw(id, &owner);
                continue;
            }
            return false;
        }
    }

    /// Removes the claim of `id` if it is `handle`'s.
    fn withdraw(&self, id: &TransactionId, handle: &Handle<Balance>) {
        let _ = self.claims.pin().remove_if(id, |_, claim| claim.handle.same(handle));
    }

    /// Notes that `handle`'s ids are claimed and its gate open: its turn to be forgotten comes after the ones before.
    #[inline]
    pub(crate) fn note_claimed(&self, handle: &Handle<Balance>) {
        self.order.push(handle.clone());
    }

    /// Whether so many more ids are kept than the bound says that callers must help to forget.
    #[inline]
    pub(crate) fn is_overfull(&self) -> bool {
        self.order.len() > self.capacity.saturating_add(self.capacity / 8)
    }

    /// Forgets the ids claimed first, while there are more than the table keeps; of at most `transactions`, so that no
    /// caller pays for many. One that is undecided, or later than `durable`, holds up the ones after it.
    pub(crate) fn forget_excess(&self, durable: u64, transactions: usize) {
        let Some(mut next) = self.forgetting.try_lock() else { return };
        for _ in 0..transactions {
            if self.claims.len() <= self.capacity {
                return;
            }
            let Some(oldest) = next.take().or_else(|| self.order.pop()) else { return };
            if oldest.decision().is_none_or(|decision| decision.sequence > durable) {
                *next = Some(oldest);
                return;
            }
            for id in oldest.request().members().iter().filter_map(|member| member.id.as_ref()) {
                self.withdraw(id, &oldest);
            }
        }
    }
}
