//! A thread asleep inside the engine (in an epoch guard) stops nobody; memory grows meanwhile, is shown, and is capped.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use common::{SOON, account, alone, balance, chain, create, decide, named, open, transfer, update, with_accounts};
use equipoise::{Exhausted, Ledger, SubmitError};

/// One test at a time: garbage is counted, and held back, over the whole process.
static ALONE: Mutex<()> = Mutex::new(());

const MIB: u64 = 1 << 20;

fn alone_in_the_process() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    settle(MIB);
    guard
}

/// Waits until less than `bytes` of garbage are left, helping as any busy thread would.
fn settle(bytes: u64) {
    let ledger = with_accounts(&[("a", 0)]);
    let started = Instant::now();
    while ledger.stats().garbage_bytes > bytes {
        assert!(started.elapsed() < SOON, "{} bytes stay", ledger.stats().garbage_bytes);
        ledger.update(&account("a"), 1).expect("no ceiling is near");
        crossbeam_epoch::pin().flush();
    }
}

/// Runs `meanwhile` while another thread sleeps in an epoch guard, as one does that the machine suspends inside a call.
fn while_somebody_sleeps_pinned<T>(meanwhile: impl FnOnce() -> T) -> T {
    let (asleep, is_asleep) = mpsc::channel();
    let (wake, woken) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _guard = crossbeam_epoch::pin();
            asleep.send(()).expect("the test waits");
            // Ends when the sender is dropped, also by a panic of the test.
            let _ = woken.recv();
        });
        is_asleep.recv().expect("it went to sleep");
        let result = meanwhile();
        drop(wake);
        result
    })
}

/// E7: for two seconds under load a thread sleeps pinned: decisions, reads, snapshots, the flusher and new accounts go
/// on; garbage grows and is shown; when the thread wakes up, the memory comes back.
#[test]
fn a_thread_asleep_inside_stops_nobody() {
    let _alone = alone_in_the_process();
    let ledger = open(Ledger::builder().history(1_000).build(), &[("a", 1_000_000), ("b", 1_000_000)]);
    let before = ledger.stats();
    let (writes, reads, snapshots) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    let grown = while_somebody_sleeps_pinned(|| {
        std::thread::scope(|scope| {
            for (from, to) in [("a", "b"), ("b", "a")] {
                let (ledger, done, writes) = (&ledger, &done, &writes);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        for _ in 0..50 {
                            ledger.transfer(&account(from), &account(to), 1).expect("decided");
                        }
                        writes.fetch_add(50, Ordering::Relaxed);
                        // The load is limited, or the garbage of two seconds would be gigabytes.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            }
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(balance(&ledger, "a") > 0);
                    reads.fetch_add(1, Ordering::Relaxed);
                    let snapshot = ledger.snapshot().expect("few are open");
                    let new = i128::from(ledger.stats().accounts) - 2;
                    assert!((2_000_000..=2_000_000 + new).contains(&snapshot.total()));
                    snapshots.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let now = || [&writes, &reads, &snapshots].map(|count| count.load(Ordering::Relaxed));
            let (mut last, mut sizes) = ([0; 3], Vec::new());
            for tick in 0..8 {
                std::thread::sleep(Duration::from_millis(250));
                common::soon("all go on", || now().iter().zip(last).all(|(now, last)| *now > last));
                last = now();
                let sequence = decide(&ledger, alone(create(&format!("new-{tick}"), 1))).sequence();
                ledger.wait_durable(sequence).expect("the flusher goes on");
                sizes.push(ledger.stats().garbage_bytes);
            }
            done.store(true, Ordering::Relaxed);
            assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "garbage grows, and it is shown: {sizes:?}");
            *sizes.last().expect("eight")
        })
    });
    assert!(grown > before.garbage_bytes + MIB, "{grown} bytes after {}", before.garbage_bytes);
    assert!(ledger.stats().sequence > before.sequence + 8);
    settle(MIB);
}

