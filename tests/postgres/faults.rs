//! Connections that break, and answers that are lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::inventory::{Applied, Event, Store as _, StoreError};
use equipoise::postgres::{PgError, PgStore, Settings};
use equipoise::{Outcome, Request};

use crate::backup;
use crate::harness::{Database, Partition, SOON, TOPIC, create, event, update};
use crate::proxy::{Proxy, Trouble};

fn settings(url: &str) -> Settings {
    let mut settings = Settings::new(url);
    settings.statement_timeout = Duration::from_secs(1);
    settings.connect_timeout = Duration::from_secs(1);
    settings.patience = Duration::from_secs(4);
    settings.wait_for_start = Duration::from_secs(60);
    settings
}

/// As a client does: the same id again, until there is an answer.
async fn call(store: &PgStore, request: Request) -> Outcome {
    loop {
        match store.submit(request.clone()).await {
            Ok(outcome) => return outcome,
            Err(PgError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn events(batch: i64) -> Vec<Event> {
    (0..50).map(|number| event(&format!("e{batch}-{number}"), &format!("sku{}", number % 5), 2)).collect()
}

/// Consumes and calls while something happens, then compares: everything once.
async fn work(database: &Database, url: &str, batches: i64) {
    let store = Arc::new(PgStore::connect(&settings(url)).await.expect("a store"));
    call(&store, Request::single(create("called", 0).members()[0].operation.clone(), Some(crate::harness::id("open"))))
        .await;
    let caller = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..batches * 4 {
                let outcome = call(&store, update(&format!("call{number}"), "called", 1)).await;
                assert_eq!(outcome.result().expect("applied")[0].balance, number + 1);
            }
        })
    };
    let mut partition = Partition::take(&store, 0).await;
    let first = partition.0.next.unwrap_or(0);
    for batch in 0..batches {
        let applied = partition.apply(&store, &events(batch)).await.expect("neither fenced nor failed");
        assert_eq!((applied.dead_letters, applied.rejected), (0, 0));
    }
    caller.await.expect("every answer was right");
    let stock = "SELECT sum(current_stock)::bigint FROM products WHERE sku LIKE 'sku%'";
    assert_eq!(database.one::<i64>(stock).await, batches * 100);
    assert_eq!(database.one::<i64>("SELECT current_stock FROM products WHERE sku = 'called'").await, batches * 4);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!(database.one::<i64>("SELECT next_offset FROM consumer_offsets").await, first + batches * 50);
    database.check().await;
}

/// D4, D6, case A19 (a): COMMIT was heard and not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_to_a_commit_is_lost() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    proxy.plan(Trouble::CutAfter, 6);
    work(&database, &proxy.url, 40).await;
    assert!(proxy.troubled() >= 10, "{}", proxy.troubled());
}

/// D4, D6, case A19 (b): COMMIT was not heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_is_lost() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    proxy.plan(Trouble::CutBefore, 6);
    work(&database, &proxy.url, 40).await;
    assert!(proxy.troubled() >= 10, "{}", proxy.troubled());
}

/// D6, case A19 (c): the answer to COMMIT takes very long: it is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_takes_too_long_is_not_waited_for() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let store = PgStore::connect(&settings(&proxy.url)).await.expect("a store");
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &events(0)).await.expect("applied");
    proxy.plan(Trouble::Hold(10 * SOON), 1);
    let run = partition.run(&events(1));
    let started = Instant::now();
    let (applied, ()) = tokio::join!(partition.apply_run(&store, &run), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.plan(Trouble::None, 1);
    });
    assert_eq!(applied, Ok(Applied { applied: 50, ..Applied::default() }), "what became of it was found out");
    assert!(started.elapsed() < 5 * SOON, "{:?}", started.elapsed());
    assert_eq!(database.one::<i64>("SELECT sum(current_stock)::bigint FROM products").await, 200);
    database.check().await;
}

