//! Accounts by id: a skiplist is the authority, a hash map in front of it serves point look-ups, and hints in front of
//! the map can be prefetched.
//!
//! The accounts of a checkpoint come sorted by id. They become the slab's first entries and are found there by binary
//! search, since inserting them into the skiplist would take most of a start. A thread inserts them, and fills the hash
//! map, after the start ([`Directory::settle`]).

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Bound;
use std::panic::catch_unwind;
use std::sync::{Arc, LazyLock};

use crossbeam_skiplist::base::SkipList;

use crate::account::{AccountId, Balance};
use crate::error::Exhausted;
use crate::kernel::cells::{Gauge, Latch};
use crate::kernel::hints::{self, Hints};
use crate::kernel::slab::{Loaded, Slab, SlabIndex};
use crate::kernel::{Account, Guard, pin};

/// The place is part of the key, since flurry keeps values behind a pointer: one more cache miss per look-up.
type Map = flurry::HashMap<Place, (), foldhash::fast::RandomState>;

/// An id and where its account lies; equal and hashed as the id.
#[derive(Clone)]
struct Place {
    id: AccountId,
    index: SlabIndex,
}

impl Borrow<AccountId> for Place {
    fn borrow(&self) -> &AccountId {
        &self.id
    }
}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id.cmp(&other.id)
    }
}

/// How many accounts are taken under one epoch pin, and put into the cache between two checks whether to stop.
const STRIDE: u32 = 64;

/// Where the accounts are. An account is never removed, so what a look-up returns lives as long as the directory.
pub(crate) struct Directory {
    accounts: Slab<Account<Balance>>,
    /// How many accounts, the slab's first, came in the order of their ids and were not put into `order` at once.
    sorted: u32,
    /// Set once `order` has them, too.
    settled: Latch,
    order: SkipList<AccountId, SlabIndex>,
    cache: Option<Cache>,
    /// How many accounts were made and not opened.
    unopened: Gauge,
    /// How many accounts, the slab's first, were open in an earlier process.
    recovered: u32,
}

/// Tells whether flurry's thread-local data is still there: created after that data, this is dropped before it. Without
/// the data flurry panics.
struct Entered(bool);

impl Entered {
    fn new() -> Self {
        static PROBE: LazyLock<flurry::HashMap<(), ()>> = LazyLock::new(flurry::HashMap::new);
        // flurry's data may be gone from this thread already, if another crate used flurry.
        Entered(catch_unwind(|| drop(PROBE.guard())).is_ok())
    }
}

impl Drop for Entered {
    // A thread-local with a destructor becomes unavailable when its thread ends.
    fn drop(&mut self) {}
}

thread_local! {
    static ENTERED: Entered = Entered::new();
}

/// The look-up cache: a map of accounts, whose look-up takes two cache misses, and hints in front of it, whose look-up
/// takes one and can be prefetched. The map lacks accounts that an ending thread opened.
struct Cache {
    map: Map,
    hints: Hints,
    hasher: foldhash::fast::RandomState,
}

impl Cache {
    fn new(capacity: usize) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        Cache { map: Map::with_capacity_and_hasher(capacity, hasher.clone()), hints: Hints::new(), hasher }
    }

    /// A guard for the map; None in an ending thread whose thread-locals are gone.
    fn guard(&self) -> Option<flurry::Guard<'_>> {
        let may_enter = ENTERED.try_with(|entered| entered.0).unwrap_or(false);
        may_enter.then(|| self.map.guard())
    }

    fn insert(&self, id: &AccountId, index: SlabIndex, guard: Option<&flurry::Guard<'_>>) {
        self.hints.insert(self.hasher.hash_one(id), index);
        if let Some(guard) = guard {
            self.map.insert(Place { id: id.clone(), index }, (), guard);
        }
    }

    fn find(&self, id: &AccountId) -> Option<SlabIndex> {
        let guard = &self.guard()?;
        self.map.get_key_value(id, guard).map(|(place, ())| place.index)
    }
}

impl Directory {
    /// An empty directory, with or without the look-up cache, grown for `capacity` accounts.
    pub(crate) fn new(cached: bool, capacity: usize) -> Self {
        Directory {
            accounts: Slab::new(),
            sorted: 0,
            settled: Latch::new(),
            unopened: Gauge::new(),
            recovered: 0,
            order: SkipList::new(crossbeam_epoch::default_collector().clone()),
            cache: cached.then(|| Cache::new(capacity)),
        }
    }

    /// The account called `id`, if there is one. Allocates nothing for an unknown id.
    #[inline]
    pub(crate) fn find(&self, id: &AccountId, guard: &Guard) -> Option<&Account<Balance>> {
        self.index(id, guard).and_then(|index| self.accounts.get(index))
    }

    /// Where the account called `id` lies.
    #[inline]
    pub(crate) fn index(&self, id: &AccountId, guard: &Guard) -> Option<SlabIndex> {
        let Some(cache) = &self.cache else { return self.look_up(id, guard) };
        let hinted = cache.hints.load().find(cache.hasher.hash_one(id));
        if let Some(index) = hinted
            && self.accounts.get(index).is_some_and(|account| account.key() == id)
        {
            return Some(index);
        }
        cache.find(id).or_else(|| self.look_up(id, guard))
    }

