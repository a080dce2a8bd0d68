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

/// Something that an operator may want to know; nobody's call failed because of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Event {
    /// The process had died while it wrote a batch that nobody was told of.
    #[error("cut a torn batch off the journal: {} at offset {offset}, {bytes} bytes", file.display())]
    TornTail {
        /// The segment.
        file: PathBuf,
        /// Where the batch began.
        offset: u64,
        /// How many bytes of it were there.
        bytes: u64,
    },
    /// A checkpoint cannot be used; the one before, or the journal, serves.
    #[error("checkpoint {} is damaged and was passed over: {what}", file.display())]
    CheckpointDamaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A checkpoint was written and read back.
    #[error("checkpoint at sequence {sequence}: {accounts} accounts, {bytes} bytes")]
    CheckpointWritten {
        /// Every entry up to it is in there.
        sequence: u64,
        /// How many accounts.
        accounts: u64,
        /// How long the file is.
        bytes: u64,
    },
    /// A checkpoint could not be written; the next is tried later.
    #[error("no checkpoint: {what}")]
    CheckpointFailed {
        /// Why.
        what: String,
    },
    /// The id index was missing, damaged or behind, and is being built again from the journal.
    #[error("building the id index again from the journal: {what}")]
    IndexRebuilt {
        /// Why.
        what: String,
    },
    /// The id index could not be written; ids stay in memory meanwhile.
    #[error("the id index cannot be written: {what}")]
    IndexFailed {
        /// Why.
        what: String,
    },
    /// There is no room for the next segment: writes are refused until there is.
    #[error("no room for the journal's next segment of {needed} bytes in {}: {error}", path.display())]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// What is needed, in bytes.
        needed: u64,
        /// What the system said.
        error: String,
    },
    /// The next segment cannot be made, and not for want of room: writes are refused until it can.
    #[error("cannot make the journal's next segment in {}: {error}", path.display())]
    SegmentFailed {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
    /// There is room again, and the next segment was made.
    #[error("there is room for the journal again")]
    RoomAgain,
    /// The journal cannot be written any more: the ledger is closed.
    #[error("the journal failed: {what}")]
    JournalFailed {
        /// Why.
        what: String,
    },
}

/// Why a ledger cannot be opened. Nothing in the directory was changed.
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
        expected: &'static str,
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
