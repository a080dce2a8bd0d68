//! Transfers move money: all of it or none, in one order, and nobody sees half of one.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Random, account, balance, chain, decide, named, refused, rounds, state, together, transfer, undecided, update,
    with_accounts,
};
use equipoise::{InvalidRequest, Ledger, Operation, Refusal};

/// A7: 50 from A (100) to B (200) gives 50 and 250, and one sequence for both.
#[test]
fn a_transfer_moves_an_amount() {
    let ledger = with_accounts(&[("A", 100), ("B", 200)]);
    let after = ledger.transfer(&account("A"), &account("B"), 50).expect("enough");
    assert_eq!(after.as_slice(), [state(&ledger, "A"), state(&ledger, "B")], "source first");
    assert_eq!((after[0].balance, after[0].version, after[0].sequence), (50, 2, 3));
    assert_eq!((after[1].balance, after[1].version, after[1].sequence), (250, 2, 3));
    let back = ledger.transfer(&account("B"), &account("A"), 250).expect("all of it");
    assert_eq!((back[0].id.as_str(), back[0].balance, back[1].balance), ("B", 0, 300));
}

/// A7: same account before amount, amount before accounts, source before destination, both before funds.
#[test]
fn a_transfer_is_checked_in_order() {
    let ledger = with_accounts(&[("a", 10), ("b", 20), ("max", i64::MAX)]);
    let transfer = |from, to, amount| ledger.transfer(&account(from), &account(to), amount);
    let before = ledger.sequence();
    for amount in [1, 0, -1, i64::MIN] {
        assert_eq!(undecided(transfer("a", "a", amount)), "Cannot transfer to the same account");
        assert_eq!(undecided(transfer("ghost", "ghost", amount)), "Cannot transfer to the same account");
    }
    for amount in [0, -1, i64::MIN] {
        assert_eq!(undecided(transfer("ghost", "phantom", amount)), "Transfer amount must be positive");
        assert_eq!(undecided(transfer("a", "b", amount)), "Transfer amount must be positive");
    }
    assert_eq!(ledger.sequence(), before, "nothing of that was decided");
    assert_eq!(refused(transfer("ghost", "phantom", 1)), "Account ghost not found");
    assert_eq!(refused(transfer("phantom", "ghost", 1)), "Account phantom not found", "whichever id is smaller");
    assert_eq!(refused(transfer("ghost", "a", 1)), "Account ghost not found");
    assert_eq!(refused(transfer("b", "ghost", 21)), "Account ghost not found", "before the lack of funds");
    assert_eq!(refused(transfer("b", "a", 21)), "Insufficient balance in account b: current=20, required=21");
    let full = "Balance out of range in account max: current=9223372036854775807, amount=1";
    assert_eq!(refused(transfer("a", "max", 1)), full);
    let short = "Insufficient balance in account a: current=10, required=11";
    assert_eq!(refused(transfer("a", "max", 11)), short, "funds before room");
    assert_eq!((balance(&ledger, "a"), balance(&ledger, "b"), balance(&ledger, "max")), (10, 20, i64::MAX));
    assert_eq!(state(&ledger, "a").version, 1);
}

/// A7: a transfer between handles answers as one between ids does.
#[test]
fn handles_transfer_as_ids_do() {
    let ledger = with_accounts(&[("a", 10), ("b", 20)]);
    let [a, b] = ["a", "b"].map(|name| ledger.account(&account(name)).expect("open"));
    let after = ledger.transfer_between(&b, &a, 15).expect("enough");
    assert_eq!((after[0].id.as_str(), after[0].balance, after[1].balance), ("b", 5, 25));
    let short = "Insufficient balance in account b: current=5, required=6";
    assert_eq!(refused(ledger.transfer_between(&b, &a, 6)), short);
    assert_eq!(undecided(ledger.transfer_between(&a, &a, 0)), "Cannot transfer to the same account");
    assert_eq!(undecided(ledger.transfer_between(&a, &b, 0)), "Transfer amount must be positive");
    let elsewhere = with_accounts(&[("b", 1000)]);
    let stranger = elsewhere.account(&account("b")).expect("open");
    assert_eq!(refused(ledger.transfer_between(&stranger, &a, 1)), "Account b not found");
    assert_eq!((balance(&ledger, "a"), balance(&elsewhere, "b")), (25, 1000));
}

