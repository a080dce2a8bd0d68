//! Notes of a ledger about the sources of its requests: their positions, and records that were put aside.

use std::sync::Arc;

use thiserror::Error;

use crate::error::{Exhausted, SubmitError};

/// The longest name of a source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 512;

/// How many sources a ledger knows; their positions are kept for ever.
pub const MAX_SOURCES: usize = 65_536;

/// Once this many bytes are parked, no further record can be.
pub const MAX_PARKED_BYTES: u64 = 64 << 20;

/// The position from which a source is read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePosition {
    /// The offset of the next record.
    pub next: i64,
    /// Whatever tells the caller that the source is still the one that was read.
    pub fingerprint: i64,
}

/// A source moves on, if it is where the caller believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The source's name: 1 to [`MAX_SOURCE_BYTES`] bytes without control characters.
    pub source: String,
    /// The position that the ledger holds; None: the ledger does not know the source.
    pub from: Option<i64>,
    /// The position after it; before `from` only with `anew`.
    pub next: i64,
    /// The new [`SourcePosition::fingerprint`].
    pub fingerprint: i64,
    /// Whether the source may go back, for example because another source has its name now.
    pub anew: bool,
}

/// A set of changes to be noted, all or none: see [`Ledger::note`](crate::Ledger::note).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The highest sequence that the note stands for. This entry must be durable first.
    pub after: u64,
    /// The sources that move on, each once.
    pub advances: Vec<Advance>,
    /// Records to be put aside; each gets the next number.
    pub parked: Vec<Vec<u8>>,
    /// Numbers of parked records that are no longer needed; unknown numbers are ignored.
    pub unparked: Vec<u64>,
}

/// A record that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its number: 1, 2, 3, … in the order in which they were put aside.
    pub number: u64,
    /// The record, as it was given.
    pub payload: Arc<[u8]>,
}

/// Why [`Ledger::note`](crate::Ledger::note) failed: nothing was noted, except perhaps with [`NoteError::Closed`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The note is wrong in itself.
    #[error("a note that cannot be: {what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// A source is not where the caller believes: somebody else moved it.
    #[error("source {source_name} is at {held:?}")]
    Moved {
        /// The source.
        source_name: String,
        /// Where it is; None: the ledger does not know it.
        held: Option<i64>,
    },
    /// The ledger knows the maximum number of sources.
    #[error("{MAX_SOURCES} sources are known already")]
    TooManySources,
    /// Too many bytes are parked; some records must be unparked first.
    #[error("{bytes} bytes are parked, the limit is {MAX_PARKED_BYTES}")]
    TooMuchParked {
        /// How many bytes.
        bytes: u64,
    },
    /// A limit that protects the process; the same note may succeed later.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The ledger was closed, or its journal failed. Whether the note was kept shows after the next start.
    #[error(transparent)]
    Closed(SubmitError),
}

impl Note {
    /// What is wrong with it in itself.
    pub(super) fn check(&self) -> Result<(), NoteError> {
        let invalid = |what: String| Err(NoteError::Invalid { what });
        let mut names: Vec<_> = self.advances.iter().map(|advance| advance.source.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("source {} twice", pair[0]));
        }
        for Advance { source, from, next, anew, .. } in &self.advances {
            if !(1..=MAX_SOURCE_BYTES).contains(&source.len()) || source.chars().any(char::is_control) {
                let bytes = source.len();
                return invalid(format!(
                    "a source's name has 1 to {MAX_SOURCE_BYTES} bytes without control characters, got {bytes} bytes"
                ));
            }
            if let Some(from) = from.filter(|from| from > next && !anew) {
                return invalid(format!("source {source} goes back from {from} to {next}"));
            }
        }
        match self.parked.iter().find(|payload| u32::try_from(payload.len()).is_err()) {
            Some(payload) => invalid(format!("a record of {} bytes", payload.len())),
            None => Ok(()),
        }
    }

    /// How many bytes it parks.
    pub(super) fn parked_bytes(&self) -> u64 {
        self.parked.iter().map(|payload| weight(payload)).sum()
    }
}

/// The bytes that a parked record counts for, including its bookkeeping.
pub(super) fn weight(payload: &[u8]) -> u64 {
    const KEEPING: u64 = 64;
    payload.len() as u64 + KEEPING
}
