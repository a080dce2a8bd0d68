//! Postings: N accounts changed at once, the sum kept.

mod common;

use common::{
    Random, account, balance, named, post, posting, refused, rounds, state, together, undecided, with_accounts,
};
use equipoise::{InvalidRequest, MAX_LEGS, Operation, Posting};

/// A9, A12: all legs are applied under one sequence; the answer is in the order of the request.
#[test]
fn a_posting_changes_all_its_accounts() {
    let ledger = with_accounts(&[("a", 100), ("b", 0), ("c", 10)]);
    let after = ledger.post(posting(&[("c", 25), ("a", -30), ("b", 5)])).expect("enough");
    let shown: Vec<_> = after.iter().map(|state| (state.id.as_str(), state.balance, state.version)).collect();
    assert_eq!(shown, [("c", 35, 2), ("a", 70, 2), ("b", 5, 2)]);
    assert!(after.iter().all(|state| state.sequence == 4));
    assert_eq!(after[1], state(&ledger, "a"));
}

/// A12, A14: legs that make money, name an account twice or are too many are no posting.
#[test]
fn a_posting_is_balanced() {
    let invalid = |legs: &[(&str, i64)]| Operation::post(posting(legs)).expect_err("not a posting");
    assert_eq!(invalid(&[]), InvalidRequest::EmptyPosting);
    assert_eq!(invalid(&[]).to_string(), "a posting needs at least one leg");
    assert_eq!(invalid(&[("a", 1)]), InvalidRequest::PostingUnbalanced { sum: 1 });
    let wrapping = invalid(&[("a", i64::MAX), ("b", i64::MAX), ("c", 2)]);
    assert_eq!(wrapping.to_string(), "the legs of a posting must add up to 0, got 18446744073709551616");
    let twice = invalid(&[("a", 1), ("b", -2), ("a", 1)]);
    assert_eq!(twice, InvalidRequest::PostingTwice { account: account("a") });
    let zeros = |count: usize| -> Vec<_> {
        (0..count).map(|number| Posting { account: account(&format!("n{number}")), delta: 0 }).collect()
    };
    assert!(Operation::post(zeros(MAX_LEGS)).is_ok());
    assert!(Operation::post(zeros(1)).is_ok(), "a posting may have one leg");
    let many = Operation::post(zeros(1025)).expect_err("too many");
    assert_eq!(many, InvalidRequest::TooManyLegs { legs: 1025 });
    assert_eq!(many.to_string(), "a transaction has at most 1024 legs, got 1025");
    let ledger = with_accounts(&[("a", 1)]);
    assert_eq!(undecided(ledger.post(posting(&[("a", 1)]))), "the legs of a posting must add up to 0, got 1");
    assert_eq!(ledger.sequence(), 1);
}

/// A12, A13: a posting that one account cannot follow changes none of them; the text names that account.
#[test]
fn a_refused_posting_changes_nothing() {
    let ledger = with_accounts(&[("a", 5), ("b", 0), ("max", i64::MAX)]);
    let before: Vec<_> = ledger.snapshot().expect("few").iter().collect();
    let refused = |legs: &[(&str, i64)]| refused(ledger.post(posting(legs)));
    let short = "Insufficient balance in account a: current=5, required=6";
    assert_eq!(refused(&[("b", 6), ("a", -6)]), short);
    let huge = "Insufficient balance in account a: current=5, required=9223372036854775808";
    assert_eq!(refused(&[("a", i64::MIN), ("b", i64::MAX), ("max", 1)]), huge);
    let full = "Balance out of range in account max: current=9223372036854775807, amount=1";
    assert_eq!(refused(&[("a", -1), ("max", 1)]), full);
    assert_eq!(refused(&[("a", -6), ("phantom", 3), ("ghost", 3)]), "Account phantom not found", "in their order");
    let after: Vec<_> = ledger.snapshot().expect("few").iter().collect();
    assert_eq!(before, after);
}

/// B1, B3: a posting with an id is executed once, and its legs are compared.
#[test]
fn a_posting_is_replayed() {
    let ledger = with_accounts(&[("a", 5), ("b", 0)]);
    let first = ledger.submit(named(post(&[("a", -2), ("b", 2)]), "x")).expect("decided");
    let again = ledger.submit(named(post(&[("a", -2), ("b", 2)]), "x")).expect("decided");
    assert!(again.replayed());
    assert_eq!((again.sequence(), again.result()), (first.sequence(), first.result()));
    let other = ledger.submit(named(post(&[("b", 2), ("a", -2)]), "x")).expect_err("other legs");
    assert_eq!(other.to_string(), "transaction_id x was used with other legs");
    assert_eq!(balance(&ledger, "a"), 3);
}

/// A9, A10: the total stays constant under postings of up to eight legs on eight threads.
#[test]
fn postings_keep_the_total() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let ledger = with_accounts(&names.map(|name| (name, 500)));
    let accepted: usize = together(8, |thread| {
        let mut random = Random(thread as u64);
        (0..rounds(3_000))
            .filter(|round| {
                if round.is_multiple_of(64) {
                    assert_eq!(ledger.snapshot().expect("few are open").total(), 4_000);
                }
                let count = 2 + random.below(7);
                let first = random.below(8);
                let mut legs: Vec<_> =
                    (0..count).map(|leg| (names[(first + 3 * leg) % 8], random.between(-200, 200))).collect();
                let rest: i64 = legs[1..].iter().map(|(_, delta)| delta).sum();
                legs[0].1 = -rest;
                ledger.post(posting(&legs)).is_ok()
            })
            .count()
    })
    .into_iter()
    .sum();
    assert!(accepted > 0);
    let snapshot = ledger.snapshot().expect("few are open");
    assert_eq!(snapshot.total(), 4_000);
    assert!(snapshot.iter().all(|state| state.balance >= 0));
}
