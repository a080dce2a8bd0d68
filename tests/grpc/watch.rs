//! WatchTransactions and GetTransaction: the journal, from outside.

use equipoise::Ledger;
use equipoise::grpc::Options;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{
    ExecuteBatchRequest, Operation, Transaction, UpdateBalanceRequest, WatchTransactionsRequest,
    WatchTransactionsResponse,
};
use tonic::{Code, Status, Streaming};

use crate::harness::*;

async fn watch(client: &Client, from: u64, account: &str) -> Result<Streaming<WatchTransactionsResponse>, Status> {
    let request = WatchTransactionsRequest { from_sequence: from, account_id: account.into() };
    client.clone().watch_transactions(request).await.map(|response| response.into_inner())
}

async fn take(stream: &mut Streaming<WatchTransactionsResponse>, count: usize) -> Vec<Transaction> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = tokio::time::timeout(SOON, stream.message()).await.expect("in time");
        seen.extend(message.unwrap().expect("more").transactions);
    }
    seen
}

/// C1, C3: history first, then live, every sequence once, in order, without a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_then_live_without_a_gap() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    for n in 0..1_500 {
        service.ledger.update(&"a".parse().unwrap(), n).unwrap();
    }
    let mut stream = watch(&client, 0, "").await.unwrap();
    let writer = {
        let ledger = service.ledger.clone();
        std::thread::spawn(move || {
            for _ in 0..1_500 {
                ledger.update(&"a".parse().unwrap(), 1).unwrap();
            }
        })
    };
    let seen = take(&mut stream, 3_001).await;
    writer.join().unwrap();
    assert!(seen.iter().map(|entry| entry.sequence).eq(1..=3_001));
    let last = update(&client, "a", 1, "live").await.unwrap();
    let live = take(&mut stream, 1).await;
    assert_eq!((live[0].sequence, live[0].transaction_id.as_str()), (last.sequence, "live"));
    let mut resumed = watch(&client, 3_000, "").await.unwrap();
    assert_eq!(take(&mut resumed, 3).await[0].sequence, 3_000);
}

/// Only entries that touch the account, refusals with their text among them.
#[tokio::test]
async fn an_account_is_watched_alone() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 5).await.unwrap();
    create(&client, "b", 5).await.unwrap();
    update(&client, "b", 1, "b1").await.unwrap();
    transfer(&client, "b", "a", 2, "t").await.unwrap();
    update(&client, "a", -100, "r").await.unwrap_err();
    let mut stream = watch(&client, 1, "a").await.unwrap();
    let seen = take(&mut stream, 3).await;
    assert_eq!(seen.iter().map(|entry| entry.operation.as_str()).collect::<Vec<_>>(), ["create", "transfer", "update"]);
    let legs: Vec<_> = seen[1].legs.iter().map(|leg| (leg.account_id.as_str(), leg.delta, leg.balance)).collect();
    assert_eq!(legs, [("b", -2, 4), ("a", 2, 7)]);
    assert_eq!((seen[1].legs[0].version, seen[1].legs[1].version), (3, 2));
    assert_eq!(Code::from(seen[2].code), Code::FailedPrecondition);
    assert_eq!(seen[2].message, "Insufficient balance: current=7, delta=-100");
    names(watch(&client, 0, "\n").await.map(drop), "account_id");
}

/// A15: of a chain, the operations that touch the account, and no others.
#[tokio::test]
async fn of_a_chain_an_account_hears_its_own_operations() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 5).await.unwrap();
    create(&client, "b", 5).await.unwrap();
    let change = |account: &str, delta, id: &str| {
        let request = UpdateBalanceRequest { account_id: account.into(), delta, transaction_id: id.into() };
        Operation { operation: Some(Kind::UpdateBalance(request)), linked: id != "b3" }
    };
    let chain = vec![change("b", 1, "b1"), change("a", 2, "a2"), change("b", 3, "b3")];
    client.clone().execute_batch(ExecuteBatchRequest { operations: chain }).await.unwrap();
    let mut stream = watch(&client, 1, "a").await.unwrap();
    let seen = take(&mut stream, 2).await;
    assert_eq!(seen.iter().map(|entry| entry.transaction_id.as_str()).collect::<Vec<_>>(), ["", "a2"]);
    assert_eq!((seen[1].legs.len(), seen[1].legs[0].balance, seen[1].sequence), (1, 7, 3));
    let mut all = watch(&client, 3, "").await.unwrap();
    assert_eq!(take(&mut all, 3).await.len(), 3);
}

/// A watcher that wants what is no longer kept hears where it can go on.
#[tokio::test]
async fn gone_history_names_the_oldest_kept() {
    let service = Service::over(Ledger::builder().history(10).build(), Options::default()).await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    for n in 0..100 {
        update(&client, "a", 1, &format!("{n}")).await.unwrap();
    }
    let status = watch(&client, 1, "").await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
    let oldest: u64 = info.metadata["oldest_sequence"].parse().unwrap();
    assert!(status.message().contains(&oldest.to_string()), "{status:?}");
    let mut stream = watch(&client, oldest, "").await.unwrap();
    assert_eq!(take(&mut stream, 1).await[0].sequence, oldest);
    let mut stream = watch(&client, 0, "").await.unwrap();
    assert_eq!(take(&mut stream, 1).await[0].sequence, oldest);
}

/// C4: the entry of one id, with the text that its caller got.
#[tokio::test]
async fn a_transaction_is_found_by_its_id() {
    let service = Service::start().await;
    let client = service.client().await;
    create_with(&client, "a", 5, "c").await.unwrap();
    let refusal = update(&client, "a", -9, "r").await.unwrap_err();
    let found = transaction(&client, "r").await.unwrap();
    assert_eq!((found.sequence, found.transaction_id.as_str(), found.operation.as_str()), (2, "r", "update"));
    assert_eq!((Code::from(found.code), found.message.as_str()), (refusal.code(), refusal.message()));
    let found = transaction(&client, "c").await.unwrap();
    assert_eq!((found.code, found.legs[0].balance, found.legs[0].version), (0, 5, 1));
    refused(transaction(&client, "never").await, Code::NotFound, "Transaction never not found");
}
