//! The command line, as people and scripts meet it: the real binary, a real service, exit codes and both streams.
//! Case A20 unless a test says otherwise.

#![cfg(all(feature = "server", unix))]

mod bench;
mod bench_ends;
mod bench_history;
mod changes;
mod compact;
mod data;
mod export;
mod habits;
mod import;
mod interrupts;
#[cfg(feature = "kafka")]
mod kafka;
mod metrics;
mod program;
mod serve;
mod settings;
mod slow_readers;
mod stats;
