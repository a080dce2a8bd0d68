//! Schedules that were once wrong, step by step.

use super::super::step::{Step, hook};
use super::super::{Account, Kernel, pin};
use super::World;

fn flush(world: &World) -> u64 {
    let through = world.kernel.begin_flush(&pin());
    world.kernel.end_flush(through);
    through
}

/// A11: a durable reader that is descheduled while two flushes pass and an older snapshot is open never goes back.
#[test]
fn a_durable_reader_behind_two_flushes_sees_no_older_image() {
    let (kernel, _consumer) = Kernel::with_consumer(0, 0);
    let world = World::over(kernel, &[100, 1]);
    let held = world.kernel.open_snapshot(&pin()).expect("a free slot");
    assert_eq!(held.sequence, 2);
    world.apply(&[(0, 10)]);
    flush(&world);
    world.apply(&[(0, 10)]);
    let durable = flush(&world);
    world.apply(&[(1, 1)]);
    flush(&world);
    world.apply(&[(0, 10)]);
    flush(&world);
    world.apply(&[(0, 10)]);
    let guard = pin();
    let read = world.accounts[0].read_at(durable, &guard);
    assert!(read.is_err() || read.is_ok_and(|(_, balance)| balance == 120), "a stale durable read: {read:?}");
    assert_eq!(world.accounts[0].read_at(held.sequence, &guard).expect("registered").1, 100);
    world.kernel.close_snapshot(held);
}

/// A10: a flush ends and the next begins between a writer's look at the two slots of the flusher; a snapshot opened
/// after that, at D, still finds what it needs.
#[test]
fn a_flush_that_ends_within_a_scan_leaves_no_gap() {
    let (kernel, _consumer) = Kernel::with_consumer(0, 0);
    let world = World::over(kernel, &[100]);
    flush(&world);
    world.apply(&[(0, 1)]);
    let flushing = world.kernel.begin_flush(&pin());
    world.apply(&[(0, 1)]);
    hook::set({
        let world = world.clone();
        let mut flushed = false;
        move |step| {
            if step == Step::SlotScanned && !flushed {
                flushed = true;
                world.kernel.end_flush(flushing);
                assert_eq!(world.kernel.begin_flush(&pin()), 3);
            }
        }
    });
    world.apply(&[(0, 1)]);
    hook::set(|_| ());
    let snapshot = world.kernel.open_durable_snapshot().expect("a free slot");
    assert_eq!(snapshot.sequence, 2);
    assert_eq!(world.accounts[0].read_at(2, &pin()).expect("registered").1, 101);
    world.kernel.close_snapshot(snapshot);
}

/// A10: many snapshots, each at another sequence, all stay exact while their accounts change on; and when they are
/// gone, so are the versions that they kept.
#[test]
fn versions_live_as_long_as_the_snapshots_that_need_them() {
    let world = World::new(&[1000, 1]);
    let mut held = Vec::new();
    for _ in 0..40 {
        let snapshot = world.kernel.open_snapshot(&pin()).expect("a free slot");
        held.push((snapshot, world.balance(0)));
        for _ in 0..5 {
            world.apply(&[(0, -1), (1, 1)]);
            assert!(!world.apply(&[(0, -5000), (1, 5000)]).accepted);
        }
        let guard = pin();
        for (snapshot, balance) in &held {
            assert_eq!(world.accounts[0].read_at(snapshot.sequence, &guard).expect("registered").1, *balance);
        }
        assert!(world.accounts[0].depth(&guard) <= 2 * held.len() + 6);
    }
    // In an order of their own, so that gaps open in the middle.
    while held.len() > 1 {
        let (snapshot, _) = held.swap_remove(held.len() / 2);
        world.kernel.close_snapshot(snapshot);
        world.apply(&[(0, -1), (1, 1)]);
        let guard = pin();
        for (snapshot, balance) in &held {
            assert_eq!(world.accounts[0].read_at(snapshot.sequence, &guard).expect("registered").1, *balance);
        }
    }
    for (snapshot, _) in held {
        world.kernel.close_snapshot(snapshot);
    }
    assert!(world.kernel.trim(&world.accounts[0], &pin()) || world.accounts[0].depth(&pin()) == 0);
    world.apply(&[(1, 1)]);
    assert_eq!(world.accounts[0].depth(&pin()), 0);
    assert_eq!(world.accounts[1].depth(&pin()), 0);
}

/// A10, E6: what an earlier process left is there until somebody changes it, and older snapshots see it still.
#[test]
fn a_restored_state_is_what_older_snapshots_see() {
    let mut accounts = vec![Account::new(0), Account::new(1)];
    accounts[0].restore(7, 50);
    let world = World { kernel: Kernel::new(9, 0), accounts };
    assert_eq!(world.accounts[0].read(&pin()), (7, 50));
    assert!(world.accounts[0].read_at(6, &pin()).is_err(), "nobody knows any more");
    let early = world.kernel.open_snapshot(&pin()).expect("a free slot");
    assert!(!world.apply(&[(0, -51), (1, 51)]).accepted);
    assert!(world.apply(&[(0, -20), (1, 20)]).accepted);
    let late = world.kernel.open_snapshot(&pin()).expect("a free slot");
    assert!(world.apply(&[(0, -1), (1, 1)]).accepted);
    let guard = pin();
    let seen = |sequence| [0, 1].map(|account| world.accounts[account as usize].read_at(sequence, &guard));
    assert_eq!(seen(early.sequence), [Ok((7, 50)), Ok((0, 0))]);
    assert_eq!(seen(late.sequence), [Ok((11, 30)), Ok((11, 20))]);
    assert_eq!(seen(12), [Ok((12, 29)), Ok((12, 21))]);
    world.kernel.close_snapshot(early);
    world.kernel.close_snapshot(late);
}

/// A10: as many snapshots as there are slots, and one more is refused.
#[test]
fn one_snapshot_too_many_is_refused_and_a_closed_one_makes_room() {
    let world = World::new(&[1]);
    let mut held: Vec<_> = (0..super::super::MAX_SNAPSHOTS).map(|_| world.kernel.open_snapshot(&pin())).collect();
    assert!(held.iter().all(Option::is_some));
    assert!(world.kernel.open_snapshot(&pin()).is_none());
    world.kernel.close_snapshot(held.pop().flatten().expect("open"));
    let again = world.kernel.open_snapshot(&pin());
    assert!(again.is_some());
    for snapshot in held.into_iter().chain([again]).flatten() {
        world.kernel.close_snapshot(snapshot);
    }
}
