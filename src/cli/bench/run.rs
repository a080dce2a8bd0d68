//! `equipoise bench run`: the canonical workloads, measured.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, PossibleValue, PossibleValuesParser, RangedU64ValueParser};
use tonic::Status;

use super::table::Report;
use crate::bench::history::{History, Row};
use crate::bench::{self, Asked, Interrupt, Place, Settings, Stage, Workload, report};
use crate::cli::client;
use crate::cli::destination::{self, Destination};
use crate::cli::exit::{Failure, say_within};
use crate::cli::output::Output;

use crate::cli::progress::Bar;
use crate::cli::{interrupt, note};
use crate::{MAX_BATCH_OPERATIONS, OpenError};

/// Stands for every workload.
const ALL: &str = "all";
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const FASTEST: f64 = 1_000_000.0;
const MAX_CONNECTIONS: u64 = 1_000;
const MAX_THREADS: u64 = 256;

/// Run workloads, one after the other, and check the ledger after each
///
/// Without --server and --embedded each workload gets a service of its own: this program in another process, with its
/// state in a temporary directory (--data-dir and --in-memory choose another place). --server measures a running
/// service: the run's accounts, whose ids begin with bench-, stay in it. EQUIPOISE_SERVER is not read, so that no
/// service is loaded by accident. Every change carries a transaction id.
///
/// The first interrupt (Ctrl-C) ends the run early and prints what there is; the exit code is then 130, and the run
/// that was cut off is not added to the history. If the service cannot be reached for the check, the exit code is 3. If
/// the check fails, or a bound of the requirements on load is broken (open, create, contended, and mixed with 100 callers
/// are judged), the exit code is 1.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise bench run open --rate 500 --duration 60s
  equipoise bench run uniform zipf hot --embedded
  equipoise bench run mixed --callers 100
  equipoise bench run stream --batch 100 --callers 64
  equipoise bench run contended --in-memory --json
  equipoise bench run mixed --server 127.0.0.1:50051 --pid $(pidof equipoise)"
)]
pub(in crate::cli) struct Run {
    /// The workloads to run; all runs each of them
    #[arg(value_name = "WORKLOAD", required = true, value_parser = workload_names())]
    workloads: Vec<String>,
    /// Measure the service at this address
    #[arg(long, value_name = "URL", value_parser = client::server, help_heading = "Target",
          conflicts_with_all = ["spawn", "embedded", "in_memory", "data_dir"])]
    server: Option<String>,
    /// The process of that service, if it is on this machine: then its CPU and memory are shown
    #[arg(long, value_name = "PID", requires = "server", help_heading = "Target")]
    pid: Option<u32>,
    /// What that service is, as in "0.1.0, PostgreSQL": a history wants it, and figures of services with different
    /// labels are never compared
    #[arg(long, value_name = "TEXT", requires = "server", help_heading = "Target",
          value_parser = NonEmptyStringValueParser::new())]
    label: Option<String>,
    /// Measure a service of its own; the default
    #[arg(long, conflicts_with = "embedded", help_heading = "Target")]
    spawn: bool,
    /// Measure the engine in this process, called from threads; in memory without --data-dir
    #[arg(long, help_heading = "Target")]
    embedded: bool,
    /// Keep state in memory
    #[arg(long, conflicts_with = "data_dir", help_heading = "Target")]
    in_memory: bool,
    /// Keep state in this data directory, which is not cleared
    #[arg(long, value_name = "DIR", help_heading = "Target")]
    data_dir: Option<PathBuf>,
    /// How long to measure, as in 10s or 1m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "Load")]
    duration: Duration,
    /// How long to run before that
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = short, help_heading = "Load")]
    warm_up: Duration,
    /// Callers at once; of stream, batches in flight [default: by workload]
    #[arg(long, value_name = "N", help_heading = "Load",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(bench::MAX_CALLERS)))]
    callers: Option<u32>,
    /// Connections that they share [default: by workload]
    #[arg(long, value_name = "N", help_heading = "Load",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_CONNECTIONS))]
    connections: Option<u32>,
    /// Threads that call a service [default: half of the cores]
    #[arg(long, value_name = "N", help_heading = "Load",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_THREADS))]
    threads: Option<u32>,
    /// Transfers a batch, of batch and stream [default: 8000]
    #[arg(long, value_name = "N", help_heading = "Load",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_BATCH_OPERATIONS as u64))]
    batch: Option<u32>,
    /// Calls a second, of open [default: 500]
    #[arg(long, value_name = "RATE", value_parser = rate, help_heading = "Load")]
    rate: Option<f64>,
    /// Accounts, of the workloads over many [default: 100000]
    #[arg(long, value_name = "N", help_heading = "Load",
          value_parser = RangedU64ValueParser::<u32>::new().range(2..=u64::from(bench::MAX_ACCOUNTS)))]
    accounts: Option<u32>,
    /// What the choices are drawn from: the same seed, the same choices
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    seed: u64,
    /// The most journal entries that the check reads, from the newest back; 0 for none
    #[arg(long, value_name = "N", default_value_t = 2_000_000, help_heading = "Load")]
    check_entries: u64,
    /// How long a service may take to answer, as in 500ms or 1m; calls under load that are still unanswered this long
    /// after the end count with the time that they have waited
    /// counts as late as it is by then
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "Load")]
    timeout: Duration,
    /// Write a page that shows the runs to this file
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    html: Option<PathBuf>,
    /// Add the figures to this history, as bench collect does
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    history: Option<PathBuf>,
    /// Print one JSON object for each run
    #[arg(long, help_heading = "Result")]
    pub(in crate::cli) json: bool,
}

