//! What each call of the hot path costs, and what contenders make of many callers.
//!
//! `cargo bench --bench hot_path -- [FILTER]`. By environment: `BENCH_SIZES`, accounts, comma-separated
//! (1000,100000,1000000).

#![allow(missing_docs, reason = "a program, not a library")]

mod baseline;
mod workload;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use baseline::{Bank, Limits, Locks, Mutexed, Ours, Seqlocks};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use equipoise::{AccountId, Ledger, Member, Operation, Request};
use workload::{INITIAL, Random, Spread, account_ids, open_accounts, transaction_id};

/// Operations of a chain: a transfer there, a transfer on, an update.
const CHAIN: usize = 3;
/// Ids that look-ups choose from: fewer than a ledger forgets from.
const KNOWN_IDS: usize = 50_000;
/// A new id each time.
static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 40);

fn sizes() -> Vec<usize> {
    let text = std::env::var("BENCH_SIZES").unwrap_or_else(|_| "1000,100000,1000000".to_owned());
    text.split(',').map(|size| size.trim().parse().expect("BENCH_SIZES: numbers")).collect()
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .without_plots()
}

fn ledger(ids: &[AccountId], cache: bool) -> Ledger {
    let ledger = Ledger::builder().reserve(ids.len()).look_up_cache(cache).build();
    open_accounts(&ledger, ids);
    ledger
}

fn fresh() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// One thread, no contention, by number of accounts.
fn single(criterion: &mut Criterion) {
    for size in sizes() {
        let ids = account_ids(size);
        for cache in [true, false] {
            let ledger = ledger(&ids, cache);
            let label = format!("{size}{}", if cache { "" } else { " without cache" });
            calls(criterion, &ledger, &ids, &label);
            if cache {
                by_handle(criterion, &ledger, &ids, &label);
                snapshots(criterion, &ledger, size, &label);
                known_ids(criterion, &ledger, &ids, &label);
            }
        }
    }
}

fn calls(criterion: &mut Criterion, ledger: &Ledger, ids: &[AccountId], label: &str) {
    let random = RefCell::new(Random::new(7));
    let one = || &ids[random.borrow_mut().below(ids.len())];
    let two = || {
        let (from, to) = random.borrow_mut().pair(ids.len());
        (&ids[from], &ids[to])
    };
    let mut bench = |name: &str, routine: &mut dyn FnMut()| {
        criterion.bench_function(&format!("{name}/{label}"), |bencher| bencher.iter(&mut *routine));
    };
    bench("read", &mut || {
        black_box(ledger.balance(one()));
    });
    bench("update", &mut || {
        black_box(ledger.update(one(), 1)).expect("room");
    });
    bench("transfer", &mut || {
        let (from, to) = two();
        black_box(ledger.transfer(from, to, 1)).expect("funds");
    });
    bench("transfer with id", &mut || {
        let (from, to) = two();
        let outcome = ledger.submit(baseline::transfer(from, to, 1, &transaction_id(fresh()))).expect("decided");
        black_box(outcome.result()).expect("funds");
    });
    bench("chain of 3", &mut || {
        let ((a, b), c) = (two(), one());
        let mut members = Vec::with_capacity(CHAIN);
        members.push(Operation::transfer(a.clone(), b.clone(), 2).expect("valid"));
        members.push(Operation::transfer(b.clone(), a.clone(), 1).expect("valid"));
        members.push(Operation::update(c.clone(), 1));
        let members = members.into_iter().map(|operation| Member { id: None, operation }).collect();
        let outcome = ledger.submit(Request::chain(members).expect("valid")).expect("decided");
        black_box(outcome.results());
    });
}

fn by_handle(criterion: &mut Criterion, ledger: &Ledger, ids: &[AccountId], label: &str) {
    let handles: Vec<_> = ids.iter().filter_map(|id| ledger.account(id)).collect();
    let mut random = Random::new(11);
    criterion.bench_function(&format!("read by handle/{label}"), |bencher| {
        bencher.iter(|| black_box(handles[random.below(handles.len())].read()));
    });
    criterion.bench_function(&format!("transfer by handle/{label}"), |bencher| {
        bencher.iter(|| {
            let (from, to) = random.pair(handles.len());
            black_box(ledger.transfer_between(&handles[from], &handles[to], 1)).expect("funds")
        });
    });
}

