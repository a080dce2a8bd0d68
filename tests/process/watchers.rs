//! What watchers cost, whatever they watch.

use equipoise::grpc::proto::WatchTransactionsRequest;
use equipoise::{Ledger, Member, Operation, Request};
use tonic::transport::Channel;

use equipoise::grpc::proto::account_service_client::AccountServiceClient;

use crate::service::{Service, serve_with};

/// The longest entries there are.
const ENTRIES: usize = 300;
const MEMBERS: usize = 1_024;
const WATCHERS: usize = 20;

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
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let grown = resident(&service, "VmHWM") - before;
    assert!(grown < 150 << 20, "{} MiB", grown >> 20);
    service.stop();
}
