//! The lock of a data directory: one process at a time.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};

use crate::folder::Folder;
use crate::opening::OpenError;

/// The name of the lock file in its directory.
const NAME: &str = "LOCK";

/// A data directory that is ours until this is dropped, or the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// Locked as well, where the file system lets it be: somebody may remove the file and believe that nobody has it.
    _directory: Option<File>,
}

impl Lock {
    /// Takes the lock of `root`, without waiting for it.
    pub(crate) fn take(root: &Folder) -> Result<Self, OpenError> {
        let cannot = |error| OpenError::Io { path: root.path_of(NAME), what: "lock", error };
        let mut file = root.open_rw_or_create(NAME).map_err(cannot)?;
        let directory = root.reopen().ok();
        let locked = file.try_lock().and_then(|()| match directory.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => Err(TryLockError::WouldBlock),
            _ => Ok(()),
        });
        match locked {
            Ok(()) => Ok(Lock { file, _directory: directory }),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only people read it; without it the error is as true.
                let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut holder);
                let holder = Some(holder.trim().to_owned()).filter(|holder| !holder.is_empty());
                Err(OpenError::Held { dir: root.path().to_owned(), holder })
            }
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    /// Leaves our process's number, for people.
    pub(crate) fn sign(&mut self) {
        let signed = self.file.rewind().and_then(|()| self.file.set_len(0));
        // Nothing depends on it.
        let _ = signed.and_then(|()| writeln!(self.file, "{}", std::process::id()));
    }
}
