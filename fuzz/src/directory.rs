//! Data directories for the recovery targets: made, opened, and compared byte by byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use equipoise::{AccountId, Ledger, OpenError};

/// The length of the segments that a ledger makes here.
const SEGMENT_BYTES: u64 = 1 << 20;

/// A directory in memory where there is one, removed when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let shared_memory = Path::new("/dev/shm");
        let parent = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("equipoise-fuzz-{}", std::process::id()));
        // Left by an input that crashed.
        let _ = fs::remove_dir_all(&path);
        for folder in ["journal", "checkpoints"] {
            fs::create_dir_all(path.join(folder)).expect("a directory");
        }
        Directory(path)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).expect("room");
    }

    /// The journal's and the checkpoints' files.
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = ["journal", "checkpoints"].map(|folder| fs::read_dir(self.0.join(folder)).expect("a directory"));
        let paths = files.into_iter().flatten().flatten().map(|entry| entry.path());
        paths.map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
    }

    pub fn open(&self) -> Result<Ledger, OpenError> {
        Ledger::builder().segment_bytes(SEGMENT_BYTES).open(&self.0)
    }
}

impl Default for Directory {
    fn default() -> Self {
        Directory::new()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens it; a refusal must change nothing, and what opens must open again, say the same, and go on.
pub fn check(directory: &Directory) {
    let before = directory.contents();
    let ledger = match directory.open() {
        Ok(ledger) => ledger,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(directory.contents() == before, "a refusal changed something: {error}");
            return;
        }
    };
    let told = tell(&ledger);
    let noted = (ledger.sources(), ledger.parked(usize::MAX));
    let new = AccountId::new("written after recovery").expect("an id");
    let went_on = ledger.create(&new, 1).is_ok();
    ledger.wait_durable(ledger.sequence()).expect("a disk that works");
    let sequence = ledger.sequence();
    drop(ledger);
    let again = directory.open().expect("what was opened and closed opens again");
    assert_eq!(again.sequence(), sequence);
    assert_eq!((again.sources(), again.parked(usize::MAX)), noted);
    assert!(!went_on || again.balance(&new).is_some_and(|state| state.balance == 1));
    assert_eq!(tell(&again)[..told.len()], told[..]);
}

/// What its history says: the entries up to the first that cannot be read.
fn tell(ledger: &Ledger) -> Vec<String> {
    let mut told = Vec::new();
    let mut from = ledger.stats().history_oldest;
    while let Ok(page) = ledger.history(from, 100) {
        let Some(last) = page.last() else { break };
        from = last.sequence() + 1;
        told.extend(page.iter().map(|outcome| format!("{outcome:?} {:?}", outcome.changes())));
    }
    told
}
