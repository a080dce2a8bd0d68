//! One run from its beginning to its end: the target, the threads, the clock, and the check.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::unbounded_channel;
use tonic::Code;

use super::check::Expected;
use super::choice::Choices;
use super::evidence::Extent;
use super::interrupt::Interrupt;
use super::names::Names;
use super::opened::{OPENER, Opened, Place};
use super::patience::Patience;
use super::recorder::Recorder;
use super::timeline::Window;
use super::usage;
use super::worker::{Task, Worker};
use super::workload::{Shape, Workload};
use super::{Check, Error, Machine, Run, Settings, Usage, metrics, open, verdict};

/// The most callers: each has transaction ids of its own.
pub const MAX_CALLERS: u32 = OPENER - 1_000;

/// How often it is looked whether somebody wants the end, and told how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// Between the last connection and the first call.
const BREATH: Duration = Duration::from_millis(20);

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The workload.
    pub workload: Workload,
    /// Its settings: [`Workload::defaults`], with the changes that were asked for.
    pub settings: Settings,
    /// Threads that call a service; None for half of the cores. An embedded ledger is called from one thread per
    /// caller.
    pub threads: Option<u32>,
    /// The most journal entries that the check reads; 0 for none.
    pub check_entries: u64,
    /// How long to wait for the last answers.
    pub patience: Duration,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Accounts opened, of how many.
    Opening(u64, u64),
    /// Milliseconds that passed, of how many.
    Running(u64, u64),
    /// Journal entries checked, of how many.
    Checking(u64, u64),
}

/// Whoever is told how far it is.
type Told<'a> = &'a mut dyn FnMut(Stage);

/// Runs a workload against the target at `place`. An interrupted run keeps the length that it reached.
///
/// # Errors
/// [`enum@Error`] when the target cannot be opened, filled, reached or read. A check that fails is no error: see
/// [`Run::check`].
pub fn run(place: &Place, asked: &Asked, interrupt: &Arc<Interrupt>, told: Told<'_>) -> Result<Run, Error> {
    let opened = Opened::open(place, asked.settings.accounts, asked.patience, interrupt)?;
    let run = measured(&opened, asked, interrupt, told);
    let closed = opened.close();
    let mut run = run?;
    run.check.faults.extend(closed.err());
    Ok(run)
}

fn measured(opened: &Opened, asked: &Asked, interrupt: &Arc<Interrupt>, told: Told<'_>) -> Result<Run, Error> {
    let Asked { workload, settings, .. } = asked;
    let mix = workload.mix();
    let names = Arc::new(Names::new(settings.accounts)?);
    let choices = Choices::draw(&mix, settings.accounts, settings.seed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Other(format!("cannot start: {error}")))?;

    let all = u64::from(settings.accounts);
    let opening = &mut |done| told(Stage::Opening(done, all));
    let patience = Patience::new(asked.patience, interrupt);
    let before = runtime.block_on(opened.reach.open_accounts(&names, mix.initial, &patience, opening))?;
    let started = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let threads = Threads { opened, asked, names: &names, choices: &choices, interrupt };
    let seen = threads.run(told)?;

    let expected = Expected { accounts: settings.accounts, initial: mix.initial, tally: seen.recorder.tally };
    let extent = Extent { before, most: asked.check_entries };
    let checking = &mut |done, of| told(Stage::Checking(done, of));
    let patience = Patience::of_the_end(asked.patience, interrupt);
    let checked = runtime.block_on(opened.reach.check(&names, &expected, extent, &patience, checking));
    // The measurements are worth printing even without the check.
    let mut check = checked.unwrap_or_else(|error| unread(&error));
    seen.remark(&mut check);
    check.notes.extend(opened.note.clone());
    let settings = Settings { threads: threads.of_a_service(), ..settings.clone() };
    Ok(seen.into_run(*workload, settings, started, opened, check))
}

/// The check of a ledger that cannot be read. If it is merely unreachable that is no fault: it may be sound.
fn unread(error: &Error) -> Check {
    let text = format!("the ledger cannot be read: {error}");
    let away = match error {
        Error::Interrupted => true,
        Error::Status(status) => matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled | Code::Unknown
        ),
        _ => false,
    };
    let mut check = Check::none(text.clone());
    if !away {
        check.notes.clear();
        check.faults.push(text);
    }
    check
}

/// What the threads of a run are made from.
struct Threads<'a> {
    opened: &'a Opened,
    asked: &'a Asked,
    names: &'a Arc<Names>,
    choices: &'a Choices,
    interrupt: &'a Arc<Interrupt>,
}

