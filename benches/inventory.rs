//! Events a second through the PostgreSQL store, next to the bare inserts of the same rows: `cargo bench --bench inventory
//! --features postgres`, with the server's URL in `TEST_POSTGRES`. Each round measures all of them one after
//! the other, since the disk is never the same for long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::inventory::{Applied, Content, DeadLetter, Event, Position, Record, Run, Store as _};
use equipoise::postgres::{PgStore, Settings};
use equipoise::{AccountId, TransactionId};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

/// The service's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOPIC: &str = "inventory-events";
const PRODUCTS: u64 = 2_000;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

fn main() {
    let Ok(server) = std::env::var("TEST_POSTGRES") else {
        // `cargo test --benches` comes by here as well.
        println!("TEST_POSTGRES is not set: nothing is measured");
        return;
    };
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&server));
}

async fn measure(server: &str) {
    let name = format!("equipoise_bench_{}", std::process::id());
    let admin = client(server).await;
    admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
    let at = server.rfind('/').expect("a URL with a database");
    let url = format!("{}/{name}", &server[..at]);
    let mut settings = Settings::new(&url);
    settings.batch = 10_000;
    let store = Arc::new(PgStore::connect(&settings).await.expect("a store"));
    let bare = Bare::new(&url).await;
    let mut consumer = Consumer::new(store.clone()).await;
    let mut numbers = 0;
    for size in [1_000, 5_000] {
        let mut rounds = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (checked, rounds) in [false, true].into_iter().zip(&mut rounds) {
                let mut meter = Meter::new(&admin, &name).await;
                while meter.goes_on() {
                    bare.write(size, &mut numbers, checked).await;
                    meter.events += size;
                }
                rounds.push(meter.read(&admin, &name).await);
            }
            let mut meter = Meter::new(&admin, &name).await;
            while meter.goes_on() {
                consumer.apply(size, &mut numbers).await;
                meter.events += size;
            }
            consumer.settle().await;
            rounds[2].push(meter.read(&admin, &name).await);
        }
        let [bare, checked, store] = rounds.map(|mut rounds: Vec<Round>| {
            rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
            rounds.swap_remove(ROUNDS / 2)
        });
        println!("{size:5} a batch: bare inserts {bare}");
        println!("              checked      {checked}, {:.0} % of bare", 100.0 * checked.rate / bare.rate);
        println!("              the store    {store}, {:.0} % of bare", 100.0 * store.rate / bare.rate);
    }
    store.close().await;
    drop(bare);
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.expect("dropped");
}

/// A round under way.
struct Meter {
    started: Instant,
    events: usize,
    here: f64,
    there: f64,
}

/// What was seen of a round.
struct Round {
    /// Events a second.
    rate: f64,
    /// Processor time for each, of this process and of the server's, in microseconds.
    here: f64,
    there: f64,
}

impl Meter {
    async fn new(admin: &Client, database: &str) -> Self {
        let there = server_time(admin, database).await;
        Meter { started: Instant::now(), events: 0, here: processor_time(), there }
    }

    fn goes_on(&self) -> bool {
        self.started.elapsed() < ROUND
    }

    async fn read(self, admin: &Client, database: &str) -> Round {
        let (events, elapsed, here) = (self.events as f64, self.started.elapsed(), processor_time());
        let there = server_time(admin, database).await;
        Round {
            rate: events / elapsed.as_secs_f64(),
            here: 1e6 * (here - self.here) / events,
            there: 1e6 * (there - self.there) / events,
        }
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Round { rate, here, there } = self;
        write!(f, "{rate:8.0}/s, {here:4.1} us of this process and {there:4.1} us of the server's for each")
    }
}

/// What this process has used of its processors, in seconds.
fn processor_time() -> f64 {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9
}

