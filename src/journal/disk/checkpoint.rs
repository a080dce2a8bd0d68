//! Checkpoints: every account at one sequence, so that a start need not read the whole journal.

use std::io;

use super::bytes::{Bytes, put_text};
use super::files::{CHECKPOINTS, File, Files, read_full, write_all};
use super::segment::{COUNTS, LedgerId};
use crate::account::{AccountId, Balance};

const MAGIC: [u8; 8] = *b"EQPCHKP1";
const VERSION: u32 = 1;
const HEADER: usize = 128;
/// A block is closed when it is that long; with its last account it stays under 1 MiB.
const BLOCK: usize = 256 * 1024;
const LONGEST_BLOCK: usize = 1 << 20;
/// How many are kept.
const KEPT: usize = 2;

/// One account in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) id: AccountId,
    pub(crate) state: Balance,
    /// The sequence of its last change.
    pub(crate) sequence: u64,
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
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let mut checked = VERSION.to_le_bytes().to_vec();
        checked.extend_from_slice(&self.sequence.to_le_bytes());
        checked.extend_from_slice(&self.time.to_le_bytes());
        checked.extend_from_slice(&self.ledger);
        checked.extend_from_slice(&self.accounts.to_le_bytes());
        checked.extend_from_slice(&self.total.to_le_bytes());
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
        if header.u32() != Some(VERSION) {
            return Err("it has another format version");
        }
        let read = |mut header: Bytes<'_>| {
            Some(Header {
                sequence: header.u64()?,
                time: header.u64()?,
                ledger: header.array()?,
                accounts: header.u64()?,
                total: header.i128()?,
            })
        };
        let header = read(header).ok_or("its header is too short")?;
        if COUNTS.contains(&header.sequence) { Ok(header) } else { Err("its sequence is impossible") }
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

/// A checkpoint that is being written. Abandoned, it leaves nothing.
pub(super) struct Writing<'a> {
    files: &'a dyn Files,
    unfinished: String,
    file: Box<dyn File>,
    header: Header,
    block: Vec<u8>,
    offset: u64,
    finished: bool,
}

impl<'a> Writing<'a> {
    pub(super) fn begin(files: &'a dyn Files, sequence: u64, time: u64, ledger: LedgerId) -> io::Result<Self> {
        let unfinished = format!("{CHECKPOINTS}/{sequence:020}.tmp");
        let file = files.create(&unfinished)?;
        let header = Header { sequence, time, ledger, accounts: 0, total: 0 };
        Ok(Writing { files, unfinished, file, header, block: vec![0; 8], offset: HEADER as u64, finished: false })
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
        write_all(&*self.file, &self.block, self.offset)?;
        self.offset += self.block.len() as u64;
        self.block.truncate(8);
        Ok(())
    }

    /// Makes it durable under its name, reads it back, and lets the ones before the newest two go. Returns what it says, and how
    /// long it is.
    pub(super) fn finish(mut self) -> io::Result<(Header, u64)> {
        if self.block.len() > 8 {
            self.write_block()?;
        }
        write_all(&*self.file, &self.header.bytes(), 0)?;
        self.file.sync()?;
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, format!("read back: {what}"));
        if read(&*self.file, |_| {}).map_err(damaged)? != self.header {
            return Err(damaged("another header".to_owned()));
        }
        self.files.rename(&self.unfinished, &name(self.header.sequence))?;
        self.finished = true;
        self.files.sync_folder(CHECKPOINTS)?;
        for old in all(self.files)?.into_iter().skip(KEPT) {
            self.files.remove(&name(old))?;
        }
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

/// Reads a checkpoint through, and shows `each` its accounts; what is wrong with it otherwise.
pub(super) fn read(file: &dyn File, mut each: impl FnMut(Recorded)) -> Result<Header, String> {
    let mut header = [0; HEADER];
    let mut offset = fill(file, &mut header, 0)?;
    let header = Header::read(&header)?;
    let (mut accounts, mut total) = (0, 0_i128);
    let mut last = String::new();
    let mut block = Vec::new();
    while accounts < header.accounts {
        let at = offset;
        let wrong = |what: &str| format!("{what} in the block at offset {at}");
        let mut prefix = [0; 8];
        offset = fill(file, &mut prefix, offset)?;
        let mut prefix = Bytes(&prefix);
        let (length, checksum) = (prefix.u32().unwrap_or(0) as usize, prefix.u32());
        if length == 0 || length > LONGEST_BLOCK {
            return Err(wrong("an impossible length"));
        }
        block.resize(length, 0);
        offset = fill(file, &mut block, offset)?;
        if checksum != Some(crc32c::crc32c(&block)) {
            return Err(wrong("a wrong checksum"));
        }
        let mut bytes = Bytes(&block);
        while !bytes.0.is_empty() {
            let account = account(&mut bytes).ok_or_else(|| wrong("a malformed account"))?;
            let id = account.id.as_str();
            if last.as_str() >= id {
                return Err(wrong("accounts out of order"));
            }
            last.clear();
            last.push_str(id);
            accounts += 1;
            total += i128::from(account.state.amount);
            each(account);
        }
    }
    let length = file.length().map_err(|error| error.to_string())?;
    if (accounts, total, offset) != (header.accounts, header.total, length) {
        return Err(format!("it holds {accounts} accounts with {total} in {offset} bytes, not as its header says"));
    }
    Ok(header)
}

fn account(bytes: &mut Bytes<'_>) -> Option<Recorded> {
    let id = AccountId::new(bytes.text()?).ok()?;
    Some(Recorded { id, state: Balance { amount: bytes.i64()?, version: bytes.u64()? }, sequence: bytes.u64()? })
}

fn fill(file: &dyn File, into: &mut [u8], offset: u64) -> Result<u64, String> {
    match read_full(file, into, offset) {
        Ok(read) if read == into.len() => Ok(offset + read as u64),
        Ok(_) => Err(format!("it ends within what begins at offset {offset}")),
        Err(error) => Err(format!("cannot read at offset {offset}: {error}")),
    }
}
