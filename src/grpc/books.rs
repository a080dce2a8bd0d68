//! What the calls need of whatever keeps the accounts.

use crate::{
    AccountId, AccountState, Closed, HistoryError, InvalidRequest, Ledger, Outcome, Request, Snapshot, SubmitError,
    TransactionId,
};

use super::status::Failure;

/// Requests decided before others get a turn on this thread.
const TURN: usize = 256;

/// Where the accounts are.
#[derive(Clone, Debug)]
pub enum Books {
    /// In this process, and on its disk if it has one.
    Ledger(Ledger),
}

impl From<Ledger> for Books {
    fn from(ledger: Ledger) -> Self {
        Books::Ledger(ledger)
    }
}

impl Books {
    /// Decides a request, in one go; returns when the outcome can no longer be lost. A call that is cancelled while it waits
    /// has been decided all the same: its id tells.
    pub(super) async fn decide(&self, request: Request) -> Result<Outcome, Failure> {
        let Books::Ledger(ledger) = self;
        let mut observed = 0;
        let decided = submit(ledger, request, &mut observed);
        reached(ledger, observed).await?;
        decided
    }

    /// Decides requests in their order, each for itself, and before any that come later. [`Self::finish`] tells the outcomes.
    pub(super) async fn begin(&self, requests: Vec<Request>) -> Begun {
        let Books::Ledger(ledger) = self;
        let (mut outcomes, mut observed) = (Vec::with_capacity(requests.len()), 0);
        for request in requests {
            outcomes.push(submit(ledger, request, &mut observed));
            // Between requests only: nothing is ever half decided.
            if outcomes.len().is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
        Begun::Ledger { outcomes, observed }
    }

    /// The outcomes, when they can no longer be lost. May be dropped and called again before.
    ///
    /// # Errors
    /// That the accounts were closed before all of it was durable.
    pub(super) async fn finish(&self, begun: &mut Begun) -> Result<Vec<Result<Outcome, Failure>>, Failure> {
        let Books::Ledger(ledger) = self;
        let Begun::Ledger { outcomes, observed } = begun;
        reached(ledger, *observed).await?;
        Ok(std::mem::take(outcomes))
    }

    /// The newest state that can no longer be lost; None when nobody opened the account. Never waits for a writer.
    pub(super) async fn balance(&self, account: &AccountId) -> Result<Option<AccountState>, Failure> {
        let Books::Ledger(ledger) = self;
        Ok(ledger.balance_durable(account))
    }

    /// What was decided for `id`.
    pub(super) async fn transaction(&self, id: &TransactionId) -> Result<Option<Outcome>, Failure> {
        let Books::Ledger(ledger) = self;
        let found = ledger.transaction(id)?;
        if let Some(outcome) = &found {
            reached(ledger, outcome.sequence()).await?;
        }
        Ok(found)
    }

    /// All accounts at the durable sequence.
    pub(super) async fn snapshot(&self) -> Result<Pages, Failure> {
        let Books::Ledger(ledger) = self;
        Ok(Pages::Ledger(ledger.snapshot_durable()?))
    }

    /// Up to `limit` durable entries of the journal from sequence `from` on (0: the oldest kept). Close to the end they are in
    /// memory; where not, they are read where waiting stops nobody.
    pub(super) async fn history(&self, from: u64, limit: usize) -> Result<Vec<Outcome>, Failure> {
        let Books::Ledger(ledger) = self;
        if ledger.durable().saturating_sub(from) < limit as u64 {
            return Ok(ledger.history(from, limit)?);
        }
        let ledger = ledger.clone();
        match tokio::task::spawn_blocking(move || ledger.history(from, limit)).await {
            Ok(entries) => Ok(entries?),
            Err(_) => Err(Failure::Internal("the journal's reader ended")),
        }
    }

    /// The oldest sequence that [`Self::history`] has, or the next one to come.
    pub(super) async fn oldest(&self) -> Result<u64, Failure> {
        let Books::Ledger(ledger) = self;
        match ledger.history(0, 1) {
            Ok(oldest) => Ok(oldest.first().map_or_else(|| ledger.durable() + 1, Outcome::sequence)),
            Err(HistoryError::Gone(gone)) => Ok(gone.oldest),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the journal holds `sequence` for good.
    pub(super) async fn reached(&self, sequence: u64) -> Result<(), Failure> {
        let Books::Ledger(ledger) = self;
        reached(ledger, sequence).await
    }

    /// Why no requests are taken any more.
    pub(super) fn why_closed(&self) -> Failure {
        let Books::Ledger(ledger) = self;
        Failure::closed(ledger)
    }

    /// Resolves when the accounts were closed, or their journal failed.
    pub(super) async fn closed(&self) {
        let Books::Ledger(ledger) = self;
        ledger.closed().await;
    }

    /// Why the journal failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        let Books::Ledger(ledger) = self;
        ledger.failure()
    }

    /// Takes no more requests and makes durable what was decided; takes a disk's time.
    pub(super) fn close(&self) {
        let Books::Ledger(ledger) = self;
        ledger.close();
    }
}

/// Decides `request`; `observed` grows to the highest sequence that the answer tells of.
fn submit(ledger: &Ledger, request: Request, observed: &mut u64) -> Result<Outcome, Failure> {
    match ledger.submit(request) {
        Ok(outcome) => {
            *observed = outcome.sequence().max(*observed);
            Ok(outcome)
        }
        Err(error) => {
            if let SubmitError::Invalid(InvalidRequest::IdReused { .. } | InvalidRequest::IdOfAnother { .. }) = error {
                // The id's first use may not be durable yet.
                *observed = ledger.sequence();
            }
            Err(Failure::undecided(error, ledger))
        }
    }
}

async fn reached(ledger: &Ledger, sequence: u64) -> Result<(), Failure> {
    ledger.durable_at(sequence).await.map_err(|Closed| Failure::closed(ledger))
}

/// Requests on their way.
pub(super) enum Begun {
    /// Decided, up to a sequence that may not be durable yet.
    Ledger { outcomes: Vec<Result<Outcome, Failure>>, observed: u64 },
}

/// All accounts at one sequence, page by page.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    Ledger(Snapshot),
}

impl Pages {
    pub(super) fn sequence(&self) -> u64 {
        let Pages::Ledger(snapshot) = self;
        snapshot.sequence()
    }

    /// Up to `limit` accounts whose id begins with `prefix`, in id order, after `after`.
    pub(super) async fn page(
        &self,
        prefix: &str,
        after: Option<&AccountId>,
        limit: usize,
    ) -> Result<Vec<AccountState>, Failure> {
        let Pages::Ledger(snapshot) = self;
        Ok(snapshot.page(prefix, after, limit))
    }
}
