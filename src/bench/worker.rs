//! One thread of a run: its connections, its callers, and what they saw.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep_until;
use tonic::transport::Channel;

use super::call::{Caller, Stub};
use super::choice::Choices;
use super::closed::{Plan, Shared, closed};
use super::interrupt::Interrupt;
use super::names::Names;
use super::opened::{Embedded, Reach, connect};
use super::recorder::{Recorder, Series};
use super::timeline::Window;
use super::{Error, batches, open, snapshots};

/// How long the last answers may take when somebody wants the end.
const HURRY: Duration = Duration::from_secs(2);

/// What one of the run's tasks does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// One caller.
    Closed,
    /// Calls at the times that the pacer tells, at most `most` of them under way.
    Open { most: usize },
    /// Batches of `size` operations.
    Batches { size: u32 },
    /// Batches of `size` operations, at most `most` in flight.
    Stream { size: u32, most: usize },
    /// Snapshots, which must add up to `total`.
    Snapshots { total: i128 },
}

/// What a thread is given.
pub(super) struct Worker {
    pub(super) reach: Reach,
    pub(super) connections: u32,
    pub(super) names: Arc<Names>,
    pub(super) choices: Choices,
    pub(super) interrupt: Arc<Interrupt>,
    /// Each with its number among all tasks of the run.
    pub(super) tasks: Vec<(u32, Task)>,
    /// How many there are in all.
    pub(super) all: u32,
    /// From the pacer.
    pub(super) intended: Option<UnboundedReceiver<Instant>>,
    /// How long the last answers may take.
    pub(super) patience: Duration,
}

/// The target, as one thread's callers reach it.
enum Line {
    Service(Vec<Channel>),
    Ledger(Embedded),
}

impl Worker {
    /// Connects, tells that by `ready`, waits for the window, and calls until it is over.
    pub(super) fn run(
        self,
        ready: &mpsc::Sender<Result<(), Error>>,
        window: &mpsc::Receiver<Window>,
    ) -> Result<Option<Recorder>, Error> {
        let (runtime, line) = match self.prepare() {
            Ok(prepared) => prepared,
            Err(error) => {
                // Whoever waits for it is there until all have told.
                let _ = ready.send(Err(error));
                return Ok(None);
            }
        };
        let _ = ready.send(Ok(()));
        // Another thread could not connect.
        let Ok(window) = window.recv() else { return Ok(None) };
        let recorder = Rc::new(RefCell::new(Recorder::new(window)));
        let (names, interrupt) = (self.names.clone(), self.interrupt.clone());
        let shared = Shared { names, window, interrupt, recorder: recorder.clone() };
        let local = LocalSet::new();
        let ended = local.block_on(&runtime, self.call(line, &shared));
        drop(local);
        ended?;
        let recorder = recorder.replace(Recorder::new(window));
        Ok(Some(recorder))
    }

