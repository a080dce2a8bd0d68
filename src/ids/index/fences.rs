//! Where each page of a run begins, as far as memory needs to know: the upper 32 bits of its first key.
//!
//! These bits tell as much as whole keys, except for a key that shares them with a page's first key: the page before
//! may hold that key as well. With a million pages, about a hundred million ids, that concerns one in some thousand of
//! the look-ups that read a page at all.

use std::ops::RangeInclusive;

use super::Key;
use super::format::FENCE;

pub(super) struct Fences(Box<[u32]>);

impl Fences {
    /// Of the first keys of all pages, which ascend.
    pub(super) fn new(first_keys: impl ExactSizeIterator<Item = Key>) -> Fences {
        Fences(first_keys.map(upper).collect())
    }

    /// As they are in the file.
    pub(super) fn of_bytes(bytes: &[u8]) -> Fences {
        let (keys, _) = bytes.as_chunks::<FENCE>();
        Fences::new(keys.iter().map(|key| Key(u128::from_be_bytes(*key))))
    }

    /// The pages that may hold `key`, mostly one. Keys are spread evenly, so the search starts where the key's value
    /// suggests; a binary search would touch one cache line per step.
    pub(super) fn pages_of(&self, key: Key) -> Option<RangeInclusive<usize>> {
        let (fences, key) = (&self.0, upper(key));
        let guess = ((u64::from(key) * fences.len() as u64) >> 32) as usize;
        let begins_after = |place: usize| fences.get(place).is_none_or(|fence| *fence > key);
        let (mut low, mut high, mut step) = (guess, guess, 1);
        while low > 0 && begins_after(low) {
            (low, high) = (low.saturating_sub(step), low);
            step *= 2;
        }
        while !begins_after(high) {
            (low, high) = (high, high.saturating_add(step).min(fences.len()));
            step *= 2;
        }
        let last = (low + fences.get(low..high)?.partition_point(|fence| *fence <= key)).checked_sub(1)?;
        // A page that begins with the same bits may begin behind the key.
        let same = fences[..=last].iter().rev().take_while(|fence| **fence == key).count();
        Some(last.saturating_sub(same)..=last)
    }
}

fn upper(key: Key) -> u32 {
    (key.0 >> 96) as u32
}

#[cfg(all(test, equipoise_engine))]
mod tests {
    use super::*;

    fn key(upper: u32, lower: u128) -> Key {
        Key(u128::from(upper) << 96 | lower)
    }

    /// B4: the page that holds a key is among those that are read for it, also where the upper bits of keys are the
    /// same; where they are not, it is the only one.
    #[test]
    fn the_page_of_a_key_is_read() {
        let spread: Vec<_> = (0..1_000).map(|page| key(page * 4_294_967, u128::from(page) + 7)).collect();
        let crowded =
            vec![key(5, 1), key(5, 9), key(6, 0), key(6, 4), key(6, 4_000), key(u32::MAX, 1), key(u32::MAX, 2)];
        for keys in [spread, crowded, vec![key(1 << 31, 5)], Vec::new()] {
            let fences = Fences::new(keys.iter().copied());
            let around = keys.iter().flat_map(|key| [Key(key.0.saturating_sub(1)), *key, Key(key.0.saturating_add(1))]);
            for asked in around.chain([Key(0), Key(u128::MAX)]) {
                let holds = keys.partition_point(|first| *first <= asked).checked_sub(1);
                let read = fences.pages_of(asked);
                let covered = read.clone().is_some_and(|pages| holds.is_some_and(|page| pages.contains(&page)));
                assert!(covered || holds.is_none(), "{asked:?} is in page {holds:?} of {}, not {read:?}", keys.len());
                let same = keys.iter().filter(|first| upper(**first) == upper(asked)).count();
                assert!(read.is_none_or(|pages| pages.count() <= same + 1), "{asked:?}");
            }
        }
    }
}
