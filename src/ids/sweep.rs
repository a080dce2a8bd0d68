//! How ids move to the index: in commit order, once they are durable. An id leaves the table only after it is
//! published.
//!
//! While the index cannot be written (a full disk), ids stay in the queue and in the table until a later attempt
//! succeeds. [`Ids::degraded`] says why, and past twice the capacity [`Ids::admit`] refuses requests that carry ids;
//! reads and requests without ids go on.

use std::time::Duration;

use parking_lot::Mutex;

use crate::account::Balance;
use crate::error::Exhausted;
use crate::kernel::cells::{Flag, Gauge, Latch};
use crate::kernel::doorbell::Doorbell;
use crate::kernel::{Handle, Mutant, mutant};

use super::table::extra_room;
use super::{Claim, IdRecord, Ids, Index, IndexError, Indexed, ids_of};

/// The first and the longest pause after a failed try.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How many times the capacity may wait.
const WAITING: usize = 2;

/// How many more may wait while the index works; without this, one batch could exceed a small capacity.
const WAITING_ALWAYS: usize = 1 << 16;

/// The most ids for which a queue keeps its memory.
const MOST_KEPT: usize = 1 << 20;

/// A caller forgets this many times the memory that it adds, so the table shrinks back.
const FORGOTTEN_BY_A_CALLER: usize = 2;

pub(super) struct Sweep {
    due_at: usize,
    queue: Mutex<Queue>,
    /// Taken by a sweep and not yet published. The lock's holder sweeps.
    taken: Mutex<Queue>,
    /// Ids that are durable and not published; those of a large transaction count more than once, as [`Claim::room`]
    /// says.
    waiting: Gauge,
    bell: Doorbell,
    failing: Flag,
    failure: Mutex<Option<String>>,
}

/// Durable ids in commit order. Their index records are made while the transactions are still cached; when a sweep
/// comes, they have long left the processor's caches.
#[derive(Default)]
struct Queue {
    claims: Vec<Claim>,
    records: Vec<IdRecord>,
    /// The last durable sequence, with or without an id.
    through: u64,
}

impl Sweep {
    pub(super) fn new(capacity: usize) -> Self {
        Sweep {
            due_at: (capacity / 2).max(1),
            queue: Mutex::default(),
            taken: Mutex::default(),
            waiting: Gauge::new(),
            bell: Doorbell::new(),
            failing: Flag::new(),
            failure: Mutex::default(),
        }
    }

    /// How many ids the queues keep room for: what waits when a sweep is due, and half as much that comes until it
    /// begins.
    fn usual(&self) -> usize {
        (self.due_at + self.due_at / 2).min(MOST_KEPT)
    }

    fn waiting(&self) -> usize {
        usize::try_from(self.waiting.get()).unwrap_or(usize::MAX)
    }

    /// After a failure whatever waits is enough: until a sweep has opened the index again nobody can look an id up, and
    /// nothing more may ever come.
    fn is_due(&self) -> bool {
        self.waiting() >= self.due_at || self.failing.is_set()
    }

    fn set_failure(&self, failure: Option<&IndexError>) {
        let mut noted = self.failure.lock();
        self.failing.set_to(failure.is_some());
        *noted = failure.map(ToString::to_string);
    }
}

impl Queue {
    /// Reserves room for `usual` ids at once: a growing Vec leaves freed blocks that the allocator cannot use again.
    fn make_room(&mut self, usual: usize) {
        if self.claims.capacity() == 0 {
            self.claims.reserve_exact(usual);
            self.records.reserve_exact(usual);
        }
    }

    /// Frees the memory of an empty queue that once held more than `usual`.
    fn give_back(&mut self, usual: usize) {
        if self.claims.capacity().max(self.records.capacity()) > usual {
            (self.claims, self.records) = Default::default();
        }
    }

