//! The bytes of a simulated file, by sector: as written, and as durable.

use std::sync::Arc;

use super::common::Random;

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;

/// The bytes of a file. Most are zeros, and most are those of the trial before.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) length: usize,
    /// None: zeros. Behind the length there are zeros too.
    sectors: Vec<Option<Arc<[u8; SECTOR]>>>,
}

impl Content {
    pub(super) fn resize(&mut self, length: usize) {
        if length < self.length && !length.is_multiple_of(SECTOR) {
            self.write(length, &vec![0; (length.next_multiple_of(SECTOR)).min(self.length) - length]);
        }
        self.sectors.resize(length.div_ceil(SECTOR), None);
        self.length = length;
    }

    pub(super) fn read(&self, into: &mut [u8], offset: usize) -> usize {
        let end = self.length.min(offset + into.len());
        let mut at = offset;
        while at < end {
            let (sector, within) = (at / SECTOR, at % SECTOR);
            let to = end.min((sector + 1) * SECTOR);
            let part = &mut into[at - offset..to - offset];
            match &self.sectors[sector] {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + part.len()]),
                None => part.fill(0),
            }
            at = to;
        }
        end.saturating_sub(offset)
    }

    /// Writes what lies within the length.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let mut at = offset;
        while at < offset + bytes.len() {
            let (sector, within) = (at / SECTOR, at % SECTOR);
            let to = (offset + bytes.len()).min((sector + 1) * SECTOR);
            let part = &bytes[at - offset..to - offset];
            if part == [0; SECTOR] {
                self.sectors[sector] = None;
            } else {
                let whole = self.sectors[sector].get_or_insert_with(|| Arc::new([0; SECTOR]));
                Arc::make_mut(whole)[within..within + part.len()].copy_from_slice(part);
            }
            at = to;
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    pub(super) content: Content,
    pub(super) durable: Content,
    /// By sector: whether it is to be written by the next sync. Not so after one that failed: only writing it again
    /// helps.
    pub(super) dirty: Vec<bool>,
}

impl Inode {
    pub(super) fn touch(&mut self, from: usize, to: usize) {
        self.dirty.resize(to.div_ceil(SECTOR).max(self.dirty.len()), false);
        self.dirty[from / SECTOR..to.div_ceil(SECTOR)].fill(true);
    }

    pub(super) fn resize(&mut self, length: usize) {
        let before = self.content.length;
        self.content.resize(length);
        self.touch(before.min(length), before.max(length));
    }

    pub(super) fn write_back(&mut self, sector: usize) {
        if let (Some(durable), Some(written)) = (self.durable.sectors.get_mut(sector), self.content.sectors.get(sector))
        {
            durable.clone_from(written);
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.content.length);
        for sector in 0..self.dirty.len() {
            if std::mem::take(&mut self.dirty[sector]) {
                self.write_back(sector);
            }
        }
    }

    pub(super) fn cut(mut self, random: Option<&mut Random>) -> Inode {
        if let Some(random) = random {
            if self.content.length != self.durable.length && random.below(2) == 0 {
                self.durable.resize(self.content.length);
            }
            let odds = random.below(5);
            for sector in 0..self.dirty.len() {
                if self.dirty[sector] && random.below(4) < odds {
                    self.write_back(sector);
                }
            }
        }
        Inode { content: self.durable.clone(), durable: self.durable, ..Inode::default() }
    }
}