fn snapshots(criterion: &mut Criterion, ledger: &Ledger, size: usize, label: &str) {
    criterion.bench_function(&format!("snapshot open and close/{label}"), |bencher| {
        bencher.iter(|| black_box(ledger.snapshot()).expect("a slot"));
    });
    let mut group = criterion.benchmark_group("snapshot scan");
    group.throughput(Throughput::Elements(size as u64));
    group.bench_function(format!("in id order/{label}"), |bencher| {
        bencher.iter(|| ledger.snapshot().expect("a slot").iter().map(|state| i128::from(state.balance)).sum::<i128>());
    });
    group.bench_function(format!("total/{label}"), |bencher| {
        bencher.iter(|| ledger.snapshot().expect("a slot").total());
    });
    group.finish();
}

fn known_ids(criterion: &mut Criterion, ledger: &Ledger, ids: &[AccountId], label: &str) {
    let first = NEXT_ID.fetch_add(KNOWN_IDS as u64, Ordering::Relaxed);
    let requests: Vec<_> = (0..KNOWN_IDS)
        .map(|number| {
            let account = ids[number % ids.len()].clone();
            Request::single(Operation::update(account, 1), Some(transaction_id(first + number as u64)))
        })
        .collect();
    for request in &requests {
        ledger.submit(request.clone()).expect("decided");
    }
    let mut random = Random::new(13);
    criterion.bench_function(&format!("look up an id/{label}"), |bencher| {
        bencher.iter(|| {
            let request = &requests[random.below(KNOWN_IDS)];
            black_box(request.members()[0].id.as_ref().and_then(|id| ledger.transaction(id).expect("readable")))
                .expect("kept")
        });
    });
    criterion.bench_function(&format!("replay/{label}"), |bencher| {
        bencher.iter(|| {
            let outcome = ledger.submit(requests[random.below(KNOWN_IDS)].clone()).expect("decided");
            assert!(outcome.replayed());
            black_box(outcome.result())
        });
    });
}

/// Transfers with all duties, by contender, callers and spread.
fn contended(criterion: &mut Criterion) {
    const ACCOUNTS: usize = 100_000;
    let ids = account_ids(ACCOUNTS);
    let limits = Limits { ids: 100_000, log: 100_000 };
    contender::<Ours>(criterion, &ids, limits);
    contender::<Mutexed>(criterion, &ids, limits);
    contender::<Locks>(criterion, &ids, limits);
    contender::<Seqlocks>(criterion, &ids, limits);
}

fn contender<B: Bank>(criterion: &mut Criterion, ids: &[AccountId], limits: Limits) {
    let bank = B::build(ids, INITIAL, limits);
    let mut group = criterion.benchmark_group("transfer with all duties");
    group.throughput(Throughput::Elements(1));
    for spread in Spread::BOTH {
        for callers in [1_u64, 2, 200] {
            let id = BenchmarkId::new(format!("{} {}", B::NAME, spread.name()), callers);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|transfers| share(&bank, spread.of(ids), transfers, callers));
            });
        }
    }
    group.finish();
}

/// How long so many callers need for `transfers` among them.
fn share<B: Bank>(bank: &B, among: &[AccountId], transfers: u64, callers: u64) -> Duration {
    let ready = Barrier::new(callers as usize + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|caller| {
                let ready = &ready;
                scope.spawn(move || {
                    let mine = transfers / callers + u64::from(caller < transfers % callers);
                    let first = NEXT_ID.fetch_add(mine, Ordering::Relaxed);
                    let mut random = Random::new(first);
                    ready.wait();
                    for number in first..first + mine {
                        let (from, to) = random.pair(among.len());
                        black_box(bank.transfer(&among[from], &among[to], 1, &transaction_id(number)));
                    }
                })
            })
            .collect();
        ready.wait();
        let began = Instant::now();
        for thread in threads {
            thread.join().expect("a caller");
        }
        began.elapsed()
    })
}

criterion_group! {
    name = hot_path;
    config = quick();
    targets = single, contended
}
criterion_main!(hot_path);
