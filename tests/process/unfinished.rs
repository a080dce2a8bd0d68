//! An export that is stopped before it is whole.

use std::ffi::OsString;
use std::fs;
use std::io::{PipeWriter, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use equipoise::{AccountId, Ledger};
use rustix::fs::{OFlags, fcntl_setfl};
use tempfile::TempDir;

use crate::service::{SOON, interruptible, signal};
use crate::shim::shimmed;

/// A data directory, and a folder with an export of yesterday.
struct Place {
    dir: TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Ledger::open(dir.path().join("data")).unwrap().create(&AccountId::new("a").unwrap(), 5).unwrap();
        let folder = dir.path().join("out/journal");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("export.jsonl");
        fs::write(&file, "yesterday's").unwrap();
        Place { dir, file }
    }

    /// An export that is in its fsync, which takes `delay` milliseconds.
    fn exporting(&self, delay: &str, stderr: impl Into<Stdio>) -> Child {
        let data = self.dir.path().join("data");
        let export = interruptible(&["export", data.to_str().unwrap(), "--output", self.file.to_str().unwrap()]);
        let mut export = shimmed(export, &self.dir.path().join("out"), &[("DELAY", delay)]);
        let mut child = export.stderr(stderr).spawn().unwrap();
        let until = Instant::now() + SOON;
        while self.files().len() < 2 && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "it does not begin");
            sleep(Duration::from_millis(2));
        }
        child
    }

    fn files(&self) -> Vec<OsString> {
        fs::read_dir(self.file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    fn export(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }
}

fn ended(mut child: Child) -> ExitStatus {
    let until = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < until, "it does not end");
        sleep(Duration::from_millis(2));
    }
}

/// E6: whoever stops an export leaves nothing of it, and what was there stays.
#[test]
fn a_stopped_export_leaves_nothing() {
    let place = Place::new();
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let child = place.exporting("3600000", Stdio::null());
        signal(child.id(), name);
        assert_eq!(ended(child).signal(), Some(number), "{name}");
        assert_eq!(place.files(), ["export.jsonl"], "{name}");
        assert_eq!(place.export(), "yesterday's", "{name}");
    }
}

/// E6: an export does not go on while its interrupt is told, to fail for want of what the interrupt took away.
#[test]
fn a_stopped_export_does_not_go_on() {
    let place = Place::new();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let mut child = place.exporting("300", writer.try_clone().unwrap());
    // It has warned of the shim's variables by now.
    fill(&mut writer);
    drop(writer);
    signal(child.id(), "INT");
    let until = Instant::now() + SOON;
    while place.files().len() > 1 && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "it does not hear the signal");
        sleep(Duration::from_millis(2));
    }
    // Its fsync is done, and its last words wait for a reader.
    sleep(Duration::from_millis(600));
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    let said = said.replace("..", "");
    let status = ended(child);
    assert_eq!(place.files(), ["export.jsonl"]);
    // On a busy machine it may be whole before the signal comes.
    let whole = place.export() != "yesterday's";
    assert!(status.signal() == Some(2) || (whole && status.success()), "{status}: {said}");
    assert!(!said.contains("cannot write"), "{status}: {said}");
}

fn fill(pipe: &mut PipeWriter) {
    fcntl_setfl(&*pipe, OFlags::NONBLOCK).unwrap();
    for piece in [4096, 1] {
        while pipe.write(&vec![b'.'; piece]).is_ok() {}
    }
    fcntl_setfl(&*pipe, OFlags::empty()).unwrap();
}
