//! Measuring: the canonical workloads, and what becomes of their figures.
//!
//! A [`Run`] is one workload against one target. It is what `equipoise bench --json` prints and what a line of the history holds.

mod machine;
mod record;

pub use record::{Call, Check, Contention, Latency, Machine, Moment, Run, Settings, Target, Usage};
