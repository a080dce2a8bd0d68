//! Several instances on one database.

use std::sync::Arc;

use equipoise::inventory::Applied;
use equipoise::postgres::PgStore;

use crate::harness::{Database, Partition, Random, account, create, event, update};

const PRODUCTS: u64 = 20;
const EVENTS: u64 = 3_000;
const CALLS: u64 = 400;

/// Every partition has most of the events, in an order of its own.
async fn consume(store: Arc<PgStore>, partition: i32) -> Applied {
    let mut random = Random(partition as u64);
    let mut numbers: Vec<u64> = (0..EVENTS).filter(|_| random.below(4) > 0).collect();
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, random.below(at as u64 + 1) as usize);
    }
    let mut partition = Partition::take(&store, partition).await;
    let mut sum = Applied::default();
    while !numbers.is_empty() {
        let some = numbers.split_off(numbers.len().saturating_sub(1 + random.below(150) as usize));
        let events: Vec<_> = some.iter().map(|number| numbered(*number)).collect();
        let applied = partition.apply(&store, &events).await.expect("applied");
        sum.applied += applied.applied;
        sum.duplicates += applied.duplicates;
        sum.rejected += applied.rejected;
        sum.dead_letters += applied.dead_letters;
        sum.redecided += applied.redecided;
    }
    sum
}

fn numbered(number: u64) -> equipoise::inventory::Event {
    let change = [3, -1, 2, -2, 1][number as usize % 5];
    event(&format!("e{number}"), &format!("sku{}", number * 7 % PRODUCTS), change)
}

async fn call(store: Arc<PgStore>, caller: u64) {
    let mut random = Random(caller + 1_000);
    for serial in 0..CALLS {
        // Every second one is an event, too.
        let request = if serial % 2 == 0 {
            let event = numbered(random.below(EVENTS));
            update(event.id.as_str(), event.product.as_str(), event.quantity_change)
        } else {
            update(&format!("call {caller} {serial}"), &format!("sku{}", random.below(PRODUCTS)), 1)
        };
        store.submit(request).await.expect("decided");
    }
}

/// D2: two instances, partitions of both with the same products and mostly the same ids, and calls at both: exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_instances_lose_nothing() {
    let database = Database::new().await;
    let stores = [Arc::new(database.store().await), Arc::new(database.store().await)];
    for product in 0..PRODUCTS {
        stores[0].submit(create(&format!("sku{product}"), 0)).await.expect("opened");
    }
    let mut consumers = Vec::new();
    let mut callers = Vec::new();
    for (instance, store) in stores.iter().enumerate() {
        for partition in 0..2 {
            consumers.push(tokio::spawn(consume(store.clone(), (instance * 2 + partition) as i32)));
        }
        for caller in 0..4 {
            callers.push(tokio::spawn(call(store.clone(), instance as u64 * 4 + caller)));
        }
    }
    let mut sum = Applied::default();
    for consumer in consumers {
        let applied = consumer.await.expect("no panic");
        assert!(applied.applied + applied.rejected > 0, "no instance starves: {applied:?}");
        sum.applied += applied.applied;
        sum.rejected += applied.rejected;
        sum.duplicates += applied.duplicates;
        sum.dead_letters += applied.dead_letters;
        sum.redecided += applied.redecided;
    }
    for caller in callers {
        caller.await.expect("no panic");
    }
    assert_eq!(sum.dead_letters, 0);
    assert!(sum.duplicates > EVENTS && sum.redecided > 0, "they met: {sum:?}");
    let own = 8 * CALLS / 2;
    let events = database.one::<i64>("SELECT count(*) FROM processed_events").await as u64 - own;
    assert!(events <= EVENTS && events > EVENTS * 9 / 10, "{events}");
    let twice = "SELECT count(*) - count(DISTINCT transaction_id) FROM journal WHERE transaction_id IS NOT NULL";
    assert_eq!(database.one::<i64>(twice).await, 0);
    assert!(database.one::<bool>("SELECT min(current_stock) >= 0 FROM products").await);
    database.check().await;
}

/// D2: an instance does not answer from what it remembers of an account that another one has changed.
#[tokio::test]
async fn an_instance_sees_what_another_wrote() {
    let database = Database::new().await;
    let (one, two) = (database.store().await, database.store().await);
    one.submit(create("sku", 5)).await.expect("opened");
    for round in 0..20 {
        let (store, other) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let outcome = store.submit(update(&format!("u{round}"), "sku", -5)).await.expect("decided");
        assert_eq!(outcome.result().expect("applied")[0].balance, 0);
        let refused = other.submit(update(&format!("r{round}"), "sku", -1)).await.expect("decided");
        assert_eq!(refused.result().expect_err("refused").to_string(), "Insufficient balance: current=0, delta=-1");
        other.submit(update(&format!("d{round}"), "sku", 5)).await.expect("decided");
        let state = store.balance(&account("sku")).await.expect("readable").expect("open");
        assert_eq!(state.balance, 5);
    }
    database.check().await;
}

/// D2: one id at both instances at once has one outcome, and everybody gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_id_at_two_instances_has_one_outcome() {
    let database = Database::new().await;
    let stores = [Arc::new(database.store().await), Arc::new(database.store().await)];
    stores[0].submit(create("sku", 0)).await.expect("opened");
    for round in 0..50 {
        let calls: Vec<_> = (0..10)
            .map(|call| {
                let store = stores[call % 2].clone();
                tokio::spawn(async move { store.submit(update(&format!("u{round}"), "sku", 1)).await })
            })
            .collect();
        let mut fresh = 0;
        for call in calls {
            let outcome = call.await.expect("no panic").expect("decided");
            assert_eq!(outcome.result().expect("applied")[0].balance, round + 1);
            fresh += u32::from(!outcome.replayed());
        }
        assert_eq!(fresh, 1);
    }
    database.check().await;
}
