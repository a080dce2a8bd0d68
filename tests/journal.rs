//! The journal: every decided request once, in commit order.

mod common;

use std::collections::BTreeSet;

use common::model::{Model, plain};
use common::{
    Random, account, alone, chain, create, decide, id, named, named_chain, open, post, rounds, together, transfer,
    update, with_accounts,
};
use equipoise::{AccountChange, HistoryError, HistoryGone, Ledger, Outcome};

fn recorded(accounts: &[(&str, i64)]) -> Ledger {
    open(Ledger::builder().history(1_000_000).build(), accounts)
}

/// Everything kept, once all of it is durable.
fn journal(ledger: &Ledger) -> Vec<Outcome> {
    ledger.wait_durable(ledger.sequence()).expect("not closed");
    ledger.history(0, usize::MAX).expect("from the oldest on")
}

fn change(name: &str, delta: i64, balance: i64, version: u64) -> AccountChange {
    AccountChange { account: account(name), delta, balance, version }
}

/// C1: 200 concurrent operations leave 200 entries, dense, each what its caller was answered.
#[test]
fn concurrent_operations_leave_an_entry_each() {
    for round in 0..rounds(12) {
        let ledger = recorded(&[("a", 100), ("b", 100)]);
        let outcomes = together(200, |thread| {
            let request = match thread % 4 {
                0 => alone(update("a", 1)),
                1 => named(update("b", -30), &format!("id-{thread}")),
                2 => named(transfer("a", "b", 2), &format!("id-{thread}")),
                _ => alone(create(&format!("new-{thread}"), 5)),
            };
            decide(&ledger, request)
        });
        let entries = journal(&ledger);
        assert_eq!(entries.len(), 202, "round {round}");
        for (index, entry) in entries.iter().enumerate() {
            assert_eq!(entry.sequence(), index as u64 + 1);
        }
        for outcome in outcomes {
            let entry = &entries[outcome.sequence() as usize - 1];
            assert_eq!(entry.members(), outcome.members());
            assert_eq!((entry.results(), entry.time()), (outcome.results(), outcome.time()));
        }
    }
}

/// C1: an entry says id, time, operation, accounts, amounts, balances, versions and status; a refusal what its text
/// needs.
#[test]
fn an_entry_says_what_happened() {
    let ledger = recorded(&[("a", 100), ("b", 7)]);
    decide(&ledger, named(transfer("a", "b", 40), "t"));
    decide(&ledger, named(transfer("b", "a", 48), "r"));
    decide(&ledger, named(update("ghost", 5), "g"));
    decide(&ledger, named_chain([(update("a", 1), "c0"), (update("a", 2), "c1"), (create("n", 3), "c2")]));
    decide(&ledger, alone(post(&[("b", -2), ("a", 2)])));
    decide(&ledger, named(create("a", 9), "e"));
    let entries = journal(&ledger);
    assert_eq!(entries.len(), 8);
    let [create_a, _, transfer, refused, ghost, chain, posting, exists] = &entries[..] else { panic!("eight") };

    assert_eq!((create_a.members()[0].id.as_ref(), create_a.members()[0].operation.name()), (None, "create"));
    assert_eq!(create_a.changes(), [change("a", 100, 100, 1)]);
    assert_eq!((&transfer.members()[0].id, transfer.members()[0].operation.name()), (&Some(id("t")), "transfer"));
    assert_eq!(transfer.changes(), [change("a", -40, 60, 2), change("b", 40, 47, 2)]);
    assert!(transfer.result().is_ok());

    let text = refused.result().expect_err("refused").to_string();
    assert_eq!(text, "Insufficient balance in account b: current=47, required=48");
    assert_eq!(refused.changes(), [change("b", -48, 47, 2), change("a", 48, 60, 2)], "what it met");
    assert_eq!(ghost.result().expect_err("refused").to_string(), "Account ghost not found");
    assert_eq!(ghost.changes(), [change("ghost", 5, 0, 0)]);
    assert!(ghost.concerns(&account("ghost")) && !ghost.concerns(&account("a")));

    let ids: Vec<_> = chain.members().iter().map(|member| member.id.as_ref().expect("each").to_string()).collect();
    assert_eq!(ids, ["c0", "c1", "c2"]);
    assert_eq!(chain.changes(), [change("a", 1, 61, 3), change("a", 2, 63, 4), change("n", 3, 3, 1)]);
    assert_eq!(posting.members()[0].operation.name(), "post");
    assert_eq!(posting.changes(), [change("b", -2, 45, 3), change("a", 2, 65, 5)]);
    assert_eq!(exists.result().expect_err("refused").to_string(), "Account a already exists");
    assert_eq!(exists.changes(), [change("a", 9, 65, 5)]);
    assert!(entries.windows(2).all(|pair| pair[0].time() <= pair[1].time()), "time never goes back");
    assert!(create_a.time() > 1_600_000_000_000_000_000, "nanoseconds since the epoch");
}

