//! One mutex round everything.

use std::collections::HashMap;

use equipoise::{AccountId, AccountState, InvalidRequest, Kind, MemberResult, Operation, Request};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::smallvec;

use super::{Answer, Bank, Held, Ids, Limits, Log, accounts_of, moved, update};

pub struct Mutexed {
    inner: Mutex<Inner>,
}

type Accounts = HashMap<AccountId, Held, RandomState>;

struct Inner {
    accounts: Accounts,
    ids: Ids,
    log: Log,
}

impl Bank for Mutexed {
    const NAME: &'static str = "mutex";

    fn build(accounts: &[AccountId], initial: i64, limits: Limits) -> Self {
        let opened = accounts.iter().zip(1..).map(|(id, sequence)| (id.clone(), Held::opened(initial, sequence)));
        let inner = Inner {
            accounts: opened.collect(),
            ids: Ids::new(limits.ids),
            log: Log::new(accounts.len() as u64, limits.log),
        };
        Mutexed { inner: Mutex::new(inner) }
    }

    fn read(&self, account: &AccountId) -> Option<AccountState> {
        self.inner.lock().accounts.get(account).map(|held| held.state(account))
    }

    #[inline]
    fn submit(&self, make: &dyn Fn() -> Request) -> Result<Answer, InvalidRequest> {
        let request = make();
        let mut inner = self.inner.lock();
        let Inner { accounts, ids, log } = &mut *inner;
        if let Some(known) = ids.get(&request) {
            return known.replay(&request);
        }
        let (entry, dropped) = log.append(request, |sequence, operation| decide(accounts, sequence, operation));
        let forgotten = ids.insert(&entry);
        let answer = entry.answer(false);
        drop(inner);
        drop((dropped, forgotten));
        Ok(answer)
    }

    fn snapshot(&self) -> (usize, i128) {
        let copy = self.inner.lock().accounts.clone();
        (copy.len(), copy.values().map(|held| i128::from(held.balance)).sum())
    }
}

fn decide(accounts: &mut Accounts, sequence: u64, operation: &Operation) -> MemberResult {
    match (operation.kind(), accounts_of(operation)) {
        (Kind::Transfer { amount, .. }, (from, Some(to))) => {
            let [source, target] = accounts.get_disjoint_mut([from, to]);
            let held = [&source, &target].map(|account| account.as_ref().map(|held| held.balance));
            let after = moved(from, to, held, *amount)?;
            let (Some(source), Some(target)) = (source, target) else { unreachable!("both hold something") };
            source.set(after[0], sequence);
            target.set(after[1], sequence);
            Ok(smallvec![source.state(from), target.state(to)])
        }
        (Kind::Update { delta, .. }, (id, _)) => {
            let account = accounts.get_mut(id).map(|held| {
                (held.balance, |balance| {
                    held.set(balance, sequence);
                    held.state(id)
                })
            });
            update(id, account, *delta)
        }
        _ => unreachable!("the benches update and transfer"),
    }
}
