use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;

fn lanes(partitions: &[i32], limits: Limits) -> Lanes {
    let lanes = Lanes::with_limits(limits);
    for partition in partitions {
        lanes.open(1, Position { partition: *partition, epoch: 7, next: Some(0), fingerprint: 0 }, 0, false);
    }
    lanes
}

fn record(partition: i32, offset: i64) -> Record {
    let letter = DeadLetter {
        topic: "t".to_owned(),
        partition,
        offset,
        timestamp: Some(offset),
        key: None,
        value: Some(b"value".to_vec()),
        headers: Vec::new(),
        reason: "malformed".to_owned(),
    };
    Record { offset, content: Content::Malformed(Arc::new(letter)) }
}

fn push(lanes: &Lanes, partition: i32, offset: i64) -> Pushed {
    lanes.push(partition, record(partition, offset), UNKNOWN)
}

/// D3: a run says what the store holds before it and after it, whatever gaps the log has.
#[test]
fn runs_follow_one_another_over_gaps() {
    let lanes = lanes(&[0], Limits::default());
    for offset in [3, 4, 9] {
        assert_eq!(push(&lanes, 0, offset), Pushed::Waits);
    }
    assert_eq!(push(&lanes, 0, 9), Pushed::Dropped, "it is here already");
    let batch = lanes.take();
    let run = &batch.runs[0];
    assert_eq!((run.from, run.next, run.epoch, run.records.len()), (Some(0), 10, 7, 3));
    assert_eq!(run.fingerprint, fingerprint(Some(9), None, Some(b"value")));
    push(&lanes, 0, 12);
    assert!(lanes.take().runs.is_empty(), "one run of a partition at a time");
    assert_eq!(lanes.progress()[&0].next, 0, "what is in flight is not applied");
    lanes.applied(&batch);
    assert_eq!((lanes.take().runs[0].from, lanes.progress()[&0].next), (Some(10), 10));
}

#[test]
fn a_batch_is_shared_by_the_partitions() {
    let limits = Limits { records: 100_000, bytes: usize::MAX, total_bytes: usize::MAX };
    let lanes = lanes(&[0, 1, 2], limits);
    for offset in 0..6_000 {
        push(&lanes, 0, offset);
        push(&lanes, 1, offset);
    }
    push(&lanes, 2, 0);
    let batch = lanes.take();
    let sizes: Vec<_> = batch.runs.iter().map(|run| (run.partition, run.records.len())).collect();
    assert_eq!(sizes, [(1, 1_667), (2, 1), (0, 3_332)]);
    lanes.applied(&batch);
    let turn: Vec<_> = lanes.take().runs.iter().map(|run| run.partition).collect();
    assert_eq!(turn, [1, 0]);
}

/// D6: what waits has a limit, in records and in bytes.
#[test]
fn a_full_partition_is_paused_until_a_half_is_gone() {
    let lanes = lanes(&[0], Limits { records: 10, bytes: usize::MAX, total_bytes: usize::MAX });
    for offset in 0..9 {
        assert_eq!(push(&lanes, 0, offset), Pushed::Waits);
    }
    assert_eq!(push(&lanes, 0, 9), Pushed::Full);
    assert!(lanes.any_paused() && lanes.resumable().is_empty());
    let batch = lanes.take();
    assert_eq!(lanes.resumable(), [0]);
    assert!(lanes.resumable().is_empty(), "once");
    lanes.applied(&batch);

    let lanes = self::lanes(&[0, 1], Limits { records: 10, bytes: usize::MAX, total_bytes: 1_500 });
    let pushed: Vec<_> = (0..5).map(|offset| push(&lanes, (offset % 2) as i32, offset)).collect();
    assert_eq!(pushed.last(), Some(&Pushed::Full));
}

