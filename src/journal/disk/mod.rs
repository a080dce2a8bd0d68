//! The journal on disk: a data directory with segments, checkpoints and the id index.
//!
//! ```text
//! LOCK                                  flocked while a process has the directory; holds its number, for people
//! journal/0000000001.segment …          the journal, in segments of one length
//! journal/spare                         the next segment, zeroed, perhaps with a header; not part of the journal
//! checkpoints/00000000000001000000.checkpoint   every account at a sequence; the newest two are kept
//! ids/{first:020}-{last:020}.run        the id index, derived from the journal: the ids of all entries of a span, see `ids::index`
//! ```
//!
//! All integers are little-endian. A **segment** is a header of 4,096 bytes, then batches at multiples of 8, then
//! zeros:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `EQPSEGM1` |
//! | 8 | 4 | CRC32C of bytes 12 to 128 |
//! | 12 | 4 | format version, 1 |
//! | 16 | 8 | segment number, from 1 |
//! | 24 | 8 | number of its first batch |
//! | 32 | 8 | sequence of its first entry |
//! | 40 | 16 | the ledger's id |
//! | 56 | 16 | the segment's salt, random |
//! | 72 | 32 | hash of the batch before |
//! | 104 | 8 | length of the file |
//!
//! A **batch** is the unit that becomes durable. Batch *k* + 1 is written only after the fdatasync of batch *k* has
//! returned. So a bad batch is a *torn tail* if no good batch and no segment follows it, and *damage* otherwise. A file
//! that is longer or shorter than its header says is a torn tail in the newest segment, and damage in an older one:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | `EQBT` |
//! | 4 | 4 | CRC32C of the salt, bytes 8 to 80, and the body |
//! | 8 | 8 | batch number, dense over all segments, from 1 |
//! | 16 | 8 | sequence of its first entry |
//! | 24 | 4 | count of entries; 0 in the closing batch of a clean stop, and where there are only notes |
//! | 28 | 4 | length of the body |
//! | 32 | 4 | how much of the body, at its start, are notes |
//! | 36 | 4 | bit 0: closing |
//! | 40 | 8 | time of its newest entry, nanoseconds since the Unix epoch |
//! | 48 | 32 | BLAKE3 of the hash before, bytes 8 to 48, and the body |
//! | 80 | | a section of notes, then one frame per entry |
//!
//! **Notes** say how far the sources of requests were read, and which of their records are parked. A note is never in
//! an earlier batch than the entries it stands for. A section of notes is a byte of flags (bit 0: it continues the
//! section of the batch before; bit 1: the next batch continues it) and a piece of a sequence of changes, which may be
//! cut anywhere. The pieces are joined, and the changes take effect with the last piece; if the next batch does not
//! continue a section with bit 1, they have no effect. A change is its kind (u8), then:
//!
//! | kind | | |
//! |---|---|---|
//! | 1 | a position | the source's name after its length (u16), next offset and fingerprint (i64 each); never goes back |
//! | 2 | a parked record | its number (u64), dense from 1, and the record after its length (u32) |
//! | 3 | a record that is no longer parked | its number (u64) |
//! | 4 | a position that goes back on purpose | as kind 1; the source is another one of the same name |
//!
//! A **frame** begins with the length of the rest (u32), the time (u64), flags (u8; bit 0 refused, bit 1 with "as of")
//! and the count of members (u16). A refused entry then has the member's place (u32), the reason (u8; 1 exists, 2 not
//! found, 3 insufficient, 4 out of range), the account's position (u16) and its balance (i64). With "as of", that
//! sequence (u64) follows; then the members. A member is its kind (u8; 1 create, 2 update, 3 transfer, 4 post) and id;
//! then account, amount and state (create, update), or both accounts, the amount and both states (transfer), or a count
//! (u16) of accounts, each with delta and state (post). Texts follow their length (u8). A state is balance (i64) and
//! version (u64) after the change; in a refused entry, as found.
//!
//! A **checkpoint** is a header of 128 bytes (`EQPCHKP1`, CRC32C of bytes 12 to 128, version, sequence, its time, the
//! ledger's id, count of accounts, their sum as i128, zeros), then blocks: length (u32), CRC32C (u32), and accounts in
//! ascending order of their ids, each with balance, version and the sequence of its last change.
//!
//! Its version is 1 as long as nothing has been noted. Version 2 has four more fields after the sum: the number of the
//! newest batch whose notes it contains, the length of a section (u64), the highest number of a parked record, and the
//! section's CRC32C. The section stands between header and blocks: changes of kind 1 in the order of the names, then of
//! kind 2 in the order of the numbers, without flags.

