//! Accounts are opened, read and changed, each by itself.

mod common;

use std::collections::BTreeSet;

use common::{
    account, alone, balance, create, decide, named, refused, rounds, state, together, undecided, with_accounts,
};
use equipoise::{AccountId, Error, InvalidRequest, Ledger, MAX_ID_BYTES, Operation, Refusal, TransactionId};

/// A1: 100 concurrent creates of 100 ids all succeed.
#[test]
fn different_accounts_are_created_at_once() {
    let ledger = Ledger::new();
    let created = together(100, |thread| ledger.create(&account(&format!("account-{thread}")), thread as i64));
    let sequences: BTreeSet<_> = created.iter().map(|result| result.as_ref().expect("created")[0].sequence).collect();
    assert_eq!(sequences, (1..=100).collect(), "each has a sequence of its own");
    for thread in 0..100 {
        let found = state(&ledger, &format!("account-{thread}"));
        assert_eq!((found.balance, found.version), (thread, 1));
    }
    assert_eq!(ledger.stats().accounts, 100);
}

/// A1, A13: of several concurrent creates of one id exactly one is OK, the others hear that it exists.
#[test]
fn one_account_is_created_once() {
    for round in 0..rounds(400) {
        let ledger = Ledger::new();
        let contender = account("contested");
        let created = together(2 + round % 3, |thread| ledger.create(&contender, 10 + thread as i64));
        let accepted: Vec<_> = created.iter().flatten().collect();
        assert_eq!(accepted.len(), 1);
        assert_eq!(ledger.balance(&contender).as_ref(), Some(&accepted[0][0]), "the winner's balance counts");
        for refused in created.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(*refused, Error::Refused(Refusal::AlreadyExists { account: contender.clone() }));
            assert_eq!(refused.to_string(), "Account contested already exists");
        }
    }
}

/// A1, A5, case A01: 50 callers first create one account and then add to it.
#[test]
fn creating_and_updating_at_once_loses_nothing() {
    for _ in 0..rounds(20) {
        let ledger = Ledger::new();
        let new = account("n");
        let created = together(50, |_| {
            let created = ledger.create(&new, 0).is_ok();
            ledger.update(&new, 1).expect("whoever was refused knows that it exists");
            created
        });
        assert_eq!(created.iter().filter(|created| **created).count(), 1);
        assert_eq!((balance(&ledger, "n"), state(&ledger, "n").version), (50, 51));
    }
}

/// A2: a negative initial balance is refused before anything is decided.
#[test]
fn an_initial_balance_is_not_negative() {
    let ledger = Ledger::new();
    for initial in [-1, i64::MIN] {
        assert_eq!(undecided(ledger.create(&account("a"), initial)), "Initial balance cannot be negative");
    }
    assert_eq!(Operation::create(account("a"), -1), Err(InvalidRequest::NegativeInitialBalance));
    assert_eq!((ledger.sequence(), ledger.balance(&account("a"))), (0, None));
    ledger.create(&account("a"), 0).expect("zero is not negative");
}

/// A3: a read shows the newest balance, version and the sequence of that change; an unknown account is none.
#[test]
fn a_read_shows_the_newest_state() {
    let ledger = with_accounts(&[("a", 7), ("b", 1)]);
    let shown = |name| (balance(&ledger, name), state(&ledger, name).version, state(&ledger, name).sequence);
    assert_eq!((shown("a"), shown("b")), ((7, 1, 1), (1, 1, 2)));
    let after = ledger.update(&account("a"), 5).expect("enough");
    assert_eq!((shown("a"), shown("b")), ((12, 2, 3), (1, 1, 2)), "the sequence is the account's own last change");
    assert_eq!(after.as_slice(), [state(&ledger, "a")]);
    let handle = ledger.account(&account("a")).expect("open");
    assert_eq!(handle.read(), state(&ledger, "a"));
    let ghost = account("ghost");
    assert!(ledger.balance(&ghost).is_none() && ledger.account(&ghost).is_none());
    assert!(ledger.balance_durable(&ghost).is_none());
}

/// A3, A6: an unknown account is named, and asking for it does not open it.
#[test]
fn an_unknown_account_is_named() {
    let ledger = with_accounts(&[("a", 1)]);
    let ghost = account("ghost é %s");
    assert_eq!(refused(ledger.update(&ghost, 1)), "Account ghost é %s not found");
    assert!(ledger.balance(&ghost).is_none());
    assert_eq!((ledger.stats().accounts, ledger.snapshot().expect("few").len()), (1, 1));
}

