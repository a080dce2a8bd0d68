//! Reads beside each other.

use std::time::Duration;

use equipoise::postgres::{PgStore, Settings};
use equipoise::{Outcome, Request};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::harness::{Database, SOON, account, create, update};
use crate::proxy::Proxy;

/// How many tries a race gets: what has to win it answers in milliseconds, what it runs against within a second.
const TRIES: usize = 20;

/// Somebody waits for a lock in this database.
const WAITS: &str = "SELECT count(*) > 0 FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()";

/// A4: a read of the journal that PostgreSQL holds up holds up nobody's balance.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_balance_waits_for_a_read_of_the_journal() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 7)).await.expect("opened");
    store.history(1, 10).await.expect("readable");
    store.balance(&account("sku")).await.expect("readable");
    let locker = database.client().await;
    for tries in 1.. {
        assert!(tries <= TRIES, "the balance came after the journal");
        locker.batch_execute("BEGIN; LOCK journal_entries IN ACCESS EXCLUSIVE MODE").await.expect("locked");
        let balance = async {
            wait_for(&database, WAITS).await;
            store.balance(&account("sku")).await.expect("readable").expect("open").balance
        };
        let won = tokio::select! {
            biased;
            _ = store.history(1, 10) => false,
            balance = balance => balance == 7,
        };
        locker.batch_execute("ROLLBACK").await.expect("unlocked");
        if won {
            break;
        }
    }
}

/// D6: whoever asks while a connection is being made is told what becomes of that, and does not try by himself in a line with others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_silent_is_waited_for_once() {
    const CALLERS: u64 = 30;
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let mut settings = Settings::new(&proxy.url);
    settings.connect_timeout = Duration::from_secs(1);
    let store = PgStore::connect(&settings).await.expect("a store");
    store.submit(create("sku", 7)).await.expect("opened");
    proxy.slow_down(Duration::from_secs(60));
    let ours = "FROM pg_stat_activity WHERE application_name = 'equipoise' AND datname = current_database()";
    database.run(&format!("SELECT pg_terminate_backend(pid) {ours}")).await;
    let began = Instant::now();
    let sku = account("sku");
    let balances = join_all((0..CALLERS).map(|_| store.balance(&sku)));
    let listings = join_all((0..CALLERS).map(|_| store.list("")));
    let (balances, listings) = tokio::join!(balances, listings);
    assert!(balances.iter().all(Result::is_err) && listings.iter().all(Result::is_err));
    // Two attempts of two seconds each: one that was under way, and one's own. One for each caller would be as many seconds twice.
    assert!(began.elapsed() < Duration::from_secs(CALLERS), "{:?}", began.elapsed());
    proxy.slow_down(Duration::ZERO);
    assert_eq!(store.balance(&sku).await.expect("readable").expect("open").balance, 7);
    store.list("").await.expect("readable");
}

/// The journal's pages cost what is in them, however many entries were committed together.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_of_the_journal_reads_what_it_shows() {
    const ENTRIES: u64 = 3_000;
    let database = Database::new().await;
    fill(&database.store().await, ENTRIES).await;
    let largest: i32 = database.one("SELECT max(count) FROM commits").await;
    assert!(largest > 300, "the entries came in batches of {largest} at most");
    let before = fetched(&database).await;
    let store = database.store().await;
    let mut seen = 0;
    while let page = store.history(seen + 1, 100).await.expect("readable")
        && !page.is_empty()
    {
        let sequences: Vec<_> = page.iter().map(Outcome::sequence).collect();
        assert_eq!(sequences, (seen + 1..=seen + page.len() as u64).collect::<Vec<_>>());
        seen += page.len() as u64;
    }
    assert_eq!(seen, ENTRIES);
    drop(store);
    let read = fetched(&database).await - before;
    assert!(read < 2 * ENTRIES as i64, "{read} rows were read for {ENTRIES}");
}

/// Watchers who stand at one place ask once for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_asks_for_the_same_page_meanwhile_gets_the_same() {
    const READERS: i64 = 30;
    let database = Database::new().await;
    fill(&database.store().await, 100).await;
    let mut tries = 0;
    let (pages, read) = loop {
        let before = fetched(&database).await;
        let store = database.store().await;
        store.history(1, 1).await.expect("readable");
        let locker = database.client().await;
        locker.batch_execute("BEGIN; LOCK journal_entries IN ACCESS EXCLUSIVE MODE").await.expect("locked");
        let unlocking = async {
            wait_for(&database, WAITS).await;
            locker.batch_execute("ROLLBACK").await.expect("unlocked");
        };
        let reading = join_all((0..READERS).map(|_| store.history(1, 100)));
        let (pages, ()) = tokio::join!(reading, unlocking);
        drop((store, locker));
        let read = fetched(&database).await - before;
        tries += 1;
        // Whoever waits for the lock gives up after a second.
        if tries == TRIES || pages.iter().all(Result::is_ok) {
            break (pages, read);
        }
    };
    for page in pages {
        let page = page.expect("readable");
        assert_eq!(page.iter().map(Outcome::sequence).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
    }
    assert!(read < 100 * READERS / 2, "{read} rows were read for {READERS} readers of the same 100");
}

/// Watchers at the end of the journal hear of an entry, whichever instance made it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_awaited_entry_is_told_to_all_who_wait() {
    let database = Database::new().await;
    let (store, other) = (database.store().await, database.store().await);
    fill(&store, 10).await;
    let writing = async {
        sleep(Duration::from_millis(50)).await;
        other.submit(update("u", "sku", 1)).await.expect("decided").result().expect("applied");
    };
    let waiting = join_all((0..20).map(|_| store.follow(11, None, 1)));
    for reached in tokio::join!(waiting, writing).0 {
        assert_eq!(reached.expect("readable")[0].sequence(), 11);
    }
    assert_eq!(store.history(11, 1).await.expect("readable").len(), 1);
}

/// Opens an account and changes it, all at once.
async fn fill(store: &PgStore, entries: u64) {
    let requests: Vec<Request> = (1..entries).map(|number| update(&format!("u{number}"), "sku", 1)).collect();
    let mut queued = vec![store.enqueue(create("sku", 0)).await.expect("queued")];
    for request in requests {
        queued.push(store.enqueue(request).await.expect("queued"));
    }
    for one in &mut queued {
        one.outcome().await.expect("decided").result().expect("applied");
    }
    store.close().await;
}

async fn wait_for(database: &Database, condition: &str) {
    let until = Instant::now() + SOON;
    while !database.one::<bool>(condition).await {
        assert!(Instant::now() < until, "never: {condition}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The journal's rows that were fetched so far: known once no session but one's own is there.
async fn fetched(database: &Database) -> i64 {
    let alone = "SELECT count(*) = 0 FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    wait_for(database, alone).await;
    database.one("SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE relname = 'journal_entries'").await
}
