//! A checkpoint of a million accounts: opening the ledger against reading the checkpoint's file, both out of the system's cache
//! and both from the disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use equipoise::Ledger;

use crate::workload::{Latencies, Random, account_ids, at_most, data_directory, median, open_accounts};

const ACCOUNTS: usize = 1_000_000;
const REPETITIONS: usize = 3;

/// Where the files are when they are read.
#[derive(Clone, Copy)]
enum Files {
    OnDisk,
    InCache,
}

const BOTH: [(Files, &str); 2] = [(Files::OnDisk, "both from the disk"), (Files::InCache, "both out of the cache")];

/// Seconds that reading the file took, and opening the ledger.
#[derive(Default)]
struct Times {
    read: Vec<f64>,
    opened: Vec<f64>,
}

pub fn checkpoint() {
    println!("\na checkpoint of {ACCOUNTS} accounts");
    let dir = data_directory();
    let file = filled(dir.path());
    let empty = data_directory();
    drop(Ledger::open(empty.path()).expect("opens"));
    let mut times: [Times; 2] = Default::default();
    for _ in 0..REPETITIONS {
        let started = Instant::now();
        drop(Ledger::open(empty.path()).expect("opens again"));
        println!("  a ledger with nothing in it opened and closed in {:.3} s", started.elapsed().as_secs_f64());
        for ((files, name), times) in BOTH.into_iter().zip(&mut times) {
            read_and_open(files, name, dir.path(), &file, times);
        }
    }
    let ledger = Ledger::builder().reserve(ACCOUNTS).open(dir.path()).expect("opens again");
    let at_once = look_ups(&ledger);
    std::thread::sleep(Duration::from_secs(2));
    println!("  a look-up right after the start {at_once:?}, later {:?}", look_ups(&ledger));
    let mut bare: Vec<_> = (0..REPETITIONS).map(|_| two_cache_lines_each(ACCOUNTS)).collect();
    println!("  the memory of its accounts alone, allocated and written: {:.3} s", median(&mut bare));
    for ((_, name), mut times) in BOTH.into_iter().zip(times) {
        println!("  opened / read, {name}: {}", at_most(median(&mut times.opened) / median(&mut times.read), 3.0));
    }
}

/// A ledger whose state is in a checkpoint: the checkpoint's file.
fn filled(dir: &Path) -> PathBuf {
    let ledger = Ledger::builder().checkpoint_every(ACCOUNTS as u64).open(dir).expect("opens");
    open_accounts(&ledger, &account_ids(ACCOUNTS));
    ledger.wait_durable(ledger.sequence()).expect("durable");
    loop {
        let mut written = files_in(&dir.join("checkpoints")).into_iter();
        match written.find(|path| path.extension().is_some_and(|end| end == "checkpoint")) {
            Some(file) => return file,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn read_and_open(files: Files, name: &str, dir: &Path, file: &Path, times: &mut Times) {
    files.prepare(dir);
    let started = Instant::now();
    let bytes = std::fs::read(file).expect("readable").len();
    let read = started.elapsed().as_secs_f64();
    files.prepare(dir);
    let (started, busy) = (Instant::now(), processor_time());
    let ledger = Ledger::builder().reserve(ACCOUNTS).open(dir).expect("opens again");
    let opened = started.elapsed().as_secs_f64();
    let busy = processor_time() - busy;
    assert_eq!(ledger.stats().accounts, ACCOUNTS as u64);
    println!(
        "  {name}: {bytes} bytes read in {read:.3} s, the ledger opened in {opened:.3} s ({busy:.3} s of the processors' time)"
    );
    times.read.push(read);
    times.opened.push(opened);
}

impl Files {
    /// Brings every file of the ledger there.
    fn prepare(self, dir: &Path) {
        let folders = [dir.to_owned(), dir.join("checkpoints"), dir.join("ids"), dir.join("journal")];
        for file in folders.iter().flat_map(|folder| files_in(folder)) {
            match self {
                Files::OnDisk => forget_cached(&file),
                Files::InCache => drop(std::fs::read(&file).expect("readable")),
            }
        }
    }
}

/// The files of a folder; none of one that does not exist.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// Lets the system forget what it holds of a file, so that the disk is read.
fn forget_cached(file: &Path) {
    let synced = std::process::Command::new("dd")
        .arg(format!("of={}", file.display()))
        .args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"])
        .output();
    assert!(synced.is_ok_and(|ended| ended.status.success()), "dd");
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
fn look_ups(ledger: &Ledger) -> Duration {
    let ids = account_ids(ACCOUNTS);
    let mut random = Random::new(7);
    let mut latencies = Latencies::default();
    for _ in 0..20_000 {
        let id = &ids[random.below(ACCOUNTS)];
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
