//! `equipoise export`.

use std::fs::{OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use equipoise::Ledger;
use serde_json::json;

use crate::data::{Long, account, balances, files, many, on, small, succeeds};
use crate::program::{SOON, ends_within, run};

#[test]
fn accounts_come_in_id_order_under_a_header() {
    let dir = small();
    let before = files(dir.path());
    let export = succeeds("export", dir.path(), &[]);
    let lines = export.json();
    assert_eq!((lines[0]["kind"].as_str(), lines[0]["version"].as_i64()), (Some("equipoise-export"), Some(1)));
    assert_eq!((lines[0]["sequence"].as_i64(), lines[0]["accounts"].as_i64()), (Some(7), Some(4)));
    assert_eq!(lines[0]["ledger"].as_str().map(str::len), Some(32));
    let expected = [("-5", 9_007_199_254_740_993), ("alice", 75), ("zero", 30), ("é \"x\" %s", i64::MAX)];
    assert_eq!(balances(&lines), expected.map(|(id, balance)| (id.to_owned(), balance)));
    assert!(export.stdout.contains(r#"{"account_id":"alice","balance":75,"version":3,"sequence":7}"#), "{export:?}");
    assert_eq!(before, files(dir.path()), "nothing is changed");
}

#[test]
fn an_earlier_sequence_is_replayed() {
    let dir = small();
    let at = |sequence: &str| balances(&succeeds("export", dir.path(), &["--at", sequence]).json());
    assert_eq!(at("0"), []);
    assert_eq!(at("1"), [("alice".to_owned(), 100)]);
    assert_eq!(at("5")[1], ("alice".to_owned(), 70));
    let ended = run(&mut on("export", dir.path(), &["--at", "8"]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(ended.stderr, "error: --at 8: the journal ends at sequence 7\n");
}

/// From the newest checkpoint at or before it; one that is damaged is passed over, and said.
#[test]
fn a_checkpoint_shortens_the_replay() {
    let long = Long::new();
    let balance = |rest: &[&str]| balances(&succeeds("export", long.path(), rest).json())[0].1;
    assert_eq!(balance(&[]), long.changes);
    for at in ["1", "2", "61", "100", "130"] {
        assert_eq!(balance(&["--at", at]), (at.parse::<i64>().expect("a number") - 1) * 500, "--at {at}");
    }
    for (name, bytes) in files(long.path()).iter().filter(|(name, _)| name.ends_with(".checkpoint")) {
        let mut bytes = bytes.clone();
        bytes[130] ^= 1;
        std::fs::write(name, bytes).expect("written");
    }
    let ended = run(&mut on("export", long.path(), &[]));
    assert_eq!((ended.code, balances(&ended.json())[0].1), (Some(0), long.changes));
    assert_eq!(ended.stderr.matches("note: passed over: ").count(), 2, "{}", ended.stderr);
}

#[test]
fn entries_are_printed_in_place_of_accounts() {
    let dir = small();
    let lines = succeeds("export", dir.path(), &["--entries", "--from", "5", "--at", "6"]).json();
    assert_eq!((lines.len(), lines[0]["kind"].as_str(), &lines[0]["from"]), (4, Some("equipoise-entries"), &5.into()));
    assert_eq!((&lines[1]["sequence"], &lines[1]["members"][0]["legs"][0]["delta"]), (&5.into(), &(-30).into()));
    assert_eq!(lines[2]["refusal"]["reason"].as_str(), Some("Insufficient"));
    // Without it a copy that was cut off would look whole.
    let end = json!({"kind": "equipoise-entries-end", "entries": 2, "last_sequence": 6});
    assert_eq!(lines[3], end);
    assert_eq!(succeeds("export", dir.path(), &["--entries"]).json().len(), 9);
    assert_eq!(run(&mut on("export", dir.path(), &["--from", "5"])).code, Some(2));
}

/// Case A14: it works while somebody has the directory, on the journal as it is then.
#[test]
fn a14_a_directory_in_use_is_exported() {
    let dir = small();
    let ledger = Ledger::open(dir.path()).expect("opens");
    let written = ledger.update(&account("zero"), 1).expect("room");
    ledger.wait_durable(written[0].sequence).expect("durable");
    let export = succeeds("export", dir.path(), &[]).json();
    assert_eq!(balances(&export)[2], ("zero".to_owned(), 31));
    drop(ledger);
}

/// Case A14: whoever writes meanwhile does not matter: what is shown adds up.
#[test]
fn a14_an_export_beside_transfers_is_of_one_moment() {
    let dir = many(20);
    let ledger = Ledger::open(dir.path()).expect("opens");
    let done = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20_000 {
                let [from, to] = [round % 20, (round + 7) % 20].map(|at| account(&format!("account-{at:06}")));
                // Often there is not enough.
                let _ = ledger.transfer(&from, &to, 3);
            }
            done.wait();
        });
        for _ in 0..5 {
            let export = succeeds("export", dir.path(), &[]).json();
            assert_eq!(balances(&export).iter().map(|(_, balance)| balance).sum::<i64>(), 210);
        }
        done.wait();
    });
}

/// What a crash leaves at the journal's end is left out.
#[test]
fn a_torn_tail_is_no_error() {
    let dir = small();
    let (name, mut bytes) =
        files(dir.path()).into_iter().find(|(name, _)| name.ends_with("1.segment")).expect("a segment");
    let closing = bytes.windows(4).rposition(|window| window == b"EQBT").expect("a batch");
    bytes[closing + 50] ^= 1;
    std::fs::write(&name, bytes).expect("written");
    assert_eq!(succeeds("export", dir.path(), &[]).json()[0]["sequence"], 7);
}

#[test]
fn damage_is_named_and_nothing_printed() {
    let dir = small();
    let (name, mut bytes) =
        files(dir.path()).into_iter().find(|(name, _)| name.ends_with("1.segment")).expect("a segment");
    bytes[4096 + 100] ^= 1;
    std::fs::write(&name, bytes).expect("written");
    let ended = run(&mut on("export", dir.path(), &[]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""));
    assert!(ended.stderr.contains("0000000001.segment, offset 4096"), "{ended:?}");
    let nowhere = run(&mut on("export", &dir.path().join("nowhere"), &[]));
    assert_eq!(nowhere.code, Some(4));
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn a_file_takes_the_place_of_stdout() {
    let (dir, place) = (small(), tempfile::tempdir().expect("a directory"));
    let file = place.path().join("export.jsonl");
    let path = file.to_str().expect("UTF-8");
    let ended = succeeds("export", dir.path(), &["--output", path]);
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600, "it holds money");
    let written = std::fs::read_to_string(&file).expect("a file");
    assert_eq!((ended.stdout.as_str(), written), ("", succeeds("export", dir.path(), &[]).stdout));
}

/// An export that fails on the way leaves what an earlier one wrote, and nothing beside it.
#[test]
fn a_failed_export_keeps_the_one_before() {
    let (dir, place) = (many(5_000), tempfile::tempdir().expect("a directory"));
    let file = place.path().join("export.jsonl");
    let path = file.to_str().expect("UTF-8");
    std::fs::write(&file, "yesterday's").expect("written");
    std::fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("its own");
    let (name, bytes) = files(dir.path()).into_iter().find(|(name, _)| name.ends_with("1.segment")).expect("a segment");
    let mut damaged = bytes.clone();
    let batches: Vec<_> = (0..bytes.len()).step_by(8).filter(|at| bytes[*at..].starts_with(b"EQBT")).collect();
    damaged[batches[batches.len() / 2] + 50] ^= 1;
    std::fs::write(&name, damaged).expect("written");
    for rest in [&["--output", path][..], &["--entries", "--output", path]] {
        assert_eq!(run(&mut on("export", dir.path(), rest)).code, Some(4), "{rest:?}");
        let left = files(place.path());
        assert!(left == [(path.to_owned(), b"yesterday's".to_vec())], "{rest:?}: {} files", left.len());
    }
    std::fs::write(&name, bytes).expect("written");
    // A link goes on leading there, and whoever may read it may do so.
    let link = place.path().join("link");
    std::os::unix::fs::symlink("export.jsonl", &link).expect("a link");
    succeeds("export", dir.path(), &["--output", link.to_str().expect("UTF-8")]);
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), succeeds("export", dir.path(), &[]).stdout);
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 2);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let dir = small();
    for (path, why) in
        [("/nowhere/export.jsonl", "No such file"), ("/dev/full", "No space left"), ("/tmp", "Is a directory")]
    {
        let ended = run(&mut on("export", dir.path(), &["--output", path]));
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(ended.stderr.starts_with(&format!("error: cannot write the output: {path}: {why}")), "{ended:?}");
    }
}

