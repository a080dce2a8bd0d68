//! What transaction ids on disk cost: memory, disk, and the time of a caller.

use std::path::Path;
use std::time::{Duration, Instant};

use equipoise::{AccountId, Ledger, Operation, Request, TransactionId};

use crate::workload::{Latencies, Random, account_ids, at_most, data_directory, open_accounts, rate, transaction_id};
use crate::{CALLERS, journal_in_batches, number, numbered, settled};

/// Of each kind of call.
const CALLS: u64 = 10_000;
/// Before each call.
const REST: Duration = Duration::from_micros(200);

pub fn transaction_ids() {
    let count = number("DURABLE_OPERATIONS", 10_000_000);
    println!("\n{count} transaction ids on disk");
    let accounts = account_ids(1_000);
    let dir = data_directory();
    let ledger = Ledger::open(dir.path()).expect("opens");
    open_accounts(&ledger, &accounts);
    journal_in_batches(&ledger, &accounts, 0, count / 10, CALLERS);
    let (early, few) = settled(&ledger, &accounts, count / 10);
    journal_in_batches(&ledger, &accounts, few, count, CALLERS);
    let (late, all) = settled(&ledger, &accounts, count);
    println!("  {:.2} bytes resident an id", (late - early) * 1e6 / (all - few) as f64);
    println!("  {:.1} bytes on disk an id", on_disk(&dir.path().join("ids")) as f64 / all as f64);
    calls(&ledger, &accounts, all, "alone");
    let stopped = std::sync::OnceLock::new();
    std::thread::scope(|scope| {
        let ingesting = scope.spawn(|| {
            let (started, mut next) = (Instant::now(), all);
            while stopped.get().is_none() {
                journal_in_batches(&ledger, &accounts, next, next + 10_000, CALLERS);
                next += 10_000;
            }
            (next - all) as f64 / started.elapsed().as_secs_f64()
        });
        calls(&ledger, &accounts, all, "beside ingestion");
        stopped.get_or_init(|| ());
        println!("  ingested meanwhile: {}", rate(ingesting.join().expect("no panic")));
    });
}

/// Calls with ids that nobody used, and with ids below `used`.
fn calls(ledger: &Ledger, accounts: &[AccountId], used: u64, when: &str) {
    let mut random = Random::new(11);
    let mut any = || random.below(used as usize) as u64;
    let [mut without, mut new, mut repeated, mut absent, mut present] = std::array::from_fn(|_| Latencies::default());
    for call in 0..CALLS {
        let fresh = |what: &str| TransactionId::new(&format!("{what} {when} {call}")).expect("short");
        without.record(submitted(ledger, numbered(accounts, call), None, false));
        new.record(submitted(ledger, numbered(accounts, call), Some(fresh("submitted")), false));
        let sent = any();
        repeated.record(submitted(ledger, numbered(accounts, sent), Some(transaction_id(sent)), true));
        absent.record(looked_up(ledger, &fresh("sought"), false));
        present.record(looked_up(ledger, &transaction_id(any()), true));
    }
    println!("  {when}, a call after a rest of {REST:?}: the median, the 99th percentile, and the longest");
    let row = |what: &str, latencies: &Latencies, bound: Option<(Duration, &str)>| {
        let [median, high] = [500, 990].map(|per_mille| latencies.percentile(per_mille));
        let judged = bound
            .map(|(bound, name)| format!("; of {name} {}", at_most(high.as_secs_f64() / bound.as_secs_f64(), 1.0)));
        println!("    {what}: {median:.1?}, {high:.1?}, {:.1?}{}", latencies.longest(), judged.unwrap_or_default());
    };
    let operation = Some((Duration::from_millis(2), "B6's 2 ms"));
    let check = Some((Duration::from_micros(100), "100 us"));
    row("submit without an id", &without, None);
    row("submit with a new id, the check included", &new, operation);
    row("submit with a repeated id, the check and the answer included", &repeated, operation);
    row("the check of a new id alone", &absent, check);
    row("the check of a repeated id with the answer, read from the journal", &present, check);
}

/// How long it took to apply the operation, or to answer it again.
fn submitted(ledger: &Ledger, operation: Operation, id: Option<TransactionId>, again: bool) -> Duration {
    let request = Request::single(operation, id);
    std::thread::sleep(REST);
    let started = Instant::now();
    let outcome = ledger.submit(request).expect("decided");
    let took = started.elapsed();
    assert!(outcome.replayed() == again && outcome.result().is_ok());
    took
}

/// How long it took to find what was decided for an id, or that nothing was: in memory, and in the index on disk.
fn looked_up(ledger: &Ledger, id: &TransactionId, known: bool) -> Duration {
    std::thread::sleep(REST);
    let started = Instant::now();
    let found = ledger.transaction(id).expect("readable");
    let took = started.elapsed();
    assert_eq!(found.is_some(), known);
    took
}

/// Bytes that the files in `folder` take.
fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}
