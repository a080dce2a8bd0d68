//! Claims: which transaction holds a thing. The holder is found by the thing's hash and a predicate, and holds the
//! thing until its claim ends. If two transactions claim one thing, one of them gets it.
//!
//! A claim occupies a slot of a table: the first free one on its hash's *way* (its probe sequence). A slot is used
//! once: free, claimed, gone. So two threads that want one thing meet at the same free slot, and one CAS decides
//! between them. When ways have become long, a newer table is put in front; an older one is removed once none of its
//! slots is claimed any more.
//!
//! Nothing is claimed in two tables. Before a thread claims in the newest table, it *seals* the hash's way in each
//! older one: the first free slot, where a slower thread would claim. Either that thread was faster, and its claim is
//! found, or its CAS meets the seal, and it begins again with a newer table.
//!
//! A slot says exactly which thing is claimed, also for a transaction that claims several. Otherwise that transaction
//! would count as the holder of a thing that it has not claimed yet, if both lie on one way.
use std::sync::atomic::AtomicI64;

use crossbeam_utils::CachePadded;

use super::State;
use super::contention::{SHARDS, own_shard};
use super::sync::{
    AtomicBool, AtomicPtr, AtomicU64, Guard, Mutant,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    mutant, pin, prefetch, retire_bytes,
};
use super::transaction::{Handle, Transaction};

/// Slots of a line.
const LINE: usize = if cfg!(equipoise_engine) { 8 } else { 2 };
/// A claim that is as many lines away from where its way began asks for a newer table.
const LONG: usize = if cfg!(equipoise_engine) { 3 } else { 0 };
/// The lines of the first table, the most lines of any, and how many times as many a newer table has.
const FEWEST: usize = if cfg!(equipoise_engine) { 512 } else { 1 };
const MOST: usize = if cfg!(equipoise_engine) { 1 << 26 } else { 1 };
const GROWTH: usize = 8;
/// The most lines through which one call of [`Claims::collect`] goes.
const COLLECTED: usize = 128;

/// The word of a slot that nobody has used.
const FREE: usize = 0;
/// The word of a slot that nobody has used and nobody ever will.
const SEALED: usize = 1;
/// The word of a slot whose claim is over.
const GONE: usize = 2;

/// The bits of a word that no address needs: the upper ones are a tag, the lowest says that the tag begins with a part.
const TAG_BITS: u32 = 16;
const PART_BITS: u32 = 10;
const IS_PART: usize = 1;
const ADDRESS_BITS: u32 = usize::BITS - TAG_BITS;
const ADDRESS: usize = usize::MAX >> TAG_BITS & !IS_PART;
const _: () = assert!(usize::BITS == 64, "a word has room for a tag where addresses have 64 bits");

/// The most parts that one transaction may claim.
pub(crate) const PARTS: usize = 1 << PART_BITS;

/// The part of a transaction that is claimed: its number, or None if the transaction claims a single thing. A
/// transaction always uses the same form.
pub(crate) type Part = Option<u32>;

/// A claim that was found: its transaction, and the claimed part.
type Met<S> = (*const Transaction<S>, Part);

/// A slot. When it is claimed it says where the transaction is, and the rest of what makes the claim: see [`word`].
type Slot<S> = AtomicPtr<Transaction<S>>;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

struct Table<S: State> {
    slots: Box<[Slot<S>]>,
    /// The slot that begins the first line. Lines are aligned here, not by the allocator, which would write the zeros
    /// of aligned memory itself.
    first: usize,
    older: AtomicPtr<Table<S>>,
    /// This many lines, from the first on, hold no claim and never will. Only [`Claims::collect`] looks at it.
    spent: AtomicU64,
}

// Safety: I10, its words are counted references to transactions, which are Send and Sync.
unsafe impl<S: State> Send for Table<S> {}

/// The end of a hash's way through a table.
enum Way<'t, S: State> {
    /// To what was looked for.
    Claimed(Met<S>),
    /// To a free slot, so many lines from its beginning.
    Free(&'t Slot<S>, usize),
    /// To a seal, or through the whole table.
    Sealed,
}

