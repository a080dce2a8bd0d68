//! What the calls need of whatever keeps the accounts.

#[cfg(feature = "postgres")]
use std::sync::Arc;

#[cfg(feature = "postgres")]
use crate::postgres::{Listing, PgStore, Queued};
use crate::{
    AccountId, AccountState, AnswerGone, Closed, HistoryError, HistoryGone, Ledger, Outcome, Request, Snapshot,
    SubmitError, TransactionId,
};

use super::readers::Readers;
use super::status::Failure;

/// A page of the history ends once its entries take this many bytes on disk.
const BYTES: usize = 64 * 1024;
/// The most entries in a page from PostgreSQL, which knows no such sizes.
#[cfg(feature = "postgres")]
const ROWS: usize = 100;
/// Who may read the history far from its end at once; the others wait for their turn.
static FAR: Readers = Readers::new(4);
/// The same at its end, on disk.
static AT_END: Readers = Readers::new(4);

/// Where the accounts are.
#[derive(Clone, Debug)]
pub enum Books {
    /// In this process, and on its disk if it has one.
    Ledger(Ledger),
    /// In PostgreSQL, where other processes change them too: every read asks it.
    #[cfg(feature = "postgres")]
    Postgres(Arc<PgStore>),
}

impl From<Ledger> for Books {
    fn from(ledger: Ledger) -> Self {
        Books::Ledger(ledger)
    }
}

impl Books {
    /// Decides a request, and returns once the outcome can no longer be lost. A call that is cancelled while it waits
    /// may have been decided all the same: its id tells.
    pub(super) async fn decide(&self, request: Request) -> Result<Outcome, Failure> {
        match self {
            Books::Ledger(ledger) => {
                let mut observed = 0;
                let decided = told(ledger, ledger.submit_awaited(request), &mut observed);
                reached(ledger, observed).await?;
                decided
            }
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => Ok(store.submit(request).await?),
        }
    }

    /// The newest state that can no longer be lost; None when nobody opened the account. Never waits for a writer.
    pub(super) async fn balance(&self, account: &AccountId) -> Result<Option<AccountState>, Failure> {
        match self {
            Books::Ledger(ledger) => Ok(ledger.balance_durable(account)),
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => Ok(store.balance(account).await?),
        }
    }

    /// What was decided for `id`.
    pub(super) async fn transaction(&self, id: &TransactionId) -> Result<Option<Outcome>, Failure> {
        match self {
            Books::Ledger(ledger) => {
                let found = ledger.transaction(id).map_err(|error| match error {
                    HistoryError::Gone(HistoryGone { oldest }) => AnswerGone { id: id.clone(), oldest }.into(),
                    error => Failure::from(error),
                })?;
                if let Some(outcome) = &found {
                    reached(ledger, outcome.sequence()).await?;
                }
                Ok(found)
            }
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => Ok(store.transaction(id).await?),
        }
    }

    /// All accounts whose id begins with `prefix`, at one sequence of which nothing can be lost any more.
    pub(super) async fn snapshot(&self, prefix: &str) -> Result<Pages, Failure> {
        match self {
            Books::Ledger(ledger) => {
                Ok(Pages::Ledger { snapshot: ledger.snapshot_durable()?, prefix: prefix.to_owned() })
            }
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => Ok(Pages::Postgres(Arc::new(store.list(prefix).await?))),
        }
    }

