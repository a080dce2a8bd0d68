//! Rows that somebody else has locked.

use std::time::Instant;

use equipoise::inventory::{Applied, Store as _, StoreError};
use equipoise::postgres::{PgError, PgStore, Settings};

use crate::harness::{Database, Partition, SOON, TOPIC, create, event, update};

/// How often what needs a locked row is sent again: to wait for it each time would take a second each.
const ROUNDS: i64 = 20;

/// D2, D6, D7, case A18: what needs a locked row is told so and loses nothing; the rest goes on, and does not wait again for the same row.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_locked_row_holds_up_only_what_needs_it() {
    let database = Database::new().await;
    let store = PgStore::connect(&Settings::new(&database.url)).await.expect("a store");
    for sku in ["locked", "free"] {
        store.submit(create(sku, 1)).await.expect("opened");
    }
    let [mut bad, mut good] = [Partition::take(&store, 0).await, Partition::take(&store, 1).await];
    let locker = database.client().await;
    locker.batch_execute("BEGIN; SELECT * FROM products WHERE sku = 'locked' FOR UPDATE").await.expect("locked");
    let mut began = Instant::now();
    for round in 0..ROUNDS {
        let name = |what: &str| format!("{what}{round}");
        let runs = [bad.run(&[event("e", "locked", 1)]), good.run(&[event(&name("g"), "free", 1)])];
        let (refused, updated, applied) = tokio::join!(
            store.submit(update("u", "locked", 1)),
            store.submit(update(&name("f"), "free", 1)),
            store.apply(TOPIC, &runs),
        );
        let refused = refused.expect_err("locked");
        assert!(
            matches!(&refused, PgError::Unavailable { what } if what.contains("locked the row of locked")),
            "{refused}"
        );
        updated.expect("decided").result().expect("applied");
        let held = Applied { applied: 1, ..Applied::default() };
        match applied {
            Err(StoreError::Held { partitions, applied }) => {
                assert_eq!((partitions, applied.applied), (vec![0], held.applied));
            }
            other => panic!("{other:?}"),
        }
        good.0.next = Some(round + 1);
        if round == 0 {
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            began = Instant::now();
        }
    }
    assert!(
        began.elapsed().as_secs() < ROUNDS as u64 / 2,
        "the same row is not waited for again: {:?}",
        began.elapsed()
    );
    locker.batch_execute("ROLLBACK").await.expect("unlocked");
    store.submit(update("u", "locked", 1)).await.expect("decided").result().expect("applied");
    bad.apply(&store, &[event("e", "locked", 1)]).await.expect("applied");
    database.check().await;
}

/// D6: the row of a partition, as when somebody corrects an offset and does not come to the end of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_locked_partition_holds_up_no_other() {
    let database = Database::new().await;
    let store = PgStore::connect(&Settings::new(&database.url)).await.expect("a store");
    let [mut bad, good] = [Partition::take(&store, 0).await, Partition::take(&store, 1).await];
    let locker = database.client().await;
    locker.batch_execute("BEGIN; SELECT * FROM consumer_offsets WHERE partition = 0 FOR UPDATE").await.expect("locked");
    let began = Instant::now();
    let runs = [bad.run(&[event("a", "sku", 1)]), good.run(&[event("b", "sku", 1)])];
    let held = store.apply(TOPIC, &runs).await;
    assert!(matches!(&held, Err(StoreError::Held { partitions, .. }) if partitions == &[0]), "{held:?}");
    store.submit(update("c", "sku", 1)).await.expect("decided").result().expect("applied");
    for (wanted, taken) in [(&[0, 1, 2][..], &[1, 2][..]), (&[0][..], &[][..])] {
        let positions = store.take_over(TOPIC, wanted).await.expect("the free ones");
        assert_eq!(positions.iter().map(|position| position.partition).collect::<Vec<_>>(), taken);
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // The one that comes to it first waits for it.
    let other = PgStore::connect(&Settings::new(&database.url)).await.expect("a store");
    assert_eq!(other.take_over(TOPIC, &[1, 0]).await.expect("the free one").len(), 1);
    locker.batch_execute("ROLLBACK").await.expect("unlocked");
    bad.apply(&store, &[event("a", "sku", 1)]).await.expect("applied");
    assert_eq!(database.one::<i64>("SELECT current_stock FROM products").await, 3);
    assert_eq!(store.take_over(TOPIC, &[0, 1]).await.expect("both").len(), 2);
    database.check().await;
}

/// D2, D7: a product that another instance changes all the time is no locked row, also when it is looked at because of one that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_that_instances_take_in_turn_is_not_locked() {
    let database = Database::new().await;
    let connect = async || PgStore::connect(&Settings::new(&database.url)).await.expect("a store");
    let (store, other) = (connect().await, connect().await);
    for sku in ["locked", "hot"] {
        store.submit(create(sku, 1)).await.expect("opened");
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let busy = tokio::spawn(async move {
        let mut count = 0;
        while stopped.try_recv().is_err() {
            other.submit(update(&format!("busy{count}"), "hot", 1)).await.expect("decided").result().expect("applied");
            count += 1;
        }
        count
    });
    let locker = database.client().await;
    locker.batch_execute("BEGIN; SELECT * FROM products WHERE sku = 'locked' FOR UPDATE").await.expect("locked");
    for round in 0..20 {
        let (refused, applied) = tokio::join!(
            store.submit(update("u", "locked", 1)),
            store.submit(update(&format!("hot{round}"), "hot", 1)),
        );
        refused.expect_err("locked");
        applied.expect("nobody else has it for long").result().expect("applied");
    }
    stop.send(()).expect("it is busy");
    let count = busy.await.expect("nothing fails");
    locker.batch_execute("ROLLBACK").await.expect("unlocked");
    assert_eq!(database.one::<i64>("SELECT current_stock FROM products WHERE sku = 'hot'").await, 21 + count);
    database.check().await;
}

