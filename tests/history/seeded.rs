//! The checker is checked: hand-made histories, each with one thing wrong, and one with nothing wrong.

use equipoise::{Member, Operation};

use crate::checker::{Call, Record, Totals, Violation, check};
use crate::common::model::{Answer, Entry};
use crate::common::{create, id, transfer, update};

fn record(thread: usize, times: (u64, u64), call: Call) -> Record {
    Record { thread, invoked: times.0, returned: times.1, call }
}

fn entry(balance: i64, version: u64, sequence: u64) -> Entry {
    Entry { balance, version, sequence }
}

fn touched(states: &[(&str, i64, u64)], sequence: u64) -> Answer {
    Ok(states
        .iter()
        .map(|(name, balance, version)| ((*name).to_owned(), entry(*balance, *version, sequence)))
        .collect())
}

fn write(operation: Operation, sequence: u64, answer: Answer) -> Call {
    Call::Write {
        members: vec![Member { id: None, operation }],
        sequence,
        as_of: None,
        replayed: false,
        answers: vec![answer],
    }
}

fn named(operation: Operation, name: &str, sequence: u64, replayed: bool, answer: Answer) -> Call {
    let members = vec![Member { id: Some(id(name)), operation }];
    Call::Write { members, sequence, as_of: None, replayed, answers: vec![answer] }
}

fn read(account: &str, found: Option<Entry>) -> Call {
    Call::Read { account: account.to_owned(), found }
}

fn snapshot(sequence: u64, states: &[(&str, Entry)]) -> Call {
    let total = states.iter().map(|(_, entry)| i128::from(entry.balance)).sum();
    Call::Snapshot {
        sequence,
        states: states.iter().map(|(name, entry)| ((*name).to_owned(), *entry)).collect(),
        total,
    }
}

/// Two accounts and a transfer between them; calls 0 to 6, some at the same time.
fn good() -> Vec<Record> {
    vec![
        record(0, (0, 10), write(create("a", 100), 1, touched(&[("a", 100, 1)], 1))),
        record(0, (11, 20), write(create("b", 0), 2, touched(&[("b", 0, 1)], 2))),
        record(0, (30, 60), named(transfer("a", "b", 40), "t", 3, false, touched(&[("a", 60, 2), ("b", 40, 2)], 3))),
        record(1, (35, 65), named(transfer("a", "b", 40), "t", 3, true, touched(&[("a", 60, 2), ("b", 40, 2)], 3))),
        record(2, (40, 45), read("a", Some(entry(100, 1, 1)))),
        record(2, (50, 55), read("a", Some(entry(60, 2, 3)))),
        record(1, (70, 80), snapshot(3, &[("a", entry(60, 2, 3)), ("b", entry(40, 2, 3))])),
    ]
}

const CONSTANT: Totals = Totals::Constant { from: 2, total: 100 };

/// What the checker says when `spoil` has changed the good history.
fn spoiled(spoil: impl FnOnce(&mut Vec<Record>)) -> Vec<Violation> {
    let mut history = good();
    spoil(&mut history);
    check(&history, CONSTANT)
}

fn finds(violations: &[Violation], expected: Violation) {
    assert!(violations.contains(&expected), "{expected:?} is not among {violations:?}");
}

/// A9, A10, A11, C3: nothing is found where nothing is wrong, however calls overlap.
#[test]
fn a_good_history_is_accepted() {
    assert_eq!(check(&good(), CONSTANT), []);
    assert_eq!(spoiled(|history| history.reverse()), [], "the order of recording does not matter");
    let refused = "Insufficient balance in account b: current=40, required=41".to_owned();
    let appended = spoiled(|history| {
        history.push(record(0, (81, 90), write(transfer("b", "a", 41), 4, Err(refused))));
        history.push(record(2, (91, 92), read("b", Some(entry(40, 2, 3)))));
        history.push(record(2, (93, 94), read("ghost", None)));
        history.push(record(2, (93, 95), snapshot(4, &[("a", entry(60, 2, 3)), ("b", entry(40, 2, 3))])));
    });
    assert_eq!(appended, [], "a refusal has a sequence and changes nothing");
}

