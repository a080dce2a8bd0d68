//! The batch: what becomes durable together, and what is torn or damaged as a whole.

use std::ops::Range;

use super::bytes::{Bytes, written};

/// The length of a batch's header, in bytes.
pub(super) const HEADER: usize = 80;
/// Batches begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

const MAGIC: [u8; 4] = *b"EQBT";
const CLOSING: u32 = 1;
/// What the checksum covers begins here, and what the hash covers too.
const COVERED: usize = 8;
pub(super) const NUMBER_AT: u64 = 8;
pub(super) const FIRST_AT: u64 = 16;
/// Where the hash stands.
pub(super) const HASH: usize = 48;

/// The chained hash of a batch and, through it, of everything before.
pub(super) type Hash = [u8; 32];
/// What makes the checksums of one segment its own.
pub(super) type Salt = [u8; 16];

/// A batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    /// The sequence of its first entry.
    pub(super) first: u64,
    pub(super) count: u32,
    /// The length of the body.
    pub(super) length: u32,
    /// How much of the body, at its start, are notes.
    pub(super) notes: u32,
    pub(super) closing: bool,
    /// The journal's time at its newest entry.
    pub(super) time: u64,
    pub(super) hash: Hash,
    checksum: u32,
}

impl Header {
    /// The sequence after its last entry.
    pub(super) fn next(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// From the batch's first byte to its padding.
    pub(super) fn unpadded(&self) -> usize {
        HEADER + self.length as usize
    }

    /// From the batch's first byte to the next one's.
    pub(super) fn span(&self) -> usize {
        self.unpadded().next_multiple_of(ALIGNMENT)
    }

    /// The header at the start of `bytes`, unchecked; None when there is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Header> {
        let mut header = Bytes(bytes.get(..HEADER)?);
        if header.array()? != MAGIC {
            return None;
        }
        let checksum = header.u32()?;
        let (number, first, count, length, notes) =
            (header.u64()?, header.u64()?, header.u32()?, header.u32()?, header.u32()?);
        let flags = header.u32()?;
        let (time, hash) = (header.u64()?, header.array()?);
        let sound = flags & !CLOSING == 0 && notes <= length && first.checked_add(u64::from(count)).is_some();
        let closing = flags & CLOSING != 0;
        sound.then_some(Header { number, first, count, length, notes, closing, time, hash, checksum })
    }
}

/// A batch in memory whose checksum is right.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) header: Header,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch at the start of `bytes`; None when there is no good one.
    pub(super) fn read(bytes: &'a [u8], salt: &Salt) -> Option<Self> {
        let header = Header::read(bytes)?;
        let bytes = bytes.get(..header.unpadded())?;
        let good = checksum(salt, &bytes[COVERED..]) == header.checksum;
        good.then_some(Batch { header, bytes })
    }

    /// Its section of notes; empty when it has none.
    pub(super) fn notes(&self) -> &'a [u8] {
        &self.bytes[HEADER..HEADER + self.header.notes as usize]
    }

    /// Its frames.
    pub(super) fn frames(&self) -> Bytes<'a> {
        Bytes(&self.bytes[HEADER + self.header.notes as usize..])
    }

    /// Whether it follows on a batch with hash `before`.
    pub(super) fn continues(&self, before: &Hash) -> bool {
        hash(before, self.bytes) == self.header.hash
    }
}

fn checksum(salt: &Salt, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(salt), covered)
}

fn hash(before: &Hash, batch: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(&batch[COVERED..HASH]).update(&batch[HEADER..]);
    *hasher.finalize().as_bytes()
}

/// Reserved for a draft at once: a growing Vec leaves freed blocks that the allocator cannot use again.
const ROOM: usize = 1 << 20;

/// A batch that is being put together.
pub(super) struct Draft {
    bytes: Vec<u8>,
    /// How long its section of notes is.
    notes: u32,
    count: u32,
    time: u64,
}

impl Draft {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.resize(HEADER, 0);
        Draft { bytes, notes: 0, count: 0, time: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.notes == 0
    }