/// What the sessions with the database have used, in seconds; NaN where the server is on another machine.
async fn server_time(admin: &Client, database: &str) -> f64 {
    let sessions = "SELECT pid FROM pg_stat_activity WHERE datname = $1";
    let pids = admin.query(sessions, &[&database]).await.expect("the sessions");
    let used = |row: &tokio_postgres::Row| {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", row.get::<_, i32>(0))).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    };
    pids.iter().map(|row| used(row).unwrap_or(f64::NAN) / 1e9).sum()
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

/// A number that looks random, for ids and products.
fn scattered(number: u64) -> u64 {
    let word = (number ^ (number >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

fn event_id(number: u64) -> String {
    let word = scattered(number);
    format!("{word:016x}-{:019}", number)
}

fn product(kind: &str, number: u64) -> String {
    format!("{kind}-{:08}", scattered(number) % PRODUCTS)
}

/// Consumes one partition: while one run is with the store the next one is put together and sent after it, as the service does.
struct Consumer {
    store: Arc<PgStore>,
    at: Position,
    under_way: Option<(usize, JoinHandle<Applied>)>,
}

impl Consumer {
    async fn new(store: Arc<PgStore>) -> Self {
        let at = store.take_over(TOPIC, &[0]).await.expect("a partition")[0];
        Consumer { store, at, under_way: None }
    }

    async fn apply(&mut self, size: usize, numbers: &mut u64) {
        let run = made(self.at.epoch, self.at.next, size, numbers);
        self.at.next = Some(run.next);
        let store = self.store.clone();
        let applying = tokio::spawn(async move { store.apply(TOPIC, &[run]).await.expect("applied") });
        let before = self.under_way.replace((size, applying));
        applied(before).await;
    }

    async fn settle(&mut self) {
        applied(self.under_way.take()).await;
    }
}

async fn applied(under_way: Option<(usize, JoinHandle<Applied>)>) {
    if let Some((size, applying)) = under_way {
        assert_eq!(applying.await.expect("no panic").applied, size as u64);
    }
}

/// So many new events, from an offset on.
fn made(epoch: i64, from: Option<i64>, size: usize, numbers: &mut u64) -> Run {
    let first = from.unwrap_or(0);
    let records = (first..).take(size).map(|offset| {
        *numbers += 1;
        let original = DeadLetter {
            topic: TOPIC.to_owned(),
            partition: 0,
            offset,
            timestamp: None,
            key: None,
            value: None,
            headers: Vec::new(),
            reason: String::new(),
        };
        let event = Event {
            id: TransactionId::new(&event_id(*numbers)).expect("valid"),
            product: AccountId::new(&product("sku", *numbers)).expect("valid"),
            quantity_change: 1,
        };
        Record { offset, content: Content::Event { event, original: Arc::new(original) } }
    });
    let next = first + size as i64;
    Run { partition: 0, epoch, from, next, fingerprint: next, records: records.collect() }
}

/// The same rows, without anything that is decided, checked or fenced: what PostgreSQL can do on one connection.
struct Bare {
    client: Client,
    products: tokio_postgres::Statement,
    ids: tokio_postgres::Statement,
    checked_ids: tokio_postgres::Statement,
    offsets: tokio_postgres::Statement,
    entries: tokio_postgres::Statement,
}

impl Bare {
    async fn new(url: &str) -> Self {
        let client = client(url).await;
        let open = format!(
            "INSERT INTO products (sku) SELECT 'bare-' || lpad(n::text, 8, '0') FROM generate_series(0, {PRODUCTS} - 1) n;
             INSERT INTO consumer_offsets (topic, partition, epoch, next_offset) VALUES ('bare', 0, 1, 0)"
        );
        client.batch_execute(&open).await.expect("products");
        let products =
            "UPDATE products p SET current_stock = p.current_stock + c.change, version = p.version + c.times,
            updated_at = now(), last_event_id = c.event, batch = 1, place = 1
            FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) c (sku, change, times, event)
            WHERE p.sku = c.sku";
        let ids = "INSERT INTO processed_events (event_id, product_id, batch, place, member)
            SELECT id, account, $4::bigint, place, 0
            FROM unnest($1::text[], $2::text[], $3::integer[]) u (id, account, place)";
        let offsets = "UPDATE consumer_offsets SET next_offset = next_offset + $1 WHERE topic = 'bare' AND epoch = 1";
        let entries = "INSERT INTO journal_entries (place, transaction_id, account_id, amount, balance_after,
                version_after, time_ns, batch, member, operation, status)
            SELECT *, $8::bigint, 0, 'update', 'applied' FROM unnest($1::integer[], $2::text[], $3::text[],
                $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])";
        Bare {
            products: client.prepare(products).await.expect("SQL"),
            ids: client.prepare(ids).await.expect("SQL"),
            checked_ids: client.prepare(ids).await.expect("SQL"),
            offsets: client.prepare(offsets).await.expect("SQL"),
            entries: client.prepare(entries).await.expect("SQL"),
            client,
        }
    }

    async fn write(&self, size: usize, numbers: &mut u64, checked: bool) {
        let first = *numbers + 1;
        *numbers += size as u64;
        let ids: Vec<_> = (first..=*numbers).map(event_id).collect();
        let skus: Vec<_> = (first..=*numbers).map(|number| product("bare", number)).collect();
        let mut times = std::collections::BTreeMap::<&str, (i64, &str)>::new();
        for (sku, id) in skus.iter().zip(&ids) {
            let entry = times.entry(sku).or_default();
            *entry = (entry.0 + 1, id);
        }
        let changed: Vec<&str> = times.keys().copied().collect();
        let (changes, last): (Vec<i64>, Vec<&str>) = times.values().copied().unzip();
        let places: Vec<i32> = (0..size as i32).collect();
        let ones = vec![1_i64; size];
        let clock = vec![1_700_000_000_000_000_000_i64; size];
        let batch = -(first as i64);
        let count = size as i64;
        let client = &self.client;
        let offsets = async { if checked { client.execute(&self.offsets, &[&count]).await } else { Ok(1) } };
        let id_statement = if checked { &self.checked_ids } else { &self.ids };
        let (begun, products, used, stepped, kept, committed) = tokio::join!(
            client.batch_execute("BEGIN"),
            async { client.execute(&self.products, &[&changed, &changes, &changes, &last]).await },
            async { client.execute(id_statement, &[&ids, &skus, &places, &batch]).await },
            offsets,
            async {
                let entries: [&(dyn ToSql + Sync); 8] = [&places, &ids, &skus, &ones, &ones, &ones, &clock, &batch];
                client.execute(&self.entries, &entries).await
            },
            client.batch_execute("COMMIT"),
        );
        begun.expect("begun");
        committed.expect("committed");
        let written =
            [products.expect("products"), used.expect("ids"), stepped.expect("offset"), kept.expect("entries")];
        assert_eq!(written, [changed.len() as u64, size as u64, 1, size as u64]);
    }
}
