//! The commit list: one link per transaction, densely numbered. Its head is the clock.

use smallvec::SmallVec;

use super::contention::{Meter, Started};
use super::group::GROUP;
use super::step::{Step, step};
use super::sync::{
    AtomicPtr, Guard, Mutant,
    Ordering::{Relaxed, SeqCst},
    Plain, mutant, pin, retire, spin,
};
use super::transaction::{ACTIVE, Handle, Transaction};
use super::{Kernel, Refused, State};

/// A transaction's link in the list.
pub(super) struct Entry<S: State> {
    body: Plain<EntryBody<S>>,
    before: Plain<SmallVec<[S; 2]>>,
}

/// What an entry says; immutable once it is linked.
pub(super) struct EntryBody<S: State> {
    /// Null for the entry that the list began with.
    pub(super) transaction: *const Transaction<S>,
    pub(super) sequence: u64,
    pub(super) time: u64,
    pub(super) refusal: Option<Refused<S::Reject>>,
    /// How many earlier entries the same CAS linked.
    pub(super) older: u32,
    pub(super) prev: *mut Entry<S>,
}

/// An entry's sequence and time.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    sequence: u64,
    time: u64,
}

impl<S: State> EntryBody<S> {
    /// The body of an entry linked to `prev`, whose moment is `before`, together with `older` entries before it.
    #[inline]
    pub(super) fn after(
        before: Moment,
        prev: *mut Entry<S>,
        transaction: &Transaction<S>,
        refusal: Option<Refused<S::Reject>>,
        older: u32,
    ) -> Self {
        let (sequence, time) = (before.sequence + 1, before.time.max(transaction.plan.time));
        EntryBody { transaction, sequence, time, refusal, older, prev }
    }

    #[inline]
    pub(super) fn moment(&self) -> Moment {
        Moment { sequence: self.sequence, time: self.time }
    }
}

impl<S: State> Entry<S> {
    /// An entry that nobody has filled yet.
    pub(super) fn empty() -> Self {
        Entry::begin(0, 0)
    }

    /// The entry before the first transaction: sequence and time that the ledger continues from.
    pub(super) fn begin(sequence: u64, time: u64) -> Self {
        let body = EntryBody {
            transaction: std::ptr::null(),
            sequence,
            time,
            refusal: None,
            older: 0,
            prev: std::ptr::null_mut(),
        };
        Entry { body: Plain::new(body), before: Plain::new(SmallVec::new()) }
    }

    #[inline]
    pub(super) fn body(&self) -> &EntryBody<S> {
        // Safety: filled before the CAS that linked it; only linked entries are shared (I3).
        unsafe { self.body.get() }
    }

    /// # Safety
    /// It is not linked yet, and the caller's alone.
    pub(super) unsafe fn fill(&self, body: EntryBody<S>) {
        // Safety: the caller's promise.
        unsafe { self.body.set(body) };
    }

    #[inline]
    pub(super) fn before(&self) -> &[S] {
        // Safety: as for `body`.
        unsafe { self.before.get() }
    }
}

/// An entry that a driver fills and tries to link. Not a Box: moving a Box asserts that nobody else has the pointer,
/// and once the entry is linked others have it.
pub(super) struct Draft<S: State> {
    entry: *mut Entry<S>,
    /// Whether the entry is stored inside its transaction.
    embedded: bool,
}

impl<S: State> Draft<S> {
    /// An entry for `transaction`, whose accounts held `before`.
    pub(super) fn new(transaction: &Transaction<S>, before: SmallVec<[S; 2]>) -> Self {
        let draft = match transaction.take_embedded() {
            Some(entry) => Draft { entry, embedded: true },
            None => Draft { entry: Box::into_raw(Box::new(Entry::empty())), embedded: false },
        };
        // Safety: I5, the draft lives until it is linked, and with its transaction after that.
        let entry = unsafe { &*draft.entry };
        // Safety: the draft is ours alone until it is linked.
        unsafe { entry.before.set(before) };
        draft
    }

    pub(super) fn as_ptr(&self) -> *mut Entry<S> {
        self.entry
    }

    /// Gives the entry to the list.
    pub(super) fn linked(self) {
        // I5: its transaction's Drop frees it.
        std::mem::forget(self);
    }
}

impl<S: State> Drop for Draft<S> {
    fn drop(&mut self) {
        if !self.embedded {
            // Safety: I5, made by `new`, and never linked.
            drop(unsafe { Box::from_raw(self.entry) });
        }
    }
}

impl<S: State> Kernel<S> {
    #[inline]
    pub(super) fn head(&self) -> *mut Entry<S> {
        // SeqCst: the list is the clock; one order with the bitmap and the slots (Dekker, see snapshot.rs).
        self.list.load(SeqCst)
    }

