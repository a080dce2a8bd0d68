//! Writes data directories of format 1, right ones and wrong ones.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use equipoise::verify::{Options, Problem, Report, verify};

pub const LEDGER: [u8; 16] = *b"the one in tests";
/// Small, so that tests are quick.
pub const SEGMENT: usize = 4096 + 2048;
pub const ALREADY_EXISTS: u8 = 1;
pub const NOT_FOUND: u8 = 2;
pub const INSUFFICIENT: u8 = 3;
pub const OUT_OF_RANGE: u8 = 4;

/// Balance and version.
pub type State = (i64, u64);

/// An entry as it is to be written, right or wrong.
#[derive(Clone, Default)]
pub struct Entry {
    pub time: u64,
    /// Member, reason, leg, current.
    pub refusal: Option<(u32, u8, u16, i64)>,
    pub as_of: Option<u64>,
    pub members: Vec<Vec<u8>>,
}

impl Entry {
    pub fn of(members: &[Vec<u8>]) -> Self {
        Entry { members: members.to_vec(), ..Entry::default() }
    }

    pub fn refused(members: &[Vec<u8>], member: u32, reason: u8, leg: u16, current: i64) -> Self {
        Entry { refusal: Some((member, reason, leg, current)), ..Entry::of(members) }
    }

    pub fn unknown_as_of(self, sequence: u64) -> Self {
        Entry { as_of: Some(sequence), ..self }
    }

    pub fn at(self, time: u64) -> Self {
        Entry { time, ..self }
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.time.to_le_bytes().to_vec();
        frame.push(u8::from(self.refusal.is_some()) | u8::from(self.as_of.is_some()) << 1);
        frame.extend((self.members.len() as u16).to_le_bytes());
        if let Some((member, reason, leg, current)) = self.refusal {
            frame.extend(member.to_le_bytes());
            frame.push(reason);
            frame.extend(leg.to_le_bytes());
            frame.extend(current.to_le_bytes());
        }
        frame.extend(self.as_of.iter().flat_map(|as_of| as_of.to_le_bytes()));
        frame.extend(self.members.concat());
        [&(frame.len() as u32).to_le_bytes()[..], &frame].concat()
    }
}

