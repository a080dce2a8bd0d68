//! The lock of a data directory: one process at a time.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::folder::Folder;
use crate::opening::OpenError;

/// The name of the lock file in its directory.
const NAME: &str = "LOCK";

/// A data directory that is ours until this is dropped, or the process dies.
pub(crate) struct Lock {
    file: File,
    /// Locked as well, where the file system lets it be: somebody may remove the file and believe that nobody has it.
    directory: Folder,
    /// Set once the file is to stay: it was there before, or something was begun in the directory.
    stays: OnceLock<()>,
}

impl Lock {
    /// Takes the lock of `root`, without waiting for it.
    pub(crate) fn take(root: &Folder) -> Result<Self, OpenError> {
        let cannot = |error| OpenError::Io { path: root.path_of(NAME), what: "lock", error };
        loop {
            let directory = root.reopen().map_err(cannot)?;
            let (file, made) = find_or_make(root).map_err(cannot)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held(root, &file)),
                Err(TryLockError::Error(error)) => return Err(cannot(error)),
            }
            let lock = Lock { file, directory, stays: OnceLock::new() };
            if !made {
                lock.stay();
            }
            if let Err(TryLockError::WouldBlock) = lock.directory.try_lock() {
                return Err(held(root, &lock.file));
            }
            // If not, whoever had made it has taken it away since.
            if is_there(root, &lock.file) {
                return Ok(lock);
            }
        }
    }

    fn stay(&self) {
        // Once is enough.
        let _ = self.stays.set(());
    }

    /// Leaves our process's number, for people: something is begun in the directory.
    pub(crate) fn sign(&self) {
        self.stay();
        let mut file = &self.file;
        let signed = file.rewind().and_then(|()| file.set_len(0));
        // Nothing depends on it.
        let _ = signed.and_then(|()| writeln!(file, "{}", std::process::id()));
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.stays.get().is_none() {
            // Left over, it is in nobody's way.
            let _ = self.directory.remove(NAME);
        }
    }
}

/// The lock file, and whether it was made.
fn find_or_make(root: &Folder) -> io::Result<(File, bool)> {
    match root.create_new(NAME) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((root.open_rw_or_create(NAME)?, false)),
        made => Ok((made?, true)),
    }
}

fn held(root: &Folder, file: &File) -> OpenError {
    let mut holder = String::new();
    // Only people read it; without it the error is as true.
    let _ = Read::take(file, 20).read_to_string(&mut holder);
    let holder = Some(holder.trim().to_owned()).filter(|holder| !holder.is_empty());
    OpenError::Held { dir: root.path().to_owned(), holder }
}

/// Whether `file` still has the name.
fn is_there(root: &Folder, file: &File) -> bool {
    let place = |file: &File| file.metadata().map(|file| (file.dev(), file.ino())).ok();
    root.open_read(NAME).is_ok_and(|there| place(&there) == place(file))
}
