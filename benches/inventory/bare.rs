//! The same rows, without anything that is decided, checked or fenced: what PostgreSQL can do on one connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use crate::events::{PRODUCTS, event_id, product};

/// Writes batches one after the other; while one is written the next one is put together.
pub struct Bare {
    statements: Arc<Statements>,
    under_way: Option<JoinHandle<()>>,
}

struct Statements {
    client: Client,
    products: Statement,
    ids: Statement,
    offsets: Statement,
    entries: Statement,
}

/// The rows of a batch, by columns.
struct Batch {
    number: i64,
    ids: Vec<String>,
    skus: Vec<String>,
    places: Vec<i32>,
    ones: Vec<i64>,
    times: Vec<i64>,
    changed: Vec<String>,
    changes: Vec<i64>,
    last: Vec<String>,
}

impl Bare {
    pub async fn new(url: &str) -> Self {
        let client = crate::servers::client(url).await;
        let open = format!(
            "INSERT INTO products (sku) SELECT 'sku-' || lpad(n::text, 8, '0') FROM generate_series(0, {PRODUCTS} - 1) n;
             INSERT INTO consumer_offsets (topic, partition, epoch, next_offset) VALUES ('bare', 0, 1, 0)"
        );
        client.batch_execute(&open).await.expect("products");
        let products =
            "UPDATE products p SET current_stock = p.current_stock + c.change, version = p.version + c.change,
            updated_at = now(), last_event_id = c.event, batch = $4, place = 1
            FROM unnest($1::text[], $2::bigint[], $3::text[]) c (sku, change, event)
            WHERE p.sku = c.sku";
        let ids = "INSERT INTO processed_events (event_id, product_id, batch, place, member)
            SELECT id, account, $4::bigint, place, 0
            FROM unnest($1::text[], $2::text[], $3::integer[]) u (id, account, place)";
        let offsets =
            "UPDATE consumer_offsets SET next_offset = next_offset + $1 WHERE topic = 'bare' AND partition = 0";
        let entries = "INSERT INTO journal_entries (place, transaction_id, account_id, amount, balance_after,
                version_after, time_ns, batch, member, operation, status)
            SELECT *, $8::bigint, 0, 'update', 'applied' FROM unnest($1::integer[], $2::text[], $3::text[],
                $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])";
        let statements = Statements {
            products: client.prepare(products).await.expect("SQL"),
            ids: client.prepare(ids).await.expect("SQL"),
            offsets: client.prepare(offsets).await.expect("SQL"),
            entries: client.prepare(entries).await.expect("SQL"),
            client,
        };
        Bare { statements: Arc::new(statements), under_way: None }
    }

    pub async fn write(&mut self, size: usize, numbers: &mut u64) {
        let batch = Batch::made(size, numbers);
        self.settle().await;
        let statements = self.statements.clone();
        self.under_way = Some(tokio::spawn(async move { statements.write(&batch).await }));
    }

    pub async fn settle(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            under_way.await.expect("written");
        }
    }
}

impl Batch {
    fn made(size: usize, numbers: &mut u64) -> Self {
        let first = *numbers + 1;
        *numbers += size as u64;
        let ids: Vec<_> = (first..=*numbers).map(event_id).collect();
        let skus: Vec<_> = (first..=*numbers).map(product).collect();
        let mut times = BTreeMap::<&String, (i64, &String)>::new();
        for (sku, id) in skus.iter().zip(&ids) {
            let entry = times.entry(sku).or_insert((0, id));
            *entry = (entry.0 + 1, id);
        }
        let changed = times.keys().map(|sku| (*sku).clone()).collect();
        let changes = times.values().map(|(change, _)| *change).collect();
        let last = times.values().map(|(_, id)| (*id).clone()).collect();
        Batch {
            number: -first.cast_signed(),
            places: (0..size as i32).collect(),
            ones: vec![1; size],
            times: vec![1_700_000_000_000_000_000; size],
            changed,
            changes,
            last,
            ids,
            skus,
        }
    }
}

impl Statements {
    async fn write(&self, batch: &Batch) {
        let Batch { number, ids, skus, places, ones, times, changed, changes, last } = batch;
        let (client, count) = (&self.client, ids.len() as i64);
        let (begun, products, used, stepped, kept, committed) = tokio::join!(
            client.batch_execute("BEGIN"),
            async { client.execute(&self.products, &[changed, changes, last, number]).await },
            async { client.execute(&self.ids, &[ids, skus, places, number]).await },
            async { client.execute(&self.offsets, &[&count]).await },
            async {
                let entries: [&(dyn ToSql + Sync); 8] = [places, ids, skus, ones, ones, ones, times, number];
                client.execute(&self.entries, &entries).await
            },
            client.batch_execute("COMMIT"),
        );
        begun.expect("begun");
        committed.expect("committed");
        let written =
            [products.expect("products"), used.expect("ids"), stepped.expect("offset"), kept.expect("entries")];
        assert_eq!(written, [changed.len() as u64, ids.len() as u64, 1, ids.len() as u64]);
    }
}
