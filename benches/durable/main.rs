//! The ledger on disk against the disk itself, and against the ledger in memory, in one run on this machine.
//!
//! `cargo bench --bench durable -- [calls|recovery|checkpoint|memory|ids|all]`. By environment: `DURABLE_DIR` where the data
//! directories go (the temporary directory), `DURABLE_OPERATIONS` journalled before a start, and ids on disk (10,000,000).

#![allow(missing_docs, reason = "a program, not a library")]

mod checkpoint;
mod ids;
#[path = "../workload/mod.rs"]
mod workload;

use std::path::Path;
use std::time::{Duration, Instant};

use equipoise::{AccountId, Durability, Ledger, Operation, Request};
use workload::{
    INITIAL, Latencies, Random, account_ids, at_least, at_most, data_directory, fdatasync, open_accounts, rate,
    transaction_id,
};

const ACCOUNTS: usize = 100_000;

/// What the index is documented to take in memory for an id on disk.
const INDEX_BYTES: f64 = 1.3;

/// As many callers of the service whose requests become durable together.
const CALLERS: u64 = 200;

fn main() {
    // Cargo passes `--bench`.
    let asked: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name| asked.is_empty() || asked.iter().any(|asked| asked == name || asked == "all");
    println!("{} cores", std::thread::available_parallelism().map_or(0, usize::from));
    if wanted("calls") {
        calls();
    }
    if wanted("recovery") {
        recovery();
    }
    if wanted("checkpoint") {
        checkpoint::checkpoint();
    }
    if wanted("memory") {
        memory();
    }
    if wanted("ids") {
        ids::transaction_ids();
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number in the environment"))
}

/// One caller of the crate.
fn calls() {
    println!("\none caller of the crate");
    let ids = account_ids(1_000);
    let dir = data_directory();
    let applied = Ledger::open(dir.path()).expect("opens");
    open_accounts(&applied, &ids);
    let durable = applied.with_durability(Durability::OnDisk);
    let mut random = Random::new(1);
    let mut transfer = |ledger: &Ledger, number| {
        let (from, to) = random.pair(ids.len());
        let operation = Operation::transfer(ids[from].clone(), ids[to].clone(), 1).expect("valid");
        let started = Instant::now();
        let outcome = ledger.submit(Request::single(operation, Some(transaction_id(number)))).expect("decided");
        outcome.result().expect("funds");
        started.elapsed()
    };
    let (mut in_memory, mut on_disk) = (Latencies::default(), Latencies::default());
    let floor = fdatasync(dir.path());
    for number in 0..2_000 {
        on_disk.record(transfer(&durable, number));
    }
    for number in 2_000..4_000 {
        in_memory.record(transfer(&applied, number));
    }
    let (floor, in_memory, on_disk) = (floor.percentile(500), in_memory.percentile(500), on_disk.percentile(500));
    println!("  fdatasync of 4 KiB {floor:?}, applied {in_memory:?}, on disk {on_disk:?} (medians)");
    let ratio = on_disk.as_secs_f64() / (floor + in_memory).as_secs_f64();
    println!("  on disk / (fdatasync + applied): {}", at_most(ratio, 1.25));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (durable, ids) = (&durable, &ids);
            scope.spawn(move || {
                let mut random = Random::new(caller);
                for _ in 0..100 {
                    let (from, to) = random.pair(ids.len());
                    durable.transfer(&ids[from], &ids[to], 1).expect("funds");
                }
            });
        }
    });
    println!(
        "  {CALLERS} callers at once, on disk: {}",
        rate((CALLERS * 100) as f64 / started.elapsed().as_secs_f64())
    );
}