    /// Moves the contents of `later` here, and leaves it memory for further ids.
    fn append(&mut self, later: &mut Queue) {
        if self.claims.is_empty() {
            std::mem::swap(&mut self.claims, &mut later.claims);
            std::mem::swap(&mut self.records, &mut later.records);
        } else {
            self.claims.append(&mut later.claims);
            self.records.append(&mut later.records);
        }
    }
}

impl<I: Index> Ids<I> {
    /// Queues the ids of `batch`, which is durable and ends with sequence `through`. All entries come in commit order,
    /// no batch left out. Without an index the ids may be forgotten from now on.
    pub(crate) fn queue_durable(&self, batch: &[Handle<Balance>], through: u64) {
        let Some(index) = &self.index else {
            batch.iter().for_each(|handle| self.note_all(handle));
            return;
        };
        let mut queue = self.sweep.queue.lock();
        let mut room = 0;
        queue.make_room(self.sweep.usual());
        for handle in batch {
            let Some(decision) = handle.decision() else { continue };
            let (sequence, time) = (decision.sequence, decision.time);
            let extra = extra_room(handle.request());
            for (id, member) in ids_of(handle.request()) {
                let claim = self.table.claim_of(id, handle, member, extra);
                room += claim.room();
                queue.claims.push(claim);
                queue.records.push(IdRecord { key: index.key(id), indexed: Indexed { sequence, time, member } });
            }
        }
        queue.through = through;
        // Before a sweep can take them.
        self.sweep.waiting.add(room as u64);
        drop(queue);
        if self.sweep.is_due() {
            self.sweep.bell.ring();
        }
    }

    /// Moves the waiting ids into the index, publishes it, and shrinks the table to half its capacity. Does nothing
    /// unless half the capacity waits, or the caller wants it `now` (a checkpoint, a clean stop).
    pub(crate) fn sweep(&self, now: bool) -> Result<(), IndexError> {
        let Some(index) = &self.index else { return Ok(()) };
        if !now && !self.sweep.is_due() {
            return Ok(());
        }
        let mut taken = self.sweep.taken.lock();
        let mut queue = self.sweep.queue.lock();
        let through = queue.through;
        taken.append(&mut queue);
        drop(queue);
        if through <= index.published() {
            return Ok(());
        }
        if mutant(Mutant::PublishedBeforeIngested) {
            index.publish(through);
        }
        if mutant(Mutant::RemovedBeforePublished) {
            taken.claims.iter().for_each(|claim| self.table.note_claimed(claim.clone()));
            self.table.forget(self.table.capacity / 2, usize::MAX, |_| true);
        }
        let ingested = index.ingest(&mut taken.records, through);
        self.sweep.set_failure(ingested.as_ref().err());
        if ingested.is_err() {
            self.sweep.bell.ring();
        }
        ingested?;
        index.publish(through);
        taken.records.clear();
        self.sweep.waiting.subtract(taken.claims.iter().map(Claim::room).sum::<usize>() as u64);
        taken.claims.drain(..).for_each(|claim| self.table.note_claimed(claim));
        taken.give_back(self.sweep.usual());
        // Nothing is noted that was not published before.
        self.table.forget(self.table.capacity / 2, usize::MAX, |_| true);
        Ok(())
    }