/// A5: two updates that both started from 100: the second one lost the first.
#[test]
fn a_lost_update_is_found() {
    let found = spoiled(|history| {
        history.push(record(0, (81, 90), write(update("b", 1), 4, touched(&[("b", 41, 3)], 4))));
        history.push(record(1, (81, 90), write(update("b", 2), 5, touched(&[("b", 42, 3)], 5))));
    });
    finds(&found, Violation::WrongAnswer { call: 8, sequence: 5 });
    finds(&found, Violation::VersionGap { account: "b".into(), sequence: 5 });
}

/// A12: a refused operation that changed something, and an accepted one that should have been refused.
#[test]
fn a_wrong_verdict_is_found() {
    let untrue = "Insufficient balance: current=39, delta=-41".to_owned();
    let found = spoiled(|history| history.push(record(0, (81, 90), write(update("b", -41), 4, Err(untrue)))));
    assert_eq!(found, [Violation::WrongAnswer { call: 7, sequence: 4 }], "its text names another balance");
    let found = spoiled(|history| {
        history.push(record(0, (81, 90), write(update("b", -41), 4, touched(&[("b", -1, 3)], 4))));
    });
    finds(&found, Violation::WrongAnswer { call: 7, sequence: 4 });
    finds(&found, Violation::BelowFloor { account: "b".into(), sequence: 4 });
}

/// A5: versions that jump.
#[test]
fn a_gap_in_versions_is_found() {
    let found = spoiled(|history| {
        history.push(record(0, (81, 90), write(update("b", 1), 4, touched(&[("b", 41, 4)], 4))));
    });
    finds(&found, Violation::VersionGap { account: "b".into(), sequence: 4 });
}

/// C1, C3: a sequence twice, and a sequence that nobody has.
#[test]
fn a_sequence_that_is_not_dense_is_found() {
    let gap = spoiled(|history| {
        history.push(record(0, (81, 90), write(update("b", 1), 5, touched(&[("b", 41, 3)], 5))));
    });
    assert_eq!(gap, [Violation::SequenceMissing { sequence: 4 }]);
    let twice = spoiled(|history| {
        history.push(record(2, (25, 90), write(update("b", 0), 3, touched(&[("b", 0, 2)], 3))));
    });
    finds(&twice, Violation::SequenceTwice { sequence: 3 });
}

/// C3: commit order against real time: the later call has the smaller sequence.
#[test]
fn reversed_real_time_is_found() {
    let found = spoiled(|history| {
        history.push(record(0, (81, 90), write(update("a", 1), 5, touched(&[("a", 61, 3)], 5))));
        history.push(record(1, (91, 99), write(update("b", 1), 4, touched(&[("b", 41, 3)], 4))));
    });
    assert_eq!(found, [Violation::OutOfRealTime { call: 8, after: 5 }]);
    let overlapping = spoiled(|history| {
        history.push(record(0, (81, 90), write(update("a", 1), 5, touched(&[("a", 61, 3)], 5))));
        history.push(record(1, (90, 99), write(update("b", 1), 4, touched(&[("b", 41, 3)], 4))));
    });
    assert_eq!(overlapping, [], "calls that overlap may be committed in either order");
    let after_read = spoiled(|history| history[2].invoked = 57);
    finds(&after_read, Violation::OutOfRealTime { call: 2, after: 3 });
}

/// A3, A11: reads that miss what had returned, at another thread and at one's own.
#[test]
fn a_stale_read_is_found() {
    let other = spoiled(|history| history.push(record(3, (61, 64), read("b", Some(entry(0, 1, 2))))));
    assert_eq!(other, [Violation::Stale { call: 7, known: 3 }]);
    let own = spoiled(|history| history.push(record(0, (61, 64), read("a", Some(entry(100, 1, 1))))));
    finds(&own, Violation::OwnWriteMissed { call: 7 });
    finds(&own, Violation::Stale { call: 7, known: 3 });
    let absent = spoiled(|history| history.push(record(3, (21, 24), read("b", None))));
    assert_eq!(absent, [Violation::Stale { call: 7, known: 2 }]);
    let early = spoiled(|history| history.push(record(3, (12, 24), read("b", None))));
    assert_eq!(early, [], "it overlaps the creation");
}

