//! Every interleaving, and every reordering that the memory model allows, of the smallest cases of each rule.
//! `EQUIPOISE_LOOM_PREEMPTIONS` bounds the preemptions (default: what each model was found to need).
//!
//! Readers are spawned after the writers, never run in the main thread: loom looks for conflicts with the last access
//! only, so that a writer's own load would hide a reader's load before it, and nothing would be explored.

use std::sync::Arc;

use loom::thread;

use super::super::claims::Claims;
use super::super::{Handle, Kernel, pin};
use super::{World, claimant};

fn check(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    let bound = std::env::var("EQUIPOISE_LOOM_PREEMPTIONS").ok().and_then(|text| text.parse().ok());
    model.preemption_bound = Some(bound.unwrap_or(preemptions));
    model.max_branches = 50_000;
    model.check(body);
}

fn spawn(world: &Arc<World>, deltas: &'static [(usize, i64)]) -> thread::JoinHandle<bool> {
    let world = world.clone();
    thread::spawn(move || world.apply(deltas).accepted)
}

fn read(world: &Arc<World>, body: impl FnOnce(&World) + Send + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || body(&world))
}

/// A9, A10: a snapshot is whole, and not older than what its reader read before.
#[test]
fn a_snapshot_is_whole() {
    check(2, || {
        let world = World::new(&[10, 0]);
        let writers = [spawn(&world, &[(0, -3), (1, 3)]), spawn(&world, &[(1, 5)])];
        let reader = read(&world, |world| {
            let guard = pin();
            let (seen, _) = world.accounts[0].read(&guard);
            let snapshot = world.kernel.open_snapshot(&guard).unwrap();
            let at = |account: usize| world.accounts[account].read_at(snapshot.sequence, &guard).expect("trimmed").1;
            let total = at(0) + at(1);
            assert!(total == 10 || total == 15, "a torn snapshot: {total}");
            assert!(snapshot.sequence >= seen, "a snapshot older than a read before it");
            world.kernel.close_snapshot(snapshot);
        });
        for writer in writers {
            assert!(writer.join().unwrap());
        }
        reader.join().unwrap();
        assert_eq!([world.balance(0), world.balance(1)], [7, 8]);
    });
}

/// A9, with a second writer on accounts of its own: its entry must not overtake an undecided one.
#[test]
fn a_snapshot_is_whole_beside_a_disjoint_writer() {
    check(2, || {
        let world = World::new(&[10, 0, 0]);
        let writers = [spawn(&world, &[(0, -3), (1, 3)]), spawn(&world, &[(2, 5)])];
        let reader = read(&world, |world| {
            let guard = pin();
            let snapshot = world.kernel.open_snapshot(&guard).unwrap();
            let at = |account: usize| world.accounts[account].read_at(snapshot.sequence, &guard).expect("trimmed").1;
            assert_eq!(at(0) + at(1), 10, "a torn snapshot");
            world.kernel.close_snapshot(snapshot);
        });
        for writer in writers {
            assert!(writer.join().unwrap());
        }
        reader.join().unwrap();
    });
}

/// A9: whoever saw the debit sees the credit, and the other way round.
#[test]
fn two_reads_see_no_half() {
    for reversed in [false, true] {
        check(3, move || {
            let world = World::new(&[10, 0]);
            let writer = spawn(&world, &[(0, -3), (1, 3)]);
            let reader = read(&world, move |world| {
                if reversed {
                    let (credit, debit) = (world.balance(1), world.balance(0));
                    assert!(credit != 3 || debit == 7);
                } else {
                    let (debit, credit) = (world.balance(0), world.balance(1));
                    assert!(debit != 7 || credit == 3);
                }
            });
            writer.join().unwrap();
            reader.join().unwrap();
        });
    }
}

/// A7, A8, A12: opposite transfers lose nothing and overdraw nothing.
#[test]
fn opposite_transfers() {
    check(2, || {
        let world = World::new(&[3, 0]);
        let writers = [spawn(&world, &[(0, -3), (1, 3)]), spawn(&world, &[(1, -3), (0, 3)])];
        let [forth, back] = writers.map(|writer| writer.join().unwrap());
        assert!(forth);
        assert_eq!([world.balance(0), world.balance(1)], if back { [3, 0] } else { [0, 3] });
        assert_eq!(world.kernel.now(&pin()), 3, "one entry each");
    });
}

