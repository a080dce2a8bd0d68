//! A simulated disk: what a power cut leaves, what a killed process leaves, and calls that fail.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::common::Random;
pub(super) use super::faults::{End, Fault};
use super::sectors::{Content, Inode};
use crate::folder::Folder;
use crate::journal::disk::files::{File, Files};

/// A change of a name that a power cut may take back.
#[derive(Clone)]
struct Renaming {
    /// The names that it changes; None takes one away.
    names: Vec<(String, Option<usize>)>,
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Renaming>,
    calls: u64,
    /// How many calls changed something.
    changes: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    capacity: Option<usize>,
    /// Writes to the file of this name wait.
    held: Option<String>,
    broken: Option<String>,
    unreadable: Option<String>,
    /// The file of this name keeps it.
    stuck: Option<String>,
    /// The file of this name stays.
    lasting: Option<String>,
    log: Vec<String>,
    /// The most bytes that there were.
    peak: usize,
}

/// The disk and the process that uses it.
#[derive(Clone)]
pub(super) struct Disk {
    root: Arc<(Folder, TempDir)>,
    state: Arc<Mutex<State>>,
}

impl Disk {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = Folder::open(dir.path()).expect("a directory");
        Disk { root: Arc::new((folder, dir)), state: Arc::default() }
    }

    /// A process of its own on a copy of everything, so far without a fault.
    pub(super) fn copy(&self) -> Disk {
        let mut copy = Disk::new();
        // Before the journal: the index is never ahead of it.
        copy_files(&self.root.0.path().join("ids"), &copy.root.0.path().join("ids"));
        let state =
            State { fault: None, dead: false, log: Vec::new(), calls: 0, changes: 0, ..self.state.lock().clone() };
        copy.state = Arc::new(Mutex::new(state));
        copy
    }

    /// What the next process finds.
    pub(super) fn after(&self, end: End) -> Disk {
        let disk = self.copy();
        match end {
            End::Killed => {}
            End::WorstPowerCut => disk.state.lock().cut(None),
            End::PowerCut(seed) => disk.state.lock().cut(Some(Random(seed))),
        }
        disk
    }

    pub(super) fn files(&self) -> Arc<dyn Files> {
        Arc::new(self.clone())
    }

    /// What goes wrong at call number `call`, from 1.
    pub(super) fn fail(&self, call: u64, fault: Fault) {
        self.state.lock().fault = Some((call, fault));
    }

    /// How many bytes there may be.
    pub(super) fn limit(&self, capacity: Option<usize>) {
        self.state.lock().capacity = capacity;
    }

    /// Lets writes to the file of this name wait, until it is called again.
    pub(super) fn hold(&self, name: Option<&str>) {
        self.state.lock().held = name.map(str::to_owned);
    }

    /// Lets every write to the file of this name fail, until it is called again.
    pub(super) fn break_writes(&self, name: Option<&str>) {
        self.state.lock().broken = name.map(str::to_owned);
    }

    /// Lets every read of the file of this name fail, until it is called again.
    pub(super) fn break_reads(&self, name: Option<&str>) {
        self.state.lock().unreadable = name.map(str::to_owned);
    }

    /// Lets every attempt to rename the file of this name fail, until it is called again.
    pub(super) fn break_renames(&self, name: Option<&str>) {
        self.state.lock().stuck = name.map(str::to_owned);
    }

    /// Lets every attempt to remove the file of this name fail, until it is called again.
    pub(super) fn break_removals(&self, name: Option<&str>) {
        self.state.lock().lasting = name.map(str::to_owned);
    }

    pub(super) fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    pub(super) fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Whether the fault has struck.
    pub(super) fn has_failed(&self) -> bool {
        let state = self.state.lock();
        state.fault.is_some_and(|(call, _)| state.calls >= call)
    }

    /// What was called last, for whoever reads about a failed trial.
    pub(super) fn last_calls(&self) -> String {
        let state = self.state.lock();
        state.log[state.log.len().saturating_sub(40)..].join("\n")
    }

    pub(super) fn used(&self) -> usize {
        self.state.lock().used()
    }

    /// How many bytes there were at most since the last call.
    pub(super) fn peak(&self) -> usize {
        let mut state = self.state.lock();
        let used = state.used();
        std::mem::replace(&mut state.peak, used)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state.lock().names.keys().cloned().collect()
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state.lock();
        let content = &state.inodes[state.names[name]].content;
        let mut bytes = vec![0; content.length];
        content.read(&mut bytes, 0);
        bytes
    }

    /// Puts a durable file there.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state.lock();
        let mut content = Content::default();
        content.resize(bytes.len());
        content.write(0, bytes);
        state.inodes.push(Inode { durable: content.clone(), content, ..Inode::default() });
        let inode = state.inodes.len() - 1;
        state.names.insert(name.to_owned(), inode);
        state.durable.insert(name.to_owned(), inode);
    }

    /// Takes a file away.
    pub(super) fn take(&self, name: &str) {
        let mut state = self.state.lock();
        state.names.remove(name);
        state.durable.remove(name);
    }

    /// Changes the bytes of a file, durably.
    pub(super) fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes(name);
        change(&mut bytes);
        self.put(name, &bytes);
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

