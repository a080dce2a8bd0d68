//! "Nothing is changed by refusing": a start that is refused leaves what it found, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use equipoise::{AccountId, CompactOptions, Ledger, OpenError, compact};

/// Everything under `dir`: files with their bytes, folders.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            found.extend(everything(&path));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).expect("readable");
            found.insert(path, Some(bytes));
        }
    }
    found
}

#[track_caller]
fn refused(place: &Path, open: impl FnOnce() -> Result<Ledger, OpenError>) -> OpenError {
    let before = everything(place);
    let refusal = open().expect_err("a refusal");
    let after = everything(place);
    assert!(before == after, "{refusal}: there were {:?}, and now {:?}", before.keys(), after.keys());
    refusal
}

/// A journal, copied without what else a data directory has, with a damaged first batch.
fn damaged(dir: &Path) {
    let whole = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::builder().segment_bytes(1 << 20).open(whole.path()).expect("opens");
    for name in ["a", "b"] {
        ledger.create(&AccountId::new(name).expect("an id"), 1).expect("new");
        ledger.wait_durable(ledger.sequence()).expect("durable");
    }
    drop(ledger);
    let mut bytes = fs::read(whole.path().join("journal/0000000001.segment")).expect("a segment");
    bytes[4_100] ^= 1;
    fs::create_dir_all(dir.join("journal")).expect("a folder");
    fs::write(dir.join("journal/0000000001.segment"), bytes).expect("written");
}

/// E6: what the refused start would have begun in is not there afterwards, nor are the directories above it.
#[test]
fn where_nothing_was_there_is_nothing() {
    let place = tempfile::tempdir().expect("a directory");
    let deep = place.path().join("some/where/deep");
    let few = || Ledger::builder().segment_bytes(7);
    let refusal = refused(place.path(), || few().open(&deep));
    assert!(matches!(refusal, OpenError::Setting { .. }), "{refusal}");
    fs::create_dir(place.path().join("empty")).expect("a directory");
    refused(place.path(), || few().open(place.path().join("empty")));
    fs::write(place.path().join("file"), "").expect("written");
    refused(place.path(), || Ledger::open(place.path().join("file/below")));
    fs::write(place.path().join("empty/checkpoints"), "").expect("written");
    refused(place.path(), || Ledger::open(place.path().join("empty")));
}

/// E6: beside what a refused start found it leaves nothing: no lock, no folder.
#[test]
fn what_was_found_is_left_alone() {
    let place = tempfile::tempdir().expect("a directory");
    damaged(place.path());
    let refusal = refused(place.path(), || Ledger::open(place.path()));
    assert!(matches!(refusal, OpenError::Damaged { .. }), "{refusal}");
    let before = everything(place.path());
    let options = CompactOptions::default();
    compact(place.path(), &options, &mut |_| ControlFlow::Continue(())).expect_err("damaged");
    assert!(before == everything(place.path()), "by compact");
    let cancelled = Ledger::builder().progress(|_| ControlFlow::Break(()));
    refused(place.path(), || cancelled.open(place.path()));
}

/// E6: nor does one that is refused because another has the directory, whose lock file somebody removed.
#[test]
fn a_directory_in_use_is_left_alone() {
    let place = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(place.path()).expect("opens");
    fs::remove_file(place.path().join("LOCK")).expect("there");
    // The spare is being made.
    let until = Instant::now() + Duration::from_secs(60);
    while !place.path().join("journal/spare").exists() {
        assert!(Instant::now() < until, "no spare");
        std::thread::sleep(Duration::from_millis(5));
    }
    let refusal = refused(place.path(), || Ledger::open(place.path()));
    assert!(matches!(refusal, OpenError::Held { .. }), "{refusal}");
    drop(ledger);
    Ledger::open(place.path()).expect("free again");
    assert!(place.path().join("LOCK").exists());
}

/// E6: a start that is refused where another begins meanwhile keeps that one from nothing but the lock.
#[test]
fn a_refused_start_takes_no_directory_from_under_another() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("some/where");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    Ledger::builder().segment_bytes(7).open(&dir).expect_err("an impossible length");
                }
            });
        }
        let mut wrong = None;
        for _ in 0..1_000 {
            match Ledger::open(&dir) {
                Ok(ledger) => {
                    drop(ledger);
                    let _ = fs::remove_dir_all(place.path().join("some"));
                }
                Err(OpenError::Held { .. }) => {}
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        is_over.store(true, Relaxed);
        assert!(wrong.is_none(), "{wrong:?}");
    });
}
