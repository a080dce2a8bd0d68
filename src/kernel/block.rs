//! Blocks: the transactions of a group lie together. They are made, journalled and freed at about the same time, so the
//! processor prefetches them, and one allocation serves all.

use std::mem::MaybeUninit;

use super::State;
use super::sync::{
    AtomicU64, Guard, Mutant,
    Ordering::{AcqRel, Relaxed},
    mutant, retire_bytes,
};
use super::transaction::{Handle, Plan, Transaction};

/// Memory for some transactions; it goes with the last of them.
pub(super) struct Block<S: State> {
    /// How many of them are referenced.
    held: AtomicU64,
    /// How many there are, in the first slots.
    filled: AtomicU64,
    /// How many bytes these have allocated outside the block.
    spilled: AtomicU64,
    slots: *mut [MaybeUninit<Transaction<S>>],
}

// Safety: the block owns what its slots hold, and a transaction is Send.
unsafe impl<S: State> Send for Block<S> {}

impl<S: State> Block<S> {
    /// A block for up to `capacity` transactions. The first that is pushed owns it.
    pub(super) fn allocate(capacity: usize) -> *const Self {
        let slots = Box::into_raw(Box::new_uninit_slice(capacity));
        let [held, filled, spilled] = [0; 3].map(AtomicU64::new);
        Box::into_raw(Box::new(Block { held, filled, spilled, slots }))
    }

    /// Makes a transaction in the next slot, to be decided after `before`.
    ///
    /// # Safety
    /// `block` was allocated by the caller, who alone pushes to it, and no more than there is room for. Of each that
    /// was pushed before, a handle lives.
    #[inline]
    pub(super) unsafe fn push(block: *const Self, plan: Plan<S>, before: Option<&Handle<S>>) -> Handle<S> {
        // Safety: the caller's promise; the handles keep it (I9).
        let this = unsafe { &*block };
        // Relaxed: only the caller changes it before the last transaction is let go.
        let place = this.filled.load(Relaxed);
        debug_assert!((place as usize) < this.slots.len(), "a block has room for what is pushed");
        this.spilled.store(this.spilled.load(Relaxed) + plan.spilled_bytes() as u64, Relaxed);
        // Safety: the caller's promise: the slot exists.
        let slot = unsafe { this.slots.cast::<Transaction<S>>().add(place as usize) };
        // Safety: nobody has heard of this slot.
        unsafe { slot.write(Transaction::new(plan, before, block)) };
        // Relaxed: whoever lets one go heard of it through the handle that is made here.
        this.held.fetch_add(1, Relaxed);
        this.filled.store(place + 1, Relaxed);
        // Safety: a new transaction has a counted reference for its handle.
        unsafe { Handle::from_counted(slot) }
    }

    /// Lets one of its transactions go, and the block with the last.
    ///
    /// # Safety
    /// The last counted reference to one of its transactions was given back, and nobody else heard that.
    pub(super) unsafe fn let_go(block: *const Self, guard: &Guard) {
        // Safety: I9, the one that is let go has kept it until here.
        let this = unsafe { &*block };
        let filled = this.filled.load(Relaxed);
        let spilled = this.spilled.load(Relaxed) as usize;
        let bytes = size_of::<Self>() + size_of::<Transaction<S>>() * this.slots.len() + spilled;
        let last = if mutant(Mutant::BlockGoesWithFirst) { filled } else { 1 };
        // AcqRel: the last use of every other one happens before the free.
        if this.held.fetch_sub(1, AcqRel) == last {
            // Safety: I9, none of its transactions is referenced; a guard that found one before that holds the free
            // back.
            unsafe { retire_bytes(guard, block.cast_mut(), bytes) };
        }
    }
}

impl<S: State> Drop for Block<S> {
    fn drop(&mut self) {
        // Relaxed: `&mut self`, nobody else is left.
        let filled = self.filled.load(Relaxed) as usize;
        // Safety: I9, nobody references them any more, and the first `filled` slots hold one each.
        unsafe { std::ptr::slice_from_raw_parts_mut(self.slots.cast::<Transaction<S>>(), filled).drop_in_place() };
        // Safety: allocated as such a box, and given back only here.
        drop(unsafe { Box::from_raw(self.slots) });
    }
}
