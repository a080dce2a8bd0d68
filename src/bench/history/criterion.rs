//! What criterion leaves behind: `target/criterion/**/new/`, with `benchmark.json` and `estimates.json` for each
//! benchmark.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Better, Metric, Row, Source, Subject, Time};
use crate::bench::Machine;

/// Why criterion's results cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CriterionError {
    /// The system refused.
    #[error("{}: {what}", path.display())]
    Io {
        /// Of which file or folder.
        path: PathBuf,
        /// What the system says.
        what: io::Error,
    },
    /// A file is something else than criterion 0.8 writes.
    #[error("{}: not as criterion 0.8 writes it: {what}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: serde_json::Error,
    },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Collected {
    /// A row for each benchmark.
    pub rows: Vec<Row>,
    /// Benchmarks that were left out because they were run before the time that was asked for.
    pub older: Vec<String>,
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<Throughput>,
}

#[derive(Deserialize)]
enum Throughput {
    Elements(u64),
    ElementsAndBytes { elements: u64 },
    Bytes(u64),
    BytesDecimal(u64),
    Bits(u64),
}

#[derive(Deserialize)]
struct Estimates {
    mean: Estimate,
    /// Not there when the samples are too few or too long for it.
    slope: Option<Estimate>,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// The newest result of every benchmark under `folder`, unless it was run before `since`: criterion keeps the results
/// of benchmarks that no longer exist. The files do not tell the machine, which is therefore `machine`; nor the unit,
/// which is time unless a benchmark measures something of its own.
///
/// # Errors
/// When a file cannot be read or understood.
pub fn collect(folder: &Path, machine: &Machine, since: Time) -> Result<Collected, CriterionError> {
    let mut collected = Collected::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let io = |what| CriterionError::Io { path: folder.clone(), what };
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            // Links are not followed: they could lead in a circle.
            if !entry.file_type().map_err(io)?.is_dir() {
                continue;
            }
            let path = entry.path();
            if entry.file_name() == "new" && path.join("estimates.json").is_file() {
                add(&mut collected, &path, machine, since)?;
            }
            // A benchmark may be called `new` itself.
            folders.push(path);
        }
    }
    collected.rows.sort_by(|a, b| (a.time, &a.subject).cmp(&(b.time, &b.subject)));
    collected.older.sort();
    Ok(collected)
}

fn add(collected: &mut Collected, new: &Path, machine: &Machine, since: Time) -> Result<(), CriterionError> {
    let path = new.join("estimates.json");
    let benchmark: Benchmark = load(&new.join("benchmark.json"))?;
    let estimates: Estimates = load(&path)?;
    let written = fs::metadata(&path).and_then(|metadata| metadata.modified());
    let written = written.map_err(|what| CriterionError::Io { path: path.clone(), what })?;
    match Time::of(written) {
        Some(time) if time >= since => collected.rows.push(row(benchmark, &estimates, time, machine)),
        _ => collected.older.push(benchmark.full_id),
    }
    Ok(())
}

fn row(benchmark: Benchmark, estimates: &Estimates, time: Time, machine: &Machine) -> Row {
    // What criterion itself prints as the time.
    let typical = estimates.slope.as_ref().unwrap_or(&estimates.mean);
    let Interval { lower_bound, upper_bound } = typical.confidence_interval;
    let value = typical.point_estimate;
    let mut metrics = vec![Metric::new("time", "ns", Better::Smaller, value).between(lower_bound, upper_bound)];
    if let Some((count, unit)) = benchmark.throughput.map(counted) {
        #[expect(clippy::cast_precision_loss, reason = "a figure for a chart")]
        let rate = |nanoseconds: f64| count as f64 * 1e9 / nanoseconds;
        let throughput = Metric::new("throughput", unit, Better::Bigger, rate(value));
        metrics.push(throughput.between(rate(upper_bound), rate(lower_bound)));
    }
    let subject = Subject {
        source: Source::Criterion,
        benchmark: benchmark.full_id,
        benchmark_version: None,
        conditions: Default::default(),
    };
    // `cargo bench` builds with the bench profile, whatever built the reader.
    let machine = Machine { profile: "release".to_owned(), ..machine.clone() };
    Row::new(subject, time, machine, metrics)
}

fn counted(throughput: Throughput) -> (u64, &'static str) {
    match throughput {
        Throughput::Elements(count) | Throughput::ElementsAndBytes { elements: count } => (count, "elements/s"),
        Throughput::Bytes(count) | Throughput::BytesDecimal(count) => (count, "bytes/s"),
        Throughput::Bits(count) => (count, "bits/s"),
    }
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<T, CriterionError> {
    let text = fs::read(path).map_err(|what| CriterionError::Io { path: path.to_owned(), what })?;
    serde_json::from_slice(&text).map_err(|what| CriterionError::Malformed { path: path.to_owned(), what })
}