/// C1, B1: a replay, a malformed request and a reused id leave no entry.
#[test]
fn only_decisions_are_recorded() {
    let ledger = recorded(&[("a", 5)]);
    for _ in 0..3 {
        decide(&ledger, named(update("a", -3), "x"));
        decide(&ledger, named(update("a", -9), "y"));
    }
    assert!(ledger.submit(named(update("a", 1), "x")).is_err());
    assert!(ledger.create(&account("b"), -1).is_err());
    assert!(ledger.transfer(&account("a"), &account("a"), 1).is_err());
    let entries = journal(&ledger);
    let ids: Vec<_> = entries.iter().filter_map(|entry| entry.members()[0].id.as_ref()).collect();
    assert_eq!((entries.len(), ids), (3, vec![&id("x"), &id("y")]));
    assert!(entries.iter().all(|entry| !entry.replayed()), "the journal shows the first time");
}

/// C1, B2: concurrent duplicates leave one entry an id.
#[test]
fn duplicates_leave_one_entry() {
    let ledger = recorded(&[("a", 0)]);
    let ids = rounds(400);
    together(10, |thread| {
        for number in 0..ids {
            let number = if thread.is_multiple_of(2) { number } else { ids - 1 - number };
            decide(&ledger, named(update("a", 1), &format!("id-{number}")));
        }
    });
    let entries = journal(&ledger);
    let recorded: BTreeSet<_> = entries.iter().filter_map(|entry| entry.members()[0].id.clone()).collect();
    assert_eq!((entries.len(), recorded.len()), (ids + 1, ids));
}

/// C3: after every operation, the first N entries replayed are the snapshot at N; no balance is ever below 0.
#[test]
fn every_prefix_is_a_valid_state() {
    let names = ["a", "b", "c", "d", "e"];
    let ledger = recorded(&[]);
    let mut random = Random(3);
    let mut shown = Vec::new();
    for _ in 0..rounds(4_000) {
        let (one, other) = random.pair(5);
        let (one, other) = (names[one], names[other]);
        let amount = random.between(1, 60);
        let request = match random.below(5) {
            0 => alone(create(one, amount)),
            1 => alone(update(one, 31 - amount)),
            2 => chain([transfer(one, other, amount), update(one, 1), transfer(other, one, 20)]),
            3 => alone(post(&[(one, amount), (other, -amount)])),
            _ => alone(transfer(one, other, amount)),
        };
        decide(&ledger, request);
        let snapshot = ledger.snapshot().expect("few are open");
        shown.push(snapshot.iter().map(|state| plain(&state)).collect::<Vec<_>>());
    }
    let entries = journal(&ledger);
    assert_eq!(entries.len(), shown.len());
    let mut model = Model::default();
    let mut refused = 0;
    for (entry, states) in entries.iter().zip(shown) {
        model.replay(entry);
        assert_eq!(model.states(), states, "after entry {}", entry.sequence());
        assert!(states.iter().all(|(_, state)| state.balance >= 0));
        refused += usize::from(entry.result().is_err());
    }
    assert!(refused > 50 && refused < entries.len() - 50, "{refused} refusals: both kinds must occur");
}

/// C3: entries of concurrent writers, replayed one after the other, come to what each of them recorded.
#[test]
fn journal_order_is_commit_order() {
    let names = ["a", "b", "c"];
    let ledger = recorded(&[("a", 50), ("b", 50), ("c", 50)]);
    together(8, |thread| {
        let mut random = Random(thread as u64);
        for _ in 0..rounds(2_500) {
            let (one, other) = random.pair(3);
            let amount = random.between(1, 60);
            decide(&ledger, alone(transfer(names[one], names[other], amount)));
        }
    });
    let mut model = Model::default();
    journal(&ledger).iter().for_each(|entry| model.replay(entry));
    let last: Vec<_> = ledger.snapshot().expect("few").iter().map(|state| plain(&state)).collect();
    assert_eq!(model.states(), last);
}

