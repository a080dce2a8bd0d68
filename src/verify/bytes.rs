//! Reads untrusted bytes: little-endian numbers and ids from a slice, never past its end.

/// What is wrong, and where in the bytes that were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) what: String,
}

pub(super) type Read<T> = Result<T, Wrong>;

/// A place in a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(all: &'a [u8]) -> Self {
        Bytes { all, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.all.len()
    }

    /// An error here.
    pub(super) fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong { at: self.at, what: what.into() }
    }

    /// The next `length` bytes; nothing is copied or allocated, whatever `length` says.
    pub(super) fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let taken = self.all.get(self.at..).and_then(|rest| rest.get(..length));
        let taken = taken.ok_or_else(|| self.wrong(format!("{length} bytes expected, and fewer are there")))?;
        self.at += length;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Read<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Read<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Read<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn i128(&mut self) -> Read<i128> {
        Ok(i128::from_le_bytes(self.array()?))
    }

    /// The name of an account: 1 to 128 bytes of UTF-8 without control characters.
    pub(super) fn account(&mut self) -> Read<&'a str> {
        let begin = *self;
        self.id()?.ok_or_else(|| begin.wrong("an account without a name"))
    }

    /// The id of a transaction: as an account's, or none.
    pub(super) fn id(&mut self) -> Read<Option<&'a str>> {
        const LONGEST: u8 = 128;
        let begin = *self;
        let length = self.u8()?;
        if length > LONGEST {
            return Err(begin.wrong(format!("an id of {length} bytes, more than {LONGEST}")));
        }
        let bytes = self.take(usize::from(length))?;
        let text = std::str::from_utf8(bytes).map_err(|_| begin.wrong("an id that is not UTF-8"))?;
        if text.chars().any(char::is_control) {
            return Err(begin.wrong("an id with a control character"));
        }
        Ok((length > 0).then_some(text))
    }
}

/// Whether there is nothing but zeros; as fast as memory is.
pub(super) fn zeros(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut bytes = Bytes::new(&[1, 2, 3]);
        assert_eq!(bytes.u16(), Ok(0x0201));
        assert_eq!(bytes.u32().map_err(|wrong| wrong.at), Err(2));
        assert_eq!(bytes.take(usize::MAX).map_err(|wrong| wrong.at), Err(2));
        assert_eq!(bytes.u8(), Ok(3));
        assert!(bytes.is_empty());
    }

    #[test]
    fn ids_keep_their_rules() {
        let long = [&[129][..], &[b'a'; 129]].concat();
        for wrong in [&[1, 0xff][..], &[1, b'\n'], &[2, 0xc2, 0x85], &[3, b'a'], &long, &[]] {
            assert!(Bytes::new(wrong).id().is_err(), "{wrong:?}");
        }
        assert_eq!(Bytes::new(&[0]).id(), Ok(None));
        assert!(Bytes::new(&[0]).account().is_err());
        assert_eq!(Bytes::new("\u{2}é".as_bytes()).id(), Ok(Some("é")));
    }
}
