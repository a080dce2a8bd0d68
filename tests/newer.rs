//! Files of a newer format version: an older release says so, and leaves all as it is.

mod common;

use std::fs;

use common::directory::{files, twenty_accounts};
use equipoise::{Ledger, OpenError};

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
    twenty_accounts(Ledger::builder().segment_bytes(1 << 20), dir.path());
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
