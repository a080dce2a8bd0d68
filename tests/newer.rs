//! Files of a newer format version: an older release says so, and leaves all as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use equipoise::{AccountId, Event, Ledger, OpenError, Operation, Request, TransactionId};

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    found
}

/// The file as a release would write it that knows format version 9.
fn newer(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[12..16].copy_from_slice(&9_u32.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[12..128]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// E6: a segment, a checkpoint or a run of ids of a newer release ends the start, which names it and both versions; none is removed,
/// nor passed over, and the release that knows it finds all as it was.
#[test]
fn a_start_on_a_newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (tell, written) = std::sync::mpsc::channel();
    let observer = move |event: &Event| {
        if let Event::CheckpointWritten { .. } = event {
            let _ = tell.send(());
        }
    };
    let ledger = Ledger::builder().segment_bytes(1 << 20).checkpoint_every(10).observer(observer);
    let ledger = ledger.open(dir.path()).expect("opens");
    for number in 0..20 {
        let create = Operation::create(AccountId::new(&format!("a{number}")).expect("an id"), 1).expect("valid");
        let id = TransactionId::new(&format!("t{number}")).expect("an id");
        ledger.submit(Request::single(create, Some(id))).expect("decided");
    }
    written.recv_timeout(Duration::from_secs(20)).expect("a checkpoint");
    drop(ledger);
    let whole = files(dir.path());
    let mut kinds = [0; 3];
    for (path, bytes) in &whole {
        let kind = [".segment", ".checkpoint", ".run"].iter().position(|kind| path.to_string_lossy().ends_with(kind));
        let Some(kind) = kind else { continue };
        kinds[kind] += 1;
        // Also where the index is to be made again.
        for marked in [false, true] {
            let mark = dir.path().join("ids/damaged");
            if marked {
                fs::write(&mark, "a page").expect("written");
            }
            fs::write(path, newer(bytes)).expect("written");
            let before = files(dir.path());
            let refused = Ledger::open(dir.path()).expect_err("a newer format");
            let OpenError::Newer { file, found: 9, known } = &refused else { panic!("{refused}") };
            assert_eq!((file, *known), (path, [1, 2, 1][kind]));
            let text = format!(
                "{} has format version 9, which a newer release wrote: this one reads versions up to {known}",
                path.display()
            );
            assert_eq!(refused.to_string(), text);
            assert!(files(dir.path()) == before, "{}: something was changed", path.display());
            let _ = fs::remove_file(&mark);
        }
        fs::write(path, bytes).expect("put back");
    }
    assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
    assert_eq!(Ledger::open(dir.path()).expect("all is there again").sequence(), 20);
}