fn no_such(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, name.to_owned())
}

fn folder(name: &str) -> &str {
    name.split_once('/').map_or("", |(folder, _)| folder)
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|inode| self.inodes[*inode].content.length).sum()
    }

    fn holds(&self, inode: usize) -> bool {
        self.is_named(self.held.as_ref(), inode)
    }

    fn is_named(&self, name: Option<&String>, inode: usize) -> bool {
        name.is_some_and(|name| self.names.get(name) == Some(&inode))
    }

    /// Counts a call; Err when it fails, otherwise what strikes within it.
    fn call(&mut self, what: impl FnOnce() -> String) -> io::Result<Option<Fault>> {
        if self.dead {
            return Err(dead());
        }
        self.calls += 1;
        let fault = self.fault.filter(|(call, _)| *call == self.calls).map(|(_, fault)| fault);
        self.log.push(format!(
            "{} {}{}",
            self.calls,
            what(),
            fault.map_or(String::new(), |fault| format!(": {fault:?}"))
        ));
        match fault {
            Some(Fault::CrashBefore) => {
                self.dead = true;
                Err(dead())
            }
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            fault => Ok(fault),
        }
    }

    /// The end of a call that has done its work.
    fn end<T>(&mut self, fault: Option<Fault>, result: T) -> io::Result<T> {
        match fault {
            Some(Fault::CrashWithin | Fault::CrashAfter) => {
                self.dead = true;
                Err(dead())
            }
            Some(Fault::Failed) => Err(io::Error::other("simulated EIO")),
            _ => Ok(result),
        }
    }

    fn rename(&mut self, names: Vec<(String, Option<usize>)>) {
        self.changes += 1;
        apply(&mut self.names, &names);
        self.pending.push(Renaming { names });
    }

    /// Keeps what is durable, and of the rest what happens to be: a file system may write names in any order.
    fn cut(&mut self, mut random: Option<Random>) {
        let odds = random.as_mut().map_or(0, |random| random.below(5));
        for renaming in std::mem::take(&mut self.pending) {
            if random.as_mut().is_some_and(|random| random.below(4) < odds) {
                apply(&mut self.durable, &renaming.names);
            }
        }
        self.names = self.durable.clone();
        let inodes = std::mem::take(&mut self.inodes).into_iter();
        self.inodes = inodes.map(|inode| inode.cut(random.as_mut())).collect();
    }

    fn write(&mut self, inode: usize, bytes: &[u8], offset: usize) -> io::Result<usize> {
        let more = (offset + bytes.len()).saturating_sub(self.inodes[inode].content.length);
        let room = self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.used()));
        let written = bytes.len() - more.saturating_sub(room).min(bytes.len());
        if written == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.changes += 1;
        let file = &mut self.inodes[inode];
        if file.content.length < offset + written {
            file.resize(offset + written);
        }
        file.content.write(offset, &bytes[..written]);
        file.touch(offset, offset + written);
        self.peak = self.peak.max(self.used());
        Ok(written)
    }
}

fn apply(names: &mut BTreeMap<String, usize>, changes: &[(String, Option<usize>)]) {
    for (name, inode) in changes {
        match inode {
            Some(inode) => drop(names.insert(name.clone(), *inode)),
            None => drop(names.remove(name)),
        }
    }
}

/// Copies the files of a folder that may not be there, while some of them are removed.
fn copy_files(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir(to).expect("a folder");
    for entry in entries.map(|entry| entry.expect("an entry")) {
        match std::fs::copy(entry.path(), to.join(entry.file_name())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.expect("copied")),
        }
    }
}

