//! What can go wrong with PostgreSQL.

use thiserror::Error;

use super::database::Fault;
use crate::inventory::StoreError;
use crate::{HistoryGone, InvalidRequest, SubmitError};

/// Why there is no answer from PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PgError {
    /// The settings cannot be used.
    #[error("the settings of PostgreSQL: {what}")]
    Settings {
        /// What is wrong with them.
        what: String,
    },
    /// The database was used by a newer version of this program.
    #[error("the database has schema version {found}, this program knows up to {known}")]
    SchemaTooNew {
        /// What the database has.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// The request is wrong in itself, or its id was used for something else. Nothing was decided.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// PostgreSQL will never keep this request. Nothing was decided.
    #[error("PostgreSQL refuses it: {what}")]
    Refused {
        /// What PostgreSQL said.
        what: String,
    },
    /// PostgreSQL does not answer, or not now. A request may have been decided all the same: its id tells.
    #[error("PostgreSQL is unavailable: {what}")]
    Unavailable {
        /// What it said.
        what: String,
    },
    /// PostgreSQL will not answer until somebody intervenes.
    #[error("PostgreSQL failed: {what}")]
    Failed {
        /// What it said.
        what: String,
    },
    /// The journal lacks the entries that were asked for, but has later ones: somebody moved its sequence forward, or
    /// removed commits.
    #[error(transparent)]
    Gone(#[from] HistoryGone),
    /// Where an entry was told, the journal has another one or none: the database was put back to an earlier state.
    #[error("the database was put back to an earlier state: entry {sequence} is not the one that was told")]
    PutBack {
        /// The newest entry that was told.
        sequence: u64,
    },
    /// There are too many listings at once.
    #[error("too many listings, the limit is {limit}")]
    Listings {
        /// How many there may be.
        limit: usize,
    },
    /// The store was closed.
    #[error("the store is shutting down")]
    Closed,
}

impl From<Fault> for PgError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(what) | Fault::Locked(what) | Fault::Unknown(what) | Fault::Numbered(what) => {
                PgError::Unavailable { what }
            }
            Fault::Refused(what) => PgError::Refused { what },
            Fault::Unfilled(what) | Fault::Failed(what) => PgError::Failed { what },
        }
    }
}

impl From<PgError> for StoreError {
    fn from(error: PgError) -> Self {
        match error {
            PgError::Unavailable { what } => StoreError::Unavailable { what },
            PgError::Closed => StoreError::Unavailable { what: PgError::Closed.to_string() },
            PgError::Failed { what } => StoreError::Failed { what },
            error => StoreError::Failed { what: error.to_string() },
        }
    }
}

impl From<SubmitError> for Fault {
    /// The engine refuses everything: it is short of memory.
    fn from(error: SubmitError) -> Self {
        Fault::Unavailable(error.to_string())
    }
}
