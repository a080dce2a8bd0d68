//! Bytes that changed, files that were cut, files that are missing.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::writer::{Entry, SEGMENT, Writer, check, create, put, sample, segment_header, sign_header, update};

fn path(writer: &Writer, segment: u64) -> std::path::PathBuf {
    writer.directory.join(format!("journal/{segment:010}.segment"))
}

/// What `check` says: a torn tail, nothing, or an error.
fn outcome(directory: &Path) -> &'static str {
    match check(directory) {
        Err(_) => "error",
        Ok(report) if report.notes.iter().any(|note| note.starts_with("torn tail at ")) => "torn",
        Ok(report) if report.notes.iter().any(|note| note.contains("is an unused segment")) => "unused",
        Ok(_) => "whole",
    }
}

/// C2: whichever byte of the journal changes, it is found; a torn tail is taken for one only at the very end.
#[test]
fn every_changed_byte_is_found() {
    let writer = sample("bytes");
    let directory = writer.write();
    let (last_segment, last_batch) = *writer.batches.last().expect("a batch");
    for (number, bytes) in &writer.segments {
        let file = OpenOptions::new().write(true).open(path(&writer, *number)).expect("a file");
        // The zeros of headers and ends are all alike.
        let places = (0..SEGMENT).filter(|at| *at < 128 || (4096..bytes.len() + 16).contains(at) || at % 61 == 0);
        for at in places {
            let byte = bytes.get(at).copied().unwrap_or(0);
            let flipped = byte ^ (1 << (at % 8));
            file.write_at(&[flipped], at as u64).expect("written");
            let torn = *number == last_segment && at >= last_batch;
            let expected = if torn { "torn" } else { "error" };
            assert_eq!(outcome(directory), expected, "segment {number}, offset {at}");
            file.write_at(&[byte], at as u64).expect("written");
        }
    }
    assert_eq!(outcome(directory), "whole", "everything was put back");
}

/// The tail may be torn anywhere: zeros from some byte of the last batch on are a torn tail, to be cut by the next start.
#[test]
fn a_tail_torn_anywhere_is_a_note() {
    let writer = sample("torn");
    let directory = writer.write();
    let (number, begin) = *writer.batches.last().expect("a batch");
    let bytes = &writer.segments[&number];
    for at in begin + 1..bytes.len() {
        let mut torn = bytes[..at].to_vec();
        let written = torn.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        torn.resize(SEGMENT, 0);
        put(&path(&writer, number), &torn);
        let report = check(directory).expect("a torn tail is no error");
        let whole = written == bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if !whole {
            let note = format!("offset {begin}, {} bytes: the next start cuts it", written - begin);
            assert!(report.notes.iter().any(|text| text.ends_with(&note)), "{report:?}, cut at {at}");
            assert_eq!(report.batches, 5);
        }
    }
}

/// A file of another length is damage, but the newest one: it is torn, as long as no checkpoint needs what is missing.
#[test]
fn a_file_of_any_length() {
    let writer = sample("cut");
    let directory = writer.write();
    let needed = writer.batches[4].1;
    for (number, bytes) in &writer.segments {
        let mut whole = bytes.clone();
        whole.resize(SEGMENT, 0);
        let lengths = (0..SEGMENT + 20).filter(|at| *at < 200 || *at > 4000 && at % 7 == 0 || at % 61 == 0);
        // Where only padding is missing, the batch before is whole.
        for length in lengths.chain([SEGMENT - 1, SEGMENT + 1]).filter(|at| !(needed - 7..needed).contains(at)) {
            let mut bytes = whole.clone();
            bytes.resize(length, 1);
            put(&path(&writer, *number), &bytes);
            let expected = match number {
                2 if length >= needed => "torn",
                _ => "error",
            };
            assert_eq!(outcome(directory), expected, "segment {number} cut at {length}");
        }
        put(&path(&writer, *number), &whole);
    }
    // Without the checkpoint that needs it, a newest segment without a header is the unused tail.
    fs::remove_file(directory.join("checkpoints/00000000000000000011.checkpoint")).expect("removed");
    for length in [0, 1, 8, 127] {
        put(&path(&writer, 2), &writer.segments[&2][..length]);
        assert_eq!(outcome(directory), "unused", "cut at {length}");
    }
    for length in [128, 4095, 4096, 4100, 5000] {
        put(&path(&writer, 2), &writer.segments[&2][..length.min(writer.segments[&2].len())]);
        assert_eq!(outcome(directory), "torn", "cut at {length}");
    }
}

