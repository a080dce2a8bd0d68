//! Checkpoints against the journal, and journals whose beginning was dropped.

use crate::writer::{Entry, SEGMENT, Writer, account, check, checkpoint, create, put, sample, sign_header, update};

type Row = (&'static str, i64, u64, u64);

const AT_6: [Row; 2] = [("alice", 70, 2, 3), ("bob", 30, 2, 3)];

fn at_6(rows: &[Row]) -> Writer {
    let mut writer = sample("at-6");
    let time = u64::from_le_bytes(writer.checkpoints[&6][24..32].try_into().expect("eight bytes"));
    writer.checkpoint(6, time, rows);
    writer
}

/// C3: a checkpoint at n is what the first n entries make.
#[test]
fn a_checkpoint_is_the_replay_at_its_sequence() {
    let changed = |change: fn(&mut Row)| {
        let mut rows = AT_6;
        change(&mut rows[1]);
        at_6(&rows).wrong()
    };
    let error = changed(|row| row.1 = 31);
    assert!(error.contains("00000000000000000006.checkpoint, offset "), "{error}");
    assert!(error.contains("account bob: balance 31, version 2, changed by 3; replay gives balance 30"), "{error}");
    assert!(changed(|row| row.2 = 3).contains("version 3, changed by 3; replay gives balance 30, version 2"));
    assert!(changed(|row| row.3 = 2).contains("changed by 2; replay gives balance 30, version 2, changed by 3"));
    assert!(changed(|row| row.0 = "carol").contains("account carol is in the checkpoint, and no entry opened it"));
    assert!(changed(|row| row.3 = 7).contains("cannot be"));
    assert!(changed(|row| row.2 = 0).contains("cannot be"));
    assert!(changed(|row| row.1 = -1).contains("cannot be"));
    assert!(changed(|row| row.0 = "alice").contains("account alice does not come after account alice"));
    assert!(at_6(&AT_6[..1]).wrong().contains("1 accounts; replay gives 2"));
    assert!(at_6(&[AT_6[1], AT_6[0]]).wrong().contains("account alice does not come after account bob"));
}

#[test]
fn a_checkpoint_is_sound_in_itself() {
    let writer = sample("itself");
    let good = writer.checkpoints[&6].clone();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut writer = sample("itself-changed");
        let mut bytes = good.clone();
        change(&mut bytes);
        writer.checkpoints.insert(6, bytes);
        writer.wrong()
    };
    let signed = |offset: usize| {
        with(&|bytes| {
            bytes[offset] ^= 1;
            sign_header(bytes);
        })
    };
    assert!(signed(12).contains("format version 0"));
    assert!(signed(16).contains("the header says sequence 7, the file's name 6"));
    assert!(signed(24).contains("of its entry; the journal says"));
    assert!(signed(32).contains("the checkpoint is of ledger"));
    assert!(signed(48).contains("3 accounts") || signed(48).contains("the file ends here"));
    assert!(signed(56).contains("the balances add up to 100"));
    assert!(signed(100).contains("not zero"));
    assert!(with(&|bytes| bytes.push(0)).contains("bytes after the last account"));
    let huge = with(&|bytes| bytes[128..132].copy_from_slice(&u32::MAX.to_le_bytes()));
    assert!(huge.contains("a block of 4294967295 bytes"), "{huge}");
    let (path, directory) = (writer.files().swap_remove(2).0, writer.write());
    for at in 0..good.len() {
        put(&path, &good[..at]);
        check(directory).expect_err("cut");
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        put(&path, &flipped);
        check(directory).expect_err("flipped");
    }
    let fewer = [vec![account(&AT_6[0]), account(&AT_6[1])]];
    let mut writer = sample("fewer");
    writer.checkpoints.insert(6, checkpoint(6, 0, 1, 70, &fewer));
    assert!(writer.wrong().contains("of its entry"));
}

