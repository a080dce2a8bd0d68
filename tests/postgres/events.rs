//! Events and what they come to.

use std::sync::Arc;

use equipoise::inventory::{Applied, Content, Run, Store as _, StoreError};
use equipoise::postgres::{PgStore, Settings};

use crate::harness::{Database, Partition, TOPIC, account, create, event, letter, update};

/// D3: an event that comes again changes nothing, in one batch, in the next, and after a restart.
#[tokio::test]
async fn a_duplicate_is_applied_once() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    let twice = [event("a", "sku", 5), event("a", "sku", 5), event("b", "sku", -2)];
    let applied = partition.apply(&store, &twice).await.expect("applied");
    assert_eq!(applied, Applied { applied: 2, duplicates: 1, ..Applied::default() });
    let applied = partition.apply(&store, &twice[..1]).await.expect("applied");
    assert_eq!(applied, Applied { duplicates: 1, ..Applied::default() });
    store.close().await;

    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    assert_eq!(partition.0.next, Some(4));
    assert_eq!(partition.0.fingerprint, 28);
    let applied = partition.apply(&store, &twice).await.expect("applied");
    assert_eq!((applied.applied, applied.duplicates), (0, 3));
    let state = store.balance(&account("sku")).await.expect("readable").expect("open");
    assert_eq!((state.balance, state.version), (3, 3));
    database.check().await;
}

/// D3: two calls of a partition may be under way, and what they hold has its effect once, in order, whichever of the answers is
/// lost; an id that both hold is a duplicate in the second, which was decided before the first was kept.
#[tokio::test]
async fn two_calls_may_be_under_way() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    for round in 0..20 {
        let events: Vec<_> = (0..300).map(|number| event(&format!("{round} {number}"), "sku", 1)).collect();
        let first = partition.run(&events);
        partition.0.next = Some(first.next);
        let more: Vec<_> = (299..600).map(|number| event(&format!("{round} {number}"), "sku", -1)).collect();
        let again = event(&format!("{round} 7"), "sku", 1);
        let second = partition.run(&[&more[1..], &[again]].concat());
        partition.0.next = Some(second.next);
        let (runs, others) = ([first], [second]);
        let (first, second) = tokio::join!(store.apply(TOPIC, &runs), store.apply(TOPIC, &others));
        assert_eq!(first, Ok(Applied { applied: 300, ..Applied::default() }));
        let second = second.expect("applied");
        assert_eq!((second.applied, second.duplicates, second.rejected), (300, 1, 0));
        // As if the answer to the first had been lost: it is through, since the second is.
        assert_eq!(store.apply(TOPIC, &runs).await, Ok(Applied::default()));
    }
    let state = store.balance(&account("sku")).await.expect("readable").expect("open");
    assert_eq!((state.balance, state.version), (0, 1 + 20 * 600));
    database.check().await;
}

/// D3: an id is one id at both doors, whichever used it first.
#[tokio::test]
async fn an_id_is_shared_with_the_calls() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("sku", 10)).await.expect("opened");
    let first = store.submit(update("called", "sku", 1)).await.expect("decided");
    assert!(!first.replayed());
    let mut partition = Partition::take(&store, 0).await;
    let events = [event("called", "sku", 1), event("consumed", "sku", 2), event("called", "sku", 7)];
    let applied = partition.apply(&store, &events).await.expect("applied");
    assert_eq!(applied, Applied { applied: 1, duplicates: 1, dead_letters: 1, ..Applied::default() });
    let letters = store.dead_letters(10).await.expect("letters");
    assert_eq!(letters[0].letter.reason, "event_id called was used with another quantity_change");
    let replay = store.submit(update("consumed", "sku", 2)).await.expect("decided");
    assert!(replay.replayed());
    assert_eq!(replay.result().expect("applied")[0].balance, 13);
    let other = store.submit(update("consumed", "other", 2)).await.expect_err("another account");
    assert_eq!(other.to_string(), "transaction_id consumed was used with another account_id");
    database.check().await;
}

/// D6: a sale of what is not there is recorded under its id, and stays refused.
#[tokio::test]
async fn overselling_is_a_recorded_rejection() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    let events = [event("sale", "sku", -5), event("receipt", "sku", 3), event("sale", "sku", -5)];
    let applied = partition.apply(&store, &events).await.expect("applied");
    assert_eq!(applied, Applied { applied: 1, rejected: 1, duplicates: 1, ..Applied::default() });
    let refused = store.transaction(&crate::harness::id("sale")).await.expect("readable").expect("recorded");
    assert_eq!(refused.result().expect_err("refused").to_string(), "Insufficient balance: current=0, delta=-5");
    assert!(store.dead_letters(1).await.expect("letters").is_empty());
    database.check().await;
}

