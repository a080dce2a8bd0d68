//! A file for results. It gets its name once it is complete; until then, what was there before stays.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::exit::Failure;
use super::interrupt::{self, Gate};

/// An output file. Errors name its path.
pub(super) struct Destination {
    place: Place,
    file: File,
}

/// Where the output goes.
pub(super) struct Place {
    path: PathBuf,
    /// Its name until it is complete; None for a pipe or a device, which is written directly.
    unfinished: Option<PathBuf>,
    /// Those of the file that is replaced. A new file is for its owner alone.
    permissions: Option<Permissions>,
    /// Closed by an interrupt.
    gate: Gate,
}

impl Place {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let there = fs::metadata(path);
        match &there {
            Ok(there) if !there.is_file() => {
                let gate = Gate::default();
                return Ok(Place { path: path.to_owned(), unfinished: None, permissions: None, gate });
            }
            Err(_) if fs::symlink_metadata(path).is_ok() => {
                let nowhere = io::Error::new(io::ErrorKind::NotFound, "a link that leads nowhere");
                return Err(name(path, &nowhere));
            }
            _ => {}
        }
        // A link stays, and what it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(format!(".{}.tmp", super::new_uuid().simple()));
        let permissions = there.ok().map(|there| there.permissions());
        Ok(Place { path, unfinished: Some(unfinished.into()), permissions, gate: Gate::default() })
    }

    /// From now on an interrupt ends the process, and leaves nothing of an incomplete file.
    pub(super) fn end_with_interrupt(&self) -> Result<(), Failure> {
        let Some(unfinished) = self.unfinished.clone() else { return Ok(()) };
        let end = move |_| {
            // It may not exist yet, or may just have been renamed.
            let _ = fs::remove_file(unfinished);
            Failure::Interrupted("interrupted".to_owned()).report_within(false);
        };
        interrupt::end_after(&self.gate, end)
    }
}

impl Destination {
    pub(super) fn create(place: Place) -> io::Result<Self> {
        let named = |error| name(&place.path, &error);
        let Some(unfinished) = &place.unfinished else {
            let file = File::create(&place.path).map_err(named)?;
            return Ok(Destination { place, file });
        };
        let file = {
            let _open = place.gate.pass();
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished).map_err(named)?
        };
        let destination = Destination { place, file };
        if let Some(permissions) = &destination.place.permissions {
            let set = destination.file.set_permissions(permissions.clone());
            set.map_err(|error| name(&destination.place.path, &error))?;
        }
        Ok(destination)
    }

    /// Makes it durable under its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let Place { path, unfinished: Some(unfinished), .. } = &self.place else { return Ok(()) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let finished = self.file.sync_all().and_then(|()| {
            let _open = self.place.gate.pass();
            fs::rename(unfinished, path)
        });
        finished.map_err(|error| name(path, &error))?;
        let folder = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        let synced = folder.map_err(|error| name(path, &error));
        // After a signal this does not return: the signal ends the process.
        drop(self.place.gate.pass());
        self.place.unfinished = None;
        synced
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.place.unfinished {
            // A file that stays does no harm.
            let _ = fs::remove_file(unfinished);
        }
    }
}

impl Write for &Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => name(&self.place.path, &error),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn name(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
