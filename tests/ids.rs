//! Transaction ids: a request that carries one has its effect once, and everybody who sends it gets the first answer.

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{
    Random, SOON, account, alone, balance, create, decide, id, named, named_chain, open, post, refusal, rounds, state,
    texts, together, transfer, update, with_accounts,
};
use equipoise::{InvalidRequest, Ledger, Member, Operation, Request, SubmitError};

fn reused(ledger: &Ledger, operation: Operation, name: &str) -> &'static str {
    match ledger.submit(named(operation, name)) {
        Err(SubmitError::Invalid(InvalidRequest::IdReused { field, id })) => {
            assert_eq!(id.as_str(), name);
            field
        }
        other => panic!("not a reused id: {other:?}"),
    }
}

/// B1: the same id again returns the first answer, marked, and applies nothing.
#[test]
fn the_same_id_again_is_a_replay() {
    let ledger = with_accounts(&[("a", 100), ("b", 0)]);
    let requests = [
        named(update("a", 5), "u"),
        named(transfer("a", "b", 7), "t"),
        named(create("n", 9), "c"),
        named(post(&[("a", -1), ("b", 1)]), "p"),
    ];
    let first: Vec<_> = requests.iter().map(|request| decide(&ledger, request.clone())).collect();
    ledger.update(&account("a"), 1_000).expect("the accounts go on");
    let sequence = ledger.sequence();
    for (request, first) in requests.into_iter().zip(first) {
        for _ in 0..2 {
            let again = decide(&ledger, request.clone());
            assert!(again.replayed() && !first.replayed());
            assert_eq!((again.sequence(), again.time()), (first.sequence(), first.time()));
            assert_eq!(again.results(), first.results(), "balances, versions and sequences of that time");
        }
    }
    assert_eq!(ledger.sequence(), sequence);
    assert_eq!((balance(&ledger, "a"), balance(&ledger, "b")), (1_097, 8));
    assert_eq!(ledger.stats().ids, 4);
}

/// B1: without an id there is no protection.
#[test]
fn without_an_id_each_time_counts() {
    let ledger = with_accounts(&[("a", 0)]);
    for _ in 0..3 {
        assert!(!decide(&ledger, alone(update("a", 5))).replayed());
    }
    assert_eq!((balance(&ledger, "a"), ledger.stats().ids), (15, 0));
}

/// B1, B3, case A04: refusals are stored answers too.
#[test]
fn refusals_keep_their_ids() {
    let ledger = with_accounts(&[("a", 0), ("b", 0)]);
    let r1 = || named(update("a", -5), "r1");
    let text = "Insufficient balance: current=0, delta=-5";
    let first = decide(&ledger, r1());
    assert_eq!((refusal(&first), first.replayed()), (text.to_owned(), false));
    decide(&ledger, named(update("a", 100), "d1")).result().expect("accepted");
    let again = decide(&ledger, r1());
    assert_eq!((refusal(&again), again.replayed(), again.sequence()), (text.to_owned(), true, first.sequence()));
    assert_eq!(reused(&ledger, update("a", -6), "r1"), "delta");
    assert_eq!(refusal(&decide(&ledger, r1())), text, "a wrong reuse changes nothing");

    let r2 = || named(update("ghost", 1), "r2");
    assert_eq!(refusal(&decide(&ledger, r2())), "Account ghost not found");
    ledger.create(&account("ghost"), 0).expect("created");
    assert_eq!(refusal(&decide(&ledger, r2())), "Account ghost not found");
    assert_eq!(balance(&ledger, "ghost"), 0);

    let r4 = || named(create("a", 0), "r4");
    assert_eq!(refusal(&decide(&ledger, r4())), "Account a already exists");
    assert!(decide(&ledger, r4()).replayed());
    assert_eq!(balance(&ledger, "a"), 100);
}

/// B1, case A04: a malformed request cannot use its id up.
#[test]
fn malformed_requests_leave_their_ids() {
    let ledger = with_accounts(&[("a", 5), ("b", 0)]);
    for (from, to, amount) in [("a", "a", 1), ("a", "b", 0), ("a", "b", -1)] {
        assert!(Operation::transfer(account(from), account(to), amount).is_err());
    }
    let fresh = decide(&ledger, named(transfer("a", "b", 1), "r3"));
    assert!(!fresh.replayed() && fresh.result().is_ok());
    assert!(Operation::create(account("neg"), -1).is_err());
    assert!(!decide(&ledger, named(create("neg", 1), "r5")).replayed());
}