impl Run {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let workloads = self.workloads()?;
        let place = self.place()?;
        // What cannot be written is better known before the measuring than after it. Others add to the history
        // meanwhile.
        let page = self.html.as_deref().map(destination::Place::of).transpose().map_err(other)?;
        let page = page.map(Destination::create).transpose().map_err(other)?;
        self.history.as_deref().map(|path| History::open(path, false)).transpose()?;
        let interrupt = Arc::<Interrupt>::default();
        listen(&interrupt)?;
        let mut runs = Vec::new();
        let measured = self.measure_all(&workloads, &place, &interrupt, &mut runs);
        // What was measured before a failure is as good as without it.
        let drawn = page.filter(|_| !runs.is_empty()).map_or(Ok(()), |page| draw(page, &runs));
        // A ledger that is wrong is worse than whatever else happened.
        if !runs.iter().any(|run| run.check.fails()) {
            measured?;
            drawn?;
        }
        judged(&runs)
    }

    fn measure_all(
        &self,
        workloads: &[Workload],
        place: &Place,
        interrupt: &Arc<Interrupt>,
        runs: &mut Vec<bench::Run>,
    ) -> Result<(), Failure> {
        let mut output = Output::new(self.json);
        let mut kept = Ok(());
        for (at, workload) in workloads.iter().enumerate() {
            let run = match self.measure(*workload, place, interrupt) {
                Err(bench::Error::Interrupted) => return Err(interrupted(runs, &workloads[at..])),
                measured => measured.map_err(failure)?,
            };
            // What is in the history is not lost where it cannot be printed.
            kept = kept.and(self.keep(&run));
            output.record(&Report(&run))?;
            output.flush()?;
            runs.push(run);
            if interrupt.is_asked() {
                return Err(interrupted(runs, &workloads[at + 1..]));
            }
        }
        kept
    }

    /// Adds a run to the history, if it is fit for that.
    fn keep(&self, run: &bench::Run) -> Result<(), Failure> {
        let (Some(path), true) = (&self.history, run.check.holds() && !run.cut) else { return Ok(()) };
        let (mut history, _) = History::open(path, false)?;
        if !history.append(Row::of_run(run)?)? {
            note(&format!("{}: there already: {} of {}", path.display(), run.workload, run.started));
        }
        Ok(history.sync()?)
    }

    fn measure(
        &self,
        workload: Workload,
        place: &Place,
        interrupt: &Arc<Interrupt>,
    ) -> Result<bench::Run, bench::Error> {
        let settings = self.settings(workload, place.is_embedded());
        let (threads, check_entries, patience) = (self.threads, self.check_entries, self.timeout);
        let asked = Asked { workload, settings, threads, check_entries, patience };
        let bar = Bar::of_stages(self.json);
        let run = bench::run(place, &asked, interrupt, &mut |stage| {
            let (name, done, of) = match stage {
                Stage::Opening(done, of) => ("opening accounts", done, of),
                Stage::Running(done, of) => ("running", done, of),
                Stage::Checking(done, of) => ("checking", done, of),
            };
            bar.name(format!("{workload}: {name}"));
            bar.show(done, of);
        });
        bar.clear();
        run
    }

    /// In the order in which they are named, each once.
    fn workloads(&self) -> Result<Vec<Workload>, Failure> {
        let mut workloads = Vec::new();
        for name in &self.workloads {
            match name.as_str() {
                ALL => workloads.extend(Workload::ALL),
                name => workloads.push(name.parse().map_err(|text| Failure::Usage(format!("{name}: {text}")))?),
            }
        }
        let mut seen = Vec::new();
        workloads.retain(|workload| {
            let first = !seen.contains(workload);
            seen.push(*workload);
            first
        });
        let none = |what: fn(&Workload) -> bool| !workloads.iter().any(what);
        let useless = |option: &str, value: &dyn std::fmt::Display| {
            let names = workloads.iter().map(|workload| workload.name()).collect::<Vec<_>>().join(", ");
            Err(Failure::Usage(format!("--{option} {value} means nothing to {names}")))
        };
        let of_a_service = [("threads", self.threads), ("connections", self.connections)];
        for (option, value) in of_a_service {
            if let Some(value) = value.filter(|_| self.embedded) {
                return Err(Failure::Usage(format!("--{option} {value} means nothing to an embedded ledger")));
            }
        }
        match (&self.rate, &self.batch, &self.accounts) {
            (Some(rate), ..) if none(|workload| *workload == Workload::Open) => useless("rate", rate),
            (_, Some(batch), _) if none(|workload| workload.is_batched()) => useless("batch", batch),
            (.., Some(accounts)) if none(|workload| workload.takes_accounts()) => useless("accounts", accounts),
            _ => Ok(workloads),
        }
    }

    fn place(&self) -> Result<Place, Failure> {
        if let Some(url) = &self.server {
            if self.history.is_some() && self.label.is_none() {
                return Err(Failure::Usage(
                    "--history with --server wants --label: a service does not tell where its state lives".to_owned(),
                ));
            }
            return Ok(Place::Server { url: url.clone(), pid: self.pid, label: self.label.clone() });
        }
        let data_dir = self.data_dir.clone();
        if self.embedded {
            return Ok(Place::Embedded { data_dir });
        }
        let program = std::env::current_exe();
        let program = program.map_err(|error| Failure::Other(format!("cannot find this program: {error}")))?;
        Ok(Place::Spawn { program, data_dir, in_memory: self.in_memory })
    }

    fn settings(&self, workload: Workload, embedded: bool) -> Settings {
        let defaults = workload.defaults(embedded);
        let connections = if embedded { None } else { self.connections };
        Settings {
            seconds: self.duration.as_secs_f64(),
            warm_up: self.warm_up.as_secs_f64(),
            callers: self.callers.unwrap_or(defaults.callers),
            connections: connections.unwrap_or(defaults.connections),
            threads: defaults.threads,
            batch: self.batch.filter(|_| workload.is_batched()).unwrap_or(defaults.batch),
            accounts: self.accounts.filter(|_| workload.takes_accounts()).unwrap_or(defaults.accounts),
            rate: defaults.rate.map(|rate| self.rate.unwrap_or(rate)),
            seed: self.seed,
        }
    }
}

