//! What PostgreSQL holds of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Error, Row};
use tonic::Status;

use super::{Evidence, Found, LOOK, Waiting};
use crate::cli::exit::Failure;
use crate::inventory::{Totals, Workload};
use crate::kafka::Offsets;
use crate::postgres::{Asking, PgError, Settings};

/// How long one question may take: the journal may be long.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What is said where a service has not made all tables yet.
const MISSING: [SqlState; 2] = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN];

/// How far each partition was consumed.
const CONSUMED: &str =
    "SELECT partition, next_offset FROM consumer_offsets WHERE topic = $1 AND next_offset IS NOT NULL";

/// What became of the events with ids from $1 up to, and not, $2: by product. An id is in its table once, being its
/// key.
const DECIDED: &str = "\
    SELECT p.product_id, count(*), \
        count(*) FILTER (WHERE j.transaction_id = p.event_id AND j.account_id = p.product_id AND j.operation = 'update'), \
        coalesce(sum(j.amount), 0)::text, count(*) FILTER (WHERE j.status = 'applied') \
    FROM processed_events p LEFT JOIN journal j USING (batch, place, member) \
    WHERE p.event_id >= $1 AND p.event_id < $2 GROUP BY p.product_id";

/// How many entries of the journal have such an id.
const ENTRIES: &str =
    "SELECT count(*) FROM journal WHERE transaction_id COLLATE \"C\" >= $1 AND transaction_id COLLATE \"C\" < $2";

/// The stock of the products $1, what of it the journal does not explain, and how low it was. In one statement: others
/// may be at work.
const STOCK: &str = "\
    WITH changes AS ( \
        SELECT account_id AS sku, CASE operation WHEN 'transfer' THEN -amount ELSE amount END AS change, balance_after AS after \
        FROM journal WHERE status = 'applied' AND account_id = ANY ($1) \
        UNION ALL SELECT counterparty_id, amount, counterparty_balance_after \
        FROM journal WHERE status = 'applied' AND operation = 'transfer' AND counterparty_id = ANY ($1)), \
    totals AS (SELECT sku, sum(change) AS total, min(after) AS lowest FROM changes GROUP BY sku) \
    SELECT sku, coalesce(current_stock, 0), (coalesce(current_stock, 0) - coalesce(total, 0))::text, coalesce(lowest, 0) \
    FROM (SELECT sku, current_stock FROM products WHERE sku = ANY ($1)) p FULL JOIN totals USING (sku)";

/// A database, and what its journal left unexplained before.
pub(in crate::cli) struct Database {
    runtime: Runtime,
    asking: Asking,
    topic: String,
    products: Vec<String>,
    before: BTreeMap<String, i128>,
}

impl Database {
    /// `waits` is asked whether to wait on, while there are no tables: a service may have been started a moment ago.
    pub(super) fn connect(
        url: &str,
        topic: String,
        products: Vec<String>,
        mut waits: impl FnMut() -> bool,
    ) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Other(format!("cannot start: {error}")))?;
        let mut settings = Settings::new(url);
        settings.application_name = "equipoise produce".to_owned();
        settings.statement_timeout = LONGEST;
        let asking = runtime.block_on(Asking::connect(&settings)).map_err(|error| match error {
            PgError::Settings { what } => Failure::Usage(format!("--check: {what}")),
            error => Status::unavailable(format!("cannot reach the database: {error}")).into(),
        })?;
        let mut database = Database { runtime, asking, topic, products, before: BTreeMap::new() };
        while database.lacks_tables() && waits() {
            std::thread::sleep(LOOK);
        }
        let stocks = database.stocks()?;
        database.before = stocks.into_iter().map(|(sku, found)| (sku, found.unexplained)).collect();
        Ok(database)
    }

    /// Waits until everything before `next_offsets` is consumed, and looks.
    pub(super) fn evidence(
        &self,
        seed: u64,
        totals: &Totals,
        next_offsets: &Offsets,
        waiting: &mut Waiting<'_>,
    ) -> Result<Evidence, Failure> {
        self.wait(next_offsets, waiting)?;
        let mut products = self.stocks()?;
        for (sku, found) in &mut products {
            found.unexplained -= self.before.get(sku).copied().unwrap_or(0);
        }
        let (first, end) = (Workload::id(seed, 0), Workload::id(seed, totals.distinct));
        for row in self.query(DECIDED, &[&first, &end])? {
            let found = products.entry(column(&row, 0)?).or_default();
            found.events = count(&row, 1)?;
            found.entries = count(&row, 2)?;
            found.sum = number(&row, 3)?;
            found.accepted = count(&row, 4)?;
        }
        let mut differences = Vec::new();
        for row in self.query(ENTRIES, &[&first, &end])? {
            let entries = count(&row, 0)?;
            if entries != totals.distinct {
                differences.push(format!("the journal has {entries} entries about {} events", totals.distinct));
            }
        }
        Ok(Evidence { products, differences })
    }

    fn wait(&self, next_offsets: &Offsets, waiting: &mut Waiting<'_>) -> Result<(), Failure> {
        waiting.begin();
        // Offsets of before are none of the run's, but what is missing is.
        let behind = |consumed: &Offsets| -> u64 {
            let missing = |(partition, next): (&i32, &i64)| {
                u64::try_from(*next - consumed.get(partition).copied().unwrap_or(0)).unwrap_or(0)
            };
            next_offsets.iter().map(missing).sum()
        };
        let mut most = 0;
        loop {
            let rows = self.query(CONSUMED, &[&self.topic])?;
            let pairs = rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?)));
            let missing = behind(&pairs.collect::<Result<_, Failure>>()?);
            most = most.max(missing);
            if missing == 0 {
                return Ok(());
            }
            if !waiting.goes_on(most - missing, most) {
                return Err(waiting.too_late(format!("{missing} records of {} are not consumed", self.topic)));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn lacks_tables(&self) -> bool {
        let prepared = self.runtime.block_on(self.asking.client().prepare(STOCK));
        prepared.is_err_and(|error| error.code().is_some_and(|code| MISSING.contains(code)))
    }

    fn stocks(&self) -> Result<BTreeMap<String, Found>, Failure> {
        let found = |row: &Row| {
            let (stock, lowest) = (column(row, 1)?, column(row, 3)?);
            Ok((column(row, 0)?, Found { stock, lowest, unexplained: number(row, 2)?, ..Found::default() }))
        };
        self.query(STOCK, &[&self.products])?.iter().map(found).collect()
    }

    fn query(&self, text: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failure> {
        let rows = self.runtime.block_on(self.asking.client().query(text, parameters));
        rows.map_err(|error| match error.as_db_error() {
            Some(refused) => Failure::Other(format!("the database cannot be asked: {refused}")),
            None => Status::unavailable(format!("the database is away: {}", explain(&error))).into(),
        })
    }
}

/// With its cause, which the error's own text leaves out.
fn explain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Failure> {
    row.try_get(at).map_err(|error| Failure::Other(format!("the database answers something else: {}", explain(&error))))
}

fn count(row: &Row, at: usize) -> Result<u64, Failure> {
    column::<i64>(row, at).map(|count| u64::try_from(count).unwrap_or(0))
}

/// A numeric, as text.
fn number(row: &Row, at: usize) -> Result<i128, Failure> {
    let text: &str = column(row, at)?;
    text.parse().map_err(|_| Failure::Other(format!("the database says {text} where a whole number was expected")))
}