/// Neither the directory's own files nor what a link was to lead to are replaced.
#[test]
fn a_file_of_the_directory_is_no_output() {
    let (dir, place) = (small(), tempfile::tempdir().expect("a directory"));
    let (lock, link) = (dir.path().join("LOCK"), place.path().join("link"));
    std::os::unix::fs::symlink("nowhere", &link).expect("a link");
    let [to_lock, new] = [place.path().join("to-lock"), dir.path().join("new")];
    std::os::unix::fs::symlink(&lock, &to_lock).expect("a link");
    let before = files(dir.path());
    let inside = "is in the data directory";
    let cases = [(&lock, 2, inside), (&to_lock, 2, inside), (&new, 2, inside), (&link, 4, "a link that leads nowhere")];
    for (path, code, why) in cases {
        let ended = run(&mut on("export", dir.path(), &["--output", path.to_str().expect("UTF-8")]));
        assert_eq!((ended.code, ended.stderr.contains(why)), (Some(code), true), "{ended:?}");
    }
    assert!(before == files(dir.path()));
    assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 2);
}

/// As of other programs, `-` is stdout.
#[test]
fn a_dash_is_stdout() {
    let dir = small();
    let dashed = run(on("export", dir.path(), &["--output", "-"]).current_dir(dir.path()));
    assert_eq!(dashed.stdout, succeeds("export", dir.path(), &[]).stdout);
    assert!(!dir.path().join("-").exists());
}

