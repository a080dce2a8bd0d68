//! Reads, on a connection of their own: PostgreSQL shows them what is committed, and never has them wait for a writer.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::database::Fault;
use super::error::PgError;
use super::link::{Connector, Link};
use super::rows;
use super::session::account;
use super::sql::SESSION;
use crate::account::{AccountId, AccountState, TransactionId};
use crate::outcome::Record;

const SEQUENCE: &str = "SELECT sequence FROM ledger_sequence";

const BALANCE: &str = "SELECT p.sku, p.current_stock, p.version, c.first_sequence + p.place AS sequence
    FROM products p LEFT JOIN commits c ON c.batch = p.batch
    WHERE p.sku = $1";

const LIST: &str = "SELECT p.sku, p.current_stock, p.version, c.first_sequence + p.place AS sequence
    FROM products p LEFT JOIN commits c ON c.batch = p.batch
    WHERE p.sku >= $1 AND p.sku > $2 ORDER BY p.sku LIMIT $3";

/// The newest use of an id.
const TRANSACTION: &str = "WITH used AS MATERIALIZED (
        SELECT u.batch, u.place, u.member FROM (
            SELECT batch, place, member FROM processed_events WHERE event_id = $1
            UNION ALL SELECT batch, place, member FROM former_ids WHERE event_id = $1
        ) AS u JOIN commits c ON c.batch = u.batch
        ORDER BY c.first_sequence DESC, u.place DESC LIMIT 1
    )
    SELECT u.member AS asked, j.* FROM used u
    JOIN journal j ON j.batch = u.batch AND j.place = u.place
    ORDER BY j.member";

/// The entries with the sequences from `$1` up to, but not with, `$2`: of the batches that hold them no other row is read, however large
/// they are.
const HISTORY: &str = "SELECT j.* FROM commits c JOIN journal j ON j.batch = c.batch
        AND j.place >= $1 - c.first_sequence AND j.place < $2 - c.first_sequence
    WHERE c.count > 0 AND c.first_sequence < $2
        AND c.first_sequence >= coalesce(
            (SELECT max(first_sequence) FROM commits WHERE count > 0 AND first_sequence <= $1), 0)
    ORDER BY j.sequence, j.member";

/// Accounts are compared with this when a listing begins: less than every id.
const BEFORE_ALL: &str = "";

/// A connection for reads, made anew when it is lost.
pub(super) struct Reader {
    connector: Connector,
    open: Mutex<Option<Arc<Open>>>,
}

struct Open {
    link: Link,
    sequence: Statement,
    balance: Statement,
    list: Statement,
    transaction: Statement,
    history: Statement,
}

impl Open {
    async fn new(connector: &Connector) -> Result<Self, Fault> {
        let link = connector.connect().await?;
        connector.look(&link).await?.read()?;
        let prepared = link.timed(async {
            let client: &Client = &link.client;
            client.batch_execute(SESSION).await?;
            Ok((
                client.prepare(SEQUENCE).await?,
                client.prepare(BALANCE).await?,
                client.prepare(LIST).await?,
                client.prepare(TRANSACTION).await?,
                client.prepare(HISTORY).await?,
            ))
        });
        let (sequence, balance, list, transaction, history) = prepared.await.map_err(|broken| broken.fault)?;
        Ok(Open { link, sequence, balance, list, transaction, history })
    }

    async fn query(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, super::link::Broken> {
        self.link.timed(self.link.client.query(statement, params)).await
    }
}

impl Reader {
    pub(super) fn new(connector: Connector) -> Self {
        Reader { connector, open: Mutex::new(None) }
    }

    async fn open(&self) -> Result<Arc<Open>, Fault> {
        let mut open = self.open.lock().await;
        self.connector.standing().read()?;
        match &*open {
            Some(open) if !open.link.is_closed() => Ok(open.clone()),
            _ => Ok(open.insert(Arc::new(Open::new(&self.connector).await?)).clone()),
        }
    }

