//! Snapshots show every balance at one commit sequence, while everybody goes on.

mod common;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use common::model::{Model, plain};
use common::{
    Random, account, alone, balance, chain, create, decide, open, post, rounds, state, together, transfer, update,
    with_accounts,
};
use equipoise::{Exhausted, Ledger, Request, Snapshot};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("account-{number:02}")).collect()
}

fn ten_accounts(ledger: Ledger, initial: i64) -> (Ledger, Vec<String>) {
    let names = names(10);
    let accounts: Vec<_> = names.iter().map(|name| (name.as_str(), initial)).collect();
    let ledger = open(ledger, &accounts);
    (ledger, names)
}

fn open_now(ledger: &Ledger) -> Snapshot {
    ledger.snapshot().expect("few are open")
}

/// A10: 10 accounts of 1000, 1000 random transfers: the total is 10,000, then and all the time.
#[test]
fn transfers_keep_the_total() {
    let (ledger, names) = ten_accounts(Ledger::new(), 1_000);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let snapshot = open_now(&ledger);
                assert_eq!(snapshot.total(), 10_000);
                assert_eq!(snapshot.iter().map(|state| state.balance).sum::<i64>(), 10_000, "in pages too");
                seen += 1;
            }
            seen
        });
        together(8, |thread| {
            let mut random = Random(thread as u64);
            for _ in 0..(if thread == 0 { 1_000 } else { rounds(10_000) }) {
                let (from, to) = random.pair(10);
                // Refused or not: it changes no total.
                let _ = ledger.transfer(&account(&names[from]), &account(&names[to]), random.between(1, 700));
            }
        });
        done.store(true, Ordering::Relaxed);
        assert!(watcher.join().expect("the total is constant") > 0);
    });
    assert_eq!(open_now(&ledger).total(), 10_000);
}

/// A10, E1: 10,000 random operations on 50 threads: the total is the sum of what was committed.
#[test]
fn the_total_is_what_was_committed() {
    let (ledger, names) = ten_accounts(Ledger::new(), 1_000);
    let committed = AtomicI64::new(10_000);
    together(50, |thread| {
        let mut random = Random(thread as u64);
        for round in 0..200 {
            let (one, other) = random.pair(10);
            let delta = random.between(-400, 400);
            let (request, effect) = match random.below(4) {
                0 => (alone(update(&names[one], delta)), delta),
                1 => (alone(transfer(&names[one], &names[other], delta.abs() + 1)), 0),
                2 => (alone(create(&format!("new-{thread}-{round}"), delta.abs())), delta.abs()),
                _ => (chain([update(&names[one], delta), update(&names[other], delta)]), 2 * delta),
            };
            if decide(&ledger, request).result().is_ok() {
                committed.fetch_add(effect, Ordering::Relaxed);
            }
        }
    });
    let snapshot = open_now(&ledger);
    assert_eq!(snapshot.total(), i128::from(committed.into_inner()));
    assert_eq!(snapshot.sequence(), 10 + 10_000, "every operation has a sequence");
    assert_eq!(snapshot.len() as u64, ledger.stats().accounts);
}

/// A10: a snapshot stays as it is, however it is read and whatever goes on.
#[test]
fn a_snapshot_does_not_change() {
    let (ledger, names) = ten_accounts(Ledger::new(), 100);
    let snapshot = open_now(&ledger);
    let before: Vec<_> = snapshot.iter().collect();
    for round in 0..rounds(4_000) {
        ledger.transfer(&account(&names[round % 10]), &account(&names[(round + 1) % 10]), 1).expect("enough");
        ledger.update(&account(&names[round % 10]), 1).expect("no ceiling is near");
    }
    ledger.create(&account("later"), 5).expect("fresh");
    assert_eq!(snapshot.sequence(), 10);
    assert_eq!(snapshot.iter().collect::<Vec<_>>(), before);
    assert_eq!((snapshot.total(), snapshot.len()), (1_000, 10));
    assert_eq!(snapshot.get(&account("later")), None, "it was opened later");
    for (name, state) in names.iter().zip(&before) {
        assert_eq!(snapshot.get(&account(name)).as_ref(), Some(state));
        assert_eq!((state.balance, state.version), (100, 1));
    }
    let copy = snapshot.clone();
    drop(snapshot);
    assert_eq!(copy.iter().collect::<Vec<_>>(), before, "clones share it");
    assert_ne!(open_now(&ledger).iter().collect::<Vec<_>>(), before);
}

