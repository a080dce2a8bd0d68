//! The ratios that the project promises, measured in one run on this machine, ours and the baselines in turn.
//!
//! `cargo bench --bench ratios -- [read|write|snapshot|cost|all]`. By environment: `RATIOS_MILLISECONDS` a measurement
//! (500), `RATIOS_REPETITIONS` (3), `RATIOS_IDS` honoured by every contender (100,000), `RATIOS_LOG` entries kept by
//! every contender (100,000), `RATIOS_SNAPSHOT_ACCOUNTS` (1,000,000).

#![allow(missing_docs, reason = "a program, not a library")]

mod baseline;
mod workload;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use baseline::bare::Bare;
use baseline::{Bank, Limits, Locks, Mutexed, Ours, Seqlocks};
use crossbeam_skiplist::base::SkipList;
use equipoise::{AccountId, Ledger, TransactionId};
use workload::{INITIAL, Latencies, Random, Spread, account_ids, at_least, at_most, median, rate, transaction_id};

/// One latency in so many operations is measured.
const SAMPLED: u64 = 8;
/// Accounts that transfers choose from.
const ACCOUNTS: usize = 100_000;

fn main() {
    // Cargo passes `--bench`.
    let asked: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name| asked.is_empty() || asked.iter().any(|asked| asked == name || asked == "all");
    let settings = Settings::from_environment();
    println!("{} cores; {settings:?}", thread::available_parallelism().map_or(0, usize::from));
    if wanted("read") {
        read(&settings);
    }
    if wanted("write") {
        write(&settings);
    }
    if wanted("snapshot") {
        snapshot(&settings);
    }
    if wanted("cost") {
        cost(&settings);
    }
}

#[derive(Debug)]
struct Settings {
    measurement: Duration,
    repetitions: usize,
    ids: usize,
    log: usize,
    snapshot_accounts: usize,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name: &str, default: usize| {
            std::env::var(name).map_or(default, |text| text.parse().expect("a number in the environment"))
        };
        Settings {
            measurement: Duration::from_millis(number("RATIOS_MILLISECONDS", 500) as u64),
            repetitions: number("RATIOS_REPETITIONS", 3),
            ids: number("RATIOS_IDS", 100_000),
            log: number("RATIOS_LOG", 100_000),
            snapshot_accounts: number("RATIOS_SNAPSHOT_ACCOUNTS", 1_000_000),
        }
    }

    fn limits(&self) -> Limits {
        Limits { ids: self.ids, log: self.log }
    }
}

// (a) Reads.

fn read(settings: &Settings) {
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
        ids.iter().for_each(|id| drop(ledger.create(id, INITIAL).expect("a new account")));
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

/// What this thread has used of a CPU.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

// (b) Transfers.

/// The contenders, built once and used in turn: their tables are in the steady state then.
struct Contenders {
    ids: Arc<Vec<AccountId>>,
    ours: Arc<Ours>,
    mutex: Arc<Mutexed>,
    locks: Arc<Locks>,
    seqlocks: Arc<Seqlocks>,
    bare: Arc<Bare>,
}

/// Numbers no request id twice.
static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 40);

#[derive(Clone, Copy)]
struct Load {
    spread: Spread,
    callers: Callers,
    duration: Duration,
}

#[derive(Clone, Copy)]
enum Callers {
    Threads(u64),
    /// On a worker a core; each gives way after every transfer.
    #[cfg(feature = "server")]
    Tasks(u64),
}

impl Callers {
    fn name(self) -> String {
        match self {
            Callers::Threads(1) => "1 thread".to_owned(),
            Callers::Threads(threads) => format!("{threads} threads"),
            #[cfg(feature = "server")]
            Callers::Tasks(tasks) => format!("{tasks} tasks"),
        }
    }
}

/// What came of a load.
struct Measured {
    per_second: f64,
    latencies: Latencies,
    longest: Longest,
}

/// The longest call, and for how much of it the caller's thread ran: for the rest others had the processors, or it waited.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Longest {
    took: Duration,
    ran: Duration,
}

/// Measurements of one contender under one load.
#[derive(Default)]
struct Series {
    rates: Vec<f64>,
    latencies: Latencies,
    longest: Longest,
}

impl Series {
    fn add(&mut self, measured: Measured) {
        self.rates.push(measured.per_second);
        self.latencies.merge(&measured.latencies);
        self.longest = self.longest.max(measured.longest);
    }

    fn line(&self) -> String {
        let [p50, p99, p999] = [500, 990, 999].map(|per_mille| self.latencies.percentile(per_mille));
        let Longest { took, ran } = self.longest;
        format!("latency p50 {p50:.1?} p99 {p99:.1?} p99.9 {p999:.1?} max {took:.1?}, of which it ran {ran:.1?}")
    }
}