    /// Asks, and asks once more on a new connection when the old one turns out to be gone.
    async fn ask<F>(&self, question: impl Fn(Arc<Open>) -> F) -> Result<Vec<Row>, PgError>
    where
        F: Future<Output = Result<Vec<Row>, super::link::Broken>>,
    {
        let first = self.open().await?;
        match question(first.clone()).await {
            Ok(rows) => return Ok(rows),
            Err(broken) if !broken.lost => return Err(broken.fault.into()),
            Err(_) => {}
        }
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|open| Arc::ptr_eq(open, &first)) {
            *open = None;
        }
        drop((open, first));
        question(self.open().await?).await.map_err(|broken| broken.fault.into())
    }

    pub(super) async fn sequence(&self) -> Result<u64, PgError> {
        let rows = self.ask(async |open| open.query(&open.sequence, &[]).await).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned())
    }

    pub(super) async fn balance(&self, id: &AccountId) -> Result<Option<AccountState>, PgError> {
        let rows = self.ask(async |open| open.query(&open.balance, &[&id.as_str()]).await).await?;
        rows.first().map(state).transpose()
    }

    /// The transaction that used `id`, and with which member.
    pub(super) async fn transaction(&self, id: &TransactionId) -> Result<Option<(Arc<Record>, u32)>, PgError> {
        let rows = self.ask(async |open| open.query(&open.transaction, &[&id.as_str()]).await).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let member: i32 = first.try_get("asked").map_err(unreadable)?;
        let records = rows::records(&rows).map_err(|what| PgError::Failed { what })?;
        Ok(records.into_iter().next().map(|record| (record, member.cast_unsigned())))
    }

    /// Up to `limit` entries of the journal from sequence `from` on.
    pub(super) async fn history(&self, from: u64, limit: usize) -> Result<Vec<Arc<Record>>, PgError> {
        let from = from.max(1).cast_signed();
        let end = from.saturating_add(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.ask(async |open| open.query(&open.history, &[&from, &end]).await).await?;
        rows::records(&rows).map_err(|what| PgError::Failed { what })
    }

    /// Begins a listing of the accounts whose ids begin with `prefix`.
    pub(super) async fn list(&self, prefix: &str) -> Result<Listing, PgError> {
        let open = Open::new(&self.connector).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET idle_in_transaction_session_timeout = 0";
        let begun = open.link.timed(open.link.client.batch_execute(begin)).await;
        begun.map_err(|broken| broken.fault)?;
        let rows = open.query(&open.sequence, &[]).await.map_err(|broken| broken.fault)?;
        let sequence = rows.first().map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned();
        Ok(Listing { open, prefix: prefix.to_owned(), sequence })
    }
}

/// Accounts at one commit sequence, page by page. Holds a connection of its own; PostgreSQL keeps what it needs to show
/// them as they were, so it should not be held for long.
pub struct Listing {
    open: Open,
    prefix: String,
    sequence: u64,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing")
            .field("prefix", &self.prefix)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Listing {
    /// The commit sequence that it shows.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Up to `limit` accounts, by their ids, after `after`.
    ///
    /// # Errors
    /// [`PgError`]: the listing is over.
    pub async fn page(&self, after: Option<&AccountId>, limit: usize) -> Result<Vec<AccountState>, PgError> {
        let after = after.map_or(BEFORE_ALL, AccountId::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.open.query(&self.open.list, &[&self.prefix, &after, &limit]).await;
        let rows = rows.map_err(|broken| broken.fault)?;
        let states = rows.iter().map(state);
        // In order of bytes those with the prefix come first.
        let mine = states.take_while(|state| match state {
            Ok(state) => state.id.as_str().starts_with(&self.prefix),
            Err(_) => true,
        });
        mine.collect()
    }
}

fn state(row: &Row) -> Result<AccountState, PgError> {
    let (id, state) = account(row).map_err(|what| PgError::Failed { what })?;
    // Who wrote it by hand gave it no place in the journal.
    let sequence: Option<i64> = row.try_get("sequence").map_err(unreadable)?;
    let sequence = sequence.unwrap_or_default().cast_unsigned();
    Ok(AccountState { id, balance: state.amount, version: state.version, sequence })
}

fn unreadable(error: Error) -> PgError {
    PgError::Failed { what: error.to_string() }
}
