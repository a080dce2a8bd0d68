//! The seam between what brings events and what keeps their effects.

use std::sync::Arc;

use thiserror::Error;

use super::Event;

/// Keeps the effects of events together with the offsets that they stand for.
///
/// A partition is written for by one owner at a time: who took it over last. Everybody else's writes are refused, as
/// [`StoreError::Fenced`], whatever they believe.
#[tonic::async_trait]
pub trait Store: Send + Sync {
    /// Makes the caller the owner of these partitions of `topic`, and says where each goes on. Those that it leaves out have to wait:
    /// somebody has locked what they need.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn take_over(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, StoreError>;

    /// How many calls of [`Store::apply`] may be under way at once. The runs of each begin where those of the call before end, in
    /// the order in which the calls are first polled. Besides these, one call may be under way for each partition that was
    /// [`StoreError::Held`]. A call that moves a partition back is kept before the next one is made.
    fn at_once(&self) -> usize {
        1
    }

    /// Decides the events of `runs`, at most one run a partition, and keeps outcomes, dead letters and offsets at once or not at
    /// all. When it returns they are durable. After `Unavailable` nobody knows: the same call again finds out, and has its effect
    /// once.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn apply(&self, topic: &str, runs: &[Run]) -> Result<Applied, StoreError>;

    /// Up to `limit` dead letters that nobody has published, oldest first. They are the caller's to publish until it calls
    /// [`Store::published`], for 45 s at most; meanwhile others get none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError>;

    /// Forgets dead letters, since they were published. Called with those that were, if only none, it gives others their turn.
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
    /// The ownership just taken; grows with every change of hands.
    pub epoch: i64,
    /// The offset of the next record; None for a partition never consumed.
    pub next: Option<i64>,
    /// The fingerprint for the record before `next`: tells whether the topic is still the one that was consumed.
    pub fingerprint: i64,
}

/// Records of one partition, in order, without a gap that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The partition.
    pub partition: i32,
    /// Under which ownership they were consumed.
    pub epoch: i64,
    /// What the store holds as the partition's next offset; None for a partition never consumed.
    pub from: Option<i64>,
    /// What it holds after it.
    pub next: i64,
    /// The fingerprint for the record before `next`.
    pub fingerprint: i64,
    /// The records, in the order of their offsets; none where the partition moves over what are no records.
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
    /// Where it came from.
    pub topic: String,
    /// Where it came from.
    pub partition: i32,
    /// Where it came from.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, as the broker has it.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in their order; names may come twice.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// What is wrong, naming the field; empty while nothing is.
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

/// What became of the records of an [`Store::apply`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Events that changed a stock.
    pub applied: u64,
    /// Events decided before, through whichever door.
    pub duplicates: u64,
    /// Events refused, for want of stock or of room in a number; recorded under their ids.
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
    /// Somebody else owns these partitions by now. Nothing was changed.
    #[error("somebody else has taken over the partitions {partitions:?}")]
    Fenced {
        /// The partitions.
        partitions: Vec<i32>,
    },
    /// Somebody else has locked what the runs of these partitions need, or has to see to something first: try them again later. The other
    /// runs were kept.
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
    /// It will not answer until somebody does something about it: try again now and then.
    #[error("the store failed: {what}")]
    Failed {
        /// What it said.
        what: String,
    },
}
