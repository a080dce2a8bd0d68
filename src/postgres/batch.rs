//! What one transaction of the database keeps, and what is looked up for it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::account::{AccountId, Balance, TransactionId};
use crate::inventory::DeadLetter;
use crate::outcome::Record;

/// What is kept all together, or not at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// The batch's number, by which its fate can be asked for.
    pub(super) number: i64,
    /// Every account that was changed or met, in the order of their ids.
    pub(super) accounts: Vec<AccountChange>,
    /// Every id used, in order.
    pub(super) ids: Vec<UsedId>,
    /// The entries decided, by their place. `sequence` and `time` are not final before the commit.
    pub(super) records: Vec<Record>,
    /// How far partitions were consumed, by topic and partition.
    pub(super) offsets: Vec<OffsetChange>,
    pub(super) letters: Vec<DeadLetter>,
    /// Ids that count as used because they are remembered so, each with the commit sequence that used it.
    pub(super) recalled: Vec<(TransactionId, u64)>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.offsets.is_empty() && self.letters.is_empty()
    }

    /// The account's state after the batch, if the batch changes or meets the account.
    pub(super) fn after(&self, account: &AccountId) -> Option<Balance> {
        let at = self.accounts.binary_search_by(|change| change.id.cmp(account)).ok()?;
        self.accounts.get(at).map(|change| change.after)
    }
}

/// An account before and after a batch.
#[derive(Clone, Debug)]
pub(super) struct AccountChange {
    pub(super) id: AccountId,
    /// None: nobody had opened it.
    pub(super) before: Option<Balance>,
    /// The same as before, if a refused operation only met the account.
    pub(super) after: Balance,
    /// The id of the newest change that had one.
    pub(super) event: Option<TransactionId>,
    /// The place of the newest change.
    pub(super) place: usize,
}

/// An id and what used it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UsedId {
    pub(super) id: TransactionId,
    pub(super) account: AccountId,
    pub(super) place: usize,
    pub(super) member: u32,
}

/// A partition's step from one offset to another, under one ownership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OffsetChange {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) epoch: i64,
    pub(super) from: Option<i64>,
    pub(super) next: i64,
    pub(super) fingerprint: i64,
}

/// What the database holds of the accounts and ids that were asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// A commit sequence: accounts that are missing here had not been opened up to it.
    pub(super) sequence: u64,
    pub(super) accounts: HashMap<AccountId, Balance>,
    pub(super) ids: Vec<(TransactionId, Used)>,
}

/// What an id was used for: a member of a transaction in the journal.
#[derive(Clone, Debug)]
pub(super) struct Used {
    pub(super) record: Arc<Record>,
    pub(super) member: u32,
}

/// Where a batch ended up in the order of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    /// The commit sequence of its first entry.
    pub(super) first_sequence: u64,
    /// The batch's entries have at least this time.
    pub(super) time_floor: u64,
}

impl Committed {
    /// Gives a record that was decided at `place` of the batch its final numbers.
    pub(super) fn settle(self, record: &mut Record, place: usize) {
        record.sequence = self.first_sequence.saturating_add(place as u64);
        record.time = record.time.max(self.time_floor);
    }
}

/// What became of a batch that was written.
#[derive(Clone, Debug)]
pub(super) enum Written {
    /// All of it is durable.
    Committed(Committed),
    /// It could have been committed; this was a trial.
    Tried,
    /// Nothing was kept: what it was decided from has changed.
    Missed(Missed),
}

/// How the database differs from what a batch expected. There is a difference, or the batch would have been committed.
#[derive(Clone, Debug, Default)]
pub(super) struct Missed {
    /// Accounts that include all those whose rows have changed.
    pub(super) accounts: Vec<String>,
    /// Whether an id was used meanwhile.
    pub(super) ids: bool,
    /// Whether a remembered id is not in use, or is used by something else: the database was put back to an earlier
    /// state.
    pub(super) recalled: bool,
    /// Partitions whose rows have changed, with the contents of the rows.
    pub(super) offsets: Vec<OffsetFound>,
}

/// The row of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffsetFound {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) epoch: i64,
    pub(super) next: Option<i64>,
}
