//! What a transfer costs the processor, on a shared machine steadier than how many there are a second; and how many
//! the engine alone does.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use equipoise::AccountId;

use crate::baseline::{self, Bank, Mutexed, Ours};
use crate::callers::Caller;
use crate::workload::{INITIAL, Spread, account_ids, at_least, cpu_time, median, rate};
use crate::{ACCOUNTS, Settings};

/// Transfers a second that one thread should reach.
const ONE_THREAD: f64 = 3e6;
/// How many times as many two threads should reach.
const TWO_THREADS: f64 = 1.3;

/// The engine alone, with ids and its journal to memory, until everything is in the journal: one thread against what it
/// should reach, and two threads against one.
pub fn engine(settings: &Settings) {
    let ids = Arc::new(account_ids(ACCOUNTS));
    let ours = Arc::new(Ours::build(&ids, INITIAL, settings.limits()));
    let ways = [("one a call", one as fn(&mut Caller<Ours>)), ("100 a call", together)];
    for (name, call) in ways {
        let mut rates = [const { Vec::new() }; 2];
        let mut quotients = Vec::new();
        for _ in 0..settings.repetitions {
            let pair = [1, 2].map(|threads| {
                let [.., wall] = costs_of(&ours, &ids, call, Spread::Uniform, threads, settings.measurement);
                1e9 / wall
            });
            quotients.push(pair[1] / pair[0]);
            rates.iter_mut().zip(pair).for_each(|(rates, rate)| rates.push(rate));
        }
        let [single, double] = rates.map(|mut rates| median(&mut rates));
        println!(
            "transfers of the engine alone, uniform, {name}: 1 thread {}, of {} {}",
            rate(single),
            rate(ONE_THREAD),
            at_least(single / ONE_THREAD, 1.0)
        );
        println!(
            "transfers of the engine alone, uniform, {name}: 2 threads {}, of 1 thread {}",
            rate(double),
            at_least(median(&mut quotients), TWO_THREADS)
        );
    }
}

pub fn cost(settings: &Settings) {
    let ids = Arc::new(account_ids(ACCOUNTS));
    let ours = Arc::new(Ours::build(&ids, INITIAL, settings.limits()));
    let mutex = Arc::new(Mutexed::build(&ids, INITIAL, settings.limits()));
    for (threads, spread) in [(1, Spread::Uniform), (2, Spread::Uniform), (2, Spread::Hot)] {
        let mut costs: [[Vec<f64>; 3]; 3] = Default::default();
        for _ in 0..settings.repetitions {
            let of_each = [
                costs_of(&ours, &ids, Caller::transfer, spread, threads, settings.measurement),
                costs_of(&ours, &ids, together, spread, threads, settings.measurement),
                costs_of(&mutex, &ids, Caller::transfer, spread, threads, settings.measurement),
            ];
            for (costs, of_one) in costs.iter_mut().zip(of_each) {
                costs.iter_mut().zip(of_one).for_each(|(costs, cost)| costs.push(cost));
            }
        }
        let [ours, together, mutex] = costs.map(|costs| costs.map(|mut costs| median(&mut costs)));
        let names = ["ours".to_owned(), format!("ours, {TOGETHER} a call"), "mutex".to_owned()];
        for (name, [caller, all, wall]) in names.iter().zip([ours, together, mutex]) {
            println!(
                "cost of a transfer, {threads} threads {}: {name}: {caller:.0} ns of processor in the caller, {all:.0} in all, mutex \
                 in {:.2} of ours; by the clock {}",
                spread.name(),
                mutex[0] / caller,
                rate(1e9 / wall)
            );
        }
    }
}

/// Sends one transfer, unlike [`Caller::transfer`] without reading clocks.
fn one(caller: &mut Caller<Ours>) {
    let (from, to, amount, id) = caller.next();
    let answer = caller.bank.transfer(&caller.ids[from], &caller.ids[to], amount, &id);
    assert!(answer.result.is_ok() && !answer.replayed, "a fresh transfer with funds");
    caller.done += 1;
}

/// Transfers of one call of `Ledger::submit_all`.
const TOGETHER: u64 = 100;

/// Sends so many transfers in one call.
fn together(caller: &mut Caller<Ours>) {
    let ledger = caller.bank.ledger.clone();
    let requests = (0..TOGETHER).map(|_| {
        let (from, to, amount, id) = caller.next();
        caller.done += 1;
        baseline::transfer(&caller.ids[from], &caller.ids[to], amount, &id)
    });
    for outcome in ledger.submit_all(requests) {
        let outcome = outcome.expect("an open ledger that keeps up");
        assert!(outcome.result().is_ok() && !outcome.replayed(), "a fresh transfer with funds");
    }
}

/// Nanoseconds a transfer: of the callers' processor time, of the whole process's, and by the clock.
fn costs_of<B: Bank>(
    bank: &Arc<B>,
    ids: &Arc<Vec<AccountId>>,
    call: fn(&mut Caller<B>),
    spread: Spread,
    threads: u64,
    duration: Duration,
) -> [f64; 3] {
    const BLOCK: u32 = 100;
    let process = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let (before, began) = (process(), Instant::now());
    let ends = began + duration;
    let (done, spent) = thread::scope(|scope| {
        let callers: Vec<_> = (0..threads)
            .map(|_| {
                let mut caller = Caller::new(bank.clone(), ids.clone(), spread);
                scope.spawn(move || {
                    let before = cpu_time();
                    while Instant::now() < ends {
                        (0..BLOCK).for_each(|_| call(&mut caller));
                    }
                    (caller.done, cpu_time().saturating_sub(before))
                })
            })
            .collect();
        let of_each = callers.into_iter().map(|caller| caller.join().expect("a caller"));
        of_each.fold((0, Duration::ZERO), |(done, spent), (more, longer)| (done + more, spent + longer))
    });
    // What is in the journal in the end, and no less.
    bank.settle();
    let elapsed = began.elapsed().as_nanos() as f64;
    [spent.as_nanos() as f64, process() - before, elapsed].map(|nanoseconds| nanoseconds / done as f64)
}
