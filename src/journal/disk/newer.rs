//! Files of a newer release in a data directory: this release cannot read them, and must not treat them as damaged.

use std::io;

use super::checkpoint;
use super::files::{CHECKPOINTS, Files, JOURNAL, read_full};
use super::segment;
use super::spare;
use crate::format::{Format, HEADER};
use crate::opening::OpenError;

/// Fails where a segment, the spare or a checkpoint is of a newer format. Reads their headers alone.
pub(super) fn check(files: &dyn Files) -> Result<(), OpenError> {
    let failed = |name: &str, what| {
        let path = files.path(name);
        move |error| OpenError::Io { path, what, error }
    };
    let names = files.list(JOURNAL).map_err(failed(JOURNAL, "list"))?;
    let segments = names.iter().filter_map(|name| segment::number(name)).map(segment::name);
    for name in segments.chain([spare::NAME.to_owned()]) {
        let newer = newer(files, &name, &segment::FORMAT).map_err(failed(&name, "read"))?;
        refuse(files, &name, &segment::FORMAT, newer)?;
    }
    for sequence in checkpoint::all(files).map_err(failed(CHECKPOINTS, "list"))? {
        let name = checkpoint::name(sequence);
        // One that cannot be read is passed over, as a damaged one is: an older one serves, or the journal.
        let newer = newer(files, &name, &checkpoint::FORMAT).unwrap_or(None);
        refuse(files, &name, &checkpoint::FORMAT, newer)?;
    }
    Ok(())
}

/// The version of the file, if it is there and a newer release wrote it.
fn newer(files: &dyn Files, name: &str, format: &Format) -> io::Result<Option<u32>> {
    let file = match files.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut header = [0; HEADER];
    let read = read_full(&*file, &mut header, 0)?;
    Ok(format.newer(&header[..read]))
}

fn refuse(files: &dyn Files, name: &str, format: &Format, newer: Option<u32>) -> Result<(), OpenError> {
    match newer {
        Some(found) => Err(OpenError::Newer { file: files.path(name), found, known: format.version }),
        None => Ok(()),
    }
}
