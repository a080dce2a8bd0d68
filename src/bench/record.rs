//! What one run of a workload found. Latencies are in microseconds, rates in operations a second.

use serde::{Deserialize, Serialize};

use super::Verdict;

/// One workload, once, against one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The workload's name, as on the command line.
    pub workload: String,
    /// Counts up when a workload asks for something else: figures of different versions are not compared.
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
    /// Each kind of call by itself.
    pub calls: Vec<Call>,
    /// How it went over time, in equal intervals.
    pub timeline: Vec<Moment>,
    /// What the process that answered used, where that can be seen.
    pub usage: Option<Usage>,
    /// Time spent on accounts that others held, where the target tells.
    pub contention: Option<Contention>,
    /// What the ledger was found to hold at the end.
    pub check: Check,
    /// It was ended before its time.
    #[serde(default)]
    pub cut: bool,
    /// What it says about the requirements on load.
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
        /// Answers wait for the disk, where the caller knows.
        durable: Option<bool>,
        /// What it is, as whoever measured it says: a service does not tell where its state lives.
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
    /// Callers at once, each with one call under way; of a stream, batches in flight.
    pub callers: u32,
    /// Connections they share.
    pub connections: u32,
    /// Threads that call a service; 0 where it is not known, and of a ledger in this process, which each caller has one for.
    #[serde(default)]
    pub threads: u32,
    /// Operations a call.
    pub batch: u32,
    /// Accounts they choose from.
    pub accounts: u32,
    /// Calls a second, of an open workload; latency then counts from the intended start.
    pub rate: Option<f64>,
    /// What the choices are drawn from.
    pub seed: u64,
}

/// One kind of call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// As in the contract: `TransferFunds`.
    pub name: String,
    /// Calls that should have been answered: answered ones, those that failed, and those without an answer.
    #[serde(default)]
    pub due: u64,
    /// Calls that were answered, also after the end.
    pub calls: u64,
    /// Calls that nobody had answered when the waiting for them ended.
    #[serde(default)]
    pub unanswered: u64,
    /// Operations in them that were refused for their balance.
    pub refused: u64,
    /// Calls that failed otherwise; they have no latency.
    pub failed: u64,
    /// Of the answered ones, and of those without an answer, as late as they were when the waiting for them ended.
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
    /// Seconds of all threads together spent so, or on CAS that failed and was tried again.
    pub waiting_seconds: f64,
    /// Share of the time that writers worked, 0 to 1.
    pub waiting_share: f64,
}

/// What the ledger was found to hold after a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The sum of all balances is what it must be. This, and what follows, is None where it was not looked at.
    pub total: Option<bool>,
    /// Every account's version is one more than its changes in the journal.
    pub versions: Option<bool>,
    /// A snapshot is what its journal gives, as far back as the journal was read.
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
