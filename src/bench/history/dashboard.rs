//! The form that CI dashboards read: an array of `name`, `unit`, `value`, `range` and `extra`, which
//! github-action-benchmark calls `customSmallerIsBetter` and `customBiggerIsBetter`.

use serde::Serialize;

use super::{Better, Host, Metric, Row, Subject};

/// One figure of one benchmark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The subject, the metric and the host: dashboards compare what has one name.
    pub name: String,
    /// What the value counts.
    pub unit: String,
    /// The figure.
    pub value: f64,
    /// Half the way from `low` to `high`: `± 12.5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// For people: when, of which commit, with how much memory.
    pub extra: String,
}

/// The newest figures with one direction: dashboards want one array for each. All are of the host and the build of the
/// newest row, so that a dashboard attributes no figures of an earlier commit or another machine to them.
#[must_use]
pub fn export(rows: &[Row], better: Better) -> Vec<Entry> {
    let Some(newest) = rows.iter().max_by_key(|row| row.time) else { return Vec::new() };
    let build = |row: &Row| (row.host(), row.machine.version.clone(), row.machine.commit.clone());
    let mut rows: Vec<&Row> = rows.iter().filter(|row| build(row) == build(newest)).collect();
    rows.sort_by(|a, b| (&a.subject, b.time).cmp(&(&b.subject, a.time)));
    rows.dedup_by(|later, first| later.subject == first.subject);
    let metrics = |row: &&Row| {
        let row = *row;
        row.metrics.iter().filter(|metric| metric.better == better).map(|metric| entry(row, metric)).collect::<Vec<_>>()
    };
    rows.iter().flat_map(metrics).collect()
}

fn entry(row: &Row, metric: &Metric) -> Entry {
    let Metric { name, unit, value, low, high, .. } = metric;
    let range = low.zip(*high).map(|(low, high)| format!("± {}", (high - low) / 2.0));
    let commit = row.machine.commit.as_deref().unwrap_or("unknown");
    let extra =
        format!("{}\ncommit {commit}, version {}\nmemory {} bytes", row.time, row.machine.version, row.machine.memory);
    let name = format!("{}: {name} @ {}", subject(&row.subject), host(&row.host()));
    Entry { name, unit: unit.clone(), value: *value, range, extra }
}

fn subject(subject: &Subject) -> String {
    let version = subject.benchmark_version.map(|version| format!(" v{version}")).unwrap_or_default();
    let conditions: Vec<_> = subject.conditions.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let conditions = if conditions.is_empty() { String::new() } else { format!(" ({})", conditions.join(", ")) };
    format!("{}{version}{conditions}", subject.benchmark)
}

fn host(host: &Host) -> String {
    let Host { cpu, cores, system, compiler, profile } = host;
    format!("{cpu}, {cores} cores, {system}, {compiler}, {profile}")
}
