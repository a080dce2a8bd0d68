//! Reads, on a connection of their own: PostgreSQL shows them what is committed, and never has them wait for a writer.

use std::future::Future;
use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::database::Fault;
use super::error::PgError;
use super::link::{Connector, Link, column};
use super::rows;
use super::session::account;
use super::shared::Made;
use super::sql::{SEQUENCE, SESSION};
use crate::account::{AccountId, AccountState, TransactionId};
use crate::outcome::Record;

const BALANCE: &str = "SELECT p.sku, p.current_stock, p.version, c.first_sequence + p.place AS sequence
    FROM products p LEFT JOIN commits c ON c.batch = p.batch
    WHERE p.sku = $1";

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

/// The entries with sequences from `$1` up to, but not including, `$2`; and the first entry of the batch after that of
/// `$1`, which shows where a gap ends. No other row of these batches is read, however large they are.
const HISTORY: &str = "WITH next AS MATERIALIZED (
        SELECT min(first_sequence) AS sequence FROM commits WHERE count > 0 AND first_sequence > $1
    )
    SELECT j.* FROM commits c JOIN journal j ON j.batch = c.batch
        AND j.place >= $1 - c.first_sequence AND j.place < greatest($2 - c.first_sequence, 1)
    WHERE c.count > 0 AND c.first_sequence < greatest($2, (SELECT sequence + 1 FROM next))
        AND c.first_sequence >= coalesce(
            (SELECT max(first_sequence) FROM commits WHERE count > 0 AND first_sequence <= $1), 0)
    ORDER BY j.sequence, j.member";

/// A connection for reads, made anew when it is lost.
pub(super) struct Reader {
    connector: Connector,
    open: Made<Open>,
}

struct Open {
    link: Link,
    sequence: Statement,
    balance: Statement,
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
                client.prepare(TRANSACTION).await?,
                client.prepare(HISTORY).await?,
            ))
        });
        let (sequence, balance, transaction, history) = prepared.await.map_err(|broken| broken.fault)?;
        Ok(Open { link, sequence, balance, transaction, history })
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
        Reader { connector, open: Made::default() }
    }

    /// Opens a connection other than `lost`.
    async fn open(&self, lost: Option<&Open>) -> Result<Arc<Open>, PgError> {
        self.connector.standing().read()?;
        let connector = self.connector.clone();
        let is_of_use = |open: &Open| !open.link.is_closed() && lost.is_none_or(|lost| !std::ptr::eq(open, lost));
        self.open.get(is_of_use, async move { Ok(Open::new(&connector).await?) }).await
    }

    /// Asks; if the connection turns out to be gone, asks once more on a new one.
    async fn ask<F>(&self, question: impl Fn(Arc<Open>) -> F) -> Result<Vec<Row>, PgError>
    where
        F: Future<Output = Result<Vec<Row>, super::link::Broken>>,
    {
        let first = self.open(None).await?;
        match question(first.clone()).await {
            Ok(rows) => return Ok(rows),
            Err(broken) if !broken.lost => return Err(broken.fault.into()),
            Err(_) => {}
        }
        question(self.open(Some(&first)).await?).await.map_err(|broken| broken.fault.into())
    }

    pub(super) async fn sequence(&self) -> Result<u64, PgError> {
        let rows = self.ask(async |open| open.query(&open.sequence, &[]).await).await?;
        Ok(rows.first().map_or(Ok(0), |row| column::<i64>(row, 0))?.cast_unsigned())
    }

    pub(super) async fn balance(&self, id: &AccountId) -> Result<Option<AccountState>, PgError> {
        let rows = self.ask(async |open| open.query(&open.balance, &[&id.as_str()]).await).await?;
        rows.first().map(state).transpose()
    }

    /// The transaction that used `id`, and with which member.
    pub(super) async fn transaction(&self, id: &TransactionId) -> Result<Option<(Arc<Record>, u32)>, PgError> {
        let rows = self.ask(async |open| open.query(&open.transaction, &[&id.as_str()]).await).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let member: i32 = column(first, "asked")?;
        let records = rows::records(&rows).map_err(|what| PgError::Failed { what })?;
        Ok(records.into_iter().next().map(|record| (record, member.cast_unsigned())))
    }

    /// Up to `limit` entries of the journal from sequence `from` on, and perhaps one more, which comes later.
    pub(super) async fn history(&self, from: u64, limit: usize) -> Result<Vec<Arc<Record>>, PgError> {
        // A sequence that is too large for PostgreSQL is as far off as the last one that is not.
        let from = i64::try_from(from.max(1)).unwrap_or(i64::MAX);
        let end = from.saturating_add(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.ask(async |open| open.query(&open.history, &[&from, &end]).await).await?;
        rows::records(&rows).map_err(|what| PgError::Failed { what })
    }
}

fn state(row: &Row) -> Result<AccountState, PgError> {
    let (id, state) = account(row).map_err(|what| PgError::Failed { what })?;
    // A row written by hand has no place in the journal.
    let sequence: Option<i64> = column(row, "sequence")?;
    let sequence = sequence.unwrap_or_default().cast_unsigned();
    Ok(AccountState { id, balance: state.amount, version: state.version, sequence })
}
