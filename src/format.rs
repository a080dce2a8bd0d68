//! The formats of the files in a data directory, as far as every release knows them.
//!
//! Files of all kinds begin alike, in every release: the name of the kind (7 bytes) and a digit, the CRC32C (u32) of
//! bytes 12 to 128, the format version (u32). So a file that a newer release wrote can be told from a damaged one.

/// A kind of file.
pub(crate) struct Format {
    pub(crate) kind: [u8; 7],
    /// The newest version of it that this release reads.
    pub(crate) version: u32,
}

/// The length of the common beginning, in bytes.
pub(crate) const HEADER: usize = 128;

impl Format {
    /// The version of the file that begins with `header`, if a newer release wrote it.
    pub(crate) fn newer(&self, header: &[u8]) -> Option<u32> {
        let checked = header.get(12..HEADER)?;
        let number = |at: usize| header.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
        let whole = header.starts_with(&self.kind) && number(8)? == crc32c::crc32c(checked);
        number(12).filter(|version| whole && *version > self.version)
    }
}