/// A5: concurrent updates are all applied, each with a version and a sequence of its own.
#[test]
fn concurrent_updates_are_all_applied() {
    for (initial, delta, total) in [(1000, 10, 2000), (0, 1, 100)] {
        let ledger = with_accounts(&[("a", initial)]);
        let answers = together(100, |_| ledger.update(&account("a"), delta).expect("no floor is near")[0].clone());
        assert_eq!(balance(&ledger, "a"), total);
        let versions: BTreeSet<_> = answers.iter().map(|answer| answer.version).collect();
        let sequences: BTreeSet<_> = answers.iter().map(|answer| answer.sequence).collect();
        assert_eq!(versions, (2..=101).collect());
        assert_eq!(sequences, (2..=101).collect());
        for answer in answers {
            assert_eq!(answer.balance, initial + (answer.version as i64 - 1) * delta, "each saw the one before it");
            assert_eq!(answer.version, answer.sequence, "the only account's versions follow the commit order");
        }
    }
}

/// A5: a handle changes the same account as its id does.
#[test]
fn handles_and_ids_change_one_account() {
    let ledger = with_accounts(&[("a", 0)]);
    let handle = ledger.account(&account("a")).expect("open");
    let answers = together(8, |thread| {
        let mut last = 0;
        for _ in 0..500 {
            let version = if thread.is_multiple_of(2) {
                handle.update(1).expect("no ceiling is near").version
            } else {
                ledger.update(&account("a"), 1).expect("no ceiling is near")[0].version
            };
            assert!(version > last, "versions of one thread's updates rise");
            last = version;
        }
    });
    assert_eq!(answers.len(), 8);
    assert_eq!((handle.read().balance, handle.read().version), (4000, 4001));
}

/// A6, A12: an update below the floor is refused with the balance that it met, and changes nothing.
#[test]
fn no_balance_falls_below_its_floor() {
    let ledger = with_accounts(&[("a", 10)]);
    let before = state(&ledger, "a");
    assert_eq!(refused(ledger.update(&account("a"), -11)), "Insufficient balance: current=10, delta=-11");
    assert_eq!(state(&ledger, "a"), before);
    assert_eq!(ledger.sequence(), 2, "a refusal is decided as well");
    ledger.update(&account("a"), -10).expect("down to the floor itself");
    assert_eq!(refused(ledger.update(&account("a"), -1)), "Insufficient balance: current=0, delta=-1");
}

/// A6, A12: of concurrent withdrawals as many succeed as there is money for, and every refusal is true.
#[test]
fn concurrent_withdrawals_stop_at_the_floor() {
    for _ in 0..rounds(40) {
        let ledger = with_accounts(&[("a", 55)]);
        let answers = together(16, |_| ledger.update(&account("a"), -10));
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5);
        for refused in answers.into_iter().filter_map(Result::err) {
            assert_eq!(refused.to_string(), "Insufficient balance: current=5, delta=-10");
        }
        assert_eq!((balance(&ledger, "a"), state(&ledger, "a").version), (5, 6));
    }
}

/// A12, A13: a balance past the end of i64 is an error with its own text, never a wrap; the next call works.
#[test]
fn a_balance_never_wraps() {
    let ledger = with_accounts(&[("max", i64::MAX)]);
    let before = state(&ledger, "max");
    let text = refused(ledger.update(&account("max"), 1));
    assert_eq!(text, "Balance out of range: current=9223372036854775807, delta=1");
    assert_eq!(state(&ledger, "max"), before);
    assert_eq!(ledger.update(&account("max"), -1).expect("enough")[0].balance, i64::MAX - 1);
}

/// A12: creating an account that exists leaves it as it was.
#[test]
fn a_refused_create_changes_nothing() {
    let ledger = with_accounts(&[("a", 10)]);
    ledger.update(&account("a"), 5).expect("enough");
    let before = state(&ledger, "a");
    assert_eq!(refused(ledger.create(&account("a"), 99)), "Account a already exists");
    assert_eq!(state(&ledger, "a"), before);
    assert_eq!(ledger.stats().accounts, 1);
}

