//! Case A10: a start that takes a while: alive at once, ready when complete, interrupted at any point.

use std::path::Path;
use std::time::{Duration, Instant};

use equipoise::{AccountId, Ledger, Member, Operation, Request, TransactionId};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{Client, Order, balance};
use crate::load::Dice;
use crate::service::{Service, serve_with, verified};

/// The case asks for 5 million.
const ENTRIES: u64 = if cfg!(debug_assertions) { 120_000 } else { 1_000_000 };
const ACCOUNTS: u64 = 20_000;
const OLD: &[&str] = &["--checkpoint-every", "100000000"];

/// A journal without a checkpoint, as a kill leaves it; every account is at version 1 + entries / accounts.
fn generate(dir: &Path) {
    let ledger = Ledger::builder().checkpoint_every(u64::MAX).open(dir).unwrap();
    let account = |number: u64| AccountId::new(&format!("account-{number:06}")).unwrap();
    for number in 0..ACCOUNTS {
        ledger.create(&account(number), 10).unwrap();
    }
    for number in 0..ENTRIES - ACCOUNTS {
        let id = TransactionId::new(&format!("id-{number}")).unwrap();
        let operation = Operation::update(account(number % ACCOUNTS), 1);
        ledger.submit(Request::chain(vec![Member { id: Some(id), operation }]).unwrap()).unwrap();
    }
    ledger.wait_durable(ledger.sequence()).unwrap();
}

async fn health(client: &mut HealthClient<tonic::transport::Channel>, service: &str) -> Result<ServingStatus, Code> {
    let answer =
        client.check(HealthCheckRequest { service: service.to_owned() }).await.map_err(|status| status.code())?;
    Ok(match answer.into_inner().status {
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        _ => ServingStatus::Unknown,
    })
}

/// Every account as it must be, or UNAVAILABLE.
fn right(read: &Result<equipoise::grpc::proto::GetBalanceResponse, Status>) -> bool {
    let changes = (ENTRIES - ACCOUNTS) / ACCOUNTS;
    match read {
        Ok(read) => (read.balance, read.version) == (10 + changes.cast_signed(), 1 + changes),
        Err(status) => status.code() == Code::Unavailable,
    }
}

/// Asks every 10 ms until it is ready; how long that took from the start on.
async fn asked_all_the_time(service: &Service, began: Instant) -> Duration {
    let channel = service.endpoint().connect().await.unwrap();
    let (client, mut asking) = (Client::new(channel.clone()), HealthClient::new(channel));
    let early = Order::update("early", "account-000000", 1).send(&client).await;
    assert!(early.is_err_and(|status| status.code() == Code::Unavailable));
    let mut refusals = 0;
    loop {
        assert_eq!(health(&mut asking, "").await, Ok(ServingStatus::Serving), "alive at once");
        assert_eq!(health(&mut asking, "nobody").await, Err(Code::NotFound));
        let ready = health(&mut asking, "equipoise.v1.AccountService").await.unwrap();
        for number in (0..ACCOUNTS).step_by(ACCOUNTS as usize / 20) {
            let read = balance(&client, &format!("account-{number:06}")).await;
            assert!(right(&read), "{read:?}");
            refusals += usize::from(read.is_err());
            assert!(ready != ServingStatus::Serving || read.is_ok(), "ready: {read:?}");
        }
        if ready == ServingStatus::Serving {
            assert!(refusals > 0, "it was asked before it was ready");
            return began.elapsed();
        }
        assert_eq!(ready, ServingStatus::NotServing);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// E6, E4: alive and not ready while it recovers, never an old balance; a kill at any point of it makes the next start
/// no longer, a signal ends it in time, and it tells how far it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_recovery_is_told_and_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path());
    let before = verified(dir.path());
    assert_eq!(before.entries, ENTRIES);
    let began = Instant::now();
    let service = Service::begin(&mut serve_with(dir.path(), OLD));
    let first = asked_all_the_time(&service, began).await;
    let said = service.kill();
    assert!(said.contains(&format!("recovered {ENTRIES} entries")), "{said}");
    if first > Duration::from_secs(2) {
        assert!(said.contains("recovering the ledger"), "{first:?}: {said}");
    }

    let mut dice = Dice::of_today("a_long_recovery");
    for _ in 0..5 {
        let service = Service::spawn(&mut serve_with(dir.path(), OLD));
        tokio::time::sleep(first * dice.roll(100) as u32 / 100).await;
        service.kill();
    }
    let service = Service::begin(&mut serve_with(dir.path(), OLD));
    tokio::time::sleep(first / 3).await;
    assert!(!service.said().contains("ready"), "{first:?}: {}", service.said());
    service.stop_in_time();

    let service = Service::start(&mut serve_with(dir.path(), OLD));
    let client = service.client().await;
    assert!(right(&balance(&client, "account-000007").await));
    assert_eq!(Order::update("late", "account-000007", 1).send(&client).await.unwrap()[0].code, 0);
    let said = service.stop();
    assert!(said.contains(&format!("recovered {ENTRIES} entries")), "not more than at first: {said}");
    let after = verified(dir.path());
    assert_eq!((after.entries, after.total), (ENTRIES + 1, before.total + 1));
}