    /// How long it is so far, with its header.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a frame, which `encode` appends; it returns the entry's time.
    pub(super) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> u64) {
        self.time = encode(&mut self.bytes);
        self.count += 1;
    }

    /// Puts a section of notes, its first byte and the others, before the frames.
    pub(super) fn put_notes(&mut self, (flags, section): (u8, &[u8])) {
        debug_assert_eq!(self.notes, 0, "a batch has one section");
        let (end, length) = (self.bytes.len(), 1 + section.len());
        self.bytes.resize(end + length, 0);
        self.bytes.copy_within(HEADER..end, HEADER + length);
        self.bytes[HEADER] = flags;
        self.bytes[HEADER + 1..HEADER + length].copy_from_slice(section);
        self.notes = length as u32;
    }

    /// Fills in the header; an empty draft becomes a closing batch. A batch without frames has the time `before_time`.
    /// Returns the header and the bytes to write.
    pub(super) fn seal(
        &mut self,
        number: u64,
        first: u64,
        before_time: u64,
        before: &Hash,
        salt: &Salt,
    ) -> (Header, &[u8]) {
        let length = (self.bytes.len() - HEADER) as u32;
        let closing = self.is_empty();
        let time = if self.count == 0 { before_time } else { self.time };
        let mut fields = [0; HEADER - COVERED];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            fields[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&number.to_le_bytes());
        put(&first.to_le_bytes());
        put(&self.count.to_le_bytes());
        put(&length.to_le_bytes());
        put(&self.notes.to_le_bytes());
        put(&(if closing { CLOSING } else { 0 }).to_le_bytes());
        put(&time.to_le_bytes());
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[COVERED..HEADER].copy_from_slice(&fields);
        let hash = hash(before, &self.bytes);
        self.bytes[HASH..HEADER].copy_from_slice(&hash);
        let checksum = checksum(salt, &self.bytes[COVERED..]);
        self.bytes[4..COVERED].copy_from_slice(&checksum.to_le_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let header =
            Header { number, first, count: self.count, length, notes: self.notes, closing, time, hash, checksum };
        (header, &self.bytes)
    }

    /// Ready for the next one.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER, 0);
        (self.notes, self.count, self.time) = (0, 0, 0);
    }
}

/// Where the first good batch in `bytes`, from offset `from` on, begins. Its running time does not depend on the
/// contents: a client that puts many headers into account ids does not slow a start down.
pub(super) fn find(bytes: &[u8], from: usize, salt: &Salt) -> Option<usize> {
    let places: Range<usize> = from.next_multiple_of(ALIGNMENT)..written(bytes);
    let mut sums = None;
    places.step_by(ALIGNMENT).filter(|at| bytes[*at..].starts_with(&MAGIC)).find(|at| {
        let Some(header) = Header::read(&bytes[*at..]) else { return false };
        let end = *at + HEADER + header.length as usize;
        end <= bytes.len() && {
            let covered = sums.get_or_insert_with(|| Sums::new(bytes)).of(*at + COVERED..end);
            crc32c::crc32c_combine(crc32c::crc32c(salt), covered, end - *at - COVERED) == header.checksum
        }
    })
}

/// Checksums of the beginnings of some bytes; from those comes the checksum of any part.
struct Sums<'a> {
    bytes: &'a [u8],
    /// Of the beginning before each page.
    pages: Vec<u32>,
}

impl<'a> Sums<'a> {
    const PAGE: usize = 1024;

    fn new(bytes: &'a [u8]) -> Self {
        let sum = |sum: &mut u32, page: &[u8]| Some(std::mem::replace(sum, crc32c::crc32c_append(*sum, page)));
        Sums { bytes, pages: bytes.chunks(Self::PAGE).scan(0, sum).collect() }
    }

    /// The checksum of the bytes before `end`.
    fn before(&self, end: usize) -> u32 {
        match end.checked_sub(1).map(|last| last / Self::PAGE) {
            Some(page) => crc32c::crc32c_append(self.pages[page], &self.bytes[page * Self::PAGE..end]),
            None => 0,
        }
    }