mod ahead;
mod batch;
mod bytes;
pub(crate) mod checkpoint;
pub(crate) mod compact;
pub(crate) mod files;
mod frame;
mod load;
mod newer;
mod read;
pub(crate) mod recovery;
mod scan;
mod section;
mod segment;
mod spare;
mod tail;
#[cfg(test)]
mod trials;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use self::ahead::ahead;
use self::batch::Draft;
use self::checkpoint::{Moment, Writing};
use self::files::{CHECKPOINTS, Files, JOURNAL};
use self::frame::Frame;
use self::recovery::{Recovery, recover};
use self::segment::Segment;
use self::spare::Spare;
use self::tail::{Next, Tail};
use super::{HistoryError, JournalError, Noted, Record as NoteRecord, Sink};
use crate::account::{AccountId, Balance};
use crate::blocking::Blocking;
use crate::error::Exhausted;
use crate::event::Event;
use crate::folder::is_out_of_room;
use crate::foreign::Observer;
use crate::kernel::Handle;
use crate::opening::OpenError;
use crate::outcome::{Outcome, Record};

pub(crate) use self::segment::{LedgerId, SEGMENT_BYTES};

/// The journal in a data directory.
pub(crate) struct Disk {
    files: Arc<dyn Files>,
    ledger: LedgerId,
    /// By their first sequence.
    segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    tail: Mutex<Tail>,
    spare: Spare,
    observer: Observer,
    blocking: Blocking,
}

/// The position from which a recovered ledger continues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// The newest entry's sequence.
    pub(crate) sequence: u64,
    /// Its time, nanoseconds since the Unix epoch.
    pub(crate) time: u64,
    /// The sequence of the newest checkpoint.
    pub(crate) checkpoint: u64,
}

impl Disk {
    /// Opens the journal in `files` and passes its state to `recovery`. New segments are `segment_bytes` long. Before
    /// anything is written, `nothing_beyond` is called with the ledger's id (None: the journal has not begun) and the
    /// sequence of the last entry; it fails if something else knows of later entries.
    pub(crate) fn open(
        files: Arc<dyn Files>,
        segment_bytes: u64,
        mut recovery: Recovery<'_>,
        observer: Observer,
        nothing_beyond: impl FnOnce(Option<&LedgerId>, u64) -> Result<(), OpenError>,
    ) -> Result<(Self, Position, Noted), OpenError> {
        if !SEGMENT_BYTES.contains(&segment_bytes) {
            let expected = format!("from {} to {} bytes", SEGMENT_BYTES.start(), SEGMENT_BYTES.end());
            return Err(OpenError::Setting { setting: "segment_bytes", expected, value: segment_bytes.to_string() });
        }
        let segment_bytes = segment_bytes.next_multiple_of(batch::ALIGNMENT as u64);
        let cannot = |error| OpenError::Io { path: files.path(JOURNAL), what: "start a thread to read", error };
        let found = ahead(&mut recovery, |recovery| recover(&*files, recovery)).map_err(cannot)??;
        let ledger = found.end.as_ref().map(|_| &found.segments[0].header.ledger);
        nothing_beyond(ledger, found.end.as_ref().map_or(0, |end| end.next.sequence - 1))?;
        // From here on it is good, and may be written to.
        found.torn.iter().for_each(recovery.tell);
        tidy(&*files, &found.unused)?;
        let spare = Spare::new(files.clone(), segment_bytes, observer.clone());
        let (ledger, tail) = match &found.end {
            Some(end) => (found.segments[0].header.ledger, end.repair(&*files)?),
            None => begin(&*files, &spare)?,
        };
        let mut segments: BTreeMap<_, _> =
            found.segments.into_iter().map(|segment| (segment.header.first, segment)).collect();
        segments.insert(tail.segment.header.first, tail.segment.clone());
        let position =
            Position { sequence: tail.next.sequence - 1, time: tail.next.time, checkpoint: found.checkpoint };
        let (segments, tail) = (RwLock::new(segments), Mutex::new(tail));
        let disk = Disk { files, ledger, segments, tail, spare, observer, blocking: Blocking::default() };
        Ok((disk, position, found.noted))
    }

    /// Reads entries by `blocking` from now on.
    pub(crate) fn with_blocking(self, blocking: Blocking) -> Self {
        Disk { blocking, ..self }
    }

    /// Tells this ledger's files from another's.
    pub(crate) fn ledger(&self) -> LedgerId {
        self.ledger
    }

    /// The thread that keeps the next segment ready. Calls `removed` when the newest segment has lost its name: entries
    /// written to it would be lost with the process.
    pub(crate) fn keep_spare_ready(&self, removed: impl Fn(JournalError)) {
        self.spare.keep_ready(|| {
            let newest = self.segments.read().last_key_value().map(|(_, segment)| segment.header.number);
            let name = newest.map_or(String::new(), segment::name);
            // If it cannot be checked, it may be there.
            if let Ok(false) = self.files.has(&name) {
                removed(JournalError { what: format!("{} was removed", self.files.path(&name).display()) });
            }
        });
    }