/// What is wrong with a file's length, and where; for the newest, what the next start does about it.
#[test]
fn a_wrong_length_is_told_with_its_place() {
    let writer = sample("length");
    let directory = writer.write();
    let problem = |length: usize| {
        let mut bytes = writer.segments[&1].clone();
        bytes.resize(length, 0);
        put(&path(&writer, 1), &bytes);
        check(directory).expect_err("not the newest")
    };
    for (length, place) in [(SEGMENT - 1, SEGMENT - 1), (SEGMENT - 8, SEGMENT - 8), (SEGMENT + 1, SEGMENT)] {
        let problem = problem(length);
        assert_eq!((problem.file.clone(), problem.offset), (path(&writer, 1), Some(place as u64)), "{problem}");
        assert_eq!(problem.what, format!("the file is {length} bytes long, its header says {SEGMENT}"));
    }
    let last = writer.batches.iter().rfind(|(segment, _)| *segment == 1).expect("a batch").1;
    assert_eq!(problem(last + 90).offset, Some(last as u64), "the batch that is cut");
    let directory = writer.write();
    for (length, place, then) in [
        (SEGMENT - 1, format!("{} bytes", 0), "the next start fills it up"),
        (SEGMENT + 3, format!("{} bytes", 3), "the next start cuts it"),
    ] {
        let mut bytes = writer.segments[&2].clone();
        bytes.resize(length, 0);
        put(&path(&writer, 2), &bytes);
        let offset = length.min(SEGMENT);
        let file = path(&writer, 2);
        let note = format!(
            "torn tail at {} offset {offset}, {place}: the file is {length} bytes long, its header says {SEGMENT}; {then}",
            file.display()
        );
        let report = check(directory).expect("a torn tail");
        assert!(report.notes.contains(&note), "{report:?}");
        assert_eq!((report.batches, report.last_sequence), (6, 12));
    }
}

/// A good batch after a bad one, in this segment or a later one, makes it damage.
#[test]
fn a_bad_batch_before_a_good_one_is_damage() {
    let mut writer = sample("middle");
    for (batch, (segment, offset)) in (1_u64..).zip(writer.batches.clone()).take(5) {
        writer.segments.get_mut(&segment).expect("a segment")[offset + 90 % 80] ^= 1;
        let error = writer.wrong();
        assert!(
            error.contains(&format!("{segment:010}.segment, offset {offset} (batch {batch}, sequence ")),
            "{error}"
        );
        assert!(
            error.contains("the checksum of the batch does not match, and there is a good batch after it"),
            "{error}"
        );
        writer.segments.get_mut(&segment).expect("a segment")[offset + 90 % 80] ^= 1;
    }
}

/// A torn batch is damage when the next segment says that it was whole.
#[test]
fn a_torn_batch_before_a_later_segment_is_damage() {
    let mut writer = Writer::new("before-later");
    writer.batch(&[Entry::of(&[create("", "a", 1, (1, 1))])]);
    writer.batch(&[Entry::of(&[update("", "a", 1, (2, 2))])]);
    writer.segment();
    let offset = writer.batches[1].1;
    writer.segments.get_mut(&1).expect("a segment")[offset + 50] ^= 1;
    let error = writer.wrong();
    assert!(error.contains("0000000002.segment says that batch 3 comes next"), "{error}");
    // Cut cleanly, it is as bad.
    writer.segments.get_mut(&1).expect("a segment").truncate(offset);
    let error = writer.wrong();
    assert!(error.contains("first batch 3 in the segment's header; the journal before says 2"), "{error}");
}