/// A14: ids are 1 to 128 bytes of UTF-8, counted in bytes; the error names field and length.
#[test]
fn ids_are_bounded_in_bytes() {
    for length in [1, 2, 24, 25, MAX_ID_BYTES] {
        let text = "x".repeat(length);
        assert_eq!(AccountId::new(&text).expect("short enough").as_str(), text);
        assert_eq!(TransactionId::new(&text).expect("short enough").as_str(), text);
    }
    assert!(AccountId::new(&"é".repeat(64)).is_ok(), "128 bytes");
    for (text, bytes) in [("", 0), (&*"é".repeat(65), 130), (&*"x".repeat(129), 129), (&*"a".repeat(1 << 20), 1 << 20)]
    {
        let expected = InvalidRequest::IdLength { field: "account_id", bytes };
        assert_eq!(AccountId::new(text), Err(expected.clone()));
        assert_eq!(expected.to_string(), format!("account_id must be 1 to 128 bytes long, got {bytes}"));
        let other = TransactionId::new(text).expect_err("too long or empty");
        assert_eq!(other.to_string(), format!("transaction_id must be 1 to 128 bytes long, got {bytes}"));
        let named = AccountId::parse("from_account_id", text).expect_err("too long or empty");
        assert_eq!(named.to_string(), format!("from_account_id must be 1 to 128 bytes long, got {bytes}"));
    }
}

/// A14, case A05: no control characters, of whatever kind; everything else is a character like another.
#[test]
fn ids_have_no_control_characters() {
    for (text, position) in [("\0", 0), ("a\nb", 1), ("tab\t", 3), ("é\u{1b}[2J", 2), ("\u{7f}", 0), ("ab\u{85}", 2)] {
        let error = AccountId::new(text).expect_err("a control character");
        let bytes = text.len();
        assert_eq!(error, InvalidRequest::IdControl { field: "account_id", bytes, position });
        let message = error.to_string();
        assert!(message.contains("account_id") && message.contains(&bytes.to_string()), "{message}");
        assert!(!message.chars().any(char::is_control), "the message must not carry what it refuses");
        assert!(TransactionId::new(text).is_err());
    }
    for text in ["\u{202e}", "\u{feff}", "\u{10ffff}", "👩‍👩‍👧", "../../x", "a/b", "%s{}", "-5", " ", "\u{200b}"]
    {
        let ledger = Ledger::new();
        ledger.create(&account(text), 3).expect("an id like another");
        assert_eq!(balance(&ledger, text), 3);
    }
}

/// A14, case A05: ids that look alike are different accounts, and the order is that of their bytes.
#[test]
fn look_alikes_are_different_accounts() {
    let pairs = [("\u{e9}", "e\u{301}"), ("ACC", "acc"), ("a", "a "), ("a", " a"), ("a", "a\u{200b}")];
    for (one, other) in pairs {
        let ledger = with_accounts(&[(one, 1), (other, 2)]);
        ledger.update(&account(one), 10).expect("enough");
        assert_eq!((balance(&ledger, one), balance(&ledger, other)), (11, 2));
    }
    let names = ["b", "a", "a ", " a", "ACC", "acc", "\u{e9}", "e\u{301}", "a\u{200b}", "Z", "aa", "\u{10ffff}", "-5"];
    let ledger = Ledger::new();
    for name in names {
        ledger.create(&account(name), 0).expect("another account");
    }
    let mut expected = names.map(String::from);
    expected.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let listed: Vec<_> = ledger.snapshot().expect("few").iter().map(|state| state.id.to_string()).collect();
    assert_eq!(listed, expected);
    let with_prefix: Vec<_> = expected.iter().filter(|name| name.starts_with('a')).cloned().collect();
    let snapshot = ledger.snapshot().expect("few");
    let page: Vec<_> = snapshot.page("a", None, 100).iter().map(|state| state.id.to_string()).collect();
    assert_eq!(page, with_prefix);
}

/// A14, B1: what is refused for its form uses no id up and leaves no trace.
#[test]
fn a_malformed_request_leaves_no_trace() {
    let ledger = Ledger::new();
    assert!(Operation::create(account("a"), -1).is_err());
    assert_eq!((ledger.sequence(), ledger.stats().ids), (0, 0));
    let fresh = decide(&ledger, named(create("a", 1), "r5"));
    assert!(!fresh.replayed());
    assert_eq!(decide(&ledger, alone(create("b", 1))).sequence(), 2);
}
