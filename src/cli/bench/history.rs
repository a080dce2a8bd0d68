//! `equipoise bench collect`, `report` and `export`: the history of what was measured.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::bench::history::{self, Better, CriterionError, History, HistoryError, Line, Row, Time, Unfit};
use crate::bench::report;
use crate::bench::{Machine, Run};
use crate::cli::exit::Failure;
use crate::cli::note;
use crate::cli::output::{Output, Page, Record, escape};

const HISTORY: &str = "bench-history.jsonl";

/// Add measurements to the history, a file of JSON lines
///
/// Reads runs, as bench run --json prints them, rows of other histories, and criterion's results. What the history has
/// already is not added again. Everything is read before anything is written: if a line cannot be read, nothing is
/// added. A run that is not fit for a history (its check failed or could not be made, it was cut off, or it needs a
/// label and has none) is left out and named; the others are added, and the exit code is 1. Criterion's results are
/// recorded with this machine and this build of equipoise: collect them where they were measured, with a build of the
/// same commit.
///
/// Each row says machine, cores, compiler and commit; its form is documented at equipoise::bench::history.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise bench run uniform --json | equipoise bench collect -
  cargo bench --bench hot_path && equipoise bench collect --criterion target/criterion")]
pub(in crate::cli) struct Collect {
    /// Files of runs or rows, one a line; - is stdin
    #[arg(value_name = "FILE", required_unless_present_any = ["criterion", "repair"])]
    files: Vec<PathBuf>,
    /// The history
    #[arg(long, value_name = "FILE", default_value = HISTORY)]
    history: PathBuf,
    /// Criterion's results in this folder, usually target/criterion
    #[arg(long, value_name = "DIR")]
    criterion: Option<PathBuf>,
    /// Leave out results of criterion that are older than this: it keeps those of benchmarks that no longer exist
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
    max_age: Duration,
    /// Cut off the last line of the history if a crash tore it
    #[arg(long)]
    repair: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// Draw the history as one static page
///
/// One chart for each benchmark and metric, by machine, with the newest figure against the median of those before it.
/// Machines, versions of a workload and settings are never mixed. Files of runs, as bench run --json prints them, can
/// be given as well: the newest of each workload is then shown in detail.
///
/// The page is one HTML file that loads and runs nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise bench report --out page.html
  equipoise bench report bench-history.jsonl runs.jsonl --out page.html")]
pub(in crate::cli) struct Report {
    /// Histories and files of runs; - is stdin
    #[arg(value_name = "FILE", default_value = HISTORY)]
    files: Vec<PathBuf>,
    /// Write to this file instead of stdout, overwriting it
    #[arg(long, alias = "output", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Print the newest figures in the form that CI dashboards read
///
/// A JSON array of name, unit, value, range and extra, as github-action-benchmark reads it. Such dashboards want one
/// array for each direction: customSmallerIsBetter and customBiggerIsBetter. The figures are those of the machine and
/// the commit of the newest row. Their names include the machine, because dashboards compare figures of the same name.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise bench export --better smaller --out times.json
  equipoise bench export --better bigger --out rates.json")]
pub(in crate::cli) struct Export {
    /// Histories; - is stdin
    #[arg(value_name = "FILE", default_value = HISTORY)]
    files: Vec<PathBuf>,
    /// Only figures that improve in this direction
    #[arg(long)]
    better: Direction,
    /// Write to this file instead of stdout, overwriting it
    #[arg(long, alias = "output", value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    Bigger,
    Smaller,
}

impl Collect {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (mut rows, mut unfit) = (Vec::new(), Vec::new());
        for line in read_all(&self.files)? {
            match line {
                Line::Row(row) => rows.push(*row),
                Line::Run(run) => match Row::of_run(&run) {
                    Ok(row) => rows.push(row),
                    Err(why) => unfit.push(format!("{why} (begun {})", run.started)),
                },
            }
        }
        if let Some(folder) = &self.criterion {
            rows.extend(self.of_criterion(folder)?);
        }
        let (mut history, torn) = History::open(&self.history, self.repair)?;
        if let Some(line) = torn {
            note(&format!("{}:{line}: the torn line was cut off", self.history.display()));
        }
        let (mut added, mut known) = (0, 0);
        for row in rows {
            let counter = if history.append(row)? { &mut added } else { &mut known };
            *counter += 1;
        }
        history.sync()?;
        let mut output = Output::new(self.json);
        let left_out = unfit.len();
        output.record(&Collected {
            history: self.history.display().to_string(),
            added,
            already_there: known,
            left_out,
        })?;
        output.flush()?;
        if unfit.is_empty() { Ok(()) } else { Err(Failure::Refused(format!("left out: {}", unfit.join("; ")))) }
    }