/// E7, A12: at the cap writes are refused before they are decided, reads and snapshots go on, and it heals by itself
/// when the thread wakes up.
#[test]
fn garbage_is_capped() {
    let _alone = alone_in_the_process();
    let cap = 4 * MIB;
    let ledger = open(Ledger::builder().garbage_cap(cap).build(), &[("a", 0), ("b", 1_000)]);
    let accepted = while_somebody_sleeps_pinned(|| {
        let mut accepted = 0;
        let refused = loop {
            match ledger.submit(named(update("a", 1), &format!("id-{}", accepted % 1_000))) {
                Ok(outcome) if outcome.replayed() => drop(ledger.submit(alone(update("a", 1))).map(|_| accepted += 1)),
                Ok(_) => accepted += 1,
                Err(refused) => break refused,
            }
            assert!(accepted < 10_000_000, "the cap is never reached");
        };
        let SubmitError::Exhausted(Exhausted::Garbage { bytes, cap: stated }) = refused else { panic!("{refused}") };
        assert!(bytes > cap && bytes < cap + MIB && stated == cap, "{refused}");
        assert!(ledger.stats().garbage_bytes > cap, "the same number is shown");

        let before = (ledger.sequence(), balance(&ledger, "a"));
        for _ in 0..1_000 {
            assert!(ledger.transfer(&account("b"), &account("a"), 1).is_err());
            assert_eq!(balance(&ledger, "b"), 1_000, "reads go on");
        }
        assert!(ledger.submit(named(update("a", 1), "refused")).is_err());
        assert_eq!((ledger.sequence(), balance(&ledger, "a")), before, "nothing was decided");
        let snapshot = ledger.snapshot().expect("snapshots go on");
        assert_eq!(snapshot.total(), i128::from(before.1) + 1_000);
        assert!(ledger.stats().garbage_bytes < cap + 2 * MIB, "it stays at the cap");
        accepted
    });
    let started = Instant::now();
    let fresh = loop {
        match ledger.submit(named(update("a", 1), "refused")) {
            Ok(outcome) => break outcome,
            Err(SubmitError::Exhausted(Exhausted::Garbage { .. })) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(started.elapsed() < SOON, "writers that keep trying must get through");
    };
    assert!(!fresh.replayed(), "its id was not used up");
    assert_eq!(balance(&ledger, "a"), accepted + 1);
}

/// E7: a transaction that is large counts for what it takes.
#[test]
fn large_transactions_weigh_what_they_take() {
    const OPERATIONS: usize = 1_000;
    let _alone = alone_in_the_process();
    let ledger = with_accounts(&[("a", 0)]);
    while_somebody_sleeps_pinned(|| {
        for _ in 0..100 {
            decide(&ledger, chain(vec![update("a", 1); OPERATIONS]));
        }
        let garbage = ledger.stats().garbage_bytes;
        assert!(garbage > (100 * OPERATIONS * 24) as u64, "{garbage} bytes");
    });
}

/// E7: what snapshots keep counts towards the cap, too; once they are closed, writers that keep trying get through.
#[test]
fn what_closed_snapshots_kept_does_not_refuse_writes_for_ever() {
    const ACCOUNTS: usize = 100_000;
    let _alone = alone_in_the_process();
    let ledger = Ledger::builder().garbage_cap(4 * MIB).build();
    let ids: Vec<_> = (0..ACCOUNTS).map(|number| account(&format!("account-{number:06}"))).collect();
    ids.iter().for_each(|id| drop(ledger.create(id, 0).expect("fresh")));
    let snapshot = ledger.snapshot().expect("few are open");
    let refused = ids.iter().cycle().take(2 * ACCOUNTS).find_map(|id| ledger.update(id, 1).err());
    let refused = refused.expect("the snapshot needs more than the cap");
    assert!(
        matches!(refused, equipoise::Error::NotDecided(SubmitError::Exhausted(Exhausted::Garbage { .. }))),
        "{refused}"
    );
    assert_eq!(snapshot.total(), 0);
    drop(snapshot);
    let started = Instant::now();
    while ledger.update(&ids[0], 1).is_err() {
        assert!(started.elapsed() < SOON, "{} bytes are kept", ledger.stats().garbage_bytes);
    }
}

/// E7: a caller that dawdles within a snapshot's iterator is not pinned: the garbage of the writers beside it is freed.
#[test]
fn an_iterating_caller_is_not_pinned() {
    let _alone = alone_in_the_process();
    let ledger = Ledger::new();
    for number in 0..1_000 {
        ledger.create(&account(&format!("account-{number:04}")), 10).expect("fresh");
    }
    let snapshot = ledger.snapshot().expect("few are open");
    let mut iterator = snapshot.iter();
    let mut total: i64 = iterator.by_ref().take(10).map(|state| state.balance).sum();
    let before = ledger.stats().garbage_bytes;
    let mut most = 0;
    for round in 0..200_000_u64 {
        let (from, to) = (round % 1_000, (round + 1) % 1_000);
        let (from, to) = (format!("account-{from:04}"), format!("account-{to:04}"));
        decide(&ledger, alone(transfer(&from, &to, 1)));
        if round % 1_000 == 0 {
            most = most.max(ledger.stats().garbage_bytes);
        }
    }
    assert!(most < before + 8 * MIB, "{most} bytes of garbage beside a caller that takes its time");
    total += iterator.map(|state| state.balance).sum::<i64>();
    assert_eq!(total, 10_000, "it goes on where it was");
    drop(snapshot);
}

/// E7, C6: what open snapshots keep is bounded by accounts and snapshots, not by operations, and goes with them.
#[test]
fn open_snapshots_keep_a_bounded_memory() {
    let _alone = alone_in_the_process();
    let ledger = with_accounts(&[("a", 0), ("b", 1_000_000_000)]);
    let snapshots: Vec<_> = (0..20_i64)
        .map(|number| {
            let snapshot = ledger.snapshot().expect("few are open");
            for _ in 0..5_000 {
                ledger.transfer(&account("b"), &account("a"), 1).expect("enough");
            }
            (number * 5_000, snapshot)
        })
        .collect();
    settle(MIB);
    for (expected, snapshot) in &snapshots {
        let found = snapshot.get(&account("a")).expect("open");
        assert_eq!((found.balance, snapshot.total()), (*expected, 1_000_000_000));
    }
    drop(snapshots);
    settle(MIB);
    assert_eq!(ledger.stats().open_snapshots, 0);
}

/// Resident memory of the process, bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    4_096 * pages.split(' ').nth(1).expect("a field").parse::<u64>().expect("a number")
}

/// E7: what a thread that sleeps keeps counts for about what it takes, with the texts of ids and what it takes to remember it.
#[test]
fn garbage_weighs_what_it_takes() {
    const REQUESTS: u64 = 100_000;
    let _alone = alone_in_the_process();
    let name = "n".repeat(equipoise::MAX_ID_BYTES);
    let ledger = open(Ledger::builder().id_capacity(1_000).build(), &[(&name, 0)]);
    let decided = |number: u64| drop(decide(&ledger, named(update(&name, 1), &format!("{number:0100}"))));
    (0..5_000).for_each(decided);
    settle(MIB);
    while_somebody_sleeps_pinned(|| {
        let before = (resident(), ledger.stats().garbage_bytes);
        (5_000..5_000 + REQUESTS).for_each(decided);
        let (taken, counted) = (resident().saturating_sub(before.0), ledger.stats().garbage_bytes - before.1);
        let each = (taken / REQUESTS, counted / REQUESTS);
        assert!(counted > taken / 4 * 3, "of {} bytes a request {} count", each.0, each.1);
    });
    settle(MIB);
}
