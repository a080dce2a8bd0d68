//! Waiting until something is durable: from a thread, from any async runtime, and until the ledger is closed.

mod common;

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use common::{SOON, account, alone, balance, decide, named, open, rounds, state, together, update, with_accounts};
use equipoise::{Closed, Exhausted, Ledger, SubmitError};

fn recorded() -> Ledger {
    open(Ledger::builder().history(1_000).build(), &[("a", 0)])
}

/// Counts how often it is woken, and unparks the thread that made it.
struct Alarm {
    rung: AtomicU64,
    sleeper: std::thread::Thread,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.sleeper.unpark();
    }
}

fn alarm() -> (Arc<Alarm>, Waker) {
    let alarm = Arc::new(Alarm { rung: AtomicU64::new(0), sleeper: std::thread::current() });
    (Arc::clone(&alarm), Waker::from(alarm))
}

/// The whole async runtime: polls when woken. Panics when it goes too long without a wake-up.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let (alarm, waker) = alarm();
    let mut seen = 0;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let started = Instant::now();
        while alarm.rung.load(Ordering::SeqCst) == seen {
            std::thread::park_timeout(Duration::from_millis(100));
            assert!(started.elapsed() < SOON, "nobody woke the future");
        }
        seen = alarm.rung.load(Ordering::SeqCst);
    }
}

/// Lets go of what it holds when it is woken, as a runtime does that has ended.
struct LastWords<T>(Mutex<Option<T>>);

impl<T: Send> Wake for LastWords<T> {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().expect("no panic").take());
    }
}

