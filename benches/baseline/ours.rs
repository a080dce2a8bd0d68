//! The ledger itself.

use std::sync::atomic::{AtomicU64, Ordering};

use equipoise::{AccountId, AccountState, InvalidRequest, Ledger, Request, SubmitError};

use super::{Answer, Bank, Limits};

pub struct Ours {
    pub ledger: Ledger,
    pushed_back: AtomicU64,
}

impl Bank for Ours {
    const NAME: &'static str = "ours";

    fn build(accounts: &[AccountId], initial: i64, limits: Limits) -> Self {
        // The table holds ids past its bound until the next sweep.
        let builder = Ledger::builder().reserve(accounts.len()).id_capacity(limits.ids);
        // Without a log there is no flusher either.
        let ledger = if limits.log == 0 { builder.build() } else { builder.history(limits.log).build() };
        for account in accounts {
            ledger.create(account, initial).expect("a new account");
        }
        ledger.wait_durable(ledger.sequence()).expect("an open ledger");
        Ours { ledger, pushed_back: AtomicU64::new(0) }
    }

    fn read(&self, account: &AccountId) -> Option<AccountState> {
        self.ledger.balance(account)
    }

    #[inline]
    fn submit(&self, make: &dyn Fn() -> Request) -> Result<Answer, InvalidRequest> {
        loop {
            match self.ledger.submit(make()) {
                Ok(outcome) => {
                    let (sequence, replayed) = (outcome.sequence(), outcome.replayed());
                    return Ok(Answer { sequence, replayed, result: outcome.result() });
                }
                Err(SubmitError::Invalid(invalid)) => return Err(invalid),
                Err(SubmitError::Exhausted(_)) => {
                    self.pushed_back.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn settle(&self) {
        self.ledger.wait_durable(self.ledger.sequence()).expect("an open ledger");
    }

    fn pushed_back(&self) -> u64 {
        self.pushed_back.load(Ordering::Relaxed)
    }

    fn snapshot(&self) -> (usize, i128) {
        let snapshot = self.ledger.snapshot().expect("a free slot");
        snapshot.iter().fold((0, 0), |(count, sum), state| (count + 1, sum + i128::from(state.balance)))
    }
}
