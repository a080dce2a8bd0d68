//! What is wrong with a data directory, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The first bad place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file at fault, or that is missing, or the folder in which nothing is.
    pub file: PathBuf,
    /// The offset in the file, in bytes.
    pub offset: Option<u64>,
    /// The number of the batch there, by the journal so far.
    pub batch: Option<u64>,
    /// The sequence of the entry there.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Whether the system could not read the file; otherwise its content is wrong.
    pub unreadable: bool,
}

impl Problem {
    pub(super) fn new(file: &Path, what: impl Into<String>) -> Self {
        Problem {
            file: file.to_owned(),
            offset: None,
            batch: None,
            sequence: None,
            what: what.into(),
            unreadable: false,
        }
    }

    pub(super) fn at(file: &Path, offset: usize, what: impl Into<String>) -> Self {
        Problem { offset: Some(offset as u64), ..Problem::new(file, what) }
    }

    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        Problem { unreadable: true, ..Problem::new(file, format!("cannot be read: {error}")) }
    }

    pub(super) fn in_batch(mut self, number: u64, sequence: u64) -> Self {
        (self.batch, self.sequence) = (Some(number), Some(sequence));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        if let (Some(batch), Some(sequence)) = (self.batch, self.sequence) {
            write!(f, " (batch {batch}, sequence {sequence})")?;
        } else if let Some(sequence) = self.sequence {
            write!(f, " (sequence {sequence})")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Problem {}
