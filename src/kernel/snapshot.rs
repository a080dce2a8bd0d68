//! Snapshots: registered sequences, and which old versions they keep.
//!
//! Registering and installing form a Dekker pair: a snapshot sets its bit and then reads the clock; a writer finds its
//! predecessor decided (so on the clock) and then reads the bits. Whoever comes second sees the other.

use smallvec::SmallVec;

use super::drive::{free_chain, retire_chain};
use super::seqlock::{Account, Body, Chain, REFUSED, UNDECIDED, Version};
use super::step::{Step, step};
use super::sync::{AtomicU64, Guard, Mutant, Ordering::SeqCst, boxed, loom_fence, mutant, retire, spin};
use super::transaction::Handle;
use super::{Kernel, State};

#[cfg(equipoise_engine)]
pub(super) const SLOTS: usize = 64;
#[cfg(any(equipoise_loom, equipoise_shuttle))]
pub(super) const SLOTS: usize = 5;

/// The sequence that the flusher is making durable.
const FLUSHING: usize = 0;
/// The durable sequence. Scanned after [`FLUSHING`]: while a flush ends, one of the two always covers it.
const DURABLE: usize = 1;
/// How many snapshots can be open at once, the flusher apart.
pub(crate) const MAX_SNAPSHOTS: u32 = SLOTS as u32 - 2;
const FLUSHER: u64 = 1 << FLUSHING | 1 << DURABLE;

/// Registered sequences, usually few.
type Sequences = SmallVec<[u64; 6]>;

/// Which sequences are registered. All accesses are SeqCst: one order with the commit list and the watermark.
pub(super) struct Snapshots {
    occupied: crossbeam_utils::CachePadded<AtomicU64>,
    slots: [crossbeam_utils::CachePadded<AtomicU64>; SLOTS],
}

/// What a slot's word says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// It may mean any sequence from here on. An occupied slot that is not filled yet counts as reserved from 0: its
    /// occupier reads the clock afterwards, so one step is enough to register.
    Reserved(u64),
    Exact(u64),
}

impl Slot {
    fn word(self) -> u64 {
        match self {
            Slot::Reserved(from) => from << 1,
            Slot::Exact(sequence) => sequence << 1 | 1,
        }
    }

    fn of(word: u64) -> Slot {
        if word & 1 == 1 { Slot::Exact(word >> 1) } else { Slot::Reserved(word >> 1) }
    }
}

/// What a writer must keep for open snapshots.
#[derive(PartialEq, Eq)]
enum Needed {
    Nothing,
    /// These sequences, descending.
    At(Sequences),
    /// A snapshot is being registered: anything.
    All,
}

impl Snapshots {
    pub(super) fn new() -> Self {
        Snapshots {
            occupied: crossbeam_utils::CachePadded::new(AtomicU64::new(0)),
            slots: std::array::from_fn(|_| crossbeam_utils::CachePadded::new(AtomicU64::new(0))),
        }
    }

    /// Registers the flusher's two slots, before other threads exist.
    pub(super) fn register_flusher(&self, durable: u64) {
        self.fill(FLUSHING, Slot::Exact(durable));
        self.fill(DURABLE, Slot::Exact(durable));
        self.occupied.fetch_or(FLUSHER, SeqCst);
    }

    fn occupy(&self) -> Option<usize> {
        loop {
            let occupied = self.occupied.load(SeqCst) | FLUSHER;
            let slot = occupied.trailing_ones() as usize;
            if slot >= SLOTS {
                return None;
            }
            if self.occupied.fetch_or(1 << slot, SeqCst) & 1 << slot == 0 {
                loom_fence();
                return Some(slot);
            }
        }
    }

    fn fill(&self, slot: usize, value: Slot) {
        self.slots[slot].store(value.word(), SeqCst);
        loom_fence();
    }

    fn vacate(&self, slot: usize) {
        self.slots[slot].store(Slot::Reserved(0).word(), SeqCst);
        self.occupied.fetch_and(!(1 << slot), SeqCst);
    }

    /// How many snapshots are open, the flusher's two slots apart.
    fn count(&self) -> u32 {
        (self.occupied.load(SeqCst) & !FLUSHER).count_ones()
    }

    /// Which sequences below `bound` are registered. Called after the version at `bound` was found decided.
    #[inline]
    fn needed(&self, bound: u64) -> Needed {
        loom_fence();
        let occupied = self.occupied.load(SeqCst);
        if occupied == 0 { Needed::Nothing } else { self.scan(occupied, bound) }
    }

