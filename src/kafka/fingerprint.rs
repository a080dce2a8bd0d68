//! A short hash of a record, by which a topic is recognized.

/// Never the fingerprint of a record: the record is not known, and nothing is compared.
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
    unlike_farther(i64::from_le_bytes(first))
}

/// The low bits of a fingerprint whose record lies [`farther`] back: this mark, and then the distance.
const FARTHER: i64 = 0x6600;
const TAG: i64 = 0xff00;
const DISTANCE: i64 = 0xff;

fn unlike_farther(fingerprint: i64) -> i64 {
    match fingerprint {
        UNKNOWN => 1,
        like if like & TAG == FARTHER => like ^ TAG,
        known => known,
    }
}

/// The fingerprint for an offset that is moved on by so much over what are no records: markers of transactions, or
/// aborted ones.
pub(super) fn farther(fingerprint: i64, by: i64) -> i64 {
    let distance = distance(fingerprint).saturating_add(by);
    match (fingerprint, distance) {
        (UNKNOWN, _) => UNKNOWN,
        (_, 0) => fingerprint,
        (_, 1..=DISTANCE) => (fingerprint & !(TAG | DISTANCE)) | FARTHER | distance,
        _ => UNKNOWN,
    }
}

/// How many offsets are between its record and the offset that it is stored for.
pub(super) fn distance(fingerprint: i64) -> i64 {
    if fingerprint & TAG == FARTHER { fingerprint & DISTANCE } else { 0 }
}

/// Whether the record at the stored distance can be the one that the stored fingerprint is of.
pub(super) fn fits(stored: i64, found: i64) -> bool {
    stored == farther(found, distance(stored))
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
        for by in [1, 2, DISTANCE] {
            let moved = farther(one, by);
            assert_eq!((distance(moved), distance(one), distance(UNKNOWN)), (by, 0, 0));
            assert!(fits(moved, one) && fits(one, one));
            assert!(!fits(moved, other) && !fits(one, other));
        }
        assert_eq!((farther(farther(one, 3), 4), farther(UNKNOWN, 1)), (farther(one, 7), UNKNOWN));
        assert_eq!([DISTANCE + 1, i64::MAX].map(|by| farther(farther(one, 1), by)), [UNKNOWN; 2], "too far to say");
    }

    #[test]
    fn none_of_a_record_looks_farther_off() {
        for end in 0..=(TAG | DISTANCE) {
            let print = unlike_farther(end);
            assert!(
                distance(print) == 0 && print != UNKNOWN && fits(print, print) && !fits(UNKNOWN, print),
                "{end:#x}"
            );
        }
    }

    /// It is stored: another hash would make every topic another one.
    #[test]
    fn it_does_not_change_with_a_release() {
        assert_eq!(fingerprint(Some(1_700_000_000_000), Some(b"sku"), Some(b"{}")), STORED);
    }

    const STORED: i64 = -4_627_384_292_326_567_359;
}
