//! `equipoise stats`.

use equipoise::{AccountId, Ledger, MAX_ID_BYTES, Operation, Request, TransactionId};

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
    assert_eq!(number("memory_bytes_per_longest_id"), 900.0);
    assert!(stats["first_time"].as_str() < stats["last_time"].as_str());

    let text = succeeds("stats", long.path(), &[]).stdout;
    assert!(text.contains("sequences    1 to 181\n") && text.contains("470 bytes while in memory (900 "), "{text}");
}

/// B7: an id on disk costs what is documented of disk and memory, whatever its length.
#[test]
fn an_id_in_the_index_costs_what_is_documented() {
    const IDS: usize = 6_000;
    for length in [8, MAX_ID_BYTES] {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::builder().id_capacity(1_000).open(dir.path()).expect("opens");
        let account = AccountId::new("a").expect("an id");
        ledger.create(&account, 0).expect("new");
        for number in 0..IDS {
            let id = TransactionId::new(&format!("{number:0>length$}")).expect("an id");
            let request = Request::single(Operation::update(account.clone(), 1), Some(id));
            ledger.submit(request).expect("decided");
        }
        ledger.wait_durable(ledger.sequence()).expect("durable");
        drop(ledger);
        // A start puts the rest into the index.
        drop(Ledger::open(dir.path()).expect("opens"));
        let stats = &succeeds("stats", dir.path(), &["--json"]).json()[0];
        let number = |name: &str| stats[name].as_f64().expect(name);
        assert!(number("ids_in_index") > IDS as f64 / 2.0, "{stats}");
        let memory = number("index_memory_bytes_per_id");
        assert!((1.3..=2.7).contains(&memory), "{memory} bytes of memory an id of {length}: {stats}");
        assert_eq!(memory, (number("index_memory_bytes") * 10.0 / number("ids_in_index")).round() / 10.0);
        let disk = number("index_bytes_per_id");
        assert!((37.0..80.0).contains(&disk), "{disk} bytes of disk an id of {length}: {stats}");
        let text = succeeds("stats", dir.path(), &[]).stdout;
        assert!(text.contains(&format!("{disk:.1} bytes of the index on disk, {memory:.1} of its memory\n")), "{text}");
    }
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
