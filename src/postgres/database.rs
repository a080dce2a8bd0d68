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
    /// A number for a batch that no other batch of any instance has. If one has it nevertheless, writing the batch
    /// fails with [`Fault::Numbered`].
    fn number(&mut self) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// What the database holds of these accounts and ids, both sorted. With `lock` a transaction begins in which the
    /// accounts' rows stay as they are, until [`Database::write`] or [`Database::release`].
    fn look_up(
        &mut self,
        accounts: &[AccountId],
        ids: &[TransactionId],
        lock: bool,
    ) -> impl Future<Output = Result<Found, Fault>> + Send;

    /// Returns the rows that somebody else has locked, without waiting for a lock.
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

    /// Makes the session usable again after a fault, the `faults`-th (from 0) of one piece of work. False if patience
    /// with that is over. The database may be back at an earlier state from then on.
    fn recover(&mut self, faults: u32) -> impl Future<Output = bool> + Send;

    /// Raises the epochs of the partitions.
    fn take_over(
        &mut self,
        topic: &str,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Vec<Position>, Fault>> + Send;

    /// The oldest dead letters, which only this session may publish from then on; none while they are another's to
    /// publish.
    fn dead_letters(&mut self, limit: usize) -> impl Future<Output = Result<Vec<StoredDeadLetter>, Fault>> + Send;

    /// Removes dead letters, and gives up the right to publish.
    fn published(&mut self, numbers: &[i64]) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Why the database did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The database is not there, or not now. Nothing was kept.
    Unavailable(String),
    /// Somebody else has locked a row or a table for longer than the lock timeout. Nothing was kept.
    Locked(String),
    /// A commit was not answered: [`Database::fate`] tells what became of it.
    Unknown(String),
    /// Another batch has this one's number: the database is back at an earlier state than that in which the number was
    /// drawn. Nothing was kept.
    Numbered(String),
    /// The database will never keep this.
    Refused(String),
    /// The database keeps this only after somebody has intervened; it may keep the rest of the batch.
    Unfilled(String),
    /// Somebody has to intervene.
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
