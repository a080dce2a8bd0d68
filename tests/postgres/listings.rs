//! Listings, and what PostgreSQL keeps for them.

use std::time::Duration;

use equipoise::AccountState;
use equipoise::postgres::{Listing, PgError, PgStore};
use tokio::time::{Instant, sleep};

use crate::harness::{Database, SOON, create, update};

/// The most listings at once.
const LISTINGS: usize = 64;

/// A10: while nobody asks for a page a listing holds no lock and no snapshot; and a table that is rewritten meanwhile takes nothing out of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listing_is_in_nobodys_way() {
    let database = Database::new().await;
    let store = database.store().await;
    for number in 0..30 {
        store.submit(create(&format!("p{number:02}"), 10)).await.expect("opened");
    }
    let listing = store.list("").await.expect("a listing");
    let mut listed = listing.page(0, 7).await.expect("a page");
    let rewrite = "SET lock_timeout = '2s'; ALTER TABLE products ADD COLUMN note uuid DEFAULT gen_random_uuid()";
    database.client().await.batch_execute(rewrite).await.expect("no reader has it locked");
    until(async || {
        let held =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND (backend_xmin IS NOT NULL OR state LIKE 'idle in transaction%')";
        database.one::<i64>(held).await == 0
    })
    .await;
    store.submit(update("u", "p20", 5)).await.expect("decided").result().expect("applied");
    listed.extend(rest(&listing, listed.len()).await);
    assert_eq!((listed.len(), listed.iter().map(|state| state.balance).sum::<i64>()), (30, 300));
    let first = listing.page(0, 7).await.expect("a page, once more");
    assert_eq!(first, listed[..7]);
    assert!(listing.page(30, 7).await.expect("nothing").is_empty());
    assert!(listing.page(u64::MAX, 7).await.expect("nothing").is_empty());
    assert!(listing.page(3, 0).await.expect("nothing").is_empty());
}

/// A10: listings share a few sessions, so they leave others theirs; their number is bounded, and who ends one makes room for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn listings_share_a_few_sessions() {
    let database = Database::new().await;
    let store = database.store().await;
    for number in 0..3 {
        store.submit(create(&format!("p{number}"), 10)).await.expect("opened");
    }
    let mut listings = Vec::new();
    for _ in 0..LISTINGS {
        listings.push(store.list("p").await.expect("a listing"));
    }
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let sessions: i64 = database.one(sessions).await;
    assert!(sessions <= 10, "{sessions} sessions");
    assert_eq!(store.list("p").await.expect_err("too many"), PgError::Listings { limit: LISTINGS });
    for listing in &listings {
        assert_eq!(rest(listing, 1).await.len(), 2);
    }
    drop(listings.pop());
    until(async || store.list("p").await.is_ok()).await;
}

/// A14: a prefix is compared by its bytes, whatever is in it.
#[tokio::test]
async fn a_prefix_may_be_anything() {
    let database = Database::new().await;
    let store = database.store().await;
    let ids = ["a%b", "a'); --", "a'b", "a\\", "a\\'b", "ab", "a\u{7f7f}", "a\u{10ffff}b", "b"];
    for id in ids {
        store.submit(create(id, 1)).await.expect("opened").result().expect("a new one");
    }
    let mut prefixes: Vec<&str> = ids.iter().flat_map(|id| id.char_indices().map(|(at, _)| &id[..at])).collect();
    prefixes.extend(["a\u{10ffff}", "\u{10ffff}", "c", "A"]);
    for prefix in prefixes {
        let expected: Vec<&str> = ids.into_iter().filter(|id| id.starts_with(prefix)).collect();
        let listed = rest(&store.list(prefix).await.expect("a listing"), 0).await;
        assert_eq!(listed.iter().map(|state| state.id.as_str()).collect::<Vec<_>>(), expected, "{prefix:?}");
    }
}

/// D6: a server that comes back has none of the listings of before, and new ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listing_ends_with_its_session() {
    let database = Database::new().await;
    let store = database.store().await;
    store.submit(create("p", 10)).await.expect("opened");
    let listing = store.list("").await.expect("a listing");
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.one::<i64>(end).await;
    let over = listing.page(0, 1).await.expect_err("its session is gone");
    assert!(matches!(over, PgError::Unavailable { .. }), "{over}");
    assert_eq!(begun(&store).await.page(0, 9).await.expect("a page").len(), 1);
}

async fn begun(store: &PgStore) -> Listing {
    let latest = Instant::now() + SOON;
    loop {
        match store.list("").await {
            Ok(listing) => return listing,
            Err(error) => assert!(Instant::now() < latest, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// What comes after the first `count`, in pages of 7.
async fn rest(listing: &Listing, count: usize) -> Vec<AccountState> {
    let mut listed = Vec::new();
    while let page = listing.page((count + listed.len()) as u64, 7).await.expect("a page")
        && !page.is_empty()
    {
        listed.extend(page);
    }
    listed
}

async fn until(condition: impl AsyncFn() -> bool) {
    let latest = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < latest, "it does not come to that");
        sleep(Duration::from_millis(5)).await;
    }
}
