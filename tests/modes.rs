//! Who may read what is in a data directory: only whoever runs the service.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::directory::twenty_accounts;
use equipoise::Ledger;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[track_caller]
fn private(dir: &Path) -> usize {
    let mut files = 0;
    for path in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}: {:o}", path.display(), mode(&path));
        files += if path.is_dir() { private(&path) } else { 1 };
    }
    files
}

/// Money is kept there: files and folders are for their owner alone, and so is the directory if the service made it.
#[test]
fn what_is_made_is_for_its_owner_alone() {
    let place = tempfile::tempdir().expect("a directory");
    let [made, there] = ["above/made", "there"].map(|name| place.path().join(name));
    fs::create_dir(&there).expect("made");
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).expect("set");
    for dir in [&made, &there] {
        twenty_accounts(Ledger::builder().id_capacity(1), dir);
        assert!(private(dir) >= 5, "LOCK, a segment, the spare, a checkpoint, a run");
    }
    assert_eq!((mode(&made), mode(&made.join(".."))), (0o700, 0o700));
    assert_eq!(mode(&there), 0o755, "it is somebody's");
}