    /// The indexer's thread. Calls `failed` with the first failure in a row. Ends after [`Ids::wake`] once `closed` is
    /// set; ids that wait then are left to [`Ids::sweep`].
    pub(crate) fn sweep_until_closed(&self, closed: &Latch, failed: impl Fn(&IndexError)) {
        let mut pause = FIRST_PAUSE;
        while !closed.is_set() {
            self.sweep.bell.listen(|| closed.is_set() || self.sweep.is_due());
            match self.sweep(false) {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    if pause == FIRST_PAUSE {
                        failed(&error);
                    }
                    std::thread::sleep(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// Wakes the indexer, to see that the ledger was closed.
    pub(crate) fn wake(&self) {
        self.sweep.bell.ring();
    }

    /// Why the index cannot be written, while it cannot.
    pub(crate) fn degraded(&self) -> Option<String> {
        self.sweep.failure.lock().clone()
    }

    /// Refuses a request that carries ids while too many wait for the index. Call it before anything is claimed.
    #[inline]
    pub(crate) fn admit(&self) -> Result<(), Exhausted> {
        let failing = self.sweep.failing.is_set();
        let limit = match failing {
            true => self.table.capacity.saturating_mul(WAITING),
            false => self.table.capacity.saturating_mul(WAITING).saturating_add(WAITING_ALWAYS),
        };
        let ids = self.sweep.waiting();
        if ids <= limit {
            return Ok(());
        }
        self.sweep.bell.ring();
        Err(Exhausted::Ids { ids: ids as u64, limit: limit as u64, why: self.degraded() })
    }

    /// Without an index: queues the ids of `handle`, which are claimed and whose gate is open, to be forgotten later.
    /// With an index, [`Ids::queue_durable`] and the sweep do that.
    #[inline]
    pub(crate) fn note_claimed(&self, handle: &Handle<Balance>) {
        if self.index.is_none() {
            self.note_all(handle);
        }
    }

    #[inline]
    fn note_all(&self, handle: &Handle<Balance>) {
        let extra = extra_room(handle.request());
        for (id, member) in ids_of(handle.request()) {
            self.table.note_claimed(self.table.claim_of(id, handle, member, extra));
        }
    }

    /// Whether callers must help to forget. With an index only the sweep forgets.
    #[inline]
    pub(crate) fn is_overfull(&self) -> bool {
        self.index.is_none() && self.table.is_overfull()
    }

    /// Without an index: the bytes of ids past the capacity, which a suspended thread keeps from being forgotten.
    #[inline]
    pub(crate) fn overdue_bytes(&self) -> u64 {
        if self.index.is_none() { self.table.overdue_bytes() } else { 0 }
    }

    /// Runs `then` while a thread that forgets is suspended.
    #[cfg(all(test, equipoise_engine))]
    pub(crate) fn while_forgetting(&self, then: impl FnOnce()) {
        self.table.while_forgetting(then);
    }

    /// Without an index: forgets ids past the capacity that are not after `durable`, as many as one caller does for the
    /// ids of `handle`.
    pub(crate) fn forget_for(&self, durable: u64, handle: &Handle<Balance>) {
        let ids = ids_of(handle.request()).count();
        self.forget_excess(durable, FORGOTTEN_BY_A_CALLER * ids * (1 + extra_room(handle.request()) as usize));
    }

    /// Without an index: forgets ids past the capacity that are not after `durable`, at most `most` ids' worth of
    /// memory.
    pub(crate) fn forget_excess(&self, durable: u64, most: usize) {
        if self.index.is_none() {
            let is_durable =
                |claim: &Claim| claim.handle.decision().is_some_and(|decision| decision.sequence <= durable);
            self.table.forget(self.table.capacity, most, is_durable);
        }
    }
}

#[cfg(all(test, equipoise_engine))]
mod tests {
    use super::*;
    use crate::ids::Key;

    /// B5: a queue keeps the room that it usually needs, and no more than that when more ids had waited once.
    #[test]
    fn room_for_more_than_usual_is_given_back() {
        let mut queue = Queue::default();
        let record = IdRecord { key: Key(1), indexed: Indexed { sequence: 1, time: 1, member: 0 } };
        queue.make_room(100);
        queue.records.extend([record; 100]);
        queue.records.clear();
        queue.give_back(100);
        assert_eq!(queue.records.capacity(), 100);
        queue.records.extend([record; 101]);
        queue.records.clear();
        queue.give_back(100);
        assert_eq!(queue.records.capacity(), 0);
        queue.make_room(100);
        assert_eq!(queue.claims.capacity(), 100);
    }
}
