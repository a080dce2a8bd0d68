//! What the client commands answer, for people and as JSON.

use std::fs::OpenOptions;

use serde_json::json;

use crate::program::{SOON, Service, run, run_for};

/// A1 to A7 through the command line: create, transfer, read.
#[test]
fn a_transfer_for_people() {
    let service = Service::start();
    let created = service.run(&["create", "alice", "--balance", "100"]);
    assert_eq!(created.code, Some(0), "{created:?}");
    assert!(created.stdout.contains("account      alice\nbalance      100\nversion      1\n"), "{created:?}");
    assert!(created.stdout.contains("\ntransaction  "), "the new id is shown: {created:?}");
    assert_eq!(service.run(&["create", "bob"]).code, Some(0));
    let moved = service.run(&["transfer", "alice", "bob", "30", "--id", "order-1"]);
    assert_eq!((moved.code, moved.stderr.as_str()), (Some(0), ""));
    assert!(moved.stdout.contains("transaction  order-1\n"), "{moved:?}");
    let shown = service.run(&["balance", "alice"]);
    let columns: Vec<_> = shown.stdout.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(columns, ["70", "2", "3", "alice"]);
}

#[test]
fn a_transfer_as_json() {
    let service = Service::start();
    let created = service.json(&["create", "alice", "--balance", "100", "--id", "c1"]).remove(0);
    let expected = json!({"account_id": "alice", "balance": 100, "version": 1, "sequence": 1, "transaction_id": "c1",
        "replayed": false});
    assert_eq!(created, expected);
    service.json(&["create", "bob"]);
    let first = service.json(&["transfer", "alice", "bob", "30", "--id", "t1"]).remove(0);
    assert_eq!((&first["from_balance"], &first["to_balance"]), (&json!(70), &json!(30)));
    assert_eq!(first["replayed"], false);
    // B1: the same id again is the same answer.
    let mut again = service.json(&["transfer", "alice", "bob", "30", "--id", "t1"]).remove(0);
    assert_eq!(again["replayed"].take(), true);
    again["replayed"] = json!(false);
    assert_eq!(again, first);
    let entry = service.json(&["transaction", "t1"]).remove(0);
    assert_eq!((&entry["operation"], &entry["code"]), (&json!("transfer"), &json!("OK")));
    assert_eq!(entry["commit_time"], first["commit_time"]);
    assert_eq!(entry["legs"][0], json!({"account_id": "alice", "delta": -30, "balance": 70, "version": 2}));
}

/// A03, B1: a change without an id gets one, another each time.
#[test]
fn a_change_without_an_id_gets_a_new_one() {
    let service = Service::start();
    service.json(&["create", "a"]);
    let [first, second] = [(); 2].map(|()| service.json(&["update", "a", "5"]).remove(0));
    assert_ne!(first["transaction_id"], second["transaction_id"]);
    assert_eq!(first["transaction_id"].as_str().map(str::len), Some(36));
    assert_eq!(second["balance"], 10);
}