/// A10: pages in id order, by prefix and after an id, are the snapshot cut in pieces.
#[test]
fn pages_are_the_snapshot_in_pieces() {
    let ledger = Ledger::new();
    for number in 0..500 {
        let name = if number % 3 == 0 { format!("x/{number}") } else { format!("y/{number}") };
        ledger.create(&account(&name), number).expect("fresh");
    }
    // An account that was never opened, in the middle of the others.
    let _ = decide(&ledger, chain([create("x/55555", 1), update("x/55555", -2)]));
    let snapshot = open_now(&ledger);
    let all: Vec<_> = snapshot.iter().collect();
    assert!(all.windows(2).all(|pair| pair[0].id.as_str().as_bytes() < pair[1].id.as_str().as_bytes()));
    assert_eq!(all.len(), 500);
    for prefix in ["", "x", "x/", "x/4", "y/", "z"] {
        let expected: Vec<_> = all.iter().filter(|state| state.id.as_str().starts_with(prefix)).cloned().collect();
        for limit in [1, 7, 64, 100, 1_000] {
            let mut walked = Vec::new();
            loop {
                let after = walked.last().map(|state: &equipoise::AccountState| state.id.clone());
                let page = snapshot.page(prefix, after.as_ref(), limit);
                assert!(page.len() <= limit);
                let last = page.len() < limit;
                walked.extend(page);
                if last {
                    break;
                }
            }
            assert_eq!(walked, expected, "prefix {prefix:?}, {limit} a page");
        }
    }
    assert_eq!(snapshot.page("x", Some(&account("a")), 1_000).len(), 167, "an id before the prefix skips nothing");
    assert!(snapshot.page("x", Some(&account("y")), 1_000).is_empty());
    assert!(snapshot.page("", None, 0).is_empty());
}

/// A10: too many open snapshots are refused at once; reads, writes and those that are open go on, and one that is
/// closed makes room.
#[test]
fn open_snapshots_are_limited() {
    let ledger = with_accounts(&[("a", 0)]);
    let mut snapshots = Vec::new();
    let refused = loop {
        match ledger.snapshot() {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(refused) => break refused,
        }
        assert!(snapshots.len() < 10_000, "there is a limit");
        ledger.update(&account("a"), 1).expect("writes go on");
    };
    let Exhausted::Snapshots { limit } = refused else { panic!("{refused}") };
    assert_eq!(snapshots.len(), limit as usize);
    assert_eq!(refused.to_string(), format!("too many open snapshots, the limit is {limit}"));
    assert_eq!(ledger.stats().open_snapshots, u64::from(limit));
    ledger.update(&account("a"), 1).expect("writes go on");
    assert_eq!(balance(&ledger, "a"), i64::from(limit) + 1);
    for (number, snapshot) in snapshots.iter().enumerate() {
        assert_eq!(snapshot.get(&account("a")).expect("open").balance, number as i64, "each keeps its own");
    }
    drop(snapshots.swap_remove(limit as usize / 2));
    let replacement = ledger.snapshot().expect("there is room again");
    assert_eq!(replacement.total(), i128::from(limit) + 1);
    drop((snapshots, replacement));
    assert_eq!(ledger.stats().open_snapshots, 0);
}