/// A8: 50 A→B beside 50 B→A end within 5 s, with the money where it was.
#[test]
fn transfers_in_both_directions_end() {
    let ledger = with_accounts(&[("A", 1000), ("B", 1000)]);
    let started = Instant::now();
    together(100, |thread| {
        let (from, to) = if thread.is_multiple_of(2) { ("A", "B") } else { ("B", "A") };
        ledger.transfer(&account(from), &account(to), 10).expect("enough")
    });
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!((balance(&ledger, "A"), balance(&ledger, "B")), (1000, 1000));
    assert_eq!((state(&ledger, "A").version, state(&ledger, "B").version), (101, 101));
}

/// A8: 100 transfers among 10 accounts, at once, end within 5 s and keep the total.
#[test]
fn transfers_among_ten_accounts_end() {
    let names: Vec<_> = (0..10).map(|number| format!("account-{number}")).collect();
    let accounts: Vec<_> = names.iter().map(|name| (name.as_str(), 1000)).collect();
    let ledger = with_accounts(&accounts);
    let started = Instant::now();
    let accepted = together(100, |thread| {
        let mut random = Random(thread as u64);
        let (from, to) = random.pair(10);
        ledger.transfer(&account(&names[from]), &account(&names[to]), random.between(1, 100)).is_ok()
    });
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(accepted.iter().all(|accepted| *accepted), "no account can run dry");
    assert_eq!(ledger.snapshot().expect("few").total(), 10_000);
    let changes: u64 = names.iter().map(|name| state(&ledger, name).version - 1).sum();
    assert_eq!(changes, 200);
}

/// A9: whoever reads one account and then the other sees both sides of a transfer or none, in either order.
#[test]
fn nobody_sees_half_a_transfer() {
    const TOTAL: i64 = 100_000_000;
    for (source, drain) in [("a", "b"), ("b", "a")] {
        let ledger = with_accounts(&[(source, TOTAL), (drain, 0)]);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    // Money only flows from `source` to `drain`.
                    let left = balance(&ledger, source);
                    let arrived = balance(&ledger, drain);
                    assert!(left + arrived >= TOTAL, "read second, the drain has at least what the source lacked");
                    let arrived = balance(&ledger, drain);
                    let left = balance(&ledger, source);
                    assert!(left + arrived <= TOTAL, "read second, the source lacks at least what had arrived");
                    reads += 1;
                }
                reads
            });
            for _ in 0..rounds(120_000) {
                ledger.transfer(&account(source), &account(drain), 7).expect("enough");
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().expect("no torn read") > 0);
        });
    }
}

/// A9: of concurrent transfers of all the money exactly one succeeds, wherever it goes.
#[test]
fn money_is_spent_once() {
    for _ in 0..rounds(40) {
        let ledger = with_accounts(&[("m", 100), ("a", 0), ("z", 0)]);
        let accepted = together(12, |thread| match thread % 3 {
            0 => ledger.transfer(&account("m"), &account("a"), 100).is_ok(),
            1 => ledger.transfer(&account("m"), &account("z"), 100).is_ok(),
            _ => ledger.update(&account("m"), -100).is_ok(),
        });
        assert_eq!(accepted.iter().filter(|accepted| **accepted).count(), 1);
        let moved = (0..12).find(|thread| accepted[*thread]).expect("one") % 3;
        let expected = [(100, 0), (0, 100), (0, 0)][moved];
        assert_eq!((balance(&ledger, "m"), (balance(&ledger, "a"), balance(&ledger, "z"))), (0, expected));
    }
}

/// A9: two chains that each prove the other account's money before they spend their own cannot both win (write skew).
#[test]
fn there_is_no_write_skew() {
    for _ in 0..rounds(200) {
        let ledger = with_accounts(&[("a", 60), ("b", 60)]);
        let spend = |own: &str, other: &str| chain([update(other, -60), update(other, 60), update(own, -60)]);
        let accepted = together(2, |thread| {
            let request = if thread == 0 { spend("a", "b") } else { spend("b", "a") };
            decide(&ledger, request).result().is_ok()
        });
        assert_eq!(accepted.iter().filter(|accepted| **accepted).count(), 1);
        let left = [balance(&ledger, "a"), balance(&ledger, "b")];
        assert_eq!(left, if accepted[0] { [0, 60] } else { [60, 0] });
    }
}

/// A5, A6, A7, A9, A12, case A01: debits of every kind arrive together; none overdraws.
#[test]
fn debits_that_arrive_together_do_not_overdraw() {
    for round in 0..rounds(8) {
        overdraft_round(round);
    }
}

