//! Batches with arbitrary contents under right checksums and hashes: what recovery makes of them.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use equipoise_fuzz::directory::{Directory, check};
use libfuzzer_sys::fuzz_target;

const SALT: [u8; 16] = [7; 16];
const LENGTH: usize = 1 << 20;

/// A batch whose fields are right unless they say otherwise.
#[derive(Arbitrary, Debug)]
struct Batch {
    wrong: Option<Wrong>,
    /// How many entries it claims beyond what the frames say.
    count: u8,
    /// Its flags, and what it notes.
    section: Option<(u8, Vec<Change>)>,
    frames: Vec<Frame>,
}

impl Batch {
    fn section(&self) -> Vec<u8> {
        let Some((flags, changes)) = &self.section else { return Vec::new() };
        let flags = if *flags < 0xf0 { flags % 4 } else { *flags };
        changes.iter().fold(vec![flags], |section, change| [section, change.bytes()].concat())
    }
}

#[derive(Arbitrary, Debug)]
enum Change {
    Bytes(Vec<u8>),
    Position { source: u8, next: i64, fingerprint: i64 },
    Parked { number: u8, record: Vec<u8> },
    Unparked { number: u8 },
}

impl Change {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Change::Bytes(bytes) => bytes.clone(),
            Change::Position { source, next, fingerprint } => {
                [&[1, 1, 0, b'a' + source % 3][..], &next.to_le_bytes(), &fingerprint.to_le_bytes()].concat()
            }
            Change::Parked { number, record } => {
                let length = (record.len() as u32).to_le_bytes();
                [&[2][..], &u64::from(number % 8).to_le_bytes(), &length, record].concat()
            }
            Change::Unparked { number } => [&[3][..], &u64::from(number % 8).to_le_bytes()].concat(),
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Wrong {
    Number(u64),
    First(u64),
    Offsets(u32),
    Flags(u32),
    Hash,
    Checksum,
    Length(u32),
}

#[derive(Arbitrary, Debug)]
enum Frame {
    Bytes(Vec<u8>),
    Create { account: u8, initial: i64, balance: i64, version: u64 },
    Transfer { id: Option<u8>, accounts: [u8; 2], amount: i64, states: [(i64, u64); 2] },
    Refused { account: u8, place: u32, reason: u8, leg: u16, current: i64 },
}

impl Frame {
    fn bytes(&self, time: u64) -> Vec<u8> {
        let head = |flags: u8| [&time.to_le_bytes()[..], &[flags], &1_u16.to_le_bytes()].concat();
        let account = |number: u8| [1, b'a' + number % 26];
        let state = |(balance, version): (i64, u64)| [balance.to_le_bytes(), version.to_le_bytes()].concat();
        let frame = match self {
            Frame::Bytes(bytes) => bytes.clone(),
            Frame::Create { account: number, initial, balance, version } => {
                let member = [&[1, 0][..], &account(*number), &initial.to_le_bytes(), &state((*balance, *version))];
                [head(0), member.concat()].concat()
            }
            Frame::Transfer { id, accounts: [from, to], amount, states: [debit, credit] } => {
                let id = id.map_or(vec![0], |id| vec![1, b'A' + id % 26]);
                let ends = [&[3][..], &id, &account(*from), &account(*to), &amount.to_le_bytes()].concat();
                [head(0), ends, state(*debit), state(*credit)].concat()
            }
            Frame::Refused { account: number, place, reason, leg, current } => {
                let refusal = [&place.to_le_bytes()[..], &[*reason], &leg.to_le_bytes(), &current.to_le_bytes()];
                let member = [&[2, 0][..], &account(*number), &(-5_i64).to_le_bytes(), &state((0, 0))];
                [head(1), refusal.concat(), member.concat()].concat()
            }
        };
        [&(frame.len() as u32).to_le_bytes()[..], &frame].concat()
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let Ok(batches) = Vec::<Batch>::arbitrary(&mut input) else { return };
    let mut segment = header();
    let (mut number, mut first, mut before) = (1_u64, 1_u64, [0_u8; 32]);
    for batch in batches.iter().take(8) {
        let section = batch.section();
        let frames = batch.frames.iter().zip(first..).flat_map(|(frame, time)| frame.bytes(time));
        let body: Vec<u8> = section.iter().copied().chain(frames).collect();
        let count = batch.frames.len() as u32 + u32::from(batch.count % 3 == 2);
        let (mut fields, mut offsets, mut flags) =
            ([number, first], section.len() as u32, u32::from(count == 0 && section.is_empty()));
        let mut length = body.len() as u32;
        match batch.wrong {
            Some(Wrong::Number(number)) => fields[0] = number,
            Some(Wrong::First(first)) => fields[1] = first,
            Some(Wrong::Offsets(wrong)) => offsets = wrong,
            Some(Wrong::Flags(wrong)) => flags = wrong,
            Some(Wrong::Length(wrong)) => length = wrong,
            _ => {}
        }
        let time = first + batch.frames.len() as u64;
        let mut covered = [&fields[0].to_le_bytes()[..], &fields[1].to_le_bytes()].concat();
        for field in [count, length, offsets, flags] {
            covered.extend(field.to_le_bytes());
        }
        covered.extend(time.to_le_bytes());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&before).update(&covered).update(&body);
        before = *hasher.finalize().as_bytes();
        let mut hash = before;
        hash[0] ^= u8::from(matches!(batch.wrong, Some(Wrong::Hash)));
        covered.extend(hash);
        covered.extend(&body);
        let mut checksum = crc32c::crc32c_append(crc32c::crc32c(&SALT), &covered);
        checksum ^= u32::from(matches!(batch.wrong, Some(Wrong::Checksum)));
        segment.extend([&b"EQBT"[..], &checksum.to_le_bytes(), &covered].concat());
        segment.resize(segment.len().next_multiple_of(8), 0);
        (number, first) = (number + 1, first + u64::from(count));
    }
    if segment.len() > LENGTH {
        return;
    }
    segment.resize(LENGTH, 0);
    let directory = Directory::new();
    directory.put("journal/0000000001.segment", &segment);
    check(&directory);
});

fn header() -> Vec<u8> {
    let mut checked = 1_u32.to_le_bytes().to_vec();
    checked.extend([1_u64, 1, 1].iter().flat_map(|number| number.to_le_bytes()));
    checked.extend([[9; 16], SALT].concat());
    checked.extend([0; 32]);
    checked.extend((LENGTH as u64).to_le_bytes());
    checked.resize(116, 0);
    let mut header = [&b"EQPSEGM1"[..], &crc32c::crc32c(&checked).to_le_bytes(), &checked].concat();
    header.resize(4096, 0);
    header
}
