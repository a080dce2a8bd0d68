//! A database that may not be written, or not even be believed.

use std::time::Duration;

use equipoise::postgres::{PgError, PgStore, Settings};
use equipoise::{AccountId, Operation, Request, TransactionId};
use tokio::time::{Instant, sleep};

use crate::servers::Server;
use crate::service::SOON;
use crate::state::connect;

fn account() -> AccountId {
    AccountId::new("a").unwrap()
}

fn update(number: u32) -> Request {
    Request::single(Operation::update(account(), 1), Some(TransactionId::new(&format!("u{number}")).unwrap()))
}

async fn read_only(url: &str, state: &str) {
    let admin = connect(url).await;
    admin.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    admin.batch_execute(&format!("ALTER SYSTEM SET default_transaction_read_only = {state}")).await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Asks until it is answered as wanted.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, PgError>, good: bool) {
    let until = Instant::now() + SOON;
    while ask().await.is_ok() != good {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A3, A11, D6: a database that was made read-only is read and not written until that is over; from a standby, which may lack what was
/// answered, nothing is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_written_or_believed_is_not() {
    let mut database = Server::database(28538);
    let mut settings = Settings::new(&database.address);
    settings.patience = Duration::from_millis(300);
    let store = PgStore::connect(&settings).await.unwrap();
    store.submit(Request::single(Operation::create(account(), 0).unwrap(), None)).await.unwrap();

    read_only(&database.address, "on").await;
    let mut number = 0;
    let submit = async || store.submit(update(0)).await;
    until(
        "it is read-only",
        async || {
            number += 1;
            store.submit(update(number)).await
        },
        false,
    )
    .await;
    let written = "SELECT count(*) FROM journal_entries";
    let admin = connect(&database.address).await;
    let before: i64 = admin.query_one(written, &[]).await.unwrap().get(0);
    let refused = submit().await.unwrap_err();
    assert!(matches!(&refused, PgError::Unavailable { what } if what.contains("read-only")), "{refused}");
    assert_eq!(admin.query_one(written, &[]).await.unwrap().get::<_, i64>(0), before);
    assert!(store.balance(&account()).await.unwrap().is_some(), "it may be read");
    assert!(store.unavailable().is_some_and(|why| why.contains("read-only")));
    read_only(&database.address, "off").await;
    until("it is over", submit, true).await;

    database.demote();
    let (mut balance, mut listed) = (None, None);
    let until_told = Instant::now() + SOON;
    while balance.is_none() || listed.is_none() {
        assert!(Instant::now() < until_told, "{balance:?} {listed:?}");
        let is_standby = |error: &PgError| error.to_string().contains("standby");
        balance = store.balance(&account()).await.map(|_| panic!("a standby is believed")).err().filter(is_standby);
        listed = store.list("").await.map(|_| panic!("a standby is believed")).err().filter(is_standby);
    }
    connect(&database.address).await.batch_execute("SELECT pg_promote()").await.unwrap();
    until("it is promoted", async || store.balance(&account()).await, true).await;
    until("it is written", async || store.submit(update(1_000_000)).await, true).await;
    store.close().await;
}
