//! A10: a service whose ledger is not open yet, or not any more.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::*;
use equipoise::grpc::{Error, Opening, Options};
use equipoise::{Ledger, OpenError};
use tokio::sync::oneshot;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::harness::*;
use crate::log::{about, log};

const ACCOUNTS: &str = "equipoise.v1.AccountService";

async fn health(service: &Service, name: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: name.to_owned() };
    let answer = HealthClient::new(service.channel().await).check(request).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

/// One call of each kind.
async fn every_call(client: &Client) -> Vec<Result<(), Status>> {
    let create_b = CreateAccountRequest { account_id: "b".into(), ..Default::default() };
    let operation = Operation { operation: Some(Kind::CreateAccount(create_b)), linked: false };
    let mut streams = client.clone();
    vec![
        balance(client, "a").await.map(drop),
        create(client, "b", 0).await.map(drop),
        update(client, "a", 1, "u").await.map(drop),
        transfer(client, "a", "b", 1, "t").await.map(drop),
        batch(client, vec![operation]).await.map(drop),
        transaction(client, "u").await.map(drop),
        page(client, 10, "", "").await.map(drop),
        streams.snapshot_balances(SnapshotBalancesRequest::default()).await.map(drop),
        streams.watch_transactions(WatchTransactionsRequest::default()).await.map(drop),
    ]
}

fn held() -> OpenError {
    OpenError::Held { dir: PathBuf::from("/data"), holder: Some("17".to_owned()) }
}

/// A3, case A10: alive at once, ready when the ledger is complete; before that no call hears NOT_FOUND or an old balance.
#[tokio::test]
async fn until_the_ledger_is_open_the_service_is_alive_and_not_ready() {
    let ledger = Ledger::builder().history(100).build();
    let (open, opened) = oneshot::channel::<Ledger>();
    let (tell, ready) = oneshot::channel();
    let opening = Opening::new(async { opened.await.map_err(|_| OpenError::Cancelled) });
    let opening = opening.on_ready(move |_| tell.send(()).unwrap());
    let service = Service::behind(ledger.clone(), opening, Options::default()).await;
    let client = service.client().await;
    assert_eq!(health(&service, "").await, Ok(ServingStatus::Serving));
    assert_eq!(health(&service, ACCOUNTS).await, Ok(ServingStatus::NotServing));
    assert_eq!(health(&service, "nobody").await, Err(Code::NotFound));
    for call in every_call(&client).await {
        let status = call.unwrap_err();
        let expected = (Code::Unavailable, "the ledger is being recovered: 0 entries, 0 %");
        assert_eq!((status.code(), status.message()), expected);
        assert_eq!(status.get_details_error_info().unwrap().reason, "RECOVERING");
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    }
    ledger.create(&"a".parse().unwrap(), 7).unwrap();
    open.send(ledger).unwrap();
    ready.await.unwrap();
    assert_eq!(health(&service, ACCOUNTS).await, Ok(ServingStatus::Serving));
    service.settle().await;
    assert_eq!(balance(&client, "a").await.unwrap().balance, 7);
}