/// What was seen of a run.
struct Seen {
    recorder: Recorder,
    window: Window,
    /// Where it really ended.
    end: Instant,
    usage: [Option<usage::Reading>; 2],
    metrics: [metrics::Reading; 2],
}

impl Threads<'_> {
    fn run(&self, told: Told<'_>) -> Result<Seen, Error> {
        let mut tasks = self.tasks();
        let count = self.count(tasks.len());
        let all = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let connections = self.asked.settings.connections;
        let (ready, told_ready) = mpsc::channel();
        std::thread::scope(|scope| {
            let (mut joins, mut windows, mut intended) = (Vec::new(), Vec::new(), Vec::new());
            for thread in 0..count {
                let own = tasks.iter().copied().enumerate().filter(|(task, _)| task % count == thread);
                let (pacer, paced) = unbounded_channel();
                intended.push(pacer);
                let worker = Worker {
                    reach: self.opened.reach.clone(),
                    connections: share(connections, count, thread),
                    names: self.names.clone(),
                    choices: self.choices.clone(),
                    interrupt: self.interrupt.clone(),
                    tasks: own.map(|(number, task)| (u32::try_from(number).unwrap_or(u32::MAX), task)).collect(),
                    all,
                    intended: Some(paced),
                    patience: self.asked.patience,
                };
                let (window, go) = mpsc::channel();
                windows.push(window);
                let ready = ready.clone();
                let thread = std::thread::Builder::new().name("bench".to_owned());
                let thread = thread.spawn_scoped(scope, move || worker.run(&ready, &go));
                joins.push(thread.map_err(|error| Error::Other(format!("cannot start a thread: {error}")))?);
            }
            tasks.clear();
            drop(ready);
            told_ready.iter().take(count).collect::<Result<(), Error>>()?;

            let window = self.window();
            for go in windows {
                // One that is gone says why when it is joined.
                let _ = go.send(window);
            }
            let (rate, interrupt) = (self.asked.settings.rate, self.interrupt);
            let pacing = rate.map(|rate| scope.spawn(move || open::pace(rate, window, &intended, interrupt)));
            let mut seen = self.watch(window, told);
            for thread in joins {
                let recorder = thread.join().map_err(|_| Error::Other("a thread panicked".to_owned()))??;
                if let Some(recorder) = recorder {
                    seen.recorder.merge(recorder);
                }
            }
            if let Some(pacing) = pacing {
                pacing.join().map_err(|_| Error::Other("the pacer panicked".to_owned()))?;
            }
            Ok(seen)
        })
    }

    /// What there is to do at once.
    fn tasks(&self) -> Vec<Task> {
        let Settings { callers, connections, batch: size, accounts, .. } = self.asked.settings;
        let embedded = matches!(self.opened.target, super::Target::Embedded { .. });
        let spread = |all: u32, over: u32| (0..over).map(move |one| share(all, over as usize, one as usize) as usize);
        let workload = self.asked.workload;
        let mut tasks: Vec<Task> = match workload.shape() {
            Shape::Closed => vec![Task::Closed; callers as usize],
            Shape::Batches => vec![Task::Batches { size }; callers as usize],
            Shape::Streams => {
                let streams = if embedded { 1 } else { connections.clamp(1, callers) };
                spread(callers, streams).map(|most| Task::Stream { size, most }).collect()
            }
            Shape::Open => {
                let over = if embedded { callers } else { u32::try_from(self.count(callers as usize)).unwrap_or(1) };
                spread(callers, over).map(|most| Task::Open { most }).collect()
            }
        };
        let total = i128::from(accounts) * i128::from(workload.mix().initial);
        tasks.extend((0..workload.snapshot_readers()).map(|_| Task::Snapshots { total }));
        tasks
    }

    /// How many threads call a service; 0 for a ledger.
    fn of_a_service(&self) -> u32 {
        match self.opened.target {
            super::Target::Embedded { .. } => 0,
            super::Target::Service { .. } => u32::try_from(self.count(self.tasks().len())).unwrap_or(u32::MAX),
        }
    }

    /// How many threads do `tasks`.
    fn count(&self, tasks: usize) -> usize {
        if matches!(self.opened.target, super::Target::Embedded { .. }) {
            return tasks;
        }
        let half = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        self.asked.threads.map_or(half, |threads| threads as usize).clamp(1, tasks.max(1))
    }

    fn window(&self) -> Window {
        let warm_up = Instant::now() + BREATH;
        let start = warm_up + Duration::from_secs_f64(self.asked.settings.warm_up);
        Window { warm_up, start, end: start + Duration::from_secs_f64(self.asked.settings.seconds) }
    }

    /// Waits for the end of the window, and reads the target's usage and metrics at its start and end.
    fn watch(&self, window: Window, told: Told<'_>) -> Seen {
        let read = || (self.opened.usage(), self.opened.metrics());
        let mut wait = |until: Instant| {
            while Instant::now() < until && !self.interrupt.is_asked() {
                let whole = window.end.saturating_duration_since(window.warm_up);
                let passed = Instant::now().saturating_duration_since(window.warm_up);
                told(Stage::Running(millis(passed), millis(whole)));
                std::thread::sleep(until.saturating_duration_since(Instant::now()).min(LOOK));
            }
        };
        wait(window.start);
        let before = read();
        wait(window.end);
        let end = self.interrupt.asked_at().unwrap_or(window.end).min(window.end);
        let after = read();
        let recorder = Recorder::new(window);
        Seen { recorder, window, end, usage: [before.0, after.0], metrics: [before.1, after.1] }
    }
}

