//! Which release wrote a file: what a newer one wrote is not damaged, and this one cannot tell whether it is.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::problem::Problem;

const HEADER: usize = 128;

/// A kind of file: how it begins, and the newest version of it that is known here.
pub(super) struct Kind(&'static [u8; 7], u32);

pub(super) const SEGMENT: Kind = Kind(b"EQPSEGM", 1);
pub(super) const CHECKPOINT: Kind = Kind(b"EQPCHKP", 2);
pub(super) const RUN: Kind = Kind(b"EQPIDRN", 1);

/// Fails if a newer release wrote the file at `path`. Anything else that is wrong with it is found by its reader.
pub(super) fn check(path: &Path, Kind(begin, known): &Kind) -> Result<(), Problem> {
    let mut header = [0; HEADER];
    if File::open(path).and_then(|mut file| file.read_exact(&mut header)).is_err() {
        return Ok(());
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (checksum, version) = (number(8), number(12));
    if header.starts_with(*begin) && checksum == crc32c::crc32c(&header[12..]) && version > *known {
        let what =
            format!("format version {version}, which a newer release wrote: this one reads versions up to {known}");
        return Err(Problem::at(path, 12, what));
    }
    Ok(())
}
