//! What is in a data directory: its files by name, and whether a process has it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::formats;
use super::problem::Problem;
use super::segment;

/// A data directory, as it was listed.
pub(crate) struct Directory {
    pub(super) path: PathBuf,
    /// By number, without gaps.
    pub(super) segments: Vec<PathBuf>,
    pub(super) first_number: u64,
    /// By sequence. Kept open, because a running service removes old checkpoints.
    pub(super) checkpoints: Vec<(u64, PathBuf, File)>,
    pub(super) access: Access,
    pub(super) notes: Vec<String>,
}

/// Who may write into a data directory while it is read.
pub(super) struct Access {
    /// The process that has it, if one does: the journal may grow meanwhile.
    pub(super) holder: Option<String>,
    /// Keeps services away.
    lock: Option<File>,
}

impl Access {
    /// Keeps services away from `path`, or notes which one has it.
    pub(super) fn take(path: &Path) -> Result<Self, Problem> {
        let (lock, holder) = lock(&path.join("LOCK"))?;
        Ok(Access { holder, lock })
    }

    /// Whether a process has it: what is read may be under way.
    pub(super) fn is_live(&self) -> bool {
        self.holder.is_some()
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        // A child process that another thread is just starting has a copy of the descriptor, so closing it would not
        // suffice.
        let _ = self.lock.as_ref().map(File::unlock);
    }
}

impl Directory {
    /// Lists `path`, and keeps services away from it, or notes which one has it.
    pub(crate) fn open(path: &Path) -> Result<Self, Problem> {
        Self::list(path, Access::take(path)?)
    }

    /// Lists `path` without keeping anybody away: a service may have it, or start on it meanwhile.
    pub(crate) fn beside(path: &Path) -> Result<Self, Problem> {
        Self::list(path, Access { holder: Some(String::new()), lock: None })
    }

    /// Lists `path`: checkpoints before segments, so that the journal reaches as far as each checkpoint says.
    pub(super) fn list(path: &Path, access: Access) -> Result<Self, Problem> {
        let mut notes = Vec::new();
        names(path, &mut |name| {
            if !["LOCK", "journal", "checkpoints", "ids"].contains(&name) {
                notes.push(stranger(&path.join(name)));
            }
        })?;
        let checkpoints = checkpoints(&path.join("checkpoints"), access.is_live(), &mut notes)?;
        let (first_number, segments) = segments(&path.join("journal"), &mut notes)?;
        checkpoints.iter().try_for_each(|(_, path, _)| formats::check(path, &formats::CHECKPOINT))?;
        let spare = path.join("journal/spare");
        segments.iter().chain([&spare]).try_for_each(|path| formats::check(path, &formats::SEGMENT))?;
        runs(&path.join("ids"))?;
        let path = path.to_owned();
        Ok(Directory { path, segments, first_number, checkpoints, access, notes })
    }

    /// The index of the segment that holds `sequence`, according to the headers; 0 if none can tell.
    pub(crate) fn segment_of(&self, sequence: u64) -> usize {
        let begins = |path: &PathBuf| segment::peek(path).is_ok_and(|header| header.first_sequence <= sequence);
        self.segments.iter().rposition(begins).unwrap_or(0)
    }

    /// How long the journal's files are together.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_from(0)
    }

    /// How long the segments from the one at `start` on are together.
    pub(super) fn bytes_from(&self, start: usize) -> u64 {
        let lengths = self.segments.iter().skip(start).filter_map(|path| fs::metadata(path).ok());
        lengths.map(|file| file.len()).sum()
    }

    /// What is worth knowing about the files.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a process has it: what is read may be under way.
    pub(super) fn live(&self) -> bool {
        self.access.is_live()
    }
}

fn stranger(path: &Path) -> String {
    format!("{} is not part of a ledger; ignored", path.display())
}