    /// Publishes the decision of a linked entry, after those of the entries linked with it, so that nobody follows or
    /// reads an undecided one.
    #[inline]
    pub(super) fn finalize<'g>(&self, entry: *const Entry<S>, _guard: &'g Guard) -> &'g EntryBody<S> {
        // Safety: I3, loaded from the list (or linked) after the pin.
        let body = unsafe { &*entry }.body();
        // Safety: I3, the list's reference keeps the transaction of its entry.
        if let Some(transaction) = unsafe { body.transaction.as_ref() } {
            if body.older > 0 && transaction.state() == ACTIVE && !mutant(Mutant::OnlyNewestFinalized) {
                decide_older(body);
            }
            transaction.decide(entry, body);
        }
        body
    }

    /// The newest commit sequence; everything up to it is decided.
    #[inline]
    pub(crate) fn now(&self, guard: &Guard) -> u64 {
        #[cfg(equipoise_mutants)]
        if mutant(Mutant::SequenceBeforePublish) {
            return self.drawn.load(SeqCst);
        }
        if mutant(Mutant::SnapshotNotFinalized) {
            // Safety: I3, loaded from the list after the pin.
            return unsafe { &*self.head() }.body().sequence;
        }
        self.finalize(self.head(), guard).sequence
    }

    /// Links `transaction` into the list with its verdict, unless someone has. All its legs are installed.
    pub(super) fn append(
        &self,
        transaction: &Transaction<S>,
        refusal: Option<Refused<S::Reject>>,
        before: SmallVec<[S; 2]>,
        guard: &Guard,
        meter: &mut Meter,
    ) {
        let draft = Draft::new(transaction, before);
        let entry = draft.as_ptr();
        // Safety: I5, the draft lives until it is linked, and with its transaction after that.
        let filled = unsafe { &*entry };
        #[cfg(equipoise_mutants)]
        if mutant(Mutant::SequenceBeforePublish) {
            return self.append_by_ticket(transaction, refusal, draft);
        }
        let mut started = Started::default();
        loop {
            let current = self.head();
            let predecessor = if mutant(Mutant::PredecessorNotFinalized) {
                // Safety: I3, loaded from the list after the pin.
                unsafe { &*current }.body()
            } else {
                self.finalize(current, guard)
            };
            if transaction.state() != ACTIVE {
                meter.stop(started);
                return;
            }
            let body = EntryBody::after(predecessor.moment(), current, transaction, refusal, 0);
            // Safety: the draft is ours alone until it is linked.
            unsafe { filled.fill(body) };
            step(Step::Link);
            if self.link(current, entry) {
                draft.linked();
                self.finalize(entry, guard);
                self.release_replaced(current, guard);
                meter.stop(started);
                return;
            }
            started = started.or(meter.lost());
            spin();
        }
    }

    /// Without a consumer, gives back the list's references to the head `replaced` and the entries linked with it.
    #[inline]
    pub(super) fn release_replaced(&self, replaced: *const Entry<S>, guard: &Guard) {
        if !self.consumed {
            // Safety: I3, it was the head when loaded under `guard`.
            let older = unsafe { &*replaced }.body().older;
            self.let_go_with(replaced, older, guard);
        }
    }

    /// Gives back the list's references to an entry and the `older` ones that were linked with it.
    fn let_go_with(&self, newest: *const Entry<S>, older: u32, guard: &Guard) {
        let mut entry = newest;
        for _ in 0..older {
            // Safety: I3, what was linked with a head is given back with it, here, and `guard` protects it until later.
            let prev = unsafe { &*entry }.body().prev;
            self.let_go(entry, guard);
            entry = prev;
        }
        self.let_go(entry, guard);
    }

    #[inline]
    pub(super) fn link(&self, current: *mut Entry<S>, entry: *mut Entry<S>) -> bool {
        if mutant(Mutant::RelaxedList) {
            return self.list.compare_exchange(current, entry, Relaxed, Relaxed).is_ok();
        }
        // SeqCst: as in `head`; also publishes the entry's body. No ABA: `current` was loaded under our guard.
        self.list.compare_exchange(current, entry, SeqCst, SeqCst).is_ok()
    }

    /// The seeded bug "draw a number, then publish": two transactions may publish in the other order.
    #[cfg(equipoise_mutants)]
    fn append_by_ticket(&self, transaction: &Transaction<S>, refusal: Option<Refused<S::Reject>>, draft: Draft<S>) {
        let entry = draft.as_ptr();
        let sequence = self.drawn.fetch_add(1, SeqCst) + 1;
        let body = EntryBody { transaction, sequence, time: 0, refusal, older: 0, prev: std::ptr::null_mut() };
        // Safety: leaked by `linked` or embedded in the transaction.
        let filled = unsafe { &*entry };
        // Safety: the draft is ours alone until it is published.
        unsafe { filled.body.set(body) };
        draft.linked();
        transaction.decide(entry, filled.body());
    }

    /// Gives back the list's reference to an entry that is no longer its head.
    pub(super) fn let_go(&self, entry: *const Entry<S>, guard: &Guard) {
        // Safety: I3, it was the head when loaded under `guard`, and its reference is only given back here.
        let transaction = unsafe { &*entry }.body().transaction;
        if !transaction.is_null() {
            // Safety: I3, the list's own reference; its successor is linked, and only the winner of that CAS gets here.
            unsafe { Transaction::drop_reference(transaction, guard) };
        }
    }
}

