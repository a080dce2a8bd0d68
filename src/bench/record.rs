//! What one run of a workload found. Latencies are in microseconds, rates in operations a second.

use serde::{Deserialize, Serialize};

use super::Verdict;

/// One workload, once, against one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The workload's name, as on the command line.
    pub workload: String,
    /// The version of the workload: raised when it asks for something else, since figures of different versions are not
    /// compared.
    pub workload_version: u32,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// Where it ran.
    pub machine: Machine,
    /// What it ran against.
    pub target: Target,
    /// What was asked for.
    pub settings: Settings,
    /// Operations that were answered within the measured time, refusals included.
    pub operations: u64,
    /// Operations a second.
    pub rate: f64,
    /// The kinds of calls, each by itself.
    pub calls: Vec<Call>,
    /// The course of the run, in equal intervals.
    pub timeline: Vec<Moment>,
    /// What the target's process used, if that can be seen.
    pub usage: Option<Usage>,
    /// Time spent on accounts that others held, if the target tells.
    pub contention: Option<Contention>,
    /// What the ledger was found to hold at the end.
    pub check: Check,
    /// Whether the run was cut off.
    #[serde(default)]
    pub cut: bool,
    /// What the run shows about the requirements on load.
    #[serde(default)]
    pub verdicts: Vec<Verdict>,
}

/// A machine and a build. Figures are compared on the same one only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Logical cores that the process may use.
    pub cores: u32,
    /// Memory, in bytes.
    pub memory: u64,
    /// System and architecture: `linux x86_64`.
    pub system: String,
    /// `rustc --version` of the build.
    pub compiler: String,
    /// `release` or `debug`.
    pub profile: String,
    /// This crate's version.
    pub version: String,
    /// The commit that was built, where it is known.
    pub commit: Option<String>,
}

/// What answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// A service, over gRPC.
    Service {
        /// Its URL.
        server: String,
        /// Whether answers wait for the disk, if the caller knows.
        durable: Option<bool>,
        /// Its label, given by whoever measured: a service does not tell where its state lives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        label: Option<String>,
    },
    /// A ledger in the measuring process.
    Embedded {
        /// Answers wait for the disk.
        durable: bool,
    },
}

/// What a run was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Measured time, in seconds.
    pub seconds: f64,
    /// Unmeasured time before it, in seconds.
    pub warm_up: f64,
    /// Concurrent callers, each with one call under way; for a stream, batches in flight.
    pub callers: u32,
    /// Connections that they share.
    pub connections: u32,
    /// Threads that call a service; 0 if unknown, and for a ledger in this process, where each caller has one.
    #[serde(default)]
    pub threads: u32,
    /// Operations per call.
    pub batch: u32,
    /// Accounts that they choose from.
    pub accounts: u32,
    /// Calls per second in an open workload, whose latency counts from the intended start.
    pub rate: Option<f64>,
    /// The seed that the choices are drawn from.
    pub seed: u64,
}

/// One kind of call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// As in the contract: `TransferFunds`.
    pub name: String,
    /// Calls that were due: answered ones, failed ones, and those without an answer.
    #[serde(default)]
    pub due: u64,
    /// Answered calls, including those answered after the end.
    pub calls: u64,
    /// Calls without an answer when the wait for the last answers ended.
    #[serde(default)]
    pub unanswered: u64,
    /// Operations in them that were refused for their balance.
    pub refused: u64,
    /// Calls that failed otherwise; they have no latency.
    pub failed: u64,
    /// The latency of the answered calls, and of those without an answer: how long they had waited by the end.
    pub latency: Latency,
}

/// A distribution, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// Half are faster.
    pub p50: f64,
    /// 90 in 100 are faster.
    pub p90: f64,
    /// 99 in 100 are faster.
    pub p99: f64,
    /// 999 in 1000 are faster.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
    /// Pairs of a share (0 to 1, ascending) and what that share is faster than: enough to draw the curve.
    pub curve: Vec<(f64, f64)>,
}

/// One interval of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Its end, in seconds since the measuring began.
    pub second: f64,
    /// Operations a second in it.
    pub rate: f64,
    /// Half of its calls were faster, in microseconds.
    pub p50: f64,
    /// 99 in 100 of its calls were faster, in microseconds.
    pub p99: f64,
}

/// What a process used while it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds of all cores together.
    pub cpu_seconds: f64,
    /// Share of all cores of the machine, 0 to 1.
    pub cpu_share: f64,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: u64,
}

/// Time on accounts that another transaction held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contention {
    /// Transactions that a thread finished for another.
    pub helped: u64,
    /// Thread time in seconds spent so, or on a CAS that failed and was retried.
    pub waiting_seconds: f64,
    /// Share of the time that writers worked, 0 to 1.
    pub waiting_share: f64,
}

/// What the ledger was found to hold after a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Whether the sum of all balances is right. This and the next two are None if that was not checked.
    pub total: Option<bool>,
    /// Whether each change in the journal raises its account's version by one.
    pub versions: Option<bool>,
    /// Whether a snapshot agrees with its journal, as far back as the journal was read.
    pub journal: Option<bool>,
    /// What does not hold, one line each.
    pub faults: Vec<String>,
    /// What could not be looked at, one line each: no fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Check {
    /// Of a ledger that could not be read, for this reason.
    pub(super) fn none(why: String) -> Self {
        Check { total: None, versions: None, journal: None, faults: Vec::new(), notes: vec![why] }
    }

    /// Something is wrong.
    #[must_use]
    pub fn fails(&self) -> bool {
        [self.total, self.versions, self.journal].contains(&Some(false)) || !self.faults.is_empty()
    }

    /// The ledger was looked at, and nothing is wrong. Its journal may have been left out, as it was asked for.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.fails() && self.total.is_some()
    }
}