/// D6, D7: a new product or id that a person has inserted and not committed holds up what needs it, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_row_that_nobody_sees_yet_holds_up_only_what_needs_it() {
    let database = Database::new().await;
    let store = PgStore::connect(&Settings::new(&database.url)).await.expect("a store");
    store.submit(create("free", 1)).await.expect("opened");
    let [mut bad, mut good] = [Partition::take(&store, 0).await, Partition::take(&store, 1).await];
    let locker = database.client().await;
    let insert = "BEGIN; INSERT INTO products (sku) VALUES ('new'), ('newer');
        INSERT INTO processed_events (event_id, product_id, batch, place, member) VALUES ('taken', 'free', 0, 0, 0)";
    locker.batch_execute(insert).await.expect("inserted");
    let mut began = Instant::now();
    for round in 0..ROUNDS {
        let name = |what: &str| format!("{what}{round}");
        let many: Vec<_> = (0..100).map(|n| event(&format!("g{round}-{n}"), &format!("sku{round}-{n}"), 1)).collect();
        let runs = [bad.run(&[event("e", "new", 1)]), good.run(&many)];
        let (opened, refused, updated, applied) = tokio::join!(
            store.submit(create("newer", 1)),
            store.submit(update("taken", "free", 1)),
            store.submit(update(&name("f"), "free", 1)),
            store.apply(TOPIC, &runs),
        );
        for (refused, what) in [(opened, "newer in products"), (refused, "taken in processed_events")] {
            let refused = refused.expect_err("locked");
            assert!(matches!(&refused, PgError::Unavailable { what: why } if why.contains(what)), "{refused}");
        }
        updated.expect("decided").result().expect("applied");
        match applied {
            Err(StoreError::Held { partitions, applied }) => assert_eq!((partitions, applied.applied), (vec![0], 100)),
            other => panic!("{other:?}"),
        }
        good.0.next = Some((round + 1) * 100);
        if round == 0 {
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            began = Instant::now();
        }
    }
    assert!(
        began.elapsed().as_secs() < ROUNDS as u64 / 2,
        "the same rows are not waited for again: {:?}",
        began.elapsed()
    );
    locker.batch_execute("ROLLBACK").await.expect("given up");
    store.submit(create("newer", 1)).await.expect("decided").result().expect("opened");
    store.submit(update("taken", "free", 1)).await.expect("decided").result().expect("applied");
    bad.apply(&store, &[event("e", "new", 1)]).await.expect("applied");
    good.apply(&store, &[event("last", "free", 1)]).await.expect("applied");
    database.check().await;
}

/// D6: what a person has inserted and then committed is there, and what was set aside for it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_new_rows_are_waited_for_and_used() {
    let database = Database::new().await;
    let store = PgStore::connect(&Settings::new(&database.url)).await.expect("a store");
    let mut partition = Partition::take(&store, 0).await;
    let locker = database.client().await;
    let insert =
        "BEGIN; INSERT INTO products (sku, current_stock) SELECT 'new' || n, 10 FROM generate_series(0, 999) AS n";
    locker.batch_execute(insert).await.expect("inserted");
    let events: Vec<_> = (0..1_000).map(|n| event(&format!("e{n}"), &format!("new{n}"), -1)).collect();
    let run = partition.run(&events);
    let began = Instant::now();
    let held = store.apply(TOPIC, std::slice::from_ref(&run)).await;
    assert!(matches!(held, Err(StoreError::Held { .. })), "{held:?}");
    store.submit(create("free", 1)).await.expect("decided").result().expect("opened");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    locker.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(partition.apply_run(&store, &run).await.expect("applied").applied, 1_000);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM products WHERE current_stock = 9").await, 1_000);
}

/// D7: an order that refers to a product, and is not committed, has nobody wait for that product: with a stock that is read before it is
/// changed, with a change that is refused, and beside a row that is locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reference_to_a_product_locks_nothing() {
    let database = Database::new().await;
    let store = PgStore::connect(&Settings::new(&database.url)).await.expect("a store");
    for sku in ["ordered", "locked"] {
        store.submit(create(sku, 1)).await.expect("opened");
    }
    database.run("CREATE TABLE orders (sku text COLLATE \"C\" REFERENCES products)").await;
    let ordering = database.client().await;
    ordering.batch_execute("BEGIN; INSERT INTO orders VALUES ('ordered')").await.expect("ordered");
    database.run("UPDATE products SET current_stock = 5 WHERE sku = 'ordered'").await;
    let outcome = store.submit(update("a", "ordered", 1)).await.expect("decided");
    assert_eq!(outcome.result().expect("applied")[0].balance, 6);
    store.submit(update("b", "ordered", -7)).await.expect("decided").result().expect_err("not so many");
    let locker = database.client().await;
    locker.batch_execute("BEGIN; SELECT * FROM products WHERE sku = 'locked' FOR UPDATE").await.expect("locked");
    let (refused, applied) =
        tokio::join!(store.submit(update("u", "locked", 1)), store.submit(update("c", "ordered", 1)));
    refused.expect_err("locked");
    applied.expect("nobody has it").result().expect("applied");
    ordering.batch_execute("COMMIT").await.expect("ordered");
}
