//! Accounts by id: a skiplist that is the authority, and a hash map in front of it for point look-ups.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::ops::Bound;

use crossbeam_skiplist::base::SkipList;

use crate::account::{AccountId, Balance};
use crate::error::Exhausted;
use crate::kernel::slab::{Index, Slab};
use crate::kernel::{Account, Guard, pin};

/// The place rides in the key: flurry keeps values behind a pointer of their own, one more cache miss a look-up.
type Cache = flurry::HashMap<Place, (), foldhash::fast::RandomState>;

/// An id and where its account lies; equal and hashed as the id.
#[derive(Clone)]
struct Place {
    id: AccountId,
    index: Index,
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

/// Where the accounts are. An account is never removed, so what a look-up returns lives as long as the directory.
pub(crate) struct Directory {
    accounts: Slab<Account<Balance>>,
    order: SkipList<AccountId, Index>,
    cache: Option<Cache>,
}

impl Directory {
    /// An empty directory, with or without the look-up cache, grown for `capacity` accounts.
    pub(crate) fn new(cached: bool, capacity: usize) -> Self {
        Directory {
            accounts: Slab::new(),
            order: SkipList::new(crossbeam_epoch::default_collector().clone()),
            cache: cached.then(|| Cache::with_capacity_and_hasher(capacity, foldhash::fast::RandomState::default())),
        }
    }

    /// The account called `id`, if there is one; a stranger's id allocates nothing.
    #[inline]
    pub(crate) fn find(&self, id: &AccountId, guard: &Guard) -> Option<&Account<Balance>> {
        self.index(id, guard).and_then(|index| self.accounts.get(index))
    }

    /// Where the account called `id` lies.
    #[inline]
    pub(crate) fn index(&self, id: &AccountId, guard: &Guard) -> Option<Index> {
        if let Some(cache) = &self.cache
            && let Some((place, ())) = cache.get_key_value(id, &cache.guard())
        {
            return Some(place.index);
        }
        self.order.get(id, guard).map(|entry| *entry.value())
    }

    /// The account at `index`.
    #[inline]
    pub(crate) fn at(&self, index: Index) -> Option<&Account<Balance>> {
        self.accounts.get(index)
    }

    /// The account called `id`, made if need be. Not lock-free: growing the slab takes a lock.
    pub(crate) fn find_or_make(&self, id: &AccountId, guard: &Guard) -> Result<&Account<Balance>, Exhausted> {
        if let Some(account) = self.find(id, guard) {
            return Ok(account);
        }
        self.accounts.get(self.make(id, guard)?).ok_or(Exhausted::Accounts)
    }

    fn make(&self, id: &AccountId, guard: &Guard) -> Result<Index, Exhausted> {
        // Whoever loses a race for one id leaves a slot of the slab empty-handed; that is bounded by the races.
        let made = self.accounts.push(Account::new(id.clone())).map_err(|_| Exhausted::Accounts)?;
        let entry = self.order.get_or_insert(id.clone(), made, guard);
        let index = *entry.value();
        entry.release(guard);
        Ok(index)
    }

    /// Puts an opened account into the cache; only its creator calls this.
    pub(crate) fn cache(&self, id: &AccountId, guard: &Guard) {
        let Some(cache) = &self.cache else { return };
        if let Some(entry) = self.order.get(id, guard) {
            cache.insert(Place { id: id.clone(), index: *entry.value() }, (), &cache.guard());
        }
    }

    /// Makes the account called `id`, which is not there and was open in an earlier process.
    pub(crate) fn make_open(&mut self, id: &AccountId) -> Result<Index, Exhausted> {
        let guard = &pin();
        let index = self.make(id, guard)?;
        if let Some(cache) = &self.cache {
            cache.insert(Place { id: id.clone(), index }, (), &cache.guard());
        }
        Ok(index)
    }

    /// Gives the account at `index` the state that it had after commit `sequence` of an earlier process.
    pub(crate) fn restore(&mut self, index: Index, sequence: u64, state: Balance) {
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
        let first = self.order.lower_bound(from, guard);
        std::iter::successors(first, |entry| entry.next())
            .take_while(move |entry| entry.key().as_str().starts_with(prefix))
            .take(limit)
            .filter_map(|entry| self.accounts.get(*entry.value()))
    }

    /// Every account, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Account<Balance>> {
        self.accounts.iter()
    }
}
