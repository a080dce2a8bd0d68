//! The row that the commit sequence is drawn from.

use crate::harness::{Database, create, update};

/// D10: a snapshot that is kept open, as a dump does, keeps every version of a row that was updated; a commit looks at none but the newest of the
/// row that the commit sequence is drawn from.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_that_is_kept_open_slows_no_commit() {
    const COMMITS: i64 = 20;
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 1)).await.expect("opened");
    drop(store);
    let keeper = database.client().await;
    keeper
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ledger_sequence")
        .await
        .expect("a snapshot");
    let age = "DO $$ BEGIN FOR i IN 1..5000 LOOP UPDATE ledger_sequence SET sequence = sequence + 1; END LOOP; END $$";
    database.run(age).await;
    let before = blocks(&database).await;
    let store = database.store().await;
    for number in 0..COMMITS {
        store.submit(update(&format!("u{number}"), "sku", 1)).await.expect("decided").result().expect("applied");
    }
    drop(store);
    let looked_at = blocks(&database).await - before;
    assert!(looked_at < 30 * COMMITS, "{} blocks a commit", looked_at / COMMITS);
    keeper.batch_execute("ROLLBACK").await.expect("it was kept");
}

/// D2: the versions of before this row had another key draw from it without locking it first, and find it by no key. They go on beside.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_older_version_draws_beside() {
    const DRAWS: i64 = 300;
    let database = Database::new().await;
    let stores = [database.store().await, database.store().await];
    for (number, store) in stores.iter().enumerate() {
        store.submit(create(&format!("sku{number}"), 1)).await.expect("opened");
    }
    let older = database.client().await;
    let draw = "WITH drawn AS (
            UPDATE ledger_sequence SET sequence = sequence + 2, floor_ns = time_ns RETURNING sequence, floor_ns
        )
        INSERT INTO commits (batch, first_sequence, count, time_floor)
        SELECT $1, sequence - 1, 2, floor_ns FROM drawn";
    let drawing = async {
        for number in 1..=DRAWS {
            older.execute(draw, &[&-number]).await.expect("drawn");
        }
    };
    let writing = |which: usize| {
        let (store, sku) = (&stores[which], format!("sku{which}"));
        async move {
            for number in 0..DRAWS {
                let decided = store.submit(update(&format!("{sku} {number}"), &sku, 1)).await;
                decided.expect("decided").result().expect("applied");
            }
        }
    };
    tokio::join!(drawing, writing(0), writing(1));
    let dense =
        "SELECT bool_and(first_sequence = coalesce(next, 1)) AND sum(count) = (SELECT sequence FROM ledger_sequence)
        FROM (SELECT first_sequence, count, lag(first_sequence + count) OVER (ORDER BY first_sequence) AS next
            FROM commits WHERE count > 0) c";
    assert!(database.one::<bool>(dense).await, "the commit sequence has gaps");
    assert_eq!(database.one::<i64>("SELECT sequence FROM ledger_sequence").await, 4 * DRAWS + 2);
}

/// C3: there is one row that sequences are drawn from, and nobody puts another one beside it.
#[tokio::test]
async fn there_is_one_commit_sequence() {
    let database = Database::new().await;
    database.store().await.submit(create("sku", 1)).await.expect("opened");
    let another = "INSERT INTO ledger_sequence (sequence, time_ns, floor_ns) VALUES (7, 0, 0)";
    database.client().await.batch_execute(another).await.expect_err("there is one");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM ledger_sequence").await, 1);
}

/// How often a block of the row that the commit sequence is drawn from was looked at: known once only one session besides is there.
async fn blocks(database: &Database) -> i64 {
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while database.one::<i64>(others).await > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let blocks = "SELECT (heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
        FROM pg_statio_user_tables WHERE relname = 'ledger_sequence'";
    database.one(blocks).await
}

/// D6: whoever brings the schema up, and waits for one that reads a table for long, holds up nobody who writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_migration_that_waits_is_in_nobodys_way() {
    let database = Database::new().await;
    drop(database.store().await);
    // As version 8 left it.
    database
        .run(
            "DROP TRIGGER one_sequence ON ledger_sequence; DROP FUNCTION ledger_has_one_sequence();
            ALTER TABLE ledger_sequence DROP CONSTRAINT ledger_sequence_pkey, ADD CONSTRAINT ledger_sequence_pkey PRIMARY KEY (one);
            DELETE FROM equipoise_schema WHERE version = 9",
        )
        .await;
    let reader = database.client().await;
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ledger_sequence")
        .await
        .expect("a snapshot");
    let writer = database.client().await;
    writer.batch_execute("SET lock_timeout = 1000").await.expect("set");
    let starting = database.store();
    let writing = async {
        for _ in 0..30 {
            writer
                .batch_execute("UPDATE ledger_sequence SET sequence = sequence")
                .await
                .expect("a commit waits for no migration");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let version: i64 = database.one("SELECT max(version) FROM equipoise_schema").await;
        assert_eq!(version, 8, "the reader is there");
        reader.batch_execute("ROLLBACK").await.expect("it was kept");
    };
    let (store, ()) = tokio::join!(starting, writing);
    store.submit(create("sku", 1)).await.expect("decided").result().expect("opened");
}
