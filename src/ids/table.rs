//! The ids in memory, each with the transaction that claimed it.

use std::cell::Cell;

use crossbeam_queue::SegQueue;
use foldhash::fast::RandomState;
use papaya::HashMap;
use parking_lot::Mutex;
use seize::{Collector, Guard as _};

use crate::account::{Balance, TransactionId};
use crate::kernel::{Gate, Handle};

/// How many removed entries papaya reclaims together: each batch costs a barrier that interrupts every thread.
const RECLAIM_BATCH: usize = 1024;

/// After how many claims a thread has what it retired reclaimed, however little that is. Every few hundred thousand ids papaya moves to another table,
/// and whoever moves the last entry retires the old one: a single thing for a batch, but megabytes, and the transactions of ids that left it meanwhile.
/// A caller retires little else, so it would keep a thousand of them.
const RECLAIM_EVERY: u32 = 1 << 12;

thread_local! {
    static CLAIMS: Cell<u32> = const { Cell::new(0) };
}

/// Whose an id is: a transaction, and which of its members carries it.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) handle: Handle<Balance>,
    pub(crate) member: u32,
}

pub(super) struct Table {
    // Handles free through crossbeam-epoch, so it does not matter that papaya reclaims by seize (I6).
    claims: HashMap<TransactionId, Claim, RandomState>,
    /// The transactions whose ids were claimed, the next to be forgotten first.
    order: SegQueue<Handle<Balance>>,
    /// One at a time forgets; here lies the one whose turn it is, while it may not go yet.
    forgetting: Mutex<Option<Handle<Balance>>>,
    pub(super) capacity: usize,
}

impl Table {
    /// A table that keeps `capacity` ids, grown for `reserved`. Not lock-free while it grows further.
    pub(super) fn new(capacity: usize, reserved: usize) -> Self {
        Table {
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
    pub(super) fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whose `id` is. The transaction may be undecided, its gate unsettled.
    #[inline]
    pub(super) fn find(&self, id: &TransactionId) -> Option<Claim> {
        loop {
            let claim = self.claims.pin().get(id).cloned()?;
            if !matches!(claim.handle.gate(), Gate::Closed(_)) {
                return Some(claim);
            }
            self.withdraw(id, &claim.handle);
        }
    }

    /// Claims `id` for a member of `handle`'s request, unless another transaction holds it: that one is returned.
    #[inline]
    pub(super) fn claim(
        &self,
        id: &TransactionId,
        handle: &Handle<Balance>,
        member: u32,
    ) -> Result<(), Handle<Balance>> {
        let claim = Claim { handle: handle.clone(), member };
        let guard = &self.claims.guard();
        let claims = CLAIMS.get().wrapping_add(1);
        CLAIMS.set(claims);
        if claims.is_multiple_of(RECLAIM_EVERY) {
            guard.flush();
        }
        match self.claims.try_insert(id.clone(), claim, guard) {
            Err(occupied) if !occupied.current.handle.same(handle) => Err(occupied.current.handle.clone()),
            _ => Ok(()),
        }
    }

    /// Removes the claim of `id` if it is `handle`'s.
    pub(super) fn withdraw(&self, id: &TransactionId, handle: &Handle<Balance>) {
        let _ = self.claims.pin().remove_if(id, |_, claim| claim.handle.same(handle));
    }

    /// Notes that `handle`'s ids are claimed and its gate open: its turn to be forgotten comes after the ones before.
    #[inline]
    pub(super) fn note_claimed(&self, handle: &Handle<Balance>) {
        self.order.push(handle.clone());
    }

    /// Whether so many more ids are kept than the bound says that callers must help to forget.
    #[inline]
    pub(super) fn is_overfull(&self) -> bool {
        self.order.len() > self.capacity.saturating_add(self.capacity / 8)
    }

    /// Forgets the ids noted first, while there are more than `keep`; of at most `transactions`, so that no caller pays
    /// for many. One that is undecided, or later than `through`, holds up the ones after it.
    pub(super) fn forget(&self, keep: usize, through: u64, transactions: usize) {
        let Some(mut next) = self.forgetting.try_lock() else { return };
        for _ in 0..transactions {
            if self.claims.len() <= keep {
                return;
            }
            let Some(oldest) = next.take().or_else(|| self.order.pop()) else { return };
            if oldest.decision().is_none_or(|decision| decision.sequence > through) {
                *next = Some(oldest);
                return;
            }
            for id in oldest.request().members().iter().filter_map(|member| member.id.as_ref()) {
                self.withdraw(id, &oldest);
            }
        }
    }
}
