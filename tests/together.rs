//! Requests of one call: each for itself, in their order.

mod common;

use std::collections::HashMap;

use common::{
    Random, account, alone, balance, chain, create, named, named_chain, open, post, rounds, together, transfer, update,
};
use equipoise::{InvalidRequest, Ledger, Outcome, Refusal, Request, SubmitError};

/// What became of each: whether it was accepted and whether replayed.
fn ends(outcomes: &[Result<Outcome, SubmitError>]) -> Vec<(bool, bool)> {
    let outcomes = outcomes.iter().map(|outcome| outcome.as_ref().expect("decided"));
    outcomes.map(|outcome| (outcome.results().iter().all(Result::is_ok), outcome.replayed())).collect()
}

fn sequences(outcomes: &[Result<Outcome, SubmitError>]) -> Vec<u64> {
    outcomes.iter().flatten().map(Outcome::sequence).collect()
}

/// A15: a later one sees what the earlier ones made, also of the same account, and a refusal stops none of the others.
#[test]
fn a_later_one_sees_the_earlier_ones() {
    let ledger = Ledger::new();
    let outcomes = ledger.submit_all([
        alone(update("a", 1)),
        alone(create("a", 10)),
        alone(create("b", 0)),
        alone(transfer("a", "b", 10)),
        alone(transfer("a", "b", 1)),
        alone(transfer("b", "a", 4)),
        chain([transfer("b", "a", 6), update("b", -1)]),
        alone(update("b", -6)),
        alone(create("a", 1)),
    ]);
    let accepted: Vec<_> = ends(&outcomes).into_iter().map(|(accepted, _)| accepted).collect();
    assert_eq!(accepted, [false, true, true, true, false, true, false, true, false]);
    assert_eq!(sequences(&outcomes), (1..=9).collect::<Vec<_>>());
    assert_eq!([balance(&ledger, "a"), balance(&ledger, "b")], [4, 0]);
}

/// B1, B2, B3: an id twice in one call is executed once; with other parameters it is refused, and used up by nobody.
#[test]
fn an_id_twice_in_one_call_is_executed_once() {
    let ledger = open(Ledger::new(), &[("a", 10), ("b", 0)]);
    ledger.submit(named(update("a", 1), "known")).expect("decided");
    let mut outcomes = ledger.submit_all([
        named(update("a", 1), "one"),
        named(update("a", 1), "one"),
        named(update("b", 5), "two"),
        named(update("a", 1), "known"),
        named(update("a", 2), "one"),
        named_chain([(transfer("a", "b", 1), "three"), (update("b", 1), "four")]),
        named(update("b", 1), "four"),
        named(update("b", -1), "five"),
    ]);
    let reused = outcomes.remove(4);
    assert!(
        matches!(&reused, Err(SubmitError::Invalid(InvalidRequest::IdReused { field: "delta", .. }))),
        "{reused:?}"
    );
    let replayed: Vec<_> = ends(&outcomes).into_iter().map(|(_, replayed)| replayed).collect();
    assert_eq!(replayed, [false, true, false, true, false, true, false]);
    assert_eq!(sequences(&outcomes), [4, 4, 5, 3, 6, 6, 7]);
    assert_eq!([balance(&ledger, "a"), balance(&ledger, "b")], [11, 6]);
}

/// C3, A15: many in one call come to the same as one after the other, whatever they are.
#[test]
fn many_in_one_call_come_to_the_same_as_one_by_one() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let accounts = NAMES.map(|name| (name, 100));
    for seed in 0..rounds(200) as u64 {
        let mut random = Random(seed);
        let requests: Vec<_> = (0..70).map(|_| any_request(&mut random, &NAMES)).collect();
        let [whole, single] = [(); 2].map(|()| open(Ledger::builder().history(1_000).build(), &accounts));
        let whole_outcomes = whole.submit_all(requests.clone());
        let single_outcomes: Vec<_> = requests.into_iter().map(|request| single.submit(request)).collect();
        let told = |outcomes: &[Result<Outcome, SubmitError>]| -> Vec<_> {
            let tell = |outcome: &Outcome| (outcome.sequence(), outcome.replayed(), outcome.results());
            outcomes.iter().map(|outcome| outcome.as_ref().map(tell).map_err(ToString::to_string)).collect()
        };
        assert_eq!(told(&whole_outcomes), told(&single_outcomes), "seed {seed}");
        let all = |ledger: &Ledger| ledger.snapshot().expect("a slot").iter().collect::<Vec<_>>();
        assert_eq!(all(&whole), all(&single), "seed {seed}");
    }
}

fn any_request(random: &mut Random, names: &[&str]) -> Request {
    let (from, to) = random.pair(names.len());
    let (from, to) = (names[from], names[to]);
    let amount = random.between(1, 120);
    let id = format!("id-{}", random.below(60));
    match random.below(7) {
        0 => alone(update(from, -amount)),
        1 => named(update(from, amount), &id),
        2 => named(transfer(from, to, amount), &id),
        3 => chain([transfer(from, to, amount), transfer(to, from, 1), update("nobody", 0)]),
        4 => alone(post(&[(from, -amount), (to, amount)])),
        5 => alone(create(&format!("new-{}", random.below(10)), amount)),
        _ => alone(transfer(from, to, amount)),
    }
}

/// E1, A9, A10, C1, C3: callers with many in one call beside callers with one, a reader of snapshots, and ids that several send: no
/// unit is lost or made, and the journal says the same as the accounts.
#[test]
fn many_callers_with_many_in_one_call() {
    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let ledger = open(Ledger::builder().history(1_000_000).build(), &NAMES.map(|name| (name, 1_000)));
    together(8, |thread| {
        let mut random = Random(thread as u64);
        for round in 0..rounds(400) {
            if thread == 0 {
                assert_eq!(ledger.snapshot().expect("a slot").total(), 12_000);
                continue;
            }
            let requests: Vec<_> = (0..20)
                .map(|place| {
                    let (from, to) = random.pair(NAMES.len());
                    // Every thread sends them, with the same parameters.
                    let shared = place % 5 == 0;
                    let id =
                        if shared { format!("shared-{round}-{place}") } else { format!("{thread}-{round}-{place}") };
                    let (from, to) = if shared { (round % 11, 11) } else { (from, to) };
                    named(transfer(NAMES[from], NAMES[to], 1 + place), &id)
                })
                .collect();
            let outcomes = match thread % 2 {
                0 => ledger.submit_all(requests),
                _ => requests.into_iter().map(|request| ledger.submit(request)).collect(),
            };
            let fresh = outcomes.iter().flatten().filter(|outcome| !outcome.replayed());
            assert!(fresh.map(Outcome::sequence).is_sorted(), "in their order");
            for outcome in outcomes {
                let result = outcome.expect("decided").result();
                assert!(matches!(result, Ok(_) | Err(Refusal::InsufficientIn { .. })), "{result:?}");
            }
        }
    });
    ledger.wait_durable(ledger.sequence()).expect("open");
    let history = ledger.history(0, usize::MAX).expect("all of it is kept");
    assert!(history.iter().map(Outcome::sequence).eq(1..=ledger.sequence()), "dense");
    let mut replayed = HashMap::new();
    for change in history.iter().filter(|outcome| outcome.result().is_ok()).flat_map(Outcome::changes) {
        let held: &mut i64 = replayed.entry(change.account).or_default();
        *held += change.delta;
        assert_eq!((*held, *held >= 0), (change.balance, true));
    }
    assert!(NAMES.iter().all(|name| replayed[&account(name)] == balance(&ledger, name)));
}
