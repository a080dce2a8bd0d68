//! What PostgreSQL holds, read by somebody who knows the tables only.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use crate::topic::Topic;

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    // Ends with the client, or with the server; whoever asks it then is told.
    tokio::spawn(async { drop(connection.await) });
    client
}

/// Stock and version of a product, and the newest event that changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub stock: i64,
    pub version: i64,
    pub last_event: Option<String>,
}

/// An entry of the journal that an event made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub sequence: i64,
    pub id: Option<String>,
    pub operation: String,
    pub product: String,
    pub amount: i64,
    pub balance: i64,
    pub version: i64,
    pub applied: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct State {
    pub products: BTreeMap<String, Product>,
    pub processed: BTreeMap<String, String>,
    pub journal: Vec<Entry>,
    pub offsets: Vec<i64>,
    pub unpublished: i64,
}

impl State {
    pub async fn read(client: &Client, topic: &Topic) -> State {
        let rows = client.query("SELECT sku, current_stock, version, last_event_id FROM products", &[]).await.unwrap();
        let product =
            |row: &tokio_postgres::Row| Product { stock: row.get(1), version: row.get(2), last_event: row.get(3) };
        let products = rows.iter().map(|row| (row.get(0), product(row))).collect();
        let rows = client.query("SELECT event_id, product_id FROM processed_events", &[]).await.unwrap();
        let processed = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let query = "SELECT sequence, transaction_id, operation, account_id, amount, balance_after, version_after, status = 'applied'
            FROM journal ORDER BY sequence, member";
        let entry = |row: tokio_postgres::Row| Entry {
            sequence: row.get(0),
            id: row.get(1),
            operation: row.get(2),
            product: row.get(3),
            amount: row.get(4),
            balance: row.get(5),
            version: row.get(6),
            applied: row.get(7),
        };
        let journal = client.query(query, &[]).await.unwrap().into_iter().map(entry).collect();
        let unpublished = client.query_one("SELECT count(*) FROM dead_letters", &[]).await.unwrap().get(0);
        State { products, processed, journal, offsets: offsets(client, topic).await, unpublished }
    }
}

/// The next offset of each partition, in partition order; 0 for one never consumed.
pub async fn offsets(client: &Client, topic: &Topic) -> Vec<i64> {
    let query = "SELECT coalesce(next_offset, 0) FROM consumer_offsets WHERE topic = $1 ORDER BY partition";
    client.query(query, &[&topic.name]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Waits until everything was consumed and every dead letter published.
#[track_caller]
pub fn consumed<'a>(client: &'a Client, topic: &'a Topic, limit: Duration) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let (ends, until) = (topic.ends(), Instant::now() + limit);
        loop {
            let offsets = offsets(client, topic).await;
            let unpublished: i64 = client.query_one("SELECT count(*) FROM dead_letters", &[]).await.unwrap().get(0);
            if offsets == ends && unpublished == 0 {
                return;
            }
            let stands = format!("{offsets:?} of {ends:?}, {unpublished} dead letters not published");
            assert!(Instant::now() < until, "{caller}: not consumed within {limit:?}: {stands}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}