/// A10: snapshots of one sequence share a place.
#[test]
fn equal_sequences_share_a_snapshot() {
    let ledger = open(Ledger::builder().history(1_000).build(), &[("a", 1)]);
    let snapshots: Vec<_> = (0..1_000).map(|_| open_now(&ledger)).collect();
    assert_eq!(ledger.stats().open_snapshots, 1);
    ledger.update(&account("a"), 1).expect("enough");
    let later = open_now(&ledger);
    assert_eq!(ledger.stats().open_snapshots, 2);
    assert_eq!((snapshots[999].total(), later.total()), (1, 2));
    drop(snapshots);
    assert_eq!(ledger.stats().open_snapshots, 1);
    ledger.wait_durable(later.sequence()).expect("not closed");
    let durable: Vec<_> = (0..1_000).map(|_| ledger.snapshot_durable().expect("shared")).collect();
    assert!(ledger.stats().open_snapshots <= 2);
    assert_eq!(durable[0].total(), 2);
}

/// A11: whoever wrote sees it, in reads and in snapshots; and nobody's reads ever go back.
#[test]
fn reads_follow_writes_and_never_go_back() {
    let ledger = with_accounts(&[("a", 0), ("b", 0)]);
    together(6, |thread| {
        let mut last = 0;
        for round in 0..rounds(6_000) {
            let own = if thread.is_multiple_of(2) {
                let written = ledger.update(&account("a"), 1).expect("no ceiling is near")[0].clone();
                assert!(written.version > last, "a writer's versions rise");
                written
            } else {
                state(&ledger, "a")
            };
            let read = state(&ledger, "a");
            assert!(read.version >= own.version.max(last) && read.sequence >= own.sequence);
            if round.is_multiple_of(16) {
                let snapshot = open_now(&ledger);
                assert!(snapshot.sequence() >= read.sequence);
                let found = snapshot.get(&account("a")).expect("open");
                assert!(found.version >= read.version, "a snapshot is not older than a read before it");
                let after = state(&ledger, "a");
                assert!(after.version >= found.version, "a read is not older than a snapshot before it");
                last = after.version;
            } else {
                last = read.version;
            }
        }
    });
}

/// A11: reads of two threads in turn never go back: what one saw, the other sees.
#[test]
fn reads_of_one_after_another_never_go_back() {
    let ledger = with_accounts(&[("a", 0)]);
    let seen = std::sync::Mutex::new(0);
    together(4, |thread| {
        for _ in 0..rounds(8_000) {
            if thread == 0 {
                ledger.update(&account("a"), 1).expect("no ceiling is near");
            } else {
                let mut seen = seen.lock().expect("no reader panics");
                let version = state(&ledger, "a").version;
                assert!(version >= *seen, "an earlier read saw version {seen}");
                *seen = version;
            }
        }
    });
}

/// A11, A10: a reader that sleeps with its snapshot, while others open and close theirs, sees the same at the end.
#[test]
fn a_slow_reader_keeps_its_snapshot() {
    for history in [false, true] {
        let ledger = if history { Ledger::builder().history(64).build() } else { Ledger::new() };
        let (ledger, names) = ten_accounts(ledger, 1_000);
        ledger.wait_durable(ledger.sequence()).expect("not closed");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let slow: Vec<_> = (0..3_u64)
                .map(|reader| {
                    let (ledger, names, done) = (&ledger, &names, &done);
                    scope.spawn(move || {
                        let mut random = Random(reader);
                        while !done.load(Ordering::Relaxed) {
                            let durable = history && random.below(2) == 0;
                            let opened = if durable { ledger.snapshot_durable() } else { ledger.snapshot() };
                            let snapshot = opened.expect("few are open");
                            let first = account(&names[random.below(10)]);
                            let early = snapshot.get(&first);
                            for _ in 0..random.below(8) {
                                std::thread::yield_now();
                                assert!(open_now(ledger).sequence() >= snapshot.sequence());
                            }
                            assert_eq!(snapshot.total(), 10_000);
                            assert_eq!(snapshot.get(&first), early);
                            assert!(snapshot.iter().all(|state| state.sequence <= snapshot.sequence()));
                        }
                    })
                })
                .collect();
            together(3, |thread| {
                let mut random = Random(thread as u64 + 100);
                for _ in 0..rounds(20_000) {
                    let (from, to) = random.pair(10);
                    let _ = ledger.transfer(&account(&names[from]), &account(&names[to]), random.between(1, 900));
                }
            });
            done.store(true, Ordering::Relaxed);
            slow.into_iter().for_each(|reader| reader.join().expect("the snapshot did not change"));
        });
        assert_eq!(ledger.stats().open_snapshots, 0);
    }
}

