//! A writer suspended at each step in turn: the others finish, and they finish it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::contention::{Contended, Meter};
use super::super::group::Group;
use super::super::step::{Step, hook};
use super::super::{Kernel, pin};
use super::{Outcome, World};

const STEPS: [Step; 8] = [
    Step::HeadLoaded,
    Step::StateLoaded,
    Step::Resolved,
    Step::Install,
    Step::Installed,
    Step::Append,
    Step::Link,
    Step::Appended,
];

/// Suspends the calling thread when it reaches `step` for the `nth` time, until `resume` hears something.
fn suspend_at(step: Step, nth: usize, suspended: Sender<()>, resume: Receiver<()>) {
    let seen = Cell::new(0);
    hook::set(move |reached| {
        if reached != step {
            return;
        }
        seen.set(seen.get() + 1);
        if seen.get() == nth {
            suspended.send(()).expect("the test listens");
            let _ = resume.recv_timeout(Duration::from_secs(60));
        }
    });
}

/// A transfer of 50 from the first account to the second, suspended at `step` by now; it goes on when told to.
fn suspended_transfer(world: &Arc<World>, step: Step, nth: usize) -> (Sender<()>, JoinHandle<Outcome>) {
    let (suspended, is_suspended) = channel();
    let (resume, resumed) = channel();
    let world = world.clone();
    let writer = std::thread::spawn(move || {
        let handle = world.prepare(&[(0, -50), (1, 50)]);
        suspend_at(step, nth, suspended, resumed);
        world.drive(&handle)
    });
    is_suspended.recv().expect("the writer reaches every step");
    (resume, writer)
}

/// A4, A7, A8, A9, E7: wherever a transfer is suspended, reads, snapshots, and transfers over the same accounts go on
/// and finish, nobody sees half of it, and once a version of it is in the way it is finished by others.
#[test]
fn a_writer_suspended_at_any_step_holds_nobody_up() {
    for step in STEPS {
        for nth in 1..=2 {
            if nth == 2 && matches!(step, Step::Append | Step::Link | Step::Appended) {
                continue;
            }
            let world = World::new(&[100, 200]);
            let (resume, writer) = suspended_transfer(&world, step, nth);

            let installed = usize::from(step == Step::Installed) + nth - 1;
            let decided = step == Step::Appended;
            let before = [world.balance(0), world.balance(1)];
            assert_eq!(before, if decided { [50, 250] } else { [100, 200] }, "at {step:?} {nth}");
            let odd = (0..2).filter(|account| world.accounts[*account].word(&pin()) & 1 == 1).count();
            let expected = if decided {
                0
            } else if matches!(step, Step::Append | Step::Link) {
                2
            } else {
                installed
            };
            assert_eq!(odd, expected, "seqlock words at {step:?} {nth}");
            let guard = pin();
            let snapshot = world.kernel.open_snapshot(&guard).expect("a free slot");
            let sum = |at| {
                let read = |account: usize| world.accounts[account].read_at(at, &guard).expect("registered").1;
                read(0) + read(1)
            };
            assert_eq!(sum(snapshot.sequence), 300);

            let before = world.kernel.contended();
            assert!(world.apply(&[(0, -1), (1, 1)]).accepted);
            assert!(world.apply(&[(0, 1), (1, -1)]).accepted);
            let after = world.kernel.contended();
            assert_eq!(after.helps > before.helps, expected > 0, "helping at {step:?} {nth}");
            assert_eq!(after.waiting > before.waiting, expected > 0, "time for it at {step:?} {nth}");
            if expected > 0 {
                assert_eq!([world.balance(0), world.balance(1)], [50, 250], "finished by others at {step:?} {nth}");
            }
            assert_eq!(sum(snapshot.sequence), 300, "the snapshot stays whole");
            let asks = world.accounts.iter().any(|account| account.asks_transaction(&guard));
            assert!(!asks, "a replaced version has its decision cached, at {step:?} {nth}");
            world.kernel.close_snapshot(snapshot);
            drop(guard);

            resume.send(()).expect("the writer waits");
            assert!(writer.join().expect("the writer finishes").accepted);
            assert_eq!([world.balance(0), world.balance(1)], [50, 250], "once, at {step:?} {nth}");
            assert_eq!(world.kernel.now(&pin()), 5, "five transactions, dense");
        }
    }
}

