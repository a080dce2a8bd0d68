//! Handles on accounts, for callers that touch the same ones again and again.

use std::sync::Arc;

use crate::account::{AccountId, AccountState, Balance};
use crate::core::Core;
use crate::error::Error;
use crate::kernel::pin;
use crate::kernel::slab::SlabIndex;
use crate::ledger::Ledger;
use crate::request::{Operation, Request};

/// An open account of a ledger, looked up once. Keeps the ledger open.
#[derive(Clone)]
pub struct Account {
    ledger: Ledger,
    id: AccountId,
    index: SlabIndex,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Account").field(&self.read()).finish()
    }
}

impl Account {
    pub(crate) fn new(ledger: Ledger, id: AccountId, index: SlabIndex) -> Self {
        Account { ledger, id, index }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &AccountId {
        &self.id
    }

    /// Its newest committed state. Never waits for another thread.
    #[must_use]
    pub fn read(&self) -> AccountState {
        let guard = &pin();
        let found = self.ledger.core().directory.at(self.index).map(|account| account.read(guard));
        let (sequence, state) = found.unwrap_or((0, crate::kernel::State::ABSENT));
        let Balance { amount: balance, version } = state;
        AccountState { id: self.id.clone(), balance, version, sequence }
    }

    /// The seqlock's word: twice the sequence of the last committed change, plus one while a writer holds the account.
    #[must_use]
    pub fn word(&self) -> u64 {
        self.ledger.core().directory.at(self.index).map_or(0, |account| account.word(&pin()))
    }

    /// Adds `delta`; the state after it.
    ///
    /// # Errors
    /// [`Error::Refused`]: the balance would leave `0..=i64::MAX`. [`Error::NotDecided`] as for [`Ledger::submit`].
    pub fn update(&self, delta: i64) -> Result<AccountState, Error> {
        let core = self.ledger.core();
        let request = Request::single(Operation::update(self.id.clone(), delta), None);
        let decided = core.submit_to(request, self.ledger.next(), |_, _| core.directory.at(self.index));
        let mut accounts = self.ledger.answer(decided)?.result()?;
        Ok(accounts.swap_remove(0))
    }

    /// The kernel's account, if it is one of `core`'s.
    pub(crate) fn of<'c>(&self, core: &'c Arc<Core>) -> Option<&'c crate::kernel::Account<Balance>> {
        if !Arc::ptr_eq(self.ledger.core(), core) {
            return None;
        }
        core.directory.at(self.index)
    }
}
