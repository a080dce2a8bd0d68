//! What is noted of sources: in batches, in checkpoints, and by the engine.

use equipoise::verify::Options;
use equipoise::{AccountId, Advance, Durability, Ledger, Note};

use crate::writer::{Entry, Writer, anew, create, parked, position, unparked, update, with_section};

fn opened() -> Entry {
    Entry::of(&[create("", "a", 1, (1, 1))])
}

fn section(flags: u8, changes: &[Vec<u8>]) -> Vec<u8> {
    [&[flags], &changes.concat()[..]].concat()
}

/// Two sources, three parked records of which one is taken back, over three batches, the last without entries.
pub fn noted(name: &str) -> Writer {
    let mut writer = Writer::new(name);
    writer.noted(&section(0, &[position("kafka/t/0", 5, -1), parked(1, b"one")]), &[opened()]);
    let rest = [parked(2, b""), parked(3, &[9; 300]), unparked(1), position("é", i64::MIN, 0)].concat();
    let (begin, end) = rest.split_at(100);
    writer.noted(&[&[2], begin].concat(), &[Entry::of(&[update("", "a", 1, (2, 2))])]);
    writer.noted(&[&[1], end].concat(), &[]);
    writer
}

/// What [`noted`] comes to, as a checkpoint has it.
fn all() -> Vec<u8> {
    [position("kafka/t/0", 5, -1), position("é", i64::MIN, 0), parked(2, b""), parked(3, &[9; 300])].concat()
}

/// D3, D4: sections are put together, and counted.
#[test]
fn sections_over_batches_are_right() {
    let mut writer = noted("sections");
    let report = writer.verify().expect("right");
    assert_eq!((report.sources, report.parked, report.entries, report.batches), (2, 2, 2, 3));
    // A process died before it ended what it had begun: that counts for nothing.
    writer.noted(&section(2, &[parked(4, b"never")]), &[]);
    assert_eq!(writer.verify().expect("right").parked, 2);
    writer.noted(&section(0, &[parked(4, b"four")]), &[]);
    assert_eq!(writer.verify().expect("right").parked, 3);
    writer.noted(&section(2, &[parked(5, b"never")]), &[]).closing();
    assert_eq!(writer.verify().expect("right").parked, 3);
    writer.noted(&section(1, &[parked(5, b"never")]), &[]);
    assert!(writer.wrong().contains("it goes on with sources that the batch before did not begin"));
}

/// D3: what contradicts the changes before, or is none, is named.
#[test]
fn wrong_changes_are_named() {
    let wrong = |changes: &[Vec<u8>]| {
        let mut writer = noted("wrong");
        writer.noted(&section(0, changes), &[]);
        let told = writer.wrong();
        assert!(told.contains("(batch 4, sequence 3)"), "{told}");
        told
    };
    assert!(wrong(&[position("kafka/t/0", 4, -1)]).contains("source kafka/t/0 goes back from 5 to 4"));
    assert!(wrong(&[anew("kafka/t/0", 5, -1)]).contains("source kafka/t/0 begins anew at 5, and that is not back"));
    noted("anew").noted(&section(0, &[anew("kafka/t/0", 4, -1)]), &[]).verify().expect("right");
    assert!(wrong(&[parked(5, b"")]).contains("record 5 is parked; 3 was the last one"));
    assert!(wrong(&[parked(3, b"")]).contains("record 3 is parked; 3 was the last one"));
    assert!(wrong(&[unparked(1)]).contains("record 1 is taken back, and was not parked"));
    assert!(wrong(&[position("", 1, 0)]).contains("cannot be one"));
    assert!(wrong(&[position("a\nb", 1, 0)]).contains("cannot be one"));
    assert!(wrong(&[position(&"x".repeat(513), 1, 0)]).contains("cannot be one"));
    assert!(wrong(&[vec![5]]).contains("unknown kind 5"));
    assert!(wrong(&[unparked(2)[..8].to_vec()]).contains("expected"));
    assert!(wrong(&[]).contains("sources without a change"));
    let mut writer = noted("flags");
    writer.noted(&section(4, &[unparked(2)]), &[]);
    assert!(writer.wrong().contains("unknown flags 0x4"));
}

