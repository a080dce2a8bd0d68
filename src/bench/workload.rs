//! The canonical workloads: what each asks for, fixed and versioned.

use std::fmt;
use std::str::FromStr;

use super::Settings;

/// What an account of a workload without shortage opens with: enough for any run.
const PLENTY: i64 = 1_000_000_000;

/// What a workload asks for. A change of it is a new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Transfers between accounts drawn uniformly.
    Uniform,
    /// Transfers, accounts drawn from a Zipf distribution with exponent 1.5.
    Zipf,
    /// Transfers among ten accounts.
    Hot,
    /// Half reads, 30 % updates, 20 % transfers.
    Mixed,
    /// A third each of reads, updates and transfers, at a fixed rate.
    Open,
    /// Transfers in batches, one under way for each caller.
    Batch,
    /// Transfers in batches, many in flight on each stream.
    Stream,
    /// Transfers beside readers of whole snapshots.
    Snapshot,
    /// Everything at once on few accounts, with refusals.
    Contended,
    /// New accounts.
    Create,
}

/// How the calls follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Each caller makes its next call when it has the answer to the last one.
    Closed,
    /// Calls at intended times, whatever became of the calls before.
    Open,
    /// Like `Closed`, with a batch per call.
    Batches,
    /// Batches on streams.
    Streams,
}

/// A single call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Read,
    Update,
    Transfer,
}

/// What steps are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mix {
    /// The weight of each kind of call.
    pub(super) shares: &'static [(Kind, u32)],
    /// The exponent of the Zipf distribution of accounts; None: uniform.
    pub(super) zipf: Option<f64>,
    /// The balance that accounts open with.
    pub(super) initial: i64,
    /// Updates are between `-most` and `most`, transfers between 1 and `most`.
    pub(super) most: i16,
}

impl Workload {
    /// All of them, in the order in which `all` runs them.
    pub const ALL: [Workload; 10] = [
        Workload::Uniform,
        Workload::Zipf,
        Workload::Hot,
        Workload::Mixed,
        Workload::Open,
        Workload::Batch,
        Workload::Stream,
        Workload::Snapshot,
        Workload::Contended,
        Workload::Create,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Uniform => "uniform",
            Workload::Zipf => "zipf",
            Workload::Hot => "hot",
            Workload::Mixed => "mixed",
            Workload::Open => "open",
            Workload::Batch => "batch",
            Workload::Stream => "stream",
            Workload::Snapshot => "snapshot",
            Workload::Contended => "contended",
            Workload::Create => "create",
        }
    }

    /// What it does, in a line.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Workload::Uniform => "transfers among 100,000 accounts, each as likely",
            Workload::Zipf => "transfers among 100,000 accounts, Zipf with exponent 1.5",
            Workload::Hot => "transfers among 10 accounts",
            Workload::Mixed => "50 % GetBalance, 30 % UpdateBalance, 20 % TransferFunds",
            Workload::Open => "a third each of those three at a fixed rate; latency from the intended start",
            Workload::Batch => "transfers by ExecuteBatch",
            Workload::Stream => "transfers by ExecuteStream, many batches in flight",
            Workload::Snapshot => "SnapshotBalances of all accounts beside transfers",
            Workload::Contended => "200 callers do everything on 10 accounts, with refusals",
            Workload::Create => "50 callers open accounts",
        }
    }

    /// The version of the workload: raised when it asks for something else, since figures of different versions are not
    /// compared.
    #[must_use]
    pub fn version(self) -> u32 {
        1
    }

    /// The default settings. Most workloads call an embedded ledger from one thread per core, and a service from 64
    /// callers.
    #[must_use]
    pub fn defaults(self, embedded: bool) -> Settings {
        let cores = std::thread::available_parallelism().map_or(2, |cores| u32::try_from(cores.get()).unwrap_or(2));
        let (callers, connections) = match self {
            Workload::Open => (if embedded { 8 } else { 1_000 }, 8),
            Workload::Contended => (200, 8),
            Workload::Create => (50, 8),
            Workload::Batch => (if embedded { cores } else { 4 }, 4),
            Workload::Stream => (if embedded { 4 } else { 8 }, 2),
            _ => (if embedded { cores } else { 64 }, 8),
        };
        let accounts = match self {
            Workload::Hot | Workload::Contended => 10,
            Workload::Create => 0,
            _ => 100_000,
        };
        Settings {
            seconds: 10.0,
            warm_up: 2.0,
            callers,
            connections: if embedded { 0 } else { connections },
            threads: 0,
            batch: if self.is_batched() { 8_000 } else { 1 },
            accounts,
            rate: (self == Workload::Open).then_some(500.0),
            seed: 1,
        }
    }

    /// Whether its operations come in batches.
    #[must_use]
    pub fn is_batched(self) -> bool {
        matches!(self.shape(), Shape::Batches | Shape::Streams)
    }

    /// Whether it uses many accounts, so that their number is a setting rather than its point.
    #[must_use]
    pub fn takes_accounts(self) -> bool {
        !matches!(self, Workload::Hot | Workload::Contended | Workload::Create)
    }

    pub(super) fn shape(self) -> Shape {
        match self {
            Workload::Open => Shape::Open,
            Workload::Batch => Shape::Batches,
            Workload::Stream => Shape::Streams,
            _ => Shape::Closed,
        }
    }

    /// How many read snapshots beside the callers.
    pub(super) fn snapshot_readers(self) -> u32 {
        if self == Workload::Snapshot { 2 } else { 0 }
    }

    pub(super) fn mix(self) -> Mix {
        let shares: &[(Kind, u32)] = match self {
            Workload::Mixed => &[(Kind::Read, 50), (Kind::Update, 30), (Kind::Transfer, 20)],
            Workload::Open => &[(Kind::Read, 1), (Kind::Update, 1), (Kind::Transfer, 1)],
            Workload::Contended => &[(Kind::Read, 24), (Kind::Update, 35), (Kind::Transfer, 40), (Kind::Create, 1)],
            Workload::Create => &[(Kind::Create, 1)],
            _ => &[(Kind::Transfer, 1)],
        };
        let contended = self == Workload::Contended;
        Mix {
            shares,
            zipf: (self == Workload::Zipf).then_some(1.5),
            // Low enough that a part of it is refused.
            initial: if contended { 500 } else { PLENTY },
            most: if contended { 100 } else { 1 },
        }
    }
}

impl Kind {
    /// As in the contract.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Create => "CreateAccount",
            Kind::Read => "GetBalance",
            Kind::Update => "UpdateBalance",
            Kind::Transfer => "TransferFunds",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Workload::ALL.into_iter().find(|workload| workload.name() == text);
        known.ok_or_else(|| format!("expected one of {}", Workload::ALL.map(Workload::name).join(", ")))
    }
}
