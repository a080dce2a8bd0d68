//! Entries that are well-formed and untrue.

use std::time::Duration;

use equipoise::verify::{Options, verify};

use crate::writer::{
    ALREADY_EXISTS, Entry, INSUFFICIENT, NOT_FOUND, OUT_OF_RANGE, Writer, create, post, transfer, update,
};

/// A ledger with `a` at 10 (version 1) and `b` at 0 (version 1), and `entry` after that as sequence 3.
fn after(name: &str, entry: Entry) -> Writer {
    let mut writer = Writer::new(&format!("rules-{name}"));
    writer.batch(&[Entry::of(&[create("ca", "a", 10, (10, 1))]), Entry::of(&[create("cb", "b", 0, (0, 1))])]);
    writer.batch(&[entry]);
    writer
}

fn says(name: &str, entry: Entry, what: &str) {
    let error = after(name, entry).wrong();
    assert!(error.contains("(batch 2, sequence 3): "), "{error}");
    assert!(error.contains(what), "{error}");
}

fn holds(name: &str, entry: Entry) {
    after(name, entry).verify().unwrap_or_else(|problem| panic!("{name}: {problem}"));
}

/// C3: each version is the one before and 1, each balance the one before and the delta, and never below 0.
#[test]
fn accepted_changes_follow_from_the_ones_before() {
    let of = |member| Entry::of(&[member]);
    holds("update", of(update("", "a", -10, (0, 2))));
    says(
        "version",
        of(update("", "a", 1, (11, 3))),
        "account a: balance 11 (version 3) is recorded, replay gives 11 (version 2)",
    );
    says("same-version", of(update("", "a", 1, (11, 1))), "replay gives 11 (version 2)");
    says("balance", of(update("", "a", 1, (12, 2))), "replay gives 11 (version 2)");
    says("floor", of(update("", "a", -11, (0, 2))), "is refused: Insufficient");
    says("below", of(update("", "a", -11, (-1, 2))), "a balance of -1, below 0");
    says("ceiling", of(update("", "a", i64::MAX, (i64::MAX, 2))), "is refused: OutOfRange");
    says("unknown", of(update("", "x", 1, (1, 1))), "is refused: NotFound");
    says("again", of(create("", "a", 10, (10, 1))), "is refused: AlreadyExists");
    says("initial", of(create("", "x", 10, (11, 1))), "replay gives 10 (version 1)");
    says("negative", of(create("", "x", -1, (0, 1))), "an account opened with -1");
    says("absent", of(create("", "x", 5, (5, 0))), "on an account that nobody opened");
}

/// C3, A7: what a transfer or posting takes from one account it gives to others.
#[test]
fn transfers_and_postings_make_and_lose_nothing() {
    let of = |member| Entry::of(&[member]);
    holds("transfer", of(transfer("", ["a", "b"], 10, [(0, 2), (10, 2)])));
    says("more", of(transfer("", ["a", "b"], 10, [(0, 2), (11, 2)])), "account b: balance 11");
    says("too-much", of(transfer("", ["b", "a"], 1, [(0, 2), (11, 2)])), "is refused: Insufficient");
    says("itself", of(transfer("", ["a", "a"], 1, [(9, 2), (10, 3)])), "a transfer from account a to itself");
    says("nothing", of(transfer("", ["a", "b"], 0, [(10, 2), (0, 2)])), "a transfer of 0");
    says("backwards", of(transfer("", ["a", "b"], i64::MIN, [(10, 2), (0, 2)])), "a transfer of -");
    holds("post", of(post("", &[("a", -1, (9, 2)), ("b", 1, (1, 2))])));
    says("sum", of(post("", &[("a", -1, (9, 2)), ("b", 2, (2, 2))])), "a posting of 2 legs that add up to 1, not 0");
    says("no-leg", of(post("", &[])), "a posting of 0 legs");
    says("twice", of(post("", &[("a", -1, (9, 2)), ("a", 1, (10, 3))])), "names account a twice");
}

