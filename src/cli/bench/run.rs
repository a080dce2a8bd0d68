//! `equipoise bench run`: the canonical workloads, measured.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, RangedU64ValueParser};

use super::table::Report;
use crate::bench::history::{History, Row};
use crate::bench::{self, Asked, Interrupt, Place, Settings, Stage, Workload, report};
use crate::cli::client;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Bar;
use crate::{MAX_BATCH_OPERATIONS, OpenError};

/// Stands for every workload.
const ALL: &str = "all";
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const FASTEST: f64 = 1_000_000.0;
const MAX_CONNECTIONS: u64 = 1_000;
const MAX_THREADS: u64 = 256;

/// Run workloads, one after the other, and check the ledger after each
///
/// Without --server and --embedded each workload gets a service of its own: this program in another process, with its state in
/// a temporary directory (--data-dir and --in-memory choose another place). A service that runs is measured with --server: the
/// accounts of the run, whose ids begin with bench-, stay in it; EQUIPOISE_SERVER is not read, so that nobody loads a service by
/// accident. Every change carries a transaction id.
///
/// The first interrupt (Ctrl-C) ends the run early and prints what there is. When the check fails, or a bound of the requirements
/// on load is broken (open, create and contended are judged), the exit code is 1.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise bench run open --rate 500 --duration 60s
  equipoise bench run uniform zipf hot --embedded
  equipoise bench run stream --batch 100 --callers 64
  equipoise bench run contended --in-memory --json
  equipoise bench run mixed --server 127.0.0.1:50051 --pid $(pidof equipoise)"
)]
pub(in crate::cli) struct Run {
    /// What to run; all for each of them
    #[arg(value_name = "WORKLOAD", required = true, value_parser = workload_names())]
    workloads: Vec<String>,
    /// Measure the service at this address
    #[arg(long, value_name = "URL", value_parser = client::server, help_heading = "Target",
          conflicts_with_all = ["spawn", "embedded", "in_memory", "data_dir"])]
    server: Option<String>,
    /// The process of that service, if it is on this machine: then its CPU and memory are shown
    #[arg(long, value_name = "PID", requires = "server", help_heading = "Target")]
    pid: Option<u32>,
    /// Measure a service of its own; the default
    #[arg(long, conflicts_with = "embedded", help_heading = "Target")]
    spawn: bool,
    /// Measure the engine in this process, called from threads; in memory without --data-dir
    #[arg(long, help_heading = "Target")]
    embedded: bool,
    /// Keep state in memory
    #[arg(long, conflicts_with = "data_dir", help_heading = "Target")]
    in_memory: bool,
    /// Keep state in this data directory; what is in it stays
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
    /// The most journal entries that the check reads, the newest ones; 0 for none
    #[arg(long, value_name = "N", default_value_t = 2_000_000, help_heading = "Load")]
    check_entries: u64,
    /// How long the last answers may take, as in 500ms or 1m; a call that has none by then counts as late as it is
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "Load")]
    timeout: Duration,
    /// Draw the runs as one page, in this file
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
        // What cannot be written is better known before the measuring than after it.
        let history = self.history.as_deref().map(|path| History::open(path, false)).transpose()?;
        let interrupt = Arc::<Interrupt>::default();
        listen(&interrupt)?;
        let mut output = Output::new(self.json);
        let mut runs = Vec::new();
        for workload in workloads {
            if interrupt.is_asked() {
                break;
            }
            let run = self.measure(workload, &place, &interrupt)?;
            output.record(&Report(&run))?;
            output.flush()?;
            runs.push(run);
        }
        if let Some(path) = &self.html {
            let page = report::page(&runs).map_err(|error| Failure::Other(error.to_string()))?;
            fs::write(path, page).map_err(|error| Failure::Other(format!("{}: {error}", path.display())))?;
        }
        if let Some((mut history, _)) = history {
            for run in runs.iter().filter(|run| run.check.holds()) {
                history.append(Row::of_run(run)?)?;
            }
            history.sync()?;
        }
        judged(&runs)
    }

    fn measure(&self, workload: Workload, place: &Place, interrupt: &Arc<Interrupt>) -> Result<bench::Run, Failure> {
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
        run.map_err(failure)
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
        match (&self.rate, &self.batch, &self.accounts) {
            (Some(rate), ..) if none(|workload| *workload == Workload::Open) => useless("rate", rate),
            (_, Some(batch), _) if none(|workload| workload.is_batched()) => useless("batch", batch),
            (.., Some(accounts)) if none(|workload| workload.takes_accounts()) => useless("accounts", accounts),
            _ => Ok(workloads),
        }
    }

    fn place(&self) -> Result<Place, Failure> {
        if let Some(url) = &self.server {
            return Ok(Place::Server { url: url.clone(), pid: self.pid });
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
            batch: self.batch.filter(|_| workload.is_batched()).unwrap_or(defaults.batch),
            accounts: self.accounts.filter(|_| workload.takes_accounts()).unwrap_or(defaults.accounts),
            rate: defaults.rate.map(|rate| self.rate.unwrap_or(rate)),
            seed: self.seed,
        }
    }
}

/// What is wrong with the ledgers, or else with their speed.
fn judged(runs: &[bench::Run]) -> Result<(), Failure> {
    let unsound: Vec<_> = runs.iter().filter(|run| !run.check.holds()).map(|run| run.workload.as_str()).collect();
    if !unsound.is_empty() {
        return Err(Failure::Refused(format!("the check failed: {}", unsound.join(", "))));
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

/// The first signal asks for the end, the next one is the end.
fn listen(interrupt: &Arc<Interrupt>) -> Result<(), Failure> {
    let cannot = |error| Failure::Other(format!("cannot wait for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let mut signals = {
        let _entered = runtime.enter();
        crate::cli::serve::Signals::new().map_err(cannot)?
    };
    let interrupt = interrupt.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            signals.next().await;
            interrupt.ask();
            crate::cli::note("ending early; once more to end at once");
            signals.next().await;
        });
        interrupt.abandon();
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// How shells tell of SIGINT.
const INTERRUPTED: i32 = 130;