/// Who holds what.
pub(crate) struct Claims<S: State> {
    newest: CachePadded<AtomicPtr<Table<S>>>,
    /// The most lines of a table.
    most: usize,
    /// How many claims there are; of each shard, how many more were made than ended.
    counts: [CachePadded<AtomicI64>; SHARDS],
    collecting: AtomicBool,
}

// Safety: I10 and I11; the tables are Send, and what they share is atomic.
unsafe impl<S: State> Send for Claims<S> {}
// Safety: as for Send.
unsafe impl<S: State> Sync for Claims<S> {}

/// The word of a claim: the transaction's address, and a tag of the part's number and some bits of the hash, or,
/// without a part, of bits of the hash alone.
fn word<S: State>(transaction: *const Transaction<S>, part: Part, hash: u64) -> *mut Transaction<S> {
    const { assert!(align_of::<Transaction<S>>() > IS_PART, "an address leaves room for the lowest bit") };
    assert_eq!(transaction.addr() & !ADDRESS, 0, "an address leaves room for the tag");
    let (number, is_part, of_hash) = match part {
        None => (0, 0, TAG_BITS),
        Some(_) if mutant(Mutant::PartsLookAlike) => (0, IS_PART, TAG_BITS - PART_BITS),
        Some(number) => (number as usize, IS_PART, TAG_BITS - PART_BITS),
    };
    assert!(number < PARTS, "a part's number fits into the tag");
    let tag = number << of_hash | hash as usize & ((1 << of_hash) - 1);
    transaction.cast_mut().map_addr(|address| tag << ADDRESS_BITS | address | is_part)
}

/// The claim that a slot's word stands for; None if its tag does not agree with `hash`.
fn claimed<S: State>(found: *mut Transaction<S>, hash: u64) -> Option<Met<S>> {
    let transaction = found.map_addr(|address| address & ADDRESS);
    let part = (found.addr() & IS_PART != 0).then_some((found.addr() >> (usize::BITS - PART_BITS)) as u32);
    std::ptr::eq(found, word(transaction, part, hash)).then_some((transaction, part))
}

fn constant<S: State>(word: usize) -> *mut Transaction<S> {
    std::ptr::without_provenance_mut(word)
}