/// A11: one thread's reads that go back while the write is still under way.
#[test]
fn reads_that_go_back_are_found() {
    let found = spoiled(|history| history.push(record(2, (56, 58), read("a", Some(entry(100, 1, 1))))));
    finds(&found, Violation::WentBack { call: 7 });
    finds(&found, Violation::Stale { call: 7, known: 3 });
    let snapshots = spoiled(|history| {
        history.push(record(2, (56, 58), snapshot(2, &[("a", entry(100, 1, 1)), ("b", entry(0, 1, 2))])));
    });
    finds(&snapshots, Violation::WentBack { call: 7 });
    finds(&snapshots, Violation::Stale { call: 7, known: 3 });
}

/// A9, A11: across accounts: whoever saw one side of a transfer must see the other.
#[test]
fn half_a_transfer_is_found() {
    let found = spoiled(|history| history.push(record(2, (56, 58), read("b", Some(entry(0, 1, 2))))));
    assert_eq!(found, [Violation::Stale { call: 7, known: 3 }], "thread 2 saw a without its 40");
}

/// A12: a state that the account never had: what a transfer would have left that was not committed so.
#[test]
fn an_uncommitted_state_is_found() {
    let found = spoiled(|history| history.push(record(3, (61, 64), read("b", Some(entry(41, 2, 3))))));
    assert_eq!(found, [Violation::UnknownState { call: 7 }]);
}

/// A11: a read that returned before what it saw was asked for.
#[test]
fn a_read_from_the_future_is_found() {
    let found = spoiled(|history| history.push(record(3, (21, 24), read("b", Some(entry(40, 2, 3))))));
    finds(&found, Violation::FromTheFuture { call: 7 });
}

/// A10: a snapshot with one side of a transfer only, and one that lacks an account.
#[test]
fn a_torn_snapshot_is_found() {
    let torn = spoiled(|history| {
        history[6].call = snapshot(3, &[("a", entry(60, 2, 3)), ("b", entry(0, 1, 2))]);
    });
    finds(&torn, Violation::TornSnapshot { call: 6 });
    finds(&torn, Violation::WrongTotal { call: 6 });
    let lacking = spoiled(|history| history[6].call = snapshot(3, &[("a", entry(60, 2, 3))]));
    finds(&lacking, Violation::TornSnapshot { call: 6 });
    let named_wrong = spoiled(|history| {
        history[6].call = snapshot(2, &[("a", entry(60, 2, 3)), ("b", entry(40, 2, 3))]);
    });
    finds(&named_wrong, Violation::TornSnapshot { call: 6 });
}

/// A10: a snapshot older than what its caller knew.
#[test]
fn a_stale_snapshot_is_found() {
    let found = spoiled(|history| {
        history.push(record(3, (81, 90), snapshot(2, &[("a", entry(100, 1, 1)), ("b", entry(0, 1, 2))])));
    });
    assert_eq!(found, [Violation::Stale { call: 7, known: 3 }]);
}

/// A10: a total that is not the sum, or not what was promised.
#[test]
fn a_wrong_total_is_found() {
    let sum = spoiled(|history| {
        if let Call::Snapshot { total, .. } = &mut history[6].call {
            *total = 101;
        }
    });
    assert_eq!(sum, [Violation::WrongTotal { call: 6 }]);
    let promised = check(&good(), Totals::Constant { from: 2, total: 99 });
    assert_eq!(promised, [Violation::WrongTotal { call: 6 }]);
}

/// B1, B2: an id that was executed twice, a replay with another answer, a replay of nothing.
#[test]
fn broken_idempotency_is_found() {
    let twice = spoiled(|history| {
        let answer = touched(&[("a", 20, 3), ("b", 80, 3)], 4);
        history.push(record(0, (81, 90), named(transfer("a", "b", 40), "t", 4, false, answer)));
    });
    assert_eq!(twice, [Violation::ExecutedTwice { id: "t".into() }, Violation::WrongReplay { call: 3 }]);
    let other = spoiled(|history| {
        let answer = touched(&[("a", 60, 2), ("b", 41, 2)], 3);
        history.push(record(0, (81, 90), named(transfer("a", "b", 40), "t", 3, true, answer)));
    });
    assert_eq!(other, [Violation::WrongReplay { call: 7 }]);
    let nothing = spoiled(|history| {
        let answer = touched(&[("b", 41, 3)], 3);
        history.push(record(0, (81, 90), named(update("b", 1), "new", 3, true, answer)));
    });
    finds(&nothing, Violation::WrongReplay { call: 7 });
}
