//! The system calls that the journal makes, as a seam: tests put a disk there that crashes, fills up and fails.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::bytes::written;
use crate::folder::Folder;

/// The folder of the segments, in a data directory.
pub(crate) const JOURNAL: &str = "journal";
/// The folder of the checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// How much is looked at, or zeroed, at once, in bytes.
pub(super) const PIECE: usize = 1 << 20;

/// A data directory. Names are relative to it.
pub(crate) trait Files: Send + Sync {
    /// Where the lock and the id index are.
    fn root(&self) -> &Folder;
    /// The names of what is in `folder`, in no order.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Makes a file, empty whatever was there.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Renames a file within its folder, over whatever has the name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names in `folder` durable.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
    /// Whether there is such a file.
    fn has(&self, name: &str) -> io::Result<bool>;
    /// How much room is left in `folder`, in bytes.
    fn free(&self, folder: &str) -> io::Result<u64>;

    /// The whole path of `name`, for people.
    fn path(&self, name: &str) -> PathBuf {
        self.root().path_of(name)
    }
}

/// An open file.
pub(crate) trait File: Send + Sync {
    /// How long it is, in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reads some bytes at `offset`; 0 at the end.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes some of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts it, or makes it longer with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes its bytes durable.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `into` from `offset` on; how much was there.
pub(super) fn read_full(file: &dyn File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The range from `from` to `to` in pieces that fit into memory.
pub(super) fn pieces(from: u64, to: u64) -> impl Iterator<Item = Range<u64>> {
    (from..to).step_by(PIECE).map(move |start| start..to.min(start + PIECE as u64))
}

/// Shows `each` the pieces of `file` between `from` and `to` that are not zeros; how many those are.
pub(super) fn written_pieces(
    file: &dyn File,
    from: u64,
    to: u64,
    mut each: impl FnMut(Range<u64>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut count = 0;
    let mut bytes = vec![0; PIECE];
    for piece in pieces(from, to) {
        let read = read_full(file, &mut bytes[..(piece.end - piece.start) as usize], piece.start)?;
        if written(&bytes[..read]) > 0 {
            count += 1;
            each(piece)?;
        }
    }
    Ok(count)
}

/// A directory of the operating system: the one that it was when it was opened.
pub(crate) struct OnDisk {
    root: Folder,
    journal: Folder,
    checkpoints: Folder,
}

impl OnDisk {
    /// The data directory `root`, whose lock the caller has; makes its folders.
    pub(crate) fn within(root: Folder) -> io::Result<Self> {
        let (journal, checkpoints) = (root.open_or_create_folder(JOURNAL)?, root.open_or_create_folder(CHECKPOINTS)?);
        // Whether we made them or a process that died of a power cut: their names are to be durable before anything in
        // them.
        root.sync()?;
        for above in root.path().canonicalize()?.ancestors().skip(1) {
            // Where that may not be read, whoever made it sees to it.
            let _ = fs::File::open(above).and_then(|above| above.sync_all());
        }
        Ok(OnDisk { root, journal, checkpoints })
    }

    fn folder(&self, name: &str) -> &Folder {
        match name {
            JOURNAL => &self.journal,
            CHECKPOINTS => &self.checkpoints,
            _ => &self.root,
        }
    }

    /// The folder that `name` is in, and its name there.
    fn place<'a>(&self, name: &'a str) -> (&Folder, &'a str) {
        let (folder, name) = name.split_once('/').unwrap_or(("", name));
        (self.folder(folder), name)
    }
}

impl Files for OnDisk {
    fn root(&self) -> &Folder {
        &self.root
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.folder(folder).list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let (folder, name) = self.place(name);
        Ok(Box::new(folder.open_rw(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let (folder, name) = self.place(name);
        Ok(Box::new(folder.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((folder, from), (_, to)) = (self.place(from), self.place(to));
        folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (folder, name) = self.place(name);
        folder.remove(name)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.folder(folder).sync()
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        let (folder, name) = self.place(name);
        folder.has(name)
    }

    fn free(&self, folder: &str) -> io::Result<u64> {
        self.folder(folder).free()
    }
}

impl File for fs::File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