impl<S: State> Table<S> {
    fn new(lines: usize, older: *mut Table<S>) -> Box<Self> {
        let slots = free_slots(lines * LINE + LINE - 1);
        let first = (slots.as_ptr().addr().wrapping_neg() % CACHE_LINE / size_of::<Slot<S>>()) % LINE;
        Box::new(Table { slots, first, older: AtomicPtr::new(older), spent: AtomicU64::new(0) })
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.slots)
    }

    #[inline]
    fn lines(&self) -> &[[Slot<S>; LINE]] {
        self.slots[self.first..].as_chunks().0
    }

    /// Where the way of `hash` begins.
    fn home(&self, hash: u64) -> usize {
        // A part of the hash that is not the tag's. The product fits: there are at most `MOST` lines.
        (((hash >> 32) * self.lines().len() as u64) >> 32) as usize
    }

    /// The next older table.
    fn older<'g>(&self, _guard: &'g Guard) -> Option<&'g Table<S>> {
        // Acquire: pairs with the AcqRel that put this table in front.
        // Safety: I11, loaded after the pin, from a table that was found after it.
        unsafe { self.older.load(Acquire).as_ref() }
    }

    /// The slots on the way of `hash`, each with its distance from the way's beginning in lines.
    #[inline]
    fn way(&self, hash: u64) -> impl Iterator<Item = (&Slot<S>, usize)> {
        let (before, from) = self.lines().split_at(self.home(hash));
        from.iter().chain(before).zip(0..).flat_map(|(line, away)| line.iter().map(move |slot| (slot, away)))
    }

    /// Follows the way of `hash` to a claim that `is` accepts, or to its end.
    #[inline]
    fn seek<'g>(&'g self, hash: u64, is: &impl Fn(&S::Request, Part) -> bool, _guard: &'g Guard) -> Way<'g, S> {
        for (slot, away) in self.way(hash) {
            // SeqCst: pairs with the CAS in `claim`: what the transaction was made of is seen. One order with it and
            // `end`, which ends at a slot that was free: who claims behind this one comes later there.
            let found = slot.load(SeqCst);
            match found.addr() {
                FREE => return Way::Free(slot, away),
                SEALED => return Way::Sealed,
                GONE => {}
                _ => {
                    if let Some(met @ (transaction, part)) = claimed(found, hash)
                        // Safety: I10, claimed in the slot after the pin.
                        && is(&unsafe { &*transaction }.plan.request, part)
                    {
                        return Way::Claimed(met);
                    }
                }
            }
        }
        Way::Sealed
    }

    /// Makes sure that what `is` looks for is never claimed here from now on. If it already is, returns that claim.
    #[inline]
    fn seal(&self, hash: u64, is: &impl Fn(&S::Request, Part) -> bool, guard: &Guard) -> Option<Met<S>> {
        loop {
            match self.seek(hash, is, guard) {
                Way::Claimed(met) => return Some(met),
                Way::Sealed => return None,
                Way::Free(..) if mutant(Mutant::OlderNotSealed) => return None,
                Way::Free(slot, _) => {
                    // AcqRel: a thread that finds the seal sees the newer table. If the CAS fails, the slot was used,
                    // perhaps for this.
                    if slot.compare_exchange(constant(FREE), constant(SEALED), AcqRel, Acquire).is_ok() {
                        return None;
                    }
                }
            }
        }
    }

    /// Like [`Self::seek`], in this newest table and all older ones. Seals the way in the older ones, unless it finds a
    /// claim there.
    #[inline]
    fn seek_sealing_older<'g>(
        &'g self,
        hash: u64,
        is: &impl Fn(&S::Request, Part) -> bool,
        guard: &'g Guard,
    ) -> Way<'g, S> {
        let mut older = std::iter::successors(self.older(guard), |table| table.older(guard));
        match older.find_map(|table| table.seal(hash, is, guard)) {
            Some(met) => Way::Claimed(met),
            None => self.seek(hash, is, guard),
        }
    }

    /// Seals some more lines. Returns whether no slot of the table is claimed or ever will be.
    fn is_spent(&self) -> bool {
        // Relaxed, both: only the collecting thread touches it, one at a time.
        let from = self.spent.load(Relaxed) as usize;
        let spent = |line: &&[Slot<S>; LINE]| line.iter().all(Self::is_over);
        let more = self.lines()[from..].iter().take(COLLECTED).take_while(spent).count();
        self.spent.store((from + more) as u64, Relaxed);
        from + more == self.lines().len()
    }

    /// Whether nothing is claimed in `slot` and nothing ever will be.
    fn is_over(slot: &Slot<S>) -> bool {
        if mutant(Mutant::TableGoesUnsealed) {
            return slot.load(Acquire).addr() <= GONE;
        }
        // AcqRel: as in `seal`.
        match slot.compare_exchange(constant(FREE), constant(SEALED), AcqRel, Acquire) {
            Ok(_) => true,
            Err(found) => found.addr() <= GONE,
        }
    }
}

impl<S: State> Claims<S> {
    /// An empty set of claims. In the long run a table has room for about `usual` of them.
    pub(crate) fn new(usual: usize) -> Self {
        let first = Box::into_raw(Table::new(FEWEST, std::ptr::null_mut()));
        Claims {
            newest: CachePadded::new(AtomicPtr::new(first)),
            most: lines_for(usual),
            counts: std::array::from_fn(|_| CachePadded::default()),
            collecting: AtomicBool::new(false),
        }
    }

