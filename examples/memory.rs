//! What accounts and ids cost in resident memory, and that operations cost none that stays (Linux).
//!
//! `cargo run --release --no-default-features --example memory [HISTORY|disk]`: with HISTORY the newest so many entries
//! of the journal are kept in memory; with `disk` the ledger is in a data directory, which is removed afterwards. Exits
//! with 1 when a promise is broken.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use equipoise::{AccountId, Ledger, Operation, Request, SubmitError, TransactionId};

type Failed = Box<dyn std::error::Error>;

const ACCOUNTS: usize = 100_000;
const OPERATIONS: u64 = 1_000_000;
/// Enough for the id table to pass its default bound and to be swept several times.
const TO_THE_BOUND: u64 = 300_000;
/// On disk the first million counts as well, against what is documented.
const TO_THE_BOUND_ON_DISK: u64 = 1_000_000;
const CHECKPOINT_EVERY: u64 = 400_000;
const PAGE: f64 = 4_096.0;
const MEGABYTE: f64 = 1e6;

/// How many ids are in memory by default.
const IDS: f64 = 100_000.0;
/// What the crate says that one takes there, with what it takes more while it waits for the index; the room for those
/// is reserved twice, for three quarters of the ids.
const ID: f64 = 470.0 + 2.0 * 0.75 * 72.0;
/// What it says that one takes of memory once it is in the index, at the most.
const INDEXED_ID: f64 = 2.6;
/// What is there whatever the number of ids: threads, buffers of journal, checkpoint and merge, pages freed and not
/// given back. A tenth of what a million ids would take that stayed in memory.
const FIXED: f64 = 48.0;

