//! A dump that is restored in place under an instance that lives on.

use std::time::Duration;

use equipoise::inventory::Store as _;
use equipoise::postgres::{PgError, PgStore, Settings};
use equipoise::{Operation, Request};
use tokio::time::{Instant, sleep};

use crate::harness::{Database, Partition, SOON, TOPIC, account, create, event, id, update};

const TABLES: [(&str, &str); 6] = [
    ("products", "sku"),
    ("processed_events", "event_id"),
    ("commits", "batch"),
    ("ledger_sequence", "sequence"),
    ("journal_entries", "batch, place, member"),
    ("consumer_offsets", "topic, partition"),
];

/// What `pg_dump --clean` has psql do, up to the keys: other tables of the same names, with or without what was in the former ones.
async fn replace(database: &Database, filled: bool) {
    let journal: String = database.one("SELECT pg_get_viewdef('journal')").await;
    let anew = TABLES.map(|(table, _)| {
        let fill = if filled { format!("INSERT INTO {table} TABLE old_{table};") } else { String::new() };
        format!("ALTER TABLE {table} RENAME TO old_{table}; CREATE TABLE {table} (LIKE old_{table} INCLUDING DEFAULTS); {fill}")
    });
    database.run(&format!("BEGIN; {} CREATE OR REPLACE VIEW journal AS {journal} COMMIT", anew.concat())).await;
}

async fn add_keys(database: &Database) {
    let keys = TABLES.map(|(table, key)| {
        format!("DROP TABLE old_{table} CASCADE; ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY ({key});")
    });
    database
        .run(&format!(
            "BEGIN; {} CREATE UNIQUE INDEX commits_in_order ON commits (first_sequence) WHERE count > 0;
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal_entries
                FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only(); COMMIT",
            keys.concat()
        ))
        .await;
}

/// Keeps a copy of the present state.
pub async fn save(database: &Database) {
    let saved = TABLES.map(|(table, _)| format!("CREATE TABLE saved_{table} AS TABLE {table};"));
    database.run(&saved.concat()).await;
}

/// Puts that state back, in one transaction: no connection breaks.
pub async fn put_back(database: &Database) {
    let tables = TABLES.map(|(table, _)| format!("DELETE FROM {table}; INSERT INTO {table} TABLE saved_{table};"));
    let triggers = |state: &str| format!("ALTER TABLE journal_entries {state} TRIGGER ALL;");
    database.run(&format!("BEGIN; {}{}{} COMMIT", triggers("DISABLE"), tables.concat(), triggers("ENABLE"))).await;
}

fn opened(transaction: &str) -> Request {
    Request::single(Operation::create(account("sku"), 7).expect("valid"), Some(id(transaction)))
}

/// D4, D6: nothing is written into tables that have no keys yet, and nothing is read out of them; nor does the consuming end. When the restore
/// is through all goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restore_is_not_written_into() {
    for filled in [false, true] {
        let database = Database::new().await;
        let mut settings = Settings::new(&database.url);
        settings.patience = Duration::from_millis(200);
        let store = PgStore::connect(&settings).await.expect("a store");
        store.submit(create("sku", 1)).await.expect("opened");
        let mut partition = Partition::take(&store, 0).await;
        partition.apply(&store, &[event("e", "sku", 1)]).await.expect("applied");
        assert_eq!(store.balance(&account("sku")).await.expect("read").expect("open").balance, 2);
        replace(&database, filled).await;
        let rows: i64 = database.one("SELECT count(*) FROM journal_entries").await;
        for request in [opened("o"), update("u", "sku", 1), create("other", 1)] {
            let refused = store.submit(request).await.expect_err("not restored yet");
            assert!(matches!(refused, PgError::Unavailable { .. }), "{refused}");
        }
        let run = partition.run(&[event("f", "sku", 1)]);
        let refused = store.apply(TOPIC, &[run]).await.expect_err("not restored yet").to_string();
        assert!(refused.contains("its schema lacks"), "{refused}");
        let refused = store.balance(&account("sku")).await.expect_err("not restored yet").to_string();
        assert!(refused.contains("its schema lacks"), "{refused}");
        assert_eq!(database.one::<i64>("SELECT count(*) FROM journal_entries").await, rows, "it was written into");
        if !filled {
            database.run(&TABLES.map(|(table, _)| format!("INSERT INTO {table} TABLE old_{table};")).concat()).await;
        }
        add_keys(&database).await;
        let until = Instant::now() + SOON;
        while store.submit(update("u", "sku", 1)).await.is_err() {
            assert!(Instant::now() < until, "{:?}", store.unavailable());
            sleep(Duration::from_millis(50)).await;
        }
        partition.apply(&store, &[event("f", "sku", 1)]).await.expect("neither fenced nor failed");
        assert_eq!(store.balance(&account("sku")).await.expect("read").expect("open").balance, 4);
        database.check().await;
    }
}