    fn scan(&self, occupied: u64, bound: u64) -> Needed {
        let mut at = Sequences::new();
        let mut look = |slot: usize| {
            let found = Slot::of(self.slots[slot].load(SeqCst));
            step(Step::SlotScanned);
            match found {
                Slot::Reserved(from) => from < bound,
                Slot::Exact(sequence) => {
                    if sequence < bound {
                        at.push(sequence);
                    }
                    false
                }
            }
        };
        let mut others = occupied & !FLUSHER;
        if occupied & FLUSHER != 0 {
            let order = if mutant(Mutant::FlushSlotAfterDurable) { [DURABLE, FLUSHING] } else { [FLUSHING, DURABLE] };
            if order.into_iter().any(&mut look) {
                return Needed::All;
            }
            // A snapshot opened at D since the bits were read, and D moved on before its slot was: look again.
            if !mutant(Mutant::BitmapNotReread) {
                loom_fence();
                others = self.occupied.load(SeqCst) & !FLUSHER;
            }
        }
        while others != 0 {
            if look(others.trailing_zeros() as usize) {
                return Needed::All;
            }
            others &= others - 1;
        }
        if at.is_empty() {
            return Needed::Nothing;
        }
        at.sort_unstable_by(|a, b| b.cmp(a));
        at.dedup();
        Needed::At(at)
    }
}

/// What goes below a new version.
pub(super) struct Kept<S: State> {
    pub(super) chain: Chain<S>,
    /// The chain is made of copies; the originals go when it is installed.
    pub(super) rebuilt: bool,
}

impl<S: State> Kept<S> {
    fn original(chain: Chain<S>) -> Self {
        Kept { chain, rebuilt: false }
    }
}

/// A registered sequence: every account's state at it stays readable until [`Kernel::close_snapshot`].
#[derive(Debug)]
pub(crate) struct Registered {
    slot: usize,
    pub(crate) sequence: u64,
}

impl<S: State> Kernel<S> {
    /// Registers the newest commit sequence; None when too many snapshots are open.
    pub(crate) fn open_snapshot(&self, guard: &Guard) -> Option<Registered> {
        let early = mutant(Mutant::RegisterAfterClock).then(|| self.now(guard));
        let slot = self.snapshots.occupy()?;
        let sequence = early.unwrap_or_else(|| self.now(guard));
        self.snapshots.fill(slot, Slot::Exact(sequence));
        Some(Registered { slot, sequence })
    }

    /// As [`Kernel::open_snapshot`], at the durable sequence.
    pub(crate) fn open_durable_snapshot(&self) -> Option<Registered> {
        let early = mutant(Mutant::DurableBeforeRegistering).then(|| self.durable());
        let slot = self.snapshots.occupy()?;
        let sequence = early.unwrap_or_else(|| self.durable());
        self.snapshots.fill(slot, Slot::Exact(sequence));
        Some(Registered { slot, sequence })
    }

    /// Lets the states at the sequence go.
    pub(crate) fn close_snapshot(&self, registered: Registered) {
        self.snapshots.vacate(registered.slot);
    }

    /// How many snapshots are open.
    pub(crate) fn snapshot_count(&self) -> u32 {
        self.snapshots.count()
    }

