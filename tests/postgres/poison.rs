//! What only PostgreSQL refuses.

use equipoise::inventory::{Applied, Store as _};

use crate::harness::{Database, Partition, create, event, update};

/// D6, case A17: PostgreSQL refuses some events of a batch: they become dead letters, and all the others are applied.
#[tokio::test]
async fn what_postgres_refuses_is_isolated() {
    let database = Database::new().await;
    let store = database.store().await;
    database.run("ALTER TABLE processed_events ADD CONSTRAINT no_poison CHECK (event_id NOT LIKE 'poison%')").await;
    let mut partition = Partition::take(&store, 0).await;
    let poisoned = [300, 500, 501, 700, 999];
    let events: Vec<_> = (0..1_000)
        .map(|number| {
            let kind = if poisoned.contains(&number) { "poison" } else { "e" };
            event(&format!("{kind}{number}"), &format!("sku{}", number % 7), 1)
        })
        .collect();
    let applied = partition.apply(&store, &events).await.expect("applied");
    assert_eq!(applied, Applied { applied: 995, dead_letters: 5, ..Applied::default() });
    let letters = store.dead_letters(10).await.expect("letters");
    let offsets: Vec<_> = letters.iter().map(|stored| stored.letter.offset).collect();
    assert_eq!(offsets, poisoned);
    let reason = &letters[0].letter.reason;
    assert!(reason.starts_with("PostgreSQL refuses it: ") && reason.contains("no_poison"), "{reason}");
    assert_eq!(letters[0].letter.value, Some(b"value\0".to_vec()));
    assert_eq!(database.one::<i64>("SELECT sum(current_stock)::bigint FROM products").await, 995);
    database.check().await;
}

/// D6: what is refused may depend on what the events before it made of an account.
#[tokio::test]
async fn the_event_that_goes_too_far_is_the_one_refused() {
    let database = Database::new().await;
    let store = database.store().await;
    database.run("ALTER TABLE products ADD CONSTRAINT shelf CHECK (current_stock <= 10)").await;
    let mut partition = Partition::take(&store, 0).await;
    let events = [("a", 6), ("b", 6), ("c", -3), ("d", 6), ("e", 20), ("f", 1)];
    let events = events.map(|(id, change)| event(id, "sku", change));
    let applied = partition.apply(&store, &events).await.expect("applied");
    // PostgreSQL sees what a batch ends with: b is no harm since c comes with it; d is, and e.
    assert_eq!(applied.dead_letters, 2, "{applied:?}");
    let offsets: Vec<_> =
        store.dead_letters(10).await.expect("letters").iter().map(|stored| stored.letter.offset).collect();
    assert_eq!(offsets, [3, 4]);
    assert_eq!(database.one::<i64>("SELECT current_stock FROM products").await, 10);
    database.check().await;
}

/// D6: a call that PostgreSQL refuses is told so, and its neighbours are decided.
#[tokio::test]
async fn a_refused_call_is_told() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 0)).await.expect("opened");
    database.run("ALTER TABLE processed_events ADD CONSTRAINT no_poison CHECK (event_id NOT LIKE 'poison%')").await;
    let calls = ["a", "poison", "b"].map(|id| store.submit(update(id, "sku", 1)));
    let [a, poison, b] = calls;
    let (a, poison, b) = tokio::join!(a, poison, b);
    assert!(a.is_ok() && b.is_ok());
    assert!(poison.expect_err("refused").to_string().starts_with("PostgreSQL refuses it: "));
    assert_eq!(database.one::<i64>("SELECT current_stock FROM products").await, 2);
    database.check().await;
}

/// D6: a batch of nothing but refused events ends in bounded time.
#[tokio::test]
async fn nothing_but_poison() {
    let database = Database::new().await;
    let store = database.store().await;
    database.run("ALTER TABLE processed_events ADD CONSTRAINT no_poison CHECK (event_id NOT LIKE 'poison%')").await;
    let mut partition = Partition::take(&store, 0).await;
    let events: Vec<_> = (0..200).map(|number| event(&format!("poison{number}"), "sku", 1)).collect();
    let applied = partition.apply(&store, &events).await.expect("applied");
    assert_eq!(applied, Applied { dead_letters: 200, ..Applied::default() });
    database.check().await;
}

/// D6: an instance that remembers an account as it was is not kept from finding the poison, however much of it there is.
#[tokio::test]
async fn poison_beside_what_another_instance_changed() {
    let database = Database::new().await;
    let (store, other) = (database.store().await, database.store().await);
    database.run("ALTER TABLE processed_events ADD CONSTRAINT no_poison CHECK (event_id NOT LIKE 'poison%')").await;
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &[event("a", "sku", 1), event("b", "sku2", 1)]).await.expect("applied");
    other.submit(update("c", "sku", 5)).await.expect("decided");
    let events = [event("d", "sku", -6), event("poison", "sku2", 1), event("e", "sku2", -1)];
    let applied = partition.apply(&store, &events).await.expect("applied");
    assert_eq!((applied.applied, applied.dead_letters), (2, 1));
    assert_eq!(database.one::<i64>("SELECT sum(current_stock)::bigint FROM products").await, 0);
    database.check().await;
}
