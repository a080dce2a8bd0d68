//! A thousand ledgers come and go: what outlives one stays readable, and nothing of it stays behind. The sanitizer
//! scripts run this; `EQUIPOISE_STRESS` says how many ledgers, 1000 when it is not set.

mod common;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{
    Random, SOON, account, alone, chain, create, decide, id, named, named_chain, open, together, transfer, update,
};
use equipoise::{Account, Closed, Ledger, Outcome, Snapshot};

/// One test at a time: they count the threads of the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone_in_the_process() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn ledgers() -> u64 {
    std::env::var("EQUIPOISE_STRESS").map_or(1_000, |count| count.parse().expect("a number of ledgers"))
}

/// How many flushers run in this process.
fn flushers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("equipoise-flush")).count()
}

/// A thread takes a moment to end after it was joined, as far as /proc is concerned.
fn expect_flushers(expected: usize) {
    let started = Instant::now();
    while flushers() != expected {
        assert!(started.elapsed() < SOON, "{} flushers, not {expected}", flushers());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What is left of a ledger when every handle on it is gone.
struct Remains {
    outcomes: Vec<(Outcome, String)>,
    snapshot: Snapshot,
    handle: Account,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TOTAL: i128 = 400;

/// One ledger's life. Its last handle goes while a snapshot, outcomes and an account handle stay.
fn live(number: u64) -> Remains {
    let builder = Ledger::builder().id_capacity(64).look_up_cache(!number.is_multiple_of(3));
    let ledger = match number % 4 {
        0 => builder.history(16).build(),
        1 => builder.history(100_000).reserve(16).build(),
        2 => builder.build(),
        _ => Ledger::new(),
    };
    let ledger = open(ledger, &NAMES.map(|name| (name, 100)));
    let outcomes = together(3, |thread| work(&ledger, number, thread));
    let snapshot = ledger.snapshot().expect("the others are closed");
    let handle = ledger.account(&account("a")).expect("open");
    if number.is_multiple_of(5) {
        ledger.close();
    }
    if number.is_multiple_of(7) {
        // Dropped without having been asked for, or before its time.
        drop(ledger.durable_at(u64::MAX));
    }
    let outcomes = outcomes.into_iter().flatten().map(|outcome| (outcome.clone(), format!("{:?}", outcome.changes())));
    Remains { outcomes: outcomes.collect(), snapshot, handle }
}

fn work(ledger: &Ledger, number: u64, thread: usize) -> Vec<Outcome> {
    let mut random = Random(number * 8 + thread as u64);
    let mut late = Vec::new();
    let outcomes = (0..24).map(|round| {
        let (one, other) = random.pair(NAMES.len());
        let (one, other) = (NAMES[one], NAMES[other]);
        let amount = random.between(1, 60);
        if random.below(4) == 0 {
            // Some are kept until the thread ends, over everything that happens meanwhile.
            late.extend(ledger.snapshot());
        }
        let outcome = decide(
            ledger,
            match random.below(6) {
                0 => named(transfer(one, other, amount), &format!("shared-{round}-{one}-{other}-{amount}")),
                1 => chain([transfer(one, other, amount), transfer(other, one, amount)]),
                2 => named(update("ghost", amount), &format!("id-{thread}-{round}")),
                3 => alone(create(one, amount)),
                _ => alone(transfer(one, other, amount)),
            },
        );
        if round == 12 {
            ledger.wait_durable(outcome.sequence()).expect("not closed");
            late.extend(ledger.snapshot_durable());
        }
        outcome
    });
    let outcomes: Vec<_> = outcomes.collect();
    for snapshot in late {
        assert!(snapshot.sequence() < 4 || snapshot.total() == TOTAL, "{snapshot:?}");
    }
    outcomes
}

/// E5, E4: ledgers created and dropped, with work on several threads, snapshots dropped late, outcomes that outlive the
/// last handle, histories, closed and unclosed; no flusher is left.
#[test]
fn a_thousand_ledgers_come_and_go() {
    let _alone = alone_in_the_process();
    let mut kept: Vec<Remains> = Vec::new();
    for number in 0..ledgers() {
        let remains = live(number);
        assert_eq!(remains.snapshot.total(), TOTAL, "it keeps the ledger alive");
        assert_eq!(remains.handle.read().id.as_str(), "a");
        if number.is_multiple_of(10) {
            kept.push(remains);
        } else {
            let Remains { outcomes, snapshot, handle } = remains;
            // In both orders: the last one takes the ledger down.
            if number.is_multiple_of(2) {
                drop(snapshot);
                drop(handle);
            } else {
                drop(handle);
                drop(snapshot);
            }
            for (outcome, changes) in &outcomes {
                assert_eq!(format!("{:?}", outcome.changes()), *changes, "an outcome outlives its ledger");
                assert_eq!(outcome.results().len(), outcome.members().len());
            }
        }
    }
    for remains in kept {
        assert_eq!((remains.snapshot.total(), remains.snapshot.len()), (TOTAL, 4));
        let outcomes = remains.outcomes;
        drop((remains.snapshot, remains.handle));
        outcomes.iter().for_each(|(outcome, changes)| assert_eq!(format!("{:?}", outcome.changes()), *changes));
    }
    expect_flushers(0);
}

/// E4: a flusher ends with its ledger's last handle, whatever kind of handle that is, and on whatever thread.
#[test]
fn the_flusher_ends_with_its_ledger() {
    let _alone = alone_in_the_process();
    let made = || open(Ledger::builder().history(100).build(), &[("a", 1)]);
    expect_flushers(0);
    let ledger = made();
    expect_flushers(1);
    let (clone, snapshot) = (ledger.clone(), ledger.snapshot().expect("few are open"));
    let (handle, waiting) = (ledger.account(&account("a")).expect("open"), ledger.durable_at(1));
    drop((ledger, clone));
    expect_flushers(1);
    drop((snapshot, waiting));
    assert_eq!(handle.update(1).expect("it lives on").balance, 2);
    std::thread::spawn(move || drop(handle)).join().expect("no panic");
    expect_flushers(0);
}

/// E4: a closed ledger's flusher ends at once, while its handles live.
#[test]
fn the_flusher_ends_when_its_ledger_is_closed() {
    let _alone = alone_in_the_process();
    let ledger = open(Ledger::builder().history(100).build(), &[("a", 1)]);
    expect_flushers(1);
    ledger.close();
    expect_flushers(0);
    assert_eq!(ledger.wait_durable(1_000), Err(Closed));
    assert_eq!(ledger.snapshot_durable().expect("few are open").total(), 1);
}

/// E5, B1, C1: outcomes found by id and in the history outlive the id table's and the history's own entries.
#[test]
fn outcomes_outlive_what_kept_them() {
    let _alone = alone_in_the_process();
    for _ in 0..ledgers().div_ceil(50) {
        let ledger = open(Ledger::builder().history(8).id_capacity(8).build(), &[("a", 1_000_000), ("b", 0)]);
        decide(&ledger, named_chain([(transfer("a", "b", 2), "m0"), (update("a", -1), "m1")]));
        let by_id = ledger.transaction(&id("m1")).expect("readable").expect("known");
        ledger.wait_durable(by_id.sequence()).expect("not closed");
        let recorded = ledger.history(by_id.sequence(), 1).expect("kept").swap_remove(0);
        together(2, |thread| {
            for round in 0..2_000 {
                decide(&ledger, named(transfer("a", "b", 1), &format!("id-{thread}-{round}")));
            }
        });
        ledger.wait_durable(ledger.sequence()).expect("not closed");
        // The flusher's thread forgets once it has told who waited.
        let started = Instant::now();
        while ledger.transaction(&id("m1")).expect("readable").is_some() {
            assert!(started.elapsed() < SOON, "not forgotten");
            std::thread::yield_now();
        }
        assert!(ledger.history(by_id.sequence(), 1).is_err(), "dropped");
        drop(ledger);
        assert_eq!(by_id.result().expect("accepted")[0].balance, 999_997);
        assert_eq!(recorded.results().len(), 2);
        assert_eq!(recorded.results()[1], by_id.result());
    }
}
