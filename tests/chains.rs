//! Linked operations: each sees the ones before it, and all are committed under one sequence, or none.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    account, alone, balance, chain, create, decide, id, named, named_chain, refusal, rounds, state, texts, together,
    transfer, update, with_accounts,
};
use equipoise::{InvalidRequest, MAX_LEGS, Member, Operation, Request, SubmitError};

fn group_failed(index: usize) -> Result<Vec<i64>, String> {
    Err(format!("Linked group failed at operation {index}"))
}

/// A15, case A02 (e): a→b 50, b→a 50 on empty accounts is refused, as the single calls would be.
#[test]
fn a_chain_is_not_netted() {
    let ledger = with_accounts(&[("a", 0), ("b", 0)]);
    let outcome = decide(&ledger, chain([transfer("a", "b", 50), transfer("b", "a", 50)]));
    let short = "Insufficient balance in account a: current=0, required=50".to_owned();
    assert_eq!(texts(&outcome), [Err(short), group_failed(0)]);
    assert_eq!((state(&ledger, "a").version, state(&ledger, "b").version), (1, 1));
}

/// A15, case A02 (f): there and back and there again with 100: one sequence, a version for every change.
#[test]
fn a_chain_may_touch_an_account_again() {
    let ledger = with_accounts(&[("a", 100), ("b", 0)]);
    let there_and_back = [transfer("a", "b", 100), transfer("b", "a", 100), transfer("a", "b", 100)];
    let outcome = decide(&ledger, chain(there_and_back));
    assert_eq!(texts(&outcome), [Ok(vec![0, 100]), Ok(vec![0, 100]), Ok(vec![0, 100])]);
    let results: Vec<_> = outcome.results().into_iter().map(|result| result.expect("accepted")).collect();
    let versions: Vec<_> = results.iter().map(|states| states[0].version).collect();
    assert_eq!(versions, [2, 3, 4]);
    assert!(results.iter().flatten().all(|state| state.sequence == 3), "one sequence for all of it");
    assert_eq!(results[1][0].id.as_str(), "b", "the source of each operation comes first");
    assert_eq!((balance(&ledger, "a"), balance(&ledger, "b")), (0, 100));
    assert_eq!(ledger.sequence(), 3);
}

/// A7, A15, case A02 (g): a transfer to the same account is wrong in itself, in a chain as alone.
#[test]
fn a_malformed_member_makes_no_chain() {
    let member = Operation::transfer(account("a"), account("a"), 1);
    assert_eq!(member, Err(InvalidRequest::SameAccount));
    assert_eq!(Request::chain(Vec::new()), Err(InvalidRequest::EmptyChain));
}

/// A15: the first refusal keeps its text, wherever it stands; the others name it; nothing is applied.
#[test]
fn the_first_refusal_counts() {
    let ledger = with_accounts(&[("a", 10), ("b", 0)]);
    let before = (state(&ledger, "a"), state(&ledger, "b"));
    let ghost = "Account ghost not found";
    let cases = [
        // The unknown account is known before the lack of funds, but it stands later.
        (vec![update("a", 1), update("a", -12), update("ghost", 1)], 1, "Insufficient balance: current=11, delta=-12"),
        (vec![update("ghost", 1), update("a", -11)], 0, ghost),
        (vec![update("a", 1), transfer("b", "ghost", 1)], 1, ghost),
        (vec![update("a", 1), create("b", 5), update("b", -1)], 1, "Account b already exists"),
        (vec![create("n", 5), update("n", -6)], 1, "Insufficient balance: current=5, delta=-6"),
        (vec![update("n", 1), create("n", 5)], 0, "Account n not found"),
        (vec![create("n", 5), create("n", 5)], 1, "Account n already exists"),
    ];
    for (operations, index, text) in cases {
        let members = operations.len();
        let outcome = decide(&ledger, chain(operations));
        let expected: Vec<_> =
            (0..members).map(|at| if at == index { Err(text.to_owned()) } else { group_failed(index) }).collect();
        assert_eq!(texts(&outcome), expected);
        assert_eq!((state(&ledger, "a"), state(&ledger, "b")), before);
        assert!(ledger.balance(&account("n")).is_none(), "a refused chain opens nothing");
    }
    assert_eq!((ledger.stats().accounts, ledger.snapshot().expect("few").len()), (2, 2));
    let opened = ledger.create(&account("n"), 1).expect("still to be had")[0].clone();
    assert_eq!(opened.version, 1);
}

/// A15: a chain opens an account and uses it.
#[test]
fn a_chain_uses_what_it_opened() {
    let ledger = with_accounts(&[("a", 0)]);
    let outcome = decide(&ledger, chain([create("n", 10), update("n", 5), transfer("n", "a", 15)]));
    assert_eq!(texts(&outcome), [Ok(vec![10]), Ok(vec![15]), Ok(vec![0, 15])]);
    let opened = state(&ledger, "n");
    assert_eq!((opened.balance, opened.version, opened.sequence), (0, 3, 2));
    assert_eq!(ledger.stats().accounts, 2);
}

