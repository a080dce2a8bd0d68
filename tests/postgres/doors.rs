//! What the gRPC calls need.

use equipoise::postgres::PgError;
use equipoise::{AccountId, Member, Operation, Outcome, Posting, Request};

use crate::harness::{Database, account, create, id, update};

/// A6, A7, A15, B1, C1: every kind of outcome is told again as it was, by its id, from the journal, and to an instance that
/// did not decide it.
#[tokio::test]
async fn outcomes_come_back_as_they_were() {
    let database = Database::new().await;
    let store = database.store().await;
    let transfer =
        |from: &str, to: &str, amount| Operation::transfer(account(from), account(to), amount).expect("valid");
    let single = |name: &str, operation| Request::single(operation, Some(id(name)));
    let member = |name: &str, operation| Member { id: Some(id(name)), operation };
    let requests = [
        single("open a", Operation::create(account("a"), 100).expect("valid")),
        single("open b", Operation::create(account("b"), i64::MAX - 10).expect("valid")),
        single("again a", Operation::create(account("a"), 1).expect("valid")),
        update("more", "a", 5),
        update("too much", "a", -200),
        update("nobody", "nobody", 1),
        update("too far", "b", 11),
        single("move", transfer("a", "b", 7)),
        single("short", transfer("a", "b", 1_000)),
        single("full", transfer("a", "b", 50)),
        single("no source", transfer("x", "b", 1)),
        single("no destination", transfer("a", "y", 1)),
        Request::chain(vec![member("c1", transfer("b", "a", 9)), member("c2", Operation::update(account("a"), -1))])
            .expect("valid"),
        Request::chain(vec![
            member("d1", Operation::create(account("d"), 1).expect("valid")),
            member("d2", transfer("d", "a", 2)),
        ])
        .expect("valid"),
    ];
    let mut first: Vec<Outcome> = Vec::new();
    for request in &requests {
        first.push(store.submit(request.clone()).await.expect("decided"));
    }
    let texts: Vec<_> = first.iter().filter_map(|outcome| outcome.result().err()).map(|it| it.to_string()).collect();
    let expected = [
        "Account a already exists",
        "Insufficient balance: current=105, delta=-200",
        "Account nobody not found",
        "Balance out of range: current=9223372036854775797, delta=11",
        "Insufficient balance in account a: current=98, required=1000",
        "Balance out of range in account b: current=9223372036854775804, amount=50",
        "Account x not found",
        "Account y not found",
        "Linked group failed at operation 1",
    ];
    assert_eq!(texts, expected);
    let other = database.store().await;
    let history = other.history(0, 100).await.expect("readable");
    assert_eq!(history.len(), requests.len());
    for ((outcome, told), request) in first.iter().zip(&history).zip(&requests) {
        same(outcome, told);
        let replay = other.submit(request.clone()).await.expect("known");
        assert!(replay.replayed());
        same(outcome, &replay);
    }
    let d2 = other.transaction(&id("d2")).await.expect("readable").expect("known");
    let text = "Insufficient balance in account d: current=1, required=2";
    assert_eq!(d2.result().expect_err("refused").to_string(), text);
    assert_eq!(other.transaction(&id("never")).await.expect("readable").map(|_| ()), None);
    let some = other.history(5, 3).await.expect("readable");
    assert_eq!(some.iter().map(Outcome::sequence).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(other.history(15, 3).await.expect("readable").is_empty());
    database.check().await;
}

fn same(one: &Outcome, other: &Outcome) {
    assert_eq!(one.results(), other.results());
    assert_eq!(one.changes(), other.changes());
    assert_eq!((one.sequence(), one.time(), one.as_of()), (other.sequence(), other.time(), other.as_of()));
}

/// A3, A10: reads do not wait for a writer, and a listing shows one sequence whatever happens meanwhile.
#[tokio::test]
async fn reads_wait_for_nobody() {
    let database = Database::new().await;
    let store = database.store().await;
    for number in 0..30 {
        store.submit(create(&format!("p{number:02}"), 10)).await.expect("opened");
    }
    store.submit(create("q", 1)).await.expect("opened");
    let locker = database.client().await;
    locker
        .batch_execute("BEGIN; SELECT * FROM products FOR UPDATE; LOCK ledger_sequence IN SHARE MODE")
        .await
        .expect("locks");
    let state = store.balance(&account("p07")).await.expect("readable").expect("open");
    assert_eq!((state.balance, state.version, state.sequence), (10, 1, 8));
    let listing = store.list("p").await.expect("a listing");
    assert_eq!(listing.sequence(), 31);
    locker.batch_execute("ROLLBACK").await.expect("unlocked");

    let mut listed = listing.page(0, 7).await.expect("a page");
    store.submit(update("u", "p20", 5)).await.expect("decided");
    store.submit(create("p99", 5)).await.expect("opened");
    while let page = listing.page(listed.len() as u64, 7).await.expect("a page")
        && !page.is_empty()
    {
        listed.extend(page);
    }
    assert_eq!(listed.iter().map(|state| state.balance).sum::<i64>(), 300);
    assert_eq!(listed.len(), 30);
    assert_eq!(store.sequence().await.expect("readable"), 33);
    let newest = store.balance(&account("p20")).await.expect("readable").expect("open");
    assert_eq!((newest.balance, newest.sequence), (15, 32));
    assert_eq!(store.balance(&account("unknown")).await.expect("readable"), None::<equipoise::AccountState>);
}

/// A posting has no row in the journal, so it is refused before anything is decided.
#[tokio::test]
async fn postings_are_refused() {
    let database = Database::new().await;
    let store = database.store().await;
    let legs =
        [("a", 1), ("b", -1)].map(|(name, delta)| Posting { account: AccountId::new(name).expect("valid"), delta });
    let posting = Request::single(Operation::post(legs.to_vec()).expect("balanced"), Some(id("posting")));
    assert!(matches!(store.submit(posting).await, Err(PgError::Refused { .. })));
    assert_eq!(store.sequence().await.expect("readable"), 0);
}