/// A04: a refusal is told apart from its replay.
#[test]
fn a_refusal_names_its_id_and_says_when_it_is_a_replay() {
    let service = Service::start();
    service.json(&["create", "a"]);
    let refused = service.run(&["update", "a", "-5", "--id", "r1", "--json"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let expected = json!({"code": "FAILED_PRECONDITION", "reason": "INSUFFICIENT_BALANCE", "exit": 1,
        "message": "Insufficient balance: current=0, delta=-5", "transaction_id": "r1"});
    assert_eq!(refused.error(), expected);
    let again = service.run(&["update", "a", "-5", "--id", "r1", "--json"]).error();
    assert_eq!(again["replayed"], true);
    let people = service.run(&["update", "a", "-5", "--id", "r1"]);
    assert!(people.stderr.starts_with("error: Insufficient balance: current=0, delta=-5\n"), "{people:?}");
    assert!(people.stderr.contains("replayed"), "{people:?}");
}

/// B1: a change whose answer cannot be printed was done: that is said, with the id that nobody knows yet.
#[test]
fn a_change_that_cannot_be_printed_tells_its_id() {
    let service = Service::start();
    service.json(&["create", "a"]);
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let ended = run(service.command(&["update", "a", "5", "--json"]).stdout(full()));
    let error = ended.error();
    assert_eq!((ended.code, &error["code"]), (Some(4), &json!("INTERNAL")));
    assert!(error["message"].as_str().expect("text").starts_with("it was done, but cannot be printed: "), "{error}");
    let id = error["transaction_id"].as_str().expect("an id");
    assert_eq!(service.json(&["update", "a", "5", "--id", id])[0]["replayed"], true);

    let ended = run(service.command(&["update", "a", "5"]).stdout(full()));
    let (_, id) = ended.stderr.trim_end().split_once("note: its transaction id is ").expect("a note");
    assert_eq!(service.json(&["update", "a", "5", "--id", id])[0]["replayed"], true);
}

/// B1: a new id is printed with a refusal, too.
#[test]
fn a_refusal_tells_the_id_that_it_was_given() {
    let service = Service::start();
    service.json(&["create", "a"]);
    let refused = service.run(&["update", "a", "-5"]);
    let (_, id) = refused.stderr.trim_end().split_once("note: its transaction id is ").expect("a note");
    assert_eq!(service.run(&["update", "a", "-5", "--id", id, "--json"]).error()["replayed"], true);
    assert!(!service.run(&["update", "a", "-5", "--id", "r1"]).stderr.contains("r1"), "whoever gave it knows it");
}

/// B1: an id, or an account, that a script left empty is a mistake, not none.
#[test]
fn an_empty_id_is_not_the_same_as_none() {
    let service = Service::start();
    service.json(&["create", "a"]);
    let commands: [&[&str]; 4] = [
        &["create", "b", "--id", ""],
        &["update", "a", "1", "--id", ""],
        &["transfer", "a", "b", "1", "--id", ""],
        &["watch", "--account", ""],
    ];
    for command in commands {
        let ended = run_for(&mut service.command(command), SOON);
        assert_eq!(ended.code, Some(2), "{command:?}: {ended:?}");
    }
    assert_eq!(service.run(&["balance", "b"]).code, Some(1), "nothing was opened");
}

#[test]
fn accounts_are_paged_prefixed_and_limited() {
    let service = Service::start();
    service.open("user:", 2_500);
    service.json(&["create", "other"]);
    let all = service.json(&["accounts"]);
    assert_eq!(all.len(), 2_501);
    assert!(all.is_sorted_by_key(|account| account["account_id"].as_str().expect("an id").to_owned()));
    assert_eq!(service.json(&["accounts", "--prefix", "user:"]).len(), 2_500);
    assert_eq!(service.json(&["accounts", "--limit", "1500"]).len(), 1_500);
    assert_eq!(service.json(&["accounts", "--prefix", "nobody"]).len(), 0);
}

/// A06, A10: the total of a snapshot is exact beyond 64 bits, and so is every number.
#[test]
fn numbers_are_exact() {
    let service = Service::start();
    let max = i64::MAX.to_string();
    service.json(&["create", "a", "--balance", "9007199254740993"]);
    service.json(&["create", "b", "--balance", &max]);
    service.json(&["create", "c", "--balance", &max]);
    let shown = service.run(&["snapshot", "--json"]);
    assert!(shown.stdout.contains(r#""balance":9007199254740993,"#), "{shown:?}");
    let total = 9_007_199_254_740_993 + 2 * i128::from(i64::MAX);
    let end = format!("{{\"sequence\":3,\"accounts\":3,\"total\":{total}}}\n");
    assert!(shown.stdout.ends_with(&end), "{shown:?}");
    let people = service.run(&["snapshot"]).stdout;
    assert!(people.lines().last().expect("a total").contains(&total.to_string()), "{people}");
    let least = service.run(&["update", "a", "-9223372036854775808", "--json"]).error();
    assert!(least["message"].as_str().expect("text").ends_with("delta=-9223372036854775808"), "{least}");
}

/// A05: ids that look like options, and ids that would turn a terminal's text round.
#[test]
fn odd_ids() {
    let service = Service::start();
    assert_eq!(service.json(&["create", "-5"])[0]["account_id"], "-5");
    assert_eq!(service.json(&["balance", "-5"])[0]["balance"], 0);
    assert_eq!(service.run(&["create", "--", "-x"]).code, Some(0));
    let turned = "a\u{202e}b";
    assert_eq!(service.json(&["create", turned])[0]["account_id"], turned);
    let people = service.run(&["balance", turned]).stdout;
    assert!(people.contains(r"a\u{202e}b") && !people.contains('\u{202e}'), "{people}");
    let control = service.run(&["balance", "a\u{1b}[2J\nerror: forged"]);
    assert_eq!(control.code, Some(2));
    assert!(!control.stderr.contains('\u{1b}') && control.stderr.trim_end().lines().count() == 1, "{control:?}");
}
