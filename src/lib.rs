//! Equipoise is a lock-free account engine: it keeps balances (money, stock, quotas) that many threads change at once,
//! and never loses, doubles or tears one.
//!
//! # Use
//!
//! A [`Ledger`] is a handle; clones share one ledger. Every method can be called from any thread and from async code: a
//! method waits for another thread only where its documentation says so. The ledger is closed when its last handle is
//! dropped; account handles, snapshots and futures of [`Ledger::durable_at`] hold one.
//!
//! ```
//! use equipoise::{AccountId, Ledger};
//!
//! let ledger = Ledger::new();
//! let [alice, bob] = ["alice", "bob"].map(|name| AccountId::new(name).expect("a valid id"));
//! ledger.create(&alice, 100)?;
//! ledger.create(&bob, 200)?;
//! let after = ledger.transfer(&alice, &bob, 50)?;
//! assert_eq!((after[0].balance, after[1].balance), (50, 250));
//!
//! let refused = ledger.transfer(&alice, &bob, 51).unwrap_err();
//! assert_eq!(refused.to_string(), "Insufficient balance in account alice: current=50, required=51");
//! # Ok::<(), equipoise::Error>(())
//! ```
//!
//! A request that carries a [`TransactionId`] has its effect once, however often it is sent, and everybody who sends it
//! gets the first answer:
//!
//! ```
//! # use equipoise::{AccountId, Ledger, Operation, Request, TransactionId};
//! # let ledger = Ledger::new();
//! # let alice = AccountId::new("alice")?;
//! # ledger.create(&alice, 100)?;
//! let id = TransactionId::new("order-4711")?;
//! let request = Request::single(Operation::update(alice.clone(), -30), Some(id.clone()));
//! let first = ledger.submit(request.clone())?;
//! let again = ledger.submit(request)?;
//! assert!(!first.replayed() && again.replayed());
//! assert_eq!(first.sequence(), again.sequence());
//! assert_eq!(ledger.balance(&alice).map(|state| state.balance), Some(70));
//! assert!(ledger.transaction(&id).expect("readable").is_some());
//! # Ok::<(), equipoise::Error>(())
//! ```
//!
//! A chain commits under one sequence or not at all, and each operation sees the ones before it:
//!
//! ```
//! # use equipoise::{AccountId, Ledger, Member, Operation, Request};
//! # let ledger = Ledger::new();
//! # let [a, b] = ["a", "b"].map(|name| AccountId::new(name).expect("a valid id"));
//! let members = [
//!     Operation::create(a.clone(), 0)?,
//!     Operation::create(b.clone(), 0)?,
//!     // Netted, these two would change nothing; in order, the first one has nothing to give.
//!     Operation::transfer(a.clone(), b.clone(), 50)?,
//!     Operation::transfer(b, a, 50)?,
//! ];
//! let chain = members.map(|operation| Member { id: None, operation }).to_vec();
//! let outcome = ledger.submit(Request::chain(chain)?)?;
//! let texts: Vec<_> = outcome.results().into_iter().map(|result| result.unwrap_err().to_string()).collect();
//! assert_eq!(texts[2], "Insufficient balance in account a: current=0, required=50");
//! assert_eq!(texts[3], "Linked group failed at operation 2");
//! # Ok::<(), equipoise::Error>(())
//! ```
//!
//! A snapshot shows every account at one commit sequence, while everybody goes on:
//!
//! ```
//! # use equipoise::{AccountId, Ledger};
//! # let ledger = Ledger::new();
//! # let alice = AccountId::new("alice")?;
//! # ledger.create(&alice, 100)?;
//! let snapshot = ledger.snapshot().expect("few are open");
//! ledger.update(&alice, 11)?;
//! assert_eq!(snapshot.total(), 100);
//! assert_eq!(snapshot.iter().count(), 1);
//! # Ok::<(), equipoise::Error>(())
//! ```
//!
//! # On disk
//!
//! [`Ledger::open`] keeps the ledger in a data directory: a journal in segments, checkpoints, and an index of the ids.
//! Each caller chooses when its calls return: as soon as a change is applied, or when a crash can no longer undo it.
//!
//! ```
//! # use equipoise::{AccountId, Durability, Ledger};
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let ledger = Ledger::open(dir)?;
//! let careful = ledger.with_durability(Durability::OnDisk);
//! let alice = AccountId::new("alice")?;
//! careful.create(&alice, 100)?;
//! drop((ledger, careful));
//!
//! let ledger = Ledger::open(dir)?;
//! assert_eq!(ledger.balance(&alice).map(|state| state.balance), Some(100));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Only one process at a time can open a directory. A failed write or fdatasync closes the ledger
//! ([`Ledger::failure`]). A full disk refuses writes until there is room ([`Exhausted::Disk`]), a failing one until the
//! next segment can be made ([`Exhausted::Segment`]). The library never ends its host process, and reports to its
//! operator through [`Builder::observer`].
//!
//! A program that reads its requests from a source and must know after a crash where to resume can store that in the
//! ledger: [`Ledger::note`] makes positions of sources, and records that were put aside, durable together with the
//! entries they stand for, never before them.
//!
//! # What a read is guaranteed to see
//!
//! Every decided request has a place in one list, its *commit sequence*: 1, 2, 3, … There is one order, and everybody
//! sees it.
//!
//! * [`Ledger::balance`] returns the newest committed state. It never waits: for an account that a writer holds it
//!   returns the state before that write. Once one side of a transfer is visible, so is the other. Reads of one thread
//!   never go back, and include that thread's own writes.
//! * [`Ledger::snapshot`] at sequence *n* holds exactly what replaying the first *n* entries of the journal gives.
//! * [`Ledger::balance_durable`] and [`Ledger::snapshot_durable`] do the same at the *durable* sequence: what they show
//!   can no longer be lost. To see your own write there, wait for it first: [`Ledger::wait_durable`],
//!   [`Ledger::durable_at`]. In memory, durable means "in the history", see [`Builder::history`].
//!
//! # What an error means
//!
//! * [`SubmitError`] (and [`InvalidRequest`] inside it): nothing was decided, nothing changed, no id was used up.
//!   [`AnswerGone`] is final: the entry that used the id is no longer kept. There is one exception. A caller that asks
//!   for [`Durability::OnDisk`], and waits for the disk when the journal fails or the ledger is closed, gets
//!   [`SubmitError::JournalFailed`] or [`SubmitError::Closed`] although the request was decided and every reader sees
//!   it. The next start shows whether it is on disk: a request with an id can simply be sent again.
//! * [`Refusal`]: the request was decided, at a sequence of its own, and changed nothing. Its id keeps that answer:
//!   sent again, it is refused again, even if the money has arrived meanwhile.
//! * [`Exhausted`]: a limit that protects the process was reached; the same request may succeed later.
//!
//! # What it costs
//!
//! A read is a look-up and two loads. A transfer allocates a transaction and two versions, installs each with one CAS,
//! and is decided with one more CAS on the commit list. That list is the one word all writers share: two writers at
//! full speed are not twice as fast as one. Opening a snapshot sets a bit and reads the newest sequence; while it is
//! open, an account that changes keeps one old version (64 bytes). An account takes about 490 bytes with the look-up
//! cache. An id takes about 470 bytes while it is in memory (`examples/memory.rs` measures both), and about 900
//! if it and the ids of its accounts are the longest; on disk it takes about 38 bytes, and 1.3 to 2.6 bytes of memory.
//!
//! Deciding, reading and snapshots are lock-free. These are not: opening accounts (see [`Builder::reserve`]), a request
//! whose id has left memory, which reads the disk, a thread's first look-up, and the allocator, if it has locks: with
//! glibc's, a writer may wait for a thread that was suspended inside it. The crate leaves that choice to its host; the
//! binary uses mimalloc. A thread that sleeps inside the engine blocks nobody, but no memory is freed meanwhile: at
//! [`Builder::garbage_cap`] writes are refused, and reads go on.

