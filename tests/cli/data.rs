//! Data directories for the commands that read and change them.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use equipoise::{AccountId, Builder, Event, Ledger, Member, Operation, Request, TransactionId};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Ended, SOON, equipoise, run};

pub fn account(id: &str) -> AccountId {
    AccountId::new(id).expect("an id")
}

/// The command `name` on `directory`.
pub fn on(name: &str, directory: &Path, rest: &[&str]) -> Command {
    equipoise(&[&[name, directory.to_str().expect("UTF-8")], rest].concat())
}

/// Runs what must succeed, and say nothing beside.
pub fn succeeds(name: &str, directory: &Path, rest: &[&str]) -> Ended {
    let ended = run(&mut on(name, directory, rest));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{name} {rest:?}: {ended:?}");
    ended
}

/// The exported accounts: id and balance.
pub fn balances(export: &[Value]) -> Vec<(String, i64)> {
    let one = |account: &Value| {
        (account["account_id"].as_str().expect("an id").to_owned(), account["balance"].as_i64().expect("a balance"))
    };
    export.iter().skip(1).map(one).collect()
}

/// A directory with a few accounts: odd ids, balances past 2^53, a refused transfer; 7 entries.
pub fn small() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(dir.path()).expect("opens");
    for (id, balance) in [("alice", 100), ("-5", 9_007_199_254_740_993), ("é \"x\" %s", i64::MAX), ("zero", 0)] {
        ledger.create(&account(id), balance).expect("new");
    }
    ledger.transfer(&account("alice"), &account("zero"), 30).expect("funds");
    ledger.transfer(&account("alice"), &account("zero"), 71).expect_err("too much");
    ledger.update(&account("alice"), 5).expect("room");
    dir
}

/// A directory with `count` accounts of 1, 2, 3, ...
pub fn many(count: i64) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(dir.path()).expect("opens");
    for number in 0..count {
        ledger.create(&account(&format!("account-{number:06}")), number + 1).expect("new");
    }
    dir
}

/// A directory with several segments and two checkpoints: account `a` has the balance that is the number of changes.
pub struct Long {
    pub dir: TempDir,
    pub changes: i64,
    ledger: Option<Ledger>,
    checkpoints: Receiver<u64>,
}

/// Changes in one entry: 40 of them fill a segment.
const CHANGES: i64 = 500;

impl Long {
    /// With the older of two checkpoints at sequence 50 or later, and 5 segments.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (tell, checkpoints) = channel();
        let observer = move |event: &Event| {
            if let Event::CheckpointWritten { sequence, .. } = event {
                let _ = tell.send(*sequence);
            }
        };
        let ledger = Self::builder().checkpoint_every(50).observer(observer).open(dir.path()).expect("opens");
        ledger.create(&account("a"), 0).expect("new");
        let mut long = Long { dir, changes: 0, ledger: Some(ledger), checkpoints };
        for _ in 0..2 {
            long.add(60);
            long.checkpoints.recv_timeout(SOON).expect("a checkpoint");
        }
        long.add(60);
        long.ledger = None;
        long
    }

    pub fn builder() -> Builder {
        Ledger::builder().segment_bytes(1 << 20)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn add(&mut self, entries: i64) {
        let Some(ledger) = &self.ledger else { return };
        for _ in 0..entries {
            let member = |change: i64| {
                let id = TransactionId::new(&format!("change-{change}")).expect("an id");
                Member { id: Some(id), operation: Operation::update(account("a"), 1) }
            };
            let members = (self.changes..self.changes + CHANGES).map(member).collect();
            ledger.submit(Request::chain(members).expect("a chain")).expect("decided");
            self.changes += CHANGES;
        }
        ledger.wait_durable(ledger.sequence()).expect("durable");
    }
}

/// Every file with its bytes.
pub fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.display().to_string(), std::fs::read(&path).expect("a file")));
            }
        }
    }
    files.sort();
    files
}

/// How many segments there are.
pub fn segments(directory: &Path) -> usize {
    files(directory).iter().filter(|(name, _)| name.ends_with(".segment")).count()
}
