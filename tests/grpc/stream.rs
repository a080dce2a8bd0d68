//! ExecuteStream: many batches in flight, results in order, and what ends a stream.

use std::time::Duration;

use equipoise::MAX_BATCH_OPERATIONS;
use equipoise::grpc::Options;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{ExecuteBatchRequest, ExecuteBatchResponse, Operation, UpdateBalanceRequest};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::*;

fn update(account: &str, delta: i64, id: String) -> Operation {
    let request = UpdateBalanceRequest { account_id: account.into(), delta, transaction_id: id };
    Operation { operation: Some(Kind::UpdateBalance(request)), linked: false }
}

/// So many updates of `a`, all of batch `number`.
fn updates(number: usize, count: usize) -> ExecuteBatchRequest {
    ExecuteBatchRequest { operations: (0..count).map(|at| update("a", 1, format!("{number}-{at}"))).collect() }
}

/// A stream that the test feeds.
async fn open(client: &Client) -> (mpsc::Sender<ExecuteBatchRequest>, Streaming<ExecuteBatchResponse>) {
    let (send, receive) = mpsc::channel(1);
    let results = client.clone().execute_stream(ReceiverStream::new(receive)).await.unwrap().into_inner();
    (send, results)
}

async fn started(options: Options) -> (Service, Client) {
    let service = Service::with(options).await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    (service, client)
}

/// Batches are applied in the order in which they were sent, and answered in that order, none waiting for the answer before.
#[tokio::test]
async fn results_come_in_the_order_of_the_batches() {
    let (_service, client) = started(Options::default()).await;
    let (send, mut results) = open(&client).await;
    let sending = tokio::spawn(async move {
        for number in 0..200 {
            send.send(updates(number, 50)).await.unwrap();
        }
    });
    let mut balance = 0;
    for _ in 0..200 {
        let batch = results.message().await.unwrap().unwrap();
        for result in batch.results {
            balance += 1;
            assert_eq!((result.code, result.accounts[0].balance), (0, balance));
        }
    }
    assert!(results.message().await.unwrap().is_none());
    sending.await.unwrap();
}

/// B1: an id holds over streams, batches and single calls; a refusal is a result, not the end of the stream.
#[tokio::test]
async fn ids_hold_and_refusals_are_results() {
    let (_service, client) = started(Options::default()).await;
    let (send, mut results) = open(&client).await;
    for _ in 0..2 {
        send.send(ExecuteBatchRequest {
            operations: vec![update("a", -1, "too-much".into()), update("a", 2, "fine".into())],
        })
        .await
        .unwrap();
    }
    let mut answers = Vec::new();
    for _ in 0..2 {
        let batch = results.message().await.unwrap().unwrap();
        answers.extend(batch.results.into_iter().map(|result| (Code::from(result.code), result.replayed)));
    }
    let (refused, fine) = (Code::FailedPrecondition, Code::Ok);
    assert_eq!(answers, [(refused, false), (fine, false), (refused, true), (fine, true)]);
    drop(send);
    assert!(results.message().await.unwrap().is_none());
    assert_eq!(balance(&client, "a").await.unwrap().balance, 2);
}

/// A batch that is wrong as a whole ends the stream, after the results of those before it; what follows it is not applied.
#[tokio::test]
async fn a_wrong_batch_ends_the_stream_in_its_turn() {
    let (_service, client) = started(Options::default()).await;
    let (send, mut results) = open(&client).await;
    send.send(updates(0, 3)).await.unwrap();
    send.send(updates(1, MAX_BATCH_OPERATIONS + 1)).await.unwrap();
    // The service may have ended the stream by then.
    let _ = send.send(updates(2, 3)).await;
    assert_eq!(results.message().await.unwrap().unwrap().results.len(), 3);
    let status = results.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("10001"), "{status:?}");
    assert_eq!(balance(&client, "a").await.unwrap().balance, 3);
}

/// E4: a message that is too long ends the stream with the contract's code.
#[tokio::test]
async fn a_long_message_is_refused() {
    let (_service, client) = started(Options { max_message_bytes: 64 * 1024, ..Options::default() }).await;
    let (send, mut results) = open(&client).await;
    send.send(updates(0, 5_000)).await.unwrap();
    let status: Status = results.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(balance(&client, "a").await.unwrap().balance, 0);
}

/// A client that does not read its results is not read from: what waits in the service is bounded.
#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let (service, _) = started(Options::default()).await;
    let client = service.narrow_client().await;
    let (send, mut results) = open(&client).await;
    let mut sent = 0;
    while let Ok(Ok(())) = timeout(Duration::from_secs(2), send.send(updates(sent, 1_000))).await {
        sent += 1;
        assert!(sent < 500, "nothing holds the sender back");
    }
    drop(send);
    let mut answered = 0;
    while let Some(batch) = results.message().await.unwrap() {
        assert!(batch.results.iter().all(|result| result.code == 0));
        answered += 1;
    }
    assert_eq!(answered, sent);
    let took = service.stop().await;
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

/// E4: streams that a client does not read hold up none of its other calls, also not as many as it may have, and one more is
/// refused.
#[tokio::test]
async fn streams_that_are_not_read_hold_up_no_other_call() {
    const STREAMS: usize = 16;
    let (service, _) = started(Options { max_request_streams: STREAMS, ..Options::default() }).await;
    let client = service.narrow_client().await;
    let mut unread = Vec::new();
    for stream in 0..STREAMS {
        let (send, results) = open(&client).await;
        let mut sent = 0;
        while let Ok(Ok(())) = timeout(Duration::from_millis(500), send.send(updates(sent, 1_000))).await {
            sent += 1;
            assert!(sent < 500, "nothing holds the sender back");
        }
        unread.push((send, results));
        let read = timeout(SOON, balance(&client, "a")).await;
        read.unwrap_or_else(|_| panic!("beside {} streams", stream + 1)).unwrap();
    }
    let (_send, receive) = mpsc::channel(1);
    let refused = client.clone().execute_stream(ReceiverStream::new(receive)).await.map(drop);
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    let (send, mut results) = unread.pop().unwrap();
    drop(send);
    while results.message().await.unwrap().is_some() {}
    let again = async {
        while client.clone().execute_stream(tokio_stream::pending()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, again).await.expect("room for one");
}

/// E4: what waits for a client that does not read is bounded by its operations, not only by its batches.
#[tokio::test]
async fn long_batches_wait_in_small_number() {
    const LENGTH: usize = 5_000;
    let (service, _) = started(Options::default()).await;
    let client = service.narrow_client().await;
    let (send, _results) = open(&client).await;
    let mut sent = 0;
    while let Ok(Ok(())) = timeout(Duration::from_secs(2), send.send(updates(sent, LENGTH))).await {
        sent += 1;
        assert!(sent < 100, "nothing holds the sender back");
    }
    // Two that wait, and a few that were taken: on their way to the client.
    let decided = service.ledger.sequence();
    assert!((2..=8).contains(&(decided as usize / LENGTH)), "{decided} operations were decided");
}

/// E4: the end of the service ends the stream; what was answered stays.
#[tokio::test]
async fn the_end_of_the_service_ends_the_stream() {
    let (service, client) = started(Options::default()).await;
    let (send, mut results) = open(&client).await;
    send.send(updates(0, 1)).await.unwrap();
    results.message().await.unwrap().unwrap();
    assert!(service.stop().await < Duration::from_secs(5));
    assert_eq!(results.message().await.unwrap_err().code(), Code::Unavailable);
}
