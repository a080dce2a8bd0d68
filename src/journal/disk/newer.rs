//! What a newer release left in a data directory: this one does not know what it says, and must not take it for damage.

use std::io;

use super::checkpoint;
use super::files::{CHECKPOINTS, Files, JOURNAL, read_full};
use super::segment;
use super::spare;
use crate::format::{Format, HEADER};
use crate::opening::OpenError;

/// Fails where a segment, the spare or a checkpoint is of a newer format. Reads their headers alone.
pub(super) fn check(files: &dyn Files) -> Result<(), OpenError> {
    let list = |folder| {
        let names = files.list(folder);
        names.map_err(|error| OpenError::Io { path: files.path(folder), what: "list", error })
    };
    for name in list(JOURNAL)?.into_iter().filter(|name| segment::number(name).is_some()) {
        check_one(files, &format!("{JOURNAL}/{name}"), &segment::FORMAT)?;
    }
    check_one(files, spare::NAME, &segment::FORMAT)?;
    for name in list(CHECKPOINTS)?.into_iter().filter(|name| name.ends_with(".checkpoint")) {
        check_one(files, &format!("{CHECKPOINTS}/{name}"), &checkpoint::FORMAT)?;
    }
    Ok(())
}

fn check_one(files: &dyn Files, name: &str, format: &Format) -> Result<(), OpenError> {
    let cannot = |error| OpenError::Io { path: files.path(name), what: "read", error };
    let file = match files.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(cannot)?,
    };
    let mut header = [0; HEADER];
    let read = read_full(&*file, &mut header, 0).map_err(cannot)?;
    match format.newer(&header[..read]) {
        Some(found) => Err(OpenError::Newer { file: files.path(name), found, known: format.version }),
        None => Ok(()),
    }
}
