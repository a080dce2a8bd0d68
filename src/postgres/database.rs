//! What the committer needs of a database: PostgreSQL, or a model of it.

use std::future::Future;

use super::batch::{Changes, Committed, Found, Written};
use super::locked::Locked;
use crate::account::{AccountId, TransactionId};
use crate::inventory::{Position, StoredDeadLetter};

/// One session with the database, used by one committer.
///
/// Every fault leaves the session without a transaction.
pub(super) trait Database: Send + 'static {
    /// A number for a batch that no other batch has, of any instance. Where one has it all the same, writing the batch is a
    /// [`Fault::Numbered`].
    fn number(&mut self) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// What the database holds of these accounts and ids, both sorted. With `lock` a transaction begins in which the accounts'
    /// rows stay as they are, until [`Database::write`] or [`Database::release`].
    fn look_up(
        &mut self,
        accounts: &[AccountId],
        ids: &[TransactionId],
        lock: bool,
    ) -> impl Future<Output = Result<Found, Fault>> + Send;

    /// Which of these rows somebody else has locked. Waits for nobody.
    fn locked(&mut self, rows: &Locked) -> impl Future<Output = Result<Locked, Fault>> + Send;

    /// Whether these ids were used by these commit sequences.
    fn holds(&mut self, recalled: &[(TransactionId, u64)]) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives up what [`Database::look_up`] locked.
    fn release(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Keeps a batch. A trial finds out whether it could be kept, and keeps nothing.
    fn write(&mut self, changes: &Changes, trial: bool) -> impl Future<Output = Result<Written, Fault>> + Send;

    /// What became of a batch whose commit was not answered. None: nothing of it was kept, nor ever will be.
    fn fate(&mut self, changes: &Changes) -> impl Future<Output = Result<Option<Committed>, Fault>> + Send;

    /// Whether the session has a connection, as far as it knows.
    fn is_connected(&self) -> bool;

    /// Makes the session usable again after a fault, which is the `faults`-th of one piece of work, counted from 0; false when
    /// patience with it is over. Who answers from then on may be the same database as it was at an earlier moment.
    fn recover(&mut self, faults: u32) -> impl Future<Output = bool> + Send;

    /// Raises the epochs of the partitions.
    fn take_over(
        &mut self,
        topic: &str,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Vec<Position>, Fault>> + Send;

    /// The oldest dead letters, unless they are somebody else's to publish; this session's from then on.
    fn dead_letters(&mut self, limit: usize) -> impl Future<Output = Result<Vec<StoredDeadLetter>, Fault>> + Send;

    /// Removes dead letters. Any may be anybody's to publish then.
    fn published(&mut self, numbers: &[i64]) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Why the database did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not there, or not now. Nothing was kept.
    Unavailable(String),
    /// Somebody else has locked a row, or a table, for longer than it is waited for. Nothing was kept.
    Locked(String),
    /// A commit was not answered: [`Database::fate`] tells.
    Unknown(String),
    /// Another batch has this one's number: the database is back at an earlier state than the one it was drawn from.
    /// Nothing was kept.
    Numbered(String),
    /// It will never keep this.
    Refused(String),
    /// It does not keep this until somebody does something about it; it may keep what goes with it.
    Unfilled(String),
    /// Somebody has to do something about it.
    Failed(String),
}

impl Fault {
    pub(super) fn what(&self) -> &str {
        let (Fault::Unavailable(what)
        | Fault::Locked(what)
        | Fault::Unknown(what)
        | Fault::Numbered(what)
        | Fault::Refused(what)
        | Fault::Unfilled(what)
        | Fault::Failed(what)) = self;
        what
    }
}