impl Files for Disk {
    fn root(&self) -> &Folder {
        &self.root.0
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("list {folder}"))?;
        let inside = |name: &String| name.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned);
        let names = state.names.keys().filter_map(inside).collect();
        state.end(fault, names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("open {name}"))?;
        let inode = *state.names.get(name).ok_or_else(|| no_such(name))?;
        let file: Box<dyn File> = Box::new(Open { state: self.state.clone(), inode, name: name.to_owned() });
        state.end(fault, file)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("create {name}"))?;
        if fault != Some(Fault::Failed) {
            match state.names.get(name).copied() {
                Some(inode) => state.inodes[inode].resize(0),
                None => {
                    state.inodes.push(Inode::default());
                    let inode = state.inodes.len() - 1;
                    state.rename(vec![(name.to_owned(), Some(inode))]);
                }
            }
            state.changes += 1;
        }
        let inode = state.names.get(name).copied().unwrap_or(0);
        let file: Box<dyn File> = Box::new(Open { state: self.state.clone(), inode, name: name.to_owned() });
        state.end(fault, file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("rename {from} to {to}"))?;
        let inode = *state.names.get(from).ok_or_else(|| no_such(from))?;
        if state.stuck.as_deref() == Some(from) {
            return Err(io::Error::other("simulated EIO"));
        }
        if fault != Some(Fault::Failed) {
            state.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        }
        state.end(fault, ())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("remove {name}"))?;
        state.names.get(name).ok_or_else(|| no_such(name))?;
        if state.lasting.as_deref() == Some(name) {
            return Err(io::Error::other("simulated EIO"));
        }
        if fault != Some(Fault::Failed) {
            state.rename(vec![(name.to_owned(), None)]);
        }
        state.end(fault, ())
    }

    fn sync_folder(&self, synced: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("sync folder {synced}"))?;
        if !matches!(fault, Some(Fault::Failed | Fault::CrashWithin)) {
            let here = |renaming: &Renaming| folder(&renaming.names[0].0) == synced;
            let (done, left) = std::mem::take(&mut state.pending).into_iter().partition(here);
            state.pending = left;
            let done: Vec<Renaming> = done;
            done.iter().for_each(|renaming| apply(&mut state.durable, &renaming.names));
        }
        state.end(fault, ())
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        let state = self.state.lock();
        if state.dead { Err(dead()) } else { Ok(state.names.contains_key(name)) }
    }

    fn free(&self, _folder: &str) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()) as u64))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

/// An open file; it stays when its name goes.
struct Open {
    state: Arc<Mutex<State>>,
    inode: usize,
    name: String,
}

impl File for Open {
    fn length(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("length of {}", self.name))?;
        let length = state.inodes[self.inode].content.length as u64;
        state.end(fault, length)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.is_named(state.unreadable.as_ref(), self.inode) {
            return Err(io::Error::other("simulated EIO"));
        }
        let fault = state.call(|| format!("read {} at {offset}", self.name))?;
        let half = fault == Some(Fault::Short) && into.len() > 1;
        let into = if half { into.split_at_mut(into.len() / 2).0 } else { into };
        let read = state.inodes[self.inode].content.read(into, usize::try_from(offset).expect("small"));
        state.end(fault, read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        while self.state.lock().holds(self.inode) {
            std::thread::sleep(Duration::from_micros(100));
        }
        let mut state = self.state.lock();
        if state.is_named(state.broken.as_ref(), self.inode) {
            return Err(io::Error::other("simulated EIO"));
        }
        let fault = state.call(|| format!("write {} at {offset}: {} bytes", self.name, bytes.len()))?;
        let half = matches!(fault, Some(Fault::Short | Fault::CrashWithin | Fault::Failed)) && bytes.len() > 1;
        let bytes = if half { &bytes[..bytes.len() / 2] } else { bytes };
        let written = state.write(self.inode, bytes, usize::try_from(offset).expect("small"))?;
        state.end(fault, written)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("length of {} to {length}", self.name))?;
        if fault != Some(Fault::Failed) {
            state.changes += 1;
            state.inodes[self.inode].resize(usize::try_from(length).expect("small"));
        }
        state.end(fault, ())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.call(|| format!("sync {}", self.name))?;
        match fault {
            Some(Fault::CrashWithin) => {}
            Some(Fault::Failed) => state.inodes[self.inode].dirty.fill(false),
            _ => state.inodes[self.inode].sync(),
        }
        state.end(fault, ())
    }
}
