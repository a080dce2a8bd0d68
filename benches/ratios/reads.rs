//! Reads: against the look-up alone, and beside writers of the same account.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_skiplist::base::SkipList;
use equipoise::{AccountId, Ledger};

use crate::baseline::{Bank, Locks, Mutexed, Ours, Seqlocks};
use crate::workload::{
    INITIAL, Latencies, Random, account_ids, at_most, cpu_time, median, open_accounts, rate, transaction_id,
};
use crate::{ACCOUNTS, Settings};

pub fn read(settings: &Settings) {
    for accounts in [1_000, 100_000, 1_000_000] {
        look_ups(settings, accounts);
    }
    hammered(settings);
}

/// A read by id against the look-up alone, in structures like the directory's that hold the same keys.
fn look_ups(settings: &Settings, accounts: usize) {
    const READS: usize = 500_000;
    let ids = account_ids(accounts);
    let ledger = |cached| {
        let ledger = Ledger::builder().reserve(accounts).look_up_cache(cached).build();
        open_accounts(&ledger, &ids);
        ledger
    };
    let (cached, uncached) = (ledger(true), ledger(false));
    let hash: flurry::HashMap<AccountId, u64, foldhash::fast::RandomState> =
        flurry::HashMap::with_capacity_and_hasher(accounts, foldhash::fast::RandomState::default());
    let list: SkipList<AccountId, u64> = SkipList::new(crossbeam_epoch::default_collector().clone());
    for (id, place) in ids.iter().zip(0..) {
        hash.insert(id.clone(), place, &hash.guard());
        let guard = &crossbeam_epoch::pin();
        list.get_or_insert(id.clone(), place, guard).release(guard);
    }
    let mut random = Random::new(1);
    let chosen: Vec<_> = (0..READS).map(|_| ids[random.below(accounts)].clone()).collect();
    let handles: Vec<_> = chosen.iter().filter_map(|id| cached.account(id)).collect();

    let mut costs = [const { Vec::new() }; 5];
    for _ in 0..settings.repetitions.max(5) {
        costs[0].push(each(&chosen, |id| hash.get(id, &hash.guard()).copied()));
        costs[1].push(each(&chosen, |id| cached.balance(id)));
        costs[2].push(each(&chosen, |id| list.get(id, &crossbeam_epoch::pin()).map(|entry| *entry.value())));
        costs[3].push(each(&chosen, |id| uncached.balance(id)));
        costs[4].push(each(&handles, |handle| handle.read()));
    }
    let [hash, cached, list, uncached, handle] = costs.map(|mut costs| median(&mut costs));
    let line = |what: &str, ours: f64, bare: f64| {
        println!("{what} {accounts} accounts: {ours:.0} ns, bare look-up {bare:.0} ns, {}", at_most(ours / bare, 2.0));
    };
    line("read", cached, hash);
    line("read, look-up cache off,", uncached, list);
    println!("read by handle {accounts} accounts: {handle:.0} ns");
}

/// Nanoseconds that `read` takes, on average.
fn each<T, R>(of: &[T], read: impl Fn(&T) -> R) -> f64 {
    let began = Instant::now();
    for item in of {
        black_box(read(black_box(item)));
    }
    began.elapsed().as_nanos() as f64 / of.len() as f64
}

/// A read of one account, alone and while two writers change that account without pause.
fn hammered(settings: &Settings) {
    hammered_bank::<Ours>(settings, Some(1.5));
    hammered_bank::<Mutexed>(settings, None);
    hammered_bank::<Locks>(settings, None);
    hammered_bank::<Seqlocks>(settings, None);
    hammered_raw(settings);
}

fn hammered_bank<B: Bank>(settings: &Settings, goal: Option<f64>) {
    let ids = account_ids(ACCOUNTS);
    let bank = B::build(&ids, INITIAL, settings.limits());
    let next = AtomicU64::new(0);
    let id = &ids[ACCOUNTS / 2];
    let write = |number: u64| {
        let delta = if number.is_multiple_of(2) { 1 } else { -1 };
        bank.update(id, delta, &transaction_id(next.fetch_add(1, Ordering::Relaxed)));
    };
    hammered_line(settings, B::NAME, goal, &|| bank.read(id), &write);
}

/// The same without ids, through handles: writes as fast as they come.
fn hammered_raw(settings: &Settings) {
    let ledger = Ledger::new();
    let id = &account_ids(1)[0];
    ledger.create(id, INITIAL).expect("a new account");
    let account = ledger.account(id).expect("an open account");
    let write = |number: u64| {
        account.update(if number.is_multiple_of(2) { 1 } else { -1 }).expect("funds");
    };
    hammered_line(settings, "ours, writers without ids,", Some(1.5), &|| ledger.balance(id), &write);
    hammered_line(settings, "ours by handle, writers without ids,", Some(1.5), &|| account.read(), &write);
}

fn hammered_line<R>(
    settings: &Settings,
    name: &str,
    goal: Option<f64>,
    read: &(impl Fn() -> R + Sync),
    write: &(impl Fn(u64) + Sync),
) {
    let (mut alone, mut beside, mut p99s, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.repetitions {
        alone.push(reads_for(settings.measurement, read).0);
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        let writes = thread::scope(|scope| {
            let writers = [0, 1].map(|offset| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut writes = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        write(writes + offset);
                        writes += 1;
                    }
                    writes
                })
            });
            let (cost, p99) = reads_for(settings.measurement, read);
            stop.store(true, Ordering::Relaxed);
            beside.push(cost);
            p99s.push(p99);
            writers.into_iter().map(|writer| writer.join().expect("a writer")).sum::<u64>()
        });
        rates.push(writes as f64 / began.elapsed().as_secs_f64());
    }
    let (alone, beside) = (median(&mut alone), median(&mut beside));
    let ratio = beside / alone;
    let judged = goal.map_or_else(|| format!("ratio {ratio:.2}"), |goal| at_most(ratio, goal));
    println!(
        "read of one account beside two writers: {name} {beside:.0} ns of CPU, alone {alone:.0} ns, {judged}; \
         99th percentile of 64 reads {:.0} ns each; writers {}",
        median(&mut p99s),
        rate(median(&mut rates))
    );
}

/// Reads for so long: nanoseconds of this thread's CPU time a read (there are more threads than cores, so the clock
/// on the wall says nothing), and the 99th percentile of the wall time of 64 reads, per read.
fn reads_for<R>(duration: Duration, read: &impl Fn() -> R) -> (f64, f64) {
    const BLOCK: u64 = 64;
    let mut latencies = Latencies::default();
    let (began, cpu_before) = (Instant::now(), cpu_time());
    let mut reads = 0;
    let mut last = began;
    while last.duration_since(began) < duration {
        for _ in 0..BLOCK {
            black_box(read());
        }
        let now = Instant::now();
        latencies.record(now.duration_since(last));
        last = now;
        reads += BLOCK;
    }
    let cpu = cpu_time().saturating_sub(cpu_before);
    let p99 = latencies.percentile(990).as_nanos() as f64 / BLOCK as f64;
    (cpu.as_nanos() as f64 / reads as f64, p99)
}
