//! The history of what was measured: a file of JSON lines, to which every measurement adds some.
//!
//! # Its form, version 1
//!
//! A line is one object in UTF-8, and one benchmark that was run once:
//!
//! | key | what it is |
//! |---|---|
//! | `form` | `equipoise-benchmark` |
//! | `version` | of the form: 1. A reader refuses what is newer than itself; keys that it does not know it passes over |
//! | `source` | `bench` (a workload of `equipoise bench run`) or `criterion` |
//! | `benchmark` | the workload, or criterion's full id: `transfer/uniform` |
//! | `benchmark_version` | of the workload; not there for criterion |
//! | `conditions` | what else was asked for, by name: `callers`, `batch`, `target`, … |
//! | `time` | when it was run, RFC 3339 in UTC |
//! | `machine` | `cpu`, `cores`, `memory` (bytes), `system`, `compiler`, `profile`, and of the build `version` and `commit` (or null) |
//! | `metrics` | a list of objects: `name`, `unit`, `better` (`bigger` or `smaller`), `value`, and where it is known `low` and `high` |
//!
//! For criterion, `low` and `high` are the ends of its confidence interval; for the rate of a workload, a tenth of its
//! intervals were below `low`, and a tenth above `high`. Times are in `µs` or `ns`, rates in `operations/s` or
//! `elements/s`, shares from 0 to 1, sizes in `bytes`.
//!
//! Two rows can be compared if they have one [`Subject`] and one [`Host`]: the same source, benchmark, version and
//! conditions, on the same processor, cores, system, compiler and profile. Nothing here compares other rows.
//!
//! A row is written with one `write`, newline included, under a lock on the file. So a crash can only tear the last
//! line, and that is detected: see [`HistoryError::Torn`].

mod criterion;
mod dashboard;
mod file;
mod time;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use criterion::{Collected, CriterionError, collect};
pub use dashboard::{Entry, export};
pub use file::{History, HistoryError, Line, read};
pub use time::Time;

use super::{Call, Machine, Run, Settings, Target};

/// The value of `form` in every row.
pub const FORM: &str = "equipoise-benchmark";
/// The newest version of the form that this build reads, and the one that it writes.
pub const VERSION: u32 = 1;

/// One benchmark, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// [`FORM`].
    pub form: String,
    /// [`VERSION`].
    pub version: u32,
    /// What was run, and how.
    #[serde(flatten)]
    pub subject: Subject,
    /// When it was run.
    pub time: Time,
    /// Where it was run.
    pub machine: Machine,
    /// The figures.
    pub metrics: Vec<Metric>,
}

/// What was run. Figures of different subjects are not compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    /// Who measured.
    pub source: Source,
    /// The workload, or criterion's id.
    pub benchmark: String,
    /// The workload's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark_version: Option<u32>,
    /// The other conditions, by name.
    #[serde(default)]
    pub conditions: BTreeMap<String, String>,
}

/// Who measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `equipoise bench run`.
    Bench,
    /// `cargo bench`.
    Criterion,
}

/// Where it ran, as far as it matters for the figures. Those of different hosts are not compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Logical cores.
    pub cores: u32,
    /// System and architecture.
    pub system: String,
    /// The compiler.
    pub compiler: String,
    /// `release` or `debug`.
    pub profile: String,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Unique in its row.
    pub name: String,
    /// What `value`, `low` and `high` count.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// The figure: finite.
    pub value: f64,
    /// The lower end of the figure's range, or of its confidence interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// Which direction is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Rates.
    Bigger,
    /// Times, memory.
    Smaller,
}

/// Why a run does not go into the history.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfit {
    /// The check of its target failed: the speed of a faulty ledger is of no interest.
    #[error("the ledger's check failed after {workload}: {faults}")]
    Check {
        /// The workload.
        workload: String,
        /// What does not hold.
        faults: String,
    },
    /// It was cut off, so it is shorter than asked for.
    #[error("{workload} was cut off")]
    Cut {
        /// The workload.
        workload: String,
    },
    /// Its target could not be checked.
    #[error("the ledger could not be checked after {workload}: {notes}")]
    Unchecked {
        /// The workload.
        workload: String,
        /// Why not.
        notes: String,
    },
    /// Its service has no label, so its figures cannot be compared.
    #[error("{workload} ran against a service that has no label: say what it is by bench run --label")]
    Unnamed {
        /// The workload.
        workload: String,
    },
    /// Its start is not a valid time.
    #[error("{workload} began at {started:?}, which is no RFC 3339 time in UTC")]
    Started {
        /// The workload.
        workload: String,
        /// What is there.
        started: String,
    },
}

impl Row {
    fn new(subject: Subject, time: Time, machine: Machine, metrics: Vec<Metric>) -> Self {
        let metrics = metrics.into_iter().filter(|metric| metric.value.is_finite()).collect();
        Self { form: FORM.to_owned(), version: VERSION, subject, time, machine, metrics }
    }

