//! The lock of a data directory: one process at a time.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::sync::OnceLock;
use std::time::Duration;

use crate::folder::Folder;
use crate::opening::OpenError;

/// The name of the lock file in its directory.
const NAME: &str = "LOCK";
/// How often others may take the file away just before we have it.
const TRIES: usize = 100;
/// The most that is read of the lock file: a process id, and a line's end.
const MOST_SIGNED: u64 = 20;

/// How long a process that has just taken the lock may take to sign it. Only those wait that are refused.
const SIGNING: Duration = Duration::from_millis(20);

/// A data directory that is ours until this is dropped, or the process dies. Its file says who has it.
pub(crate) struct Lock {
    file: File,
    /// Locked as well, where the file system lets it be: somebody may remove the file and believe that nobody has it.
    directory: Folder,
    /// What a refused start does with the file.
    undo: Undo,
    /// Set once something is begun in the directory: then there is nothing to undo.
    begun: OnceLock<()>,
}

/// How the lock file becomes what it was before.
enum Undo {
    /// It was made.
    Remove,
    /// It held the process id of whoever had the lock before.
    Restore(Vec<u8>),
    /// It is not ours to change.
    Leave,
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
        let undo = if made { Undo::Remove } else { Undo::Leave };
        let mut lock = Lock { file, directory, undo, begun: OnceLock::new() };
        match lock.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // It is another's now.
                lock.undo = Undo::Leave;
                return Err(lock.held(root));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        if let Err(TryLockError::WouldBlock) = lock.directory.try_lock() {
            return Err(lock.held(root));
        }
        if !root.is(NAME, &lock.file).map_err(cannot)? {
            lock.undo = Undo::Leave;
            return Ok(None);
        }
        lock.sign(made);
        Ok(Some(lock))
    }

    /// The error for a directory that another process has.
    fn held(self, root: &Folder) -> OpenError {
        let file = self.file.try_clone();
        // Others may take what was locked here, without waiting for us.
        drop(self);
        std::thread::sleep(SIGNING);
        let mut holder = String::new();
        // Only people read it; without it the error is as true.
        let _ = file.and_then(|file| Read::take(&file, MOST_SIGNED).read_to_string(&mut holder));
        let holder = Some(holder.trim().to_owned()).filter(|holder| !holder.is_empty());
        OpenError::Held { dir: root.path().to_owned(), holder }
    }

    /// The locked directory.
    pub(crate) fn directory(&self) -> &Folder {
        &self.directory
    }

    /// Writes our process id into the file, for people, unless what is there cannot be put back. Nothing depends on it,
    /// so a failure is none of the start's.
    fn sign(&mut self, made: bool) {
        let mut before = Vec::new();
        if !made {
            let read = Read::take(&self.file, MOST_SIGNED + 1).read_to_end(&mut before);
            if !read.is_ok_and(|length| length as u64 <= MOST_SIGNED) {
                return;
            }
            self.undo = Undo::Restore(before);
        }
        let _ = write(&self.file, format!("{}\n", std::process::id()).as_bytes());
    }

    /// Something is begun in the directory: the file stays, with our process id.
    pub(crate) fn begin(&self) {
        // Once is enough.
        let _ = self.begun.set(());
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.begun.get().is_none() {
            // What cannot be undone is in nobody's way.
            let _ = match &self.undo {
                // Somebody may have removed it, and another process made its own.
                Undo::Remove => match self.directory.is(NAME, &self.file) {
                    Ok(true) => self.directory.remove(NAME),
                    _ => Ok(()),
                },
                Undo::Restore(before) => write(&self.file, before),
                Undo::Leave => Ok(()),
            };
        }
        // Closing is not enough: a child that another thread is about to start has copies of both descriptors until it
        // runs its program. If unlocking fails, closing is all that is left.
        let _ = (self.file.unlock(), self.directory.unlock());
    }
}

/// Makes `content` all that the file holds.
fn write(mut file: &File, content: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)
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

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    /// A14: the file names whoever has the lock, from its taking on; a start that is refused leaves it as it was.
    #[test]
    fn the_file_says_who_has_the_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Folder::open(dir.path()).expect("opens");
        let signed = || std::fs::read_to_string(dir.path().join(NAME)).ok();
        let ours = format!("{}\n", std::process::id());
        let lock = Lock::take(&root).expect("free");
        assert_eq!(signed().as_ref(), Some(&ours));
        drop(lock);
        assert_eq!(signed(), None, "nothing was begun");

        std::fs::write(dir.path().join(NAME), "123456789\n").expect("written");
        let lock = Lock::take(&root).expect("its process is dead");
        let refused = Lock::take(&root).err();
        let is_ours = |holder: &str| holder == ours.trim_end();
        assert!(
            matches!(&refused, Some(OpenError::Held { holder: Some(holder), .. }) if is_ours(holder)),
            "{refused:?}"
        );
        assert_eq!(signed().as_ref(), Some(&ours));
        drop(lock);
        assert_eq!(signed().as_deref(), Some("123456789\n"), "nothing was begun");

        Lock::take(&root).expect("free").begin();
        assert_eq!(signed().as_ref(), Some(&ours));

        let foreign = "this is another program's file\n";
        std::fs::write(dir.path().join(NAME), foreign).expect("written");
        drop(Lock::take(&root).expect("free"));
        assert_eq!(signed().as_deref(), Some(foreign));
    }

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
