//! Measuring: the canonical workloads, and what is done with their figures.
//!
//! A [`Run`] is one workload against one target, as `equipoise bench run --json` prints it; [`run`] makes one.
//! [`history`] keeps its figures from run to run, and [`report`] draws both.

mod batches;
mod call;
mod check;
mod choice;
mod closed;
mod evidence;
pub mod history;
mod interrupt;
mod latencies;
mod machine;
mod metrics;
mod names;
mod open;
mod opened;
mod patience;
mod record;
mod recorder;
pub mod report;
mod run;
#[cfg(test)]
mod sample;
mod snapshots;
mod spawned;
mod tally;
mod timeline;
mod usage;
mod verdict;
mod wire;
mod worker;
mod workload;

use thiserror::Error;

pub use interrupt::Interrupt;
pub use names::MAX_ACCOUNTS;
pub use opened::Place;
pub use record::{Call, Check, Contention, Latency, Machine, Moment, Run, Settings, Target, Usage};
pub use run::{Asked, MAX_CALLERS, Stage, run};
pub use verdict::Verdict;
pub use workload::Workload;

use crate::{InvalidRequest, OpenError};

/// Why there is no run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The service's answer, or the error in its place.
    #[error("{}", .0.message())]
    Status(Box<tonic::Status>),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The service that the run starts does not come up.
    #[error("{program} ended before it was ready: {said}")]
    Spawn {
        /// The program that was started.
        program: String,
        /// Its error output.
        said: String,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Error::Status(Box::new(status))
    }
}

impl From<InvalidRequest> for Error {
    fn from(error: InvalidRequest) -> Self {
        Error::Other(error.to_string())
    }
}