#[test]
fn padding_is_zeros() {
    let mut writer = sample("padding");
    let (number, bytes) = writer.segments.iter_mut().next().expect("a segment");
    assert_eq!(*number, 1);
    let end = writer.batches[1].1;
    assert_eq!(bytes[end - 1], 0, "the first batch of the sample ends with padding");
    bytes[end - 1] = 1;
    let error = writer.wrong();
    assert!(error.contains("the padding of the batch is not zero"), "{error}");
    // At the end, what tears a tail off may begin there.
    let mut writer = Writer::new("padding-torn");
    writer.batch(&[Entry::of(&[create("", "a", 1, (1, 1))])]);
    let bytes = writer.segments.get_mut(&1).expect("a segment");
    let end = bytes.len();
    assert_eq!(bytes[end - 1], 0, "it ends with padding");
    for torn in [&[1][..], &[1, 2, 3]] {
        bytes.truncate(end - 1);
        bytes.extend(torn);
        let (bytes, length) = (bytes.clone(), torn.len());
        let mut writer = Writer::new("padding-torn");
        writer.segments.insert(1, bytes);
        let notes = writer.verify().expect("a torn tail").notes;
        let note = format!("0000000001.segment offset {}, {length} bytes: the next start cuts it", end - 1);
        assert!(notes.iter().any(|told| told.ends_with(&note)), "{notes:?}");
    }
}

#[test]
fn missing_segments_are_named() {
    let mut writer = sample("missing");
    writer.segment();
    writer.segment();
    writer.verify().expect("empty segments at the end are nothing wrong");
    let directory = writer.write();
    fs::remove_file(path(&writer, 2)).expect("removed");
    let error = check(directory).expect_err("missing").to_string();
    assert!(error.ends_with("0000000002.segment, offset 0: the segment is missing"), "{error}");
    fs::remove_file(path(&writer, 3)).expect("removed");
    let error = check(directory).expect_err("missing").to_string();
    assert!(error.ends_with("0000000002.segment, offset 0: segments 2 to 3 are missing"), "{error}");
    fs::remove_dir_all(directory.join("journal")).expect("removed");
    let error = check(directory).expect_err("missing").to_string();
    assert!(error.contains("journal: cannot be read: "), "{error}");
    fs::create_dir(directory.join("journal")).expect("a folder");
    let error = check(directory).expect_err("missing").to_string();
    assert!(error.ends_with("journal: there is no segment"), "{error}");
    assert!(check(&directory.join("nowhere")).is_err());
}

/// Headers whose checksum is right and whose content is not.
#[test]
fn headers_must_continue_the_journal() {
    let mut writer = sample("headers");
    let good = writer.segments[&2].clone();
    for (offset, what) in [
        (12, "format version"),
        (16, "the file's name says 2"),
        (24, "first batch"),
        (32, "first sequence"),
        (40, "ledger"),
        (72, "hash"),
        (104, "a segment of 6145 bytes"),
        (112, "not zero"),
    ] {
        let segment = writer.segments.get_mut(&2).expect("a segment");
        segment[offset] ^= 1;
        sign_header(segment);
        let error = writer.wrong();
        assert!(error.contains(what), "{error}");
        assert!(error.contains("0000000002.segment, offset "), "{error}");
        writer.segments.insert(2, good.clone());
    }
    let segment = writer.segments.get_mut(&2).expect("a segment");
    segment[7] = b'2';
    let error = writer.wrong();
    assert!(error.contains("another format than this program reads: a newer version wrote it"), "{error}");
    writer.segments.insert(2, good.clone());
    // The salt: nothing in the segment is good with another one.
    let segment = writer.segments.get_mut(&2).expect("a segment");
    segment[56] ^= 1;
    sign_header(segment);
    let error = writer.wrong();
    assert!(error.contains("a checkpoint at sequence 11; the journal ends at 6"), "{error}");
    let mut writer = Writer::new("first-header");
    writer.segments.insert(1, segment_header(1, 2, 1, [0; 32], SEGMENT));
    assert!(writer.wrong().contains("first batch 2 in the segment's header; the journal before says 1"));
}

