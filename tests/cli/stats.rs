//! `equipoise stats`.

use equipoise::Ledger;

use crate::data::{Long, on, small, succeeds};
use crate::program::run;

/// B7: what entries and ids cost is told by a command.
#[test]
fn sizes_entries_and_costs_are_told() {
    let long = Long::new();
    let stats = &succeeds("stats", long.path(), &["--json"]).json()[0];
    assert_eq!(
        (&stats["entries"], &stats["first_sequence"], &stats["last_sequence"]),
        (&181.into(), &1.into(), &181.into())
    );
    let number = |name: &str| stats[name].as_f64().expect(name);
    assert_eq!(number("segment_bytes"), number("segments") * f64::from(1 << 20));
    assert!(number("used_bytes") < number("segment_bytes") && number("used_bytes") > 181.0 * 10_000.0);
    assert!((number("bytes_per_entry") - number("used_bytes") / 181.0).abs() < 0.1);
    assert_eq!((number("checkpoints"), number("accounts"), number("spare_bytes")), (2.0, 1.0, f64::from(1 << 20)));
    assert!(number("accounts_sequence") >= 100.0);
    assert_eq!((number("memory_bytes_per_id"), number("default_memory_bytes_of_ids")), (470.0, 47_000_000.0));
    assert!(stats["first_time"].as_str() < stats["last_time"].as_str());

    let text = succeeds("stats", long.path(), &[]).stdout;
    assert!(text.contains("sequences    1 to 181\n") && text.contains("470 bytes while in memory"), "{text}");
}

/// Case A14: a directory in use is measured as well; a directory that is none is an error.
#[test]
fn a_directory_in_use_is_measured() {
    let dir = small();
    let ledger = Ledger::open(dir.path()).expect("opens");
    let stats = &succeeds("stats", dir.path(), &["--json"]).json()[0];
    assert!(stats["ids_in_index"].is_number(), "{stats}");
    drop(ledger);
    assert_eq!(run(&mut on("stats", &dir.path().join("nowhere"), &[])).code, Some(4));
}
