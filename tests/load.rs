//! Many callers at once.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Random, account, alone, balance, chain, create, named, open, post, rounds, state, together, transfer, update,
};
use equipoise::{AccountId, Ledger, Refusal, Request, SubmitError};

/// What 1000 threads that start together use of the processor for one call each. Not the clock on the wall: the machine is
/// shared. That no read waits is what the models of the kernel show (`suspend`).
fn thousand(call: impl Fn(usize) + Sync) -> Duration {
    let spent = together(1_000, |thread| {
        let before = processor_time();
        call(thread);
        processor_time() - before
    });
    spent.iter().sum()
}

/// The processor's time that this thread has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below a second"))
}

/// Tells the writers to stop, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A4: 1000 concurrent reads of one account complete within 100 ms, beside a writer that never rests.
#[test]
fn a_thousand_read_one_account() {
    let ledger = open(Ledger::new(), &[("a", 5), ("b", 0)]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ledger.update(&account("b"), 1).expect("no ceiling is near");
            }
        });
        let _done = Done(&done);
        let time = thousand(|_| assert_eq!(balance(&ledger, "a"), 5));
        assert!(time < Duration::from_millis(100), "{time:?}");
    });
}

/// A4: 1000 concurrent reads of 1000 accounts complete within 200 ms.
#[test]
fn a_thousand_read_a_thousand_accounts() {
    let ledger = Ledger::new();
    let accounts: Vec<_> = (0..1_000).map(|number| account(&format!("account-{number}"))).collect();
    for (account, initial) in accounts.iter().zip(0..) {
        ledger.create(account, initial).expect("fresh");
    }
    let time = thousand(|thread| {
        let found = ledger.balance(&accounts[thread]).expect("open");
        assert_eq!(found.balance, thread as i64);
    });
    assert!(time < Duration::from_millis(200), "{time:?}");
}

/// A4: reads of an account go on at the rate of reads while writers hammer it, and see what is committed.
#[test]
fn reads_do_not_wait_for_writers() {
    let ledger = open(Ledger::new(), &[("a", 1_000), ("b", 1_000)]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (from, to) in [("a", "b"), ("b", "a")] {
            let (ledger, done) = (&ledger, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    ledger.transfer(&account(from), &account(to), 1).expect("they balance out");
                    // So that a thousand is always enough.
                    ledger.transfer(&account(to), &account(from), 1).expect("they balance out");
                }
            });
        }
        let _done = Done(&done);
        let handle = ledger.account(&account("a")).expect("open");
        let mut last = 0;
        for _ in 0..rounds(400_000) {
            let read = handle.read();
            assert!((998..=1_002).contains(&read.balance), "{read:?}");
            assert!(read.version >= last);
            last = read.version;
        }
        assert!(last > 1, "there were writers");
    });
}

const ACCOUNTS: usize = 8;

fn random_request(random: &mut Random, names: &[String], thread: usize, round: usize) -> (Request, i64) {
    let name = |index: usize| names[index % ACCOUNTS].as_str();
    let (one, other) = random.pair(ACCOUNTS);
    let amount = random.between(1, 50);
    let own = format!("id-{thread}-{round}");
    match random.below(8) {
        0 => (alone(update(name(one), amount)), amount),
        1 => (named(update(name(one), -amount), &own), -amount),
        2 => (named(transfer(name(one), name(other), amount), &own), 0),
        3 => (alone(post(&[(name(one), amount), (name(other), -amount)])), 0),
        4 => (chain([transfer(name(one), name(other), amount), update(name(other), -amount)]), -amount),
        5 => (alone(create(&format!("new-{thread}-{round}"), amount)), amount),
        // Sent by every thread: executed once, so it is counted by whoever was not a replay.
        6 => (named(update(name(round), 1), &format!("shared-{round}")), 1),
        _ => (alone(transfer(name(one), name(other), amount)), 0),
    }
}