fn write(settings: &Settings) {
    let ids = account_ids(ACCOUNTS);
    let limits = settings.limits();
    let contenders = Contenders {
        ours: Arc::new(Ours::build(&ids, INITIAL, limits)),
        mutex: Arc::new(Mutexed::build(&ids, INITIAL, limits)),
        locks: Arc::new(Locks::build(&ids, INITIAL, limits)),
        seqlocks: Arc::new(Seqlocks::build(&ids, INITIAL, limits)),
        bare: Arc::new(Bare::build(&ids, INITIAL, limits)),
        ids: Arc::new(ids),
    };
    let callers = [
        (Callers::Threads(1), 0.5),
        (Callers::Threads(2), 1.0),
        (Callers::Threads(200), 1.0),
        #[cfg(feature = "server")]
        (Callers::Tasks(200), 1.0),
    ];
    for spread in Spread::BOTH {
        for (callers, goal) in &callers {
            compare(settings, &contenders, spread, *callers, *goal);
        }
    }
    let expected = (ACCOUNTS, ACCOUNTS as i128 * i128::from(INITIAL));
    assert_eq!(contenders.ours.snapshot(), expected);
    assert_eq!(contenders.mutex.snapshot(), expected);
    assert_eq!(contenders.locks.snapshot(), expected);
    assert_eq!(contenders.seqlocks.snapshot(), expected);
}

fn compare(settings: &Settings, contenders: &Contenders, spread: Spread, callers: Callers, goal: f64) {
    // Two hundred threads take turns of milliseconds on a core: give each several.
    let longer = if is_crowd(callers) { 3 } else { 1 };
    let load = Load { spread, callers, duration: settings.measurement * longer };
    let Contenders { ids, ours, mutex, locks, seqlocks, bare } = contenders;
    let pushed_back = ours.pushed_back();
    let mut alone = Series::default();
    let mut series: [Series; 4] = Default::default();
    for _ in 0..settings.repetitions {
        series[0].add(transfers(ours, ids, load));
        series[1].add(transfers(mutex, ids, load));
        series[2].add(transfers(locks, ids, load));
        series[3].add(transfers(seqlocks, ids, load));
        if is_crowd(callers) {
            alone.add(transfers(bare, ids, load));
        }
    }
    let names = [Ours::NAME, Mutexed::NAME, Locks::NAME, Seqlocks::NAME];
    let rates = series.each_mut().map(|series| median(&mut series.rates));
    let what = format!("transfer {} {}", callers.name(), spread.name());
    println!("{what}: ours {}, mutex {}, {}", rate(rates[0]), rate(rates[1]), at_least(rates[0] / rates[1], goal));
    for (name, rate_of) in names.iter().zip(rates).skip(2) {
        println!("{what}: ours {}, {name} {}, ratio {:.2}", rate(rates[0]), rate(rate_of), rates[0] / rate_of);
    }
    for (name, series) in names.iter().zip(&series) {
        println!("{what}: {name} {}", series.line());
    }
    if is_crowd(callers) {
        println!("{what}: {} {}", Bare::NAME, alone.line());
        println!("{what}: ours pushed {} requests back", ours.pushed_back() - pushed_back);
        let p99 = |of: usize| series[of].latencies.percentile(990).as_nanos() as f64;
        println!("{what}: mutex's p99 is {:.0}x ours, {}", p99(1) / p99(0), at_least(p99(1) / p99(0), 10.0));
    }
}

/// Whether there are so many threads that most of a call's longest time is that of the others' turns on the processors.
fn is_crowd(callers: Callers) -> bool {
    matches!(callers, Callers::Threads(200))
}