/// B1, case A19: without an id nobody could ask again; so what became of it is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_without_an_id_is_told_its_own_outcome() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let store = PgStore::connect(&settings(&proxy.url)).await.expect("a store");
    for (number, trouble) in [Trouble::CutAfter, Trouble::CutBefore].repeat(5).into_iter().enumerate() {
        proxy.plan(trouble, 1);
        let (created, ()) = tokio::join!(store.submit(create(&format!("own{number}"), 1)), async {
            while proxy.troubled() <= number as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            proxy.plan(Trouble::None, 1);
        });
        created.expect("known").result().expect("not taken for somebody else's");
    }
    assert_eq!(database.one::<i64>("SELECT count(*) FROM products").await, 10);
    database.check().await;
}

/// D2, D4: BEGIN fails, and PostgreSQL hears what was sent behind it outside of any transaction: none of it may be kept alone. So
/// it is where a standby is promoted at that moment, or somebody cancels a statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_that_was_not_begun_keeps_nothing() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let (other, store) = (database.store().await, PgStore::connect(&settings(&proxy.url)).await.expect("a store"));
    other.submit(create("own", 0)).await.expect("opened");
    for number in 0..20 {
        // Some of the statements find what they expect, and others do not.
        other.submit(update(&format!("other{number}"), "own", 1)).await.expect("updated");
        proxy.plan(Trouble::CancelBegin, 1);
        let request = update(&format!("own{number}"), "own", 1);
        let (updated, ()) = tokio::join!(store.submit(request), async {
            while proxy.troubled() <= number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            proxy.plan(Trouble::None, 1);
        });
        let states = updated.expect("known").result().expect("applied");
        assert_eq!(states[0].balance.cast_unsigned(), 2 * (number + 1));
        database.check().await;
    }
    proxy.plan(Trouble::CancelBegin, 6);
    work(&database, &proxy.url, 40).await;
}

/// D2, D4: the database is put back to an earlier state under two instances that live on. Nothing counts as done that it does not
/// hold, and batch numbers that are drawn from it for a second time are no reason to refuse anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_is_restored_to_an_earlier_state() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 0)).await.expect("opened");
    store.close().await;
    drop(store);
    backup::save(&database.url).await;
    let (store, other) = (database.store().await, database.store().await);
    for number in 0..10 {
        let request = update(&format!("lost{number}"), "sku", 1);
        assert_eq!(store.submit(request).await.expect("decided").result().expect("applied")[0].balance, number + 1);
    }
    backup::restore(&database.url).await;
    for (number, store) in [&other, &store, &other, &store].into_iter().enumerate() {
        let outcome = call(store, update(&format!("lost{number}"), "sku", 1)).await;
        assert!(!outcome.replayed(), "the database does not hold lost{number}");
        assert_eq!(outcome.result().expect("applied")[0].balance, number as i64 + 1);
    }
    database.check().await;
}