/// Calls back with the names in `folder`; one that is not UTF-8 is named as well as it goes.
fn names(folder: &Path, each: &mut dyn FnMut(&str)) -> Result<(), Problem> {
    let unreadable = |error| Problem::unreadable(folder, &error);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        each(&entry.map_err(unreadable)?.file_name().to_string_lossy());
    }
    Ok(())
}

/// A shared lock on the directory, or who has it. Nothing is created: without a LOCK no process ever had it.
fn lock(path: &Path) -> Result<(Option<File>, Option<String>), Problem> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
        Err(error) => return Err(Problem::unreadable(path, &error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok((Some(file), None)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The file's content is only for people: whatever it says, some process has the directory.
            let _ = file.by_ref().take(64).read_to_string(&mut holder);
            let holder = holder.trim();
            let process = if holder.is_empty() { String::new() } else { format!("process {holder}") };
            Ok((None, Some(process)))
        }
        Err(TryLockError::Error(error)) => Err(Problem::new(path, format!("cannot be locked: {error}"))),
    }
}

/// The number in a name of exactly `digits` digits and `extension`.
fn number(name: &str, digits: usize, extension: &str) -> Option<u64> {
    let stem = name.strip_suffix(extension)?;
    (stem.len() == digits && stem.bytes().all(|byte| byte.is_ascii_digit())).then(|| stem.parse().ok())?
}

fn checkpoints(folder: &Path, live: bool, notes: &mut Vec<String>) -> Result<Vec<(u64, PathBuf, File)>, Problem> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(Vec::new());
    }
    names(folder, &mut |name| match number(name, 20, ".checkpoint") {
        Some(sequence) => found.push((sequence, folder.join(name))),
        None if name.ends_with(".tmp") => {}
        None => notes.push(stranger(&folder.join(name))),
    })?;
    found.sort_unstable();
    let mut checkpoints = Vec::new();
    for (sequence, path) in found {
        match File::open(&path) {
            Ok(file) => checkpoints.push((sequence, path, file)),
            // The service has made a newer one meanwhile.
            Err(error) if live && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Problem::unreadable(&path, &error)),
        }
    }
    Ok(checkpoints)
}

/// Fails if a newer release wrote a run of the id index.
fn runs(folder: &Path) -> Result<(), Problem> {
    // If the folder is missing or cannot be listed, its reader reports that.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).try_for_each(|path| formats::check(&path, &formats::RUN))
}

/// The number of the first segment, and all of them.
fn segments(folder: &Path, notes: &mut Vec<String>) -> Result<(u64, Vec<PathBuf>), Problem> {
    let mut found = Vec::new();
    names(folder, &mut |name| match number(name, 10, ".segment") {
        Some(number) => found.push((number, folder.join(name))),
        None if name == "spare" || name.ends_with(".tmp") => {}
        None => notes.push(stranger(&folder.join(name))),
    })?;
    found.sort_unstable();
    let Some((first, path)) = found.first() else {
        return Err(Problem::new(folder, "there is no segment"));
    };
    let first = *first;
    if first == 0 {
        return Err(Problem::new(path, "segments are numbered from 1"));
    }
    if let Some(((number, _), missing)) = found.iter().zip(first..).find(|((number, _), expected)| number != expected) {
        let what = match number - missing {
            1 => "the segment is missing".to_owned(),
            _ => format!("segments {missing} to {} are missing", number - 1),
        };
        return Err(Problem::at(&folder.join(format!("{missing:010}.segment")), 0, what));
    }
    Ok((first, found.into_iter().map(|(_, path)| path).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        assert_eq!(number("0000000012.segment", 10, ".segment"), Some(12));
        for other in ["12.segment", "+000000012.segment", "0000000012.segment.tmp", "00000000012.segment", "spare"] {
            assert_eq!(number(other, 10, ".segment"), None, "{other}");
        }
        assert_eq!(number("99999999999999999999.checkpoint", 20, ".checkpoint"), None, "past 64 bits");
    }
}