    fn prepare(&self) -> Result<(Runtime, Line), Error> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        // A thread of an embedded ledger has no use for descriptors, of which there may be too few for hundreds of
        // threads.
        let builder = match &self.reach {
            Reach::Ledger(_) => builder.enable_time(),
            Reach::Service(_) => builder.enable_all(),
        };
        let runtime = builder.build();
        let runtime = runtime.map_err(|error| Error::Other(format!("cannot start a thread: {error}")))?;
        let line = match &self.reach {
            Reach::Ledger(embedded) => Line::Ledger(embedded.caller()),
            Reach::Service(endpoint) => {
                let mut channels = Vec::new();
                for _ in 0..self.connections.max(1) {
                    channels.push(runtime.block_on(connect(endpoint))?);
                }
                Line::Service(channels)
            }
        };
        Ok((runtime, line))
    }

    /// Runs the tasks. Tasks that do not end in time are dropped, and the results of their operations stay unknown.
    async fn call(mut self, line: Line, shared: &Shared) -> Result<(), Error> {
        let patience = self.patience;
        sleep_until(shared.window.warm_up.into()).await;
        let mut running = JoinSet::new();
        for (place, (number, task)) in std::mem::take(&mut self.tasks).into_iter().enumerate() {
            self.spawn(&mut running, &line, shared.clone(), place, number, task);
        }
        let latest = async {
            let end = tokio::time::Instant::from(shared.window.end);
            loop {
                let soon = tokio::time::Instant::now() + Duration::from_millis(100);
                if soon >= end || shared.interrupt.is_asked() {
                    break;
                }
                sleep_until(soon).await;
            }
            let patience = if shared.interrupt.is_asked() { patience.min(HURRY) } else { patience };
            sleep_until(tokio::time::Instant::now().min(end) + patience).await;
        };
        let all = async {
            while let Some(ended) = running.join_next().await {
                ended.map_err(|error| Error::Other(format!("a caller ended: {error}")))??;
            }
            Ok(())
        };
        tokio::select! {
            ended = all => ended,
            () = latest => Ok(()),
        }
    }

    fn spawn(
        &mut self,
        running: &mut JoinSet<Result<(), Error>>,
        line: &Line,
        shared: Shared,
        place: usize,
        number: u32,
        task: Task,
    ) {
        let plan = Plan {
            steps: self.choices.of_caller(number),
            ids: self.names.transactions(number),
            new: u32::try_from(self.names.accounts().len()).unwrap_or(u32::MAX).saturating_add(number),
            stride: self.all,
        };
        match line {
            Line::Service(channels) => self.spawn_on_service(running, channels, place, shared, plan, task),
            Line::Ledger(embedded) => self.spawn_on_ledger(running, embedded.clone(), shared, plan, task),
        }
    }

    fn spawn_on_service(
        &mut self,
        running: &mut JoinSet<Result<(), Error>>,
        channels: &[Channel],
        place: usize,
        shared: Shared,
        plan: Plan,
        task: Task,
    ) {
        let channel = channels[place % channels.len()].clone();
        match task {
            Task::Closed => drop(running.spawn_local(single(Stub::new(channel), shared, plan))),
            Task::Open { most } => {
                let stubs = channels.iter().cloned().map(Stub::new).collect();
                self.spawn_open(running, stubs, shared, plan, most);
            }
            Task::Batches { size } => drop(running.spawn_local(batches::batches(channel, shared, plan, size))),
            Task::Stream { size, most } => {
                drop(running.spawn_local(batches::stream(channel, shared, plan, size, most)));
            }
            Task::Snapshots { total } => drop(running.spawn_local(snapshots::from_service(channel, shared, total))),
        }
    }

    fn spawn_on_ledger(
        &mut self,
        running: &mut JoinSet<Result<(), Error>>,
        embedded: Embedded,
        shared: Shared,
        plan: Plan,
        task: Task,
    ) {
        match task {
            Task::Closed => drop(running.spawn_local(single(embedded, shared, plan))),
            Task::Open { most } => self.spawn_open(running, vec![embedded], shared, plan, most),
            Task::Batches { size } => {
                drop(running.spawn_local(batches::on_ledger(embedded, Series::Batch, shared, plan, size, 1)));
            }
            Task::Stream { size, most } => {
                drop(running.spawn_local(batches::on_ledger(embedded, Series::Stream, shared, plan, size, most)));
            }
            Task::Snapshots { total } => drop(running.spawn_local(snapshots::from_ledger(embedded, shared, total))),
        }
    }

    fn spawn_open(
        &mut self,
        running: &mut JoinSet<Result<(), Error>>,
        callers: Vec<impl Caller>,
        shared: Shared,
        plan: Plan,
        most: usize,
    ) {
        let Some(intended) = self.intended.take() else { return };
        running.spawn_local(async move {
            open::open(callers, shared, plan, intended, most).await;
            Ok(())
        });
    }
}

async fn single(caller: impl Caller, shared: Shared, plan: Plan) -> Result<(), Error> {
    closed(caller, shared, plan).await;
    Ok(())
}
