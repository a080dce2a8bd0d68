//! A checkpoint: all accounts as of one sequence, read block by block.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use super::bytes::{Bytes, Read, Wrong, hex};
use super::frame::State;
use super::problem::Problem;
use super::replay::Replay;
use super::sources::Sources;

const HEADER: usize = 128;
const LARGEST_BLOCK: u32 = 1 << 20;

/// What a checkpoint says about itself.
struct Header {
    sequence: u64,
    time: u64,
    ledger: [u8; 16],
    accounts: u64,
    total: i128,
    section: Option<Section>,
}

/// What a checkpoint of version 2 says about its section of sources.
#[derive(Clone, Copy)]
struct Section {
    batch: u64,
    length: u64,
    last: u64,
    checksum: u32,
}

/// What a checkpoint says about the sources.
#[derive(Debug, Default)]
pub(super) struct Stated {
    /// The batch as of which they are; 0 if nothing had been noted.
    pub(super) batch: u64,
    pub(super) sources: Sources,
}

/// A checkpoint file under way.
struct Reader<'a> {
    path: &'a Path,
    file: BufReader<&'a File>,
    at: usize,
}

/// What the journal says at a checkpoint's sequence.
pub(super) struct Expected<'a> {
    pub(super) sequence: u64,
    /// None: the entry is older than the journal.
    pub(super) time: Option<u64>,
    pub(super) ledger: [u8; 16],
    pub(super) replay: &'a Replay,
}

/// Compares the checkpoint with what the entries up to its sequence make; what it says about the sources.
pub(super) fn compare(path: &Path, file: &File, expected: &Expected<'_>) -> Result<Stated, Problem> {
    let replay = expected.replay;
    let (header, stated) = read(path, file, expected, &mut |id, state, changed| match replay.account(id) {
        None => Err(format!("account {id} is in the checkpoint, and no entry opened it")),
        Some(account) if (account.state, account.changed) == (state, changed) => Ok(()),
        Some(account) => {
            let State { balance, version } = state;
            let replayed = account.state;
            Err(format!(
                "account {id}: balance {balance}, version {version}, changed by {changed}; \
                 replay gives balance {}, version {}, changed by {}",
                replayed.balance, replayed.version, account.changed,
            ))
        }
    })?;
    // All of them were found, and each only once.
    if header.accounts != replay.accounts() {
        let what = format!("{} accounts; replay gives {}", header.accounts, replay.accounts());
        return Err(Problem { sequence: Some(expected.sequence), ..Problem::at(path, 48, what) });
    }
    Ok(stated)
}

/// Takes the checkpoint as the start of the replay. Returns the time of its entry, and what it says about the sources.
pub(super) fn adopt(
    path: &Path,
    file: &File,
    expected: &Expected<'_>,
    replay: &mut Replay,
) -> Result<(u64, Stated), Problem> {
    let (header, stated) = read(path, file, expected, &mut |id, state, changed| {
        replay.adopt(id, state, changed);
        Ok(())
    })?;
    Ok((header.time, stated))
}

/// The number of accounts and the sequence that the checkpoint claims, and what it says about the sources; its accounts
/// are not read.
pub(super) fn says(path: &Path, file: &File) -> Result<(u64, u64, Stated), Problem> {
    let mut reader = Reader { path, file: BufReader::new(file), at: 0 };
    let mut fields = [0; HEADER];
    reader.fill(&mut fields)?;
    match parse(&fields) {
        Ok((header, true)) => Ok((header.accounts, header.sequence, reader.sources(&header)?)),
        Ok((_, false)) => Err(Problem::at(path, 8, "the checksum of the checkpoint's header does not match")),
        Err(wrong) => Err(Problem::at(path, wrong.at, wrong.what)),
    }
}

type EachAccount<'a> = &'a mut dyn FnMut(&str, State, u64) -> Result<(), String>;

/// Checks the checkpoint in itself, and shows `each` its accounts in order.
fn read(path: &Path, file: &File, expected: &Expected<'_>, each: EachAccount<'_>) -> Result<(Header, Stated), Problem> {
    let mut reader = Reader { path, file: BufReader::with_capacity(LARGEST_BLOCK as usize, file), at: 0 };
    let header = reader.header(expected)?;
    let stated = reader.sources(&header)?;
    let (mut accounts, mut total) = (0_u64, 0_i128);
    let mut last = String::new();
    let mut block = Vec::new();
    while accounts < header.accounts {
        let begin = reader.block(&mut block)?;
        let mut bytes = Bytes::new(&block);
        while !bytes.is_empty() {
            let here = bytes;
            let one = account(&mut bytes, header.sequence).and_then(|(id, state, changed)| {
                if accounts == header.accounts {
                    return Err(here.wrong(format!("more accounts than the {accounts} that it says")));
                }
                if id <= last.as_str() {
                    return Err(here.wrong(format!("account {id} does not come after account {last}")));
                }
                each(id, state, changed).map_err(|what| here.wrong(what))?;
                Ok((id, state))
            });
            let (id, state) = one.map_err(|wrong| reader.problem(begin + wrong.at, &header, wrong.what))?;
            last.clear();
            last.push_str(id);
            total += i128::from(state.balance);
            accounts += 1;
        }
    }
    if !reader.done()? {
        return Err(reader.problem(reader.at, &header, "bytes after the last account".to_owned()));
    }
    if total != header.total {
        return Err(reader.problem(
            56,
            &header,
            format!("the total says {}, the balances add up to {total}", header.total),
        ));
    }
    Ok((header, stated))
}