/// B1, D4: a dump is restored in place, in one transaction, and another instance has written as much since: what is answered as a replay is
/// one of what the database holds, alone and beside what is new.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_restore_lost_is_no_replay() {
    let database = Database::new().await;
    let (store, other) = (database.store().await, database.store().await);
    store.submit(create("x", 100)).await.expect("opened");
    other.submit(create("y", 0)).await.expect("opened");
    save(&database).await;
    for number in 0..6 {
        store.submit(update(&format!("l{number}"), "x", 1)).await.expect("decided").result().expect("applied");
    }
    put_back(&database).await;
    for number in 0..12 {
        other.submit(update(&format!("u{number}"), "y", 1)).await.expect("decided").result().expect("applied");
    }
    let again = store.submit(update("l0", "x", 1)).await.expect("decided");
    assert_eq!((again.replayed(), again.result().expect("applied")[0].balance), (false, 101));
    put_back(&database).await;
    for number in 0..12 {
        other.submit(update(&format!("v{number}"), "y", 1)).await.expect("decided").result().expect("applied");
    }
    let mut queued = Vec::new();
    for name in ["new", "l0", "newer"] {
        queued.push(store.enqueue(update(name, "x", 1)).await.expect("queued"));
    }
    for (queued, balance) in queued.iter_mut().zip(101..) {
        let outcome = queued.outcome().await.expect("decided");
        assert_eq!((outcome.replayed(), outcome.result().expect("applied")[0].balance), (false, balance));
    }
    assert!(store.submit(update("l0", "x", 1)).await.expect("decided").replayed(), "now it is one");
    database.check().await;
}

/// D6, D8: a dump of an older schema, restored under an instance that lives on, is brought up as at a start. One that cannot
/// be is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_older_schema_is_brought_up() {
    const OLDER: [&str; 5] = [
        include_str!("../../src/postgres/migrations/0001_ledger.sql"),
        include_str!("../../src/postgres/migrations/0002_expectations.sql"),
        include_str!("../../src/postgres/migrations/0003_pruned_ids.sql"),
        include_str!("../../src/postgres/migrations/0004_displaced_letters.sql"),
        include_str!("../../src/postgres/migrations/0005_former_ids.sql"),
    ];
    let database = Database::new().await;
    let mut settings = Settings::new(&database.url);
    settings.patience = Duration::from_millis(200);
    let store = PgStore::connect(&settings).await.expect("a store");
    let other = PgStore::connect(&settings).await.expect("a store");
    store.submit(create("sku", 1)).await.expect("opened");
    let mut restored = "BEGIN; DROP SCHEMA public CASCADE; CREATE SCHEMA public;
        CREATE TABLE equipoise_schema (version bigint PRIMARY KEY, applied_at timestamptz DEFAULT now());"
        .to_owned();
    for (version, migration) in (1..).zip(OLDER) {
        restored.push_str(&format!("{migration}; INSERT INTO equipoise_schema (version) VALUES ({version});"));
    }
    database.run(&format!("{restored} COMMIT")).await;
    let until = Instant::now() + SOON;
    while store.submit(opened("o")).await.is_err() || other.submit(update("u", "sku", 1)).await.is_err() {
        assert!(Instant::now() < until, "{:?}", store.unavailable());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(database.one::<i64>("SELECT max(version) FROM equipoise_schema").await, 9);
    assert_eq!(store.balance(&account("sku")).await.expect("read").expect("open").balance, 8);
    database.check().await;

    // Of the older schema by what it says of itself: nobody can bring it up.
    database.run("DELETE FROM equipoise_schema WHERE version = 9").await;
    let until = Instant::now() + SOON;
    while store.unavailable().is_none_or(|why| !why.contains("from version 8 to 9, at migration 9")) {
        assert!(Instant::now() < until, "{:?}", store.unavailable());
        sleep(Duration::from_millis(50)).await;
    }
}

/// D4, D6: a schema that vanishes while instances wait for their turn to bring it up, as in the middle of a restore, is no new ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_no_new_ledger() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 1)).await.expect("opened");
    let locker = database.client().await;
    locker.batch_execute("SELECT pg_advisory_lock(x'65717569706f6973'::bigint)").await.expect("locked");
    database.run("DELETE FROM equipoise_schema WHERE version = 9").await;
    let until = Instant::now() + SOON;
    let waits = "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database())";
    while !database.one::<bool>(waits).await {
        assert!(Instant::now() < until, "{:?}", store.unavailable());
        sleep(Duration::from_millis(50)).await;
    }
    database.run("BEGIN; DROP SCHEMA public CASCADE; CREATE SCHEMA public; COMMIT").await;
    locker.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("unlocked");
    while store.unavailable().is_none_or(|why| !why.contains("a restore is not through")) {
        assert!(Instant::now() < until, "{:?}", store.unavailable());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(database.one::<bool>("SELECT to_regclass('products') IS NULL").await, "a second ledger was begun");
}
