//! Case A03, its durable half: callers that give up before the disk has answered.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use equipoise::Ledger;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{ExecuteBatchRequest, Operation, UpdateBalanceRequest};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::Request;
use tonic::{Code, Status};

use crate::audit::{Audit, Told};
use crate::client::{Client, Order, balance, transaction, within};
use crate::load::Dice;
use crate::service::{Service, equipoise, serve, verified};
use crate::shim::shimmed;

/// Of each kind; the case asks for 2,000 in all.
const CALLS: u64 = if cfg!(debug_assertions) { 150 } else { 1_000 };
/// How many callers are at work at once.
const CALLERS: usize = 50;

fn update(id: &str) -> UpdateBalanceRequest {
    UpdateBalanceRequest { account_id: "a".into(), delta: 1, transaction_id: id.into() }
}

/// Calls with a deadline, and when that has passed, again with the same id from two others at once.
async fn impatient(hasty: Client, others: [Client; 2], id: String, limit: Duration) {
    match hasty.clone().update_balance(within(update(&id), limit)).await {
        Ok(_) => return,
        Err(status) => assert!(gave_up(&status), "{status:?}"),
    }
    let before = transaction(&others[0], &id).await;
    let order = Order::update(&id, "a", 1);
    let (one, two) = tokio::join!(order.send(&others[0]), order.send(&others[1]));
    let (one, two) = (one.unwrap().remove(0), two.unwrap().remove(0));
    assert_eq!((one.code, one.sequence, &one.accounts), (0, two.sequence, &two.accounts), "{id}");
    let after = transaction(&others[1], &id).await.unwrap();
    assert_eq!(Some(after.sequence), one.sequence);
    match before {
        Ok(before) => assert_eq!(before, after, "it changed its mind"),
        Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
    }
}