    /// The next durable journal entries from sequence `next` on, up to `limit`; waits for the first of them. `told` is
    /// the time of the entry before, if the caller was told that entry.
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "only PostgreSQL can be put back"))]
    pub(super) async fn follow(&self, next: u64, told: Option<u64>, limit: usize) -> Result<Vec<Outcome>, Failure> {
        match self {
            // A ledger is never put back while it is open.
            Books::Ledger(ledger) => loop {
                let entries = history(ledger, next, limit).await?;
                if !entries.is_empty() {
                    return Ok(entries);
                }
                reached(ledger, next).await?;
            },
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => Ok(store.follow(next, told, limit.min(ROWS)).await?),
        }
    }

    /// Up to `limit` durable journal entries from sequence `from` on (0: the oldest kept); none only at the journal's
    /// end. They are read where blocking disturbs nobody, unless they are in this process's memory and few.
    pub(super) async fn history(&self, from: u64, limit: usize) -> Result<Vec<Outcome>, Failure> {
        match self {
            Books::Ledger(ledger) => history(ledger, from, limit).await,
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => Ok(store.history(from, limit.min(ROWS)).await?),
        }
    }

    /// The oldest sequence that [`Self::history`] has, or the next one to come.
    pub(super) async fn oldest(&self) -> Result<u64, Failure> {
        match self {
            Books::Ledger(ledger) => match ledger.history(0, 1) {
                Ok(oldest) => Ok(oldest.first().map_or_else(|| ledger.durable() + 1, Outcome::sequence)),
                Err(HistoryError::Gone(gone)) => Ok(gone.oldest),
                Err(error) => Err(error.into()),
            },
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => Ok(store.history(0, 1).await?.first().map_or(1, Outcome::sequence)),
        }
    }

    /// Why the accounts cannot be changed: their journal failed, or PostgreSQL does not answer at present; None when
    /// they can.
    #[must_use]
    pub fn unavailable(&self) -> Option<String> {
        match self {
            Books::Ledger(ledger) => ledger.failure().map(|what| format!("the journal failed: {what}")),
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => store.unavailable(),
        }
    }

    /// Why no requests are taken any more.
    pub(super) fn why_closed(&self) -> Failure {
        match self {
            Books::Ledger(ledger) => Failure::closed(ledger),
            #[cfg(feature = "postgres")]
            Books::Postgres(_) => Failure::Closed,
        }
    }

    /// Resolves when the accounts were closed, or their journal failed.
    pub(super) async fn closed(&self) {
        match self {
            Books::Ledger(ledger) => ledger.closed().await,
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => store.closed().await,
        }
    }

    /// Why the journal failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        match self {
            Books::Ledger(ledger) => ledger.failure(),
            #[cfg(feature = "postgres")]
            Books::Postgres(_) => None,
        }
    }

    /// Takes no more requests, makes the decided ones durable, and drops everything, which may take as long as the disk
    /// does. Returns why the journal failed, if it did.
    pub(super) async fn close(self) -> Option<String> {
        match self {
            Books::Ledger(ledger) => {
                let closing = tokio::task::spawn_blocking(move || {
                    ledger.close();
                    ledger.failure()
                });
                closing.await.unwrap_or_default()
            }
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => {
                store.close().await;
                None
            }
        }
    }
}

/// The ledger's answer as the call gets it. Raises `observed` to the highest sequence that the answer depends on.
fn told(ledger: &Ledger, result: Result<Outcome, SubmitError>, observed: &mut u64) -> Result<Outcome, Failure> {
    match result {
        Ok(outcome) => {
            *observed = outcome.sequence().max(*observed);
            Ok(outcome)
        }
        Err(error) => {
            if let SubmitError::Invalid(invalid) = &error
                && invalid.rests_on_earlier_use()
            {
                *observed = ledger.sequence();
            }
            Err(Failure::undecided(error, ledger))
        }
    }
}

async fn reached(ledger: &Ledger, sequence: u64) -> Result<(), Failure> {
    ledger.durable_at(sequence).await.map_err(|Closed| Failure::closed(ledger))
}

async fn history(ledger: &Ledger, from: u64, limit: usize) -> Result<Vec<Outcome>, Failure> {
    let at_end = ledger.durable().saturating_sub(from) < limit as u64;
    if at_end && !ledger.history_blocks() {
        return Ok(ledger.history_within(from, limit, BYTES)?);
    }
    let (readers, ledger) = (if at_end { &AT_END } else { &FAR }, ledger.clone());
    match readers.run(move || ledger.history_within(from, limit, BYTES)).await {
        Some(entries) => Ok(entries?),
        None => Err(Failure::Internal("the journal's reader ended")),
    }
}

/// How one of several requests ended.
pub(super) type Decided = Result<Outcome, Box<Failure>>;