    fn of(&self, part: Range<usize>) -> u32 {
        // A checksum of two parts is the first's, shifted over the second, and the second's.
        self.before(part.end) ^ crc32c::crc32c_combine(self.before(part.start), 0, part.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(frames: &[&[u8]], before: &Hash) -> Vec<u8> {
        let mut draft = Draft::new();
        for frame in frames {
            draft.push(|into| {
                into.extend_from_slice(frame);
                7
            });
        }
        draft.seal(3, 40, 9, before, &[1; 16]).1.to_vec()
    }

    #[test]
    fn a_sealed_batch_reads_back() {
        let bytes = sealed(&[b"one", b"two!"], &[5; 32]);
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let batch = Batch::read(&bytes, &[1; 16]).expect("good");
        assert_eq!((batch.header.number, batch.header.first, batch.header.next()), (3, 40, 42));
        assert_eq!((batch.header.time, batch.header.closing, batch.header.span()), (7, false, bytes.len()));
        assert_eq!(batch.frames().0, b"onetwo!");
        assert!(batch.continues(&[5; 32]));
        assert!(!batch.continues(&[6; 32]));
    }

    #[test]
    fn a_batch_without_frames_is_a_closing_one() {
        let bytes = sealed(&[], &[0; 32]);
        let batch = Batch::read(&bytes, &[1; 16]).expect("good");
        assert!(batch.header.closing);
        assert_eq!((batch.header.time, batch.header.next()), (9, 40));
    }

    /// D3: notes stand before the frames, and a batch may hold nothing else.
    #[test]
    fn notes_read_back_with_frames_and_without() {
        let mut draft = Draft::new();
        draft.push(|into| {
            into.extend_from_slice(b"frame");
            7
        });
        draft.put_notes((1, b"notes"));
        let bytes = draft.seal(3, 40, 9, &[5; 32], &[1; 16]).1.to_vec();
        let batch = Batch::read(&bytes, &[1; 16]).expect("good");
        assert_eq!((batch.notes(), batch.frames().0), (&b"\x01notes"[..], &b"frame"[..]));
        assert_eq!((batch.header.time, batch.header.next()), (7, 41));
        draft.clear();
        draft.put_notes((0, b"alone"));
        let bytes = draft.seal(4, 41, 9, &[5; 32], &[1; 16]).1.to_vec();
        let batch = Batch::read(&bytes, &[1; 16]).expect("good");
        assert_eq!((batch.notes(), batch.frames().0), (&b"\0alone"[..], &b""[..]));
        assert_eq!((batch.header.time, batch.header.next(), batch.header.closing), (9, 41, false));
    }

    /// C2: what another segment wrote into the same blocks is no batch of this one.
    #[test]
    fn another_salt_or_any_flipped_bit_is_no_batch() {
        let bytes = sealed(&[b"one"], &[5; 32]);
        assert!(Batch::read(&bytes, &[2; 16]).is_none());
        for bit in 0..(HEADER + 3) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::read(&flipped, &[1; 16]).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_good_batch_is_found_behind_a_bad_one() {
        let mut bytes = sealed(&[b"one"], &[5; 32]);
        let second = bytes.len();
        bytes.extend(sealed(&[b"two"], &[5; 32]));
        bytes[10] ^= 1;
        assert_eq!(find(&bytes, 0, &[1; 16]), Some(second));
        assert_eq!(find(&bytes, second + 1, &[1; 16]), None);
    }

    #[test]
    fn checksums_of_parts_are_right() {
        let bytes: Vec<u8> = (0..5_000_u32).map(|byte| ((byte * byte) >> 3) as u8).collect();
        let sums = Sums::new(&bytes);
        for part in [0..0, 0..1, 5..1024, 1024..1024, 1023..1025, 8..5_000, 3_000..4_096, 5_000..5_000] {
            assert_eq!(sums.of(part.clone()), crc32c::crc32c(&bytes[part.clone()]), "{part:?}");
        }
    }

    /// E7: a megabyte of headers, each over all that follows, is looked through in no time.
    #[test]
    fn many_false_headers_do_not_slow_a_start_down() {
        let mut bytes = vec![0; 1 << 20];
        for at in (0..bytes.len() - HEADER).step_by(HEADER) {
            let length = (bytes.len() - at - HEADER) as u32;
            bytes[at..at + 4].copy_from_slice(&MAGIC);
            bytes[at + 28..at + 32].copy_from_slice(&length.to_le_bytes());
        }
        let begun = std::time::Instant::now();
        assert_eq!(find(&bytes, 0, &[1; 16]), None);
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