fn gave_up(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

async fn callers_that_give_up(service: &Service, clients: &[Client], name: &str) {
    let others = [service.client().await, service.client().await];
    let callers = Arc::new(Semaphore::new(CALLERS));
    let (mut dice, mut calls) = (Dice::new(3), JoinSet::new());
    for number in 0..CALLS {
        let client = clients[number as usize % clients.len()].clone();
        let (id, limit) = (format!("{name}-{number}"), Duration::from_micros(dice.roll(3_000)));
        let (others, callers) = (others.clone(), callers.clone());
        calls.spawn(async move {
            let _one = callers.acquire().await.unwrap();
            impatient(client, others, id, limit).await;
        });
    }
    // Beside them, on the same connections, somebody with time.
    for number in 0..100 {
        let client = clients[number % clients.len()].clone();
        let order = Order::update(&format!("{name}-patient-{number}"), "a", 1);
        calls.spawn(async move { drop(order.send(&client).await.expect("it has time")) });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

/// E6, B1, E1: each id is applied once, whoever gave up on it and when, also after a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_may_ask_again() {
    for delay in ["0", "5"] {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::start(&mut shimmed(serve(dir.path()), dir.path(), &[("DELAY", delay)]));
        let client = service.client().await;
        Order::create("open", "a", 0).send(&client).await.unwrap();
        let mut many = Vec::new();
        for _ in 0..CALLERS {
            many.push(service.client().await);
        }
        callers_that_give_up(&service, &many, "many").await;
        callers_that_give_up(&service, &many[..1], "one").await;
        let expected = 2 * (CALLS.cast_signed() + 100);
        assert_eq!(balance(&client, "a").await.unwrap().balance, expected);
        let mut audit = Audit::default();
        audit.read(&client).await;
        service.kill();
        let service = Service::start(&mut serve(dir.path()));
        let client = service.client().await;
        assert_eq!(balance(&client, "a").await.unwrap().balance, expected);
        audit.read(&client).await;
        audit.compare(&client, &Told::default()).await;
        service.stop();
        verified(dir.path());
    }
}

/// E1: odd timeouts are honoured or refused; the longest one does not expire at once.
#[tokio::test]
async fn odd_timeouts() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(&mut shimmed(serve(dir.path()), dir.path(), &[("DELAY", "5")]));
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    let mut answers = HashMap::new();
    for (number, value) in ["1n", "0m", "99999999H", "5x", "-1S", ""].into_iter().enumerate() {
        let mut request = tonic::Request::new(update(&format!("odd-{number}")));
        request.metadata_mut().insert("grpc-timeout", value.parse().unwrap());
        let code = client.clone().update_balance(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        answers.insert(value, code);
        let order = Order::update(&format!("odd-{number}"), "a", 1);
        assert_eq!(order.send(&client).await.unwrap()[0].code, 0, "{value}");
    }
    assert_eq!(answers["99999999H"], Code::Ok);
    let right =
        |code: &Code| matches!(code, Code::Ok | Code::DeadlineExceeded | Code::Cancelled | Code::InvalidArgument);
    assert!(answers.values().all(right), "{answers:?}");
    assert_eq!(balance(&client, "a").await.unwrap().balance, 6);
    service.stop();
    verified(dir.path());
}

/// A service whose disk takes so many milliseconds, and which logs what fails.
fn slow(dir: &Path, delay: &str) -> Service {
    let arguments = ["serve", "--data-dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0", "--log", "error"];
    Service::start(&mut shimmed(equipoise(&arguments), dir, &[("DELAY", delay)]))
}

/// A call whose client leaves the deadline to the service; how it ended.
async fn unguarded(service: &Service, method: &str, timeout: &str, message: &impl Message) -> Code {
    let stream = TcpStream::connect(service.address.trim_start_matches("http://")).await.unwrap();
    let http = http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut body = vec![0];
    body.extend((message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut body).unwrap();
    let uri = format!("http://{}/equipoise.v1.AccountService/{method}", service.address);
    let request = Request::post(uri).header("content-type", "application/grpc").header("grpc-timeout", timeout);
    let request = request.body(String::from_utf8(body).unwrap()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

/// The log's line about a transaction, once it is there: its operation and its code. There must not be two.
async fn logged(service: &Service, id: &str) -> (String, String) {
    service.says(id).await;
    let said = service.said();
    let mut lines = said.lines().filter(|line| line.contains(id));
    let line: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert!(lines.next().is_none(), "{said}");
    assert_eq!(line["transaction_id"], id, "{line}");
    assert_eq!(line["account_ids"], serde_json::json!(["somebody"]), "{line}");
    (line["operation"].as_str().unwrap().to_owned(), line["code"].as_str().unwrap().to_owned())
}

/// A13: a call that ends before its answer is logged with what it was about, whoever ended it.
#[tokio::test]
async fn a_call_that_ends_before_its_answer_is_logged_with_its_ids() {
    let dir = tempfile::tempdir().unwrap();
    // Before the disk is slow.
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.create(&"somebody".parse().unwrap(), 0).unwrap();
    ledger.close();
    drop(ledger);
    // A call arrives well within its deadline, also where the cores are busy, and that passes well before the disk answers.
    let service = slow(dir.path(), "5000");
    let (patience, deadline) = (Duration::from_secs(2), "2S");
    let client = service.client().await;
    let update = |id: &str| UpdateBalanceRequest { account_id: "somebody".into(), delta: 1, transaction_id: id.into() };
    let batch = |ids: [&str; 2]| {
        let operation = |id| Operation { operation: Some(Kind::UpdateBalance(update(id))), linked: false };
        ExecuteBatchRequest { operations: ids.map(operation).to_vec() }
    };

    assert_eq!(unguarded(&service, "UpdateBalance", deadline, &update("late-0")).await, Code::DeadlineExceeded);
    assert_eq!(logged(&service, "late-0").await, ("UpdateBalance".into(), "DEADLINE_EXCEEDED".into()));
    let two = batch(["late-1", "late-2"]);
    assert_eq!(unguarded(&service, "ExecuteBatch", deadline, &two).await, Code::DeadlineExceeded);
    for id in ["late-1", "late-2"] {
        assert_eq!(logged(&service, id).await, ("ExecuteBatch/UpdateBalance".into(), "DEADLINE_EXCEEDED".into()));
    }

    timeout(patience, client.clone().update_balance(update("left-0"))).await.unwrap_err();
    assert_eq!(logged(&service, "left-0").await, ("UpdateBalance".into(), "CANCELLED".into()));

    let (send, receive) = mpsc::channel(2);
    send.send(batch(["left-1", "left-2"])).await.unwrap();
    let results = client.clone().execute_stream(ReceiverStream::new(receive)).await.unwrap();
    sleep(patience).await;
    drop((results, send));
    for id in ["left-1", "left-2"] {
        assert_eq!(logged(&service, id).await, ("ExecuteBatch/UpdateBalance".into(), "CANCELLED".into()));
    }
    // To end in order it would wait for its disk.
    service.kill();
    verified(dir.path());
}

/// A13: so is one that nobody waits for any more when it arrives, if all of it did. It does nothing.
#[tokio::test]
async fn a_call_that_comes_too_late_is_logged_with_its_ids() {
    let dir = tempfile::tempdir().unwrap();
    let service = slow(dir.path(), "0");
    let client = service.client().await;
    Order::create("open", "somebody", 0).send(&client).await.unwrap();
    let mut known = 0;
    for number in 0..50 {
        let id = format!("passed-{number}.");
        let update = UpdateBalanceRequest { account_id: "somebody".into(), delta: 1, transaction_id: id.clone() };
        assert_eq!(unguarded(&service, "UpdateBalance", "1n", &update).await, Code::DeadlineExceeded);
        sleep(Duration::from_millis(5)).await;
        if service.said().contains(&id) {
            assert_eq!(logged(&service, &id).await, ("UpdateBalance".into(), "DEADLINE_EXCEEDED".into()));
            known += 1;
        }
    }
    assert!(known > 0);
    assert_eq!(balance(&client, "somebody").await.unwrap().version, 1);
}

/// E4: what a stream keeps of batches that wait for the disk is bounded by their bytes, not only by their operations.
#[tokio::test]
async fn long_messages_wait_in_small_number() {
    let dir = tempfile::tempdir().unwrap();
    let service = slow(dir.path(), "5000");
    let (send, receive) = mpsc::channel(1);
    let _results = service.client().await.execute_stream(ReceiverStream::new(receive)).await.unwrap();
    let mut sent = 0;
    loop {
        // The first waits for the disk, the second is no request.
        let ids = [format!("long-{sent}"), "x".repeat(3 << 20)];
        let updates = ids.map(|id| Operation { operation: Some(Kind::UpdateBalance(update(&id))), linked: false });
        match timeout(Duration::from_secs(1), send.send(ExecuteBatchRequest { operations: updates.into() })).await {
            Ok(sending) => sending.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    // Two that wait, and a few on their way to the service.
    assert!(sent <= 5, "{sent} were taken");
    service.kill();
}