/// C1: a spare that is the next segment, with something in it, may hold what was answered: the engine refuses to start on it.
#[test]
fn a_segment_under_the_spares_name_is_told_of() {
    let mut writer = sample("spare");
    let last = *writer.segments.keys().last().expect("a segment");
    let (mut lost, sequence) = (writer.segments.remove(&last).expect("it"), writer.sequence);
    lost.resize(SEGMENT, 0);
    writer.checkpoints.retain(|sequence, _| *sequence <= 6);
    let spare = writer.directory.join("journal/spare");
    let with = |bytes: &[u8]| {
        writer.write();
        fs::write(&spare, bytes).expect("written");
        check(&writer.directory)
    };
    let problem = with(&lost).expect_err("the journal went on there");
    assert_eq!((problem.file.as_path(), problem.offset), (spare.as_path(), Some(4096)), "{problem}");
    let expected = format!("it is the segment that belongs to journal/{last:010}.segment, with something in it");
    assert_eq!(problem.what, expected);
    // An interrupted beginning of a segment, one of another place, and what is no segment are spares.
    let begun = [&lost[..4096], &vec![0; SEGMENT - 4096]].concat();
    assert!(with(&begun).expect("a spare").last_sequence < sequence);
    let mut elsewhere = lost.clone();
    elsewhere[16] ^= 4;
    sign_header(&mut elsewhere);
    with(&elsewhere).expect("it goes on from another place");
    with(&vec![7; 5_000]).expect("no segment");
    fs::File::options().write(true).open(&spare).and_then(|file| file.set_len(2 << 30)).expect("sparse");
    check(&writer.directory).expect("nor is it one for its length");
}

/// A file of a newer format version is told of by name and version, wherever it is: it is not damaged.
#[test]
fn a_newer_format_is_told_apart_from_damage() {
    let writer = sample("newer");
    let files = writer.files();
    for (path, whole) in files.iter().filter(|(path, _)| !path.ends_with("LOCK")) {
        let known = if path.to_str().is_some_and(|path| path.ends_with(".checkpoint")) { 2 } else { 1 };
        writer.write();
        let mut bytes = whole.clone();
        bytes[12..16].copy_from_slice(&7_u32.to_le_bytes());
        fs::write(path, &bytes).expect("written");
        let problem = check(&writer.directory).expect_err("its checksum is wrong");
        assert!(!problem.what.contains("newer release"), "{problem}");
        sign_header(&mut bytes);
        for (file, bytes) in [(path.clone(), &bytes), (writer.directory.join("journal/spare"), &files[0].1)] {
            let mut bytes = bytes.clone();
            bytes[12..16].copy_from_slice(&7_u32.to_le_bytes());
            sign_header(&mut bytes);
            writer.write();
            fs::write(&file, bytes).expect("written");
            let problem = check(&writer.directory).expect_err("nobody knows what it says");
            let known = if file == *path { known } else { 1 };
            let what = format!("format version 7, which a newer release wrote: this one reads versions up to {known}");
            assert_eq!((&problem.file, problem.offset, problem.what), (&file, Some(12), what));
        }
    }
}

/// A batch with a good checksum that does not continue the chain is damage, also at the end.
#[test]
fn batches_must_continue_the_chain() {
    let begin = || {
        let mut writer = Writer::new("chain");
        writer.batch(&[Entry::of(&[create("", "a", 1, (1, 1))])]);
        writer
    };
    let more = [Entry::of(&[update("", "a", 1, (2, 2))])];
    let mut writer = begin();
    writer.batch += 1;
    assert!(writer.batch(&more).wrong().contains("batch 3 where batch 2 should be"));
    let mut writer = begin();
    writer.sequence += 1;
    assert!(writer.batch(&more).wrong().contains("it begins with sequence 3; 2 comes next"));
    let mut writer = begin();
    writer.hash[0] ^= 1;
    assert!(writer.batch(&more).wrong().contains("breaks the chain"));
    let mut writer = begin();
    assert!(writer.raw(0, 0, &[]).wrong().contains("a batch without entries"));
    let mut writer = begin();
    assert!(writer.raw(0, 2, &[]).wrong().contains("unknown flags 0x2"));
    let mut writer = begin();
    let frame = more[0].clone().at(writer.time + 1).frame();
    assert!(writer.raw(1, 1, &frame).wrong().contains("a closing batch with entries"));
    let mut writer = begin();
    assert!(writer.raw(1, 0, &[&frame[..], &[0]].concat()).wrong().contains("bytes after the last entry"));
    let mut writer = begin();
    assert!(writer.raw(2, 0, &frame).wrong().contains("4 bytes expected, and fewer are there"));
    let mut writer = begin();
    assert!(writer.raw(1, 0, &frame).wrong().contains("the batch's time is"));
    let mut writer = begin();
    writer.time -= 1;
    assert!(writer.raw(0, 1, &[]).wrong().contains("the batch's time is"));
}
