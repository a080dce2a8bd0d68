//! Transfers by few callers and by many, against what users would write instead.

use std::sync::Arc;

use equipoise::AccountId;

use crate::baseline::bare::Bare;
use crate::baseline::{Bank, Locks, Mutexed, Ours, Seqlocks};
use crate::callers::{Callers, Load, Longest, Measured, transfers};
use crate::workload::{INITIAL, Latencies, Spread, account_ids, at_least, median, rate};
use crate::{ACCOUNTS, Settings};

/// The contenders, built once and used in turn: their tables are in the steady state then.
struct Contenders {
    ids: Arc<Vec<AccountId>>,
    ours: Arc<Ours>,
    mutex: Arc<Mutexed>,
    locks: Arc<Locks>,
    seqlocks: Arc<Seqlocks>,
    bare: Arc<Bare>,
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

pub fn write(settings: &Settings) {
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
