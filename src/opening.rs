//! Opening a ledger in a data directory: how far it is, and why it cannot be.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// How far the opening of a ledger is: what its journal holds after the newest checkpoint is applied again.
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

/// Why a ledger cannot be opened. Nothing that was durable in the directory was changed, except by
/// [`compact`](crate::compact), which says what it may have removed by then.
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
    /// Something that was whole once is not any more.
    #[error("{} is damaged at offset {offset}: {what}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A newer release wrote it: this one does not know what it says.
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
    #[error("no room in {}: {needed} bytes are needed: {error}", path.display())]
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
    /// A setting that cannot be.
    #[error("{setting} must be {expected}, got {value}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        value: String,
    },
    /// The data directory holds more accounts than a ledger can have.
    #[error("too many accounts, the limit is {limit}")]
    TooManyAccounts {
        /// How many there may be.
        limit: u32,
    },
    /// The progress callback asked for an end.
    #[error("opening was cancelled")]
    Cancelled,
}