/// Requests on their way.
pub(super) enum Begun {
    /// Decided requests, up to a sequence that may not be durable yet, and the outcomes that were not taken.
    Ledger { ledger: Ledger, outcomes: Vec<Decided>, observed: u64 },
    /// Requests in the committer's queue, behind those whose outcomes are known.
    #[cfg(feature = "postgres")]
    Postgres { store: Arc<PgStore>, queued: Vec<Result<Queued, Box<Failure>>>, outcomes: Vec<Decided> },
}

impl Begun {
    pub(super) fn nothing(books: &Books) -> Begun {
        match books {
            Books::Ledger(ledger) => Begun::Ledger { ledger: ledger.clone(), outcomes: Vec::new(), observed: 0 },
            #[cfg(feature = "postgres")]
            Books::Postgres(store) => {
                Begun::Postgres { store: store.clone(), queued: Vec::new(), outcomes: Vec::new() }
            }
        }
    }

    /// Decides requests in their order, each for itself, and before any that come later.
    pub(super) async fn add(&mut self, requests: impl Iterator<Item = Request>) {
        match self {
            Begun::Ledger { ledger, outcomes, observed } => {
                let decided = ledger.submit_all(requests).into_iter();
                outcomes.extend(decided.map(|result| told(ledger, result, observed).map_err(Box::new)));
            }
            #[cfg(feature = "postgres")]
            Begun::Postgres { store, queued, .. } => {
                for request in requests {
                    queued.push(store.enqueue(request).await.map_err(|error| Box::new(error.into())));
                }
            }
        }
    }

    /// Takes the outcomes known so far, in order. Until [`Self::finish`] returns they may still be lost.
    pub(super) fn decided(&mut self) -> Vec<Decided> {
        match self {
            Begun::Ledger { outcomes, .. } => std::mem::take(outcomes),
            #[cfg(feature = "postgres")]
            Begun::Postgres { .. } => Vec::new(),
        }
    }

    /// Returns the outcomes that were not taken before, once none of all can be lost any more. Cancel safe; not to be
    /// called again once it has returned.
    ///
    /// # Errors
    /// The accounts were closed before everything was durable.
    pub(super) async fn finish(&mut self) -> Result<Vec<Decided>, Failure> {
        match self {
            Begun::Ledger { ledger, outcomes, observed } => {
                reached(ledger, *observed).await?;
                Ok(std::mem::take(outcomes))
            }
            #[cfg(feature = "postgres")]
            Begun::Postgres { queued, outcomes, .. } => {
                while let Some(next) = queued.get_mut(outcomes.len()) {
                    let outcome = match next {
                        Ok(queued) => queued.outcome().await.map_err(|error| Box::new(error.into())),
                        Err(failure) => Err(failure.clone()),
                    };
                    outcomes.push(outcome);
                }
                Ok(std::mem::take(outcomes))
            }
        }
    }
}

/// All accounts with a prefix at one sequence, page by page.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    Ledger {
        snapshot: Snapshot,
        prefix: String,
    },
    #[cfg(feature = "postgres")]
    Postgres(Arc<Listing>),
}

impl Pages {
    pub(super) fn sequence(&self) -> u64 {
        match self {
            Pages::Ledger { snapshot, .. } => snapshot.sequence(),
            #[cfg(feature = "postgres")]
            Pages::Postgres(listing) => listing.sequence(),
        }
    }

    /// The next accounts in id order, behind those in `told`; at most `limit`.
    pub(super) async fn page(&self, told: Option<&Told>, limit: usize) -> Result<Vec<AccountState>, Failure> {
        match self {
            Pages::Ledger { snapshot, prefix } => Ok(snapshot.page(prefix, told.map(|told| &told.last), limit)),
            #[cfg(feature = "postgres")]
            Pages::Postgres(listing) => Ok(listing.page(told.map_or(0, |told| told.count), limit).await?),
        }
    }
}

/// How far a walk has come.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    /// How many accounts were told.
    pub(super) count: u64,
    /// The last one of them.
    pub(super) last: AccountId,
}

impl Told {
    /// `told` with `page` added; None if nothing was told yet.
    pub(super) fn and(told: Option<&Told>, page: &[AccountState]) -> Option<Told> {
        let count = told.map_or(0, |told| told.count).saturating_add(page.len() as u64);
        page.last().map(|last| Told { count, last: last.id.clone() }).or_else(|| told.cloned())
    }
}