/// D7: wherever a transfer is suspended before its entry is linked, who changes other accounts neither waits for it nor
/// finishes it.
#[test]
fn a_suspended_writer_leaves_other_accounts_alone() {
    for step in STEPS.into_iter().take_while(|step| *step != Step::Link) {
        let world = World::new(&[100, 200, 300, 400]);
        let (resume, writer) = suspended_transfer(&world, step, 1);
        for _ in 0..10 {
            assert!(world.apply(&[(2, -1), (3, 1)]).accepted);
        }
        let balances: [i64; 4] = std::array::from_fn(|account| world.balance(account));
        assert_eq!(balances, [100, 200, 290, 410], "at {step:?}");
        assert_eq!(world.kernel.contended().helps, 0, "at {step:?}");
        resume.send(()).expect("the writer waits");
        assert!(writer.join().expect("the writer finishes").accepted);
    }
}

/// A12, A15: a refused transaction is finished by others in the same way, and changes nothing.
#[test]
fn a_refused_writer_suspended_at_any_step_is_refused_by_its_helpers() {
    for step in STEPS {
        let world = World::new(&[10, 200]);
        let (resume, writer) = suspended_transfer(&world, step, 1);
        assert!(world.apply(&[(0, -1), (1, 1)]).accepted);
        assert!(world.apply(&[(0, 1), (1, -1)]).accepted);
        resume.send(()).expect("the writer waits");
        assert!(!writer.join().expect("the writer finishes").accepted);
        assert_eq!([world.balance(0), world.balance(1)], [10, 200]);
    }
}

/// C1: the consumer takes every entry once, in order, whoever linked it.
#[test]
fn the_consumer_takes_every_entry_once_in_order() {
    let (kernel, mut consumer) = Kernel::with_consumer(7, 0);
    let world = World::over(kernel, &[5, 5]);
    let mut taken = Vec::new();
    for round in 0..10 {
        for _ in 0..round {
            world.apply(&[(0, -1), (1, 1)]);
            world.apply(&[(0, 1), (1, -1)]);
        }
        let guard = pin();
        let through = world.kernel.begin_flush(&guard);
        consumer.take(&world.kernel, through, &mut taken, &guard);
        world.kernel.end_flush(through);
    }
    let sequences: Vec<_> = taken.iter().map(|entry| entry.decision().expect("committed").sequence).collect();
    assert_eq!(sequences, (8..8 + 92).collect::<Vec<_>>());
}

/// I2: the last handle releases the heads even when no driver got that far.
#[test]
fn the_last_handle_releases_heads_that_no_driver_released() {
    let world = World::new(&[1, 1]);
    let guard = pin();
    let handle = world.prepare(&[(0, -1), (1, 1)]);
    world.kernel.finish(&handle, &guard, &mut Meter::default());
    // The next entry takes the list's reference away.
    world.kernel.drive(&world.prepare(&[]), &guard);
    assert!(world.accounts.iter().all(|account| account.asks_transaction(&guard)));
    drop(handle);
    assert!(world.accounts.iter().all(|account| !account.asks_transaction(&guard)));
    assert_eq!([world.balance(0), world.balance(1)], [0, 2]);
}

/// E3: who is alone waits for nobody, and nothing says otherwise.
#[test]
fn who_is_alone_contends_with_nobody() {
    let world = World::new(&[100, 200]);
    for _ in 0..1_000 {
        world.apply(&[(0, -1), (1, 1)]);
        world.apply(&[(0, 1), (1, -1)]);
    }
    assert_eq!(world.kernel.contended(), Contended::default());
}

