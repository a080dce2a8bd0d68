//! ExecuteBatch: order, chains, and what one bad operation does to the others (case A02).

use equipoise::MAX_BATCH_OPERATIONS;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{Operation, OperationResult, TransferFundsRequest, UpdateBalanceRequest};
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::*;

fn u(account: &str, delta: i64, id: &str) -> Operation {
    let request = UpdateBalanceRequest { account_id: account.into(), delta, transaction_id: id.into() };
    Operation { operation: Some(Kind::UpdateBalance(request)), linked: false }
}

fn t(from: &str, to: &str, amount: i64, id: &str) -> Operation {
    let request = TransferFundsRequest {
        from_account_id: from.into(),
        to_account_id: to.into(),
        amount,
        transaction_id: id.into(),
    };
    Operation { operation: Some(Kind::TransferFunds(request)), linked: false }
}

fn linked(mut operations: Vec<Operation>) -> Vec<Operation> {
    let last = operations.len() - 1;
    operations[..last].iter_mut().for_each(|operation| operation.linked = true);
    operations
}

fn codes(results: &[OperationResult]) -> Vec<Code> {
    results.iter().map(|result| Code::from(result.code)).collect()
}

async fn two_accounts(a: i64, b: i64) -> (Service, Client) {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", a).await.unwrap();
    create(&client, "b", b).await.unwrap();
    (service, client)
}

/// A02 a, b, c: B1 and B3 hold inside a batch and over batches.
#[tokio::test]
async fn ids_hold_within_and_over_batches() {
    let (_service, client) = two_accounts(0, 0).await;
    let results = batch(&client, vec![u("a", 5, "x"), u("a", 5, "x")]).await.unwrap();
    assert_eq!((results[0].replayed, results[1].replayed), (false, true));
    assert_eq!(results[0].accounts, results[1].accounts);
    batch(&client, vec![u("a", 1, "1"), u("a", 1, "3"), u("a", 1, "7")]).await.unwrap();
    let results = batch(&client, vec![u("a", 1, "2"), u("a", 1, "7"), u("a", 1, "14")]).await.unwrap();
    assert_eq!(results.iter().map(|result| result.replayed).collect::<Vec<_>>(), [false, true, false]);
    let results = batch(&client, vec![u("a", 5, "y"), u("a", 6, "y")]).await.unwrap();
    assert_eq!(codes(&results), [Code::Ok, Code::InvalidArgument]);
    assert!(results[1].message.contains("delta"), "{}", results[1].message);
    assert_eq!(balance(&client, "a").await.unwrap().balance, 15);
}

/// A02 d: an id twice in one chain refuses the chain and uses no id up.
#[tokio::test]
async fn an_id_twice_in_a_chain_refuses_it() {
    let (service, client) = two_accounts(9, 0).await;
    let chain = linked(vec![u("a", 1, "w"), u("a", 1, "x"), u("a", 1, "x")]);
    let results = batch(&client, chain).await.unwrap();
    assert_eq!(codes(&results), [Code::FailedPrecondition, Code::FailedPrecondition, Code::InvalidArgument]);
    assert_eq!(results[0].message, "Linked group failed at operation 2");
    assert_eq!(service.ledger.sequence(), 2);
}

/// A15, A02 e: each operation of a chain sees the ones before it; legs are not netted.
#[tokio::test]
async fn a_chain_is_not_netted() {
    let (_service, client) = two_accounts(0, 0).await;
    let before = u("b", 0, "before");
    let chain = linked(vec![t("a", "b", 50, "p"), t("b", "a", 50, "q")]);
    let results = batch(&client, [vec![before], chain].concat()).await.unwrap();
    assert_eq!(codes(&results), [Code::Ok, Code::FailedPrecondition, Code::FailedPrecondition]);
    assert_eq!(results[1].message, "Insufficient balance in account a: current=0, required=50");
    assert_eq!(results[2].message, "Linked group failed at operation 0", "counted within the group");
    assert_eq!(results[1].sequence, results[2].sequence);
    assert!(results[1].accounts.is_empty() && results[2].accounts.is_empty());
}

/// A15, A02 f: a chain that touches its accounts again and again commits under one sequence.
#[tokio::test]
async fn a_chain_commits_under_one_sequence() {
    let (_service, client) = two_accounts(100, 0).await;
    let chain = linked(vec![t("a", "b", 100, "1"), t("b", "a", 100, "2"), t("a", "b", 100, "3")]);
    let results = batch(&client, chain.clone()).await.unwrap();
    assert_eq!(codes(&results), [Code::Ok; 3]);
    assert!(results.iter().all(|result| result.sequence == results[0].sequence && !result.replayed));
    let balances = |result: &OperationResult| [result.accounts[0].balance, result.accounts[1].balance];
    assert_eq!([balances(&results[0]), balances(&results[1]), balances(&results[2])], [[0, 100]; 3]);
    assert_eq!(balance(&client, "b").await.unwrap().balance, 100);
    let again = batch(&client, chain).await.unwrap();
    assert!(again.iter().all(|result| result.replayed));
    assert_eq!(again[2].accounts, results[2].accounts);
}

