//! Checkpoints: every account at one sequence, so that a start need not read the whole journal.

use std::io;
use std::path::PathBuf;

use super::batch;
use super::bytes::{Bytes, put_text};
use super::files::{CHECKPOINTS, File, Files, read_full, write_all};
use super::section;
use super::segment::{self, COUNTS, LedgerId};
use crate::account::{AccountId, Balance};
use crate::format::Format;
use crate::journal::Noted;

const MAGIC: [u8; 8] = *b"EQPCHKP1";
/// Without notes.
const VERSION: u32 = 1;
/// With a section of notes.
const NOTED_VERSION: u32 = 2;
pub(super) const FORMAT: Format = Format { kind: *b"EQPCHKP", version: NOTED_VERSION };
const HEADER: usize = 128;
/// Where in the header the sequence and the ledger's id stand.
pub(super) const SEQUENCE_AT: u64 = 16;
pub(super) const LEDGER_AT: u64 = 32;
pub(super) const BATCH_AT: u64 = 72;
/// A block is closed when it is that long; with its last account it stays under 1 MiB.
const BLOCK: usize = 256 * 1024;
const LONGEST_BLOCK: usize = 1 << 20;
/// How many are kept.
const KEPT: usize = 2;

/// What a checkpoint is of, beside the accounts.
pub(crate) struct Moment {
    /// Every entry up to it is in there.
    pub(crate) sequence: u64,
    /// The time of that entry, nanoseconds since the Unix epoch.
    pub(crate) time: u64,
    /// The number of the newest batch; the checkpoint contains the notes up to it.
    pub(crate) batch: u64,
    pub(crate) noted: Noted,
}

/// What a checkpoint says about its section of notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// What was noted up to this batch is in there.
    pub(super) batch: u64,
    length: u64,
    /// The highest number of a parked record.
    last: u64,
    checksum: u32,
}

/// What a checkpoint says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Every entry up to it is in there.
    pub(super) sequence: u64,
    /// The time of that entry, nanoseconds since the Unix epoch.
    pub(super) time: u64,
    pub(super) ledger: LedgerId,
    pub(super) accounts: u64,
    /// The sum of all balances.
    pub(super) total: i128,
    /// None: nothing had been noted.
    pub(super) notes: Option<Section>,
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let version = if self.notes.is_some() { NOTED_VERSION } else { VERSION };
        let mut checked = version.to_le_bytes().to_vec();
        checked.extend_from_slice(&self.sequence.to_le_bytes());
        checked.extend_from_slice(&self.time.to_le_bytes());
        checked.extend_from_slice(&self.ledger);
        checked.extend_from_slice(&self.accounts.to_le_bytes());
        checked.extend_from_slice(&self.total.to_le_bytes());
        if let Some(Section { batch, length, last, checksum }) = self.notes {
            [batch, length, last].iter().for_each(|number| checked.extend_from_slice(&number.to_le_bytes()));
            checked.extend_from_slice(&checksum.to_le_bytes());
        }
        checked.resize(HEADER - 12, 0);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&checked).to_le_bytes());
        bytes.extend_from_slice(&checked);
        bytes
    }

    fn read(bytes: &[u8; HEADER]) -> Result<Self, &'static str> {
        let mut header = Bytes(bytes);
        if header.array() != Some(MAGIC) {
            return Err("it does not begin like a checkpoint");
        }
        if header.u32() != Some(crc32c::crc32c(&bytes[12..])) {
            return Err("its header's checksum is wrong");
        }
        let noted = match header.u32() {
            Some(VERSION) => false,
            Some(NOTED_VERSION) => true,
            _ => return Err("it has another format version"),
        };
        let section = |header: &mut Bytes<'_>| {
            let (batch, length, last) = (header.u64()?, header.u64()?, header.u64()?);
            Some(Section { batch, length, last, checksum: header.u32()? })
        };
        let read = |mut header: Bytes<'_>| {
            Some(Header {
                sequence: header.u64()?,
                time: header.u64()?,
                ledger: header.array()?,
                accounts: header.u64()?,
                total: header.i128()?,
                notes: if noted { Some(section(&mut header)?) } else { None },
            })
        };
        let header = read(header).ok_or("its header is too short")?;
        match header.notes {
            Some(notes) if !COUNTS.contains(&notes.batch) => Err("its batch is impossible"),
            _ if !COUNTS.contains(&header.sequence) => Err("its sequence is impossible"),
            _ => Ok(header),
        }
    }

    /// What the checkpoint contains, so that it need not be read from the journal.
    pub(super) fn covered(&self) -> Covered {
        Covered { sequence: self.sequence, batch: self.notes.map(|notes| notes.batch) }
    }

    /// Where its accounts begin.
    fn accounts_at(&self) -> u64 {
        (HEADER as u64).saturating_add(self.notes.map_or(0, |notes| notes.length))
    }
}