/// B3: the first field that differs is named, by its name and order in the contract.
#[test]
fn another_request_under_one_id_is_named() {
    let ledger = with_accounts(&[("a", 100), ("b", 100), ("c", 0)]);
    decide(&ledger, named(create("n", 1), "c"));
    decide(&ledger, named(update("a", 1), "u"));
    decide(&ledger, named(transfer("a", "b", 1), "t"));
    let sequence = ledger.sequence();
    assert_eq!(reused(&ledger, create("m", 1), "c"), "account_id");
    assert_eq!(reused(&ledger, create("n", 2), "c"), "initial_balance");
    assert_eq!(reused(&ledger, create("m", 2), "c"), "account_id", "the first that differs");
    assert_eq!(reused(&ledger, update("b", 1), "u"), "account_id");
    assert_eq!(reused(&ledger, update("a", 2), "u"), "delta");
    assert_eq!(reused(&ledger, update("b", 2), "u"), "account_id");
    assert_eq!(reused(&ledger, transfer("c", "b", 1), "t"), "from_account_id");
    assert_eq!(reused(&ledger, transfer("a", "c", 1), "t"), "to_account_id");
    assert_eq!(reused(&ledger, transfer("a", "b", 2), "t"), "amount");
    assert_eq!(reused(&ledger, transfer("b", "a", 2), "t"), "from_account_id");
    assert_eq!(reused(&ledger, transfer("a", "c", 2), "t"), "to_account_id");
    assert_eq!(reused(&ledger, update("a", 1), "t"), "operation");
    assert_eq!(reused(&ledger, transfer("a", "b", 1), "u"), "operation");
    assert_eq!(reused(&ledger, create("a", 1), "u"), "operation");
    let text = ledger.submit(named(update("a", 2), "u")).expect_err("reused").to_string();
    assert_eq!(text, "transaction_id u was used with another delta");
    assert_eq!(ledger.sequence(), sequence, "nothing of it was decided");
    assert!(decide(&ledger, named(update("a", 1), "u")).replayed(), "the id still knows its own");
}

/// B1, B3, case A02 (c): in one go or in two, the second with another delta is refused.
#[test]
fn an_id_twice_in_a_row() {
    let ledger = with_accounts(&[("a", 0)]);
    assert!(!decide(&ledger, named(update("a", 5), "x")).replayed());
    assert!(decide(&ledger, named(update("a", 5), "x")).replayed());
    assert_eq!(reused(&ledger, update("a", 6), "x"), "delta");
    assert_eq!(balance(&ledger, "a"), 5);
}

/// B2: of 10 concurrent requests with one id exactly one executes, and all ten get its answer.
#[test]
fn concurrent_duplicates_execute_once() {
    for round in 0..rounds(300) {
        let ledger = with_accounts(&[("a", 100), ("b", 0)]);
        let request = match round % 3 {
            0 => named(update("a", 10), "x"),
            1 => named(transfer("a", "b", 30), "x"),
            _ => named(update("a", -101), "x"),
        };
        let outcomes = together(10, |_| decide(&ledger, request.clone()));
        assert_eq!(outcomes.iter().filter(|outcome| !outcome.replayed()).count(), 1);
        for outcome in &outcomes {
            assert_eq!(outcome.sequence(), 3);
            assert_eq!(texts(outcome), texts(&outcomes[0]));
        }
        assert_eq!(ledger.sequence(), 3, "decided once");
        let expected = [(110, 0), (70, 30), (100, 0)][round % 3];
        assert_eq!((balance(&ledger, "a"), balance(&ledger, "b")), expected);
    }
}

/// B1, B2: duplicates of a create, while others create the same account under other ids.
#[test]
fn concurrent_creates_with_ids() {
    for _ in 0..rounds(200) {
        let ledger = Ledger::new();
        let outcomes = together(8, |thread| {
            let name = format!("id-{}", thread % 4);
            decide(&ledger, named(create("n", 1), &name))
        });
        let accepted: Vec<_> = (0..8).filter(|thread| outcomes[*thread].result().is_ok()).collect();
        assert_eq!(accepted.len(), 2, "one id wins, and both its senders hear so");
        assert_eq!(accepted[0] + 4, accepted[1]);
        for thread in 0..4 {
            let [one, other] = [&outcomes[thread], &outcomes[thread + 4]];
            assert_eq!((one.sequence(), texts(one)), (other.sequence(), texts(other)));
            assert_ne!(one.replayed(), other.replayed());
        }
        assert_eq!((ledger.sequence(), state(&ledger, "n").version), (4, 1));
    }
}