/// A13: a call that comes too early is logged with what it was about, as one that fails later is.
#[tokio::test]
async fn a_call_before_the_ledger_is_open_is_logged_with_its_ids() {
    let log = log();
    let service = Service::behind(Ledger::new(), Opening::new(std::future::pending()), Options::default()).await;
    let client = service.client().await;
    create(&client, "early-a", 0).await.unwrap_err();
    balance(&client, "early-b").await.unwrap_err();
    update(&client, "early-c", 1, "early-u").await.unwrap_err();
    transfer(&client, "early-d", "early-e", 1, "early-t").await.unwrap_err();
    transaction(&client, "early-g").await.unwrap_err();
    let watch = WatchTransactionsRequest { account_id: "early-w".into(), from_sequence: 1 };
    client.clone().watch_transactions(watch).await.unwrap_err();
    let create =
        CreateAccountRequest { account_id: "early-h".into(), transaction_id: "early-i".into(), ..Default::default() };
    let update = UpdateBalanceRequest { account_id: "early-j".into(), delta: 1, transaction_id: "early-k".into() };
    let operations = [Kind::CreateAccount(create), Kind::UpdateBalance(update)];
    let operations = operations.map(|operation| Operation { operation: Some(operation), linked: false });
    batch(&client, operations.into()).await.unwrap_err();
    let lines = about(&log, "early-");
    let said = |field: &str| lines.iter().map(|line| line[field].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let operations = [
        "CreateAccount",
        "GetBalance",
        "UpdateBalance",
        "TransferFunds",
        "GetTransaction",
        "WatchTransactions",
        "ExecuteBatch/CreateAccount",
        "ExecuteBatch/UpdateBalance",
    ];
    assert_eq!(said("operation"), operations);
    let accounts = ["a", "b", "c", "d,e", "", "w", "h", "j"].map(|names| {
        let names: Vec<_> =
            names.split(',').filter(|name| !name.is_empty()).map(|name| format!("early-{name}")).collect();
        serde_json::to_string(&names).unwrap()
    });
    assert_eq!(said("account_ids"), accounts);
    assert_eq!(said("transaction_id"), ["", "", "early-u", "early-t", "early-g", "", "early-i", "early-k"]);
    for line in &lines {
        assert_eq!((&line["level"], &line["code"]), (&"ERROR".into(), &"UNAVAILABLE".into()));
        assert_eq!(line["details"], "the ledger is being recovered: 0 entries, 0 %");
    }
}

/// E4: an end that is asked for while the ledger is being opened is no failure, and does not wait for it.
#[tokio::test]
async fn it_ends_while_the_ledger_is_being_opened() {
    let options = Options { shutdown_grace: Duration::from_millis(300), ..Options::default() };
    let service = Service::behind(Ledger::new(), Opening::new(std::future::pending()), options).await;
    let client = service.client().await;
    assert_eq!(balance(&client, "a").await.unwrap_err().code(), Code::Unavailable);
    let took = service.stop().await;
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

/// C2: a ledger that cannot be opened ends the service at once, whoever holds on to it.
#[tokio::test]
async fn a_ledger_that_cannot_be_opened_ends_the_service() {
    let (fail, failing) = oneshot::channel::<()>();
    let opening = Opening::new(async {
        let _ = failing.await;
        Err(held())
    });
    let service = Service::behind(Ledger::new(), opening, Options::default()).await;
    let mut watching = HealthClient::new(service.channel().await);
    let mut watch = watching.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let began = Instant::now();
    fail.send(()).unwrap();
    let error = service.ended().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
    assert!(matches!(error, Error::Open(OpenError::Held { .. })), "{error:?}");
    assert_eq!(error.to_string(), "/data is in use by process 17");
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

/// A3: a ledger that was closed under the service takes no more changes and is still read.
#[tokio::test]
async fn a_closed_ledger_is_not_ready() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 7).await.unwrap();
    service.ledger.close();
    let until = Instant::now() + SOON;
    while health(&service, ACCOUNTS).await != Ok(ServingStatus::NotServing) {
        assert!(Instant::now() < until, "still ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(health(&service, "").await, Ok(ServingStatus::Serving));
    refused(update(&client, "a", 1, "u").await, Code::Unavailable, "the service is shutting down");
    assert_eq!(balance(&client, "a").await.unwrap().balance, 7);
    service.stop().await;
}

/// A ledger without a history has no journal that could fail: it is ready and stays it.
#[tokio::test]
async fn a_ledger_without_a_history_is_ready() {
    let service = Service::over(Ledger::new(), Options::default()).await;
    let client = service.client().await;
    create(&client, "a", 7).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(health(&service, ACCOUNTS).await, Ok(ServingStatus::Serving));
    assert_eq!(update(&client, "a", 1, "u").await.unwrap().new_balance, 8);
    refused(transaction(&client, "never").await, Code::NotFound, "Transaction never not found");
}

/// A ledger on disk is opened on a thread of its own and served.
#[tokio::test]
async fn a_ledger_on_disk_is_opened_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, ready) = oneshot::channel();
    let opening = Opening::on_disk(Ledger::builder(), dir.path()).on_ready(move |_| tell.send(()).unwrap());
    // The harness's own ledger is another one here.
    let service = Service::behind(Ledger::new(), opening, Options::default()).await;
    ready.await.unwrap();
    let client = service.client().await;
    create(&client, "a", 7).await.unwrap();
    assert_eq!(balance(&client, "a").await.unwrap().balance, 7);
    assert_eq!(service.ledger.stats().accounts, 0);
    service.stop().await;
}
