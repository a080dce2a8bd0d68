//! What a ledger tells its operator while it is opened and while it runs.

use std::path::PathBuf;

use thiserror::Error;

/// Something an operator may want to know. Calls that fail because of it get errors of their own.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Event {
    /// An earlier process died while it wrote a batch, of which no caller was told, or the newest segment is not as long
    /// as it was.
    #[error("cut a torn tail off the journal: {} at offset {offset}, {bytes} bytes", file.display())]
    TornTail {
        /// The segment.
        file: PathBuf,
        /// Where what was cut began, or the wrong length.
        offset: u64,
        /// How many bytes of it were there; 0 where the segment only ended too soon.
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
    /// An old checkpoint could not be removed; the next one tries again.
    #[error("an old checkpoint cannot be removed: {}: {error}", file.display())]
    CheckpointLeft {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: String,
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
