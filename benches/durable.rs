//! The ledger on disk against the disk itself, and against the ledger in memory, in one run on this machine.
//!
//! `cargo bench --bench durable -- [calls|recovery|checkpoint|memory|all]`. By environment: `DURABLE_DIR` where the data
//! directories go (the temporary directory), `DURABLE_OPERATIONS` journalled before a start (10,000,000).

#![allow(missing_docs, reason = "a program, not a library")]

mod workload;

use std::path::Path;
use std::time::Instant;

use equipoise::{AccountId, Durability, Ledger, Operation, Request};
use workload::{
    INITIAL, Latencies, Random, account_ids, at_least, at_most, data_directory, fdatasync, median, rate, transaction_id,
};

const ACCOUNTS: usize = 100_000;

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
        checkpoint();
    }
    if wanted("memory") {
        memory();
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
    for id in &ids {
        applied.create(id, INITIAL).expect("a new account");
    }
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
    let mut random = Random::new(from);
    for number in from..to {
        let (debtor, creditor) = random.pair(ids.len());
        let operation = Operation::transfer(ids[debtor].clone(), ids[creditor].clone(), 1).expect("valid");
        let request = Request::single(operation, Some(transaction_id(number)));
        loop {
            match ledger.submit(request.clone()) {
                Ok(_) => break,
                Err(equipoise::SubmitError::Exhausted(_)) => std::thread::sleep(std::time::Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        }
    }
    ledger.wait_durable(ledger.sequence()).expect("durable");
}

fn open_again(dir: &Path) -> (f64, u64) {
    let started = Instant::now();
    let ledger = Ledger::builder().reserve(ACCOUNTS, 0).open(dir).expect("opens again");
    let took = started.elapsed().as_secs_f64();
    println!("  opened at sequence {} in {took:.2} s", ledger.sequence());
    (took, ledger.sequence())
}

/// A checkpoint of a million accounts: loading it against reading its file.
fn checkpoint() {
    let accounts = 1_000_000;
    println!("\na checkpoint of {accounts} accounts");
    let dir = data_directory();
    let ledger = Ledger::builder().checkpoint_every(accounts as u64).open(dir.path()).expect("opens");
    for id in account_ids(accounts) {
        ledger.create(&id, INITIAL).expect("a new account");
    }
    ledger.wait_durable(ledger.sequence()).expect("durable");
    let files = || std::fs::read_dir(dir.path().join("checkpoints")).expect("a folder").flatten();
    let written =
        || files().map(|file| file.path()).find(|path| path.extension().is_some_and(|end| end == "checkpoint"));
    let file = loop {
        match written() {
            Some(file) => break file,
            None => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    };
    drop(ledger);
    let (mut read, mut load) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        forget_cached(&file);
        let started = Instant::now();
        let bytes = std::fs::read(&file).expect("readable").len();
        read.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        let ledger = Ledger::builder().reserve(accounts, 0).open(dir.path()).expect("opens again");
        load.push(started.elapsed().as_secs_f64());
        assert_eq!(ledger.stats().accounts, accounts as u64);
        println!(
            "  {bytes} bytes read in {:.3} s, the ledger opened in {:.3} s",
            read[read.len() - 1],
            load[load.len() - 1]
        );
    }
    println!("  opened / read: {}", at_most(median(&mut load) / median(&mut read), 3.0));
}

/// Lets the system forget what it holds of a file, so that the disk is read.
fn forget_cached(file: &Path) {
    let synced = std::process::Command::new("dd")
        .arg(format!("of={}", file.display()))
        .args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"])
        .output();
    assert!(synced.is_ok_and(|ended| ended.status.success()), "dd");
}

/// Resident memory after a tenth of the operations, and after all of them.
fn memory() {
    let operations = number("DURABLE_OPERATIONS", 10_000_000);
    println!("\nresident memory, {ACCOUNTS} accounts on disk");
    let ids = account_ids(ACCOUNTS);
    let dir = data_directory();
    let ledger = Ledger::open(dir.path()).expect("opens");
    for id in &ids {
        ledger.create(id, INITIAL).expect("a new account");
    }
    journal_transfers(&ledger, &ids, 0, operations / 10);
    let early = settled(&ledger);
    println!("  {early:.1} MB after {} operations", operations / 10);
    journal_transfers(&ledger, &ids, operations / 10, operations);
    let late = settled(&ledger);
    println!("  {late:.1} MB after {operations} operations: {}", at_most(late / early, 1.1));
}

/// Megabytes resident once nothing is under way.
fn settled(ledger: &Ledger) -> f64 {
    while ledger.stats().ids > 100_000 || ledger.stats().garbage_bytes > 1 << 20 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4_096.0 / 1e6
}