/// C1: a refusal is what doing the operation again comes to, and changed nothing.
#[test]
fn refusals_are_true() {
    let of = |member, reason, leg, current| Entry::refused(&[member], 0, reason, leg, current);
    holds("insufficient", of(update("", "a", -11, (10, 1)), INSUFFICIENT, 0, 10));
    says("enough", of(update("", "a", -10, (10, 1)), INSUFFICIENT, 0, 10), "nothing speaks against it");
    says(
        "current",
        of(update("", "a", -11, (10, 1)), INSUFFICIENT, 0, 9),
        "Insufficient with balance 9; it is refused",
    );
    says("state", of(update("", "a", -11, (9, 1)), INSUFFICIENT, 0, 10), "balance 9 (version 1) is recorded");
    says("changed", of(update("", "a", -11, (10, 2)), INSUFFICIENT, 0, 10), "replay gives 10 (version 1)");
    holds("exists", of(create("", "a", 5, (10, 1)), ALREADY_EXISTS, 0, 10));
    says("free", of(create("", "x", 5, (0, 0)), ALREADY_EXISTS, 0, 0), "nothing speaks against it");
    holds("range", of(update("", "a", i64::MAX, (10, 1)), OUT_OF_RANGE, 0, 10));
    says(
        "reason",
        of(update("", "a", i64::MAX, (10, 1)), INSUFFICIENT, 0, 10),
        "it is refused at member 0, account 0: OutOfRange",
    );
    holds("not-found", of(update("", "x", 1, (0, 0)), NOT_FOUND, 0, 0));
    says("found", of(update("", "a", 1, (10, 1)), NOT_FOUND, 0, 0), "nothing speaks against it");
    holds("leg", of(transfer("", ["a", "x"], 99, [(10, 1), (0, 0)]), NOT_FOUND, 1, 0));
    says(
        "first",
        of(transfer("", ["a", "x"], 99, [(10, 1), (0, 0)]), INSUFFICIENT, 0, 10),
        "it is refused at member 0, account 1: NotFound",
    );
    says("no-reason", of(update("", "a", -11, (10, 1)), 5, 0, 10), "unknown reason 5");
    says(
        "no-account",
        of(update("", "a", -11, (10, 1)), INSUFFICIENT, 1, 10),
        "account 1 of member 0 was refused, and there is none",
    );
    says(
        "no-member",
        Entry::refused(&[update("", "a", -11, (10, 1))], 1, INSUFFICIENT, 0, 10),
        "of member 1 was refused",
    );
}

/// A9: in a chain each member sees the ones before, and the first that cannot be done refuses all.
#[test]
fn chains_are_done_in_order() {
    let chain = [transfer("", ["b", "a"], 5, [(0, 1), (10, 1)]), transfer("", ["a", "b"], 5, [(10, 1), (0, 1)])];
    holds("chain", Entry::refused(&chain, 0, INSUFFICIENT, 0, 0));
    says("chain-accepted", Entry::of(&chain), "is refused: Insufficient");
    let chain = [transfer("", ["a", "b"], 10, [(10, 1), (0, 1)]), update("", "a", -1, (10, 1))];
    holds("folded", Entry::refused(&chain, 1, INSUFFICIENT, 0, 0));
    says("not-folded", Entry::refused(&chain, 1, INSUFFICIENT, 0, 10), "Insufficient with balance 0");
    let chain = [update("", "a", -11, (10, 1)), update("", "b", -1, (0, 1))];
    says("second", Entry::refused(&chain, 1, INSUFFICIENT, 0, 0), "it is refused at member 0");
    let chain = [update("", "a", -11, (10, 1)), update("", "b", 1, (1, 2))];
    says("after", Entry::refused(&chain, 0, INSUFFICIENT, 0, 10), "account b: balance 1 (version 2) is recorded");
    // Whoever was refused for the first member may have looked for the account of the second before it was opened.
    let chain = [update("", "a", -11, (10, 1)), update("", "b", 1, (0, 0))];
    holds("early", Entry::refused(&chain, 0, INSUFFICIENT, 0, 10));
    let chain = [update("", "b", 1, (0, 0)), update("", "a", -11, (10, 1))];
    says("not-early", Entry::refused(&chain, 1, INSUFFICIENT, 0, 10), "account b: balance 0 (version 0) is recorded");
}