/// Starting again.
fn recovery() {
    let operations = number("DURABLE_OPERATIONS", 10_000_000);
    println!("\nstarting again");
    let ids = account_ids(ACCOUNTS);
    let dir = data_directory();
    let fill = |every: u64| {
        let ledger = Ledger::builder().checkpoint_every(every).open(dir.path()).expect("opens");
        for id in &ids {
            if ledger.balance(id).is_none() {
                ledger.create(id, INITIAL).expect("a new account");
            }
        }
        ledger
    };
    let started = Instant::now();
    let ledger = fill(u64::MAX);
    journal_transfers(&ledger, &ids, 0, operations / 5);
    println!("  {} entries journalled in {:.1?}", ledger.sequence(), started.elapsed());
    drop(ledger);

    let (took, entries) = open_again(dir.path());
    let replayed = entries as f64 / took;
    println!("  replay without a checkpoint: {}, of 1 M/s {}", rate(replayed), at_least(replayed / 1e6, 1.0));

    let ledger = fill(1_000_000);
    journal_transfers(&ledger, &ids, operations / 5, operations);
    drop(ledger);
    let (took, _) = open_again(dir.path());
    println!("  the start after {operations} operations, of 15 s: {}", at_most(took / 15.0, 1.0));
}

/// As fast as one thread can, with ids; nobody waits for the disk until the end.
fn journal_transfers(ledger: &Ledger, ids: &[AccountId], from: u64, to: u64) {
    journal_in_batches(ledger, ids, from, to, u64::MAX);
}

/// As [`journal_transfers`], but waits after every `together`.
fn journal_in_batches(ledger: &Ledger, ids: &[AccountId], from: u64, to: u64, together: u64) {
    for number in from..to {
        if number % together == together - 1 {
            ledger.wait_durable(ledger.sequence()).expect("durable");
        }
        let request = Request::single(numbered(ids, number), Some(transaction_id(number)));
        loop {
            match ledger.submit(request.clone()) {
                Ok(_) => break,
                Err(equipoise::SubmitError::Exhausted(_)) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        }
    }
    ledger.wait_durable(ledger.sequence()).expect("durable");
}

/// The transfer of that number: always the same, so that it can be sent again.
fn numbered(ids: &[AccountId], number: u64) -> Operation {
    let (debtor, creditor) = Random::new(number).pair(ids.len());
    Operation::transfer(ids[debtor].clone(), ids[creditor].clone(), 1).expect("valid")
}

fn open_again(dir: &Path) -> (f64, u64) {
    let started = Instant::now();
    let ledger = Ledger::builder().reserve(ACCOUNTS).open(dir).expect("opens again");
    let took = started.elapsed().as_secs_f64();
    println!("  opened at sequence {} in {took:.2} s", ledger.sequence());
    (took, ledger.sequence())
}

/// Resident memory after a tenth of the operations, and after all of them.
fn memory() {
    let operations = number("DURABLE_OPERATIONS", 10_000_000);
    println!("\nresident memory, {ACCOUNTS} accounts on disk");
    let ids = account_ids(ACCOUNTS);
    let dir = data_directory();
    let ledger = Ledger::open(dir.path()).expect("opens");
    open_accounts(&ledger, &ids);
    journal_transfers(&ledger, &ids, 0, operations / 10);
    let (early, sent) = settled(&ledger, &ids, operations / 10);
    println!("  {early:.1} MB after {sent} operations");
    journal_transfers(&ledger, &ids, sent, operations);
    let (late, all) = settled(&ledger, &ids, operations);
    println!("  {late:.1} MB after {all} operations: {}", at_most(late / early, 1.1));
    let without_index = late - (all - sent) as f64 * INDEX_BYTES / 1e6;
    println!(
        "  without {INDEX_BYTES} bytes an id, which the index is documented to take: {}",
        at_most(without_index / early, 1.1)
    );
}

/// Sends more, from number `next` on, until the ids have just been swept, so that always as many are in memory. Returns megabytes resident once nothing
/// is under way, and how many were sent in all.
fn settled(ledger: &Ledger, ids: &[AccountId], mut next: u64) -> (f64, u64) {
    while ledger.stats().ids > 52_000 {
        journal_transfers(ledger, ids, next, next + 1_000);
        next += 1_000;
        std::thread::sleep(Duration::from_millis(20));
    }
    while ledger.stats().garbage_bytes > 1 << 20 {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(2));
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    (pages * 4_096.0 / 1e6, next)
}
