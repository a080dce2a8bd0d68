//! The ledger on disk against the disk itself, and against the ledger in memory, in one run on this machine.
//!
//! `cargo bench --bench durable -- [calls|recovery|checkpoint|memory|ids|all]`. By environment: `DURABLE_DIR` where the data
//! directories go (the temporary directory), `DURABLE_OPERATIONS` journalled before a start, and ids on disk (10,000,000).

#![allow(missing_docs, reason = "a program, not a library")]

mod workload;

use std::path::Path;
use std::time::{Duration, Instant};

use equipoise::{AccountId, Durability, Ledger, Operation, Request, TransactionId};
use workload::{
    INITIAL, Latencies, Random, account_ids, at_least, at_most, data_directory, fdatasync, median, rate, transaction_id,
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
        checkpoint();
    }
    if wanted("memory") {
        memory();
    }
    if wanted("ids") {
        transaction_ids();
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
    let mut random = Random::new(from);
    for number in from..to {
        if number % together == together - 1 {
            ledger.wait_durable(ledger.sequence()).expect("durable");
        }
        let (debtor, creditor) = random.pair(ids.len());
        let operation = Operation::transfer(ids[debtor].clone(), ids[creditor].clone(), 1).expect("valid");
        let request = Request::single(operation, Some(transaction_id(number)));
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

fn open_again(dir: &Path) -> (f64, u64) {
    let started = Instant::now();
    let ledger = Ledger::builder().reserve(ACCOUNTS).open(dir).expect("opens again");
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
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    drop(ledger);
    let (mut read, mut load) = (Vec::new(), Vec::new());
    let empty = data_directory();
    drop(Ledger::open(empty.path()).expect("opens"));
    for _ in 0..3 {
        let started = Instant::now();
        drop(Ledger::open(empty.path()).expect("opens again"));
        println!("  a ledger with nothing in it opened and closed in {:.3} s", started.elapsed().as_secs_f64());
        forget_cached(&file);
        let started = Instant::now();
        let bytes = std::fs::read(&file).expect("readable").len();
        read.push(started.elapsed().as_secs_f64());
        let (started, busy) = (Instant::now(), processor_time());
        let ledger = Ledger::builder().reserve(accounts).open(dir.path()).expect("opens again");
        load.push(started.elapsed().as_secs_f64());
        let busy = processor_time() - busy;
        assert_eq!(ledger.stats().accounts, accounts as u64);
        let at_once = look_ups(&ledger, accounts);
        std::thread::sleep(Duration::from_secs(2));
        println!(
            "  {bytes} bytes read in {:.3} s, the ledger opened in {:.3} s ({busy:.3} s of the processors' time); a look-up then {at_once:?}, later {:?}",
            read[read.len() - 1],
            load[load.len() - 1],
            look_ups(&ledger, accounts),
        );
    }
    let mut bare: Vec<_> = (0..3).map(|_| two_cache_lines_each(accounts)).collect();
    println!("  the memory of its accounts alone, allocated and written: {:.3} s", median(&mut bare));
    println!("  opened / read: {}", at_most(median(&mut load) / median(&mut read), 3.0));
}

/// What the accounts of a ledger take at least: each a slot and a version, of a cache line both.
fn two_cache_lines_each(accounts: usize) -> f64 {
    #[repr(align(64))]
    struct Line([u64; 8]);
    let started = Instant::now();
    let mut slots = Vec::with_capacity(accounts);
    slots.extend((0..accounts).map(|number| Line([number as u64; 8])));
    let versions: Vec<_> = (0..accounts).map(|number| Box::new(Line([number as u64; 8]))).collect();
    let took = started.elapsed();
    assert_eq!(std::hint::black_box((&slots, &versions)).1[accounts - 1].0[7], slots[accounts - 1].0[0]);
    took.as_secs_f64()
}

/// The median look-up of 20,000.
fn look_ups(ledger: &Ledger, accounts: usize) -> Duration {
    let ids = account_ids(accounts);
    let mut random = Random::new(7);
    let mut latencies = Latencies::default();
    for _ in 0..20_000 {
        let id = &ids[random.below(accounts)];
        let started = Instant::now();
        assert!(std::hint::black_box(ledger.balance(id)).is_some());
        latencies.record(started.elapsed());
    }
    latencies.percentile(500)
}

/// Seconds that this process has had processors.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
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

/// What an id costs, and how long its check takes beside ingestion.
fn transaction_ids() {
    let count = number("DURABLE_OPERATIONS", 10_000_000);
    println!("\n{count} transaction ids on disk");
    let accounts = account_ids(1_000);
    let dir = data_directory();
    let ledger = Ledger::open(dir.path()).expect("opens");
    for id in &accounts {
        ledger.create(id, INITIAL).expect("a new account");
    }
    journal_in_batches(&ledger, &accounts, 0, count / 10, CALLERS);
    let (early, few) = settled(&ledger, &accounts, count / 10);
    journal_in_batches(&ledger, &accounts, few, count, CALLERS);
    let (late, all) = settled(&ledger, &accounts, count);
    println!("  {:.2} bytes resident an id", (late - early) * 1e6 / (all - few) as f64);
    println!("  {:.1} bytes on disk an id", on_disk(&dir.path().join("ids")) as f64 / all as f64);
    check_ids(&ledger, all, "alone");
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
        check_ids(&ledger, all, "beside ingestion");
        stopped.get_or_init(|| ());
        println!("  ingested meanwhile: {}", rate(ingesting.join().expect("no panic")));
    });
}

/// Looks up ids that nobody used, and ids below `used`, each after a rest.
fn check_ids(ledger: &Ledger, used: u64, when: &str) {
    let mut random = Random::new(11);
    let timed = |look_up: &mut dyn FnMut()| {
        let started = Instant::now();
        look_up();
        started.elapsed()
    };
    let [mut new, mut read, mut repeated, mut known] = std::array::from_fn(|_| Latencies::default());
    for number in 0..10_000 {
        std::thread::sleep(Duration::from_micros(200));
        let id = TransactionId::new(&format!("new-{number}")).expect("short");
        new.record(timed(&mut || assert!(ledger.transaction(&id).expect("readable").is_none())));
        let id = transaction_id(random.below(used as usize) as u64);
        let mut sequence = 0;
        let answered = timed(&mut || sequence = ledger.transaction(&id).expect("readable").expect("used").sequence());
        let entry = timed(&mut || drop(ledger.history(sequence, 1).expect("kept")));
        repeated.record(answered);
        read.record(entry);
        known.record(answered.saturating_sub(entry));
    }
    let tell = |what: &str, latencies: &Latencies| {
        let [median, high] = [500, 990].map(|per_mille| latencies.percentile(per_mille));
        let longest = latencies.longest();
        println!(
            "  {when}, {what}: {median:?}, 99th percentile {high:?}, longest {longest:?}: {}",
            at_most(high.as_secs_f64() / 100e-6, 1.0)
        );
    };
    tell("a new id", &new);
    tell("a repeated id and its answer", &repeated);
    tell("the answer alone, out of the journal", &read);
    tell("a repeated id, their difference", &known);
}

/// Bytes that the files in `folder` take.
fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}