/// E4: the flusher may be the one that lets the last ledger go: it closes, its directory is free, and nobody hangs.
#[test]
fn a_waker_lets_the_last_ledger_go() {
    for round in 0..rounds(40) {
        let dir = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(dir.path()).expect("opens");
        let last = Arc::new(LastWords(Mutex::new(None)));
        let waker = Waker::from(last.clone());
        let mut waiting = Box::pin(ledger.durable_at(1));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        *last.0.lock().expect("no panic") = Some(waiting);
        ledger.create(&account("a"), round as i64).expect("new");
        drop(ledger);
        let started = Instant::now();
        let again = loop {
            match Ledger::open(dir.path()) {
                Ok(ledger) => break ledger,
                Err(error) => assert!(started.elapsed() < SOON, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(balance(&again, "a"), round as i64);
    }
}

/// A11: what was waited for is durable, and seen by durable reads.
#[test]
fn a_thread_waits_until_its_write_is_durable() {
    let ledger = recorded();
    together(4, |_| {
        for _ in 0..rounds(800) {
            let written = ledger.update(&account("a"), 1).expect("no ceiling is near")[0].clone();
            ledger.wait_durable(written.sequence).expect("not closed");
            assert!(ledger.durable() >= written.sequence);
            assert!(ledger.balance_durable(&account("a")).expect("open").version >= written.version);
        }
    });
    assert!(ledger.durable() <= ledger.sequence());
}

/// A11: the future needs no runtime: polled by hand, it is woken when its sequence is durable.
#[test]
fn a_future_resolves_without_a_runtime() {
    let ledger = recorded();
    together(4, |_| {
        for _ in 0..rounds(800) {
            let sequence = decide(&ledger, alone(update("a", 1))).sequence();
            assert_eq!(block_on(ledger.durable_at(sequence)), Ok(()));
            assert!(ledger.durable() >= sequence);
        }
    });
}

/// A11: a sequence that is not committed yet is waited for; whoever commits it wakes the waiters.
#[test]
fn the_future_is_waited_for() {
    let ledger = recorded();
    let target = ledger.sequence() + 20;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| ledger.wait_durable(target));
        let future = scope.spawn(|| block_on(ledger.durable_at(target)));
        for _ in 0..19 {
            decide(&ledger, alone(update("a", 1)));
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(!thread.is_finished() && !future.is_finished(), "one is missing");
        decide(&ledger, alone(update("a", 1)));
        assert_eq!(thread.join().expect("no panic"), Ok(()));
        assert_eq!(future.join().expect("no panic"), Ok(()));
    });
}

/// A11: without a history everything committed is durable, and waiting returns at once.
#[test]
fn without_a_history_nothing_is_waited_for() {
    let ledger = with_accounts(&[("a", 0)]);
    assert_eq!(ledger.wait_durable(ledger.sequence()), Ok(()));
    assert_eq!(block_on(ledger.durable_at(ledger.sequence())), Ok(()));
    assert_eq!(ledger.durable(), 1);
    assert_eq!(ledger.balance_durable(&account("a")), Some(state(&ledger, "a")));
    assert_eq!(ledger.snapshot_durable().expect("few").sequence(), 1);
}

/// E4: closing wakes whoever waits for what will never come; a second close is no harm.
#[test]
fn closing_wakes_the_waiters() {
    let ledger = recorded();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8_u64)
            .map(|waiter| {
                let ledger = &ledger;
                scope.spawn(move || match waiter % 2 {
                    0 => ledger.wait_durable(1_000 + waiter),
                    _ => block_on(ledger.durable_at(1_000 + waiter)),
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        assert!(waiting.iter().all(|waiter| !waiter.is_finished()));
        ledger.close();
        ledger.close();
        for waiter in waiting {
            assert_eq!(waiter.join().expect("no panic"), Err(Closed));
        }
    });
    assert_eq!(ledger.wait_durable(1_000), Err(Closed), "also whoever comes later");
    assert_eq!(block_on(ledger.durable_at(1_000)), Err(Closed));
}

/// E4, A12: a closed ledger refuses requests before they are decided, has made what was committed durable, and is still
/// read.
#[test]
fn a_closed_ledger_is_read_but_not_written() {
    for ledger in [recorded(), with_accounts(&[("a", 0)])] {
        let last = decide(&ledger, named(update("a", 7), "x")).sequence();
        ledger.close();
        assert_eq!(ledger.durable(), last, "flushed");
        assert_eq!(ledger.wait_durable(last), Ok(()));
        assert_eq!(ledger.submit(alone(update("a", 1))).expect_err("closed"), SubmitError::Closed);
        assert_eq!(
            ledger.submit(named(update("a", 1), "y")).expect_err("closed").to_string(),
            "the ledger is shutting down"
        );
        assert!(ledger.create(&account("b"), 1).is_err());
        assert!(ledger.account(&account("a")).expect("open").update(1).is_err());
        assert_eq!((balance(&ledger, "a"), ledger.sequence()), (7, last));
        assert_eq!(ledger.snapshot().expect("few").total(), 7);
        assert!(ledger.transaction(&common::id("x")).expect("readable").is_some());
        assert!(ledger.transaction(&common::id("y")).expect("readable").is_none(), "not used up");
    }
}

/// E4, A12: requests that race with the close are answered or refused, and what was answered OK is there and durable.
#[test]
fn nothing_answered_is_lost_in_a_close() {
    for _ in 0..rounds(80) {
        let ledger = recorded();
        let answered: i64 = together(4, |thread| {
            if thread == 0 {
                std::thread::sleep(Duration::from_micros(300));
                ledger.close();
                return 0;
            }
            let mut answered = 0;
            while let Ok(outcome) = ledger.submit(alone(update("a", 1))) {
                answered += 1;
                if answered % 8 == 0 && ledger.wait_durable(outcome.sequence()).is_err() {
                    break;
                }
            }
            answered
        })
        .into_iter()
        .sum();
        assert_eq!(balance(&ledger, "a"), answered);
        assert_eq!(ledger.sequence(), 1 + answered as u64);
    }
}

/// E4: a future that is dropped before its time leaves nobody to wake, and those beside it are woken all the same.
#[test]
fn a_dropped_future_is_forgotten() {
    let ledger = recorded();
    let (dropped_alarm, dropped_waker) = alarm();
    let target = ledger.sequence() + 1;
    let mut dropped = Box::pin(ledger.durable_at(target));
    assert!(dropped.as_mut().poll(&mut Context::from_waker(&dropped_waker)).is_pending());
    let (kept_alarm, kept_waker) = alarm();
    let mut kept = Box::pin(ledger.durable_at(target));
    assert!(kept.as_mut().poll(&mut Context::from_waker(&dropped_waker)).is_pending());
    assert!(kept.as_mut().poll(&mut Context::from_waker(&kept_waker)).is_pending(), "the newest waker counts");
    drop(dropped);
    decide(&ledger, alone(update("a", 1)));
    let started = Instant::now();
    while kept_alarm.rung.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < SOON, "the flusher wakes it without being asked");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(kept.as_mut().poll(&mut Context::from_waker(&kept_waker)).is_ready());
    assert_eq!(dropped_alarm.rung.load(Ordering::SeqCst), 0);
}

/// A12: with too much committed and not durable, requests are refused before they are decided, and it heals by itself.
#[test]
fn a_backlog_pushes_back() {
    let ledger = open(Ledger::builder().history(1_000).max_backlog(1).build(), &[]);
    ledger.create(&account("a"), 0).expect("the first has no backlog");
    let mut accepted = 0;
    let started = Instant::now();
    let refused = loop {
        match ledger.submit(named(update("a", 1), &format!("id-{accepted}"))) {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(started.elapsed() < SOON, "no backlog was ever met");
    };
    let SubmitError::Exhausted(Exhausted::Backlog { entries, limit: 1 }) = refused else { panic!("{refused}") };
    assert!(entries > 1);
    assert_eq!((balance(&ledger, "a"), ledger.sequence()), (accepted, 1 + accepted as u64), "nothing was decided");
    assert!(
        ledger.transaction(&common::id(&format!("id-{accepted}"))).expect("readable").is_none(),
        "and the id not used up"
    );
    ledger.wait_durable(ledger.sequence()).expect("not closed");
    let fresh = decide(&ledger, named(update("a", 1), &format!("id-{accepted}")));
    assert!(!fresh.replayed());
}

/// C6: what large requests weigh in the window that is not durable comes off again, also when a waiter flushes.
#[test]
fn large_requests_leave_the_window_when_they_are_durable() {
    let ledger = open(Ledger::builder().history(1).build(), &[("a", 0)]);
    // Each counts 512 KiB, and 256 MiB may wait.
    for round in 0..520 {
        let updates = (0..equipoise::MAX_LEGS).map(|_| equipoise::Member { id: None, operation: update("a", 1) });
        let request = equipoise::Request::chain(updates.collect()).expect("a chain");
        let outcome = ledger.submit(request).unwrap_or_else(|error| panic!("round {round}: {error}"));
        ledger.wait_durable(outcome.sequence()).expect("durable");
    }
}
