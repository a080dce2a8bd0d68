//! Case A03, its durable half: callers that give up before the disk has answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use equipoise::grpc::proto::UpdateBalanceRequest;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::audit::{Audit, Told};
use crate::client::{Client, Order, balance, transaction, within};
use crate::load::Dice;
use crate::service::{Service, serve, verified};
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