    fn of_criterion(&self, folder: &Path) -> Result<Vec<Row>, Failure> {
        let oldest = SystemTime::now().checked_sub(self.max_age).unwrap_or(SystemTime::UNIX_EPOCH);
        let oldest = Time::of(oldest.max(SystemTime::UNIX_EPOCH));
        let oldest = oldest.ok_or_else(|| Failure::Other("the clock is past the year 9999".to_owned()))?;
        let collected = history::collect(folder, &Machine::here(), oldest)?;
        if !collected.older.is_empty() {
            note(&format!("left out, older than --max-age: {}", collected.older.join(", ")));
        }
        Ok(collected.rows)
    }
}

impl Report {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (rows, runs) = read_apart(&self.files)?;
        let page = report::history_page(&rows, &runs).map_err(|error| Failure::Other(error.to_string()))?;
        write(self.out.as_deref(), &self.files, &page)
    }
}

impl Export {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (mut rows, runs) = read_apart(&self.files)?;
        for run in &runs {
            rows.push(Row::of_run(run)?);
        }
        let better = match self.better {
            Direction::Bigger => Better::Bigger,
            Direction::Smaller => Better::Smaller,
        };
        let entries = serde_json::to_string_pretty(&history::export(&rows, better)).map_err(io::Error::from)?;
        write(self.out.as_deref(), &self.files, &(entries + "\n"))
    }
}

/// What was added.
#[derive(Serialize)]
struct Collected {
    history: String,
    added: u64,
    already_there: u64,
    /// Runs that are not fit for a history.
    left_out: usize,
}

impl Record for Collected {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let Collected { history, added, already_there, left_out } = self;
        let left_out = if *left_out > 0 { format!(", {left_out} left out") } else { String::new() };
        page.line(format_args!("{}: {added} added, {already_there} there already{left_out}", escape(history)))
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for path in files {
        lines.extend(if path == Path::new("-") {
            history::read(Path::new("stdin"), io::stdin().lock())?
        } else {
            let file = File::open(path).map_err(|what| HistoryError::Io { path: path.clone(), what })?;
            history::read(path, BufReader::new(file))?
        });
    }
    Ok(lines)
}

fn read_apart(files: &[PathBuf]) -> Result<(Vec<Row>, Vec<Run>), Failure> {
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    for line in read_all(files)? {
        match line {
            Line::Row(row) => rows.push(*row),
            Line::Run(run) => runs.push(*run),
        }
    }
    Ok((rows, runs))
}

/// Writes `text`, made from the files `read`, to stdout or to `path`, which must be none of those files.
fn write(path: Option<&Path>, read: &[PathBuf], text: &str) -> Result<(), Failure> {
    let Some(path) = path else {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    };
    let place = fs::canonicalize(path).ok();
    if place.is_some() && read.iter().any(|file| fs::canonicalize(file).ok() == place) {
        return Err(Failure::Usage(format!("--out {}: it is what was read", path.display())));
    }
    fs::write(path, text).map_err(|error| Failure::Other(format!("{}: {error}", path.display())))
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        Failure::Other(error.to_string())
    }
}

impl From<CriterionError> for Failure {
    fn from(error: CriterionError) -> Self {
        Failure::Other(error.to_string())
    }
}

impl From<Unfit> for Failure {
    fn from(unfit: Unfit) -> Self {
        Failure::Refused(unfit.to_string())
    }
}