/// A10, A11: a durable snapshot shows nothing later than the durable sequence, and everything that was waited for.
#[test]
fn a_durable_snapshot_shows_what_cannot_be_lost() {
    let ledger = open(Ledger::builder().history(10_000).build(), &[("a", 0), ("b", 1_000_000)]);
    together(3, |_| {
        let mut last = 0;
        for _ in 0..rounds(1_500) {
            let written = ledger.transfer(&account("b"), &account("a"), 1).expect("enough")[1].clone();
            ledger.wait_durable(written.sequence).expect("not closed");
            let read = ledger.balance_durable(&account("a")).expect("open");
            assert!(read.version >= written.version, "one's own write, once waited for");
            let snapshot = ledger.snapshot_durable().expect("few are open");
            assert!(snapshot.sequence() <= ledger.durable());
            assert!(snapshot.sequence() >= read.sequence && snapshot.sequence() >= last);
            last = snapshot.sequence();
            assert_eq!(snapshot.total(), 1_000_000);
        }
    });
}

fn random_request(random: &mut Random, names: &[String]) -> Request {
    let name = |index: usize| names[index].as_str();
    let (one, other) = random.pair(names.len());
    let delta = random.between(-300, 300);
    match random.below(6) {
        0 => alone(create(name(one), delta.abs())),
        1 => alone(update(name(one), delta)),
        2 => alone(update("never-opened", delta)),
        3 => alone(post(&[(name(one), delta), (name(other), -delta)])),
        4 => chain([update(name(one), delta), transfer(name(one), name(other), 40), update(name(one), -delta)]),
        _ => alone(transfer(name(one), name(other), delta.abs() + 1)),
    }
}

/// C3, A10: every snapshot, taken at any moment among many writers, is the replay of the history up to its sequence.
#[test]
fn a_snapshot_is_a_replay_of_the_history() {
    for seed in 0..4 {
        let builder = Ledger::builder().history(1_000_000).look_up_cache(seed % 2 == 0);
        let ledger = builder.build();
        let names = names(12);
        let done = AtomicBool::new(false);
        let mut snapshots: Vec<(u64, Vec<_>, i128)> = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut taken = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let snapshot = open_now(&ledger);
                    taken.push((
                        snapshot.sequence(),
                        snapshot.iter().map(|state| plain(&state)).collect(),
                        snapshot.total(),
                    ));
                    let durable = ledger.snapshot_durable().expect("few are open");
                    taken.push((
                        durable.sequence(),
                        durable.iter().map(|state| plain(&state)).collect(),
                        durable.total(),
                    ));
                }
                taken
            });
            together(4, |thread| {
                let mut random = Random(seed * 100 + thread as u64);
                for _ in 0..rounds(4_000) {
                    decide(&ledger, random_request(&mut random, &names));
                }
            });
            done.store(true, Ordering::Relaxed);
            watcher.join().expect("snapshots can be had")
        });
        ledger.wait_durable(ledger.sequence()).expect("not closed");
        let last = open_now(&ledger);
        snapshots.push((last.sequence(), last.iter().map(|state| plain(&state)).collect(), last.total()));
        snapshots.sort_by_key(|(sequence, ..)| *sequence);

        let entries = ledger.history(0, usize::MAX).expect("all of it is kept");
        assert_eq!(entries.len(), 4 * rounds(4_000));
        let mut model = Model::default();
        let mut replayed = 0;
        for (sequence, states, total) in snapshots {
            while replayed < sequence {
                model.replay(&entries[replayed as usize]);
                replayed += 1;
            }
            assert_eq!(states, model.states(), "snapshot {sequence}");
            assert_eq!(total, model.total());
        }
    }
}