/// D5: what was taken for an earlier assignment changes nothing of the present one.
#[test]
fn runs_of_an_earlier_assignment_are_dropped() {
    let lanes = lanes(&[0, 1], Limits::default());
    push(&lanes, 0, 0);
    push(&lanes, 1, 0);
    let mut batch = lanes.take();
    lanes.close(&[0]);
    assert_eq!(push(&lanes, 0, 1), Pushed::Dropped);
    lanes.open(2, Position { partition: 0, epoch: 8, next: Some(0), fingerprint: 0 }, 0, false);
    push(&lanes, 0, 0);
    lanes.keep_current(&mut batch);
    assert_eq!(batch.runs.iter().map(|run| run.partition).collect::<Vec<_>>(), [1]);
    assert_eq!(batch.generations, [1]);
    lanes.applied(&batch);
    let again = lanes.take();
    assert_eq!((again.runs[0].partition, again.runs[0].epoch, again.runs[0].from), (0, 8, Some(0)));
}

/// A partition that begins with the next record is remembered at once: what comes until the first record is applied is
/// not skipped by a restart.
#[test]
fn where_a_partition_began_is_announced() {
    let lanes = Lanes::default();
    lanes.open(1, Position { partition: 0, epoch: 7, next: None, fingerprint: 0 }, 42, true);
    let batch = lanes.take();
    let run = &batch.runs[0];
    assert_eq!((run.from, run.next, run.records.len(), run.fingerprint), (None, 42, 0, UNKNOWN));
    lanes.applied(&batch);
    assert!(lanes.take().runs.is_empty());
}

/// A topic that is consumed from its beginning although the store was further: no run ends where the store was already,
/// or the store would take it for one that it has.
#[test]
fn a_step_back_is_announced() {
    let lanes = Lanes::default();
    lanes.open(1, Position { partition: 0, epoch: 7, next: Some(2), fingerprint: 5 }, 0, true);
    for offset in [0, 1] {
        push(&lanes, 0, offset);
    }
    let batch = lanes.take();
    assert_eq!((batch.runs[0].from, batch.runs[0].next, batch.runs[0].records.len()), (Some(2), 0, 0));
    lanes.applied(&batch);
    let batch = lanes.take();
    assert_eq!((batch.runs[0].from, batch.runs[0].next, batch.runs[0].records.len()), (Some(0), 2, 2));
}

/// D3, D6: a partition moves on over what is no record, once the store has all that came and nothing more comes.
#[test]
fn a_quiet_partition_moves_on() {
    let lanes = Lanes::default();
    lanes.open(1, Position { partition: 0, epoch: 7, next: Some(2), fingerprint: 0x50000 }, 2, false);
    let is_quiet = || lanes.quiet() == [0] && lanes.quiet() == [0];
    assert!(lanes.quiet().is_empty() && is_quiet());
    push(&lanes, 0, 2);
    lanes.pass(0, 9);
    assert!(!is_quiet(), "it waits");
    let batch = lanes.take();
    lanes.pass(0, 9);
    assert!(!is_quiet(), "it is in flight");
    lanes.applied(&batch);
    assert!(lanes.quiet().is_empty(), "something has come");
    assert!(is_quiet());
    lanes.pass(0, 3);
    assert!(lanes.take().runs.is_empty(), "there is nothing to pass");
    lanes.pass(0, 5);
    assert!(!is_quiet() && !lanes.wants(0, 4) && lanes.wants(0, 5));
    let passing = lanes.take();
    let run = &passing.runs[0];
    assert_eq!((run.from, run.next, run.epoch, run.records.len()), (Some(3), 5, 7, 0));
    assert_eq!(run.fingerprint, farther(batch.runs[0].fingerprint, 2));
    lanes.applied(&passing);
    push(&lanes, 0, 5);
    assert_eq!((lanes.take().runs[0].from, lanes.progress()[&0].next), (Some(5), 5));
}

