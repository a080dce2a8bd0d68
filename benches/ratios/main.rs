//! The ratios that the project promises, measured in one run on this machine, ours and the baselines in turn.
//!
//! `cargo bench --bench ratios -- [read|write|snapshot|cost|engine|all]`. By environment: `RATIOS_MILLISECONDS` a measurement
//! (500), `RATIOS_REPETITIONS` (3), `RATIOS_IDS` honoured by every contender (100,000), `RATIOS_LOG` entries kept by
//! every contender (100,000), `RATIOS_SNAPSHOT_ACCOUNTS` (1,000,000).

#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../baseline/mod.rs"]
mod baseline;
mod callers;
mod engine;
mod reads;
mod snapshots;
mod transfers;
#[path = "../workload/mod.rs"]
mod workload;

use std::time::Duration;

use baseline::Limits;

/// Accounts that transfers choose from.
const ACCOUNTS: usize = 100_000;

fn main() {
    // Cargo passes `--bench`.
    let asked: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name| asked.is_empty() || asked.iter().any(|asked| asked == name || asked == "all");
    let settings = Settings::from_environment();
    println!("{} cores; {settings:?}", std::thread::available_parallelism().map_or(0, usize::from));
    if wanted("read") {
        reads::read(&settings);
    }
    if wanted("write") {
        transfers::write(&settings);
    }
    if wanted("snapshot") {
        snapshots::snapshot(&settings);
    }
    if wanted("cost") {
        engine::cost(&settings);
    }
    if wanted("engine") {
        engine::engine(&settings);
    }
}

#[derive(Debug)]
struct Settings {
    measurement: Duration,
    repetitions: usize,
    ids: usize,
    log: usize,
    snapshot_accounts: usize,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name: &str, default: usize| {
            std::env::var(name).map_or(default, |text| text.parse().expect("a number in the environment"))
        };
        Settings {
            measurement: Duration::from_millis(number("RATIOS_MILLISECONDS", 500) as u64),
            repetitions: number("RATIOS_REPETITIONS", 3),
            ids: number("RATIOS_IDS", 100_000),
            log: number("RATIOS_LOG", 100_000),
            snapshot_accounts: number("RATIOS_SNAPSHOT_ACCOUNTS", 1_000_000),
        }
    }

    fn limits(&self) -> Limits {
        Limits { ids: self.ids, log: self.log }
    }
}