fn main() -> Result<ExitCode, Failed> {
    let argument = std::env::args().nth(1);
    let ids =
        (0..ACCOUNTS).map(|number| AccountId::new(&format!("account-{number:08}"))).collect::<Result<Vec<_>, _>>()?;
    let empty = resident()?;
    let dir = tempfile::tempdir()?;
    let (ledger, of_accounts) = match argument.as_deref() {
        // With a history, opening the accounts fills that as well.
        Some("disk") => (Ledger::builder().checkpoint_every(CHECKPOINT_EVERY).open(dir.path())?, None),
        Some(entries) => (Ledger::builder().history(entries.parse()?).build(), None),
        None => (Ledger::new(), Some(50.0)),
    };
    let on_disk = argument.as_deref() == Some("disk");
    for some in ids.chunks(1_000) {
        for id in some {
            ledger.create(id, 1_000_000)?;
        }
        // What waits for the flusher is no account's.
        ledger.wait_durable(ledger.sequence())?;
    }
    let opened = report("accounts opened", &ledger, empty)?;

    let mut run = Run { ledger: &ledger, ids: &ids, next: 0, swept: on_disk };
    let to_the_bound = if on_disk { TO_THE_BOUND_ON_DISK } else { TO_THE_BOUND };
    let at_bound = run.operations(to_the_bound, empty, "ids at their bound")?;
    let checkpoint = newest_checkpoint(dir.path());
    let after = run.operations(OPERATIONS, empty, "1,000,000 operations later")?;

    let accounts = opened - empty;
    println!("{ACCOUNTS} accounts: {accounts:.1} MB, {:.0} bytes each", accounts * MEGABYTE / ACCOUNTS as f64);
    let mut kept = Kept(true);
    if let Some(most) = of_accounts {
        kept.at_most("accounts", accounts, most, "MB");
    }
    let growth = 100.0 * (after.median - at_bound.median) / at_bound.median;
    kept.at_most(&format!("growth over the last {OPERATIONS} operations"), growth, 10.0, "%");
    if on_disk {
        let of_ids = (IDS * ID + INDEXED_ID * run.next as f64) / MEGABYTE;
        println!("ids are documented to take {of_ids:.1} MB, and {FIXED} MB are for what is fixed");
        kept.at_most(
            "growth from the first operation on",
            after.most.max(at_bound.most) - opened,
            of_ids + FIXED,
            "MB",
        );
        let newer = newest_checkpoint(dir.path()) > checkpoint && checkpoint.is_some();
        println!("checkpoints in both parts: {newer}");
        kept.0 &= newer;
    }
    Ok(if kept.0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether all promises so far were kept.
struct Kept(bool);

impl Kept {
    fn at_most(&mut self, what: &str, value: f64, most: f64, unit: &str) {
        let kept = value < most;
        self.0 &= kept;
        println!("{what}: {value:+.1} {unit} (less than {most:.1}): {}", if kept { "kept" } else { "BROKEN" });
    }
}

/// Megabytes resident during a run.
struct Resident {
    most: f64,
    /// A moment's peak is no growth.
    median: f64,
}

struct Run<'a> {
    ledger: &'a Ledger,
    ids: &'a [AccountId],
    next: u64,
    /// Whether ids leave memory for the disk.
    swept: bool,
}

impl Run<'_> {
    /// So many transfers, each with an id of its own; what is resident is looked at now and then.
    fn operations(&mut self, count: u64, empty: f64, what: &str) -> Result<Resident, Failed> {
        let mut looks = Vec::new();
        for _ in 0..count {
            // Steps that are prime to the number of accounts reach all of them.
            let from = (self.next as usize).wrapping_mul(7_919) % ACCOUNTS;
            let to = (from + 1 + (self.next as usize) % (ACCOUNTS - 1)) % ACCOUNTS;
            let operation = Operation::transfer(self.ids[from].clone(), self.ids[to].clone(), 1)?;
            let id = TransactionId::new(&format!("transfer-{:012}", self.next))?;
            self.submit(&Request::single(operation, Some(id)))?;
            self.next += 1;
            if self.next.is_multiple_of(10_000) {
                self.settle()?;
                looks.push(resident()?);
            }
        }
        self.settle()?;
        report(what, self.ledger, empty)?;
        looks.sort_by(f64::total_cmp);
        let (most, median) = (*looks.last().ok_or("too few operations")?, looks[looks.len() / 2]);
        println!("  {median:.1} MB on the way, at the most {most:.1}");
        Ok(Resident { most, median })
    }

    /// Waits until the journal is drained, to memory or disk, and ids are within their bound: how many more there may be
    /// meanwhile depends on how slow the disk is.
    fn settle(&self) -> Result<(), Failed> {
        self.ledger.wait_durable(self.ledger.sequence())?;
        let until = Instant::now() + Duration::from_secs(600);
        while self.swept && self.ledger.stats().ids as f64 > IDS {
            if Instant::now() > until {
                return Err(format!("{} ids stay in memory", self.ledger.stats().ids).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Submits until a slow disk lets it through.
    fn submit(&self, request: &Request) -> Result<(), Failed> {
        loop {
            match self.ledger.submit(request.clone()) {
                Err(SubmitError::Exhausted(_)) => std::thread::sleep(Duration::from_millis(5)),
                decided => {
                    decided?.result()?;
                    return Ok(());
                }
            }
        }
    }
}

fn newest_checkpoint(dir: &Path) -> Option<std::ffi::OsString> {
    let entries = std::fs::read_dir(dir.join("checkpoints")).ok()?;
    entries.flatten().map(|entry| entry.file_name()).max()
}

fn report(what: &str, ledger: &Ledger, empty: f64) -> Result<f64, Failed> {
    let (now, stats) = (resident()?, ledger.stats());
    println!(
        "{what}: {now:.1} MB resident, {:.1} MB of it the ledger's; {} accounts, {} ids, sequence {}, garbage {} bytes",
        now - empty,
        stats.accounts,
        stats.ids,
        stats.sequence,
        stats.garbage_bytes
    );
    Ok(now)
}

/// Megabytes of this process in memory.
fn resident() -> Result<f64, Failed> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).ok_or("no second number in /proc/self/statm")?;
    Ok(pages.parse::<f64>()? * PAGE / MEGABYTE)
}