#[test]
fn a_checkpoint_beyond_the_end_is_damage() {
    let mut writer = sample("beyond");
    writer.checkpoint(13, writer.time, &[]);
    let error = writer.wrong();
    assert!(error.ends_with("checkpoint, offset 16: a checkpoint at sequence 13; the journal ends at 12"), "{error}");
}

/// C2: retention drops whole old segments; the rest is replayed from the oldest checkpoint that it reaches back to.
#[test]
fn a_journal_without_its_beginning() {
    let mut writer = sample("later");
    writer.segments.remove(&1);
    let report = writer.verify().expect("nothing is wrong");
    assert_eq!((report.first_sequence, report.last_sequence, report.replayed_from), (7, 12, 6));
    assert_eq!((report.entries, report.accounts, report.checkpoints), (6, 3, 2));
    assert!(report.notes[0].contains("the journal begins with sequence 7: replayed from "), "{report:?}");

    // With the newer one only, the entries up to it are checked in themselves.
    let older = writer.checkpoints.remove(&6).expect("a checkpoint");
    let report = writer.verify().expect("nothing is wrong");
    assert_eq!((report.replayed_from, report.accounts, report.entries), (11, 3, 6));

    let newer = writer.checkpoints.remove(&11).expect("a checkpoint");
    let error = writer.wrong();
    assert!(error.contains("the journal begins with sequence 7, and no checkpoint holds what was before"), "{error}");

    // One that is wrong is found, whichever it is.
    let mut wrong = newer.clone();
    wrong[24] ^= 1;
    sign_header(&mut wrong);
    writer.checkpoints.insert(11, wrong.clone());
    assert!(writer.wrong().contains("its checkpoint says"));
    writer.checkpoints.insert(6, older);
    assert!(writer.wrong().contains("of its entry; the journal says"));
    writer.checkpoints.insert(11, newer);
    writer.verify().expect("nothing is wrong");
}

#[test]
fn a_checkpoint_older_than_the_journal_is_only_read() {
    let mut writer = Writer::new("older");
    writer.batch(&[Entry::of(&[create("", "a", 1, (1, 1))])]);
    writer.checkpoint(1, writer.time, &[("a", 1, 1, 1)]);
    writer.batch(&[Entry::of(&[update("", "a", 1, (2, 2))])]);
    writer.segment();
    writer.checkpoint(2, writer.time, &[("a", 2, 2, 2)]);
    writer.batch(&[Entry::of(&[update("", "a", 1, (3, 3))])]);
    writer.segments.remove(&1);
    let report = writer.verify().expect("nothing is wrong");
    assert_eq!((report.replayed_from, report.checkpoints, report.total), (2, 2, 3));
    assert!(report.notes[0].contains("older than the journal: checked in itself only"), "{report:?}");
    writer.checkpoints.get_mut(&1).expect("a checkpoint")[130] ^= 1;
    writer.wrong();
}

/// Accounts may be many: blocks follow one another.
#[test]
fn a_checkpoint_of_many_blocks() {
    let mut writer = Writer::new("blocks");
    writer.segment_bytes = SEGMENT * 20;
    writer.segments.clear();
    writer.segment();
    let names: Vec<_> = (0..500).map(|number| format!("account-{number:04}")).collect();
    let open = names.iter().map(|name| Entry::of(&[create("", name, 1, (1, 1))]));
    writer.batch(&open.collect::<Vec<_>>());
    let rows: Vec<_> = names.iter().zip(1..).map(|(name, sequence)| account(&(name, 1, 1, sequence))).collect();
    let blocks: Vec<_> = rows.chunks(7).map(<[_]>::to_vec).collect();
    writer.checkpoints.insert(500, checkpoint(500, writer.time, 500, 500, &blocks));
    assert_eq!(writer.verify().expect("nothing is wrong").checkpoints, 1);
    writer.checkpoints.insert(500, checkpoint(500, writer.time, 499, 500, &blocks));
    assert!(writer.wrong().contains("more accounts than the 499"));
}