/// A02 g: a malformed member refuses the whole chain with its own text; nothing is journaled.
#[tokio::test]
async fn a_malformed_member_refuses_its_chain() {
    let (service, client) = two_accounts(5, 0).await;
    let chain = linked(vec![t("a", "a", 1, "1"), u("a", 1, "2")]);
    let results = batch(&client, chain).await.unwrap();
    assert_eq!(codes(&results), [Code::InvalidArgument, Code::FailedPrecondition]);
    assert_eq!(results[0].message, "Cannot transfer to the same account");
    assert_eq!(results[1].message, "Linked group failed at operation 0");
    assert_eq!(service.ledger.sequence(), 2);
    assert!(!update(&client, "a", 1, "2").await.unwrap().replayed);
}

/// A02 h, B2: one id alone, in batches and from 20 callers at once: one execution, one answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_alone_and_in_batches_executes_once() {
    let (_service, client) = two_accounts(0, 0).await;
    let mut calls = JoinSet::new();
    for caller in 0..20 {
        let client = client.clone();
        calls.spawn(async move {
            if caller % 2 == 0 {
                return update(&client, "a", 1, "z").await.unwrap().sequence;
            }
            let results = batch(&client, vec![u("b", 1, &format!("{caller}")), u("a", 1, "z")]).await.unwrap();
            assert_eq!(codes(&results), [Code::Ok; 2]);
            results[1].sequence
        });
    }
    let sequences = calls.join_all().await;
    assert!(sequences.iter().all(|sequence| *sequence == sequences[0]));
    assert_eq!(balance(&client, "a").await.unwrap().balance, 1);
}

/// A02 i: a chain without an end refuses the whole batch.
#[tokio::test]
async fn a_batch_must_not_end_linked() {
    let (service, client) = two_accounts(0, 0).await;
    let mut operations = vec![u("a", 1, "1"), u("a", 1, "2")];
    operations[1].linked = true;
    let status = batch(&client, operations).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(service.ledger.sequence(), 2);
    assert!(!update(&client, "a", 1, "1").await.unwrap().replayed);
}

/// A02 j: a refused chain sent again gets the same answer; a chain with an id that was used alone is refused whole.
#[tokio::test]
async fn a_chain_is_never_half_replayed() {
    let (_service, client) = two_accounts(0, 0).await;
    let chain = linked(vec![u("a", 1, "1"), u("a", -5, "2")]);
    let first = batch(&client, chain.clone()).await.unwrap();
    update(&client, "a", 100, "more").await.unwrap();
    let again = batch(&client, chain).await.unwrap();
    assert_eq!(codes(&again), [Code::FailedPrecondition; 2]);
    assert!(again.iter().zip(&first).all(|(again, first)| again.message == first.message && again.replayed));
    update(&client, "a", 1, "alone").await.unwrap();
    let before = u("b", 0, "before");
    let chain = linked(vec![u("a", 1, "fresh"), u("a", 1, "alone")]);
    let results = batch(&client, [vec![before], chain].concat()).await.unwrap();
    assert_eq!(codes(&results), [Code::Ok, Code::FailedPrecondition, Code::InvalidArgument]);
    assert_eq!(results[1].message, "Linked group failed at operation 1", "counted within the group");
    assert!(results[2].message.contains("operation 1"), "{}", results[2].message);
    assert_eq!(balance(&client, "a").await.unwrap().balance, 101);
}

/// One bad operation is its own result; the others go on.
#[tokio::test]
async fn a_bad_operation_fails_alone() {
    let (_service, client) = two_accounts(0, 0).await;
    let nothing = Operation { operation: None, linked: false };
    let operations = vec![u("a", 1, "1"), u("a", 1, ""), nothing, u("nobody", 1, "2"), t("a", "b", 1, "3")];
    let results = batch(&client, operations).await.unwrap();
    let expected = [Code::Ok, Code::InvalidArgument, Code::InvalidArgument, Code::NotFound, Code::Ok];
    assert_eq!(codes(&results), expected);
    assert!(results[1].message.contains("transaction_id"));
    assert_eq!(results[3].message, "Account nobody not found");
    assert_eq!(batch(&client, Vec::new()).await.unwrap(), Vec::new());
}

/// A14: at most 10,000 operations a batch, which are answered; at most 1,024 legs a chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_chains_have_a_length() {
    let (_service, client) = two_accounts(0, 0).await;
    let mut operations: Vec<_> = (0..MAX_BATCH_OPERATIONS).map(|n| u("a", 1, &format!("u{n}"))).collect();
    let results = batch(&client, operations.clone()).await.unwrap();
    assert!(results.len() == MAX_BATCH_OPERATIONS && results.iter().all(|result| result.code == 0));
    operations.push(u("a", 1, "one more"));
    names(batch(&client, operations).await, "operations");
    let chain = linked((0..1_025).map(|n| u("a", 1, &format!("c{n}"))).collect());
    let results = batch(&client, chain).await.unwrap();
    assert_eq!(Code::from(results[1_024].code), Code::InvalidArgument);
    assert_eq!(results[0].message, "Linked group failed at operation 1024");
    assert_eq!(balance(&client, "a").await.unwrap().balance, MAX_BATCH_OPERATIONS as i64);
}