fn overdraft_round(round: usize) {
    let payees: Vec<_> = (0..20).map(|number| format!("p{number}")).collect();
    let ledger = with_accounts(&[("W", 1000)]);
    for payee in &payees {
        ledger.create(&account(payee), 0).expect("fresh");
    }
    let done = AtomicBool::new(false);
    let took: Vec<i64> = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(balance(&ledger, "W") >= 0);
                let snapshot = ledger.snapshot().expect("few are open");
                assert!(snapshot.iter().all(|state| state.balance >= 0));
                assert!(snapshot.total() <= 1050);
            }
        });
        let took = together(350, |thread| spend(&ledger, &payees, thread));
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("nothing below 0 was seen");
        took
    });
    assert_eq!(took.iter().filter(|taken| **taken == 1).count(), 50, "every deposit is accepted");
    let spent = took.iter().filter(|taken| **taken < 0).count() as i64;
    assert_eq!(balance(&ledger, "W"), 1050 - 10 * spent, "round {round}");
    let on_payees: i64 = payees.iter().map(|payee| balance(&ledger, payee)).sum();
    let by_transfer = took.iter().skip(100).filter(|taken| **taken < 0).count() as i64;
    assert_eq!(on_payees, 10 * by_transfer);
}

/// What W gained or lost by this caller.
fn spend(ledger: &Ledger, payees: &[String], thread: usize) -> i64 {
    let payee = |offset: usize| payees[(thread + offset) % payees.len()].as_str();
    let name = format!("id-{thread}");
    let request = match thread {
        0..100 => named(update("W", -10), &name),
        100..200 => named(transfer("W", payee(0), 10), &name),
        200..300 => chain([transfer("W", payee(0), 5), transfer("W", payee(7), 5)]),
        _ => named(update("W", 1), &name),
    };
    let outcome = decide(ledger, request);
    let refused = outcome.results().into_iter().filter_map(Result::err).collect::<Vec<_>>();
    for refusal in &refused {
        match refusal {
            Refusal::Insufficient { current, delta } => assert!(current + delta < 0, "{refusal}"),
            Refusal::InsufficientIn { current, required, .. } => assert!(i128::from(*current) < *required, "{refusal}"),
            Refusal::Group { .. } => {}
            other => panic!("{other}"),
        }
    }
    match (outcome.members().len(), refused.len()) {
        (_, 0) if thread >= 300 => 1,
        (_, 0) => -10,
        (members, refused) => {
            assert_eq!(members, refused, "both of a pair, or neither");
            0
        }
    }
}

/// A7, A12, A13, case A06: the ends of i64 are refused with the full numbers, and the next call works.
#[test]
fn the_ends_of_i64_never_wrap() {
    let ledger = with_accounts(&[("max", i64::MAX), ("zero", 0), ("one", 1)]);
    let before: Vec<_> = ledger.snapshot().expect("few").iter().collect();
    let update = |name, delta| refused(ledger.update(&account(name), delta));
    assert_eq!(update("max", 1), "Balance out of range: current=9223372036854775807, delta=1");
    assert_eq!(update("zero", i64::MIN), "Insufficient balance: current=0, delta=-9223372036854775808");
    let below = "Insufficient balance: current=9223372036854775807, delta=-9223372036854775808";
    assert_eq!(update("max", i64::MIN), below);
    assert_eq!(update("one", i64::MAX), "Balance out of range: current=1, delta=9223372036854775807");
    let transfer = |from, to, amount| ledger.transfer(&account(from), &account(to), amount);
    let full = "Balance out of range in account one: current=1, amount=9223372036854775807";
    assert_eq!(refused(transfer("max", "one", i64::MAX)), full);
    assert_eq!(undecided(transfer("max", "one", i64::MIN)), "Transfer amount must be positive");
    assert_eq!(Operation::create(account("new"), i64::MIN), Err(InvalidRequest::NegativeInitialBalance));
    let after: Vec<_> = ledger.snapshot().expect("few").iter().collect();
    assert_eq!(before, after);

    transfer("max", "zero", i64::MAX).expect("all of it, into an empty account");
    assert_eq!((balance(&ledger, "max"), balance(&ledger, "zero")), (0, i64::MAX));
    ledger.update(&account("max"), i64::MAX).expect("up to the end");
    assert_eq!(ledger.snapshot().expect("few").total(), 2 * i128::from(i64::MAX) + 1, "the total does not wrap either");
    ledger.update(&account("max"), -i64::MAX).expect("and down again");
    assert_eq!(balance(&ledger, "max"), 0);
}

/// A5, case A06: a delta of 0 is a change like another.
#[test]
fn a_delta_of_zero_is_a_change() {
    let ledger = with_accounts(&[("a", 5)]);
    let after = ledger.update(&account("a"), 0).expect("accepted")[0].clone();
    assert_eq!((after.balance, after.version, after.sequence), (5, 2, 2));
    assert_eq!(refused(ledger.update(&account("ghost"), 0)), "Account ghost not found");
}