    /// The durable watermark D: everything up to it can no longer be lost.
    #[inline]
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(SeqCst)
    }

    /// Chooses the sequence to make durable next and protects its states.
    pub(crate) fn begin_flush(&self, guard: &Guard) -> u64 {
        self.snapshots.fill(FLUSHING, Slot::Reserved(self.durable()));
        let through = self.now(guard);
        self.snapshots.fill(FLUSHING, Slot::Exact(through));
        through
    }

    /// Everything up to `through` is durable: publishes D, only then lets the old D's states go.
    pub(crate) fn end_flush(&self, through: u64) {
        if mutant(Mutant::WatermarkSwapped) {
            self.snapshots.fill(DURABLE, Slot::Exact(through));
            spin();
            self.durable.store(through, SeqCst);
            return;
        }
        self.durable.store(through, SeqCst);
        loom_fence();
        self.snapshots.fill(DURABLE, Slot::Exact(through));
    }

    /// The state at the durable sequence, and the sequence of its last change. Never waits for a writer: it retries
    /// only when a flush completed meanwhile, and registers after three attempts.
    pub(crate) fn read_durable(&self, account: &Account<S>, guard: &Guard) -> (u64, S) {
        loop {
            for _ in 0..3 {
                if let Ok(found) = account.read_at(self.durable(), guard) {
                    return found;
                }
                spin();
            }
            if let Some(registered) = self.open_durable_snapshot() {
                let found = account.read_at(registered.sequence, guard);
                self.close_snapshot(registered);
                if let Ok(found) = found {
                    return found;
                }
            }
        }
    }

    /// What a new version above the decided `head` must keep: the images that a snapshot below `base_sequence` needs.
    #[inline]
    pub(super) fn keep(&self, head: Option<&Version<S>>, base_sequence: u64) -> Kept<S> {
        let Some(head) = head else { return Kept::original(Chain::EMPTY) };
        match self.snapshots.needed(base_sequence) {
            Needed::Nothing => Kept::original(Chain::EMPTY),
            Needed::All => Kept::original(above(head)),
            Needed::At(sequences) => keep_at(head, &sequences),
        }
    }

    /// Trims the accounts of `handle`'s transaction, if it kept older versions below its own.
    pub(crate) fn trim_legs(&self, handle: &Handle<S>, guard: &Guard) {
        if handle.kept_older() {
            for leg in &handle.plan.legs {
                self.trim(leg.account(), guard);
            }
        }
    }

    /// Replaces a decided head by a copy without the older versions that no snapshot needs.
    pub(crate) fn trim(&self, account: &Account<S>, guard: &Guard) -> bool {
        let (pointer, Some(head)) = account.head(guard) else { return false };
        let body = *head.body();
        let decision = head.cached();
        if decision == UNDECIDED || body.prev.head().is_null() {
            return false;
        }
        if self.snapshots.needed(body.old_sequence) != Needed::Nothing {
            return false;
        }
        if mutant(Mutant::PrevCutInPlace) {
            // Safety: none; this is the seeded bug.
            unsafe { head.rewrite(Body { prev: Chain::EMPTY, ..body }) };
            return true;
        }
        let copy = Box::into_raw(boxed(Version::new(
            decision,
            Body { transaction: std::ptr::null(), prev: Chain::EMPTY, ..body },
        )));
        if account.install(pointer, copy) {
            // Safety: I1, our CAS took it out of the only chain it was in.
            unsafe { retire(guard, pointer) };
            retire_chain(body.prev, guard);
            true
        } else {
            free_chain(Chain::new(copy, 1));
            false
        }
    }
}

/// The chain that begins with `head` itself.
fn above<S: State>(head: &Version<S>) -> Chain<S> {
    Chain::new(std::ptr::from_ref(head).cast_mut(), head.body().prev.depth() + 1)
}

/// Keeps what `sequences` (descending, all below the head's outcome) need.
#[cold]
fn keep_at<S: State>(head: &Version<S>, sequences: &[u64]) -> Kept<S> {
    let body = head.body();
    let refused = head.cached() == REFUSED;
    if body.prev.depth() + 1 > (2 * sequences.len() + 4).min(Chain::<S>::DEEPEST - 1) {
        return Kept { chain: rebuild(head, sequences), rebuilt: true };
    }
    // The version above also carries the image of a refused version.
    let needs_head = !refused && sequences[0] >= body.old_sequence;
    let needs_older = sequences.last().is_some_and(|oldest| *oldest < body.old_sequence);
    Kept::original(if needs_head {
        above(head)
    } else if needs_older {
        body.prev
    } else {
        Chain::EMPTY
    })
}

/// Copies of the versions from `head` down that `sequences` need, and of no others.
fn rebuild<S: State>(head: &Version<S>, sequences: &[u64]) -> Chain<S> {
    let mut needed = SmallVec::<[&Version<S>; SLOTS]>::new();
    let mut version = Some(head);
    for sequence in sequences {
        while let Some(candidate) = version
            && candidate.body().old_sequence > *sequence
        {
            // Safety: I1, reached from a head loaded after the caller's pin.
            version = unsafe { candidate.body().prev.head().as_ref() };
        }
        let Some(found) = version else { break };
        let covered = found.cached() == REFUSED || found.cached() <= *sequence;
        if !covered && needed.last().is_none_or(|last| !std::ptr::eq(*last, found)) {
            needed.push(found);
        }
    }
    if mutant(Mutant::RebuildDropsOldest) {
        needed.pop();
    }
    let mut chain = Chain::EMPTY;
    for version in needed.into_iter().rev() {
        let body = Body { transaction: std::ptr::null(), prev: chain, ..*version.body() };
        let depth = chain.depth() + 1;
        chain = Chain::new(Box::into_raw(boxed(Version::new(version.cached(), body))), depth);
    }
    chain
}
