//! Many reads at the same time, of one account and of as many: how long until the last is answered.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use equipoise::grpc::proto::GetBalanceRequest;
use equipoise::{AccountId, Ledger};
use tokio::task::JoinSet;

use crate::Settings;
use crate::served::Served;
use crate::workload::{INITIAL, at_most, median, open_accounts};

const READS: usize = 1_000;
/// How many accounts are read, and how long that may take.
const CASES: [(usize, Duration); 2] = [(1, Duration::from_millis(100)), (READS, Duration::from_millis(200))];

/// From the moment when all begin, through the crate by a thread each, and through the service by a call each.
pub async fn of_reads(settings: &Settings) {
    let ledger = Ledger::new();
    open_accounts(&ledger, &settings.ids[..READS]);
    let served = Served::start("ours", settings.connections).await;
    for (accounts, limit) in CASES {
        let (mut idle, mut by_threads, mut by_calls) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..settings.repetitions {
            idle.push(threads(|_| true).as_secs_f64());
            let ids = &settings.ids[..accounts];
            by_threads.push(threads(|reader| ledger.balance(&ids[reader % accounts]).is_some()).as_secs_f64());
            by_calls.push(calls(&served, ids).await.as_secs_f64());
        }
        println!("{READS} threads that read nothing: median {:.2} ms", median(&mut idle) * 1e3);
        report("crate, a thread each", accounts, limit, &mut by_threads);
        report("service, a call each", accounts, limit, &mut by_calls);
    }
}

fn report(through: &str, accounts: usize, limit: Duration, took: &mut [f64]) {
    let middle = median(took);
    let longest = took.iter().copied().fold(0.0, f64::max);
    println!(
        "{READS} reads of {accounts} accounts at the same time, {through}: median {:.2} ms, longest {:.2} ms of {limit:?}, {}",
        middle * 1e3,
        longest * 1e3,
        at_most(longest / limit.as_secs_f64(), 1.0)
    );
}

/// From when all threads may begin until the last has done `read`; without one, what waking them takes.
fn threads(read: impl Fn(usize) -> bool + Sync) -> Duration {
    let begin = Barrier::new(READS + 1);
    thread::scope(|scope| {
        let reader = |reader: usize| {
            let (begin, read) = (&begin, &read);
            scope.spawn(move || {
                begin.wait();
                assert!(std::hint::black_box(read(reader)));
                Instant::now()
            })
        };
        let readers: Vec<_> = (0..READS).map(reader).collect();
        // Before the last one arrives, all others wait.
        let began = Instant::now();
        begin.wait();
        let ended = readers.into_iter().map(|reader| reader.join().expect("no panic")).max();
        ended.map_or(Duration::ZERO, |ended| ended.saturating_duration_since(began))
    })
}

async fn calls(served: &Served, ids: &[AccountId]) -> Duration {
    let (began, mut calls) = (Instant::now(), JoinSet::new());
    for reader in 0..READS {
        let mut client = served.clients[reader % served.clients.len()].clone();
        let request = GetBalanceRequest { account_id: ids[reader % ids.len()].to_string() };
        calls.spawn(async move { client.get_balance(request).await.expect("OK").into_inner() });
    }
    assert!(calls.join_all().await.iter().all(|answer| answer.balance == INITIAL));
    began.elapsed()
}