/// What a checkpoint contains, so that it need not be read from the journal.
#[derive(Clone, Copy)]
pub(super) struct Covered {
    /// Entries up to this sequence.
    pub(super) sequence: u64,
    /// Notes of batches up to this one; None if nothing had been noted when it was written.
    pub(super) batch: Option<u64>,
}

impl Covered {
    /// What there is without a checkpoint.
    pub(super) const NOTHING: Covered = Covered { sequence: 0, batch: None };

    /// Whether the segment with `header` and later ones contain everything after the checkpoint.
    pub(super) fn is_continued_from(&self, header: &segment::Header) -> bool {
        match self.batch {
            Some(batch) => header.batch <= batch + 1 && header.first <= self.sequence + 1,
            // The batches after its last entry may hold only notes; without a batch number the first of them is
            // unknown.
            None => header.first <= self.sequence || header.number == 1,
        }
    }

    /// Whether no gap lies between the checkpoint and a journal whose first segment has `header`.
    pub(super) fn joins(&self, header: &segment::Header) -> bool {
        header.first <= self.sequence + 1 && self.batch.is_none_or(|batch| header.batch <= batch + 1)
    }

    /// Whether it contains the notes of the batch with `header`.
    pub(super) fn notes_of(&self, header: &batch::Header) -> bool {
        self.batch.map_or(header.first <= self.sequence, |batch| header.number <= batch)
    }
}

/// The name of the checkpoint at `sequence`.
pub(super) fn name(sequence: u64) -> String {
    format!("{CHECKPOINTS}/{sequence:020}.checkpoint")
}

/// The sequences of the checkpoints there are, the newest first.
pub(super) fn all(files: &dyn Files) -> io::Result<Vec<u64>> {
    let sequence = |name: String| name.strip_suffix(".checkpoint").filter(|digits| digits.len() == 20)?.parse().ok();
    let mut sequences: Vec<u64> = files.list(CHECKPOINTS)?.into_iter().filter_map(sequence).collect();
    sequences.sort_unstable_by(|a, b| b.cmp(a));
    Ok(sequences)
}

/// Removes the ones before the newest two; what could not be removed, and why.
pub(super) fn remove_old(files: &dyn Files) -> Vec<(PathBuf, io::Error)> {
    let old = match all(files) {
        Ok(sequences) => sequences.into_iter().skip(KEPT).map(name),
        Err(error) => return vec![(files.path(CHECKPOINTS), error)],
    };
    old.filter_map(|name| Some((files.path(&name), files.remove(&name).err()?))).collect()
}

/// A checkpoint that is being written. Abandoned, it leaves nothing.
pub(super) struct Writing<'a> {
    files: &'a dyn Files,
    unfinished: String,
    file: Box<dyn File>,
    header: Header,
    block: Vec<u8>,
    offset: u64,
    reserve: u64,
    finished: bool,
}