/// Runs the load against `bank`.
fn transfers<B: Bank>(bank: &Arc<B>, ids: &Arc<Vec<AccountId>>, load: Load) -> Measured {
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
struct Caller<B> {
    bank: Arc<B>,
    ids: Arc<Vec<AccountId>>,
    spread: Spread,
    random: Random,
    first: u64,
    done: u64,
    latencies: Latencies,
    longest: Longest,
}

impl<B: Bank> Caller<B> {
    fn new(bank: Arc<B>, ids: Arc<Vec<AccountId>>, spread: Spread) -> Self {
        let first = NEXT_ID.fetch_add(1 << 32, Ordering::Relaxed);
        let (random, latencies, longest) = (Random::new(first), Latencies::default(), Longest::default());
        Caller { bank, ids, spread, random, first, done: 0, latencies, longest }
    }

    /// The next transfer: between which accounts, how much, and under which id.
    #[inline]
    fn next(&mut self) -> (usize, usize, i64, TransactionId) {
        let (from, to) = self.random.pair(self.spread.of(&self.ids).len());
        let amount = 1 + (self.random.next() & 63) as i64;
        (from, to, amount, transaction_id(self.first + self.done))
    }

    #[inline]
    fn transfer(&mut self) {
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

// (c) What a transfer costs the processor: on a shared machine steadier than how many there are a second.

fn cost(settings: &Settings) {
    let ids = Arc::new(account_ids(ACCOUNTS));
    let ours = Arc::new(Ours::build(&ids, INITIAL, settings.limits()));
    let mutex = Arc::new(Mutexed::build(&ids, INITIAL, settings.limits()));
    for (threads, spread) in [(1, Spread::Uniform), (2, Spread::Uniform), (2, Spread::Hot)] {
        let load = Load { spread, callers: Callers::Threads(threads), duration: settings.measurement };
        let mut costs: [[Vec<f64>; 3]; 3] = Default::default();
        for _ in 0..settings.repetitions {
            let of_each = [
                costs_of(|| Caller::new(ours.clone(), ids.clone(), spread), Caller::transfer, load, threads),
                costs_of(|| Caller::new(ours.clone(), ids.clone(), spread), together, load, threads),
                costs_of(|| Caller::new(mutex.clone(), ids.clone(), spread), Caller::transfer, load, threads),
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

/// Transfers of one call of [`Ledger::submit_all`].
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
fn costs_of<B: Bank>(caller: impl Fn() -> Caller<B>, call: fn(&mut Caller<B>), load: Load, threads: u64) -> [f64; 3] {
    const BLOCK: u32 = 100;
    let process = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let (before, began) = (process(), Instant::now());
    let ends = began + load.duration;
    let (done, spent) = thread::scope(|scope| {
        let callers: Vec<_> = (0..threads)
            .map(|_| {
                let mut caller = caller();
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
    let elapsed = began.elapsed().as_nanos() as f64;
    [spent.as_nanos() as f64, process() - before, elapsed].map(|nanoseconds| nanoseconds / done as f64)
}

// (b) Snapshots beside writers.

fn snapshot(settings: &Settings) {
    let ids = Arc::new(account_ids(settings.snapshot_accounts));
    let limits = settings.limits();
    let ours = Arc::new(Ours::build(&ids, INITIAL, limits));
    let mutex = Arc::new(Mutexed::build(&ids, INITIAL, limits));
    let duration = settings.measurement * 3;
    let mut kept = [const { Vec::new() }; 4];
    let mut scans = [const { Vec::new() }; 4];
    let mut alone = [const { Vec::new() }; 2];
    // A neighbour that shares nothing but the machine's memory with the writer.
    let copied: Vec<(AccountId, i64)> = ids.iter().map(|id| (id.clone(), INITIAL)).collect();
    let neighbour = || (copied.len(), copied.to_vec().iter().map(|(_, balance)| i128::from(*balance)).sum());
    let total = || {
        let snapshot = ours.ledger.snapshot().expect("a free slot");
        (ids.len(), snapshot.total())
    };
    for _ in 0..settings.repetitions {
        let (ours_alone, _) = beside(&ours, &ids, duration, None::<&fn() -> (usize, i128)>);
        let (mutex_alone, _) = beside(&mutex, &ids, duration, None::<&fn() -> (usize, i128)>);
        let runs = [
            (beside(&ours, &ids, duration, Some(&|| ours.snapshot())), ours_alone),
            (beside(&ours, &ids, duration, Some(&total)), ours_alone),
            (beside(&mutex, &ids, duration, Some(&|| mutex.snapshot())), mutex_alone),
            (beside(&ours, &ids, duration, Some(&neighbour)), ours_alone),
        ];
        alone[0].push(ours_alone);
        alone[1].push(mutex_alone);
        for (place, ((writes, taken), alone)) in runs.into_iter().enumerate() {
            kept[place].push(writes / alone);
            scans[place].push(taken);
        }
    }
    let count = ids.len();
    let [ours_alone, mutex_alone] = alone.map(|mut rates| median(&mut rates));
    println!(
        "transfers among {count} accounts, one writer alone: ours {}, mutex {}",
        rate(ours_alone),
        rate(mutex_alone)
    );
    let names = [
        "ours, snapshots in id order",
        "ours, totals",
        "mutex, clones under the lock",
        "ours beside a thread that copies",
    ];
    let goals = [Some(0.8), Some(0.8), None, None];
    for (((name, goal), kept), scans) in names.iter().zip(goals).zip(&mut kept).zip(&mut scans) {
        let kept = median(kept);
        let judged = goal.map_or_else(|| format!("ratio {kept:.2}"), |goal| at_least(kept, goal));
        println!(
            "writer beside a loop over all {count} accounts: {name}: keeps {:.0} %, {judged}; {} loops",
            kept * 100.0,
            rate(median(scans))
        );
    }
}

/// One writer, beside `scan` in a loop: transfers a second, and loops a second.
fn beside<B: Bank>(
    bank: &Arc<B>,
    ids: &Arc<Vec<AccountId>>,
    duration: Duration,
    scan: Option<&(impl Fn() -> (usize, i128) + Sync)>,
) -> (f64, f64) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scanner = scan.map(|scan| {
            scope.spawn(|| {
                let (began, mut taken) = (Instant::now(), 0_u32);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(scan(), (ids.len(), ids.len() as i128 * i128::from(INITIAL)));
                    taken += 1;
                }
                f64::from(taken) / began.elapsed().as_secs_f64()
            })
        });
        let load = Load { spread: Spread::Uniform, callers: Callers::Threads(1), duration };
        let measured = transfers(bank, ids, load);
        stop.store(true, Ordering::Relaxed);
        (measured.per_second, scanner.map_or(0.0, |scanner| scanner.join().expect("a scanner")))
    })
}
