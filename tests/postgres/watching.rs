//! Watchers of a journal that does not go on as it began.

use std::time::Duration;

use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::{WatchTransactionsRequest, WatchTransactionsResponse};
use equipoise::grpc::{Opening, Options, serve};
use equipoise::postgres::{PgStore, Settings};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::harness::{Database, SOON, create, update};
use crate::restore::{put_back, save};

type Client = AccountServiceClient<Channel>;

/// A client of a service over the database.
async fn serving(database: &Database) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let opening = Opening::on_postgres(Settings::new(&database.url));
    tokio::spawn(serve(listener, opening, Options::default(), std::future::pending()));
    let mut client = Client::connect(format!("http://{address}")).await.expect("a service");
    while client.watch_transactions(WatchTransactionsRequest::default()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client
}

async fn watch(client: &Client, from_sequence: u64) -> Result<Streaming<WatchTransactionsResponse>, Status> {
    let request = WatchTransactionsRequest { from_sequence, account_id: String::new() };
    client.clone().watch_transactions(request).await.map(|response| response.into_inner())
}

/// The sequences up to `last`, or to the end.
async fn told(stream: &mut Streaming<WatchTransactionsResponse>, last: u64) -> (Vec<u64>, Option<Status>) {
    let mut told = Vec::new();
    while told.last().is_none_or(|newest| *newest < last) {
        match timeout(SOON, stream.message()).await.expect("it goes on, or ends") {
            Ok(message) => told.extend(message.expect("no end").transactions.iter().map(|entry| entry.sequence)),
            Err(status) => return (told, Some(status)),
        }
    }
    (told, None)
}

async fn updates(store: &PgStore, name: &str, count: usize) {
    for number in 0..count {
        store.submit(update(&format!("{name}{number}"), "sku", 1)).await.expect("decided").result().expect("applied");
    }
}

/// C1, C3: whoever was told entries that a restore took back hears that, whether or not others have their sequences by then, and nothing
/// that seems to follow on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watcher_hears_that_the_database_was_put_back() {
    for written_since in [0, 4, 6] {
        let database = Database::new().await;
        let store = database.store().await;
        let client = serving(&database).await;
        store.submit(create("sku", 0)).await.expect("opened");
        updates(&store, "kept", 5).await;
        save(&database).await;
        updates(&store, "lost", 4).await;
        let mut stream = watch(&client, 1).await.expect("a stream");
        let (sequences, status) = told(&mut stream, 10).await;
        assert_eq!((sequences, status.map(|status| status.code())), ((1..=10).collect(), None));
        put_back(&database).await;
        updates(&store, "new", written_since).await;
        if written_since == 4 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            updates(&store, "newer", 1).await;
        }
        let (sequences, status) = told(&mut stream, u64::MAX).await;
        let status = status.expect("it ends");
        assert_eq!((sequences, status.code()), (vec![], Code::FailedPrecondition), "{written_since}: {status:?}");
        assert!(status.message().ends_with("entry 10 is not the one that was told"), "{status:?}");
        let (sequences, _) = told(&mut watch(&client, 1).await.expect("a stream"), 6).await;
        assert_eq!(sequences[..6], [1, 2, 3, 4, 5, 6], "a new one begins");
    }
}

/// C3: sequences that the journal lacks are told like those that are gone, with the next one that it has, and waited for by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watcher_hears_of_a_gap() {
    let database = Database::new().await;
    let store = database.store().await;
    let client = serving(&database).await;
    store.submit(create("sku", 0)).await.expect("opened");
    updates(&store, "before", 2).await;
    let mut early = watch(&client, 2).await.expect("a stream");
    assert_eq!(told(&mut early, 3).await.0, [2, 3]);
    for gap in [2, 1_000] {
        let newest = store.sequence().await.expect("read");
        database.run(&format!("UPDATE ledger_sequence SET sequence = sequence + {gap}")).await;
        updates(&store, &format!("after{gap}-"), 2).await;
        let next = newest + gap + 1;
        let gone = format!("history before sequence {next} is gone");
        let mut stream = watch(&client, newest).await.expect("a stream");
        let (sequences, status) = told(&mut stream, next).await;
        let status = status.expect("it ends");
        assert_eq!((sequences, status.code(), status.message()), (vec![newest], Code::FailedPrecondition, &*gone));
        let refused = watch(&client, newest + 2).await.expect_err("it is in the gap");
        assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, &*gone));
        let (sequences, _) = told(&mut watch(&client, next).await.expect("a stream"), next + 1).await;
        assert_eq!(sequences, [next, next + 1]);
    }
    let (_, status) = told(&mut early, u64::MAX).await;
    assert_eq!(status.expect("it ends").message(), "history before sequence 6 is gone");
}

/// C3, D8: a sequence that was moved on, with nothing after it, is waited at as at the journal's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_sequence_keeps_nobody_busy() {
    let database = Database::new().await;
    let store = database.store().await;
    let client = serving(&database).await;
    store.submit(create("sku", 0)).await.expect("opened");
    updates(&store, "before", 2).await;
    let mut told_some = watch(&client, 1).await.expect("a stream");
    assert_eq!(told(&mut told_some, 3).await.0, [1, 2, 3]);
    database.run("UPDATE ledger_sequence SET sequence = sequence + 1000").await;
    let mut fresh = watch(&client, 500).await.expect("a stream");
    let count = async || {
        let query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
        database.one::<i64>(query).await
    };
    let before = count().await;
    // Sessions say how many they were once a second.
    let told_nothing =
        timeout(Duration::from_millis(3_500), async { tokio::join!(told_some.message(), fresh.message()) });
    told_nothing.await.expect_err("there is nothing to tell");
    let asked = count().await - before;
    assert!(asked < 500, "{asked} transactions");
}

/// A14, C3: an entry that no journal will ever have is waited for, as on the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_sequence_of_all_is_waited_for() {
    let database = Database::new().await;
    let store = database.store().await;
    let client = serving(&database).await;
    store.submit(create("sku", 0)).await.expect("opened");
    for from in [i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        let mut stream = watch(&client, from).await.expect("a stream");
        timeout(Duration::from_millis(300), stream.message()).await.expect_err("there is none");
    }
}