    /// The row of a run.
    ///
    /// # Errors
    /// When the run is not fit to be kept.
    pub fn of_run(run: &Run) -> Result<Self, Unfit> {
        let workload = || run.workload.clone();
        if run.cut {
            return Err(Unfit::Cut { workload: workload() });
        }
        if run.check.fails() {
            let faults = if run.check.faults.is_empty() { "no details".into() } else { run.check.faults.join("; ") };
            return Err(Unfit::Check { workload: workload(), faults });
        }
        if !run.check.holds() {
            return Err(Unfit::Unchecked { workload: workload(), notes: run.check.notes.join("; ") });
        }
        if matches!(run.target, Target::Service { durable: None, label: None, .. }) {
            return Err(Unfit::Unnamed { workload: workload() });
        }
        let Some(time) = Time::parse(&run.started) else {
            return Err(Unfit::Started { workload: workload(), started: run.started.clone() });
        };
        Ok(Self::new(Subject::of_run(run), time, run.machine.clone(), metrics(run)))
    }

    /// Where it ran.
    #[must_use]
    pub fn host(&self) -> Host {
        Host::of(&self.machine)
    }
}

impl Host {
    /// Of a machine, what matters for the figures.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let Machine { cpu, cores, system, compiler, profile, .. } = machine.clone();
        Self { cpu, cores, system, compiler, profile }
    }
}

impl Subject {
    /// What a run was of. The seed is left out: any other gives the same load.
    #[must_use]
    pub fn of_run(run: &Run) -> Self {
        let Settings { seconds, warm_up, callers, connections, threads, batch, accounts, rate, .. } = &run.settings;
        let (target, durable, label) = match &run.target {
            Target::Embedded { durable } => ("embedded".to_owned(), Some(*durable), None),
            Target::Service { server, durable, label } if is_local(server) => {
                ("service".to_owned(), *durable, label.clone())
            }
            Target::Service { server, durable, label } => (format!("service at {server}"), *durable, label.clone()),
        };
        let durable = durable.map(|durable| if durable { "yes" } else { "no" }.to_owned());
        let conditions = [
            ("seconds", Some(seconds.to_string())),
            ("warm_up", Some(warm_up.to_string())),
            ("callers", Some(callers.to_string())),
            ("connections", Some(connections.to_string())),
            ("threads", Some(threads.to_string()).filter(|_| *threads > 0)),
            ("batch", Some(batch.to_string())),
            ("accounts", Some(accounts.to_string())),
            ("rate", rate.map(|rate| rate.to_string())),
            ("target", Some(target)),
            ("durable", durable),
            ("label", label),
        ];
        let conditions = conditions.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Self {
            source: Source::Bench,
            benchmark: run.workload.clone(),
            benchmark_version: Some(run.workload_version),
            conditions: conditions.collect(),
        }
    }
}

impl Metric {
    fn new(name: impl Into<String>, unit: &str, better: Better, value: f64) -> Self {
        Self { name: name.into(), unit: unit.to_owned(), better, value, low: None, high: None }
    }

    fn between(self, low: f64, high: f64) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        Self { low: finite(low), high: finite(high), ..self }
    }
}

/// Another machine's service is another subject, another port on this one is not.
fn is_local(server: &str) -> bool {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn metrics(run: &Run) -> Vec<Metric> {
    use Better::{Bigger, Smaller};
    let mut rates: Vec<f64> = run.timeline.iter().map(|moment| moment.rate).filter(|rate| rate.is_finite()).collect();
    rates.sort_by(f64::total_cmp);
    let rate = Metric::new("throughput", "operations/s", Bigger, run.rate);
    let tenth = rates.len() / 10;
    let mut metrics = vec![match (rates.get(tenth), rates.iter().rev().nth(tenth)) {
        (Some(low), Some(high)) => rate.between(*low, *high),
        _ => rate,
    }];
    metrics.extend(run.calls.iter().flat_map(of_call));
    if let Some(usage) = &run.usage {
        #[expect(clippy::cast_precision_loss, reason = "a figure for a chart")]
        let (each, resident) = (usage.cpu_seconds * 1e6 / run.operations as f64, usage.resident_bytes as f64);
        metrics.push(Metric::new("CPU per operation", "µs", Smaller, each));
        metrics.push(Metric::new("resident memory", "bytes", Smaller, resident));
    }
    if let Some(contention) = &run.contention {
        metrics.push(Metric::new("waiting on accounts", "share", Smaller, contention.waiting_share));
    }
    metrics
}

fn of_call(call: &Call) -> Vec<Metric> {
    let Call { name, calls, unanswered, failed, latency, .. } = call;
    let counted = [("failed", *failed), ("unanswered", *unanswered)].map(|(what, count)| {
        #[expect(clippy::cast_precision_loss, reason = "a figure for a chart")]
        let count = count as f64;
        Metric::new(format!("{name} {what}"), "calls", Better::Smaller, count)
    });
    let times = [
        ("p50", latency.p50),
        ("p90", latency.p90),
        ("p99", latency.p99),
        ("p99.9", latency.p99_9),
        ("longest", latency.max),
    ];
    let times = times.map(|(share, value)| Metric::new(format!("{name} {share}"), "µs", Better::Smaller, value));
    // Without a call that was waited for there is no latency, and 0 would look like a very good one.
    times.into_iter().filter(|_| calls + unanswered > 0).chain(counted).collect()
}

#[cfg(test)]
mod tests;