/// The part of `all` that falls to number `one` of `over`.
fn share(all: u32, over: usize, one: usize) -> u32 {
    let over = u32::try_from(over).unwrap_or(u32::MAX).max(1);
    all / over + u32::from(one < (all % over) as usize)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Seen {
    fn seconds(&self) -> f64 {
        self.end.saturating_duration_since(self.window.start).as_secs_f64()
    }

    /// Adds to the check what the callers noticed.
    fn remark(&self, check: &mut Check) {
        check.faults.extend(self.recorder.faults.iter().take(20).cloned());
        if !self.recorder.faults.is_empty() {
            check.total = Some(false);
        }
        if let Some(failure) = &self.recorder.failure {
            check.notes.push(format!("{} calls failed, one of them with {failure}", self.recorder.failures()));
        }
        let unanswered = self.recorder.without_answer();
        if unanswered > 0 {
            check
                .notes
                .push(format!("{unanswered} calls were not answered: they count as late as they were at the end"));
        }
        let unknown = self.recorder.tally.unknown.operations;
        if unknown > 0 {
            check.notes.push(format!("what became of {unknown} operations is not known"));
        }
        if self.end < self.window.end {
            check.notes.push(format!("it was ended after {:.1} s", self.seconds()));
        }
    }

    fn into_run(
        mut self,
        workload: Workload,
        mut settings: Settings,
        started: String,
        opened: &Opened,
        mut check: Check,
    ) -> Run {
        let machine = Machine::here();
        let seconds = self.seconds();
        let usage = match self.usage {
            [Some(before), Some(after)] if seconds > 0.0 => Some(Usage::between(before, after, seconds, &machine)),
            _ => None,
        };
        let [before, after] = self.metrics;
        let contention = after.since(before, usage.as_ref());
        if let (None, Some(helped @ 1..)) = (&contention, after.helped_since(before)) {
            check.notes.push(format!("{helped} transactions were finished by another thread; the time is not told"));
        }
        settings.seconds = seconds;
        let cut = self.end < self.window.end;
        let operations = self.recorder.operations();
        let mut run = Run {
            workload: workload.name().to_owned(),
            workload_version: workload.version(),
            started,
            machine,
            target: opened.target.clone(),
            settings,
            operations,
            rate: if seconds > 0.0 { operations as f64 / seconds } else { 0.0 },
            calls: self.recorder.calls(),
            timeline: self.recorder.timeline(self.end),
            usage,
            contention,
            check,
            cut,
            verdicts: Vec::new(),
        };
        if !cut {
            run.verdicts = verdict::verdicts(&run);
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A run whose end is requested before it waits for anything waits for nothing.
    #[test]
    fn an_end_that_is_asked_for_before_the_run_is_heard() {
        let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", mute.local_addr().expect("bound"));
        let workload = Workload::Hot;
        let (settings, patience) = (workload.defaults(false), Duration::from_secs(1));
        let asked = Asked { workload, settings, threads: None, check_entries: 0, patience };
        let interrupt = Arc::<Interrupt>::default();
        interrupt.ask();
        let ended = run(&Place::Server { url, pid: None, label: None }, &asked, &interrupt, &mut |_| {});
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
    }
}