/// D2, D4: a dump is restored in place, in one transaction: no connection breaks. What was consumed since then is consumed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_is_restored_in_place() {
    let database = Database::new().await;
    let store = PgStore::connect(&settings(&database.url)).await.expect("a store");
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &events(0)).await.expect("applied");
    let tables = ["products", "processed_events", "commits", "ledger_sequence", "journal_entries", "consumer_offsets"];
    for table in tables {
        database.run(&format!("CREATE TABLE saved_{table} AS TABLE {table}")).await;
    }
    partition.apply(&store, &events(1)).await.expect("applied");
    let put_back = tables.map(|table| format!("DELETE FROM {table}; INSERT INTO {table} TABLE saved_{table};"));
    let put_back = put_back.concat();
    database
        .run(&format!(
            "BEGIN; ALTER TABLE journal_entries DISABLE TRIGGER ALL; {put_back}
            ALTER TABLE journal_entries ENABLE TRIGGER ALL; COMMIT"
        ))
        .await;
    let run = partition.run(&events(2));
    let fenced = partition.apply_run(&store, &run).await;
    assert_eq!(fenced, Err(StoreError::Fenced { partitions: vec![0] }));
    let mut partition = Partition::take(&store, 0).await;
    let again = partition.apply(&store, &events(1)).await;
    assert_eq!(again, Ok(Applied { applied: 50, ..Applied::default() }), "the database does not hold them");
    // The commit sequence tells whoever consumes nothing.
    store.submit(update("u", "sku0", 1)).await.expect("decided");
    database
        .run("DELETE FROM processed_events WHERE event_id = 'u'; ALTER TABLE journal_entries DISABLE TRIGGER ALL")
        .await;
    let of_u = "(SELECT batch FROM journal_entries WHERE transaction_id = 'u')";
    database
        .run(&format!(
            "BEGIN; UPDATE products SET version = version - 1, current_stock = current_stock - 1 WHERE sku = 'sku0';
            DELETE FROM commits WHERE batch = {of_u}; DELETE FROM journal_entries WHERE batch = {of_u};
            UPDATE ledger_sequence SET sequence = sequence - 1; COMMIT"
        ))
        .await;
    store.submit(update("v", "sku1", 1)).await.expect("decided").result().expect("applied");
    assert!(!store.submit(update("u", "sku0", 1)).await.expect("decided").replayed(), "it is not held");
    database.check().await;
}

/// D6: an id that somebody put in by hand, for which the journal shows nothing: said, not tried for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_id_without_its_entry_is_told() {
    let database = Database::new().await;
    let store = PgStore::connect(&settings(&database.url)).await.expect("a store");
    store.submit(create("sku", 1)).await.expect("opened");
    database
        .run("INSERT INTO processed_events (event_id, product_id, batch, place, member) VALUES ('x', 'sku', 0, 0, 0)")
        .await;
    let refused = store.submit(update("x", "sku", 1)).await.expect_err("nobody knows what it was used for");
    assert!(matches!(&refused, PgError::Failed { what } if what.contains("the journal does not show")), "{refused}");
    store.submit(update("y", "sku", 1)).await.expect("others go on").result().expect("applied");
}

/// D2, case A19: the sequence that batch numbers are drawn from is back at its beginning, as after a dump without sequences.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batch_numbers_that_are_taken_are_passed_over() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 0)).await.expect("opened");
    database.run("SELECT setval('ledger_batches', 1, false)").await;
    let other = database.store().await;
    let mut partition = Partition::take(&other, 0).await;
    let applied = partition.apply(&other, &events(0)).await;
    assert_eq!(applied, Ok(Applied { applied: 50, ..Applied::default() }));
    other.submit(update("u", "sku", 1)).await.expect("decided").result().expect("applied");
    database.check().await;
}

/// D2, D6: however many of them are taken: each block of them is found taken at once, and ever more are left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_batch_numbers_that_are_taken_are_passed_over_soon() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 0)).await.expect("opened");
    database
        .run(
            "INSERT INTO commits (batch, first_sequence, count, time_floor)
            SELECT 1024 * n + 1, 0, 0, 0 FROM generate_series(1, 100000) AS n",
        )
        .await;
    database.run("SELECT setval('ledger_batches', 1, false)").await;
    let other = database.store().await;
    let began = Instant::now();
    other.submit(update("u", "sku", 1)).await.expect("decided").result().expect("applied");
    // Each of them alone would take minutes.
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    database.check().await;
}

