//! Those who transfer: threads, or tasks on a runtime.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use equipoise::{AccountId, TransactionId};

use crate::baseline::Bank;
use crate::workload::{Latencies, Random, Spread, cpu_time, transaction_id};

/// One latency in so many operations is measured.
const SAMPLED: u64 = 8;

/// Numbers no request id twice.
static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 40);

#[derive(Clone, Copy)]
pub struct Load {
    pub spread: Spread,
    pub callers: Callers,
    pub duration: Duration,
}

#[derive(Clone, Copy)]
pub enum Callers {
    Threads(u64),
    /// On a worker a core; each gives way after every transfer.
    #[cfg(feature = "server")]
    Tasks(u64),
}

impl Callers {
    pub fn name(self) -> String {
        match self {
            Callers::Threads(1) => "1 thread".to_owned(),
            Callers::Threads(threads) => format!("{threads} threads"),
            #[cfg(feature = "server")]
            Callers::Tasks(tasks) => format!("{tasks} tasks"),
        }
    }
}

/// What came of a load.
pub struct Measured {
    pub per_second: f64,
    pub latencies: Latencies,
    pub longest: Longest,
}

/// The longest call, and for how much of it the caller's thread ran: for the rest others had the processors, or it waited.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Longest {
    pub took: Duration,
    pub ran: Duration,
}

/// Runs the load against `bank`.
pub fn transfers<B: Bank>(bank: &Arc<B>, ids: &Arc<Vec<AccountId>>, load: Load) -> Measured {
    match load.callers {
        Callers::Threads(threads) => on_threads(bank, ids, load, threads),
        #[cfg(feature = "server")]
        Callers::Tasks(tasks) => on_tasks(bank, ids, load, tasks),
    }
}

fn on_threads<B: Bank>(bank: &Arc<B>, ids: &Arc<Vec<AccountId>>, load: Load, threads: u64) -> Measured {
    let stop = AtomicBool::new(false);
    let ready = Barrier::new(threads as usize + 1);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..threads)
            .map(|_| {
                let (stop, ready) = (&stop, &ready);
                let mut caller = Caller::new(bank.clone(), ids.clone(), load.spread);
                scope.spawn(move || {
                    ready.wait();
                    let began = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        caller.transfer();
                    }
                    (began, caller)
                })
            })
            .collect();
        ready.wait();
        thread::sleep(load.duration);
        stop.store(true, Ordering::Relaxed);
        // What is done after the stop is counted on both ends: in the operations and in the time. And since the first caller began:
        // among so many threads this one's turn may come long after it.
        let (began, done): (Vec<_>, Vec<_>) =
            callers.into_iter().map(|caller| caller.join().expect("a caller")).unzip();
        bank.settle();
        Measured::of(&done, began.into_iter().min().expect("a caller").elapsed())
    })
}

#[cfg(feature = "server")]
fn on_tasks<B: Bank>(bank: &Arc<B>, ids: &Arc<Vec<AccountId>>, load: Load, tasks: u64) -> Measured {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stop = Arc::new(AtomicBool::new(false));
    runtime.block_on(async {
        let began = Instant::now();
        let callers: Vec<_> = (0..tasks)
            .map(|_| {
                let stop = stop.clone();
                let mut caller = Caller::new(bank.clone(), ids.clone(), load.spread);
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        caller.transfer();
                        tokio::task::yield_now().await;
                    }
                    caller
                })
            })
            .collect();
        tokio::time::sleep(load.duration).await;
        stop.store(true, Ordering::Relaxed);
        let mut done = Vec::new();
        for caller in callers {
            done.push(caller.await.expect("a caller"));
        }
        bank.settle();
        Measured::of(&done, began.elapsed())
    })
}

impl Measured {
    fn of<B: Bank>(callers: &[Caller<B>], elapsed: Duration) -> Self {
        let mut latencies = Latencies::default();
        callers.iter().for_each(|caller| latencies.merge(&caller.latencies));
        let done: u64 = callers.iter().map(|caller| caller.done).sum();
        let longest = callers.iter().map(|caller| caller.longest).max().unwrap_or_default();
        Measured { per_second: done as f64 / elapsed.as_secs_f64(), latencies, longest }
    }
}

/// Somebody who sends one transfer after the other, each with an id of its own.
pub struct Caller<B> {
    pub bank: Arc<B>,
    pub ids: Arc<Vec<AccountId>>,
    spread: Spread,
    random: Random,
    first: u64,
    pub done: u64,
    latencies: Latencies,
    longest: Longest,
}

impl<B: Bank> Caller<B> {
    pub fn new(bank: Arc<B>, ids: Arc<Vec<AccountId>>, spread: Spread) -> Self {
        let first = NEXT_ID.fetch_add(1 << 32, Ordering::Relaxed);
        let (random, latencies, longest) = (Random::new(first), Latencies::default(), Longest::default());
        Caller { bank, ids, spread, random, first, done: 0, latencies, longest }
    }

    /// The next transfer: between which accounts, how much, and under which id.
    #[inline]
    pub fn next(&mut self) -> (usize, usize, i64, TransactionId) {
        let (from, to) = self.random.pair(self.spread.of(&self.ids).len());
        let amount = 1 + (self.random.next() & 63) as i64;
        (from, to, amount, transaction_id(self.first + self.done))
    }

    #[inline]
    pub fn transfer(&mut self) {
        let (from, to, amount, id) = self.next();
        let before = self.done.is_multiple_of(SAMPLED).then(|| (cpu_time(), Instant::now()));
        let answer = self.bank.transfer(&self.ids[from], &self.ids[to], amount, &id);
        if let Some((ran, began)) = before {
            let took = began.elapsed();
            self.latencies.record(took);
            self.longest = self.longest.max(Longest { took, ran: cpu_time().saturating_sub(ran) });
        }
        assert!(answer.result.is_ok() && !answer.replayed, "a fresh transfer with funds");
        self.done += 1;
    }
}
