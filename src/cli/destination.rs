//! A file that results go to: it takes its name when it is whole, and until then what was there stays.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::exit;

use super::exit::Failure;
use super::interrupt::{self, INTERRUPTED};

/// Errors name its path.
pub(super) struct Destination {
    path: PathBuf,
    file: File,
    /// Its name until it is whole; a pipe or a device is written as it is.
    unfinished: Option<PathBuf>,
}

impl Destination {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let named = |error| name(path, &error);
        let there = fs::metadata(path);
        if there.is_err() && fs::symlink_metadata(path).is_ok() {
            return Err(named(io::Error::new(io::ErrorKind::NotFound, "a link that leads nowhere")));
        }
        if there.as_ref().is_ok_and(|there| !there.is_file()) {
            let file = File::create(path).map_err(named)?;
            return Ok(Destination { path: path.to_owned(), file, unfinished: None });
        }
        // A link goes on leading there.
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut unfinished = place.clone().into_os_string();
        unfinished.push(format!(".{}.tmp", super::new_uuid().simple()));
        let unfinished = PathBuf::from(unfinished);
        // For its owner alone, unless what was there was for others too.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).map_err(named)?;
        let destination = Destination { path: place, file, unfinished: Some(unfinished) };
        if let Ok(there) = there {
            destination.file.set_permissions(there.permissions()).map_err(named)?;
        }
        Ok(destination)
    }

    /// An interrupt is the end from now on, and nothing is left of it then.
    pub(super) fn end_with_interrupt(&self) -> Result<(), Failure> {
        let Some(unfinished) = self.unfinished.clone() else { return Ok(()) };
        let end = move || {
            // It may have got its name in this moment.
            let _ = fs::remove_file(unfinished);
            Failure::Interrupted("interrupted".to_owned()).report(false);
            exit(i32::from(INTERRUPTED));
        };
        interrupt::listen(end, || ())
    }

    /// Makes it durable under its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let Some(unfinished) = &self.unfinished else { return Ok(()) };
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let finished = self.file.sync_all().and_then(|()| fs::rename(unfinished, &self.path));
        finished.map_err(|error| name(&self.path, &error))?;
        self.unfinished = None;
        let folder = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        folder.map_err(|error| name(&self.path, &error))
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            // What stays is in nobody's way.
            let _ = fs::remove_file(unfinished);
        }
    }
}

impl Write for &Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => name(&self.path, &error),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn name(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