/// D6, case A19: the sessions are ended all the time, from before the schema is there. The later ones live a little longer, so that a
/// busy machine gets on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_are_terminated() {
    const AT_ONCE: usize = 5;
    let database = Database::new().await;
    let killer = database.client().await;
    // Nobody makes the schema before the first was killed.
    killer.batch_execute("SELECT pg_advisory_lock(x'65717569706f6973'::bigint)").await.expect("locked");
    let killing = tokio::spawn(async move {
        let kill = "SELECT pg_terminate_backend(pid), to_regclass('pruned_ids') IS NULL FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'equipoise'
                AND backend_start < clock_timestamp() - make_interval(secs => $1)";
        let (mut killed, mut early) = (0_usize, 0);
        while killed < 40 {
            let later = killed.saturating_sub(AT_ONCE);
            tokio::time::sleep(Duration::from_millis(if later == 0 { 1 } else { 100 })).await;
            let victims = killer.query(kill, &[&(0.01 * later as f64)]).await.expect("killed");
            killed += victims.len();
            if killed > 0 {
                killer.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("unlocked");
            }
            early += victims.iter().filter(|victim| victim.get(1)).count();
        }
        early
    });
    let mut batches = 0;
    while !killing.is_finished() {
        batches += 20;
        work(&database, &database.url, batches).await;
    }
    let early = killing.await.expect("no panic");
    assert!(early > 0, "no session was ended before the schema was there");
}

/// D2, D6, case A19: whatever statement runs is cancelled, all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn statements_are_cancelled() {
    let database = Database::new().await;
    let canceller = database.client().await;
    let cancelling = tokio::spawn(async move {
        // Not while the schema is brought up: that would take long.
        let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'equipoise' AND state <> 'idle'
                AND to_regclass('pruned_ids') IS NOT NULL";
        let mut cancelled = 0;
        while cancelled < 100 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            cancelled += canceller.query_one(cancel, &[]).await.expect("cancelled").get::<_, i64>(0);
        }
    });
    let mut batches = 0;
    while !cancelling.is_finished() {
        batches += 50;
        work(&database, &database.url, batches).await;
    }
    cancelling.await.expect("no panic");
}

/// D6: what the statements read comes in another form, as when a newer version brings the schema up while this one runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_journal_gains_a_column() {
    let database = Database::new().await;
    let store = PgStore::connect(&settings(&database.url)).await.expect("a store");
    let other = database.store().await;
    store.submit(create("sku", 0)).await.expect("opened");
    for number in 0..4 {
        let request = update(&format!("u{number}"), "sku", 1);
        other.submit(request.clone()).await.expect("decided").result().expect("applied");
        let view: String = database.one("SELECT pg_get_viewdef('journal')").await;
        let more = view.replacen("FROM (", &format!(", {number} AS more{number} FROM ("), 1);
        database.run(&format!("CREATE OR REPLACE VIEW journal AS {more}")).await;
        let again = store.submit(request).await.expect("decided");
        assert!(again.replayed(), "looked up in the journal");
        assert_eq!(store.history(1, 100).await.expect("read").len() as i64, number + 2);
        assert!(store.transaction(&crate::harness::id("u0")).await.expect("read").is_some());
    }
    database.check().await;
}

/// D6: a column of another type than ours is told, at every door, and ends nothing: put right, all goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_column_of_another_type_is_told() {
    let database = Database::new().await;
    let store = PgStore::connect(&settings(&database.url)).await.expect("a store");
    store.submit(create("sku", 0)).await.expect("opened");
    database.run("ALTER TABLE ledger_sequence ALTER sequence TYPE integer").await;
    let refused = store.submit(update("u", "unknown", 1)).await.expect_err("not to be read");
    assert!(matches!(&refused, PgError::Failed { what } if what.contains("int4")), "{refused}");
    let refused = store.sequence().await.expect_err("not to be read");
    assert!(matches!(&refused, PgError::Failed { what } if what.contains("int4")), "{refused}");
    database.run("ALTER TABLE ledger_sequence ALTER sequence TYPE bigint").await;
    store.submit(update("v", "sku", 1)).await.expect("decided").result().expect("applied");
    database.run("ALTER TABLE consumer_offsets ALTER partition TYPE bigint").await;
    let refused = store.take_over(TOPIC, &[0]).await.expect_err("not to be read");
    assert!(matches!(&refused, StoreError::Failed { what } if what.contains("int8")), "{refused}");
    database.run("ALTER TABLE consumer_offsets ALTER partition TYPE integer").await;
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &events(0)).await.expect("applied");
    database.check().await;
}

