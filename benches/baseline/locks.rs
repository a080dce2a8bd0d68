//! A map with a lock an account, taken in ascending id order; ids in shards; the log under a lock of its own.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use equipoise::{AccountId, AccountState, InvalidRequest, Kind, Refusal, Request};
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard, RwLock};
use smallvec::smallvec;

use super::{Answer, Bank, Held, Ids, Limits, Log, accounts_of, moved, only, update};

pub(super) const SHARDS: usize = 64;

pub struct Locks {
    accounts: RwLock<HashMap<AccountId, Arc<Mutex<Held>>, RandomState>>,
    ids: ShardedIds,
    log: Mutex<Log>,
}

/// Ids behind one lock a shard. A shard stays locked until its request is decided: a duplicate waits for the answer.
pub(super) struct ShardedIds {
    hasher: RandomState,
    shards: Vec<Mutex<Ids>>,
}

impl ShardedIds {
    pub(super) fn new(capacity: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Ids::new(capacity.div_ceil(SHARDS)))).collect();
        ShardedIds { hasher: RandomState::default(), shards }
    }

    pub(super) fn lock(&self, request: &Request) -> MutexGuard<'_, Ids> {
        self.shards[self.hasher.hash_one(&only(request).id) as usize % SHARDS].lock()
    }
}

impl Locks {
    fn find(&self, account: &AccountId) -> Option<Arc<Mutex<Held>>> {
        self.accounts.read().get(account).cloned()
    }
}

impl Bank for Locks {
    const NAME: &'static str = "lock per account";

    fn build(accounts: &[AccountId], initial: i64, limits: Limits) -> Self {
        let opened = accounts.iter().zip(1..);
        let opened = opened.map(|(id, sequence)| (id.clone(), Arc::new(Mutex::new(Held::opened(initial, sequence)))));
        Locks {
            accounts: RwLock::new(opened.collect()),
            ids: ShardedIds::new(limits.ids),
            log: Mutex::new(Log::new(accounts.len() as u64, limits.log)),
        }
    }

    fn read(&self, account: &AccountId) -> Option<AccountState> {
        let held = *self.find(account)?.lock();
        Some(held.state(account))
    }

    #[inline]
    fn submit(&self, make: &dyn Fn() -> Request) -> Result<Answer, InvalidRequest> {
        let request = make();
        let mut ids = self.ids.lock(&request);
        if let Some(known) = ids.get(&request) {
            return known.replay(&request);
        }
        let (first, second) = accounts_of(&only(&request).operation);
        let (first_lock, second_lock) = (self.find(first), second.and_then(|second| self.find(second)));
        // In ascending id order, whichever way the money flows.
        let (mut first_held, mut second_held);
        if second.is_none_or(|second| first < second) {
            first_held = first_lock.as_ref().map(|lock| lock.lock());
            second_held = second_lock.as_ref().map(|lock| lock.lock());
        } else {
            second_held = second_lock.as_ref().map(|lock| lock.lock());
            first_held = first_lock.as_ref().map(|lock| lock.lock());
        }
        let (entry, dropped) = self.log.lock().append(request, |sequence, operation| match operation.kind() {
            Kind::Transfer { from, to, amount } => {
                let held = [&first_held, &second_held].map(|account| account.as_ref().map(|held| held.balance));
                let after = moved(from, to, held, *amount)?;
                let (Some(source), Some(target)) = (&mut first_held, &mut second_held) else {
                    unreachable!("both hold something")
                };
                source.set(after[0], sequence);
                target.set(after[1], sequence);
                Ok(smallvec![source.state(from), target.state(to)])
            }
            Kind::Update { account: id, delta } => {
                let account = first_held.as_mut().map(|held| {
                    (held.balance, |balance| {
                        held.set(balance, sequence);
                        held.state(id)
                    })
                });
                update(id, account, *delta)
            }
            _ => Err(Refusal::Group { index: 0 }),
        });
        drop((first_held, second_held));
        let forgotten = ids.insert(&entry);
        drop(ids);
        let answer = entry.answer(false);
        drop((dropped, forgotten));
        Ok(answer)
    }

    fn snapshot(&self) -> (usize, i128) {
        // Nothing less than all locks at once shows one moment.
        let accounts = self.accounts.write();
        let mut order: Vec<_> = accounts.iter().collect();
        order.sort_unstable_by_key(|(id, _)| *id);
        let held: Vec<_> = order.iter().map(|(_, lock)| lock.lock()).collect();
        let copy: Vec<_> = order.iter().zip(&held).map(|((id, _), held)| held.state(id)).collect();
        drop(held);
        (copy.len(), copy.iter().map(|state| i128::from(state.balance)).sum())
    }
}
