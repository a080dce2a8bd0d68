//! Trials of the journal on a simulated disk: at every call that it makes something goes wrong, the process ends, and
//! what was shown as durable is looked for after the next start.
//!
//! `EQUIPOISE_TRIALS` multiplies how many of the calls are tried.

#[path = "../../../../tests/common/mod.rs"]
mod common;
mod disk;
mod faults;
mod sectors;
mod workload;

mod crashes;
mod damage;
mod full;
mod notes;
mod spare;

/// How much deeper than usual the trials go.
fn depth() -> u64 {
    std::env::var("EQUIPOISE_TRIALS").ok().and_then(|depth| depth.parse().ok()).unwrap_or(1).max(1)
}
