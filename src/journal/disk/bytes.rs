//! Little-endian reading that cannot run over the end.

/// What is left to read.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn i128(&mut self) -> Option<i128> {
        self.array().map(i128::from_le_bytes)
    }

    /// A text of up to 255 bytes behind its length.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }
}

/// How much of `bytes` there is up to its last one that is not zero.
pub(super) fn written(bytes: &[u8]) -> usize {
    // Segments are mostly zeros: whole pages are compared at once.
    const PAGE: usize = 4096;
    let blank =
        bytes.rchunks(PAGE).take_while(|page| **page == [0; PAGE][..page.len()]).map(<[u8]>::len).sum::<usize>();
    let rest = &bytes[..bytes.len() - blank];
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Writes a text of up to 255 bytes behind its length.
pub(super) fn put_text(text: &str, into: &mut Vec<u8>) {
    debug_assert!(text.len() <= usize::from(u8::MAX), "ids are short");
    into.push(text.len() as u8);
    into.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_end_are_not_written() {
        for length in [0, 1, 4095, 4096, 4097, 10_000] {
            let mut bytes = vec![0; length];
            assert_eq!(written(&bytes), 0);
            for at in [0, 1, 4095, 4096, 9_999] {
                if at < length {
                    bytes[at] = 1;
                    assert_eq!(written(&bytes), at + 1, "of {length}");
                }
            }
        }
    }
}
