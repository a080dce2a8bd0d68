//! Data directories: what is in them, and how there comes to be something.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use equipoise::{Builder, Event};

use super::{SOON, create, decide, named};

/// Every file under `dir`, with its bytes.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    found
}

/// What hears of each checkpoint, and an observer that tells it.
pub fn checkpoints() -> (Receiver<()>, impl Fn(&Event) + Send + Sync + 'static) {
    let (tell, written) = channel();
    let observer = move |event: &Event| {
        if let Event::CheckpointWritten { .. } = event {
            // Who has heard enough is gone.
            let _ = tell.send(());
        }
    };
    (written, observer)
}

/// Opens twenty accounts in `dir`, each under an id, and closes the ledger when there is a checkpoint.
pub fn twenty_accounts(builder: Builder, dir: &Path) {
    let (written, observer) = checkpoints();
    let ledger = builder.checkpoint_every(10).observer(observer).open(dir).expect("opens");
    for number in 0..20 {
        decide(&ledger, named(create(&format!("a{number}"), 1), &format!("t{number}")));
    }
    written.recv_timeout(SOON).expect("a checkpoint");
}