/// C3: what a checkpoint says of sources is what the journal says, as of its batch.
#[test]
fn a_checkpoint_is_compared_as_of_its_batch() {
    let with = |batch: u64, section: &[u8], last: u64| {
        let mut writer = noted("checkpoint");
        writer.checkpoint(2, writer.time, &[("a", 2, 2, 2)]);
        let checkpoint = with_section(&writer.checkpoints[&2], batch, section, last);
        writer.checkpoints.insert(2, checkpoint);
        writer.noted(&[&[0], &unparked(3)[..]].concat(), &[]);
        writer.closing();
        writer
    };
    assert_eq!(with(3, &all(), 3).verify().expect("right").checkpoints, 1);
    let later = [position("kafka/t/0", 5, -1), position("é", i64::MIN, 0), parked(2, b"")].concat();
    with(4, &later, 3).verify().expect("right");
    with(5, &later, 3).verify().expect("right");
    assert!(with(3, &later, 3).wrong().contains("parked record 3 is not as the journal has it"));
    assert!(with(3, &all(), 4).wrong().contains("4 was the last parked record; the journal says 3"));
    assert!(with(3, &all()[28..], 3).wrong().contains("source kafka/t/0"));
    let other = [position("kafka/t/0", 6, -1), all()[28..].to_vec()].concat();
    assert!(
        with(3, &other, 3).wrong().contains("source kafka/t/0 is at Some((6, -1)); the journal says Some((5, -1))")
    );
    assert!(with(1, &all(), 3).wrong().contains("sources as of batch 1; its entry is in 2"));
    assert!(with(9, &all(), 3).wrong().contains("sources as of batch 9; the journal ends at 5"));
    assert!(with(3, &[parked(2, b""), position("a", 1, 1)].concat(), 3).wrong().contains("source a is out of order"));
    assert!(with(3, &parked(4, b""), 3).wrong().contains("parked record 4 is out of order"));
    assert!(with(3, &unparked(2), 3).wrong().contains("record 2 is taken back in a checkpoint"));
    // One that says nothing of them is wrong as well.
    let mut writer = noted("silent");
    writer.checkpoint(2, writer.time, &[("a", 2, 2, 2)]);
    writer.noted(&[&[0], &unparked(3)[..]].concat(), &[]);
    assert!(writer.wrong().contains("source kafka/t/0 is at None"));
}

/// C4: a journal whose beginning was dropped goes on from what its checkpoint says.
#[test]
fn a_journal_without_its_beginning_goes_on_from_its_checkpoint() {
    let mut writer = noted("dropped");
    writer.checkpoint(2, writer.time, &[("a", 2, 2, 2)]);
    let checkpoint = with_section(&writer.checkpoints[&2], 3, &all(), 3);
    writer.checkpoints.insert(2, checkpoint.clone());
    writer.segment();
    writer.noted(&section(0, &[parked(4, b"four"), unparked(2)]), &[]);
    writer.segments.remove(&1);
    let report = writer.verify().expect("right");
    assert_eq!((report.sources, report.parked, report.replayed_from), (2, 2, 2));
    // One that says more than there is.
    for batch in [5, u64::MAX] {
        let newer = with_section(&without_section(&checkpoint), batch, &all(), 3);
        writer.checkpoints.insert(2, newer);
        let told = writer.wrong();
        assert!(told.contains(&format!("as of batch {batch}; the journal ends at 4")), "{told}");
    }
    // What the batches between say is gone.
    let older = with_section(&without_section(&checkpoint), 2, &[position("kafka/t/0", 5, -1)].concat(), 1);
    writer.checkpoints.insert(2, older);
    assert!(writer.wrong().contains("the journal begins with batch 4; the sources are as of 2"));
}

fn without_section(checkpoint: &[u8]) -> Vec<u8> {
    [&checkpoint[..128], &checkpoint[128 + all().len()..]].concat()
}

/// D3, D4, C3: what the engine notes is right, over restarts, checkpoints and large notes.
#[test]
fn what_the_engine_notes_is_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let account = AccountId::new("a").expect("an id");
    for round in 0..4_i64 {
        let builder = Ledger::builder().segment_bytes(1 << 20).checkpoint_every(5);
        let ledger = builder.open(dir.path()).expect("opens").with_durability(Durability::OnDisk);
        let _ = ledger.create(&account, 0);
        for step in 0..10_i64 {
            let after = ledger.update(&account, 1).expect("room")[0].sequence;
            let (from, next) = (ledger.source("s").map(|at| at.next), round * 10 + step);
            let advances = vec![Advance { source: "s".to_owned(), from, next, fingerprint: step, anew: false }];
            let parked = vec![vec![step as u8; if step == 7 { 3 << 20 } else { 100 }]];
            let unparked = ledger.parked(1).into_iter().map(|parked| parked.number).filter(|_| step % 2 == 0).collect();
            ledger.wait_noted(Note { after, advances, parked, unparked }).expect("kept");
        }
        let (sources, left) = (ledger.sources().len() as u64, ledger.parked(usize::MAX).len() as u64);
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(ledger);
        let report = equipoise::verify::verify(dir.path(), &Options::default(), &mut |_, _| {}).expect("right");
        assert_eq!((report.sources, report.parked), (sources, left));
    }
}