impl<'a> Writing<'a> {
    /// Begins the checkpoint of `moment`. Fails if it would leave less room than `reserve`, which segments need
    /// meanwhile.
    pub(super) fn begin(files: &'a dyn Files, moment: &Moment, ledger: LedgerId, reserve: u64) -> io::Result<Self> {
        let Moment { sequence, time, batch, ref noted } = *moment;
        let unfinished = format!("{CHECKPOINTS}/{sequence:020}.tmp");
        let file = files.create(&unfinished)?;
        let notes = section::encode_all(noted);
        let section = Section { batch, length: notes.len() as u64, last: noted.last, checksum: crc32c::crc32c(&notes) };
        let notes_of = (!noted.is_blank()).then_some(section);
        let header = Header { sequence, time, ledger, accounts: 0, total: 0, notes: notes_of };
        let offset = header.accounts_at();
        // Reserved at once: a growing Vec leaves freed blocks that the allocator cannot use again.
        let mut block = Vec::with_capacity(LONGEST_BLOCK);
        block.resize(8, 0);
        let writing = Writing { files, unfinished, file, header, block, offset, reserve, finished: false };
        writing.spare_room(notes.len())?;
        write_all(&*writing.file, &notes, HEADER as u64)?;
        Ok(writing)
    }

    /// Adds an account; they come in ascending order of their ids.
    pub(super) fn push(&mut self, id: &AccountId, state: Balance, sequence: u64) -> io::Result<()> {
        put_text(id.as_str(), &mut self.block);
        self.block.extend_from_slice(&state.amount.to_le_bytes());
        self.block.extend_from_slice(&state.version.to_le_bytes());
        self.block.extend_from_slice(&sequence.to_le_bytes());
        self.header.accounts += 1;
        self.header.total += i128::from(state.amount);
        if self.block.len() >= BLOCK { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> io::Result<()> {
        let body = &self.block[8..];
        let (length, checksum) = (body.len() as u32, crc32c::crc32c(body));
        self.block[..4].copy_from_slice(&length.to_le_bytes());
        self.block[4..8].copy_from_slice(&checksum.to_le_bytes());
        self.spare_room(self.block.len())?;
        write_all(&*self.file, &self.block, self.offset)?;
        self.offset += self.block.len() as u64;
        self.block.truncate(8);
        Ok(())
    }

    /// Fails if writing `more` bytes would use up the reserve.
    fn spare_room(&self, more: usize) -> io::Result<()> {
        // If the free space is unknown, the write itself will fail.
        let (free, needed) = (self.files.free(CHECKPOINTS).unwrap_or(u64::MAX), self.reserve + more as u64);
        if free < needed {
            let what = format!("{free} bytes are free, and the journal is to keep {}", self.reserve);
            return Err(io::Error::new(io::ErrorKind::StorageFull, what));
        }
        Ok(())
    }

    /// Makes it durable under its name, and reads it back. Returns what it says, and how long it is.
    pub(super) fn finish(mut self) -> io::Result<(Header, u64)> {
        if self.block.len() > 8 {
            self.write_block()?;
        }
        write_all(&*self.file, &self.header.bytes(), 0)?;
        self.file.sync()?;
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, format!("read back: {what}"));
        if read(&*self.file).map_err(damaged)? != self.header {
            return Err(damaged("another header".to_owned()));
        }
        self.files.rename(&self.unfinished, &name(self.header.sequence))?;
        self.finished = true;
        self.files.sync_folder(CHECKPOINTS)?;
        Ok((self.header, self.offset))
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Left over, it is removed at the next start.
            let _ = self.files.remove(&self.unfinished);
        }
    }
}

/// Reads and checks a whole checkpoint, or returns what is wrong with it.
pub(super) fn read(file: &dyn File) -> Result<Header, String> {
    let (mut blocks, _) = Blocks::open(file)?;
    let mut accounts = Accounts::of(blocks.header);
    let mut block = Vec::with_capacity(LONGEST_BLOCK);
    while let Some(at) = blocks.next(&mut block)? {
        accounts.take(&block, at, |_, _, _| {})?;
    }
    accounts.finish()
}

/// The blocks of a checkpoint, one after the other.
pub(super) struct Blocks<'a> {
    file: &'a dyn File,
    pub(super) header: Header,
    offset: u64,
    length: u64,
}

impl<'a> Blocks<'a> {
    /// Of a checkpoint with a good header and notes, and these.
    pub(super) fn open(file: &'a dyn File) -> Result<(Self, Noted), String> {
        let mut header = [0; HEADER];
        fill(file, &mut header, 0)?;
        let header = Header::read(&header)?;
        let length = file.length().map_err(|error| error.to_string())?;
        let noted = noted(file, &header, length)?;
        Ok((Blocks { file, header, offset: header.accounts_at(), length }, noted))
    }

