//! How long an id is honoured.

use std::time::{Duration, Instant};

use equipoise::postgres::{PgStore, Settings};

use crate::harness::{Database, SOON, create, id, update};

/// B4, D3: inside its window an id is a duplicate, in every instance and however often others are forgotten meanwhile; after it the
/// id is new, and its newest use is the one that counts. Two instances forget at once, and each id is forgotten once.
#[tokio::test]
async fn an_id_is_honoured_for_its_window() {
    let database = Database::new().await;
    let mut settings = Settings::new(&database.url);
    settings.id_window = Duration::from_secs(10);
    settings.statement_timeout = Duration::from_secs(1);
    let [one, other] =
        [PgStore::connect(&settings).await.expect("a store"), PgStore::connect(&settings).await.expect("a store")];
    one.submit(create("p", 0)).await.expect("opened");
    let first = one.submit(update("e", "p", 1)).await.expect("decided");
    let begun = Instant::now();
    let again = other.submit(update("e", "p", 1)).await.expect("decided");
    assert!(again.replayed() && again.sequence() == first.sequence());

    let client = database.client().await;
    let held = "SELECT count(*) FROM processed_events WHERE event_id = 'e'";
    // Of those whose commit is younger than the window, none may be missing.
    let missing = "SELECT count(*) FROM journal j JOIN commits c ON c.batch = j.batch
        LEFT JOIN processed_events e ON e.event_id = j.transaction_id AND e.batch = j.batch
        WHERE j.transaction_id IS NOT NULL AND c.committed_at > now() - interval '10 seconds' AND e.event_id IS NULL";
    let mut young = 0_u64;
    while client.query_one(held, &[]).await.expect("a row").get::<_, i64>(0) > 0 {
        assert!(begun.elapsed() < SOON, "nobody forgets it");
        let name = format!("young {young}");
        let decided = one.submit(update(&name, "p", 1)).await.expect("decided");
        let again = other.submit(update(&name, "p", 1)).await.expect("decided");
        assert!(again.replayed() && again.sequence() == decided.sequence());
        assert_eq!(client.query_one(missing, &[]).await.expect("a row").get::<_, i64>(0), 0);
        young += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= settings.id_window && young > 1, "after {:?}", begun.elapsed());
    let told = other.transaction(&id(&format!("young {}", young - 1))).await.expect("an answer");
    assert!(told.is_some(), "it is young");
    // C4: it may be used again, and is found all the same.
    let found = other.transaction(&id("e")).await.expect("an answer").expect("it is in the journal");
    assert_eq!(found.sequence(), first.sequence());

    let anew = other.submit(update("e", "p", 1)).await.expect("decided");
    assert!(!anew.replayed() && anew.sequence() > first.sequence());
    let found = other.transaction(&id("e")).await.expect("an answer").expect("it is in the journal");
    assert_eq!(found.sequence(), anew.sequence(), "its newest use");
    let again = one.submit(update("e", "p", 1)).await.expect("decided");
    assert!(again.replayed() && again.sequence() == anew.sequence(), "its newest use counts");
    let stock: i64 = database.one("SELECT current_stock FROM products WHERE sku = 'p'").await;
    assert_eq!(stock, young.cast_signed() + 2);

    while client.query_one("SELECT count(*) FROM processed_events", &[]).await.expect("a row").get::<_, i64>(0) > 0 {
        assert!(begun.elapsed() < 2 * SOON, "nobody forgets the others");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pruned = one.metrics().pruned_ids.get() + other.metrics().pruned_ids.get();
    assert_eq!(pruned, young + 2, "each was forgotten once");
    one.close().await;
    other.close().await;
}