/// D6: where librdkafka passed over what it could not read, a partition is held up; one without a gap goes on.
#[test]
fn nothing_is_taken_behind_a_hole() {
    let now = Instant::now();
    let lanes = lanes(&[0, 1, 2], Limits::default());
    let none: [i32; 0] = [];
    (0..4).for_each(|offset| assert_eq!(push(&lanes, 1, offset), Pushed::Waits));
    assert_eq!(lanes.unreadable(Some(2), now), none, "nobody stands there");
    assert_eq!(push(&lanes, 0, 1), Pushed::Waits, "the gap ends before");
    assert_eq!(push(&lanes, 1, 9), Pushed::BehindHole, "a batch that cannot be read may go beyond its first offset");
    assert_eq!(push(&lanes, 1, 4), Pushed::Waits);
    assert_eq!(push(&lanes, 1, 9), Pushed::Waits, "there was none before");
    assert_eq!(push(&lanes, 0, 3), Pushed::BehindHole);
    assert_eq!(push(&lanes, 0, 2), Pushed::Waits);
    assert_eq!(push(&lanes, 0, 4), Pushed::Waits, "none of it is left");
    assert_eq!(lanes.unreadable(Some(5), now), [0], "everything before has come");

    let lanes = self::lanes(&[0, 1, 2], Limits::default());
    lanes.ends(2, 0);
    assert_eq!(lanes.unreadable(Some(0), now), none, "there are two");
    assert_eq!(lanes.unreadable(Some(0), now + Duration::from_secs(10)), [0, 1]);
    lanes.ends(1, 0);
    assert_eq!(lanes.unreadable(Some(0), now), [0]);
    assert_eq!(lanes.unreadable(None, now), [0]);
    lanes.quiet();
    assert_eq!(lanes.quiet(), [0, 1, 2]);
    assert_eq!(lanes.pass(0, 2), Pushed::BehindHole);
}

/// D6: whose records could not be read is found out also where nothing comes any more, neither a record nor the error.
#[test]
fn a_hole_is_looked_at_until_its_partition_is_found() {
    let now = Instant::now();
    let later = now + Duration::from_secs(10);
    let none: [i32; 0] = [];
    let lanes = lanes(&[0, 1, 2, 3], Limits::default());
    assert!(!lanes.any_hole());
    lanes.ends(0, 0);
    assert_eq!(lanes.unreadable(Some(0), now), none, "of several, or of the one whose end was seen before");
    assert!(lanes.any_hole());
    push(&lanes, 3, 0);
    lanes.applied(&lanes.take());
    lanes.ends(3, 2);
    for _ in 0..2 {
        lanes.ends(0, 1);
        lanes.ends(1, 0);
        lanes.ends(2, 0);
    }
    assert_eq!((lanes.stuck(now), lanes.stuck(later)), (vec![], vec![0]), "the others have all, or went on");
    assert!(lanes.any_hole());
    lanes.close(&[0]);
    assert!(!lanes.any_hole());

    let lanes = self::lanes(&[0], Limits::default());
    lanes.unreadable(Some(0), now);
    lanes.ends(0, 0);
    assert!(lanes.any_hole(), "seen before the error, maybe");
    lanes.unreadable(Some(0), now);
    lanes.ends(0, 0);
    assert!(lanes.any_hole(), "it came again");
}

#[test]
fn closing_gives_the_room_back() {
    let lanes = lanes(&[0], Limits { records: 10, bytes: usize::MAX, total_bytes: 1_000 });
    let mut offsets = 0..;
    while push(&lanes, 0, offsets.next().expect("endless")) != Pushed::Full {}
    lanes.close(&[0]);
    assert_eq!(lanes.state.lock().drainable_bytes, 0);
}

/// D3: while the store is at a run another goes on where that ends, if enough waits; nothing goes behind an
/// announcement.
#[test]
fn a_second_run_goes_on_where_the_first_ends() {
    let lanes = lanes(&[0], Limits::default());
    let enough = BEHIND as i64;
    push(&lanes, 0, 0);
    let first = lanes.take();
    (1..enough).for_each(|offset| assert_eq!(push(&lanes, 0, offset), Pushed::Waits));
    assert!(lanes.take_behind().runs.is_empty(), "too little");
    push(&lanes, 0, enough);
    let second = lanes.take_behind();
    assert_eq!((second.runs[0].from, second.runs[0].next), (Some(1), enough + 1));
    lanes.applied(&first);
    assert!(!lanes.progress()[&0].idle);
    lanes.applied(&second);
    assert!(lanes.progress()[&0].idle);

    let lanes = Lanes::default();
    lanes.open(1, Position { partition: 0, epoch: 7, next: Some(9), fingerprint: 5 }, 0, true);
    (0..enough).for_each(|offset| assert_eq!(push(&lanes, 0, offset), Pushed::Waits));
    let announced = lanes.take();
    assert!(announced.runs[0].records.is_empty());
    assert!(lanes.take_behind().runs.is_empty(), "it may not be kept");
    lanes.applied(&announced);
    assert_eq!(lanes.take().runs[0].from, Some(0));
}

