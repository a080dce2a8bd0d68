//! PostgreSQL as the store of the state: for several instances that share it, and for people who want to query it.
//!
//! A [`PgStore`] keeps what the gRPC calls and the inventory events change. It decides with the engine; a decision
//! exists once PostgreSQL has committed it, and is shown to nobody before.
//!
//! # One transaction per batch
//!
//! Each instance has one committer (`committer.rs`). The work that waits while it commits is its next batch: group
//! commit without a timer. If much work waits, the next batch is decided meanwhile, on top of the batch before
//! (`ahead.rs`). The committer looks up what it does not remember, decides the batch with a ledger in memory that holds
//! those accounts (`decide.rs`), and writes all of it at once: accounts, ids, journal, offsets, dead letters
//! (`write.rs`). As long as nobody interferes that is one round trip: each statement ends the transaction itself if
//! something is not as expected, so COMMIT is sent along with them. After such an end, batches take two round trips for
//! a while, and the checks are asked first. A batch that was decided from outdated data is decided again with its
//! accounts' rows locked, so two instances on one product take turns. The check that failed tells what to do:
//!
//! | not as expected | because | so |
//! |---|---|---|
//! | an account's stock or version | another instance, or a person, changed it | look it up again, with its row locked |
//! | an id | it was used meanwhile | look it up; it is a replay |
//! | a partition's epoch | somebody took the partition over | its work is refused as fenced, the rest goes on |
//! | a partition's offset, at its end already | our own commit, whose answer was lost | it is done; nothing is applied |
//!
//! BEGIN is sent along, too. If BEGIN alone failed, PostgreSQL would run each of the statements by itself; so a session
//! is read-only by default, and only BEGIN makes it writable.
//!
//! # The order of commits
//!
//! The commit sequence is dense over all instances: it is drawn from one row, which is locked after everything else is
//! written, right before COMMIT. Whoever sees a sequence sees all before it, and the view `journal` lists them in that
//! order. The journal's rows refer to their batch, so all but one small row are written before that lock is taken.
//!
//! # When an answer is lost
//!
//! A COMMIT without an answer has gone through or not. To find out, its batch number is inserted into `commits` as
//! given up: if it is there already, the batch went through; if not, it never will. So even a request without an id is
//! answered with its own outcome. If PostgreSQL does not come back within [`Settings::patience`], callers get
//! `Unavailable`; asking again with the same id, or for the same offsets, finds out.
//!
//! # A database that is put back to an earlier state
//!
//! A new connection may lead to the same database at an earlier state, or to another server that lacks its tail. So
//! after every fault the instance forgets what it remembers, makes its other connections anew, and answers nothing from
//! memory while there is no connection. It does the same where no connection broke, as when a dump is restored in
//! place, once it sees that an offset or the commit sequence is lower than it can be, or that an id which it remembers
//! as used is not: such ids are checked with each batch that meets them. A batch number may then be drawn twice: an
//! instance that finds its number taken draws others, and takes a commit for its own only if the commit's first entry
//! is its own.
//!
//! # A database that may not be written, or not be believed
//!
//! With every connection, and every second besides, an instance checks what it is connected to (`standing.rs`). It
//! neither reads nor writes a standby, which may lack what was answered; a schema without its keys, which is being
//! restored; or an older schema, which is brought up to date first. A database whose `default_transaction_read_only` is
//! on is only read, although the sessions here could write it. So is one where the role lacks a privilege that some
//! statement needs, unless reading needs it too.
//!
//! # How long an id is honoured
//!
//! At least [`Settings::id_window`] from its commit, by the database's clock; a clock that jumps forward does not
//! shorten that. After that one of the instances deletes the id (`prune.rs`). A look-up still finds the transaction
//! that used it.
//!
//! # What PostgreSQL refuses
//!
//! The class of an error tells whether it is about the data (22, 23, 54), about the moment (08, 40, 53, 55, 57, a
//! standby's 25006 and 0A000, a statement that has to be prepared again), or about something that a person has to fix
//! (all others). Refused data is traced to its events by trials that are rolled back (`isolate.rs`); these events
//! become dead letters, and everything else is kept. A column that is not ours and that nobody fills (23502) is not the
//! fault of an event, so what cannot be kept because of it waits for a person: a call gets an error, an event waits
//! with its partition. So does a partition whose offset or dead letter is refused as data.
//!
//! # Rows that somebody else has locked
//!
//! A lock is waited for a second at most, since all of a batch waits. Then the held accounts and partitions are looked
//! up (`locked.rs`): work that needs them is told so, and the rest of the batch is kept. Only for the row of the commit
//! sequence do instances queue for as long as a statement may take.
//!
//! # Reads
//!
//! They go to PostgreSQL, since another instance may have written last. They show what is committed, and wait for no
//! writer. Balances and single entries have one connection, the journal's pages another (`history.rs`): so no balance
//! waits behind a large page, or behind one that a lock in PostgreSQL holds up. A listing is copied in PostgreSQL when
//! it begins (`listing.rs`); after that it needs neither a snapshot nor a lock there.

mod ahead;
mod asking;
mod batch;
mod committer;
mod database;
mod decide;
mod error;
mod history;
mod isolate;
mod link;
mod listing;
mod locked;
mod memory;
mod migrate;
#[cfg(test)]
mod model;
mod prune;
mod read;
mod remembered;
mod rows;
mod session;
mod settings;
mod shared;
mod sql;
mod standing;
mod store;
mod tls;
mod watching;
mod work;
mod write;

pub(crate) use asking::Asking;
pub use error::PgError;
pub use listing::Listing;
pub use prune::Metrics;
pub use settings::Settings;
pub use store::{PgStore, Queued};
