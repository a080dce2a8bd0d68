//! The journal: where decided transactions go, in commit order, and what makes them durable.
//!
//! [`Sink`] is the seam: memory or a data directory. The flusher passes what was committed to the sink, publishes the
//! durable sequence and wakes its waiters. Entries that arrive meanwhile form the next batch: there is no timer.

pub(crate) mod disk;
mod flusher;
mod memory;
mod notes;
mod source;

use thiserror::Error;

use crate::account::Balance;
use crate::error::Exhausted;
use crate::kernel::Handle;
use crate::outcome::Outcome;

pub(crate) use flusher::{Flushed, Flusher, Flushing};
pub(crate) use memory::Memory;
pub(crate) use notes::{Noted, Notes, Noting, Record};
pub use source::{Advance, MAX_PARKED_BYTES, MAX_SOURCE_BYTES, MAX_SOURCES, Note, NoteError, Parked, SourcePosition};

/// Stores committed entries.
pub(crate) trait Sink: Send + Sync {
    /// Stores `batch`, dense and in commit order, and the notes, which never precede the last entry of `batch`. When it
    /// returns, both are as safe as the sink can make them. After an error nothing more can be appended.
    fn append(&self, batch: &[Handle<Balance>], noted: &[Record]) -> Result<(), JournalError>;
    /// Up to `limit` entries from sequence `from` (0: the oldest kept) to `through`, which is durable. A sink that
    /// decodes stops after the entry that brings the bytes read to `bytes`.
    fn read(&self, from: u64, through: u64, limit: usize, bytes: usize) -> Result<Vec<Outcome>, HistoryError>;
    /// The oldest sequence kept, or the next one to come.
    fn oldest(&self) -> u64;
    /// Whether [`Sink::append`] waits for a device: then only the flusher, and callers that would block anyway, should
    /// call it.
    fn blocks(&self) -> bool;
    /// Why the next entries have no room; None if they have.
    fn shortage(&self) -> Option<Exhausted>;
    /// From now on [`Sink::append`] fails rather than wait for room.
    fn close(&self);
    /// Records a clean stop; everything was appended.
    fn finish(&self) -> Result<(), JournalError>;
}

/// The journal cannot be written any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}")]
pub(crate) struct JournalError {
    /// What went wrong, with the file's name.
    pub(crate) what: String,
}

/// The sequence asked for is older than what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("history before sequence {oldest} is gone")]
pub struct HistoryGone {
    /// The oldest sequence kept, or the next one to come.
    pub oldest: u64,
}

/// Why entries cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// They are no longer kept.
    #[error(transparent)]
    Gone(#[from] HistoryGone),
    /// The journal cannot be read.
    #[error("the journal cannot be read: {what}")]
    Unreadable {
        /// The file, and what is wrong with it.
        what: String,
    },
}