/// B2: two drivers of one transaction apply it once and say the same.
#[test]
fn a_duplicate_drives_too() {
    check(2, || {
        let world = World::new(&[10, 0]);
        let handle = Arc::new(world.prepare(&[(0, -3), (1, 3)]));
        let (other_world, other) = (world.clone(), handle.clone());
        let duplicate = thread::spawn(move || other_world.drive(&other));
        let mine = world.drive(&handle);
        assert_eq!(duplicate.join().unwrap(), mine);
        assert_eq!([world.balance(0), world.balance(1)], [7, 3]);
        assert_eq!(world.kernel.now(&pin()), 2, "one entry");
    });
}

/// A5: a helper that comes late, when the account has moved on, applies nothing again.
#[test]
fn a_stale_helper_applies_nothing_twice() {
    check(2, || {
        let world = World::new(&[10]);
        let handle = Arc::new(world.prepare(&[(0, -3)]));
        let (other_world, other) = (world.clone(), handle.clone());
        let helper = thread::spawn(move || {
            other_world.drive(&other);
        });
        world.drive(&handle);
        world.apply(&[(0, 1)]);
        helper.join().unwrap();
        assert_eq!(world.balance(0), 8, "applied twice, or lost");
    });
}

/// A12: owner, duplicate and a depositor whose money decides between refusal and acceptance.
#[test]
fn a_refusal_is_the_same_for_all() {
    check(1, || {
        let world = World::new(&[1, 1]);
        let handle = Arc::new(world.prepare(&[(0, -5), (1, 5)]));
        let (other_world, other) = (world.clone(), handle.clone());
        let duplicate = thread::spawn(move || other_world.drive(&other));
        let depositor = spawn(&world, &[(0, 9)]);
        let mine = world.drive(&handle);
        assert_eq!(duplicate.join().unwrap(), mine);
        depositor.join().unwrap();
        let after = if mine.accepted { [5, 6] } else { [10, 1] };
        assert_eq!([world.balance(0), world.balance(1)], after);
    });
}

