//! An export that is stopped before it is whole.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use equipoise::{AccountId, Ledger};

use crate::service::{SOON, interruptible, signal};
use crate::shim::shimmed;

/// E6: whoever stops an export leaves nothing of it, and what was there stays.
#[test]
fn a_stopped_export_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (data, folder) = (place.path().join("data"), place.path().join("out/journal"));
    Ledger::open(&data).unwrap().create(&AccountId::new("a").unwrap(), 5).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("export.jsonl");
    fs::write(&file, "yesterday's").unwrap();
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let export = interruptible(&["export", data.to_str().unwrap(), "--output", file.to_str().unwrap()]);
        // Its fsync takes an hour.
        let mut export = shimmed(export, &place.path().join("out"), &[("DELAY", "3600000")]);
        let mut child = export.stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + SOON;
        while fs::read_dir(&folder).unwrap().count() < 2 {
            assert!(child.try_wait().unwrap().is_none(), "{name}: it ended");
            assert!(Instant::now() < until, "{name}: it does not begin");
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(child.id(), name);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "{name}: it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(child.wait().unwrap().signal(), Some(number), "{name}");
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["export.jsonl"], "{name}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "yesterday's", "{name}");
    }
}