/// A12, A15, case A06: a chain that overflows in its middle is refused there, though its sum would fit.
#[test]
fn a_chain_overflows_where_it_does() {
    let ledger = with_accounts(&[("z", 0)]);
    let outcome = decide(&ledger, chain([update("z", i64::MAX), update("z", 1), update("z", -i64::MAX)]));
    let text = "Balance out of range: current=9223372036854775807, delta=1".to_owned();
    assert_eq!(texts(&outcome), [group_failed(1), Err(text), group_failed(1)]);
    assert_eq!((balance(&ledger, "z"), state(&ledger, "z").version), (0, 1));
}

/// A14: a chain has at most 1,024 legs, an operation on two accounts being two of them.
#[test]
fn a_chain_is_bounded_in_legs() {
    let ledger = with_accounts(&[("a", 1), ("b", 0)]);
    let updates = |count: usize| (0..count).map(|_| Member { id: None, operation: update("a", 1) }).collect();
    let transfers = |count: usize| (0..count).map(|_| Member { id: None, operation: transfer("a", "b", 1) }).collect();
    let largest = Request::chain(updates(MAX_LEGS)).expect("just small enough");
    assert_eq!(decide(&ledger, largest).results().len(), 1024);
    assert_eq!((balance(&ledger, "a"), state(&ledger, "a").version), (1025, 1025));
    decide(&ledger, Request::chain(transfers(512)).expect("just small enough")).result().expect("accepted");
    assert_eq!((balance(&ledger, "a"), balance(&ledger, "b")), (513, 512));
    assert_eq!(Request::chain(updates(1025)), Err(InvalidRequest::TooManyLegs { legs: 1025 }));
    assert_eq!(Request::chain(transfers(513)), Err(InvalidRequest::TooManyLegs { legs: 1026 }));
}

/// A14, A15: a chain over 1,024 different accounts commits under one sequence.
#[test]
fn a_chain_may_span_many_accounts() {
    let names: Vec<_> = (0..512).map(|number| format!("n{number:04}")).collect();
    let ledger = with_accounts(&[("a", 512)]);
    // In descending order of ids: the order of acquisition is not that of the request.
    decide(&ledger, chain(names.iter().rev().map(|name| create(name, 0)))).result().expect("accepted");
    decide(&ledger, chain(names.iter().rev().map(|name| transfer("a", name, 1)))).result().expect("accepted");
    let snapshot = ledger.snapshot().expect("few");
    assert_eq!((snapshot.len(), snapshot.total(), snapshot.sequence()), (513, 512, 3));
    let last = snapshot.get(&account("n0000")).expect("open");
    assert_eq!((last.balance, last.version, last.sequence), (1, 2, 3));
    assert_eq!(balance(&ledger, "a"), 0);
}

/// B1, B2, case A02 (d): an id twice in one chain is refused before anything is decided.
#[test]
fn a_chain_carries_an_id_once() {
    let ledger = with_accounts(&[("a", 0)]);
    let twice = ["x", "y", "x"].map(|name| Member { id: Some(id(name)), operation: update("a", 1) });
    assert_eq!(Request::chain(twice.to_vec()), Err(InvalidRequest::IdTwiceInChain { id: id("x") }));
    assert_eq!((ledger.sequence(), ledger.stats().ids), (1, 0));
    assert!(!decide(&ledger, named(update("a", 1), "x")).replayed(), "the id was not used up");
}

/// B1, B2, A15, case A02 (j): a chain that was applied, or refused, is answered as it was when it is sent again.
#[test]
fn a_chain_sent_again_is_a_replay() {
    let ledger = with_accounts(&[("a", 10), ("b", 0)]);
    let accepted = || named_chain([(transfer("a", "b", 4), "p1"), (transfer("a", "b", 5), "p2")]);
    let refused = || named_chain([(transfer("a", "b", 1), "q1"), (transfer("a", "b", 1), "q2")]);
    let first = decide(&ledger, accepted());
    let first_refused = decide(&ledger, refused());
    let short = "Insufficient balance in account a: current=0, required=1".to_owned();
    assert_eq!(texts(&first_refused), [group_failed(1), Err(short)]);
    ledger.update(&account("a"), 100).expect("enough");
    for (request, first) in [(accepted(), first), (refused(), first_refused)] {
        let again = decide(&ledger, request);
        assert!(again.replayed() && !first.replayed());
        assert_eq!((again.sequence(), texts(&again)), (first.sequence(), texts(&first)));
    }
    assert_eq!((balance(&ledger, "a"), balance(&ledger, "b"), ledger.sequence()), (101, 9, 5));
}

