//! `PgStore`: what the doors see.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::committer::{Bounds, Committer};
use super::error::PgError;
use super::history::History;
use super::link::Connector;
use super::listing::{Listing, Listings};
use super::migrate::migrate;
use super::prune::{Metrics, Pruning};
use super::read::Reader;
use super::session::Session;
use super::settings::Settings;
use super::watching::Watching;
use super::work::{Answer, Job, Work};
use crate::inventory::{Applied, Position, Run, Store, StoreError, StoredDeadLetter};
use crate::outcome::Record;
use crate::request::Kind;
use crate::{AccountId, AccountState, Outcome, Request, TransactionId};

/// How many calls may wait for the committer; more wait for room in its queue.
const QUEUE: usize = 4_096;

/// How many events and operations have to wait to be decided while others are written.
const AHEAD: usize = 256;

/// How long [`PgStore::connect`] waits between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// The accounts, their journal and the offsets of the events, in PostgreSQL. Any number of instances may use one
/// database.
pub struct PgStore {
    queue: mpsc::Sender<Job>,
    reader: Reader,
    history: History,
    listings: Listings,
    committer: Mutex<Option<JoinHandle<()>>>,
    metrics: Metrics,
    pruning: Mutex<Option<Pruning>>,
    watching: Watching,
}

impl std::fmt::Debug for PgStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgStore").finish_non_exhaustive()
    }
}

impl PgStore {
    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// [`PgError::Settings`], [`PgError::SchemaTooNew`]; [`PgError::Unavailable`] when the database is not up within
    /// [`Settings::wait_for_start`]; [`PgError::Failed`].
    pub async fn connect(settings: &Settings) -> Result<Self, PgError> {
        let connector = Connector::new(settings)?;
        let latest = Instant::now() + settings.wait_for_start;
        let mut told = false;
        let (connector, session) = loop {
            match start(&connector, settings.patience).await {
                Err(PgError::Unavailable { what }) if Instant::now() < latest => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("waiting for PostgreSQL: {what}");
                    }
                    sleep(BETWEEN_TRIES).await;
                }
                started => break started?,
            }
        };
        let (queue, jobs) = mpsc::channel(QUEUE);
        let bounds = Bounds {
            batch: settings.batch.max(1),
            ahead: AHEAD.min(settings.batch).max(1),
            accounts: settings.remembered_accounts,
            ids: settings.remembered_ids,
            // Another instance may forget the id by its own clock, after which it can be used again.
            id_age: settings.id_window / 2,
        };
        let beside = Session::beside(connector.clone(), settings.patience);
        let committer = tokio::spawn(Committer::new(session, beside, jobs, bounds).run());
        let metrics = Metrics::default();
        let pruning = Pruning::start(connector.clone(), settings.id_window, metrics.clone());
        Ok(PgStore {
            queue,
            reader: Reader::new(connector.clone()),
            history: History::new(connector.clone()),
            listings: Listings::new(connector.clone()),
            watching: Watching::start(connector),
            committer: Mutex::new(Some(committer)),
            metrics,
            pruning: Mutex::new(Some(pruning)),
        })
    }

    /// Decides `request`, or returns what was decided for its id before, through whichever door and instance. When it
    /// returns, the outcome is durable.
    ///
    /// # Errors
    /// [`PgError`]. After `Unavailable` it is unknown whether the request was decided: the same request again finds
    /// out, if it has an id.
    pub async fn submit(&self, request: Request) -> Result<Outcome, PgError> {
        self.enqueue(request).await?.outcome().await
    }

    /// As [`PgStore::submit`], in two steps: when it returns the request has its place in the queue, before those that
    /// come later.
    ///
    /// # Errors
    /// [`PgError::Refused`], [`PgError::Closed`].
    pub async fn enqueue(&self, request: Request) -> Result<Queued, PgError> {
        if request.members().iter().any(|member| matches!(member.operation.kind(), Kind::Post { .. })) {
            return Err(PgError::Refused { what: "postings cannot be kept here".to_owned() });
        }
        let (answer, answered) = oneshot::channel();
        let job = Job::Batched(Work::Call { request, answer });
        self.queue.send(job).await.map_err(|_| PgError::Closed)?;
        Ok(Queued(answered))
    }

    /// The newest committed state of `account`; None when nobody opened it.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn balance(&self, account: &AccountId) -> Result<Option<AccountState>, PgError> {
        self.reader.balance(account).await
    }

    /// What was decided for the request with this id; None when it was never seen.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn transaction(&self, id: &TransactionId) -> Result<Option<Outcome>, PgError> {
        let found = self.reader.transaction(id).await?;
        Ok(found.map(|(record, member)| Outcome::recorded(record, Some(member), false)))
    }

    /// Up to `limit` journal entries from sequence `from` on (0: the first). Callers that ask for the same while an
    /// answer is under way share it, so entries committed a moment ago may be missing.
    ///
    /// # Errors
    /// [`PgError::Gone`]; any other.
    pub async fn history(&self, from: u64, limit: usize) -> Result<Vec<Outcome>, PgError> {
        self.history.read(from, limit).await.map(told)
    }

    /// The next journal entries from sequence `next` on, up to `limit`; `told` is the time of the entry before, if the
    /// caller was told that entry. Waits for the first one; all who wait share a look every 100 ms.
    ///
    /// # Errors
    /// [`PgError::PutBack`], [`PgError::Gone`]; any other.
    pub async fn follow(&self, next: u64, told: Option<u64>, limit: usize) -> Result<Vec<Outcome>, PgError> {
        self.history.follow(next, told, limit).await.map(self::told)
    }

    /// The newest commit sequence, of all instances.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn sequence(&self) -> Result<u64, PgError> {
        self.reader.sequence().await
    }

    /// The accounts whose ids begin with `prefix`, as they are now, to be read page by page. PostgreSQL copies them
    /// first, which takes about a second for a million, and 30 s at most.
    ///
    /// # Errors
    /// [`PgError::Listings`] while there are 64 listings that were not dropped; any other.
    pub async fn list(&self, prefix: &str) -> Result<Listing, PgError> {
        self.listings.begin(prefix).await
    }

    /// What an operator watches.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Why nothing can be written at present, as it was a moment ago; None when it can.
    #[must_use]
    pub fn unavailable(&self) -> Option<String> {
        if self.queue.is_closed() {
            return Some("PostgreSQL's writer has ended".to_owned());
        }
        self.watching.unavailable()
    }

    /// Resolves when nothing is written any more: the store was closed, or its writer ended.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Takes no more work, and waits until what it took is answered.
    pub async fn close(&self) {
        drop(self.pruning.lock().await.take());
        // It may have ended before.
        let _ = self.queue.send(Job::End).await;
        if let Some(committer) = self.committer.lock().await.take() {
            // It does not panic; if it did, that was printed.
            let _ = committer.await;
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, PgError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(job(answer)).await.map_err(|_| PgError::Closed)?;
        answered.await.map_err(|_| PgError::Closed)?
    }
}

