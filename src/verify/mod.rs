//! Checks a data directory from the outside: reads its files (segments and runs of format 1, checkpoints of 1 and 2)
//! and replays every entry, with code that shares nothing with the engine. What the engine writes wrongly and would
//! read back just as wrongly is found here.
//!
//! What is checked, in this order; the first bad place ends it:
//!
//! 1. The folder: its files by name, segments numbered without a gap.
//! 2. Each segment's header: checksum, version, number, ledger, and that it continues the segment before.
//! 3. Each batch: checksum, number, first sequence, the BLAKE3 chain, zeros in its padding and after the last one; then
//!    the file's length. A batch that is bad with no good one and no segment after it is a torn tail: a note, since the
//!    next start cuts it. So is the newest segment's file if it is too long or too short.
//! 4. Each entry: its frame, ids of 1 to 128 bytes of UTF-8 without control characters, times that never fall.
//! 5. Each transaction id: at most once within the window.
//! 6. Each change: version + 1, balance + delta, never below 0; transfers and postings add up to 0. A refused entry
//!    must be refused again when it is replayed, for the same reason, and must not have changed anything.
//! 7. Each checkpoint, once the replay reaches its sequence: checksums, order, count, total, and every account as the
//!    replay has it.
//! 8. The notes about sources: no position goes back unless the note says so, parked records are numbered
//!    consecutively, and only parked records are taken back. Each checkpoint must agree, as of its batch.
//! 9. The end: no run of the id index and no checkpoint lies beyond it. With [`Options::head`], some batch must have
//!    that hash, which covers all batches before it.
//! 10. The id index: each of its runs (checksums, order, filter), that the runs are consecutive, and that every id of
//!     every entry up to the index's end is in its place.
//!
//! If the beginning of the journal was dropped, the replay begins with the oldest checkpoint that the journal reaches
//! back to; the entries up to there are checked only in themselves.
//!
//! Nothing in the directory is changed. Beside a running service, everything is checked up to some moment.

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