fn draw(page: Destination, runs: &[bench::Run]) -> Result<(), Failure> {
    let text = report::page(runs).map_err(|error| Failure::Other(error.to_string()))?;
    (&page).write_all(text.as_bytes()).and_then(|()| page.finish()).map_err(other)
}

fn other(error: io::Error) -> Failure {
    Failure::Other(error.to_string())
}

fn interrupted(runs: &[bench::Run], left: &[Workload]) -> Failure {
    let cut = runs.iter().filter(|run| run.cut).map(|run| format!("{} was cut off", run.workload));
    let left: Vec<_> = left.iter().map(|workload| workload.name()).collect();
    let left = (!left.is_empty()).then(|| format!("{} did not run", left.join(", ")));
    let what: Vec<_> = cut.chain(left).collect();
    Failure::Interrupted(["interrupted", &what.join("; ")].join(if what.is_empty() { "" } else { ": " }))
}

/// What is wrong with the ledgers, or else with their speed.
fn judged(runs: &[bench::Run]) -> Result<(), Failure> {
    let names = |what: fn(&bench::Run) -> bool| {
        runs.iter().filter(|run| what(run)).map(|run| run.workload.as_str()).collect::<Vec<_>>().join(", ")
    };
    let unsound = names(|run| run.check.fails());
    if !unsound.is_empty() {
        return Err(Failure::Refused(format!("the check failed: {unsound}")));
    }
    let unchecked = names(|run| !run.check.holds());
    if !unchecked.is_empty() {
        return Err(Status::unavailable(format!("could not be checked: {unchecked}")).into());
    }
    let broken = runs.iter().flat_map(|run| {
        let broken = run.verdicts.iter().filter(|verdict| verdict.held == Some(false));
        broken.map(|verdict| format!("{}: {} {}", run.workload, verdict.requirement, verdict.what))
    });
    let broken: Vec<_> = broken.collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!("a bound is broken: {}", broken.join("; "))))
}

fn workload_names() -> PossibleValuesParser {
    let each = Workload::ALL.map(|workload| PossibleValue::new(workload.name()).help(workload.about()));
    PossibleValuesParser::new(each.into_iter().chain([PossibleValue::new(ALL).help("each of them")]))
}

fn short(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err("expected a day at most".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("expected a duration, as in 500ms or 1m: {error}")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    short(text).and_then(
        |duration| {
            if duration.is_zero() { Err("expected more than nothing".to_owned()) } else { Ok(duration) }
        },
    )
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number of calls a second".to_owned())?;
    if rate > 0.0 && rate <= FASTEST { Ok(rate) } else { Err(format!("expected more than 0, at most {FASTEST}")) }
}

fn failure(error: bench::Error) -> Failure {
    match error {
        bench::Error::Status(status) => Failure::from(*status),
        bench::Error::Open(error @ OpenError::Damaged { .. }) => Failure::from(error),
        other => Failure::Other(other.to_string()),
    }
}

/// The first signal asks the run to end; the second one ends the process.
fn listen(interrupt: &Arc<Interrupt>) -> Result<(), Failure> {
    let (ask, abandon) = (interrupt.clone(), interrupt.clone());
    let first = move |_| {
        ask.ask();
        say_within(|| note("ending early; once more to end at once"));
    };
    interrupt::listen(first, move || abandon.abandon())
}