/// A request in the queue.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Result<Outcome, PgError>>);

impl Queued {
    /// Waits until the outcome is durable, and returns it. Cancel safe; not to be called again once it has returned.
    ///
    /// # Errors
    /// [`PgError`], as of [`PgStore::submit`].
    pub async fn outcome(&mut self) -> Result<Outcome, PgError> {
        (&mut self.0).await.map_err(|_| PgError::Closed)?
    }
}

fn told(records: Vec<Arc<Record>>) -> Vec<Outcome> {
    records.into_iter().map(|record| Outcome::recorded(record, None, false)).collect()
}

async fn start(connector: &Connector, patience: Duration) -> Result<(Connector, Session), PgError> {
    let schema = migrate(&connector.connect().await?, true).await?;
    let connector = connector.clone().in_schema(&schema);
    let mut session = Session::leading(connector.clone(), patience);
    session.connect().await?;
    Ok((connector, session))
}

#[tonic::async_trait]
impl Store for PgStore {
    async fn take_over(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, StoreError> {
        let (topic, partitions) = (topic.to_owned(), partitions.to_vec());
        Ok(self.ask(|answer| Job::TakeOver { topic, partitions, answer }).await?)
    }

    fn at_once(&self) -> usize {
        2
    }

    async fn apply(&self, topic: &str, runs: &[Run]) -> Result<Applied, StoreError> {
        let mut partitions: Vec<_> = runs.iter().map(|run| run.partition).collect();
        partitions.sort_unstable();
        if partitions.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(StoreError::Failed { what: "two runs of one partition at once".to_owned() });
        }
        let (answer, answered) = oneshot::channel();
        let work = Work::Apply { topic: topic.to_owned(), runs: runs.to_vec(), answer };
        self.queue.send(Job::Batched(work)).await.map_err(|_| PgError::Closed)?;
        answered.await.map_err(|_| PgError::Closed)?
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        Ok(self.ask(|answer| Job::DeadLetters { limit, answer }).await?)
    }

    async fn published(&self, numbers: &[i64]) -> Result<(), StoreError> {
        let numbers = numbers.to_vec();
        Ok(self.ask(|answer| Job::Published { numbers, answer }).await?)
    }
}
