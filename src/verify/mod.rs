//! Checks a data directory from the outside: reads its files (segments and runs of format 1, checkpoints of 1 and 2) and
//! replays every entry, with code that shares nothing with the engine. What the engine writes wrongly and would read back
//! just as wrongly is found here.
//!
//! What is checked, in this order; the first bad place ends it:
//!
//! 1. The folder: its files by name, segments numbered without a gap.
//! 2. Each segment's header: checksum, version, number, length, ledger, and that it continues the segment before.
//! 3. Each batch: checksum, number, first sequence, the BLAKE3 chain, zeros in its padding and after the last one. A
//!    batch that is bad with no good one after it anywhere is a torn tail: a note, since the next start cuts it.
//! 4. Each entry: its frame, ids of 1 to 128 bytes of UTF-8 without control characters, times that never fall.
//! 5. Each transaction id: at most once within the window.
//! 6. Each change: version + 1, balance + delta, never below 0, transfers and postings that add up to 0; of a refused
//!    entry that it is refused when it is done again, for the same reason, and that it changed nothing.
//! 7. Each checkpoint, when the replay is at its sequence: checksums, order, count, total, and every account as the
//!    replay has it.
//! 8. What is noted of sources: no position goes back unless it says so, parked records are numbered one after the
//!    other, what is taken back was parked; and what each checkpoint says of it, as of its batch.
//! 9. The end: no run of the id index and no checkpoint beyond it, and with [`Options::head`] that a batch has that hash, which stands
//!    for all before it.
//! 10. The id index: each of its runs (checksums, order, filter), that they are one chain, and every id of every entry up
//!     to its end at its place.
//!
//! A journal whose beginning was dropped is replayed from the oldest checkpoint that it reaches back to; the entries
//! up to there are checked in themselves only.
//!
//! Nothing in the directory is changed. Beside a running service it is all checked up to some moment.

mod accounts;
mod batch;
mod bytes;
mod chain;
mod checkpoint;
mod directory;
mod formats;
mod frame;
mod ids;
mod index;
mod measure;
mod problem;
mod replay;
mod run;
mod segment;
mod sources;
mod verifier;

pub(crate) use accounts::{Accounts, Unavailable};
pub(crate) use batch::Batch;
pub(crate) use bytes::hex;
pub(crate) use chain::{Visitor, walk};
pub(crate) use directory::Directory;
pub(crate) use frame::{Entry, Leg};
pub(crate) use measure::{Sizes, measure};
pub use problem::Problem;
pub(crate) use segment::Header;
pub(crate) use sources::{Change, Sections};
pub use verifier::{Options, Report, verify};