fn text(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn state((balance, version): State) -> Vec<u8> {
    [balance.to_le_bytes(), version.to_le_bytes()].concat()
}

pub fn create(id: &str, account: &str, initial: i64, after: State) -> Vec<u8> {
    [&[1], &text(id)[..], &text(account), &initial.to_le_bytes(), &state(after)].concat()
}

pub fn update(id: &str, account: &str, delta: i64, after: State) -> Vec<u8> {
    [&[2], &text(id)[..], &text(account), &delta.to_le_bytes(), &state(after)].concat()
}

pub fn transfer(id: &str, [from, to]: [&str; 2], amount: i64, after: [State; 2]) -> Vec<u8> {
    let [from_after, to_after] = after.map(state);
    [&[3], &text(id)[..], &text(from), &text(to), &amount.to_le_bytes(), &from_after, &to_after].concat()
}

pub fn post(id: &str, legs: &[(&str, i64, State)]) -> Vec<u8> {
    let mut member = [&[4], &text(id)[..], &(legs.len() as u16).to_le_bytes()].concat();
    for (account, delta, after) in legs {
        member.extend([&text(account)[..], &delta.to_le_bytes(), &state(*after)].concat());
    }
    member
}

pub fn segment_header(number: u64, batch: u64, sequence: u64, hash: [u8; 32], length: usize) -> Vec<u8> {
    let mut header = vec![0; 4096];
    header[..8].copy_from_slice(b"EQPSEGM1");
    header[12..16].copy_from_slice(&1_u32.to_le_bytes());
    header[16..24].copy_from_slice(&number.to_le_bytes());
    header[24..32].copy_from_slice(&batch.to_le_bytes());
    header[32..40].copy_from_slice(&sequence.to_le_bytes());
    header[40..56].copy_from_slice(&LEDGER);
    header[56..72].copy_from_slice(&salt(number));
    header[72..104].copy_from_slice(&hash);
    header[104..112].copy_from_slice(&(length as u64).to_le_bytes());
    sign_header(&mut header);
    header
}

pub fn sign_header(header: &mut [u8]) {
    let sum = crc32c::crc32c(&header[12..128]);
    header[8..12].copy_from_slice(&sum.to_le_bytes());
}

pub fn salt(segment: u64) -> [u8; 16] {
    (u128::from(segment) * 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef).to_le_bytes()
}

/// What is written so far, and the names of its files.
pub struct Writer {
    pub directory: PathBuf,
    pub segments: BTreeMap<u64, Vec<u8>>,
    pub checkpoints: BTreeMap<u64, Vec<u8>>,
    /// Where each batch begins: its segment, and its offset.
    pub batches: Vec<(u64, usize)>,
    pub batch: u64,
    pub sequence: u64,
    pub time: u64,
    pub hash: [u8; 32],
    pub segment_bytes: usize,
}

impl Writer {
    /// A ledger without a batch, in a folder of its own.
    pub fn new(name: &str) -> Self {
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("verify-{}-{name}", std::process::id()));
        let mut writer = Writer {
            directory,
            segments: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            batches: Vec::new(),
            batch: 1,
            sequence: 1,
            time: 1_700_000_000_000_000_000,
            hash: [0; 32],
            segment_bytes: SEGMENT,
        };
        writer.segment();
        writer
    }

    /// Begins the next segment.
    pub fn segment(&mut self) {
        let number = self.segments.last_key_value().map_or(1, |(number, _)| number + 1);
        self.segments.insert(number, segment_header(number, self.batch, self.sequence, self.hash, self.segment_bytes));
    }

    /// Adds a batch of `entries`; those without a time get the next one.
    pub fn batch(&mut self, entries: &[Entry]) -> &mut Self {
        let mut body = Vec::new();
        for entry in entries {
            self.time = if entry.time == 0 { self.time + 1 } else { entry.time };
            body.extend(entry.clone().at(self.time).frame());
        }
        self.raw(entries.len() as u32, 0, &body)
    }

    pub fn closing(&mut self) -> &mut Self {
        self.time += 1;
        self.raw(0, 1, &[])
    }

    /// Adds a batch with whatever `body`; everything around it is right.
    pub fn raw(&mut self, count: u32, flags: u32, body: &[u8]) -> &mut Self {
        self.raw_with(count, flags, &[], body)
    }

    /// Adds a batch with a `section` of notes, and `entries` as in [`Writer::batch`].
    pub fn noted(&mut self, section: &[u8], entries: &[Entry]) -> &mut Self {
        let mut body = Vec::new();
        for entry in entries {
            self.time += 1;
            body.extend(entry.clone().at(self.time).frame());
        }
        self.raw_with(entries.len() as u32, 0, section, &body)
    }

    fn raw_with(&mut self, count: u32, flags: u32, section: &[u8], frames: &[u8]) -> &mut Self {
        let body = &[section, frames].concat()[..];
        let mut header = vec![0; 80];
        header[..4].copy_from_slice(b"EQBT");
        header[8..16].copy_from_slice(&self.batch.to_le_bytes());
        header[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        header[24..28].copy_from_slice(&count.to_le_bytes());
        header[28..32].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[32..36].copy_from_slice(&(section.len() as u32).to_le_bytes());
        header[36..40].copy_from_slice(&flags.to_le_bytes());
        header[40..48].copy_from_slice(&self.time.to_le_bytes());
        let hash = blake3::hash(&[&self.hash, &header[8..48], body].concat());
        header[48..80].copy_from_slice(hash.as_bytes());
        let mut batch = [&header, body].concat();
        let (number, segment) = self.segments.iter_mut().next_back().expect("a segment");
        sign_batch(&mut batch, *number);
        self.batches.push((*number, segment.len()));
        segment.extend(batch);
        segment.resize(segment.len().next_multiple_of(8), 0);
        self.hash = *hash.as_bytes();
        self.batch += 1;
        self.sequence += u64::from(count);
        self
    }

    /// Adds a checkpoint of `accounts`: id, balance, version, last change. `blocks` are ends of blocks.
    pub fn checkpoint(&mut self, sequence: u64, time: u64, accounts: &[(&str, i64, u64, u64)]) {
        let half = accounts.len().div_ceil(2).max(1);
        let blocks: Vec<_> = accounts.chunks(half).map(|half| half.iter().map(account).collect()).collect();
        let total = accounts.iter().map(|account| i128::from(account.1)).sum();
        self.checkpoints.insert(sequence, checkpoint(sequence, time, accounts.len() as u64, total, &blocks));
    }

    /// The files, segments filled up with zeros.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let segments = self.segments.iter().map(|(number, bytes)| {
            let mut bytes = bytes.clone();
            bytes.resize(bytes.len().max(self.segment_bytes), 0);
            (self.directory.join(format!("journal/{number:010}.segment")), bytes)
        });
        let checkpoints = self.checkpoints.iter().map(|(sequence, bytes)| {
            (self.directory.join(format!("checkpoints/{sequence:020}.checkpoint")), bytes.clone())
        });
        segments.chain(checkpoints).collect()
    }

    /// Writes everything anew.
    pub fn write(&self) -> &Path {
        let _ = fs::remove_dir_all(&self.directory);
        for folder in ["journal", "checkpoints"] {
            fs::create_dir_all(self.directory.join(folder)).expect("a folder");
        }
        fs::write(self.directory.join("LOCK"), "4711").expect("a file");
        fs::write(self.directory.join("journal/spare"), [0; 100]).expect("a file");
        for (path, bytes) in self.files() {
            fs::write(path, bytes).expect("a file");
        }
        &self.directory
    }

    pub fn verify(&self) -> Result<Report, Problem> {
        check(self.write())
    }

    /// What is wrong, as it is told to people; fails the test when nothing is.
    pub fn wrong(&self) -> String {
        self.verify().expect_err("something is wrong").to_string()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub fn check(directory: &Path) -> Result<Report, Problem> {
    verify(directory, &Options::default(), &mut |_, _| {})
}

/// Changes the content of a file. Not by emptying it first: some file systems take that for a reason to wait for the
/// disk.
pub fn put(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("a file");
    file.write_all_at(bytes, 0).expect("written");
    file.set_len(bytes.len() as u64).expect("cut");
}

pub fn sign_batch(batch: &mut [u8], segment: u64) {
    let length = u32::from_le_bytes(batch[28..32].try_into().expect("four bytes")) as usize;
    let sum = crc32c::crc32c(&[&salt(segment), &batch[8..80 + length]].concat());
    batch[4..8].copy_from_slice(&sum.to_le_bytes());
}

pub fn account((id, balance, version, changed): &(&str, i64, u64, u64)) -> Vec<u8> {
    [&text(id)[..], &state((*balance, *version)), &changed.to_le_bytes()].concat()
}

pub fn checkpoint(sequence: u64, time: u64, accounts: u64, total: i128, blocks: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut file = vec![0; 128];
    file[..8].copy_from_slice(b"EQPCHKP1");
    file[12..16].copy_from_slice(&1_u32.to_le_bytes());
    file[16..24].copy_from_slice(&sequence.to_le_bytes());
    file[24..32].copy_from_slice(&time.to_le_bytes());
    file[32..48].copy_from_slice(&LEDGER);
    file[48..56].copy_from_slice(&accounts.to_le_bytes());
    file[56..72].copy_from_slice(&total.to_le_bytes());
    sign_header(&mut file);
    for block in blocks {
        let body = block.concat();
        file.extend((body.len() as u32).to_le_bytes());
        file.extend(crc32c::crc32c(&body).to_le_bytes());
        file.extend(body);
    }
    file
}

/// Makes `checkpoint` one of version 2: as of `batch`, with a `section` of notes, and the highest number `last`.
pub fn with_section(checkpoint: &[u8], batch: u64, section: &[u8], last: u64) -> Vec<u8> {
    let (header, accounts) = checkpoint.split_at(128);
    let mut header = header.to_vec();
    header[12..16].copy_from_slice(&2_u32.to_le_bytes());
    header[72..80].copy_from_slice(&batch.to_le_bytes());
    header[80..88].copy_from_slice(&(section.len() as u64).to_le_bytes());
    header[88..96].copy_from_slice(&last.to_le_bytes());
    header[96..100].copy_from_slice(&crc32c::crc32c(section).to_le_bytes());
    sign_header(&mut header);
    [&header, section, accounts].concat()
}

/// Changes of sources, as a section has them.
pub fn position(source: &str, next: i64, fingerprint: i64) -> Vec<u8> {
    let length = (source.len() as u16).to_le_bytes();
    [&[1], &length[..], source.as_bytes(), &next.to_le_bytes(), &fingerprint.to_le_bytes()].concat()
}

pub fn anew(source: &str, next: i64, fingerprint: i64) -> Vec<u8> {
    [&[4], &position(source, next, fingerprint)[1..]].concat()
}

pub fn parked(number: u64, record: &[u8]) -> Vec<u8> {
    [&[2], &number.to_le_bytes()[..], &(record.len() as u32).to_le_bytes(), record].concat()
}

pub fn unparked(number: u64) -> Vec<u8> {
    [&[3], &number.to_le_bytes()[..]].concat()
}

/// A ledger with all there is: every kind, refusals of every reason, a chain, two segments, a checkpoint, a clean stop.
pub fn sample(name: &str) -> Writer {
    let mut writer = Writer::new(name);
    writer.batch(&[
        Entry::of(&[create("c1", "alice", 100, (100, 1))]),
        Entry::of(&[create("", "bob", 0, (0, 1))]),
        Entry::of(&[transfer("t1", ["alice", "bob"], 30, [(70, 2), (30, 2)])]),
    ]);
    writer.batch(&[
        Entry::refused(&[transfer("t2", ["alice", "bob"], 71, [(70, 2), (30, 2)])], 0, INSUFFICIENT, 0, 70),
        Entry::refused(&[update("u1", "nobody", 5, (0, 0))], 0, NOT_FOUND, 0, 0).unknown_as_of(4),
        Entry::refused(&[create("c2", "bob", 5, (30, 2))], 0, ALREADY_EXISTS, 0, 30),
    ]);
    writer.checkpoint(6, writer.time, &[("alice", 70, 2, 3), ("bob", 30, 2, 3)]);
    writer.segment();
    writer.batch(&[
        Entry::of(&[create("c3", "é", i64::MAX, (i64::MAX, 1))]),
        Entry::refused(&[update("u2", "é", 1, (i64::MAX, 1))], 0, OUT_OF_RANGE, 0, i64::MAX),
        Entry::of(&[post("p1", &[("bob", -10, (20, 3)), ("alice", 10, (80, 3))])]),
    ]);
    writer.batch(&[
        // Each sees the ones before it.
        Entry::of(&[
            transfer("x1", ["alice", "bob"], 80, [(0, 4), (100, 4)]),
            transfer("x2", ["bob", "alice"], 100, [(0, 5), (100, 5)]),
        ]),
        Entry::refused(
            &[
                transfer("x3", ["alice", "bob"], 100, [(100, 5), (0, 5)]),
                update("x4", "alice", -1, (100, 5)),
                update("x5", "bob", 1, (0, 5)),
            ],
            1,
            INSUFFICIENT,
            0,
            0,
        ),
    ]);
    writer.checkpoint(11, writer.time, &[("alice", 100, 5, 10), ("bob", 0, 5, 10), ("é", i64::MAX, 1, 7)]);
    writer.batch(&[Entry::of(&[update("u3", "bob", 7, (7, 6))])]);
    writer.closing();
    writer
}