/// D5: who lost a partition cannot write for it, and only for it; who has it goes on where it was.
#[tokio::test]
async fn a_former_owner_is_fenced() {
    let database = Database::new().await;
    let (old, new) = (database.store().await, database.store().await);
    let mut first = Partition::take(&old, 0).await;
    let mut second = Partition::take(&old, 1).await;
    first.apply(&old, &[event("a", "sku", 5)]).await.expect("applied");
    let mut taken = Partition::take(&new, 0).await;
    assert_eq!((taken.0.epoch, taken.0.next), (first.0.epoch + 1, Some(1)));

    let late = [first.run(&[event("late", "sku", 1)]), second.run(&[event("with it", "sku", 1)])];
    let fenced = old.apply(crate::harness::TOPIC, &late).await;
    assert_eq!(fenced, Err(StoreError::Fenced { partitions: vec![0] }));
    assert_eq!(database.one::<i64>("SELECT count(*) FROM processed_events").await, 1, "nothing of it was kept");
    second.apply(&old, &[event("with it", "sku", 1)]).await.expect("the other partition goes on");
    taken.apply(&new, &[event("b", "sku", 1)]).await.expect("the new owner goes on");
    assert_eq!(database.one::<i64>("SELECT current_stock FROM products").await, 7);
    database.check().await;
}

/// D4: who asks again after an answer that was lost is told that it is done, and is not fenced.
#[tokio::test]
async fn the_same_run_again_has_no_effect() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    let run = partition.run(&[event("a", "sku", 5), event("b", "sku", 5)]);
    partition.apply_run(&store, &run).await.expect("applied");
    assert_eq!(partition.apply_run(&store, &run).await, Ok(Applied::default()));
    assert_eq!(database.one::<i64>("SELECT current_stock FROM products").await, 10);
    // On another instance, which remembers nothing, with new records behind it.
    let other = database.store().await;
    let next = partition.run(&[event("c", "sku", 1)]);
    assert_eq!(partition.apply_run(&other, &next).await.expect("applied").applied, 1);
    assert_eq!(partition.apply_run(&store, &next).await.expect("known").applied, 0);
    database.check().await;
}

/// D6: a partition moves on over what is no record, and its owner alone moves it.
#[tokio::test]
async fn a_run_without_records_moves_a_partition_on() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 0).await;
    partition.apply(&store, &[event("a", "sku", 5)]).await.expect("applied");
    let passing = Run { next: 5, fingerprint: 35, ..partition.run(&[]) };
    for _ in 0..2 {
        assert_eq!(partition.apply_run(&store, &passing).await, Ok(Applied::default()));
    }
    let again = Partition::take(&store, 0).await;
    assert_eq!((again.0.next, again.0.fingerprint), (Some(5), 35));
    let late = partition.apply_run(&store, &passing).await;
    assert_eq!(late, Err(StoreError::Fenced { partitions: vec![0] }));
    database.check().await;
}

/// D6: a record that is not an event becomes a dead letter as it came, and the partition moves on; each once.
#[tokio::test]
async fn malformed_records_are_kept_until_they_are_published() {
    let database = Database::new().await;
    let store = database.store().await;
    let mut partition = Partition::take(&store, 3).await;
    let contents = vec![
        Content::Malformed(Arc::new(letter(3, 0, "event_id is missing \0"))),
        Content::Tombstone,
        Content::Event { event: event("a", "sku", 1), original: Arc::new(letter(3, 0, "")) },
    ];
    let run = partition.run_of(contents);
    let applied = partition.apply_run(&store, &run).await.expect("applied");
    assert_eq!(applied, Applied { applied: 1, dead_letters: 1, tombstones: 1, ..Applied::default() });
    partition.apply_run(&store, &run).await.expect("known");
    let letters = store.dead_letters(10).await.expect("letters");
    let expected = letter(3, 0, "event_id is missing \u{fffd}");
    assert_eq!(letters.iter().map(|stored| &stored.letter).collect::<Vec<_>>(), [&expected]);
    store.published(&[letters[0].number]).await.expect("forgotten");
    assert!(store.dead_letters(10).await.expect("letters").is_empty());
}

/// D3: a batch larger than one transaction takes, all of it duplicates of one instance's at another.
#[tokio::test]
async fn batches_may_be_smaller_than_a_run() {
    let database = Database::new().await;
    let mut settings = Settings::new(&database.url);
    settings.batch = 10;
    let store = PgStore::connect(&settings).await.expect("a store");
    let mut partition = Partition::take(&store, 0).await;
    let events: Vec<_> = (0..100).map(|number| event(&format!("e{number}"), "sku", 1)).collect();
    partition.apply(&store, &events).await.expect("applied");
    let other = database.store().await;
    let mut second = Partition::take(&other, 1).await;
    assert_eq!(second.apply(&other, &events).await.expect("applied").duplicates, 100);
    database.check().await;
}
