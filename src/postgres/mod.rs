//! PostgreSQL as the place of the state: for several instances that share it, and for people who want to query it.
//!
//! A [`PgStore`] keeps what the gRPC calls and the inventory events change. It decides with the engine, and what it decided
//! exists when PostgreSQL has committed it, not before: nobody is shown anything earlier.
//!
//! # One transaction per batch
//!
//! Each instance has one committer (`committer.rs`). What waits while it commits is its next batch: group commit
//! without a timer. When much waits it is decided meanwhile, on what the batch before will have made of the accounts
//! (`ahead.rs`). It looks up what it does not remember, decides the batch with a ledger in memory that holds those
//! accounts (`decide.rs`), and writes all of it at once: accounts, ids, journal, offsets, dead letters (`write.rs`).
//! While nobody interferes that is one round trip: the statements end the transaction themselves where something is not
//! as expected, so COMMIT is sent with them. After that happened they are asked first, for a while. A batch that was
//! decided from what is not so any more is decided again, its accounts' rows locked this time, so two instances on one
//! product take turns. Which of the checks failed says what is to be done:
//!
//! | not as expected | because | so |
//! |---|---|---|
//! | an account's stock or version | another instance, or a person, changed it | look it up again, with its row locked |
//! | an id | it was used meanwhile | look it up; it is a replay |
//! | a partition's epoch | somebody took the partition over | its work is refused as fenced, the rest goes on |
//! | a partition's offset, at its end already | our own commit, whose answer was lost | it is done; nothing is applied |
//!
//! BEGIN goes with the statements, too. Should it fail alone, PostgreSQL runs each of them by itself; so a session is read-only by
//! default, and only BEGIN says otherwise.
//!
//! # The order of commits
//!
//! The commit sequence is dense over all instances: it is drawn from one row, locked when all else is written, right before
//! COMMIT. Whoever sees a sequence sees all before it, and the view `journal` lists them in that order. The rows of the
//! journal refer to their batch, so all but one small row are written before that lock is taken.
//!
//! # When an answer is lost
//!
//! A COMMIT that was not answered has gone through or not, and its batch number tells: the number is put into `commits`
//! as given up. If it is there already, the batch went through; if not, it never will. So even a request without an id
//! is answered with its own outcome. If PostgreSQL does not come back within [`Settings::patience`], callers are told
//! `Unavailable`; asking again with the same id, or for the same offsets, finds out.
//!
//! # A database that is put back to an earlier state
//!
//! A new connection may lead to the same database at an earlier state, or to another server that lacks its tail. So after
//! every fault the instance forgets what it remembers, makes its other connections anew, and answers nothing from memory
//! while there is no connection. It does the same where no connection broke, as when a dump is restored in place, once it
//! sees that an offset or the commit sequence is lower than it can be, or that an id which it remembers as used is not: such
//! ids are checked with each batch that meets them. A batch number may then be drawn twice: an instance that finds its number
//! taken draws others, and takes a commit for its own only if the commit's first entry is its own.
//!
//! # A database that may not be written, or not be believed
//!
//! With every connection, and every second beside, an instance looks at what it has before it (`standing.rs`): a standby is neither read nor
//! written, since it may lack what was answered; nor is a schema without its keys, which is one that is being restored, or an older one, which is brought up first; a database whose
//! `default_transaction_read_only` is on is read only, although sessions here could write it.
//!
//! # How long an id is honoured
//!
//! [`Settings::id_window`] at least, from its commit, by the database's clock; where that jumps forward, as long as without. Then one of the
//! instances deletes it (`prune.rs`). What it was used for is found by it all the same.
//!
//! # What PostgreSQL refuses
//!
//! By its class an error is about the data (22, 23, 54), about the moment (08, 40, 53, 55, 57, a standby's 25006 and
//! 0A000, a statement that has to be prepared again) or about something that a person has to see to (all others). Data
//! that is refused is traced to the events that bring it, by trials that are rolled back (`isolate.rs`); they become dead letters,
//! everything else is kept. A column that is not ours and that nobody fills (23502) is no fault of theirs: those that it keeps out wait
//! for a person, a call with an error, an event with its partition.
//!
//! # Rows that somebody else has locked
//!
//! A lock is waited for a second at most, since all of a batch waits. Then it is found out which accounts and partitions are locked
//! (`locked.rs`); what needs them is told so, the rest of the batch is kept. Only for the row of the commit sequence instances wait as long
//! as a statement may take, in a line.
//!
//! # Reads
//!
//! They go to PostgreSQL, since another instance may have written last. They show what is committed and wait for no writer. Balances and
//! single entries have a connection of their own, the journal's pages another (`history.rs`): what is large, or held up in PostgreSQL by
//! a lock, stands in front of nobody's balance. A listing is copied in PostgreSQL when it begins (`listing.rs`), and then needs no
//! snapshot there and no lock.

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
