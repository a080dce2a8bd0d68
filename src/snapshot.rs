//! Snapshots: every balance at one commit sequence, without stopping anybody.

use std::sync::Arc;

use arc_swap::ArcSwapWeak;

use crate::account::{AccountId, AccountState};
use crate::error::Exhausted;
use crate::kernel::{self, Registered, pin};
use crate::ledger::{Ledger, state_of};

/// How many states are copied under one epoch pin; the caller's code never runs pinned.
const STRIDE: usize = 64;

/// Every account at one commit sequence. Clones share it; dropping the last releases the old versions. Keeps the ledger
/// open.
#[derive(Clone)]
pub struct Snapshot {
    open: Arc<Open>,
}

/// A registered sequence of a ledger.
pub(crate) struct Open {
    ledger: Ledger,
    registered: Option<Registered>,
    sequence: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(registered) = self.registered.take() {
            self.ledger.core().kernel.close_snapshot(registered);
        }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Shares the open snapshot in `latest` if it is at `sequence`; registers another one otherwise.
    pub(crate) fn open(
        ledger: &Ledger,
        latest: &ArcSwapWeak<Open>,
        sequence: u64,
        register: impl FnOnce() -> Option<Registered>,
    ) -> Result<Self, Exhausted> {
        if let Some(open) = latest.load().upgrade()
            && open.sequence == sequence
        {
            return Ok(Snapshot { open });
        }
        let registered = register().ok_or(Exhausted::Snapshots { limit: kernel::MAX_SNAPSHOTS })?;
        let sequence = registered.sequence;
        let open = Arc::new(Open { ledger: ledger.clone(), registered: Some(registered), sequence });
        latest.store(Arc::downgrade(&open));
        Ok(Snapshot { open })
    }

    /// The commit sequence that it shows: everything up to it, and nothing later.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.open.sequence
    }

    /// The state of `account` at it; None when nobody had opened it.
    #[must_use]
    pub fn get(&self, account: &AccountId) -> Option<AccountState> {
        let guard = &pin();
        let found = self.open.ledger.core().directory.find(account, guard)?;
        self.read(found, guard)
    }

    /// Up to `limit` accounts whose id begins with `prefix`, in id order, after the account `after`.
    #[must_use]
    pub fn page(&self, prefix: &str, after: Option<&AccountId>, limit: usize) -> Vec<AccountState> {
        let mut page = Vec::new();
        let mut after = after.cloned();
        while page.len() < limit {
            let guard = &pin();
            let directory = &self.open.ledger.core().directory;
            let mut walked = 0;
            let mut last = None;
            for account in directory.walk(prefix, after.as_ref().map(AccountId::as_str), STRIDE, guard) {
                walked += 1;
                last = Some(account.key());
                page.extend(self.read(account, guard));
                if page.len() == limit {
                    break;
                }
            }
            after = last.cloned();
            if walked < STRIDE {
                break;
            }
        }
        page
    }

    /// Every account, in id order.
    pub fn iter(&self) -> impl Iterator<Item = AccountState> + '_ {
        let mut page = Vec::new().into_iter();
        let mut after: Option<AccountId> = None;
        std::iter::from_fn(move || {
            if page.as_slice().is_empty() {
                page = self.page("", after.as_ref(), STRIDE).into_iter();
                after = page.as_slice().last().map(|state: &AccountState| state.id.clone()).or(after.take());
            }
            page.next()
        })
    }

    /// The sum of all balances, smallest units.
    #[must_use]
    pub fn total(&self) -> i128 {
        self.fold(0, |total, state| total + i128::from(state.amount))
    }

    /// How many accounts were open.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it counts by a scan; emptiness deserves no scan of its own")]
    pub fn len(&self) -> usize {
        self.fold(0, |count, state| count + usize::from(state.version > 0))
    }

    /// Folds over all accounts, in no order. `step` runs pinned, so it must be our own code.
    fn fold<T>(&self, start: T, step: impl Fn(T, crate::account::Balance) -> T) -> T {
        let mut guard = pin();
        let mut folded = start;
        for (count, account) in self.open.ledger.core().directory.iter().enumerate() {
            if count % (16 * STRIDE) == 0 {
                guard.repin();
            }
            if let Ok((_, state)) = account.read_at(self.sequence(), &guard) {
                folded = step(folded, state);
            }
        }
        folded
    }

    fn read(&self, account: &kernel::Account<crate::account::Balance>, guard: &kernel::Guard) -> Option<AccountState> {
        // A registered sequence never meets a trimmed version.
        let found = account.read_at(self.sequence(), guard);
        debug_assert!(found.is_ok(), "a registered snapshot was trimmed");
        state_of(account.key(), found.ok()?)
    }
}
