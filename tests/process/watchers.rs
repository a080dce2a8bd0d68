//! What watchers cost, whatever they watch.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{
    ExecuteBatchRequest, Operation as Spelled, UpdateBalanceRequest, WatchTransactionsRequest,
};
use equipoise::{Ledger, Member, Operation, Request};
use tonic::transport::Channel;

use equipoise::grpc::proto::account_service_client::AccountServiceClient;

use crate::client::{Order, Step};
use crate::service::{SOON, Service, equipoise, serve_with, signal};

/// The longest entries there are.
const ENTRIES: usize = 300;
const MEMBERS: usize = 1_024;
const WATCHERS: usize = 20;

/// Killed when it is dropped, also where it is stopped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process's size, and the largest since [`forget`], in bytes.
fn resident(service: &Service, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<u64>().unwrap() * 1_024
}

/// Forgets the largest size so far.
fn forget(service: &Service) {
    std::fs::write(format!("/proc/{}/clear_refs", service.process()), "5").unwrap();
}

/// C3: those who watch a history of the longest entries make the service no larger than their messages.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_long_entries_take_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let account = "a".parse().unwrap();
    ledger.create(&account, 0).unwrap();
    let members = vec![Member { id: None, operation: Operation::update(account, 1) }; MEMBERS];
    for _ in 0..ENTRIES {
        ledger.submit(Request::chain(members.clone()).unwrap()).unwrap();
    }
    ledger.close();
    drop(ledger);

    let service = Service::start(&mut serve_with(dir.path(), &[]));
    forget(&service);
    let before = resident(&service, "VmRSS");
    let mut watches = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let channel: Channel = service.endpoint().connect().await.unwrap();
        watches.spawn(async move {
            let mut client = AccountServiceClient::new(channel);
            let mut stream = client.watch_transactions(WatchTransactionsRequest::default()).await.unwrap().into_inner();
            let mut seen = 0;
            while seen < 1 + 60 * MEMBERS {
                seen += stream.message().await.unwrap().unwrap().transactions.len();
            }
        });
    }
    watches.join_all().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let grown = resident(&service, "VmHWM") - before;
    assert!(grown < 150 << 20, "{} MiB", grown >> 20);
    service.stop();
}

/// A08: those who wait for a change of one account among many changes of others read on together, but not on a thread
/// each: every thread keeps some MB of memory that it has used.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_one_account_take_few_threads() {
    const BATCHES: usize = 15;
    const BATCH: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(&mut serve_with(dir.path(), &[]));
    let client = service.client().await;
    for account in ["rare", "busy"] {
        Order::create(account, account, 0).send(&client).await.unwrap();
    }
    let mut watches = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut client = AccountServiceClient::new(service.endpoint().connect().await.unwrap());
        let request = WatchTransactionsRequest { account_id: "rare".into(), from_sequence: 1 };
        let mut stream = client.watch_transactions(request).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().transactions[0].sequence, 1);
        watches.spawn(async move { stream.message().await.unwrap().unwrap().transactions[0].sequence });
    }
    let mut most = 0;
    for batch in 0..BATCHES {
        let update =
            |at| UpdateBalanceRequest { account_id: "busy".into(), delta: 1, transaction_id: format!("{batch}-{at}") };
        let operation = |at| Spelled { operation: Some(Kind::UpdateBalance(update(at))), linked: false };
        let request = ExecuteBatchRequest { operations: (0..BATCH).map(operation).collect() };
        client.clone().execute_batch(request).await.unwrap();
        most = most.max(threads(&service));
    }
    let end = Order::update("end", "rare", 1).send(&client).await.unwrap()[0].sequence.unwrap();
    while let Some(seen) = watches.join_next().await {
        assert_eq!(seen.unwrap(), end);
        most = most.max(threads(&service));
    }
    assert!(most < 40, "{most} threads for 50 watchers");
    service.stop();
}

/// How many threads the process has.
#[cfg(target_os = "linux")]
fn threads(service: &Service) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", service.process())).unwrap().count()
}

/// A4, C3, case A08: watchers who stop reading, and processes that are stopped, keep nobody from writing; whoever goes on sees every
/// sequence once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_watchers_go_on_without_a_gap() {
    const CHAINS: u64 = 200;
    const LAST: u64 = 1 + CHAINS;
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(&mut serve_with(dir.path(), &[]));
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    let seen = tempfile::tempdir().unwrap();
    let file = |which: usize| seen.path().join(format!("{which}"));
    let mut processes: Vec<_> = (0..10)
        .map(|which| {
            let arguments = ["watch", "--json", "--from", "1", "--server", &format!("http://{}", service.address)];
            let out = std::fs::File::create(file(which)).unwrap();
            Killed(equipoise(&arguments).stdout(out).stderr(Stdio::null()).spawn().unwrap())
        })
        .collect();
    let mut asleep = Vec::new();
    for _ in 0..15 {
        let mut client = AccountServiceClient::new(service.endpoint().connect().await.unwrap());
        let request = WatchTransactionsRequest { from_sequence: 1, ..WatchTransactionsRequest::default() };
        let mut stream = client.watch_transactions(request).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap().transactions;
        asleep.push((stream, first));
    }
    for process in &processes {
        signal(process.0.id(), "STOP");
    }
    forget(&service);
    let before = resident(&service, "VmRSS");
    for chain in 0..CHAINS {
        let update = |at| (format!("{chain}-{at}"), Step::Update { account: "a".into(), delta: 1 });
        Order { steps: (0..100).map(update).collect() }.send(&client).await.unwrap();
    }
    let grown = resident(&service, "VmHWM").saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB for watchers that do not read", grown >> 20);

    drop(processes.drain(..5));
    for process in &processes {
        signal(process.0.id(), "CONT");
    }
    for (mut stream, mut seen) in asleep.drain(..5) {
        while seen.last().unwrap().sequence < LAST {
            seen.extend(stream.message().await.unwrap().unwrap().transactions);
        }
        gapless(seen.iter().map(|transaction| transaction.sequence));
    }
    for which in 5..10 {
        let sequence = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["sequence"].as_u64().or_else(|| line["sequence"].as_str()?.parse().ok()).unwrap()
        };
        let seen = || std::fs::read_to_string(file(which)).unwrap();
        let is_complete = || seen().lines().rfind(|line| line.ends_with('}')).map(sequence) == Some(LAST);
        let until = Instant::now() + SOON;
        while !(seen().ends_with('\n') && is_complete()) {
            assert!(Instant::now() < until, "{:?}", seen().lines().last());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gapless(seen().lines().map(sequence));
    }
    // Ten who sleep on do not keep it from ending.
    service.stop();
    for process in &mut processes {
        process.0.wait().unwrap();
    }
    drop(asleep);

    /// The opening, and each chain's hundred, in order.
    fn gapless(sequences: impl Iterator<Item = u64>) {
        let expected = std::iter::once(1).chain((2..=LAST).flat_map(|chain| [chain; 100]));
        assert!(sequences.eq(expected), "each sequence, in order");
    }
}
