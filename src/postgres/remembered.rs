//! What an instance remembers of the database: enough to decide most batches without asking.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::batch::{AccountChange, Changes, Found, Used, UsedId};
use super::decide::{Ask, Known};
use super::memory::Memory;
use crate::account::{AccountId, Balance, TransactionId};
use crate::outcome::Record;

/// After a batch that met a duplicate, this many batches look up their ids before they are written. Others find
/// duplicates out when they are written, which is cheaper while there are none.
const WARY: u32 = 64;

/// Accounts as they were last seen, ids that were used, and whether to expect duplicates.
pub(super) struct Remembered {
    accounts: Memory<AccountId, Balance>,
    ids: Memory<TransactionId, Used>,
    id_age: Duration,
    wary: u32,
}

/// What is to be looked up, sorted.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) accounts: Vec<AccountId>,
    pub(super) ids: Vec<TransactionId>,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.ids.is_empty()
    }
}

impl Remembered {
    pub(super) fn new(accounts: usize, ids: usize, id_age: Duration) -> Self {
        Remembered { accounts: Memory::new(accounts), ids: Memory::new(ids), id_age, wary: WARY }
    }

    /// Somebody used an id that was not remembered.
    pub(super) fn be_wary(&mut self) {
        self.wary = WARY;
    }

    /// Whether a batch is to look its ids up.
    pub(super) fn is_wary(&self) -> bool {
        self.wary > 0
    }

    /// A batch begins.
    pub(super) fn count(&mut self) {
        self.wary = self.wary.saturating_sub(1);
    }

    /// What is remembered for the asks, on top of `before` if that is given, and what has to be looked up: with `ids`
    /// also the ids that are not remembered; with `lock` every account.
    pub(super) fn know(&mut self, asks: &[Ask], before: Option<&Changes>, lock: bool, ids: bool) -> (Known, Wanted) {
        let (mut known, mut wanted) = (Known::default(), Wanted::default());
        let mut accounts = HashSet::new();
        let oldest = self.oldest();
        for member in asks.iter().flat_map(|ask| ask.request.members()) {
            if let Some(id) = &member.id {
                if let Some(used) = self.ids.get(id).filter(|used| used.record.time >= oldest) {
                    known.recall(id, used);
                    continue;
                }
                if ids {
                    wanted.ids.push(id.clone());
                }
            }
            for account in member.operation.accounts() {
                if known.accounts.contains_key(account) || accounts.contains(account) {
                    continue;
                }
                let state = before.and_then(|changes| changes.after(account));
                match state.or_else(|| self.accounts.get(account)).filter(|_| !lock) {
                    Some(state) => drop(known.accounts.insert(account.clone(), state)),
                    None => drop(accounts.insert(account.clone())),
                }
            }
        }
        wanted.ids.sort_unstable();
        wanted.ids.dedup();
        wanted.accounts.extend(accounts);
        wanted.accounts.sort_unstable();
        (known, wanted)
    }

    /// The time of the oldest use of an id that is still believed.
    fn oldest(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.saturating_sub(self.id_age).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds the ids that are remembered by now.
    pub(super) fn recall(&mut self, known: &mut Known, asks: &[Ask]) {
        let ids = asks.iter().flat_map(|ask| ask.request.members()).filter_map(|member| member.id.as_ref());
        let oldest = self.oldest();
        for id in ids {
            if let Some(used) = self.ids.get(id).filter(|used| used.record.time >= oldest) {
                known.recall(id, used);
            }
        }
    }

    /// Adds what was looked up to what is known, and remembers it.
    pub(super) fn learn(&mut self, known: &mut Known, found: Found) {
        known.sequence = found.sequence;
        for (account, state) in found.accounts {
            self.accounts.insert(account.clone(), state);
            known.accounts.insert(account, state);
        }
        for (id, used) in found.ids {
            self.be_wary();
            self.ids.insert(id.clone(), used.clone());
            known.ids.insert(id, used);
        }
    }

    /// Others changed some of these accounts.
    pub(super) fn forget(&mut self, accounts: &[AccountChange]) {
        for AccountChange { id, .. } in accounts {
            self.accounts.remove(id);
        }
    }

    /// The database may be back at an earlier state.
    pub(super) fn forget_all(&mut self) {
        self.accounts.clear();
        self.ids.clear();
        self.be_wary();
    }

    /// What was committed, with its records as they are now.
    pub(super) fn keep(&mut self, accounts: Vec<AccountChange>, ids: Vec<UsedId>, records: &[Arc<Record>]) {
        for AccountChange { id, after, .. } in accounts {
            self.accounts.insert(id, after);
        }
        for used in ids {
            if let Some(record) = records.get(used.place) {
                self.ids.insert(used.id, Used { record: Arc::clone(record), member: used.member });
            }
        }
    }
}

impl Known {
    /// An id that is remembered as used.
    fn recall(&mut self, id: &TransactionId, used: Used) {
        self.recalled.push((id.clone(), used.record.sequence));
        self.ids.insert(id.clone(), used);
    }
}