// The trials of the journal share the tools of the tests outside.
#[cfg(all(test, equipoise_engine))]
extern crate self as equipoise;

#[cfg(equipoise_ids)]
mod account;
#[cfg(equipoise_ids)]
mod blocking;
#[cfg(equipoise_engine)]
mod builder;
#[cfg(equipoise_engine)]
mod clock;
#[cfg(equipoise_engine)]
mod core;
#[cfg(equipoise_engine)]
mod directory;
#[cfg(equipoise_ids)]
mod error;
#[cfg(equipoise_ids)]
mod event;
#[cfg(equipoise_ids)]
mod folder;
#[cfg(equipoise_engine)]
mod foreign;
#[cfg(equipoise_ids)]
mod format;
#[cfg(equipoise_engine)]
mod handle;
#[cfg(equipoise_ids)]
mod ids;
#[cfg(equipoise_engine)]
mod journal;
mod kernel;
#[cfg(equipoise_engine)]
mod ledger;
#[cfg(equipoise_engine)]
mod lock;
#[cfg(equipoise_engine)]
mod opening;
#[cfg(equipoise_engine)]
mod outcome;
#[cfg(equipoise_engine)]
mod plan;
#[cfg(equipoise_ids)]
mod request;
#[cfg(equipoise_engine)]
mod restoration;
#[cfg(equipoise_engine)]
mod site;
#[cfg(equipoise_engine)]
mod snapshot;
#[cfg(equipoise_engine)]
mod submission;
#[cfg(equipoise_engine)]
mod upkeep;
#[cfg(equipoise_engine)]
mod wait;

#[cfg(feature = "server")]
pub mod bench;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "grpc")]
pub mod inventory;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "server")]
pub mod monitor;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod verify;

#[cfg(equipoise_ids)]
pub use account::{AccountId, AccountState, MAX_ID_BYTES, TransactionId};
#[cfg(equipoise_engine)]
pub use builder::{Builder, Durability};
#[cfg(equipoise_ids)]
pub use error::{AnswerGone, Error, Exhausted, InvalidRequest, Refusal, SubmitError};
#[cfg(equipoise_engine)]
pub use event::Event;
#[cfg(equipoise_engine)]
pub use handle::Account;
#[cfg(equipoise_engine)]
pub use journal::disk::compact::{CompactOptions, Compacted, DroppedSegment, KeptBecause, compact};
#[cfg(equipoise_engine)]
pub use journal::{
    Advance, HistoryError, HistoryGone, MAX_PARKED_BYTES, MAX_SOURCE_BYTES, MAX_SOURCES, Note, NoteError, Parked,
    SourcePosition,
};
#[cfg(equipoise_engine)]
pub use ledger::{AccountStates, Ledger, Stats};
#[cfg(equipoise_engine)]
pub use opening::{OpenError, Progress};
#[cfg(equipoise_engine)]
pub use outcome::{AccountChange, MemberResult, Outcome};
#[cfg(equipoise_ids)]
pub use request::{Kind, MAX_BATCH_OPERATIONS, MAX_LEGS, Member, Operation, Posting, Request};
#[cfg(equipoise_engine)]
pub use snapshot::Snapshot;
#[cfg(equipoise_engine)]
pub use wait::Closed;
#[cfg(feature = "server")]
pub(crate) use {journal::disk::SEGMENT_BYTES, request::DEFAULT_ID_WINDOW};
