//! Whatever the bytes are: an answer, no panic, and nothing taken that the files do not have.

use std::ops::Range;

use crate::writer::{Entry, SEGMENT, Writer, check, create, put, sample, sign_batch, sign_header};

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }

    /// Changes a few bytes of `place`: to anything, or to what numbers like to end at.
    fn spoil(&mut self, bytes: &mut [u8], place: Range<usize>) {
        for _ in 0..=self.below(3) {
            let at = place.start + self.below(place.len());
            let length = (1 << self.below(4)).min(place.end - at);
            let byte = [0, 0xff, 0x7f, 0x80, 1][self.below(5)];
            let any = self.roll().to_le_bytes();
            let constant = self.roll().is_multiple_of(2);
            bytes[at..at + length].iter_mut().zip(any).for_each(|(to, any)| *to = if constant { byte } else { any });
        }
    }
}

/// Bytes changed behind the checksums: every decoder meets what no writer writes.
#[test]
fn signed_garbage_is_refused() {
    let writer = sample("garbage");
    let directory = writer.write();
    let files = writer.files();
    let mut dice = Dice(1);
    let mut whole = 0;
    for _ in 0..3000 {
        let (path, good) = &files[dice.below(files.len())];
        let mut bytes = good.clone();
        if path.extension().is_some_and(|extension| extension == "checkpoint") {
            dice.spoil(&mut bytes, 0..good.len());
            sign_header(&mut bytes);
            let end = bytes.len();
            if end > 136 {
                let length = u32::from_le_bytes(bytes[128..132].try_into().expect("four bytes")) as usize;
                let sum = bytes.get(136..136 + length).map(crc32c::crc32c).unwrap_or_default();
                bytes[132..136].copy_from_slice(&sum.to_le_bytes());
            }
        } else {
            let number = 1 + u64::from(path.ends_with("0000000002.segment"));
            let batches: Vec<_> = writer.batches.iter().filter(|(segment, _)| *segment == number).collect();
            let begin = batches[dice.below(batches.len())].1;
            let length = u32::from_le_bytes(good[begin + 28..begin + 32].try_into().expect("four bytes")) as usize;
            match dice.below(4) {
                0 => {
                    dice.spoil(&mut bytes, 12..128);
                    sign_header(&mut bytes);
                }
                1 => dice.spoil(&mut bytes, begin..begin + 80),
                _ => {
                    dice.spoil(&mut bytes, begin + 80..begin + 80 + length.max(8));
                    sign_batch(&mut bytes[begin..], number);
                }
            }
        }
        put(path, &bytes);
        whole += u32::from(check(directory).is_ok());
        put(path, good);
    }
    assert!(whole < 1000, "{whole} of 3000");
}

/// Entries of random bytes in batches that are right in everything else, hash and all.
#[test]
fn random_entries_are_refused() {
    let mut dice = Dice(2);
    let member = create("id", "account", 7, (7, 1));
    let mut writer = Writer::new("entries");
    let (begun, time) = (writer.segments.clone(), writer.time);
    let directory = writer.write().to_owned();
    let good = Entry::of(&[member.clone(), member]).at(time).frame();
    for _ in 0..3000 {
        let mut frame = good.clone();
        dice.spoil(&mut frame, 0..good.len());
        (writer.segments, writer.batch, writer.sequence, writer.hash) = (begun.clone(), 1, 1, [0; 32]);
        // The chain and the checksum are right: the frame alone decides, and no account is opened twice.
        writer.raw(1, 0, &frame);
        let (path, bytes) = writer.files().swap_remove(0);
        put(&path, &bytes);
        check(&directory).expect_err("opened twice");
    }
}

/// Files of noise.
#[test]
fn noise_is_refused() {
    let mut dice = Dice(3);
    let writer = sample("noise");
    let directory = writer.write();
    for _ in 0..300 {
        for (path, _) in writer.files() {
            let noise: Vec<_> = (0..dice.below(SEGMENT)).map(|_| dice.roll() as u8).collect();
            put(&path, &noise);
        }
        check(directory).expect_err("noise");
    }
}