/// B5: the bound holds for chains, each of which brings many ids, or a single one that takes the room of many.
#[test]
fn ids_of_chains_are_forgotten_as_they_come() {
    let every = |step| (0..512).map(|member| (member % step == 0).then_some(member)).collect();
    for (ids, most) in [(vec![Some(0)], 1_000), ((0..9).map(Some).collect(), 520), (every(9), 200), (every(512), 3)] {
        let ledger = open(Ledger::builder().id_capacity(1_000).build(), &[("a", 10_000_000), ("b", 0)]);
        for number in 0..3_000 / ids.len().min(100) {
            let member = |at: &Option<usize>| Member {
                id: at.map(|at| id(&format!("{number}-{at}"))),
                operation: transfer("a", "b", 1),
            };
            decide(&ledger, Request::chain(ids.iter().map(member).collect()).expect("a chain"));
        }
        let kept = ledger.stats().ids;
        assert!(kept <= most, "{kept} ids of chains of {}", ids.len());
    }
}

/// B2: also while old ids are being forgotten: duplicates among thousands of other ids, with room for 2,048.
#[test]
fn concurrent_duplicates_execute_once_while_the_sweep_runs() {
    const DUPLICATES: usize = 10;
    const OTHERS: usize = 2;
    const OTHER_IDS: u64 = 400;
    for history in [false, true] {
        let builder = Ledger::builder().id_capacity(2_048);
        let ledger = if history { builder.history(100_000).build() } else { builder.build() };
        let ledger = open(ledger, &[("a", 0), ("b", 0)]);
        let rounds = rounds(160);
        let start = Barrier::new(DUPLICATES + OTHERS);
        let fresh = AtomicU64::new(0);
        together(DUPLICATES + OTHERS, |thread| {
            for round in 0..rounds {
                // All of a round are through before the next begins: fewer ids than the sweep keeps lie between.
                start.wait();
                if thread < DUPLICATES {
                    let outcome = decide(&ledger, named(update("a", 1), &format!("duplicate-{round}")));
                    assert_eq!(outcome.result().expect("accepted")[0].balance, round as i64 + 1);
                    fresh.fetch_add(u64::from(!outcome.replayed()), Ordering::Relaxed);
                } else {
                    for other in 0..OTHER_IDS {
                        decide(&ledger, named(update("b", 1), &format!("other-{thread}-{round}-{other}")));
                    }
                }
            }
        });
        let submitted = rounds as u64 * (1 + OTHERS as u64 * OTHER_IDS);
        assert_eq!(fresh.into_inner(), rounds as u64, "each round's id was fresh once");
        assert_eq!(balance(&ledger, "a"), rounds as i64);
        assert_eq!(ledger.sequence(), 2 + submitted);
        // Ids that are not durable yet must stay; once they are, they go in the background, or with the next calls: the thread that
        // forgot may have slept until all others were through.
        ledger.wait_durable(ledger.sequence()).expect("not closed");
        let started = Instant::now();
        while ledger.stats().ids > 2_048 + 256 {
            let kept = ledger.stats().ids;
            assert!(started.elapsed() < SOON, "{kept} of {submitted} ids are kept");
            decide(&ledger, named(update("b", 1), &format!("later-{}", ledger.sequence())));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(ledger.stats().ids >= 1_024, "no more are forgotten than must be");
        assert!(
            ledger.transaction(&id(&format!("duplicate-{}", rounds - 1))).expect("readable").is_some(),
            "the newest stay"
        );
        assert!(ledger.transaction(&id("duplicate-0")).expect("readable").is_none(), "the oldest go");
    }
}

/// B1, B2, A15: ids sent at the same moment alone and in chains are executed once, whoever wins; nobody gets half a
/// chain, and a single operation is never refused for a chain that did not run.
#[test]
fn chains_and_singles_race_for_ids() {
    const MEMBERS: usize = 24;
    let rounds = rounds(2_000);
    let ledger = with_accounts(&[("a", 0)]);
    let start = Barrier::new(6);
    let answers = together(6, |thread| {
        let mut random = Random(thread as u64);
        (0..rounds)
            .map(|round| {
                let member = |index: usize| Member {
                    id: Some(id(&format!("{round}-{index:02}"))),
                    operation: update("a", if index == 0 || index == MEMBERS - 1 { 1 } else { 100 }),
                };
                let request = match thread {
                    0 => Request::single(member(0).operation, member(0).id),
                    1 => Request::single(member(MEMBERS - 1).operation, member(MEMBERS - 1).id),
                    2 | 3 => Request::chain((0..MEMBERS).map(member).collect()).expect("a chain"),
                    _ => Request::chain((0..MEMBERS).rev().map(member).collect()).expect("a chain"),
                };
                start.wait();
                for _ in 0..random.below(3_000) {
                    std::hint::spin_loop();
                }
                ledger.submit(request)
            })
            .collect::<Vec<_>>()
    });
    let mut won = 0;
    for round in 0..rounds {
        let single = |thread: usize| {
            let answer = answers[thread][round].as_ref();
            let outcome = answer.unwrap_or_else(|error| panic!("round {round}: a single operation got: {error}"));
            assert!(outcome.result().is_ok());
            outcome.sequence()
        };
        let owners = [single(0), single(1)];
        let chains: Vec<_> = answers[2..].iter().map(|answers| &answers[round]).collect();
        for answer in &chains {
            match answer {
                Ok(outcome) => {
                    let sequence = outcome.sequence();
                    assert_eq!(owners, [sequence, sequence], "a chain that ran owns all its ids");
                    assert_eq!(outcome.results().len(), MEMBERS);
                }
                Err(SubmitError::Invalid(InvalidRequest::IdOfAnother { .. })) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let middle = ledger.transaction(&id(&format!("{round}-01"))).expect("readable");
        let chain_won = chains.iter().any(|answer| answer.is_ok());
        assert_eq!(middle.is_some(), chain_won, "the ids of a chain that did not run are free");
        won += i64::from(chain_won);
    }
    assert!(won > 0 && won < rounds as i64, "{won} of {rounds}: both ends of the race must be met");
    assert_eq!(balance(&ledger, "a"), 2 * rounds as i64 + won * 100 * (MEMBERS as i64 - 2), "each id counts once");
}

/// B1, B3: a chain that lost the race for its ids never used one up: another request under it is no reuse.
#[test]
fn a_chain_that_did_not_run_used_no_id_up() {
    const MEMBERS: usize = 24;
    let ledger = with_accounts(&[("a", 0)]);
    let start = Barrier::new(3);
    let rounds = rounds(4_000);
    let answers = together(3, |thread| {
        let mut random = Random(thread as u64);
        let member =
            |round, index: usize| Member { id: Some(id(&format!("{round}-{index:02}"))), operation: update("a", 1) };
        (0..rounds)
            .map(|round| {
                let request = match thread {
                    0 => named(update("a", 2), &format!("{round}-00")),
                    1 => Request::single(update("a", 1), member(round, MEMBERS - 1).id),
                    _ => Request::chain((0..MEMBERS).map(|index| member(round, index)).collect()).expect("a chain"),
                };
                start.wait();
                for _ in 0..random.below(3_000) {
                    std::hint::spin_loop();
                }
                ledger.submit(request)
            })
            .collect::<Vec<_>>()
    });
    for (round, (first, chain)) in answers[0].iter().zip(&answers[2]).enumerate() {
        match (first, chain) {
            (Ok(first), Err(_)) => assert!(!first.replayed()),
            (Err(SubmitError::Invalid(InvalidRequest::IdReused { field: "delta", .. })), Ok(_)) => {}
            (first, chain) => panic!("round {round}: the other delta: {first:?}; the chain: {chain:?}"),
        }
    }
}

/// B1, B2: a chain and its duplicates, at once, are one execution.
#[test]
fn concurrent_duplicate_chains_execute_once() {
    for _ in 0..rounds(200) {
        let ledger = with_accounts(&[("a", 10), ("b", 0)]);
        let outcomes =
            together(6, |_| decide(&ledger, named_chain([(transfer("a", "b", 6), "x"), (transfer("b", "a", 1), "y")])));
        assert_eq!(outcomes.iter().filter(|outcome| !outcome.replayed()).count(), 1);
        for outcome in &outcomes {
            assert_eq!((outcome.sequence(), texts(outcome)), (3, vec![Ok(vec![4, 6]), Ok(vec![5, 5])]));
        }
        assert_eq!((balance(&ledger, "a"), ledger.sequence()), (5, 3));
    }
}

/// B1: what was decided for an id can be asked for; an id never seen is none, and asking does not use it up.
#[test]
fn an_outcome_is_found_by_its_id() {
    let ledger = with_accounts(&[("a", 1)]);
    assert!(ledger.transaction(&id("x")).expect("readable").is_none());
    let first = decide(&ledger, named(update("a", -2), "x"));
    assert!(!first.replayed());
    let found = ledger.transaction(&id("x")).expect("readable").expect("known");
    assert_eq!((found.sequence(), found.results(), found.replayed()), (first.sequence(), first.results(), false));
    assert_eq!(found.members()[0].id, Some(id("x")));
}

/// B1: ids are compared by bytes, as account ids are, and an id may be 128 bytes long.
#[test]
fn ids_are_compared_by_bytes() {
    let ledger = with_accounts(&[("a", 0)]);
    let long = "x".repeat(128);
    for name in ["\u{e9}", "e\u{301}", "X", "x", "x ", &long] {
        assert!(!decide(&ledger, named(update("a", 1), name)).replayed());
        assert!(decide(&ledger, named(update("a", 1), name)).replayed());
    }
    assert_eq!(balance(&ledger, "a"), 6);
}
