//! Opening a ledger in a data directory: its progress, and its errors.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The progress of opening a ledger: the journal after the newest checkpoint is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Journal entries applied.
    pub replayed: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes to be read.
    pub total_bytes: u64,
}

/// Why a ledger cannot be opened. Nothing durable in the directory was changed, except by [`compact`](crate::compact),
/// which documents what it may have removed by then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the directory, or another ledger of this one.
    #[error("{} is in use{}", dir.display(), holder.as_ref().map_or(String::new(), |holder| format!(" by process {holder}")))]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The process that holds it, where that can be known.
        holder: Option<String>,
    },
    /// A file that was complete once no longer is.
    #[error("{} is damaged at offset {offset}: {what}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A newer release wrote the file, in a format that this one cannot read.
    #[error("{} has format version {found}, which a newer release wrote: this one reads versions up to {known}", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest that this release reads.
        known: u32,
    },
    /// There is no room to begin.
    #[error("no room in {}: {needed} bytes are needed, and inodes for files: {error}", path.display())]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// What is needed, in bytes.
        needed: u64,
        /// What the system said.
        error: io::Error,
    },
    /// The system refused something.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A setting has an invalid value.
    #[error("{setting} must be {expected}, got {value}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// The values it accepts.
        expected: String,
        /// The value it had.
        value: String,
    },
    /// The data directory holds more accounts than a ledger can have.
    #[error("too many accounts, the limit is {limit}")]
    TooManyAccounts {
        /// How many there may be.
        limit: u32,
    },
    /// The progress callback cancelled the opening.
    #[error("opening was cancelled")]
    Cancelled,
}
