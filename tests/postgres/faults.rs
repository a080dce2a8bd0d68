//! Connections that break, and answers that are lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::inventory::{Applied, Event};
use equipoise::postgres::{PgError, PgStore, Settings};
use equipoise::{Outcome, Request};

use crate::harness::{Database, Partition, create, event, update};
use crate::proxy::{Commits, Proxy};

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
    proxy.plan(Commits::CutAfter, 3);
    work(&database, &proxy.url, 40).await;
    assert!(proxy.troubled() >= 10, "{}", proxy.troubled());
}

/// D4, D6, case A19 (b): COMMIT was not heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_is_lost() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    proxy.plan(Commits::CutBefore, 3);
    work(&database, &proxy.url, 40).await;
    assert!(proxy.troubled() >= 10, "{}", proxy.troubled());
}

/// D6, case A19 (c): the answer to COMMIT takes a minute: it is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_takes_too_long_is_not_waited_for() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let store = PgStore::connect(&settings(&proxy.url)).await.expect("a store");
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &events(0)).await.expect("applied");
    proxy.plan(Commits::Hold(Duration::from_secs(60)), 1);
    let run = partition.run(&events(1));
    let started = Instant::now();
    let (applied, ()) = tokio::join!(partition.apply_run(&store, &run), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.plan(Commits::Pass, 1);
    });
    assert_eq!(applied, Ok(Applied { applied: 50, ..Applied::default() }), "what became of it was found out");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(database.one::<i64>("SELECT sum(current_stock)::bigint FROM products").await, 200);
    database.check().await;
}

/// B1, case A19: without an id nobody could ask again; so what became of it is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_without_an_id_is_told_its_own_outcome() {
    let database = Database::new().await;
    let proxy = Proxy::before(&database.url).await;
    let store = PgStore::connect(&settings(&proxy.url)).await.expect("a store");
    for (number, commits) in [Commits::CutAfter, Commits::CutBefore].repeat(5).into_iter().enumerate() {
        proxy.plan(commits, 1);
        let (created, ()) = tokio::join!(store.submit(create(&format!("own{number}"), 1)), async {
            while proxy.troubled() <= number as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            proxy.plan(Commits::Pass, 1);
        });
        created.expect("known").result().expect("not taken for somebody else's");
    }
    assert_eq!(database.one::<i64>("SELECT count(*) FROM products").await, 10);
    database.check().await;
}

/// D6, case A19: the sessions are ended all the time, from before the schema is there. The later ones live a little longer, so that a
/// busy machine gets on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_are_terminated() {
    const AT_ONCE: usize = 5;
    let database = Database::new().await;
    let killer = database.client().await;
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

/// D4: an instance that dies in the middle of a batch leaves all of it or nothing, and its successor goes on.
#[test]
fn an_instance_that_dies_leaves_nothing_half_done() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let watcher = runtime();
    let database = watcher.block_on(Database::new());
    let mut random = crate::harness::Random(1);
    for _ in 0..30 {
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
        assert!(batches > 30 && partition.0.next == Some(batches * 50), "{batches}");
        let stock = "SELECT sum(current_stock)::bigint FROM products";
        assert_eq!(database.one::<i64>(stock).await, batches * 100);
        database.check().await;
    });
    drop(database);
}

/// D6, case A18: a row that somebody else holds is not waited for without end, and nothing is lost by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_locked_row_is_unavailable_for_a_while() {
    let database = Database::new().await;
    let mut settings = settings(&database.url);
    settings.patience = Duration::from_millis(1_500);
    let store = PgStore::connect(&settings).await.expect("a store");
    store.submit(create("sku", 1)).await.expect("opened");
    let locker = database.client().await;
    locker.batch_execute("BEGIN; SELECT * FROM products FOR UPDATE").await.expect("locked");
    let started = Instant::now();
    let refused = store.submit(update("u", "sku", 1)).await.expect_err("locked");
    assert!(matches!(refused, PgError::Unavailable { .. }), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    locker.batch_execute("ROLLBACK").await.expect("unlocked");
    assert_eq!(call(&store, update("u", "sku", 1)).await.result().expect("applied")[0].balance, 2);
    database.check().await;
}
