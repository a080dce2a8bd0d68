//! Groups: transactions of one thread, in order. Those that touch different accounts are linked into the commit list
//! together.
//!
//! Each is a transaction of its own, with its own place in the list; they share only the CAS that links them. Until
//! then a group is a set of writers, each stopped between its last leg and the list. A thread that meets one of them
//! finishes those before it, and then that one.

use smallvec::SmallVec;

use super::block::Block;
use super::commit::{Draft, EntryBody};
use super::contention::{Meter, Started};
use super::drive::Ready;
use super::seqlock::Account;
use super::step::{Step, step};
use super::sync::{Guard, Mutant, mutant, pin, spin};
use super::transaction::{ACTIVE, Gate, Handle, Plan, Transaction};
use super::{Kernel, Refused, State};

/// The most transactions of a group.
pub(crate) const GROUP: usize = 16;

/// How many legs a transaction has at most that is linked together with others.
const LEGS: usize = 4;

pub(crate) type Handles<S> = SmallVec<[Handle<S>; GROUP]>;

/// Transactions to be decided in their order. When it goes, all of them are decided or closed.
pub(crate) struct Group<'k, S: State> {
    kernel: &'k Kernel<S>,
    capacity: usize,
    /// Where they lie; null before the first.
    block: *const Block<S>,
    handles: Handles<S>,
}

/// A transaction whose legs are all installed, and its entry.
struct Complete<'g, S: State> {
    transaction: &'g Transaction<S>,
    refusal: Option<Refused<S::Reject>>,
    draft: Draft<S>,
}

/// Complete ones that touch different accounts.
struct Pending<'g, S: State> {
    complete: SmallVec<[Complete<'g, S>; GROUP]>,
    accounts: SmallVec<[*const Account<S>; GROUP * LEGS]>,
}

impl<'k, S: State> Group<'k, S> {
    /// A group of up to `capacity` transactions, and of [`GROUP`].
    pub(crate) fn new(kernel: &'k Kernel<S>, capacity: usize) -> Self {
        Group { kernel, capacity: capacity.min(GROUP), block: std::ptr::null(), handles: Handles::new() }
    }

    /// Adds one, to be decided after those before it. It must not be driven before the gates of those are settled.
    pub(crate) fn push(&mut self, plan: Plan<S>) {
        assert!(self.handles.len() < self.capacity, "a group has room for what is pushed");
        if self.handles.is_empty() {
            self.block = Block::allocate(self.capacity);
        }
        // Safety: allocated above, used by nobody else, not full; the handles are all here.
        let handle = unsafe { Block::push(self.block, plan, self.handles.last()) };
        self.handles.push(handle);
    }

    pub(crate) fn handles(&self) -> &[Handle<S>] {
        &self.handles
    }

    /// Decides those whose gate is open, and closes the others.
    pub(crate) fn drive(mut self, guard: &Guard) -> Handles<S> {
        self.drive_open(guard);
        // Decided or closed, all of them.
        std::mem::take(&mut self.handles)
    }

    fn drive_open(&self, guard: &Guard) {
        let mut meter = Meter::default();
        let open = |handle: &&Handle<S>| match handle.gate() {
            Gate::Unsettled => handle.settle(Gate::Closed) == Gate::Open,
            gate => gate == Gate::Open,
        };
        let open: SmallVec<[&Handle<S>; GROUP]> = self.handles.iter().filter(open).collect();
        self.kernel.drive_together(open.iter().map(|handle| &***handle), guard, &mut meter);
        for handle in open {
            handle.release(guard);
        }
        self.kernel.contention.add(&meter);
    }
}

impl<S: State> Drop for Group<'_, S> {
    fn drop(&mut self) {
        if !self.handles.is_empty() {
            // I8: on the way out of a panic as well.
            self.drive_open(&pin());
        }
    }
}

impl<'g, S: State> Pending<'g, S> {
    fn new() -> Self {
        Pending { complete: SmallVec::new(), accounts: SmallVec::new() }
    }

    /// Whether `transaction` touches an account of a pending one; then another CAS links it, after them.
    fn overlaps(&self, transaction: &Transaction<S>) -> bool {
        transaction.plan.legs.iter().any(|leg| self.accounts.contains(&leg.account))
    }

    fn push(&mut self, transaction: &'g Transaction<S>, ready: Ready<S>) {
        let Ready { refusal, before } = ready;
        self.accounts.extend(transaction.plan.legs.iter().map(|leg| leg.account));
        self.complete.push(Complete { transaction, refusal, draft: Draft::new(transaction, before) });
    }
}

impl<S: State> Kernel<S> {
    /// Decides open transactions of a group, in their order.
    fn drive_together<'g>(
        &self,
        transactions: impl Iterator<Item = &'g Transaction<S>>,
        guard: &Guard,
        meter: &mut Meter,
    ) {
        let mut pending = Pending::new();
        for transaction in transactions {
            if transaction.plan.legs.len() > LEGS {
                self.append_all(&mut pending, guard, meter);
                self.finish(transaction, guard, meter);
                continue;
            }
            if pending.overlaps(transaction) {
                self.append_all(&mut pending, guard, meter);
            }
            if let Some(ready) = self.install_all(transaction, guard, meter) {
                pending.push(transaction, ready);
            }
        }
        self.append_all(&mut pending, guard, meter);
    }

    /// Links those of `pending` that nobody has linked, in their order, with one CAS.
    fn append_all(&self, pending: &mut Pending<'_, S>, guard: &Guard, meter: &mut Meter) {
        if pending.complete.is_empty() {
            return;
        }
        pending.accounts.clear();
        let mut complete = std::mem::take(&mut pending.complete);
        let mut started = Started::default();
        step(Step::Append);
        loop {
            let current = self.head();
            let mut newest = current;
            let mut moment = self.finalize(current, guard).moment();
            // A decided one was finished by somebody else, and those before it too.
            if !mutant(Mutant::GroupKeepsDecided) {
                complete.retain(|one| one.transaction.state() == ACTIVE);
            }
            for (one, older) in complete.iter().zip(0..) {
                let transaction = one.transaction;
                let body = EntryBody::after(moment, newest, transaction, one.refusal, older);
                moment = body.moment();
                newest = one.draft.as_ptr();
                // Safety: I5, the draft lives until it is linked, and with its transaction after that.
                let entry = unsafe { &*newest };
                // Safety: the draft is ours alone until it is linked.
                unsafe { entry.fill(body) };
            }
            if complete.is_empty() {
                break;
            }
            step(Step::Link);
            if self.link(current, newest) {
                complete.into_iter().for_each(|one| one.draft.linked());
                self.finalize(newest, guard);
                self.release_replaced(current, guard);
                break;
            }
            started = started.or(meter.lost());
            spin();
        }
        meter.stop(started);
        step(Step::Appended);
    }
}
