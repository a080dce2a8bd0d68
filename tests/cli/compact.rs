//! `equipoise compact`.

use std::process::Stdio;
use std::time::Duration;

use equipoise::{HistoryError, Ledger};

use crate::data::{Long, account, balances, files, on, segments, small, succeeds};
use crate::program::run;

#[test]
fn old_segments_go_and_the_rest_is_whole() {
    let long = Long::new();
    let before = segments(long.path());
    assert!(before >= 4, "{before} segments");
    let dry = succeeds("compact", long.path(), &["--id-window", "0s", "--dry-run", "--json"]).json();
    let lines = succeeds("compact", long.path(), &["--id-window", "0s", "--json"]).json();
    let (kept, dropped) = lines.split_last().expect("a line");
    assert!(!dropped.is_empty() && dropped[0]["type"] == "dropped" && dropped[0]["first_sequence"] == 1, "{lines:?}");
    assert_eq!(kept["freed_bytes"], dropped.len() * (1 << 20));
    assert_eq!(kept["segments"], before - dropped.len());
    assert!(kept["because"].as_str().expect("a reason").starts_with("a start from the checkpoint at sequence "));
    let told: Vec<_> = dry.iter().map(|line| line["type"].clone()).collect();
    assert_eq!(told, lines.iter().map(|line| line["type"].clone()).collect::<Vec<_>>());
    assert_eq!(segments(long.path()), before - dropped.len());

    let report = &succeeds("verify", long.path(), &["--json"]).json()[0];
    assert_eq!(report["first_sequence"], kept["oldest_sequence"]);
    assert_eq!(balances(&succeeds("export", long.path(), &[]).json()), [("a".to_owned(), long.changes)]);
    let gone = run(&mut on("export", long.path(), &["--at", "2"]));
    assert!(gone.code == Some(1) && gone.stderr.contains("--at 2: the entries before were dropped"), "{gone:?}");
    assert_eq!(run(&mut on("export", long.path(), &["--entries", "--from", "2"])).code, Some(1));

    let oldest = kept["oldest_sequence"].as_u64().expect("a sequence");
    let ledger = Long::builder().open(long.path()).expect("opens");
    assert_eq!(ledger.balance(&account("a")).map(|state| state.balance), Some(long.changes));
    let gone = ledger.history(oldest - 1, 1).expect_err("dropped");
    assert!(matches!(gone, HistoryError::Gone(gone) if gone.oldest == oldest), "{gone:?}");
    assert_eq!(ledger.history(oldest, 1).expect("kept")[0].sequence(), oldest);
    ledger.update(&account("a"), 1).expect("room");
    drop(ledger);
    succeeds("verify", long.path(), &[]);
    // Once more: nothing is left to drop.
    let again = succeeds("compact", long.path(), &["--id-window", "0s"]).stdout;
    assert!(again.starts_with("freed 0 bytes\n"), "{again}");
}

/// A start from the older checkpoint works too: whatever befalls the newer one.
#[test]
fn the_older_checkpoint_still_serves() {
    let long = Long::new();
    succeeds("compact", long.path(), &["--id-window", "0s"]);
    let newest = files(long.path()).into_iter().rfind(|(name, _)| name.ends_with(".checkpoint")).expect("a checkpoint");
    std::fs::write(newest.0, [0; 200]).expect("written");
    let ledger = Long::builder().open(long.path()).expect("opens");
    assert_eq!(ledger.balance(&account("a")).map(|state| state.balance), Some(long.changes));
}

#[test]
fn what_is_still_needed_stays_and_why_is_said() {
    let long = Long::new();
    let before = files(long.path());
    let freed_nothing = |rest: &[&str], why: &str| {
        let ended = succeeds("compact", long.path(), rest);
        assert!(ended.stdout.starts_with("freed 0 bytes\n") && ended.stdout.contains(why), "{rest:?}: {ended:?}");
    };
    freed_nothing(&[], "its newest transaction ids are still honoured");
    freed_nothing(&["--id-window", "0s", "--keep-entries", "1000"], "the newest 1000 entries are to be kept");
    succeeds("compact", long.path(), &["--id-window", "0s", "--dry-run"]);
    assert!(before == files(long.path()), "nothing is changed");
    let checkpoint = before.iter().find(|(name, _)| name.ends_with(".checkpoint")).expect("a checkpoint");
    std::fs::write(&checkpoint.0, &checkpoint.1[..150]).expect("written");
    freed_nothing(&["--id-window", "0s"], "two good checkpoints are needed, and there are 1 (");

    let other = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(other.path().join("journal")).expect("a folder");
    let ended = run(&mut on("compact", other.path(), &[]));
    assert!(ended.code == Some(4) && ended.stderr.contains("there is no segment"), "{ended:?}");
    let dir = small();
    let ended = succeeds("compact", dir.path(), &["--id-window", "0s"]);
    assert!(ended.stdout.contains("kept 1 segments, 16777216 bytes, from sequence 1 on: the journal ends there"));
}

/// An interrupted run has dropped some: the rest is dense, and the next one goes on.
#[test]
fn an_interrupted_run_is_run_again() {
    let long = Long::new();
    let lines = succeeds("compact", long.path(), &["--id-window", "0s", "--dry-run", "--json"]).json();
    std::fs::remove_file(lines[0]["file"].as_str().expect("a file")).expect("removed");
    succeeds("verify", long.path(), &[]);
    let again = succeeds("compact", long.path(), &["--id-window", "0s", "--json"]).json();
    assert_eq!(again.len(), lines.len() - 1);
    succeeds("verify", long.path(), &[]);
}

/// Wherever kill -9 comes, what is left is whole, and the next run ends where the first would have.
#[test]
fn a_killed_run_is_run_again() {
    for wait in [0, 10, 40] {
        let long = Long::new();
        let dry = succeeds("compact", long.path(), &["--id-window", "0s", "--dry-run", "--json"]).json();
        let kept = segments(long.path()) - (dry.len() - 1);
        let mut child = on("compact", long.path(), &["--id-window", "0s"]).stdout(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().expect("ends");
        succeeds("verify", long.path(), &[]);
        succeeds("compact", long.path(), &["--id-window", "0s"]);
        succeeds("verify", long.path(), &[]);
        assert_eq!(segments(long.path()), kept, "killed after {wait} ms");
        assert_eq!(balances(&succeeds("export", long.path(), &[]).json()), [("a".to_owned(), long.changes)]);
    }
}

#[test]
fn a_damaged_directory_is_left_as_it_is() {
    let long = Long::new();
    let (name, mut bytes) = files(long.path()).into_iter().find(|(name, _)| name.ends_with("1.segment")).expect("it");
    bytes[4_100] ^= 1;
    std::fs::write(&name, bytes).expect("written");
    let before = files(long.path());
    let ended = run(&mut on("compact", long.path(), &["--id-window", "0s", "--json"]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{ended:?}");
    let error = ended.error();
    assert_eq!((error["code"].as_str(), error["offset"].as_u64()), (Some("DATA_LOSS"), Some(4096)), "{error}");
    assert!(before == files(long.path()));
}

/// Case A14.
#[test]
fn a14_a_directory_in_use_or_none_is_refused() {
    let dir = small();
    let ledger = Ledger::open(dir.path()).expect("opens");
    let ended = run(&mut on("compact", dir.path(), &[]));
    assert!(ended.code == Some(4) && ended.stderr.contains("is in use by process"), "{ended:?}");
    drop(ledger);
    let nowhere = dir.path().join("nowhere");
    assert_eq!(run(&mut on("compact", &nowhere, &[])).code, Some(4));
    assert!(!nowhere.exists());
}