    /// How many claims there are.
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a statistic; it orders nothing.
        let sum: i64 = self.counts.iter().map(|count| count.load(Relaxed)).sum();
        usize::try_from(sum).unwrap_or(0)
    }

    fn count(&self, more: i64) {
        // Relaxed: as in `len`.
        self.counts[own_shard()].fetch_add(more, Relaxed);
    }

    fn newest<'g>(&self, _guard: &'g Guard) -> &'g Table<S> {
        // SeqCst: pairs with the CAS in `renew`; one order with `end_for_good`, which meets every table that was
        // claimed in before. Safety: I11, loaded after the pin.
        unsafe { &*self.newest.load(SeqCst) }
    }

    /// All tables, the newest first.
    #[inline]
    fn tables<'g>(&self, guard: &'g Guard) -> impl Iterator<Item = &'g Table<S>> {
        std::iter::successors(Some(self.newest(guard)), |table| table.older(guard))
    }

    /// Prefetches what a look-up of `hash` reads first.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        for table in self.tables(&pin()) {
            prefetch(&raw const table.lines()[table.home(hash)]);
        }
    }

    /// The transaction that has claimed, under `hash`, what `is` looks for, and which part that is.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(&S::Request, Part) -> bool) -> Option<(Handle<S>, Part)> {
        let guard = &pin();
        loop {
            let (transaction, part) = self.found(hash, &is, guard)?;
            // Safety: I10, met after the pin.
            match unsafe { Transaction::try_handle(transaction) } {
                Some(handle) => return Some((handle, part)),
                // Its claim ended meanwhile.
                None => super::sync::spin(),
            }
        }
    }

    /// Whether something that `is` looks for is claimed under `hash`.
    #[inline]
    pub(crate) fn contains(&self, hash: u64, is: impl Fn(&S::Request, Part) -> bool) -> bool {
        self.found(hash, &is, &pin()).is_some()
    }

    #[inline]
    fn found(&self, hash: u64, is: &impl Fn(&S::Request, Part) -> bool, guard: &Guard) -> Option<Met<S>> {
        self.tables(guard).find_map(|table| match table.seek(hash, is, guard) {
            Way::Claimed(met) => Some(met),
            _ => None,
        })
    }

    /// Claims, under `hash`, `part` of `handle`'s transaction, which is what `is` looks for. If another transaction
    /// holds it already, returns that one.
    #[inline]
    pub(crate) fn claim(
        &self,
        hash: u64,
        handle: &Handle<S>,
        part: Part,
        is: impl Fn(&S::Request, Part) -> bool,
    ) -> Result<(), (Handle<S>, Part)> {
        let guard = &pin();
        // The slot's reference.
        let counted = handle.clone();
        loop {
            let newest = self.newest(guard);
            match newest.seek_sealing_older(hash, &is, guard) {
                // Safety: I10, met after the pin.
                Way::Claimed((owner, part)) => match unsafe { Transaction::try_handle(owner) } {
                    Some(owner) if owner.same(handle) => return Ok(()),
                    Some(owner) => return Err((owner, part)),
                    // Its claim ended meanwhile.
                    None => {}
                },
                Way::Sealed => self.renew(newest),
                Way::Free(slot, away) => {
                    let claim = word(handle.as_ptr(), part, hash);
                    // SeqCst: publishes the transaction to `seek`; one order with `end_for_good`. If the CAS fails, the
                    // slot was used, perhaps for this.
                    if slot.compare_exchange(constant(FREE), claim, SeqCst, Acquire).is_ok() {
                        // I10: the slot owns it now.
                        std::mem::forget(counted);
                        self.count(1);
                        if away >= LONG {
                            self.renew(newest);
                        }
                        return Ok(());
                    }
                }
            }
            super::sync::spin();
        }
    }

    /// Puts a table in front of `newest`, unless somebody has.
    #[cold]
    fn renew(&self, newest: &Table<S>) {
        // Acquire: pairs with the CAS below.
        let older = self.newest.load(Acquire);
        if !std::ptr::eq(older, newest) {
            return;
        }
        // Every look-up walks all tables, so when more than `usual` is claimed, tables become larger.
        let lines = (newest.lines().len() * GROWTH).min(self.most.max(lines_for(self.len())));
        let newer = Box::into_raw(Table::new(lines, older));
        // SeqCst: publishes the table to the load in `newest`, in one order with it.
        if self.newest.compare_exchange(older, newer, SeqCst, Acquire).is_err() {
            // Safety: never published.
            drop(unsafe { Box::from_raw(newer) });
        }
    }

    /// Ends the claim of `part` that `handle`'s transaction has under `hash`, if it has one.
    #[inline]
    pub(crate) fn end(&self, hash: u64, handle: &Handle<S>, part: Part) {
        let guard = &pin();
        let claim = word(handle.as_ptr(), part, hash);
        for table in self.tables(guard) {
            for (slot, _) in table.way(hash) {
                // SeqCst: one order with the CAS in `claim`, which it pairs with.
                let found = slot.load(SeqCst);
                if found.addr() == FREE || found.addr() == SEALED {
                    break;
                }
                let after = if mutant(Mutant::SlotUsedAgain) { FREE } else { GONE };
                // AcqRel: a thread that finds the claim gone sees what was done before.
                if std::ptr::eq(found, claim) && slot.compare_exchange(claim, constant(after), AcqRel, Acquire).is_ok()
                {
                    self.count(-1);
                    // Safety: I10, the slot's own reference; only the winner of this CAS gets here.
                    unsafe { Transaction::drop_reference(handle.as_ptr(), guard) };
                    return;
                }
            }
        }
    }

    /// Like [`Self::end`], once nobody may claim this part or an earlier one any more: a thread that does so late ends
    /// that claim.
    #[inline]
    pub(crate) fn end_for_good(&self, hash: u64, handle: &Handle<S>, part: Part) {
        if !mutant(Mutant::LateClaimStays) {
            handle.end_claims(part.map_or(1, |part| part + 1));
        }
        self.end(hash, handle, part);
    }

    /// Removes older tables in which nothing is claimed any more. Each call looks at a part of them: call it now and
    /// then.
    pub(crate) fn collect(&self) {
        let guard = &pin();
        // Acquire: pairs with the Release below, so one collects after the other.
        if self.collecting.swap(true, Acquire) {
            return;
        }
        let mut younger = self.newest(guard);
        loop {
            // Acquire: as in `Table::older`.
            let pointer = younger.older.load(Acquire);
            // Safety: I11, loaded after the pin, from a table that was found after it.
            let Some(older) = (unsafe { pointer.as_ref() }) else { break };
            if !older.is_spent() {
                younger = older;
                continue;
            }
            // Release: pairs with the Acquire in `older`. Whoever stands on it still finds the way on.
            younger.older.store(older.older.load(Acquire), Release);
            // Safety: I11, only who collects takes a table out, and this was the only way to it.
            unsafe { retire_bytes(guard, pointer, older.bytes()) };
        }
        // Release: pairs with the Acquire above.
        self.collecting.store(false, Release);
    }

    /// How many tables there are.
    #[cfg(test)]
    pub(crate) fn tables_count(&self) -> usize {
        self.tables(&pin()).count()
    }
}