    /// Writes a checkpoint of `moment`. `accounts` passes all accounts as of that moment, in order, to its argument,
    /// and returns whether it finished.
    pub(crate) fn write_checkpoint(
        &self,
        moment: &Moment,
        accounts: impl FnOnce(&mut dyn FnMut(&AccountId, Balance, u64) -> io::Result<()>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut writing = Writing::begin(&*self.files, moment, self.ledger, 2 * self.spare.length)?;
        if !accounts(&mut |id, state, changed| writing.push(id, state, changed))? {
            return Ok(());
        }
        let (header, bytes) = writing.finish()?;
        let sequence = moment.sequence;
        self.tell(&Event::CheckpointWritten { sequence, accounts: header.accounts, bytes });
        for (file, error) in checkpoint::remove_old(&*self.files) {
            self.tell(&Event::CheckpointLeft { file, error: error.to_string() });
        }
        Ok(())
    }

    /// Tells the observer. The caller holds no lock.
    pub(crate) fn tell(&self, event: &Event) {
        self.observer.tell(event);
    }

    /// The number of the newest durable batch, and the time of the newest entry. Waits for a batch that is being
    /// written.
    pub(crate) fn newest(&self) -> (u64, u64) {
        let next = self.tail.lock().next;
        (next.batch - 1, next.time)
    }

    fn first_kept(&self) -> u64 {
        self.segments.read().first_key_value().map_or(1, |(first, _)| *first)
    }

    /// The ids of the entries from sequence `from` to `through`: shows `each` an id, its sequence, time and member's
    /// place.
    pub(crate) fn ids(
        &self,
        from: u64,
        through: u64,
        mut each: impl FnMut(&str, u64, u64, u32),
    ) -> Result<(), HistoryError> {
        self.walk(from.max(self.first_kept()), through, |sequence, frame| {
            for (member, place) in frame.members().zip(0_u32..) {
                if let Some(id) = member?.id {
                    each(id, sequence, frame.time, place);
                }
            }
            Ok(false)
        })
    }

    /// What the journal says about `sequence`.
    pub(crate) fn record(&self, sequence: u64) -> Result<Record, HistoryError> {
        let mut found = None;
        let mut read = |at, frame: &Frame<'_>| {
            found = Some(frame.record(at)?);
            Ok(true)
        };
        self.blocking.run(|| self.walk(sequence, sequence, &mut read))?;
        found.ok_or_else(|| HistoryError::Unreadable { what: format!("sequence {sequence} is not in the journal") })
    }
}

impl Sink for Disk {
    fn append(&self, batch: &[Handle<Balance>], noted: &[NoteRecord]) -> Result<(), JournalError> {
        self.write(&mut self.tail.lock(), batch, noted)
    }

    fn read(&self, from: u64, through: u64, limit: usize, bytes: usize) -> Result<Vec<Outcome>, HistoryError> {
        let from = if from == 0 { self.first_kept() } else { from };
        let (mut outcomes, mut taken) = (Vec::new(), 0);
        if limit == 0 {
            return Ok(outcomes);
        }
        let mut read = |sequence, frame: &Frame<'_>| {
            outcomes.push(Outcome::recorded(frame.record(sequence)?, None, false));
            taken += frame.bytes();
            Ok(outcomes.len() == limit || taken >= bytes)
        };
        self.blocking.run(|| self.walk(from, through, &mut read))?;
        Ok(outcomes)
    }

    fn oldest(&self) -> u64 {
        self.first_kept()
    }

    fn blocks(&self) -> bool {
        true
    }

    fn shortage(&self) -> Option<Exhausted> {
        self.spare.shortage()
    }

    fn close(&self) {
        self.spare.close();
    }

    fn finish(&self) -> Result<(), JournalError> {
        self.write_closing(&mut self.tail.lock())
    }
}

/// Removes what an interrupted process left: unfinished files, and segments that never held anything.
fn tidy(files: &dyn Files, unused: &[u64]) -> Result<(), OpenError> {
    let cannot = |name: &str, error| OpenError::Io { path: files.path(name), what: "remove", error };
    for folder in [JOURNAL, CHECKPOINTS] {
        let names = files.list(folder).map_err(|error| cannot(folder, error))?;
        for name in names.iter().filter(|name| name.ends_with(".tmp")) {
            let name = format!("{folder}/{name}");
            files.remove(&name).map_err(|error| cannot(&name, error))?;
        }
    }
    for number in unused {
        let name = segment::name(*number);
        files.remove(&name).map_err(|error| cannot(&name, error))?;
    }
    Ok(())
}

/// Begins a journal where there is none.
fn begin(files: &dyn Files, spare: &Spare) -> Result<(LedgerId, Tail), OpenError> {
    let path = files.path(JOURNAL);
    let no_room = |error: io::Error| match is_out_of_room(&error) {
        true => OpenError::NoRoom { path: path.clone(), needed: 2 * spare.length, error },
        false => OpenError::Io { path: path.clone(), what: "begin a journal in", error },
    };
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| no_room(io::Error::other(error)))?;
    let (ledger, salt) = random.split_at(16);
    let header = segment::Header {
        number: 1,
        batch: 1,
        first: 1,
        ledger: ledger.try_into().unwrap_or_default(),
        salt: salt.try_into().unwrap_or_default(),
        before: [0; 32],
        length: spare.length,
    };
    let file = spare.begin(&segment::name(1), &header.bytes()).map_err(no_room)?;
    let next = Next { batch: 1, sequence: 1, before: header.before, time: 0 };
    let (segment, offset) = (Arc::new(Segment::new(header)), segment::HEADER);
    Ok((header.ledger, Tail { segment, file, offset, next, draft: Draft::new() }))
}