/// B1, B3, case A02 (j): a chain in which one id was used alone is refused whole, and its other ids stay free.
#[test]
fn a_chain_with_a_used_id_is_refused_whole() {
    let ledger = with_accounts(&[("a", 10)]);
    decide(&ledger, named(update("a", 1), "used")).result().expect("accepted");
    let before = (ledger.sequence(), state(&ledger, "a"));
    let request = named_chain([(update("a", 2), "free-1"), (update("a", 1), "used"), (update("a", 4), "free-2")]);
    let error = ledger.submit(request).expect_err("an id is another transaction's");
    assert_eq!(error, SubmitError::Invalid(InvalidRequest::IdOfAnother { id: id("used"), index: 1 }));
    assert_eq!((ledger.sequence(), state(&ledger, "a")), before, "never half a chain");
    for name in ["free-1", "free-2"] {
        assert!(ledger.transaction(&id(name)).expect("readable").is_none());
        assert!(!decide(&ledger, named(update("a", 8), name)).replayed(), "{name} was not used up");
    }
    assert_eq!(balance(&ledger, "a"), 27);
}

/// B1, B2, A15: a member of a chain sent alone is answered as it was in the chain.
#[test]
fn a_member_sent_alone_is_a_replay() {
    let ledger = with_accounts(&[("a", 10), ("b", 0)]);
    let request = named_chain([(update("a", 5), "m0"), (transfer("a", "b", 15), "m1"), (create("n", 3), "m2")]);
    let whole = decide(&ledger, request);
    let members = [(update("a", 5), "m0"), (transfer("a", "b", 15), "m1"), (create("n", 3), "m2")];
    for (index, (operation, name)) in members.into_iter().enumerate() {
        let again = decide(&ledger, named(operation.clone(), name));
        assert!(again.replayed());
        assert_eq!(again.sequence(), whole.sequence());
        assert_eq!(again.results(), [whole.results()[index].clone()]);
        assert_eq!(again.members().len(), 1);
        assert_eq!(again.members()[0].operation, operation);
        let found = ledger.transaction(&id(name)).expect("readable").expect("known by its id");
        assert_eq!((found.results(), found.replayed()), (again.results(), false));
    }
    let other = ledger.submit(named(update("a", 6), "m0")).expect_err("another delta");
    assert_eq!(other, SubmitError::Invalid(InvalidRequest::IdReused { id: id("m0"), field: "delta" }));
    assert_eq!((balance(&ledger, "a"), balance(&ledger, "b")), (0, 15));
}

/// B1, A15: a refused chain's members, sent alone, keep the answer that they got in it.
#[test]
fn a_refused_member_sent_alone_keeps_its_answer() {
    let ledger = with_accounts(&[("a", 0)]);
    decide(&ledger, named_chain([(update("a", 5), "g0"), (update("a", -6), "g1")]));
    let first = decide(&ledger, named(update("a", 5), "g0"));
    assert_eq!((refusal(&first), first.replayed()), ("Linked group failed at operation 1".to_owned(), true));
    let second = decide(&ledger, named(update("a", -6), "g1"));
    assert_eq!(refusal(&second), "Insufficient balance: current=5, delta=-6");
    assert_eq!(balance(&ledger, "a"), 0);
}

/// A9, A15: nobody sees a chain half applied, in a snapshot or in two reads.
#[test]
fn a_chain_is_seen_whole_or_not_at_all() {
    let ledger = with_accounts(&[("a", 0), ("m", 0), ("z", 0)]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut snapshots = 0;
            while !done.load(Ordering::Relaxed) {
                let snapshot = ledger.snapshot().expect("few are open");
                let seen = ["a", "m", "z"].map(|name| snapshot.get(&account(name)).expect("open").balance);
                assert!(seen[0] == seen[1] && seen[1] == seen[2], "half a chain: {seen:?}");
                let first = balance(&ledger, "z");
                assert!(balance(&ledger, "a") >= first, "half a chain in two reads");
                snapshots += 1;
            }
            snapshots
        });
        together(3, |_| {
            for _ in 0..rounds(8_000) {
                let outcome = decide(&ledger, chain([update("z", 1), update("a", 1), update("m", 1)]));
                outcome.result().expect("no ceiling is near");
            }
        });
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("nothing torn") > 0);
    });
    assert_eq!(balance(&ledger, "m"), 3 * rounds(8_000) as i64);
}

/// A12, A15: concurrent chains that must lose leave nothing behind for those that win.
#[test]
fn refused_chains_leave_nothing_behind() {
    let ledger = with_accounts(&[("a", 100), ("b", 100)]);
    let accepted: usize = together(6, |thread| {
        (0..rounds(2_000))
            .filter(|_| {
                let outcome = match thread % 3 {
                    0 => decide(&ledger, chain([update("a", 5), update("b", -1_000_000)])),
                    1 => decide(&ledger, chain([update("a", 5), update("ghost", 1), update("b", 5)])),
                    _ => decide(&ledger, chain([transfer("a", "b", 1), transfer("b", "a", 1)])),
                };
                outcome.result().is_ok()
            })
            .count()
    })
    .into_iter()
    .sum();
    assert_eq!(accepted, 2 * rounds(2_000));
    assert_eq!((balance(&ledger, "a"), balance(&ledger, "b")), (100, 100));
    assert_eq!(state(&ledger, "a").version, 1 + 2 * accepted as u64);
    assert_eq!(decide(&ledger, alone(update("a", 0))).sequence(), 3 + 6 * rounds(2_000) as u64, "refusals count too");
}