/// E1, E3, A10, B2: 200 threads do random operations, reads and snapshots: no panic, no deadlock, no unit lost or made.
#[test]
fn two_hundred_callers_do_anything() {
    let names: Vec<_> = (0..ACCOUNTS).map(|number| format!("account-{number}")).collect();
    let accounts: Vec<_> = names.iter().map(|name| (name.as_str(), 500)).collect();
    for history in [false, true] {
        let builder = Ledger::builder().id_capacity(10_000);
        let ledger = open(if history { builder.history(5_000).build() } else { builder.build() }, &accounts);
        let started = Instant::now();
        let calls = together(200, |thread| {
            let mut random = Random(thread as u64);
            let began = Instant::now();
            let effect = (0..rounds(240)).map(|round| one_call(&ledger, &mut random, &names, thread, round)).sum();
            (effect, began.elapsed())
        });
        // A deadlock, not a slow machine: ThreadSanitizer takes up to 40 s.
        assert!(started.elapsed() < Duration::from_secs(600), "{:?}", started.elapsed());
        let effects: Vec<i64> = calls.iter().map(|(effect, _)| *effect).collect();
        let executing: Duration = calls.iter().map(|(_, time)| *time).sum();
        tell_contention(&ledger, executing);
        let snapshot = ledger.snapshot().expect("all are closed");
        assert_eq!(snapshot.total(), 500 * ACCOUNTS as i128 + i128::from(effects.iter().sum::<i64>()));
        assert!(snapshot.iter().all(|state| state.balance >= 0));
        let counted: u64 = names.iter().map(|name| state(&ledger, name).version).sum();
        assert!(counted > ACCOUNTS as u64);
        drop(snapshot);
        assert_eq!(ledger.stats().open_snapshots, 0);
    }
}

/// Shows what part of `executing` went into waiting for others. A figure and no limit: the machine is shared, and a thread may lose
/// the processor where it waits.
fn tell_contention(ledger: &Ledger, executing: Duration) {
    let stats = ledger.stats();
    let share = 100.0 * stats.waiting.as_secs_f64() / executing.as_secs_f64();
    println!(
        "200 callers: {share:.2} % of {executing:.1?} in calls was contention ({:.1?}, {} helped, {} tries again); E3 allows 10 %",
        stats.waiting, stats.helps, stats.retries
    );
    assert!(stats.waiting < executing, "a part of it");
    assert_eq!(stats.helps + stats.retries > 0, stats.waiting > Duration::ZERO, "{stats:?}");
}

/// What the call added to the total.
fn one_call(ledger: &Ledger, random: &mut Random, names: &[String], thread: usize, round: usize) -> i64 {
    match random.below(10) {
        0 => {
            let read = ledger.balance(&AccountId::new(&names[random.below(ACCOUNTS)]).expect("an id"));
            assert!(read.expect("open").balance >= 0);
            0
        }
        1 => {
            // With 200 callers there may be too many open: that is an answer as well.
            if let Ok(snapshot) = ledger.snapshot() {
                let total = snapshot.total();
                assert_eq!(total, snapshot.iter().map(|state| i128::from(state.balance)).sum::<i128>());
            }
            0
        }
        _ => {
            let (request, effect) = random_request(random, names, thread, round);
            match ledger.submit(request) {
                Ok(outcome) if outcome.replayed() => 0,
                Ok(outcome) => match outcome.results().into_iter().find_map(Result::err) {
                    None => effect,
                    Some(Refusal::InsufficientIn { current, required, .. }) => {
                        assert!(i128::from(current) < required);
                        0
                    }
                    Some(Refusal::Insufficient { current, delta }) => {
                        assert!(current + delta < 0);
                        0
                    }
                    Some(Refusal::Group { .. }) => 0,
                    Some(other) => panic!("{other}"),
                },
                Err(SubmitError::Exhausted(_)) => 0,
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// A5, A7, E1: 100 concurrent operations of each kind on the same few accounts add up.
#[test]
fn a_hundred_at_once_add_up() {
    let ledger = open(Ledger::new(), &[("a", 1_000), ("b", 1_000), ("c", 0)]);
    together(100, |thread| {
        ledger.update(&account("a"), 10).expect("no floor is near");
        ledger.transfer(&account("a"), &account("b"), 5).expect("enough");
        ledger.update(&account("b"), -1).expect("enough");
        ledger.create(&account(&format!("new-{thread}")), 1).expect("fresh");
        ledger.post(common::posting(&[("b", -2), ("c", 2)])).expect("enough");
    });
    let shown = ["a", "b", "c"].map(|name| (balance(&ledger, name), state(&ledger, name).version));
    assert_eq!(shown, [(1_500, 201), (1_200, 301), (200, 101)]);
    assert_eq!(ledger.snapshot().expect("few").total(), 3_000);
    assert_eq!(ledger.sequence(), 503);
}
