//! A short name for a record, by which a topic is known again.

/// Never the fingerprint of a record: nothing is known of the record, and nothing is compared.
pub(super) const UNKNOWN: i64 = 0;

/// The first eight bytes of BLAKE3 over the timestamp, the key and the value, each with its length; never [`UNKNOWN`].
pub(super) fn fingerprint(timestamp: Option<i64>, key: Option<&[u8]>, value: Option<&[u8]>) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&timestamp.unwrap_or(-1).to_le_bytes());
    for part in [key, value] {
        // A part that is missing is not an empty one.
        hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        hasher.update(part.unwrap_or_default());
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    match i64::from_le_bytes(first) {
        UNKNOWN => 1,
        known => known,
    }
}

/// How the fingerprints end that are [`farther`] off.
const FARTHER: i64 = 0x6661;
const END: i64 = 0xffff;

/// The fingerprint for an offset before which the record is not: markers of transactions, or aborted records, are in between.
pub(super) fn farther(fingerprint: i64) -> i64 {
    if fingerprint == UNKNOWN { UNKNOWN } else { (fingerprint & !END) | FARTHER }
}

/// Whether it says that its record is farther off.
pub(super) fn is_farther(fingerprint: i64) -> bool {
    fingerprint & END == FARTHER
}

/// Whether the last record before an offset can be that of the fingerprint that was stored for it.
pub(super) fn fits(stored: i64, found: i64) -> bool {
    stored == found || stored == farther(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_records_apart_and_stays_the_same() {
        let of = fingerprint;
        assert_eq!(of(Some(1), Some(b"k"), Some(b"v")), of(Some(1), Some(b"k"), Some(b"v")));
        let others = [
            of(Some(1), Some(b"k"), Some(b"v")),
            of(Some(2), Some(b"k"), Some(b"v")),
            of(None, Some(b"k"), Some(b"v")),
            of(Some(1), None, Some(b"v")),
            of(Some(1), Some(b""), Some(b"v")),
            of(Some(1), Some(b"kv"), Some(b"")),
            of(Some(1), Some(b"kv"), None),
            of(Some(1), Some(b""), Some(b"kv")),
        ];
        let distinct: std::collections::BTreeSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len());
    }

    #[test]
    fn one_that_is_farther_off_is_known_again() {
        let (one, other) = (fingerprint(Some(1), None, None), fingerprint(Some(2), None, None));
        assert!(is_farther(farther(one)) && !is_farther(one) && !is_farther(UNKNOWN));
        assert_eq!((farther(farther(one)), farther(UNKNOWN)), (farther(one), UNKNOWN));
        assert!(fits(farther(one), one) && fits(one, one));
        assert!(!fits(farther(one), other) && !fits(one, other));
    }

    /// It is stored: another hash would make every topic another one.
    #[test]
    fn it_does_not_change_with_a_release() {
        assert_eq!(fingerprint(Some(1_700_000_000_000), Some(b"sku"), Some(b"{}")), STORED);
    }

    const STORED: i64 = -4_627_384_292_326_567_359;
}