/// D6: a store whose writer ended is not said to be usable. What it holds can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_a_writer_says_so() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 1)).await.expect("opened");
    assert_eq!(store.unavailable(), None);
    store.close().await;
    assert!(store.unavailable().is_some_and(|why| why.contains("writer")), "{:?}", store.unavailable());
    assert_eq!(store.balance(&crate::harness::account("sku")).await.expect("read").expect("open").balance, 1);
}

/// D6, D8: of several hosts one that takes connections and says nothing, as a hung server, keeps nobody from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_hangs_is_passed_over() {
    let database = Database::new().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let hosts = database.url.replacen("@", &format!("@127.0.0.1:{port},"), 1);
    let store = PgStore::connect(&settings(&hosts)).await.expect("the other one answers");
    store.submit(create("sku", 1)).await.expect("decided").result().expect("opened");
    assert_eq!(store.balance(&crate::harness::account("sku")).await.expect("read").expect("open").balance, 1);
}

/// D6: a read that nobody waits for any more leaves its failure to nobody who comes when the database is there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_nobody_heard_is_nobody_elses() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let store = PgStore::connect(&settings(&proxy.url)).await.expect("a store");
    let sku = crate::harness::account("sku");
    proxy.slow_down(Duration::from_secs(60));
    tokio::time::timeout(Duration::from_millis(100), store.balance(&sku))
        .await
        .expect_err("there is no connection yet");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    proxy.slow_down(Duration::ZERO);
    assert_eq!(store.balance(&sku).await.expect("read"), None::<equipoise::AccountState>);
}

/// D4: an instance that dies in the middle of a batch leaves all of it or nothing, and its successor goes on.
#[test]
fn an_instance_that_dies_leaves_nothing_half_done() {
    const APPLIED: &str = "SELECT coalesce(max(next_offset), 0) FROM consumer_offsets";
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let watcher = runtime();
    let database = watcher.block_on(Database::new());
    let mut random = crate::harness::Random(1);
    let (began, mut lives) = (Instant::now(), 0);
    let applied = || watcher.block_on(database.one::<i64>(APPLIED));
    // So many lives, and as many more as it takes until some batches were applied between their ends.
    while lives < 30 || applied() <= 30 * 50 {
        assert!(began.elapsed() < 2 * SOON, "{} events in {lives} lives", applied());
        lives += 1;
        let url = database.url.clone();
        let dying = runtime();
        dying.spawn(async move {
            let store = PgStore::connect(&settings(&url)).await.expect("a store");
            let mut partition = Partition::take(&store, 0).await;
            loop {
                let batch = partition.0.next.unwrap_or(0) / 50;
                partition.apply(&store, &events(batch)).await.expect("applied");
            }
        });
        std::thread::sleep(Duration::from_millis(150 + random.below(200)));
        // Every task is dropped where it stands, and so is the connection.
        dying.shutdown_background();
    }
    watcher.block_on(async {
        let store = database.store().await;
        let partition = Partition::take(&store, 0).await;
        let batches = partition.0.next.expect("some were applied") / 50;
        assert_eq!(partition.0.next, Some(batches * 50));
        let stock = "SELECT sum(current_stock)::bigint FROM products";
        assert_eq!(database.one::<i64>(stock).await, batches * 100);
        database.check().await;
    });
    drop(database);
}

/// D6, case A10: a database to which the way is slow is there: what is said of it does not change with every look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_to_the_database_is_no_outage() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let store = PgStore::connect(&Settings::new(&proxy.url)).await.expect("a store");
    proxy.slow_down(Duration::from_secs(4));
    let ours = "FROM pg_stat_activity WHERE application_name = 'equipoise' AND datname = current_database()";
    database.run(&format!("SELECT pg_terminate_backend(pid) {ours}")).await;
    let latest = Instant::now() + Duration::from_secs(12);
    while Instant::now() < latest {
        assert_eq!(store.unavailable(), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.submit(create("sku", 1)).await.expect("decided");
}
