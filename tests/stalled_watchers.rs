//! Watchers that stop reading. A process of its own, since it looks at the memory of the whole.
#![cfg(all(feature = "server", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "grpc/harness.rs"]
#[allow(dead_code, reason = "the tests of the service use all of it")]
mod harness;

use std::time::Duration;

use equipoise::grpc::proto::WatchTransactionsRequest;

use harness::*;

/// A08, C1, E4: watchers that stop reading cost no memory that grows with the updates and hold up nobody; those that read
/// on see every sequence once, in order; and the service stops in time with the others still stuck.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_watchers_hold_up_nobody() {
    const UPDATES: u64 = 40_000;
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    let mut watchers = Vec::new();
    for _ in 0..50 {
        let request = WatchTransactionsRequest { from_sequence: 1, account_id: String::new() };
        let mut stream = service.narrow_client().await.watch_transactions(request).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap().transactions;
        watchers.push((stream, first));
    }
    let ledger = service.ledger.clone();
    let account = "a".parse().unwrap();
    let before = resident_bytes();
    let writing = tokio::task::spawn_blocking(move || {
        (0..UPDATES).for_each(|_| drop(ledger.update(&account, 1).unwrap()));
    });
    tokio::time::timeout(SOON, writing).await.expect("nobody is held up").unwrap();
    // The history itself keeps the updates, once; not once a watcher.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes for 50 stalled watchers");
    for (mut stream, first) in watchers.drain(..25) {
        let mut sequences: Vec<_> = first.iter().map(|entry| entry.sequence).collect();
        while sequences.last() != Some(&(UPDATES + 1)) {
            let message = tokio::time::timeout(SOON, stream.message()).await.expect("in time");
            sequences.extend(message.unwrap().expect("more").transactions.iter().map(|entry| entry.sequence));
        }
        assert!(sequences.iter().copied().eq(1..=UPDATES + 1), "every sequence once, in order");
    }
    assert!(service.stop().await < Duration::from_secs(5));
    drop(watchers);
}

/// What the process holds in memory.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}
