//! Measuring: the canonical workloads, and what becomes of their figures.
//!
//! A [`Run`] is one workload against one target, as `equipoise bench run --json` prints it. [`history`] keeps its figures from run to
//! run, and [`report`] draws both.

pub mod history;
mod machine;
mod record;
pub mod report;
#[cfg(test)]
mod sample;

pub use record::{Call, Check, Contention, Latency, Machine, Moment, Run, Settings, Target, Usage};