/// E3: a writer that is overtaken between its look at an account and its CAS tries again, and that counts, with its
/// time.
#[test]
fn a_lost_cas_counts_once_and_takes_time() {
    let on_the_account: &[(usize, i64)] = &[(0, -1), (2, 1)];
    for (step, overtaking) in [(Step::Install, on_the_account), (Step::Link, &[(2, -1)])] {
        let world = World::new(&[100, 200, 300]);
        let (resume, writer) = suspended_transfer(&world, step, 1);
        assert!(world.apply(overtaking).accepted);
        assert_eq!(world.kernel.contended(), Contended::default(), "nobody was in the way at {step:?}");
        resume.send(()).expect("the writer waits");
        assert!(writer.join().expect("the writer finishes").accepted);
        let met = world.kernel.contended();
        assert_eq!((met.helps, met.retries), (0, 1), "at {step:?}");
        assert!(met.waiting > Duration::ZERO);
    }
}

/// A4, A8, E7: wherever the owner of a group is suspended, others finish what is in their way, after what comes before
/// that, and no more; what one call made of an account the next one of the group sees.
#[test]
fn the_owner_of_a_group_suspended_at_any_step_holds_nobody_up() {
    for step in STEPS {
        for nth in 1..=3 {
            let world = World::new(&[100, 200, 300]);
            let (suspended, is_suspended) = channel();
            let (resume, resumed) = channel();
            let owner_world = world.clone();
            let owner = std::thread::spawn(move || {
                let group = owner_world.prepare_group(&[&[(0, -1)], &[(1, -1)], &[(0, -10), (2, 10)], &[(2, -10)]]);
                suspend_at(step, nth, suspended, resumed);
                let handles = group.drive(&pin());
                handles.iter().map(|handle| owner_world.drive(handle)).collect::<Vec<_>>()
            });
            if is_suspended.recv().is_err() {
                // It is not so often there.
                assert!(owner.join().expect("the owner finishes").len() == 4);
                continue;
            }
            assert!(world.apply(&[(2, 1)]).accepted);
            assert!(world.apply(&[(1, -2)]).accepted);
            let guard = pin();
            let snapshot = world.kernel.open_snapshot(&guard).expect("a free slot");
            let at = |account: usize| world.accounts[account].read_at(snapshot.sequence, &guard).expect("registered").1;
            let [first, second, third] = [at(0), at(1), at(2)];
            assert!(second != 197 || first != 100, "the second without the first, at {step:?} {nth}");
            assert!(third == 301 || (first, second) == (89, 197), "the later without the earlier, at {step:?} {nth}");
            world.kernel.close_snapshot(snapshot);
            drop(guard);
            resume.send(()).expect("the owner waits");
            let outcomes = owner.join().expect("the owner finishes");
            assert!(outcomes.iter().all(|outcome| outcome.accepted) && outcomes.is_sorted_by_key(|one| one.sequence));
            assert_eq!([world.balance(0), world.balance(1), world.balance(2)], [89, 197, 301], "at {step:?} {nth}");
            assert_eq!(world.kernel.now(&pin()), 9, "nine transactions, dense");
        }
    }
}

/// I8: a group that goes before it was driven leaves nothing undecided.
#[test]
fn a_group_that_is_dropped_is_decided() {
    let world = World::new(&[5, 5]);
    drop(world.prepare_group(&[&[(0, -1)], &[(1, 1)]]));
    assert_eq!([world.balance(0), world.balance(1)], [4, 6]);
    let mut group = Group::new(&world.kernel, 2);
    group.push(world.plan(&[(0, -1)]));
    drop(group);
    assert_eq!(world.balance(0), 4, "its gate was closed");
}

/// C1: the consumer takes what was linked together one by one.
#[test]
fn the_consumer_takes_groups_apart() {
    let (kernel, mut consumer) = Kernel::with_consumer(0, 0);
    let world = World::over(kernel, &[50, 50, 50]);
    let mut taken = Vec::new();
    for _ in 0..5 {
        world.apply_group(&[&[(0, -1)], &[(1, -1)], &[(2, -1)], &[(0, -1), (1, 1)]]);
        world.apply_group(&[&[(2, 1)]]);
        let guard = pin();
        let through = world.kernel.begin_flush(&guard);
        consumer.take(&world.kernel, through, &mut taken, &guard);
        world.kernel.end_flush(through);
    }
    let sequences: Vec<_> = taken.iter().map(|entry| entry.decision().expect("committed").sequence).collect();
    assert_eq!(sequences, (1..=28).collect::<Vec<_>>());
}
