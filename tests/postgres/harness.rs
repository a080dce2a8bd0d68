//! A database of its own for each test, and short names for what tests do.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use equipoise::inventory::{Applied, Content, DeadLetter, Event, Position, Record, Run, Store as _, StoreError};
use equipoise::postgres::{PgStore, Settings};
use equipoise::{AccountId, Operation, Request, TransactionId};
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};

/// How long anything may take that should happen soon, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

pub const TOPIC: &str = "inventory-events";

/// A database on the server of `TEST_POSTGRES`, dropped at the end.
pub struct Database {
    server: String,
    name: String,
    pub url: String,
}

impl Database {
    pub async fn new() -> Self {
        let server = std::env::var("TEST_POSTGRES").expect(
            "TEST_POSTGRES must be the URL of a PostgreSQL server on which tests may create databases: run scripts/test.sh",
        );
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let name = format!("equipoise_test_{}_{}", std::process::id(), since.as_nanos());
        client(&server).await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let at = server.rfind('/').expect("a URL with a database");
        let url = format!("{}/{name}", &server[..at]);
        Database { server, name, url }
    }

    pub async fn store(&self) -> PgStore {
        PgStore::connect(&Settings::new(&self.url)).await.expect("a store")
    }

    pub async fn client(&self) -> Client {
        client(&self.url).await
    }

    /// One value.
    pub async fn one<T: FromSqlOwned>(&self, query: &str) -> T {
        self.client().await.query_one(query, &[]).await.expect("one row").get(0)
    }

    pub async fn run(&self, statements: &str) {
        self.client().await.batch_execute(statements).await.expect("SQL");
    }

    /// C3, D2: the journal is dense, and replaying it gives the products.
    pub async fn check(&self) {
        let dense = "SELECT count(DISTINCT sequence) = coalesce(max(sequence), 0)
            AND coalesce(max(sequence), 0) = (SELECT sequence FROM ledger_sequence) FROM journal";
        assert!(self.one::<bool>(dense).await, "the commit sequence has gaps");
        let replayed = "WITH changes AS (
                SELECT account_id AS sku, CASE operation WHEN 'transfer' THEN -amount ELSE amount END AS delta
                    FROM journal WHERE status = 'applied'
                UNION ALL
                SELECT counterparty_id, amount FROM journal WHERE status = 'applied' AND operation = 'transfer')
            SELECT count(*) FROM (SELECT sku, sum(delta) AS stock, count(*) AS version FROM changes GROUP BY sku) r
            FULL JOIN products p USING (sku)
            WHERE p.current_stock IS DISTINCT FROM r.stock OR p.version IS DISTINCT FROM r.version";
        assert_eq!(self.one::<i64>(replayed).await, 0, "products are not what the journal says");
        let late = "SELECT count(*) FROM (
            SELECT time_ns < lag(time_ns) OVER (ORDER BY sequence, member) AS back FROM journal) t WHERE back";
        assert_eq!(self.one::<i64>(late).await, 0, "time goes back");
        let ids = "SELECT count(*) FROM processed_events e FULL JOIN
            (SELECT * FROM journal WHERE transaction_id IS NOT NULL) j
            ON e.event_id = j.transaction_id AND e.batch = j.batch AND e.place = j.place AND e.member = j.member
            WHERE e.event_id IS NULL OR j.transaction_id IS NULL";
        assert_eq!(self.one::<i64>(ids).await, 0, "the ids are not those of the journal");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            runtime.block_on(async { client(&server).await.batch_execute(&drop).await })
        });
        let _ = dropping.join();
    }
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

pub fn account(text: &str) -> AccountId {
    AccountId::new(text).expect("valid")
}

pub fn id(text: &str) -> TransactionId {
    TransactionId::new(text).expect("valid")
}

pub fn update(transaction: &str, product: &str, delta: i64) -> Request {
    Request::single(Operation::update(account(product), delta), Some(id(transaction)))
}

pub fn create(product: &str, initial: i64) -> Request {
    Request::single(Operation::create(account(product), initial).expect("valid"), None)
}

pub fn event(event: &str, product: &str, quantity_change: i64) -> Event {
    Event { id: id(event), product: account(product), quantity_change }
}

/// A record of a partition, as it may come.
pub fn letter(partition: i32, offset: i64, reason: &str) -> DeadLetter {
    DeadLetter {
        topic: TOPIC.to_owned(),
        partition,
        offset,
        timestamp: Some(1_700_000_000_000),
        key: Some(b"key\xff".to_vec()),
        value: Some(b"value\0".to_vec()),
        headers: vec![("a\0b".to_owned(), None), ("a\0b".to_owned(), Some(vec![0, 255]))],
        reason: reason.to_owned(),
    }
}

/// A partition and how far it is.
pub struct Partition(pub Position);

impl Partition {
    pub async fn take(store: &PgStore, partition: i32) -> Self {
        let mut positions = store.take_over(TOPIC, &[partition]).await.expect("a partition");
        Partition(positions.remove(0))
    }

    pub fn run(&self, events: &[Event]) -> Run {
        let contents = events.iter().map(|event| {
            let original = Arc::new(letter(self.0.partition, 0, ""));
            Content::Event { event: event.clone(), original }
        });
        self.run_of(contents.collect())
    }

    pub fn run_of(&self, contents: Vec<Content>) -> Run {
        let first = self.0.next.unwrap_or(0);
        let next = first + contents.len() as i64;
        let records = contents.into_iter().zip(first..).map(|(mut content, offset)| {
            if let Content::Event { original, .. } | Content::Malformed(original) = &mut content {
                Arc::make_mut(original).offset = offset;
            }
            Record { offset, content }
        });
        let Position { partition, epoch, next: from, .. } = self.0;
        Run { partition, epoch, from, next, fingerprint: next * 7, records: records.collect() }
    }

    pub async fn apply(&mut self, store: &PgStore, events: &[Event]) -> Result<Applied, StoreError> {
        let run = self.run(events);
        self.apply_run(store, &run).await
    }

    /// As a consumer does: again, until the store says what became of it.
    pub async fn apply_run(&mut self, store: &PgStore, run: &Run) -> Result<Applied, StoreError> {
        loop {
            match store.apply(TOPIC, std::slice::from_ref(run)).await {
                Ok(applied) => {
                    self.0.next = Some(run.next);
                    return Ok(applied);
                }
                Err(StoreError::Unavailable { .. } | StoreError::Held { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Numbers that a seed chooses.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % bound
    }
}