/// An account that was unknown as of a sequence may have been opened since.
#[test]
fn unknown_as_of_is_true_of_that_sequence() {
    let refused = |account| Entry::refused(&[update("", account, 1, (0, 0))], 0, NOT_FOUND, 0, 0);
    holds("opened-since", refused("b").unknown_as_of(1));
    holds("never-opened", refused("x").unknown_as_of(2));
    holds("as-of-0", refused("a").unknown_as_of(0));
    says("known", refused("b").unknown_as_of(2), "account b was not unknown as of sequence 2");
    says("future", refused("x").unknown_as_of(3), "which was yet to come");
    says("accepted-as-of", Entry::of(&[update("", "a", 1, (11, 2))]).unknown_as_of(1), "was not refused for one");
    let insufficient = Entry::refused(&[update("", "a", -11, (10, 1))], 0, INSUFFICIENT, 0, 10);
    says("insufficient-as-of", insufficient.unknown_as_of(1), "was not refused for one");
}

/// B1, B4: a transaction id counts once within the window, and may come again after it.
#[test]
fn ids_come_once_within_the_window() {
    let again = Entry::of(&[update("ca", "a", 1, (11, 2))]);
    let expected =
        "transaction id ca was used already, by sequence 1, within an id window of 86400s; if the window was shorter";
    says("id", again.clone(), expected);
    let twice = [update("x", "a", 1, (11, 2)), update("x", "a", 1, (12, 3))];
    says("id-in-chain", Entry::of(&twice), "transaction id x was used already, by sequence 3");
    let refused = Entry::refused(&[update("cb", "a", -11, (10, 1))], 0, INSUFFICIENT, 0, 10);
    says("id-refused", refused, "transaction id cb was used already, by sequence 2");
    let day = 24 * 60 * 60 * 1_000_000_000;
    let begin = Writer::new("rules-time").time + 1;
    says("id-day", again.clone().at(begin + day - 1), "was used already");
    holds("id-next-day", again.clone().at(begin + day));
    let writer = after("id-window", again);
    let window = Options { id_window: Duration::from_nanos(2), ..Options::default() };
    verify(writer.write(), &window, &mut |_, _| {}).expect("a shorter window");
}

/// C1: times never fall.
#[test]
fn times_never_fall() {
    let begin = Writer::new("rules-clock").time;
    let entry = Entry::of(&[update("", "a", 1, (11, 2))]);
    holds("same-time", entry.clone().at(begin + 2));
    says("earlier", entry.at(begin + 1), "is before that of the entry before");
}

/// A3: ids are 1 to 128 bytes of UTF-8 without control characters.
#[test]
fn ids_keep_their_rules() {
    let open = |account: &str| Entry::of(&[create("", account, 0, (0, 1))]);
    holds("long", open(&"x".repeat(128)));
    says("too-long", open(&"x".repeat(129)), "an id of 129 bytes");
    says("empty", open(""), "an account without a name");
    says("control", open("a\nb"), "an id with a control character");
    says("control-id", Entry::of(&[create("\u{85}", "x", 0, (0, 1))]), "an id with a control character");
    let mut bytes = create("", "xy", 0, (0, 1));
    bytes[3] = 0xff;
    says("utf-8", Entry::of(&[bytes]), "an id that is not UTF-8");
    says("members", Entry::of(&[]), "an entry with 0 members");
    says("many-members", Entry::of(&vec![Vec::new(); 1025]), "an entry with 1025 members");
    says("kind", Entry::of(&[vec![5, 0]]), "unknown kind 5");
    says("rest", Entry::of(&[[update("", "a", 1, (11, 2)), vec![0]].concat()]), "bytes after the last member");
}