    /// Reads the next good block into `block`, and says where it begins; None where the file ends.
    pub(super) fn next(&mut self, block: &mut Vec<u8>) -> Result<Option<u64>, String> {
        let at = self.offset;
        if at == self.length {
            return Ok(None);
        }
        let mut prefix = [0; 8];
        self.offset = fill(self.file, &mut prefix, at)?;
        let mut prefix = Bytes(&prefix);
        let (length, checksum) = (prefix.u32().unwrap_or(0) as usize, prefix.u32());
        if length == 0 || length > LONGEST_BLOCK {
            return Err(wrong("an impossible length", at));
        }
        block.resize(length, 0);
        self.offset = fill(self.file, block, self.offset)?;
        if checksum != Some(crc32c::crc32c(block)) {
            return Err(wrong("a wrong checksum", at));
        }
        Ok(Some(at))
    }
}

fn wrong(what: &str, at: u64) -> String {
    format!("{what} in the block at offset {at}")
}

/// What was in the blocks so far.
pub(super) struct Accounts {
    header: Header,
    count: u64,
    total: i128,
    /// The greatest id.
    last: String,
}

impl Accounts {
    /// Of a checkpoint with `header`.
    pub(super) fn of(header: Header) -> Self {
        Accounts { header, count: 0, total: 0, last: String::new() }
    }

    /// Shows `each` the accounts in the block at offset `at`: id, state, and the sequence of the last change.
    pub(super) fn take(
        &mut self,
        block: &[u8],
        at: u64,
        mut each: impl FnMut(AccountId, Balance, u64),
    ) -> Result<(), String> {
        let before = std::mem::take(&mut self.last);
        let mut last = before.as_str();
        let mut bytes = Bytes(block);
        while !bytes.0.is_empty() {
            let (text, state, sequence) = account(&mut bytes).ok_or_else(|| wrong("a malformed account", at))?;
            let id = AccountId::new(text).map_err(|_| wrong("a malformed account", at))?;
            if last >= text {
                return Err(wrong("accounts out of order", at));
            }
            if !(1..=self.header.sequence).contains(&sequence) {
                return Err(wrong("an account of a sequence that cannot be", at));
            }
            last = text;
            self.count += 1;
            self.total += i128::from(state.amount);
            each(id, state, sequence);
        }
        self.last = last.to_owned();
        Ok(())
    }

    /// Returns the checkpoint's header if the accounts match it.
    pub(super) fn finish(self) -> Result<Header, String> {
        let Accounts { header, count, total, .. } = self;
        if (count, total) != (header.accounts, header.total) {
            return Err(format!("it holds {count} accounts with {total}, not as its header says"));
        }
        Ok(header)
    }
}

/// The notes in a checkpoint of `length` bytes with `header`, or what is wrong with them.
fn noted(file: &dyn File, header: &Header, length: u64) -> Result<Noted, String> {
    let Some(notes) = header.notes else { return Ok(Noted::default()) };
    if header.accounts_at() > length {
        return Err(format!("it ends within its {} bytes of notes", notes.length));
    }
    // At most the file's length.
    let mut bytes = vec![0; notes.length as usize];
    fill(file, &mut bytes, HEADER as u64)?;
    if crc32c::crc32c(&bytes) != notes.checksum {
        return Err("a wrong checksum of its notes".to_owned());
    }
    section::decode_all(&bytes, notes.last).map_err(|what| format!("{what} in its notes"))
}

fn account<'a>(bytes: &mut Bytes<'a>) -> Option<(&'a str, Balance, u64)> {
    Some((bytes.text()?, Balance { amount: bytes.i64()?, version: bytes.u64()? }, bytes.u64()?))
}

fn fill(file: &dyn File, into: &mut [u8], offset: u64) -> Result<u64, String> {
    match read_full(file, into, offset) {
        Ok(read) if read == into.len() => Ok(offset + read as u64),
        Ok(_) => Err(format!("it ends within what begins at offset {offset}")),
        Err(error) => Err(format!("cannot read at offset {offset}: {error}")),
    }
}