/// D5: between being fenced and being closed a partition cannot be assigned anew, or the lane of its new assignment
/// would be closed.
#[test]
fn a_fenced_partition_is_closed_before_it_is_assigned_again() {
    use super::super::assignment::{Settled, Step};
    use super::super::shared::tests::shared;

    let shared = shared();
    let now = Instant::now();
    shared.assignment.lock().assign(&[0], now);
    let (partition, generation) = shared.assignment.lock().due(now).wanted[0];
    let position = Position { partition, epoch: 1, next: Some(5), fingerprint: UNKNOWN };
    let result = Step::Ready { position, start: 5 };
    assert!(shared.assignment.lock().settle(&Settled { partition, generation, result }, now));
    shared.lanes.open(generation, position, 5, false);
    let lanes = shared.lanes.state.lock();
    std::thread::scope(|scope| {
        scope.spawn(|| shared.fenced(&[(partition, generation)]));
        // Until it is inside.
        while shared.assignment.try_lock().is_some_and(|it| !it.any_fenced()) {
            std::thread::yield_now();
        }
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            let seen = shared.assignment.try_lock_for(Duration::from_millis(10)).is_some_and(|it| it.any_fenced());
            if seen {
                drop(lanes);
                panic!("fenced, and its lane is open");
            }
        }
        drop(lanes);
    });
    assert!(shared.assignment.lock().any_fenced() && !shared.lanes.wants(partition, 5));
}

/// D6, D7: behind a run that has to wait nothing is given to the store, and the other partitions go on.
#[test]
fn a_lane_that_waits_holds_up_no_other() {
    let lanes = lanes(&[0, 1], Limits::default());
    for partition in [0, 1] {
        push(&lanes, partition, 0);
    }
    let mut batch = lanes.take();
    let held = batch.split_off(&[0]);
    lanes.hold(&held);
    lanes.applied(&batch);
    assert_eq!(lanes.held(), [0]);
    for partition in [0, 1] {
        for offset in 1..=BEHIND as i64 {
            push(&lanes, partition, offset);
        }
    }
    let partitions = |batch: &Batch| batch.runs.iter().map(|run| run.partition).collect::<Vec<_>>();
    assert_eq!(partitions(&lanes.take()), [1]);
    assert_eq!(partitions(&lanes.take_behind()), [0; 0]);
    lanes.applied(&held);
    assert_eq!(lanes.held(), [0; 0]);
    assert_eq!(partitions(&lanes.take()), [0]);
}

/// D6, D7: what has to wait takes no room away from the others, and takes no more itself.
#[test]
fn a_lane_that_waits_leaves_the_others_their_room() {
    let lanes = lanes(&[0, 1], Limits { records: 10, bytes: usize::MAX, total_bytes: 5_000 });
    push(&lanes, 0, 0);
    let held = lanes.take();
    (1..9).for_each(|offset| assert_eq!(push(&lanes, 0, offset), Pushed::Waits));
    lanes.hold(&held);
    assert_eq!(push(&lanes, 0, 9), Pushed::Full);
    assert!(!lanes.any_paused(), "there is nothing to hurry for");
    (0..9).for_each(|offset| assert_eq!(push(&lanes, 1, offset), Pushed::Waits));
    assert_eq!(push(&lanes, 1, 9), Pushed::Full);
    assert!(lanes.any_paused());
    let batch = lanes.take();
    lanes.applied(&batch);
    assert_eq!(lanes.resumable(), [1]);
    lanes.applied(&held);
    assert_eq!(lanes.resumable(), [0; 0], "as much waits as before");
    lanes.applied(&lanes.take());
    assert_eq!(lanes.resumable(), [0]);
    assert_eq!(lanes.state.lock().drainable_bytes, 0);

    push(&lanes, 0, 10);
    lanes.hold(&lanes.take());
    assert_eq!(push(&lanes, 0, 11), Pushed::Full);
    push(&lanes, 1, 10);
    lanes.close(&[0]);
    lanes.applied(&lanes.take());
    assert_eq!(lanes.state.lock().drainable_bytes, 0);
}
