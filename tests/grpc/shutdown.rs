//! A11, E4: the service ends within 5 seconds, whatever clients do.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use equipoise::grpc::proto::{SnapshotBalancesRequest, WatchTransactionsRequest};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::harness::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Every kind of client that holds on, each in its own connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_in_time_whatever_clients_do() {
    let service = Service::start().await;
    for account in 0..60_000 {
        service.ledger.create(&format!("a{account}").parse().unwrap(), 1).unwrap();
    }
    service.settle().await;
    let silent = TcpStream::connect(service.address).unwrap();
    let mut half = TcpStream::connect(service.address).unwrap();
    half.write_all(&PREFACE[..10]).unwrap();
    let mut preface = TcpStream::connect(service.address).unwrap();
    preface.write_all(PREFACE).unwrap();
    let mut garbage = TcpStream::connect(service.address).unwrap();
    garbage.write_all(b"GET / HTTP").unwrap();
    let idle = service.client().await;
    balance(&idle, "a1").await.unwrap();
    let mut watching = service.client().await;
    let request = WatchTransactionsRequest { from_sequence: 60_001, ..Default::default() };
    let mut watch = watching.watch_transactions(request).await.unwrap().into_inner();
    let mut stuck = service.narrow_client().await;
    let snapshot = stuck.snapshot_balances(SnapshotBalancesRequest::default()).await.unwrap();
    let ledger = service.ledger.clone();

    let took = service.stop().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let status = watch.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(balance(&idle, "a1").await.unwrap_err().code(), Code::Unavailable);
    assert!(ledger.update(&"a1".parse().unwrap(), 1).is_err(), "the ledger is closed");
    drop((silent, half, preface, garbage, snapshot));
}

/// With nobody holding on it ends at once.
#[tokio::test]
async fn it_ends_at_once_when_nobody_holds_on() {
    let service = Service::start().await;
    let silent = TcpStream::connect(service.address).unwrap();
    let client = service.client().await;
    create(&client, "a", 1).await.unwrap();
    let mut watching = client.clone();
    let _watch = watching.watch_transactions(WatchTransactionsRequest::default()).await.unwrap();
    let took = service.stop().await;
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    drop(silent);
}

/// Streams of health and reflection hold nobody up; a watcher of health hears first that the service goes.
#[tokio::test]
async fn streams_of_health_and_reflection_end_at_once() {
    let service = Service::start().await;
    let mut health = HealthClient::new(service.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    let mut reflection = ServerReflectionClient::new(service.channel().await);
    let (_held, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();

    let took = service.stop().await;
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    let mut last = first;
    let end = loop {
        match watch.message().await {
            Ok(Some(message)) => last = message,
            Ok(None) => panic!("an end without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!((last.status(), end.code()), (ServingStatus::NotServing, Code::Unavailable), "{end:?}");
    let end = answers.message().await;
    assert!(end.as_ref().map_or_else(|status| status.code() == Code::Unavailable, Option::is_none), "{end:?}");
}

/// What was answered is there, what was not can be sent again: calls under way at shutdown are not half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_under_way_are_answered_or_unavailable() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..500 {
        let client = client.clone();
        calls.spawn(async move { update(&client, "a", 1, &format!("u{call}")).await });
    }
    let ledger = service.ledger.clone();
    service.stop().await;
    let mut answered = 0;
    for result in calls.join_all().await {
        match result {
            Ok(_) => answered += 1,
            // The client's own word for a connection that said goodbye before the request was sent.
            Err(status) if std::error::Error::source(&status).is_some() => {}
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
    let balance = ledger.balance(&"a".parse().unwrap()).unwrap().balance;
    assert!(balance >= answered, "{balance} {answered}");
}

/// A connection that does not speak HTTP/2 is closed, one that says nothing in time too.
#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let options = equipoise::grpc::Options { keepalive_timeout: Duration::from_millis(300), ..Default::default() };
    let service = Service::with(options).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &PREFACE[..10], b""] {
        let mut stream = TcpStream::connect(service.address).unwrap();
        stream.write_all(bytes).unwrap();
        let began = Instant::now();
        let closed = tokio::task::spawn_blocking(move || {
            stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
            !matches!(stream.read(&mut [0; 16]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        assert!(closed.await.unwrap() && began.elapsed() < Duration::from_secs(3));
    }
}