/// The one who takes decided transactions off the list, in commit order: a kernel made for a consumer has exactly one.
pub(crate) struct Consumer<S: State> {
    /// Tells kernels apart; never followed.
    kernel: *const Entry<S>,
}

// Safety: the pointer is only compared.
unsafe impl<S: State> Send for Consumer<S> {}

impl<S: State> Consumer<S> {
    pub(super) fn new(genesis: *const Entry<S>) -> Self {
        Consumer { kernel: genesis }
    }

    /// Appends to `into`, in commit order, everything committed since the last call up to `through`.
    pub(crate) fn take(&mut self, kernel: &Kernel<S>, through: u64, into: &mut Vec<Handle<S>>, guard: &Guard) {
        assert!(std::ptr::eq(self.kernel, kernel.genesis), "a consumer belongs to one kernel");
        // Relaxed: only the consumer writes it.
        let last = kernel.consumed_to.load(Relaxed);
        let mut entry = kernel.head();
        kernel.finalize(entry, guard);
        let start = into.len();
        let mut newest: *mut Entry<S> = std::ptr::null_mut();
        while !std::ptr::eq(entry, last) {
            // Safety: I4, between the list's head and the entry that the consumer kept, all are referenced.
            let body = unsafe { &*entry }.body();
            if body.sequence <= through {
                if newest.is_null() {
                    newest = entry;
                }
                // Safety: I4, the list's reference to this entry, handed over to the handle.
                into.push(unsafe { Handle::from_counted(body.transaction) });
            }
            entry = body.prev;
        }
        if newest.is_null() {
            return;
        }
        // The newest stays referenced by the list as well: it may be the head, and the next call stops at it.
        std::mem::forget(into[start].clone());
        into[start..].reverse();
        kernel.let_go(last, guard);
        kernel.consumed_to.store(newest, Relaxed);
    }
}

impl<S: State> Drop for Kernel<S> {
    fn drop(&mut self) {
        let guard = &pin();
        let consumed_to = self.consumed_to.load(Relaxed);
        let mut entry = self.head();
        loop {
            // Safety: I4 with a consumer; without one only what was linked with the head is visited, which the list
            // references.
            let &EntryBody { prev, older, .. } = unsafe { &*entry }.body();
            if !self.consumed {
                self.let_go_with(entry, older, guard);
                break;
            }
            self.let_go(entry, guard);
            if std::ptr::eq(entry, consumed_to) {
                break;
            }
            entry = prev;
        }
        // Safety: the kernel made it, and nobody who could have loaded it from the list is left.
        unsafe { retire(guard, self.genesis) };
    }
}

/// Publishes the decisions of those linked with the undecided entry of `body`, before it, in their order.
#[cold]
fn decide_older<S: State>(body: &EntryBody<S>) {
    let mut entries = SmallVec::<[*const Entry<S>; GROUP]>::new();
    let mut entry = body.prev.cast_const();
    for _ in 0..body.older {
        entries.push(entry);
        // Safety: I4, an undecided head's companions are still referenced by the list.
        entry = unsafe { &*entry }.body().prev;
    }
    for entry in entries.into_iter().rev() {
        // Safety: as above.
        let body = unsafe { &*entry }.body();
        // Safety: I3, the list's reference keeps the transaction of its entry; only the genesis has none, and it is
        // linked alone.
        unsafe { &*body.transaction }.decide(entry, body);
    }
}

/// Where the list begins; owned by the kernel.
pub(super) fn genesis<S: State>(sequence: u64, time: u64) -> (*mut Entry<S>, AtomicPtr<Entry<S>>) {
    let entry = Box::into_raw(Box::new(Entry::begin(sequence, time)));
    (entry, AtomicPtr::new(entry))
}