/// C1, C3: the history is read by sequence, in pieces, from any place on; what is not there yet is not invented.
#[test]
fn the_history_is_read_by_sequence() {
    let ledger = recorded(&[("a", 0)]);
    (0..99).for_each(|_| drop(decide(&ledger, alone(update("a", 1)))));
    let entries = journal(&ledger);
    let sequences = |from, limit| -> Vec<u64> {
        ledger.history(from, limit).expect("kept").iter().map(Outcome::sequence).collect()
    };
    assert_eq!(entries.len(), 100);
    assert_eq!(sequences(0, 3), [1, 2, 3]);
    assert_eq!(sequences(1, 2), [1, 2]);
    assert_eq!(sequences(98, 100), [98, 99, 100]);
    assert!(sequences(101, 10).is_empty());
    assert!(sequences(5_000, 10).is_empty());
    assert!(sequences(50, 0).is_empty());
    assert_eq!(ledger.history(50, 1).expect("kept")[0].result(), entries[49].result());
}

/// C1: a bounded history drops its oldest entries, and says from where on it is kept.
#[test]
fn a_bounded_history_says_what_is_gone() {
    let ledger = open(Ledger::builder().history(10).build(), &[("a", 0)]);
    (0..99).for_each(|_| drop(decide(&ledger, alone(update("a", 1)))));
    let entries = journal(&ledger);
    assert_eq!(entries.iter().map(Outcome::sequence).collect::<Vec<_>>(), (91..=100).collect::<Vec<_>>());
    assert_eq!(entries[0].changes(), [change("a", 1, 90, 91)]);
    assert_eq!(ledger.history(90, 1).expect_err("gone"), HistoryError::Gone(HistoryGone { oldest: 91 }));
    assert_eq!(ledger.history(1, 1).expect_err("gone").to_string(), "history before sequence 91 is gone");
    assert_eq!(ledger.history(91, 1).expect("kept").len(), 1);
    assert_eq!(ledger.stats().history_oldest, 91);
}

/// C1: a ledger without a history says so, and its future is open.
#[test]
fn without_a_history_everything_is_gone() {
    let ledger = with_accounts(&[("a", 0)]);
    assert_eq!(ledger.history(0, 10).expect_err("gone"), HistoryError::Gone(HistoryGone { oldest: 2 }));
    assert_eq!(ledger.history(1, 10).expect_err("gone"), HistoryError::Gone(HistoryGone { oldest: 2 }));
    assert!(ledger.history(2, 10).expect("not there yet").is_empty());
    assert_eq!((ledger.durable(), ledger.stats().history_oldest), (1, 2));
}

/// C1: an entry is found by the id of any of its members, and is the same as by its sequence.
#[test]
fn an_entry_is_found_by_id_and_by_sequence() {
    let ledger = recorded(&[("a", 0)]);
    decide(&ledger, named(update("a", 5), "x"));
    decide(&ledger, named_chain([(update("a", 1), "m0"), (update("a", 2), "m1")]));
    journal(&ledger);
    for (name, sequence, index) in [("x", 2, 0), ("m0", 3, 0), ("m1", 3, 1)] {
        let by_id = ledger.transaction(&id(name)).expect("readable").expect("known");
        let by_sequence = &ledger.history(sequence, 1).expect("kept")[0];
        assert_eq!((by_id.sequence(), by_id.time()), (sequence, by_sequence.time()));
        assert_eq!(by_id.result(), by_sequence.results()[index]);
        assert_eq!(by_sequence.split()[index].changes(), by_id.changes());
        assert_eq!(by_id.members()[0].id, Some(id(name)));
    }
}

/// C1, C3: a reader that follows the history while others write gets every entry once, in order.
#[test]
fn a_follower_misses_nothing() {
    let ledger = recorded(&[("a", 0)]);
    let total = 1 + 3 * rounds(10_000) as u64;
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let mut next = 1;
            while next <= total {
                for entry in ledger.history(next, 100).expect("all of it is kept") {
                    assert_eq!(entry.sequence(), next);
                    assert!(next <= ledger.durable(), "only what is durable is shown");
                    next += 1;
                }
                std::thread::yield_now();
            }
        });
        together(3, |_| (0..rounds(10_000)).for_each(|_| drop(decide(&ledger, alone(update("a", 1))))));
        follower.join().expect("no gap");
    });
}
