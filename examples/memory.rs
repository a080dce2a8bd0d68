//! What accounts and ids cost in resident memory, and that operations cost none that stays (Linux).
//!
//! `cargo run --release --no-default-features --example memory [HISTORY]`: with HISTORY the newest so many entries of
//! the journal are kept in memory. Exits with 1 when a promise is broken.

use std::process::ExitCode;

use equipoise::{AccountId, Ledger, Operation, Request, TransactionId};

const ACCOUNTS: usize = 100_000;
const OPERATIONS: u64 = 1_000_000;
/// Enough for the id table to pass its default bound and to be swept several times.
const TO_THE_BOUND: u64 = 300_000;
const PAGE: f64 = 4_096.0;
const MEGABYTE: f64 = 1e6;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let history = std::env::args().nth(1).map(|text| text.parse()).transpose()?;
    let ids =
        (0..ACCOUNTS).map(|number| AccountId::new(&format!("account-{number:08}"))).collect::<Result<Vec<_>, _>>()?;
    let empty = resident()?;
    let ledger = match history {
        Some(entries) => Ledger::builder().history(entries).build(),
        None => Ledger::new(),
    };
    for id in &ids {
        ledger.create(id, 1_000_000)?;
    }
    settle(&ledger)?;
    let opened = report("accounts opened", &ledger, empty)?;

    let mut run = Run { ledger: &ledger, ids: &ids, next: 0 };
    let at_bound = run.operations(TO_THE_BOUND, empty, "ids at their bound")?;
    let after = run.operations(OPERATIONS, empty, "1,000,000 operations later")?;

    let growth = 100.0 * (after - at_bound) / at_bound;
    let accounts = opened - empty;
    // With a history, opening the accounts fills that as well.
    let small = history.is_some() || accounts < 50.0;
    let flat = growth < 10.0;
    let word = |held| if held { "kept" } else { "BROKEN" };
    println!(
        "{ACCOUNTS} accounts: {accounts:.1} MB, {:.0} bytes each (less than 50 MB without a history: {})",
        accounts * MEGABYTE / ACCOUNTS as f64,
        if history.is_some() { "not judged" } else { word(small) }
    );
    println!("growth over the last {OPERATIONS} operations: {growth:+.1} % (less than 10 %: {})", word(flat));
    Ok(if small && flat { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Run<'a> {
    ledger: &'a Ledger,
    ids: &'a [AccountId],
    next: u64,
}

impl Run<'_> {
    /// So many transfers, each with an id of its own; megabytes resident at the most, looked at now and then.
    fn operations(&mut self, count: u64, empty: f64, what: &str) -> Result<f64, Box<dyn std::error::Error>> {
        let mut most = 0.0_f64;
        for _ in 0..count {
            // Steps that are prime to the number of accounts reach all of them.
            let from = (self.next as usize).wrapping_mul(7_919) % ACCOUNTS;
            let to = (from + 1 + (self.next as usize) % (ACCOUNTS - 1)) % ACCOUNTS;
            let operation = Operation::transfer(self.ids[from].clone(), self.ids[to].clone(), 1)?;
            let id = TransactionId::new(&format!("transfer-{:012}", self.next))?;
            self.ledger.submit(Request::single(operation, Some(id)))?.result()?;
            self.next += 1;
            if self.next.is_multiple_of(10_000) {
                most = most.max(resident()?);
            }
        }
        settle(self.ledger)?;
        report(what, self.ledger, empty)?;
        println!("  at the most {most:.1} MB on the way");
        Ok(most)
    }
}

/// Waits until the journal in memory is drained.
fn settle(ledger: &Ledger) -> Result<(), Box<dyn std::error::Error>> {
    Ok(ledger.wait_durable(ledger.sequence())?)
}

fn report(what: &str, ledger: &Ledger, empty: f64) -> Result<f64, Box<dyn std::error::Error>> {
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
fn resident() -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).ok_or("no second number in /proc/self/statm")?;
    Ok(pages.parse::<f64>()? * PAGE / MEGABYTE)
}
