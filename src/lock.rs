//! The lock of a data directory: one process at a time.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::sync::OnceLock;

use crate::folder::Folder;
use crate::opening::OpenError;

/// The name of the lock file in its directory.
const NAME: &str = "LOCK";
/// How often others may take the file away just before we have it.
const TRIES: usize = 100;

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
        for _ in 0..TRIES {
            if let Some(lock) = Self::try_take(root)? {
                return Ok(lock);
            }
        }
        Err(cannot(root, io::Error::other("others take it away again and again")))
    }

    /// None: whoever had made the lock file has taken it away meanwhile.
    fn try_take(root: &Folder) -> Result<Option<Self>, OpenError> {
        let cannot = |error| cannot(root, error);
        let directory = root.reopen().map_err(cannot)?;
        let Some((file, made)) = find_or_make(root).map_err(cannot)? else { return Ok(None) };
        let lock = Lock { file, directory, stays: OnceLock::new() };
        if !made {
            lock.stay();
        }
        match lock.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // It is another's now.
                lock.stay();
                return Err(held(root, &lock.file));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        if let Err(TryLockError::WouldBlock) = lock.directory.try_lock() {
            return Err(held(root, &lock.file));
        }
        let is_there = root.is(NAME, &lock.file).map_err(cannot)?;
        if !is_there {
            lock.stay();
        }
        Ok(Some(lock).filter(|_| is_there))
    }

    /// The locked directory.
    pub(crate) fn directory(&self) -> &Folder {
        &self.directory
    }

    fn stay(&self) {
        // Once is enough.
        let _ = self.stays.set(());
    }

    /// Writes our process id into the file, for people, since something is begun in the directory.
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
        // Closing is not enough: a child that another thread is about to start has copies of both descriptors until it
        // runs its program. If unlocking fails, closing is all that is left.
        let _ = (self.file.unlock(), self.directory.unlock());
    }
}

/// The lock file, and whether it was made. None: it was there, and is not any more.
fn find_or_make(root: &Folder) -> io::Result<Option<(File, bool)>> {
    match root.create_new(NAME) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match root.open_rw(NAME) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => Ok(Some((opened?, false))),
        },
        made => Ok(Some((made?, true))),
    }
}

fn cannot(root: &Folder, error: io::Error) -> OpenError {
    OpenError::Io { path: root.path_of(NAME), what: "lock", error }
}

fn held(root: &Folder, file: &File) -> OpenError {
    let mut holder = String::new();
    // Only people read it; without it the error is as true.
    let _ = Read::take(file, 20).read_to_string(&mut holder);
    let holder = Some(holder.trim().to_owned()).filter(|holder| !holder.is_empty());
    OpenError::Held { dir: root.path().to_owned(), holder }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    /// B5: a child that another thread just forked has a copy of every descriptor until it runs its own program.
    #[test]
    fn a_child_about_to_begin_keeps_no_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Folder::open(dir.path()).expect("opens");
        let copy = |file: &dyn AsFd| -> OwnedFd { file.as_fd().try_clone_to_owned().expect("a copy") };
        let lock = Lock::take(&root).expect("free");
        let _of_a_child = (copy(&lock.file), copy(&lock.directory));
        drop(lock);
        Lock::take(&root).expect("free again");
    }
}