impl<S: State> Drop for Claims<S> {
    fn drop(&mut self) {
        let guard = &pin();
        // Relaxed, all: `&mut self`, nobody else is left.
        let mut next = self.newest.load(Relaxed);
        while !next.is_null() {
            // Safety: I11, nobody else is left.
            let table = unsafe { Box::from_raw(next) };
            for slot in table.lines().iter().flatten() {
                let found = slot.load(Relaxed);
                if found.addr() > GONE {
                    let transaction = found.map_addr(|address| address & ADDRESS);
                    // Safety: I10, the slot's own reference.
                    unsafe { Transaction::drop_reference(transaction, guard) };
                }
            }
            next = table.older.load(Relaxed);
        }
    }
}

/// How many lines a table has for about `claims`: half full its ways are short.
fn lines_for(claims: usize) -> usize {
    (claims / LINE).saturating_mul(2).clamp(FEWEST, MOST)
}

/// Free slots. Where the allocator knows its memory to be zeros it does not write it.
#[cfg(equipoise_engine)]
fn free_slots<S: State>(count: usize) -> Box<[Slot<S>]> {
    let Ok(layout) = std::alloc::Layout::array::<Slot<S>>(count) else { unreachable!("at most `MOST` lines") };
    // Safety: there is at least one slot, so the layout has a size.
    let slots = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<Slot<S>>();
    if slots.is_null() {
        std::alloc::handle_alloc_error(layout);
    }
    // Safety: allocated with the layout of such a slice, and zero is a free slot's word.
    unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(slots, count)) }
}

#[cfg(any(equipoise_loom, equipoise_shuttle))]
fn free_slots<S: State>(count: usize) -> Box<[Slot<S>]> {
    (0..count).map(|_| AtomicPtr::new(constant(FREE))).collect()
}
