//! Transaction ids: which transaction an id belongs to, in memory and beyond it. One id space for every door.
//!
//! * `table`: the newest ids in memory, each a counted handle of its transaction.
//! * `index`: all durable ids up to one sequence, on disk. Derived data: the journal can always make it again.
//! * `probe`: how a request finds out whether its ids are new, while ids move from one to the other.
//! * `sweep`: how they move: into the index in commit order, published, and only then out of the table.
//!
//! # What an id costs
//!
//! In memory about 470 bytes while it is in the table: its transaction with plan, request and results, and the table's
//! own entry. An id of a large transaction counts as many ids, by the memory that it takes. A ledger without an index keeps
//! `capacity` ids and forgets older ones. With an index a sweep runs when
//! half the capacity waits for it and leaves half the capacity in the table, so about `capacity` ids are in memory, and
//! what is decided while a sweep runs. Requests that carry ids are refused when the index fails and twice the capacity
//! waits, or when it is only slow and 65,536 more than that wait ([`Ids::admit`]). An id that waits for the index takes 72
//! bytes more; memory for three quarters of the capacity is kept for that, twice. The index itself keeps 10.3 bits per id in
//! memory in runs of more than 1,048,576 ids, and 20.3 in smaller ones: 13 to 17 MB with 10 million ids, whatever their length.
//! Merging, and a run that is being written, add a few MB and that run's filter. Each run holds one file open: some 30 files,
//! at most about 70.
//!
//! In time most of it are cache misses: the table's slots, the runs' filters, transactions that were decided a hundred
//! thousand ids ago. So a group of requests asks for all its ids together, first in the table, then run by run
//! ([`Ids::count_new`]). What the index is to hold is noted when ids become durable, from transactions that were just encoded.
//! The table keeps no copy of an id but some bits of its hash, so few look-ups read another's transaction.
//!
//! On disk an id takes 37.6 bytes in a large run and 38.9 in a small one, whatever its length, and up to twice that while
//! runs are merged. It is kept as long as the index is; an id used again after the window takes no second place once its runs are merged.
//!
//! Measured with 10 million random ids of 36 bytes in runs of 50,000, on two cores and a disk that others kept busy: 0.36 µs of
//! CPU an id with all merging, 38 MB resident in all. A look-up beside ingestion without a pause, each after a rest of 0.2 ms: of an
//! absent id 3 µs on average (99th percentile 19 µs, longest 0.9 ms), of a present one 10 µs (29 µs, 3.3 ms); alone and one
//! after the other 2.5 µs (99th percentile 4 µs) and 7.6 µs (6.5 µs: the average has a few pauses of up to 0.12 s in it, when
//! others had the cores). Pages were in
//! the system's cache: an id that was not used for long costs a read of the disk more. Opening 12 million took 0.12 s.
//! The answer to a repeated request is also read from the journal, with its whole batch: that takes as long again as the
//! look-up (`benches/durable.rs`).

mod index;
#[cfg(all(test, equipoise_shuttle))]
mod model;
mod probe;
mod sweep;
mod table;
#[cfg(all(test, equipoise_engine))]
mod tests;

use crate::account::TransactionId;
use crate::request::Request;

use sweep::Sweep;
use table::Table;

pub(crate) use index::{DiskIndex, IndexError, JournalSpan};
pub(crate) use probe::{Found, Seen};
pub(crate) use table::Claim;

/// Where the index says that an id was used: an entry of the journal, and which of its members carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) sequence: u64,
    /// The entry's time, ns since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) member: u32,
}

/// What an index knows an id by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u128);

/// An id and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRecord {
    pub(crate) key: Key,
    pub(crate) indexed: Indexed,
}

/// How many keys are asked about together at most.
const TOGETHER: usize = u64::BITS as usize;

/// What holds the ids beyond memory. Every id of every entry up to `published` is found in it; later ones may be.
pub(crate) trait Index: Send + Sync {
    fn published(&self) -> u64;

    /// What it knows `id` by.
    fn key(&self, id: &TransactionId) -> Key;

    /// The newest entry that carries the id with this key.
    fn find(&self, key: Key) -> Result<Option<Indexed>, IndexError>;

    /// Which of at most [`TOGETHER`] keys may be in it, a bit each, from the lowest on: the others surely are not. Reads no
    /// disk.
    fn candidates(&self, keys: &[Key]) -> u64;

    /// Takes the ids of a run of entries that ends with sequence `through`, the first run after `published`. When it
    /// returns they are found, also after a crash. Idempotent; an error leaves `run`, in any order, to be handed over again.
    fn ingest(&self, run: &mut Vec<IdRecord>, through: u64) -> Result<(), IndexError>;

    /// Raises `published`, to what was ingested and no further.
    fn publish(&self, through: u64);
}

/// The ids that a request carries, each with its member's place.
fn ids_of(request: &Request) -> impl Iterator<Item = (&TransactionId, u32)> {
    let members = request.members().iter().zip(0_u32..);
    members.filter_map(|(member, place)| member.id.as_ref().map(|id| (id, place)))
}

/// The ids of a ledger.
pub(crate) struct Ids<I = DiskIndex> {
    table: Table,
    index: Option<I>,
    sweep: Sweep,
    /// How long an id is honoured, in ns of the journal's time.
    window: u64,
}

impl<I: Index> Ids<I> {
    /// Only a table, of `capacity` ids: what does not fit is forgotten.
    pub(crate) fn in_memory(capacity: usize) -> Self {
        Ids { table: Table::new(capacity), index: None, sweep: Sweep::new(capacity), window: u64::MAX }
    }

    /// A table whose excess moves to `index`. An id counts as new again `window` ns after its entry.
    pub(crate) fn with_index(capacity: usize, index: I, window: u64) -> Self {
        Ids { table: Table::new(capacity), sweep: Sweep::new(capacity), index: Some(index), window }
    }

    /// How many ids are in memory.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn index(&self) -> Option<&I> {
        self.index.as_ref()
    }
}