/// A10: versions trimmed while a snapshot is being registered are none that it needs.
#[test]
fn a_snapshot_registers_against_a_trimming_writer() {
    check(3, || {
        let world = World::new(&[10]);
        let writer_world = world.clone();
        let writer = thread::spawn(move || {
            for _ in 0..3 {
                writer_world.apply(&[(0, 1)]);
            }
        });
        let reader = read(&world, |world| {
            let guard = pin();
            let snapshot = world.kernel.open_snapshot(&guard).unwrap();
            let found = world.accounts[0].read_at(snapshot.sequence, &guard).expect("a needed version was trimmed");
            assert_eq!(found.1, 9 + snapshot.sequence as i64);
            world.kernel.close_snapshot(snapshot);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// A11: a durable snapshot beside a flusher and a janitor.
#[test]
fn a_durable_snapshot_beside_a_flush_and_a_trim() {
    check(2, || {
        let (kernel, _consumer) = Kernel::with_consumer(0, 0);
        let world = World::over(kernel, &[10]);
        let writer_world = world.clone();
        let writer = thread::spawn(move || {
            for _ in 0..2 {
                writer_world.apply(&[(0, 1)]);
                let through = writer_world.kernel.begin_flush(&pin());
                writer_world.kernel.end_flush(through);
                writer_world.kernel.trim(&writer_world.accounts[0], &pin());
            }
        });
        let reader = read(&world, |world| {
            let snapshot = world.kernel.open_durable_snapshot().unwrap();
            let found = world.accounts[0].read_at(snapshot.sequence, &pin()).expect("a needed version was trimmed");
            assert_eq!(found.1, if snapshot.sequence == 0 { 0 } else { 9 + snapshot.sequence as i64 });
            world.kernel.close_snapshot(snapshot);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// A11: an unregistered durable reader beside a flush and a trim sees the durable state, or is told to try again.
#[test]
fn a_durable_read_beside_a_flush_and_a_trim() {
    check(2, || {
        let (kernel, _consumer) = Kernel::with_consumer(0, 0);
        let world = World::over(kernel, &[10]);
        let writer_world = world.clone();
        let writer = thread::spawn(move || {
            writer_world.apply(&[(0, 1)]);
            let through = writer_world.kernel.begin_flush(&pin());
            writer_world.kernel.end_flush(through);
            writer_world.kernel.trim(&writer_world.accounts[0], &pin());
        });
        let reader = read(&world, |world| {
            let durable = world.kernel.durable();
            if let Ok((_, balance)) = world.accounts[0].read_at(durable, &pin()) {
                assert_eq!(balance, if durable == 0 { 0 } else { 9 + durable as i64 });
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// A9, A10: of a group on accounts of their own a snapshot shows a beginning, whole, whoever decides it.
#[test]
fn a_group_is_seen_in_its_order() {
    check(2, || {
        let world = World::new(&[3, 3]);
        let owner_world = world.clone();
        let owner = thread::spawn(move || {
            let outcomes = owner_world.apply_group(&[&[(0, -1)], &[(1, -1)]]);
            assert!(outcomes.iter().all(|outcome| outcome.accepted));
        });
        let reader = read(&world, |world| {
            let guard = pin();
            let (seen, _) = world.accounts[1].read(&guard);
            let snapshot = world.kernel.open_snapshot(&guard).unwrap();
            let at = |account: usize| world.accounts[account].read_at(snapshot.sequence, &guard).expect("trimmed").1;
            let (second, first) = (at(1), at(0));
            assert!(second == 3 || first == 2, "the second without the first");
            assert!(snapshot.sequence >= seen, "a snapshot older than a read before it");
            assert_eq!(6 - first - second, snapshot.sequence as i64 - 2, "what is on the clock is decided");
            world.kernel.close_snapshot(snapshot);
        });
        owner.join().unwrap();
        reader.join().unwrap();
        assert_eq!(world.kernel.now(&pin()), 4, "one entry each");
    });
}

/// A7, A8: a group and a writer that finishes a part of it lose nothing, and link nothing twice.
#[test]
fn a_group_is_finished_by_others_in_its_order() {
    check(2, || {
        let world = World::new(&[3, 3]);
        let owner_world = world.clone();
        let owner = thread::spawn(move || owner_world.apply_group(&[&[(0, -1)], &[(1, -1)]]));
        let writer_world = world.clone();
        let writer = thread::spawn(move || {
            let own = writer_world.apply(&[(1, -2)]);
            let guard = pin();
            let [second, first] = [1, 0].map(|account| writer_world.accounts[account].read(&guard).1);
            assert!(second != 0 || first == 2, "the second was finished, the first was not");
            own
        });
        let mut outcomes = owner.join().unwrap();
        outcomes.push(writer.join().unwrap());
        assert!(outcomes.iter().all(|outcome| outcome.accepted));
        outcomes.sort_by_key(|outcome| outcome.sequence);
        assert!(outcomes.iter().map(|outcome| outcome.sequence).eq(3..6), "dense: {outcomes:?}");
        assert_eq!([world.balance(0), world.balance(1)], [2, 0]);
    });
}

/// A8: two groups that touch the same accounts the other way round.
#[test]
fn opposite_groups() {
    check(1, || {
        let world = World::new(&[3, 3]);
        let owners = [[0, 1], [1, 0]].map(|[first, second]| {
            let world = world.clone();
            thread::spawn(move || world.apply_group(&[&[(first, -1)], &[(second, -1)]]))
        });
        for owner in owners {
            assert!(owner.join().unwrap().iter().all(|outcome| outcome.accepted));
        }
        assert_eq!([world.balance(0), world.balance(1)], [1, 1]);
        assert_eq!(world.kernel.now(&pin()), 6, "one entry each");
    });
}

/// Claims `request` for `handle`; whether it got it.
fn claim(claims: &Claims<i64>, request: u64, handle: &Handle<i64>) -> bool {
    claims.claim(request, handle, None, |found, _| *found == request).is_ok()
}

fn holds(claims: &Claims<i64>, request: u64, handle: &Handle<i64>) -> bool {
    claims.find(request, |found, _| *found == request).is_some_and(|(found, _)| found.same(handle))
}

/// B2: of two that claim the same one gets it, also where one begins with an older table.
#[test]
fn what_is_claimed_has_one_holder() {
    check(3, || {
        let claims = Arc::new(Claims::new(0));
        let slower = claims.clone();
        let slower = thread::spawn(move || {
            let mine = claimant(1);
            (claim(&slower, 1, &mine), mine)
        });
        let [other, mine] = [claimant(2), claimant(1)];
        assert!(claim(&claims, 2, &other));
        let got = claim(&claims, 1, &mine);
        let (theirs, slower) = slower.join().unwrap();
        assert!(got != theirs, "one of them");
        assert!(holds(&claims, 1, if got { &mine } else { &slower }));
        assert!(holds(&claims, 2, &other));
    });
}

/// B2: a claim is met by those that come after it, whatever ended before it on its way.
#[test]
fn a_claim_is_met_behind_one_that_ended() {
    check(2, || {
        let claims = Arc::new(Claims::new(0));
        let other = claims.clone();
        let other = thread::spawn(move || {
            let first = claimant(1);
            assert!(claim(&other, 1, &first));
            first
        });
        let second = claimant(2);
        assert!(claim(&claims, 2, &second));
        let first = other.join().unwrap();
        claims.end(1, &first, None);
        assert!(!claim(&claims, 2, &claimant(2)));
        assert!(holds(&claims, 2, &second));
        assert!(!claims.contains(1, |found, _| *found == 1));
    });
}

/// B2, C6: a table goes without a claim that is being made in it.
#[test]
fn no_claim_goes_with_its_table() {
    check(3, || {
        let claims = Arc::new(Claims::new(0));
        let slower = claims.clone();
        let slower = thread::spawn(move || {
            let mine = claimant(1);
            assert!(claim(&slower, 1, &mine));
            mine
        });
        let other = claimant(2);
        assert!(claim(&claims, 2, &other));
        claims.end(2, &other, None);
        claims.collect();
        let mine = slower.join().unwrap();
        assert!(holds(&claims, 1, &mine));
    });
}

/// B2: whoever ends a claim hands it over to one who wants it, and a look meets one of both or none.
#[test]
fn a_claim_is_handed_over() {
    check(2, || {
        let claims = Arc::new(Claims::new(0));
        let first = claimant(1);
        assert!(claim(&claims, 1, &first));
        let next = claims.clone();
        let next = thread::spawn(move || {
            let mine = claimant(1);
            (claim(&next, 1, &mine), mine)
        });
        let reader = claims.clone();
        let reader = thread::spawn(move || reader.find(1, |found, _| *found == 1).map(|(found, _)| *found.request()));
        claims.end(1, &first, None);
        let (got, next) = next.join().unwrap();
        assert_eq!(reader.join().unwrap().unwrap_or(1), 1);
        assert_eq!(holds(&claims, 1, &next), got);
        assert!(!holds(&claims, 1, &first));
    });
}

/// B2: a chain holds of its parts what it has claimed, though all of them lie on one way.
#[test]
fn a_chain_holds_no_part_before_it_claimed_it() {
    check(3, || {
        let claims = Arc::new(Claims::new(0));
        let (chain, rival) = (claimant(1), claimant(2));
        // The rival wants what the chain wants second.
        let is_second = |found: &u64, part| *found == 2 || part == Some(1);
        let (theirs, of_rival) = (claims.clone(), rival.clone());
        let theirs = thread::spawn(move || theirs.claim(0, &of_rival, None, is_second).is_ok());
        assert!(claims.claim(0, &chain, Some(0), |_, part| part == Some(0)).is_ok());
        let got = claims.claim(0, &chain, Some(1), is_second).is_ok();
        assert!(got != theirs.join().unwrap(), "one of them");
        assert!(claims.find(0, is_second).is_some_and(|(found, _)| found.same(if got { &chain } else { &rival })));
    });
}