/// Entries that are not there are no empty success.
#[test]
fn entries_that_are_not_there_are_refused() {
    let dir = small();
    let refused = |directory: &Path, command: &[&str], code, why: &str| {
        let ended = run(&mut on(command[0], directory, &command[1..]));
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(code), format!("error: {why}\n").as_str()),
            "{command:?}"
        );
        ended.stdout
    };
    let past_the_end = ["export", "--entries", "--from", "8"];
    assert_eq!(refused(dir.path(), &past_the_end, 1, "--from 8: the journal ends at sequence 7"), "");
    refused(dir.path(), &["export", "--entries", "--from", "6", "--at", "5"], 2, "--from 6 is after --at 5");
    let shown = refused(dir.path(), &["inspect", "--from", "8"], 1, "--from 8: the journal ends at sequence 7");
    assert!(shown.lines().last().expect("a line").starts_with("end of the journal"), "{shown}");

    let long = Long::new();
    let compacted = succeeds("compact", long.path(), &["--id-window", "0s", "--json"]).json();
    let oldest = &compacted.last().expect("a line")["oldest_sequence"];
    let dropped = |what: &str| format!("{what}: the entries before sequence {oldest} were dropped");
    assert_eq!(refused(long.path(), &["inspect", "--from", "2"], 1, &dropped("--from 2")), "");
    assert_eq!(refused(long.path(), &["export", "--entries", "--at", "2"], 1, &dropped("--at 2")), "");
    succeeds("inspect", long.path(), &["--limit", "1"]);
}

/// Case A20: a reader that leaves is no failure, a full disk is one.
#[test]
fn a20_a_closed_pipe_is_quiet_and_a_full_disk_is_told() {
    let dir = many(5_000);
    for rest in [&[][..], &["--entries"]] {
        let mut child =
            on("export", dir.path(), rest).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let status = ends_within(&mut child, SOON);
        let mut stderr = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{rest:?}");

        let full = || OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let ended = run(on("export", dir.path(), rest).stdout(full()));
        assert_eq!(ended.code, Some(4), "{rest:?}");
        assert!(ended.stderr.contains("cannot write the output: No space left"), "{ended:?}");
        let ended = run(&mut on("export", dir.path(), &[rest, &["--output", "/dev/full"]].concat()));
        assert_eq!(ended.code, Some(4), "{ended:?}");
    }
}