    /// Prefetches accounts that are about to be looked up; None without a look-up cache.
    pub(crate) fn ahead(&self) -> Option<Ahead<'_>> {
        self.cache.as_ref().map(|cache| Ahead { directory: self, cache, hints: cache.hints.load() })
    }

    /// As [`Self::index`], past the cache.
    fn look_up(&self, id: &AccountId, guard: &Guard) -> Option<SlabIndex> {
        let sorted = self.sorted();
        let place = self.accounts.partition_point(sorted, |account| account.key() < id);
        match self.accounts.range(place, sorted).next() {
            Some((index, account)) if account.key() == id => Some(index),
            _ => self.order.get(id, guard).map(|entry| *entry.value()),
        }
    }

    /// The account at `index`.
    #[inline]
    pub(crate) fn at(&self, index: SlabIndex) -> Option<&Account<Balance>> {
        self.accounts.get(index)
    }

    /// The account called `id`, made if need be. Not lock-free: growing the slab takes a lock.
    pub(crate) fn find_or_make(&self, id: &AccountId, guard: &Guard) -> Result<&Account<Balance>, Exhausted> {
        if let Some(account) = self.find(id, guard) {
            return Ok(account);
        }
        let (index, made) = self.make(id, guard)?;
        if made {
            self.unopened.add(1);
        }
        self.accounts.get(index).ok_or(Exhausted::Accounts)
    }

    /// Where the account called `id` lies by now, and whether it was made here.
    fn make(&self, id: &AccountId, guard: &Guard) -> Result<(SlabIndex, bool), Exhausted> {
        // The thread that loses a race for an id leaves an unused slot in the slab; the number of races bounds these.
        let made = self.accounts.push(Account::new(id.clone())).map_err(|_| Exhausted::Accounts)?;
        let entry = self.order.get_or_insert(id.clone(), made, guard);
        let index = *entry.value();
        entry.release(guard);
        Ok((index, index == made))
    }

    /// How many accounts were made for requests that did not open them, or have yet to.
    pub(crate) fn unopened(&self) -> u64 {
        self.unopened.get()
    }

    /// Puts an opened account into the cache; only its creator calls this.
    pub(crate) fn opened(&self, id: &AccountId, guard: &Guard) {
        self.unopened.subtract(1);
        let Some(cache) = &self.cache else { return };
        if let Some(index) = self.look_up(id, guard) {
            cache.insert(id, index, cache.guard().as_ref());
        }
    }

    /// How many of the slab's first accounts are looked for there.
    fn sorted(&self) -> u32 {
        if self.settled.is_set() { 0 } else { self.sorted }
    }

    /// Moves the accounts of an earlier process to where all others are, unless `stop` returns true before: into the
    /// cache, then the sorted ones into the skiplist.
    pub(crate) fn settle(&self, stop: impl Fn() -> bool) {
        self.fill_cache(&stop);
        for from in (0..self.sorted).step_by(STRIDE as usize) {
            if stop() {
                return;
            }
            let guard = &pin();
            for (index, account) in self.accounts.range(from, self.sorted.min(from.saturating_add(STRIDE))) {
                self.order.get_or_insert(account.key().clone(), index, guard).release(guard);
            }
        }
        self.settled.set();
    }

    fn fill_cache(&self, stop: impl Fn() -> bool) {
        let Some(cache) = &self.cache else { return };
        for from in (0..self.recovered).step_by(STRIDE as usize) {
            if stop() {
                return;
            }
            let guard = cache.guard();
            for (index, account) in self.accounts.range(from, self.recovered.min(from.saturating_add(STRIDE))) {
                cache.insert(account.key(), index, guard.as_ref());
            }
        }
    }

    /// How many accounts were open in an earlier process.
    pub(crate) fn recovered(&self) -> u32 {
        self.recovered
    }

    /// Takes what was open in an earlier process, in ascending order of the ids. Nothing was made before.
    pub(crate) fn load(&mut self, accounts: Loaded<Account<Balance>>) {
        debug_assert_eq!(self.accounts.iter().count(), 0, "what is sorted comes first");
        self.sorted = accounts.count();
        self.recovered = accounts.count();
        self.accounts = Slab::over(accounts);
    }

    /// Where the account called `id` lies, which was open in an earlier process; made if it was not in the checkpoint.
    /// Call it once per id.
    pub(crate) fn find_or_make_open(&mut self, id: &AccountId) -> Result<SlabIndex, Exhausted> {
        let guard = &pin();
        if self.sorted > 0
            && let Some(index) = self.look_up(id, guard)
        {
            return Ok(index);
        }
        let (index, _) = self.make(id, guard)?;
        self.recovered += 1;
        Ok(index)
    }

    /// Gives the account at `index` the state that it had after commit `sequence` of an earlier process.
    pub(crate) fn restore(&mut self, index: SlabIndex, sequence: u64, state: Balance) {
        if let Some(account) = self.accounts.get_mut(index) {
            account.restore(sequence, state);
        }
    }

    /// Up to `limit` accounts whose id begins with `prefix`, in id order, after `after`.
    pub(crate) fn walk<'g>(
        &'g self,
        prefix: &'g str,
        after: Option<&'g str>,
        limit: usize,
        guard: &'g Guard,
    ) -> impl Iterator<Item = &'g Account<Balance>> + 'g {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let all_sorted = self.sorted();
        let place = self.accounts.partition_point(all_sorted, |account| match from {
            Bound::Excluded(after) => account.key().as_str() <= after,
            _ => account.key().as_str() < prefix,
        });
        let first = self.order.lower_bound(from, guard);
        let mut made = std::iter::successors(first, |entry| entry.next())
            .filter_map(|entry| self.accounts.get(*entry.value()))
            .peekable();
        let mut sorted = self.accounts.range(place, all_sorted).map(|(_, account)| account).peekable();
        let in_order = std::iter::from_fn(move || match (sorted.peek(), made.peek()) {
            (Some(one), Some(other)) if one.key() > other.key() => made.next(),
            // It is being moved from one to the other.
            (Some(one), Some(other)) if one.key() == other.key() => {
                sorted.next();
                made.next()
            }
            (Some(_), _) => sorted.next(),
            (None, _) => made.next(),
        });
        in_order.take_while(move |account| account.key().as_str().starts_with(prefix)).take(limit)
    }

    /// Some of the accounts; successive values of `turn` visit all of them.
    pub(crate) fn some(&self, turn: u64) -> impl Iterator<Item = &Account<Balance>> {
        self.accounts.stretch(turn, STRIDE)
    }

    /// Every account, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Account<Balance>> {
        self.accounts.iter()
    }
}

