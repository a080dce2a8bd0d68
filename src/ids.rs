//! The id table: which transaction an id belongs to. One map for every door.
//!
//! An id is claimed with the complete plan, before anything runs; whoever comes with the same id meanwhile finishes
//! what the first began. A chain claims all its ids in sorted order before its gate opens; an id that is another
//! transaction's closes the gate, and the chain never runs.

use crossbeam_queue::SegQueue;
use foldhash::fast::RandomState;
use papaya::HashMap;

use crate::account::{Balance, TransactionId};
use crate::kernel::{Gate, Handle};

/// More than one, so that the table shrinks back.
const FORGOTTEN_BY_A_CALLER: usize = 2;

/// Whose an id is: a transaction, and which of its members carries it.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) handle: Handle<Balance>,
    pub(crate) member: u32,
}

pub(crate) struct Ids {
    // Handles free through crossbeam-epoch, so it does not matter that papaya reclaims by seize (I6).
    claims: HashMap<TransactionId, Claim, RandomState>,
    /// The ids in the order in which they were claimed, the next to be forgotten first.
    order: SegQueue<TransactionId>,
    capacity: usize,
}

impl Ids {
    /// A table that keeps `capacity` ids, grown for `reserved`. Not lock-free while it grows further.
    pub(crate) fn new(capacity: usize, reserved: usize) -> Self {
        Ids {
            claims: HashMap::with_capacity_and_hasher(reserved, RandomState::default()),
            order: SegQueue::new(),
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
            if !matches!(claim.handle.gate_state(), Gate::Closed(_)) {
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
        if let gate @ (Gate::Open | Gate::Closed(_)) = handle.gate_state() {
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
                Ok(_) => {
                    self.order.push(id.clone());
                    return true;
                }
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

    /// Forgets the ids claimed first, while there are more than the table keeps. One whose transaction is undecided, or
    /// later than `durable`, stays.
    pub(crate) fn forget_excess(&self, durable: u64) {
        let excess = self.order.len().saturating_sub(self.capacity);
        self.forget(excess, durable);
    }

    /// As [`Self::forget_excess`], but only when whoever does it in the background has fallen behind, and only a few:
    /// no caller pays for many.
    #[inline]
    pub(crate) fn forget_backlog(&self, durable: u64) {
        if self.order.len() > self.capacity.saturating_add(self.capacity / 8) {
            self.forget(FORGOTTEN_BY_A_CALLER, durable);
        }
    }

    fn forget(&self, count: usize, durable: u64) {
        for _ in 0..count {
            let Some(oldest) = self.order.pop() else { return };
            let settled = |_: &TransactionId, claim: &Claim| {
                claim.handle.decision().is_some_and(|decision| decision.sequence <= durable)
            };
            if self.claims.pin().remove_if(&oldest, settled).is_err() {
                self.order.push(oldest);
            }
        }
    }
}
