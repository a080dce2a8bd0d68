//! What tells, mostly, that an id is not in a run: a Bloom filter of blocks, so that a look is one cache line.
//!
//! Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters (2007). The key is a hash already: its
//! upper half chooses the block, its lower half the bits.

use std::ops::Range;

use crate::kernel::prefetch;

use super::Key;
use super::format::BLOCK;

/// With [`PROBES`], about one absent id in 75 passes.
const BITS_PER_ID: u64 = 10;

/// Bits per id of a small run. There are many small runs, each may cause a useless page read, and together they take
/// little memory. About one absent id in 1,500 passes.
const BITS_PER_ID_OF_FEW: u64 = 20;

/// Ids of the largest small run.
const FEW: u64 = 1 << 20;

const PROBES: u32 = 6;

const BLOCK_BITS: u64 = 8 * BLOCK as u64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block([u64; 8]);

pub(super) struct Filter(Vec<Block>);

impl Filter {
    /// An empty one with room for so many ids.
    pub(super) fn for_ids(ids: u64) -> Filter {
        let bits = if ids <= FEW { BITS_PER_ID_OF_FEW } else { BITS_PER_ID };
        let blocks = ids.saturating_mul(bits).div_ceil(BLOCK_BITS);
        Filter(vec![Block([0; 8]); blocks as usize])
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Filter {
        let (blocks, _) = bytes.as_chunks::<BLOCK>();
        let words = |block: &[u8; BLOCK]| {
            let (words, _) = block.as_chunks();
            std::array::from_fn(|place| words.get(place).map_or(0, |word| u64::from_le_bytes(*word)))
        };
        Filter(blocks.iter().map(|block| Block(words(block))).collect())
    }

    /// Its blocks as they are written.
    pub(super) fn bytes(&self) -> impl Iterator<Item = [u8; BLOCK]> + '_ {
        self.0.iter().map(|block| {
            let mut bytes = [0; BLOCK];
            for (bytes, word) in bytes.chunks_exact_mut(8).zip(&block.0) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            bytes
        })
    }

    pub(super) fn blocks(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn insert(&mut self, key: Key) {
        let place = self.place(key);
        if let Some(Block(words)) = self.0.get_mut(place) {
            bits(key, 0..PROBES).for_each(|(word, bit)| words[word] |= bit);
        }
    }

    /// `false`: it was never inserted.
    #[inline]
    pub(super) fn may_hold(&self, key: Key) -> bool {
        let Some(Block(words)) = self.0.get(self.place(key)) else { return false };
        let all = |probes| bits(key, probes).fold(true, |all, (word, bit)| all & (words[word] & bit != 0));
        // Half of the probes at once, without branches: a single probe's result cannot be predicted, that of three can.
        all(0..PROBES / 2) && all(PROBES / 2..PROBES)
    }

    /// Prefetches the line for `key`.
    #[inline]
    pub(super) fn prefetch(&self, key: Key) {
        if let Some(block) = self.0.get(self.place(key)) {
            prefetch(block);
        }
    }

    #[inline]
    fn place(&self, key: Key) -> usize {
        (((key.0 >> 64) * self.0.len() as u128) >> 64) as usize
    }
}

/// Words of a block, and the bits in them.
#[inline]
fn bits(key: Key, probes: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let lower = key.0 as u64;
    probes.map(move |probe| {
        let bit = (lower >> (9 * probe)) % BLOCK_BITS;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

#[cfg(all(test, equipoise_engine))]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        let hash = blake3::hash(&number.to_le_bytes());
        Key(u128::from_be_bytes(*hash.as_bytes().first_chunk().expect("32 bytes")))
    }

    /// B4: what was inserted is never said to be absent, also after writing and reading; little else passes.
    #[test]
    fn an_id_that_was_inserted_passes() {
        let mut filter = Filter::for_ids(50_000);
        (0..50_000).for_each(|number| filter.insert(key(number)));
        let bytes: Vec<u8> = filter.bytes().flatten().collect();
        let filter = Filter::of_bytes(&bytes);
        assert!((0..50_000).all(|number| filter.may_hold(key(number))));
        let passed =
            |filter: &Filter| (1 << 22..(1 << 22) + 100_000).filter(|number| filter.may_hold(key(*number))).count();
        assert!(passed(&filter) < 200, "{} of 100,000", passed(&filter));
        let mut large = Filter::for_ids(FEW + 1);
        (0..=FEW).for_each(|number| large.insert(key(number)));
        assert!(passed(&large) < 2_000, "{} of 100,000", passed(&large));
        assert!(!Filter::for_ids(0).may_hold(key(0)));
    }
}
