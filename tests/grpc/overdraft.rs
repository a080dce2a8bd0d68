//! Case A01: debits of one account that arrive together, by every call that makes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{
    ExecuteBatchRequest, Operation, OperationResult, SnapshotBalancesRequest, TransferFundsRequest,
};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::harness::*;

const FIRST: i64 = 1_000;

/// What one caller took from the account or gave to it, if that was accepted.
type Change = Result<i64, Status>;

/// Two transfers that are linked.
fn pair(id: &str) -> Vec<Operation> {
    let transfer = |to: &str, linked| {
        let request = TransferFundsRequest {
            from_account_id: "w".into(),
            to_account_id: to.into(),
            amount: 5,
            transaction_id: format!("{id}-{to}"),
        };
        Operation { operation: Some(Kind::TransferFunds(request)), linked }
    };
    vec![transfer("p1", true), transfer("p2", false)]
}

/// Both are accepted, or both refused: the first for itself or because of the second.
fn of_pair(results: &[OperationResult]) -> Change {
    assert_eq!(results.len(), 2);
    let codes = [0, 1].map(|at| Code::from(results[at].code));
    if codes == [Code::Ok; 2] {
        return Ok(-10);
    }
    assert_eq!(codes, [Code::FailedPrecondition; 2], "{results:?}");
    let own = results.iter().find(|result| !result.message.starts_with("Linked group")).expect("one's own refusal");
    Err(Status::failed_precondition(own.message.clone()))
}

/// The numbers in a text that follow `=`.
fn numbers(text: &str) -> Vec<i64> {
    let digits = |part: &str| part.split([',', ' ']).next().unwrap_or_default().parse();
    text.split('=').skip(1).map(|part| digits(part).unwrap_or_else(|_| panic!("a number in {text:?}"))).collect()
}

/// A5, A6, A7, A9, A12, A15: the account is never below 0, every refusal is true of the balance that it names, and what left it is where
/// it went.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debits_that_arrive_together_never_overdraw() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "w", FIRST).await.unwrap();
    for payee in 0..20 {
        create(&client, &format!("p{payee}"), 0).await.unwrap();
    }
    let ended = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(client.clone(), ended.clone()));

    let mut callers = JoinSet::<Change>::new();
    for at in 0..100 {
        let client = client.clone();
        callers.spawn(async move { update(&client, "w", -10, &format!("u{at}")).await.map(|_| -10) });
    }
    for at in 0..100 {
        let client = client.clone();
        let payee = format!("p{}", at % 20);
        callers.spawn(async move { transfer(&client, "w", &payee, 10, &format!("t{at}")).await.map(|_| -10) });
    }
    let mut streaming = Vec::new();
    for _ in 0..5 {
        streaming.push(service.client().await);
    }
    for at in 0..50 {
        let batching = client.clone();
        callers.spawn(async move { of_pair(&batch(&batching, pair(&format!("b{at}"))).await?) });
        let mut streaming = streaming[at % streaming.len()].clone();
        callers.spawn(async move {
            let (send, receive) = tokio::sync::mpsc::channel(1);
            send.send(ExecuteBatchRequest { operations: pair(&format!("s{at}")) }).await.expect("room for one");
            drop(send);
            let mut results = streaming.execute_stream(ReceiverStream::new(receive)).await?.into_inner();
            of_pair(&results.message().await?.expect("an answer").results)
        });
    }
    for at in 0..50 {
        let client = client.clone();
        callers.spawn(async move { update(&client, "w", 1, &format!("plus{at}")).await.map(|_| 1) });
    }

    let (mut left, mut accepted) = (FIRST, 0);
    while let Some(ended) = callers.join_next().await {
        match ended.unwrap() {
            Ok(change) => {
                left += change;
                accepted += i64::from(change < 0);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
                let [current, asked] = numbers(status.message())[..] else { panic!("{status:?}") };
                assert!(0 <= current && current < asked.abs(), "a refusal that is not true: {status:?}");
            }
        }
    }
    ended.store(true, Ordering::Relaxed);
    assert!(watching.await.unwrap() > 0, "somebody looked meanwhile");
    assert_eq!(left, FIRST + 50 - 10 * accepted);
    assert_eq!(balance(&client, "w").await.unwrap().balance, left);
    let mut on_payees = 0;
    for payee in 0..20 {
        on_payees += balance(&client, &format!("p{payee}")).await.unwrap().balance;
    }
    // What neither is there nor left was taken by updates, in tens.
    let taken = FIRST + 50 - left - on_payees;
    assert!(taken % 10 == 0 && (0..=1_000).contains(&taken), "{taken} taken by updates");
}

/// Reads the account every ms and all of them in snapshots, until told to end; how often.
async fn watch(mut client: Client, ended: Arc<AtomicBool>) -> u32 {
    let mut seen = 0;
    while !ended.load(Ordering::Relaxed) {
        assert!(balance(&client, "w").await.unwrap().balance >= 0);
        let mut snapshot = client.snapshot_balances(SnapshotBalancesRequest::default()).await.unwrap().into_inner();
        while let Some(message) = snapshot.message().await.unwrap() {
            assert!(message.accounts.iter().all(|account| account.balance >= 0), "{message:?}");
        }
        seen += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen
}

/// A1, A5: of 50 callers who open one account and add to it, one opens it, and all additions count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_entries_of_an_account_do_not_overwrite_one_another() {
    let service = Service::start().await;
    let client = service.client().await;
    let mut callers = JoinSet::new();
    for caller in 0..50 {
        let client = client.clone();
        callers.spawn(async move {
            let opened = create(&client, "n", 0).await;
            update(&client, "n", 1, &format!("{caller}")).await.unwrap();
            opened.map_err(|status| status.code()).map(drop)
        });
    }
    let opened = callers.join_all().await;
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1);
    assert_eq!(opened.iter().filter(|opened| **opened == Err(Code::AlreadyExists)).count(), 49);
    assert_eq!(balance(&client, "n").await.unwrap().balance, 50);
}
