//! The seam between what brings events and what keeps their effects.

use std::sync::Arc;

use thiserror::Error;

use super::Event;

/// Keeps the effects of events together with the offsets that they stand for.
///
/// Each partition has one owner at a time: the last one that took it over. Writes of anybody else are refused as
/// [`StoreError::Fenced`].
#[tonic::async_trait]
pub trait Store: Send + Sync {
    /// Makes the caller the owner of these partitions of `topic`, and says where each goes on. Those that it leaves out
    /// have to wait: somebody has locked what they need.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn take_over(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, StoreError>;

    /// How many calls of [`Store::apply`] may be under way at once. The runs of each begin where those of the call
    /// before end, in the order in which the calls are first polled. Besides these, one call may be under way for each
    /// partition that was [`StoreError::Held`]. A call that moves a partition back is kept before the next one is made.
    fn at_once(&self) -> usize {
        1
    }

    /// Decides the events of `runs`, at most one run per partition, and keeps outcomes, dead letters and offsets all
    /// together or not at all. When it returns they are durable. After `Unavailable` it is unknown whether they were
    /// kept: repeating the call finds out, and takes effect only once.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn apply(&self, topic: &str, runs: &[Run]) -> Result<Applied, StoreError>;

    /// Returns up to `limit` unpublished dead letters, oldest first. Only the caller may publish them until it calls
    /// [`Store::published`], for at most 45 s; meanwhile other callers get none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError>;

    /// Forgets dead letters that were published. Called with those numbers, even if there are none, it gives other
    /// callers their turn.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn published(&self, numbers: &[i64]) -> Result<(), StoreError>;
}

/// Where a partition goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The epoch of the ownership just taken; it grows with every take-over.
    pub epoch: i64,
    /// The offset of the next record; None for a partition that was never consumed.
    pub next: Option<i64>,
    /// The fingerprint of the last record before `next`, by which the topic is known again.
    pub fingerprint: i64,
}

/// Records of one partition, in order and without a gap that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The partition.
    pub partition: i32,
    /// The epoch of the ownership under which they were consumed.
    pub epoch: i64,
    /// The partition's next offset in the store before this run; None for a partition that was never consumed.
    pub from: Option<i64>,
    /// The partition's next offset after this run.
    pub next: i64,
    /// The fingerprint of the last record before `next`.
    pub fingerprint: i64,
    /// The records, in the order of their offsets; empty where the partition only moves past offsets that are no
    /// records.
    pub records: Vec<Record>,
}

/// One record of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// What it says.
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A change of stock, and the record as it came, should the store have to refuse it.
    Event {
        /// The change.
        event: Event,
        /// The record as it came.
        original: Arc<DeadLetter>,
    },
    /// Nothing that can be decided; goes to the dead letters.
    Malformed(Arc<DeadLetter>),
    /// Nothing at all: a record without a value.
    Tombstone,
}

/// A record that could not become an event, untouched, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The topic that it came from.
    pub topic: String,
    /// The partition that it came from.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// The record's timestamp at the broker, in milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The record's headers, in their order; names may come twice.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// What is wrong, naming the field; empty as long as nothing is.
    pub reason: String,
}

/// A dead letter on its way to its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDeadLetter {
    /// The store's number for it.
    pub number: i64,
    /// The letter.
    pub letter: DeadLetter,
}

/// What became of the records of a call of [`Store::apply`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Events that changed a stock.
    pub applied: u64,
    /// Events that were decided before, through whichever door.
    pub duplicates: u64,
    /// Events that were refused for lack of stock, or because a number would overflow; recorded under their ids.
    pub rejected: u64,
    /// Records that became dead letters.
    pub dead_letters: u64,
    /// Records without a value.
    pub tombstones: u64,
    /// How often the batch was decided again because another instance had changed a product or used an id.
    pub redecided: u64,
}

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else has taken over these partitions. Nothing was changed.
    #[error("somebody else has taken over the partitions {partitions:?}")]
    Fenced {
        /// The partitions.
        partitions: Vec<i32>,
    },
    /// The runs of these partitions need a row that somebody else has locked, or that somebody has to fix first: try
    /// them again later. The other runs were kept.
    #[error(
        "the partitions {partitions:?} have to wait: somebody has locked a row that they need, or has to see to one"
    )]
    Held {
        /// The partitions.
        partitions: Vec<i32>,
        /// What became of the others.
        applied: Applied,
    },
    /// The store does not answer, or not now: try again later.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// What it said.
        what: String,
    },
    /// The store will not answer until somebody intervenes: try again now and then.
    #[error("the store failed: {what}")]
    Failed {
        /// What it said.
        what: String,
    },
}
