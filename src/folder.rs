//! A directory held open: everything happens in that directory, wherever it is moved and whatever takes its path.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, fstat, fstatvfs, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, retry_on_intr};

/// Permissions of new files and folders: for their owner alone.
const FILE: Mode = Mode::from_raw_mode(0o600);
const FOLDER: Mode = Mode::from_raw_mode(0o700);

/// Whether a call that writes failed for want of room, on the disk or in somebody's share of it.
pub(crate) fn is_out_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An open directory. Names are those of what is right in it.
#[derive(Debug)]
pub(crate) struct Folder {
    handle: File,
    path: PathBuf,
}

impl Folder {
    /// The directory at `path`, made if it is not there, as are those above it.
    pub(crate) fn make_all(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(FOLDER.bits()).create(path)?;
        Self::open(path)
    }

    /// The directory that is at `path` now.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::at(rustix::fs::CWD, path, path.to_owned())
    }

    /// The folder `name` in this one, made if it is not there.
    pub(crate) fn open_or_create_folder(&self, name: &str) -> io::Result<Self> {
        let path = self.path_of(name);
        match Self::at(&self.handle, Path::new(name), path.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Another process may be making it: whose it is, the lock tells.
                match mkdirat(&self.handle, name, FOLDER) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                Self::at(&self.handle, Path::new(name), path)
            }
            opened => opened,
        }
    }

    /// The folder `name` in this one, if it is there.
    pub(crate) fn find(&self, name: &str) -> io::Result<Option<Self>> {
        match Self::at(&self.handle, Path::new(name), self.path_of(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn at(above: impl AsFd, name: &Path, path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = retry_on_intr(|| openat(&above, name, flags, Mode::empty()))?;
        Ok(Folder { handle: handle.into(), path })
    }

    /// Where it was when it was opened, for people.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Folder::path`], of `name` in it.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens it once more, for a lock that is released by dropping the new handle.
    pub(crate) fn reopen(&self) -> io::Result<Self> {
        Self::at(&self.handle, Path::new("."), self.path.clone())
    }

    /// Locks it, without waiting, until it is unlocked or dropped.
    pub(crate) fn try_lock(&self) -> Result<(), TryLockError> {
        self.handle.try_lock()
    }

    pub(crate) fn unlock(&self) -> io::Result<()> {
        self.handle.unlock()
    }

    /// The names of what is in it, in no order.
    pub(crate) fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    /// Opens a file for reading.
    pub(crate) fn open_read(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDONLY)
    }

    /// Opens a file for reading and writing.
    pub(crate) fn open_rw(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR)
    }

    /// As [`Folder::open_rw`], and makes the file, which must not be there.
    pub(crate) fn create_new(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    /// As [`Folder::open_rw`], and makes the file if it is not there; empty whatever was there.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)
    }

    fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let file = retry_on_intr(|| openat(&self.handle, name, flags | OFlags::CLOEXEC, FILE))?;
        Ok(file.into())
    }

    /// Whether `file` has the name.
    pub(crate) fn is(&self, name: &str, file: &File) -> io::Result<bool> {
        let Some(there) = self.stat(name)? else { return Ok(false) };
        let file = fstat(file)?;
        Ok((there.st_dev, there.st_ino) == (file.st_dev, file.st_ino))
    }

    /// Whether something has the name.
    pub(crate) fn has(&self, name: &str) -> io::Result<bool> {
        Ok(self.stat(name)?.is_some())
    }

    fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match retry_on_intr(|| statat(&self.handle, name, AtFlags::empty())) {
            Err(Errno::NOENT) => Ok(None),
            there => Ok(Some(there?)),
        }
    }

    /// Renames a file in it, over whatever has the name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.handle, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.handle, name, AtFlags::REMOVEDIR)?)
    }

    /// How much room its file system has left for us, in bytes; all there is, where it does not say.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let said = retry_on_intr(|| fstatvfs(&self.handle))?;
        Ok(if said.f_blocks == 0 { u64::MAX } else { said.f_bavail.saturating_mul(said.f_frsize) })
    }

    /// Makes the names in it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    /// C2: after it was moved, with a copy in its place, everything is done where it was moved to.
    #[test]
    fn a_folder_stays_the_same_one() {
        let above = tempfile::tempdir().expect("a folder");
        let (path, moved) = (above.path().join("data"), above.path().join("moved"));
        fs::create_dir(&path).expect("made");
        let root = Folder::open(&path).expect("opens");
        let inner = root.open_or_create_folder("inner").expect("made");
        for name in ["a", "b"] {
            inner.create(name).and_then(|mut file| file.write_all(b"old")).expect("written");
        }
        fs::rename(&path, &moved).expect("moved");
        fs::create_dir_all(path.join("inner")).expect("another in its place");
        fs::write(path.join("inner/a"), "copied").expect("written");

        assert_eq!(inner.path(), path.join("inner"), "people know it by that name");
        inner.rename("a", "c").expect("renamed");
        inner.remove("b").expect("removed");
        inner.open_rw("c").and_then(|mut file| file.write_all(b"new")).expect("written");
        inner.create("d").expect("created");
        inner.sync().expect("durable");
        let mut names = inner.list().expect("listed");
        names.sort_unstable();
        assert_eq!(names, ["c", "d"]);
        assert_eq!(fs::read(moved.join("inner/c")).expect("read"), b"new");
        assert_eq!(fs::read(path.join("inner/a")).expect("read"), b"copied");
        assert_eq!(fs::read_dir(path.join("inner")).expect("read").count(), 1);
        let again = root.open_or_create_folder("inner").expect("opened").list().expect("listed");
        assert_eq!(again.len(), 2, "the one that was made before");
        assert!(root.reopen().expect("opened").try_lock().is_ok());
        assert_eq!(inner.open_read("a").expect_err("renamed").kind(), io::ErrorKind::NotFound);
    }

    /// C2: a file has a name, or another has it, or nobody; whatever else comes of asking is an error.
    #[test]
    fn a_file_is_told_from_what_has_its_name() {
        let above = tempfile::tempdir().expect("a folder");
        let root = Folder::open(above.path()).expect("opens");
        let file = root.create_new("a").expect("made");
        assert!(root.is("a", &file).expect("there") && root.has("a").expect("there"));
        root.rename("a", "b").expect("renamed");
        assert!(!root.has("a").expect("not there"));
        assert!(!root.is("a", &file).expect("not there"));
        root.create_new("a").expect("made");
        assert!(!root.is("a", &file).expect("another"));
        std::os::unix::fs::symlink("loop", above.path().join("loop")).expect("made");
        root.is("loop", &file).expect_err("it leads nowhere");
    }

    /// C2: a name that is a file's is no folder; nothing is made of it.
    #[test]
    fn a_file_is_no_folder() {
        let above = tempfile::tempdir().expect("a folder");
        let root = Folder::open(above.path()).expect("opens");
        root.create("file").expect("created");
        assert_eq!(root.open_or_create_folder("file").expect_err("a file").kind(), io::ErrorKind::NotADirectory);
        assert!(Folder::open(&above.path().join("none")).is_err());
        assert_eq!(root.list().expect("listed"), ["file"]);
    }
}