/// Prefetches accounts that will be looked up, in two steps over all of them, so that their cache misses overlap.
pub(crate) struct Ahead<'d> {
    directory: &'d Directory,
    cache: &'d Cache,
    hints: arc_swap::Guard<Arc<hints::Table>>,
}

/// An account that is about to be looked for.
pub(crate) struct Sought(u64);

impl Ahead<'_> {
    /// Prefetches the hint to the account called `id`.
    #[inline]
    pub(crate) fn seek(&self, id: &AccountId) -> Sought {
        let hash = self.cache.hasher.hash_one(id);
        self.hints.prefetch(hash);
        Sought(hash)
    }

    /// Where the account probably lies, prefetched; the caller must compare its id.
    #[inline]
    pub(crate) fn find(&self, Sought(hash): Sought) -> Option<SlabIndex> {
        let index = self.hints.find(hash)?;
        self.directory.accounts.prefetch(index);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E6: accounts from a checkpoint are found, and walked in order, before, during and after their move into the
    /// skiplist, with new accounts among them.
    #[test]
    fn accounts_are_in_order_while_they_move() {
        let id = |number: u32| AccountId::new(&format!("a{number:05}")).expect("an id");
        let mut loaded = Loaded::new();
        for number in (0..2_000).step_by(2) {
            let mut account = Account::new(id(number));
            account.restore(1, Balance { amount: 1, version: 1 });
            assert!(loaded.push(account).is_ok());
        }
        let mut directory = Directory::new(true, 0);
        directory.load(loaded);
        let ids = |directory: &Directory| {
            let guard = &pin();
            directory.walk("a", None, usize::MAX, guard).map(|account| account.key().clone()).collect::<Vec<_>>()
        };
        for number in (1..2_000).step_by(2) {
            directory.find_or_make(&id(number), &pin()).expect("room");
        }
        let all: Vec<_> = (0..2_000).map(id).collect();
        assert_eq!(ids(&directory), all);
        std::thread::scope(|scope| {
            let settling = scope.spawn(|| directory.settle(|| false));
            while !settling.is_finished() {
                assert_eq!(ids(&directory), all);
                assert!(all.iter().all(|id| directory.find(id, &pin()).is_some_and(|found| found.key() == id)));
            }
        });
        assert_eq!(directory.sorted(), 0);
        assert_eq!(ids(&directory), all);
        assert!(all.iter().all(|id| directory.find(id, &pin()).is_some()));
    }

    /// B1: an account is found by its id, wherever hints point.
    #[test]
    fn a_wrong_hint_misleads_nobody() {
        let directory = Directory::new(true, 0);
        let [one, other] = ["one", "other"].map(|id| AccountId::new(id).expect("an id"));
        let guard = &pin();
        for id in [&one, &other] {
            directory.find_or_make(id, guard).expect("room");
        }
        let misled = directory.index(&other, guard).expect("made");
        let cache = directory.cache.as_ref().expect("made with one");
        cache.hints.insert(cache.hasher.hash_one(&one), misled);
        assert_eq!(cache.hints.load().find(cache.hasher.hash_one(&one)), Some(misled));
        assert!(directory.find(&one, guard).is_some_and(|found| found.key() == &one));
        assert!(directory.find(&other, guard).is_some_and(|found| found.key() == &other));
    }
}
