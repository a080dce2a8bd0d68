//! Ledgers with nothing wrong.

use equipoise::verify::{Options, Report, verify};

use crate::writer::{Entry, Writer, create, sample, update};

/// C1, C3: a ledger with every kind of entry is found right, and counted.
#[test]
fn a_ledger_with_all_there_is() {
    let writer = sample("all");
    let report = writer.verify().expect("nothing is wrong");
    let expected = Report {
        ledger_id: "746865206f6e6520696e207465737473".to_owned(),
        segments: 2,
        batches: 6,
        entries: 12,
        first_sequence: 1,
        last_sequence: 12,
        replayed_from: 0,
        accounts: 3,
        total: 107 + i128::from(i64::MAX),
        sources: 0,
        parked: 0,
        last_time: writer.time - 1,
        head: blake3::Hash::from_bytes(writer.hash).to_hex().to_string(),
        checkpoints: 2,
        indexed_ids: None,
        notes: vec!["the id index was not checked: there is none".to_owned()],
    };
    assert_eq!(report, expected);
}

#[test]
fn a_ledger_that_has_only_begun() {
    let report = Writer::new("begun").verify().expect("nothing is wrong");
    assert_eq!((report.segments, report.batches, report.last_sequence), (1, 0, 0));
    let mut writer = Writer::new("never-begun");
    writer.segments.insert(1, Vec::new());
    let report = writer.verify().expect("nothing is wrong");
    assert_eq!((report.segments, report.ledger_id.as_str()), (0, ""));
    assert!(report.notes[0].contains("is an unused segment"), "{report:?}");
}

/// More batches may follow a clean stop.
#[test]
fn a_ledger_that_was_closed_and_opened_again() {
    let mut writer = Writer::new("again");
    writer.batch(&[Entry::of(&[create("", "a", 1, (1, 1))])]).closing().closing();
    writer.batch(&[Entry::of(&[update("", "a", 1, (2, 2))])]);
    let report = writer.verify().expect("nothing is wrong");
    assert_eq!((report.batches, report.entries), (4, 2));
}

/// The hash of a batch stands for the journal up to it: what was added since is told, what is missing is refused.
#[test]
fn an_earlier_head_tells_what_was_added_and_what_is_missing() {
    let mut writer = sample("head");
    let at = |head| Options { head: Some(head), ..Options::default() };
    let head = writer.hash;
    verify(writer.write(), &at(head), &mut |_, _| {}).expect("nothing is wrong");

    writer.batch(&[Entry::of(&[update("", "bob", 1, (8, 7))])]);
    let earlier = |writer: &mut Writer, head, expected: &str| {
        let report = verify(writer.write(), &at(head), &mut |_, _| {}).expect("only more was added");
        assert!(report.notes.iter().any(|note| note == expected), "{report:?}");
    };
    earlier(&mut writer, head, "the head that was given is that of batch 6 (sequence 12): 1 more follow");
    earlier(&mut writer, [0; 32], "the head that was given is that of batch 0 (sequence 0): 7 more follow");

    let (_, last) = *writer.batches.last().expect("a batch");
    let newer = writer.hash;
    writer.segments.get_mut(&2).expect("a segment").truncate(last);
    let error = verify(writer.write(), &at(newer), &mut |_, _| {}).expect_err("a tail is missing").to_string();
    assert!(
        error.contains("(sequence 12), not ")
            && error.ends_with(", which no batch has: a tail is missing, or it is another journal"),
        "{error}"
    );
}

/// Progress ends at all bytes.
#[test]
fn progress_is_told() {
    let writer = sample("progress");
    let mut told = Vec::new();
    verify(writer.write(), &Options::default(), &mut |done, total| told.push((done, total))).expect("whole");
    let bytes = 2 * writer.segment_bytes as u64;
    assert_eq!(told, [(bytes / 2, bytes), (bytes, bytes)]);
}

#[test]
fn strange_files_are_noted() {
    let writer = sample("strange");
    let directory = writer.write();
    for name in ["journal/1.segment", "checkpoints/x", "notes.txt"] {
        std::fs::write(directory.join(name), "?").expect("a file");
    }
    std::fs::write(directory.join("journal/0000000003.segment.tmp"), "?").expect("a file");
    let report = crate::writer::check(directory).expect("nothing is wrong");
    let strange = report.notes.iter().filter(|note| note.contains("not part of a ledger"));
    assert_eq!(strange.count(), 3, "{report:?}");
}
