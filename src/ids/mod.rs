//! Transaction ids: which transaction an id belongs to, in memory and beyond it. One id space for every door.
//!
//! * `table`: the newest ids in memory, each a counted handle of its transaction.
//! * `index`: all durable ids up to one sequence, on disk. Derived data: the journal can always make it again.
//! * `probe`: how a request finds out whether its ids are new, while ids move from one to the other.
//! * `sweep`: how they move: into the index in commit order, published, and only then out of the table.
//!
//! # What an id costs
//!
//! In memory an id takes about 470 bytes while it is in the table: its transaction with plan, request and results, and
//! the table's own entry. If it and the ids of its accounts have 128 bytes, it takes about 900. An id of a large transaction counts as many ids, by the memory it takes. A ledger without an
//! index keeps `capacity` ids and forgets older ones. With an index, a sweep starts when half the capacity waits for
//! it, and leaves half the capacity in the table. So about `capacity` ids are in memory, plus those decided during a
//! sweep. Requests that carry ids are refused when the index fails and twice the capacity waits, or when it is only
//! slow and 65,536 more than that wait ([`Ids::admit`]). An id that waits for the index takes 72 more bytes; memory for
//! three quarters of the capacity is reserved for that, twice. The index itself keeps 10.3 bits of memory per id in
//! runs of more than 1,048,576 ids, and 20.3 in smaller ones: 13 to 17 MB with 10 million ids, whatever their length. A
//! merge or a run being written adds a few MB and that run's filter. Each run holds one file open: some 30 files, at
//! most about 70.
//!
//! Most of the time goes into cache misses: the table's slots, the runs' filters, transactions decided a hundred
//! thousand ids ago. So a group of requests looks all its ids up together, first in the table, then run by run
//! ([`Ids::count_new`]). The records for the index are noted when ids become durable, from transactions that were just
//! encoded. The table keeps only some bits of an id's hash and no copy of it, so few look-ups read another id's
//! transaction.
//!
//! On disk an id takes 37.6 bytes in a large run and 38.9 in a small one, whatever its length, and up to twice that
//! while runs are merged. It stays as long as the index does; an id used again after the window takes no second place
//! once its runs are merged.
//!
//! Measured with 10 million random ids of 36 bytes in runs of 50,000, on two cores and a disk that others kept busy:
//! 0.36 µs of CPU per id with all merging, 38 MB resident in all. Look-ups:
//!
//! | of an id that is | | mean | 99th percentile | longest |
//! |---|---|---|---|---|
//! | absent | beside ingestion, each after a rest of 0.2 ms | 3 µs | 19 µs | 0.9 ms |
//! | present | beside ingestion, each after a rest of 0.2 ms | 10 µs | 29 µs | 3.3 ms |
//! | absent | alone, one after the other | 2.5 µs | 4 µs | |
//! | present | alone, one after the other | 7.6 µs | 6.5 µs | 0.12 s |
//!
//! The last mean is above its 99th percentile because of a few pauses while others had the cores. Pages were in the
//! system's cache; an id that was not used for long costs one more disk read. Opening 12 million ids took 0.12 s. The
//! answer to a repeated request is also read from the journal, with its whole batch, which takes as long again as the
//! look-up (`benches/durable/ids.rs`).

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

/// The key of an id in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u128);

/// An id and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRecord {
    pub(crate) key: Key,
    pub(crate) indexed: Indexed,
}

/// The most keys of one look-up.
const TOGETHER: usize = u64::BITS as usize;

/// Holds ids beyond memory. It finds every id of every entry up to `published`, and may find later ones.
pub(crate) trait Index: Send + Sync {
    fn published(&self) -> u64;

    /// What it knows `id` by.
    fn key(&self, id: &TransactionId) -> Key;

    /// The newest entry that carries the id with this key.
    fn find(&self, key: Key) -> Result<Option<Indexed>, IndexError>;

    /// Which of at most [`TOGETHER`] keys may be in the index: one bit each, from the lowest. A key with a clear bit is
    /// surely absent. Reads no disk.
    fn candidates(&self, keys: &[Key]) -> u64;

    /// Takes the ids of a run of entries that ends with sequence `through`: the first run after `published`. After it
    /// returns, they are found, even after a crash. Idempotent; an error leaves `run`, in any order, to be passed
    /// again.
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