/// One account, with the sequence of its last change.
fn account<'a>(bytes: &mut Bytes<'a>, sequence: u64) -> Read<(&'a str, State, u64)> {
    let here = *bytes;
    let id = bytes.account()?;
    let (balance, version, changed) = (bytes.i64()?, bytes.u64()?, bytes.u64()?);
    if balance < 0 || version == 0 || changed == 0 || changed > sequence {
        let what = format!("account {id}: balance {balance}, version {version}, changed by {changed} cannot be");
        return Err(here.wrong(what));
    }
    Ok((id, State { balance, version }, changed))
}

impl Reader<'_> {
    fn header(&mut self, expected: &Expected<'_>) -> Result<Header, Problem> {
        let path = self.path;
        let mut fields = [0; HEADER];
        self.fill(&mut fields)?;
        let (header, checked) = parse(&fields).map_err(|wrong| Problem::at(path, wrong.at, wrong.what))?;
        let wrong = |at, what: String| Err(Problem::at(path, at, what));
        if !checked {
            return wrong(8, "the checksum of the checkpoint's header does not match".to_owned());
        }
        if header.sequence != expected.sequence {
            let what = format!("the header says sequence {}, the file's name {}", header.sequence, expected.sequence);
            return wrong(16, what);
        }
        if header.ledger != expected.ledger {
            let (ledger, expected) = (hex(&header.ledger), hex(&expected.ledger));
            return wrong(32, format!("the checkpoint is of ledger {ledger}, the journal of {expected}"));
        }
        if let Some(time) = expected.time
            && time != header.time
        {
            return wrong(24, format!("time {} of its entry; the journal says {time}", header.time));
        }
        let end = if header.section.is_some() { 100 } else { 72 };
        if let Some(at) = fields[end..].iter().position(|byte| *byte != 0) {
            return wrong(end + at, "a byte after the header's fields is not zero".to_owned());
        }
        Ok(header)
    }

    /// Reads the section about sources, if there is one; it comes next.
    fn sources(&mut self, header: &Header) -> Result<Stated, Problem> {
        let Some(Section { batch, length, last, checksum }) = header.section else { return Ok(Stated::default()) };
        let begin = self.at;
        let mut section = Vec::new();
        let read = (&mut self.file).take(length).read_to_end(&mut section);
        let read = read.map_err(|error| Problem::unreadable(self.path, &error))?;
        if (read as u64) < length {
            return Err(self.problem(begin, header, format!("a section of {length} bytes past the end of the file")));
        }
        if crc32c::crc32c(&section) != checksum {
            return Err(self.problem(96, header, "the checksum of the sources does not match".to_owned()));
        }
        self.at += read;
        let sources = Sources::of_checkpoint(&section, last);
        let sources = sources.map_err(|Wrong { at, what }| self.problem(begin + at, header, what))?;
        if batch == 0 || sources == Sources::default() {
            return Err(self.problem(72, header, format!("sources as of batch {batch} that say nothing")));
        }
        Ok(Stated { batch, sources })
    }

    /// Reads the next block. Returns the offset of its body in the file.
    fn block(&mut self, block: &mut Vec<u8>) -> Result<usize, Problem> {
        let begin = self.at;
        let mut head = [0; 8];
        self.fill(&mut head)?;
        let [a, b, c, d, checksum @ ..] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        if length == 0 || length > LARGEST_BLOCK {
            return Err(Problem::at(self.path, begin, format!("a block of {length} bytes")));
        }
        block.clear();
        let read = (&mut self.file).take(u64::from(length)).read_to_end(block);
        let read = read.map_err(|error| Problem::unreadable(self.path, &error))?;
        if read < length as usize {
            return Err(Problem::at(self.path, begin, "a block that reaches past the end of the file"));
        }
        if crc32c::crc32c(block) != u32::from_le_bytes(checksum) {
            return Err(Problem::at(self.path, begin + 4, "the checksum of the block does not match"));
        }
        self.at += read;
        Ok(begin + head.len())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Problem> {
        let cut = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Problem::at(self.path, self.at, "the file ends here"),
            _ => Problem::unreadable(self.path, &error),
        };
        self.file.read_exact(bytes).map_err(cut)?;
        self.at += bytes.len();
        Ok(())
    }

    fn done(&mut self) -> Result<bool, Problem> {
        let rest = self.file.read(&mut [0]).map_err(|error| Problem::unreadable(self.path, &error))?;
        Ok(rest == 0)
    }

    fn problem(&self, at: usize, header: &Header, what: String) -> Problem {
        Problem { sequence: Some(header.sequence), ..Problem::at(self.path, at, what) }
    }
}

/// The header, and whether its checksum matches.
fn parse(fields: &[u8; HEADER]) -> Result<(Header, bool), Wrong> {
    let mut bytes = Bytes::new(fields);
    if &bytes.array::<8>()? != b"EQPCHKP1" {
        return Err(Wrong { at: 0, what: "this is not a checkpoint".to_owned() });
    }
    let checked = bytes.u32()? == crc32c::crc32c(&fields[12..]);
    let version = bytes.u32()?;
    if checked && version != 1 && version != 2 {
        return Err(Wrong { at: 12, what: format!("format version {version}; this program reads versions 1 and 2") });
    }
    let (sequence, time, ledger) = (bytes.u64()?, bytes.u64()?, bytes.array()?);
    let (accounts, total) = (bytes.u64()?, bytes.i128()?);
    let section = Section { batch: bytes.u64()?, length: bytes.u64()?, last: bytes.u64()?, checksum: bytes.u32()? };
    let section = (version == 2).then_some(section);
    Ok((Header { sequence, time, ledger, accounts, total, section }, checked))
}
