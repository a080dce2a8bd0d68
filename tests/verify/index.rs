//! The id index against the journal.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use crate::writer::{Entry, LEDGER, SEGMENT, Writer, check, create, put, sample, update};

type Id = (&'static str, u64, u64, u32);

/// The first 16 bytes of the id's BLAKE3, keyed with the ledger's id twice.
fn key(id: &str) -> [u8; 16] {
    let twice = [LEDGER, LEDGER].concat().try_into().expect("32 bytes");
    blake3::keyed_hash(&twice, id.as_bytes()).as_bytes()[..16].try_into().expect("16 bytes")
}

/// Fences and filter; one block is enough here.
fn tail(keys: &[[u8; 16]]) -> Vec<u8> {
    let mut block = [0; 64];
    for key in keys {
        let lower = u64::from_be_bytes(key[8..].try_into().expect("8 bytes"));
        for probe in 0..6 {
            let bit = (lower >> (9 * probe)) % 512;
            block[bit as usize / 8] |= 1 << (bit % 8);
        }
    }
    let fences = keys.chunks(113).flat_map(|page| page[0]);
    fences.chain(if keys.is_empty() { Vec::new() } else { block.to_vec() }).collect()
}

fn page(records: &[u8], number: u64, first: u64, last: u64) -> Vec<u8> {
    let mut page = records.to_vec();
    page.resize(113 * 36, 0);
    [number, first, last].iter().for_each(|says| page.extend(says.to_le_bytes()));
    page.extend(crc32c::crc32c(&page).to_le_bytes());
    page
}

fn header(ledger: &[u8], first: u64, last: u64, records: u64, tail: &[u8]) -> Vec<u8> {
    let mut header = 1_u32.to_le_bytes().to_vec();
    header.extend(ledger);
    let blocks = u64::from(records > 0);
    [first, last, records, blocks].iter().for_each(|says| header.extend(says.to_le_bytes()));
    header.extend(crc32c::crc32c(tail).to_le_bytes());
    header.resize(128 - 12, 0);
    let mut header = [&b"EQPIDRN1"[..], &crc32c::crc32c(&header).to_le_bytes(), &header].concat();
    header.resize(4096, 0);
    header
}

/// A run of `first..=last` beside the journal of `writer`, with the records in the order of their keys.
fn run(writer: &Writer, (first, last): (u64, u64), ids: &[Id]) -> PathBuf {
    let mut records: Vec<_> = ids
        .iter()
        .map(|(id, sequence, time, member)| {
            [&key(id)[..], &sequence.to_le_bytes(), &time.to_le_bytes(), &member.to_le_bytes()].concat()
        })
        .collect();
    records.sort_unstable();
    let keys: Vec<[u8; 16]> = records.iter().map(|record| record[..16].try_into().expect("16 bytes")).collect();
    let pages = records.chunks(113).zip(0..).flat_map(|(records, number)| page(&records.concat(), number, first, last));
    let tail = tail(&keys);
    let mut bytes = header(&LEDGER, first, last, records.len() as u64, &tail);
    bytes.extend(pages);
    bytes.extend(tail);
    let folder = writer.directory.join("ids");
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(format!("{first:020}-{last:020}.run"));
    fs::write(&path, bytes).expect("written");
    path
}

/// One run, from the first entry on.
fn index(writer: &Writer, published: u64, ids: &[Id]) {
    run(writer, (1, published), ids);
}

/// Three entries: x and y in the first, none in the second, z in the third.
fn ledger(name: &str) -> (Writer, u64) {
    let mut writer = Writer::new(&format!("index-{name}"));
    let begin = writer.time;
    let chain = [create("x", "a", 1, (1, 1)), update("y", "a", 1, (2, 2))];
    writer.batch(&[Entry::of(&chain), Entry::of(&[update("", "a", 1, (3, 3))])]);
    writer.batch(&[Entry::of(&[update("z", "a", 1, (4, 4))])]);
    writer.write();
    (writer, begin)
}

/// C4: every id of every entry is where the index says.
#[test]
fn an_index_with_every_id() {
    let (writer, begin) = ledger("every");
    index(&writer, 3, &[("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)]);
    let report = check(&writer.directory).expect("nothing is wrong");
    assert_eq!((report.indexed_ids, report.notes.len()), (Some(3), 0), "{report:?}");
}

/// What is not published yet is not asked for.
#[test]
fn an_index_that_is_behind() {
    let (writer, begin) = ledger("behind");
    index(&writer, 2, &[("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1)]);
    assert_eq!(check(&writer.directory).expect("nothing is wrong").indexed_ids, Some(2));
}

#[test]
fn an_index_that_is_wrong() {
    let wrong = |name: &str, published, ids: &dyn Fn(u64) -> Vec<Id>| {
        let (writer, begin) = ledger(name);
        index(&writer, published, &ids(begin));
        check(&writer.directory).expect_err("something is wrong").to_string()
    };
    let error = wrong("missing", 3, &|begin| vec![("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1)]);
    assert!(error.contains("(batch 2, sequence 3): id z is missing in the id index"), "{error}");
    let error = wrong("member", 3, &|begin| vec![("x", 1, begin + 1, 0), ("y", 1, begin + 1, 0)]);
    assert!(error.contains("the id index has id y at sequence 1"), "{error}");
    let error = wrong("time", 3, &|begin| vec![("x", 1, begin, 0)]);
    assert!(error.contains("the id index has id x at sequence 1"), "{error}");
    let error =
        wrong("later", 3, &|begin| vec![("x", 3, begin + 3, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)]);
    assert!(error.contains("id x is said to be used by sequence 3, which does not"), "{error}");
    let error = wrong("beyond", 4, &|_| Vec::new());
    let expected =
        "4.run, offset 40: it has the ids of entries up to sequence 4; the journal ends at 3: a tail is missing";
    assert!(error.ends_with(expected), "{error}");
}

/// C1: what a service adds to the journal and the index after the segments were listed is no missing tail.
#[test]
fn a_service_that_rolls_meanwhile() {
    let (mut writer, begin) = ledger("rolls");
    index(&writer, 3, &[("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)]);
    let lock = File::options().write(true).open(writer.directory.join("LOCK")).expect("a file");
    lock.try_lock().expect("nobody else has it");
    // It is looked at after the listing, and holds that up until it is closed.
    let spare = writer.directory.join("journal/spare");
    fs::remove_file(&spare).expect("removed");
    assert!(Command::new("mkfifo").arg(&spare).status().expect("runs").success());
    std::thread::scope(|scope| {
        let directory = writer.directory.clone();
        let report = scope.spawn(move || check(&directory));
        let listed = File::options().write(true).open(&spare).expect("listed");
        writer.segment();
        writer.batch(&[Entry::of(&[update("w", "a", 1, (5, 5))])]);
        fs::write(writer.directory.join("journal/0000000002.segment"), &writer.segments[&2]).expect("written");
        run(&writer, (4, 4), &[("w", 4, begin + 4, 0)]);
        drop(listed);
        let report = report.join().expect("no panic").expect("nothing is wrong");
        assert_eq!((report.last_sequence, report.indexed_ids), (3, Some(3)), "{report:?}");
    });
}

/// C1: what the index knows and a journal without any entry does not is missing, also where the index is to be made anew.
#[test]
fn a_journal_that_was_cut_to_nothing() {
    let (writer, begin) = ledger("nothing");
    let path = run(&writer, (1, 3), &[("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)]);
    let missing = || {
        let problem = check(&writer.directory).expect_err("three entries are missing");
        assert_eq!((problem.file.as_path(), problem.offset), (path.as_path(), Some(40)), "{problem}");
        assert!(problem.what.ends_with("up to sequence 3; the journal ends at 0: a tail is missing"), "{problem}");
    };
    let segment = writer.directory.join("journal/0000000001.segment");
    let header = fs::read(&segment).expect("read")[..4096].to_vec();
    put(&segment, &[]);
    missing();
    put(&segment, &[header, vec![0; SEGMENT - 4096]].concat());
    missing();
    fs::write(writer.directory.join("ids/damaged"), "a page").expect("written");
    missing();
    fs::remove_dir_all(writer.directory.join("ids")).expect("removed");
    check(&writer.directory).expect("nobody knows of any entry");
}

/// B4: an id may be used again after the window; the index has the last use.
#[test]
fn an_id_used_again_after_the_window() {
    let mut writer = Writer::new("index-again");
    let later = writer.time + 48 * 60 * 60 * 1_000_000_000;
    writer.batch(&[Entry::of(&[create("x", "a", 1, (1, 1))])]);
    writer.batch(&[Entry::of(&[update("x", "a", 1, (2, 2))]).at(later)]);
    writer.write();
    index(&writer, 2, &[("x", 2, later, 0)]);
    assert_eq!(check(&writer.directory).expect("nothing is wrong").indexed_ids, Some(1));
}

/// B4: several runs are one chain; those that another contains are left over from merging.
#[test]
fn an_index_of_several_runs() {
    let (writer, begin) = ledger("several");
    let (x, y, z) = (("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0));
    run(&writer, (1, 1), &[x, y]);
    run(&writer, (2, 2), &[]);
    let last = run(&writer, (3, 3), &[z]);
    assert_eq!(check(&writer.directory).expect("nothing is wrong").indexed_ids, Some(3));
    let merged = run(&writer, (1, 2), &[x, y]);
    assert_eq!(check(&writer.directory).expect("nothing is wrong").indexed_ids, Some(3));
    fs::write(writer.directory.join("ids/00000000000000000004-00000000000000000005.tmp"), "half").expect("written");
    fs::remove_file(last).expect("removed");
    assert_eq!(check(&writer.directory).expect("nothing is wrong").indexed_ids, Some(2));
    let many: Vec<_> = (0..300).map(|number| (&*format!("id-{number}").leak(), 2, begin + 2, 0)).collect();
    run(&writer, (3, 3), &[z]);
    fs::remove_file(merged).expect("removed");
    fs::remove_file(writer.directory.join("ids").join(format!("{0:020}-{0:020}.run", 2))).expect("removed");
    let error = check(&writer.directory).expect_err("a gap").to_string();
    assert!(error.ends_with("the run before it ends with sequence 1"), "{error}");
    run(&writer, (2, 2), &many);
    assert_eq!(check(&writer.directory).expect("ids that nobody used are harmless").indexed_ids, Some(3));
}

/// C4: any byte that is not what was written is found.
#[test]
fn a_run_that_is_damaged() {
    let (writer, begin) = ledger("damaged");
    let path = run(&writer, (1, 3), &[("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)]);
    check(&writer.directory).expect("nothing is wrong");
    let bytes = fs::read(&path).expect("read");
    for at in (0..160).chain((160..bytes.len()).step_by(29)).chain(bytes.len() - 80..bytes.len()) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).expect("written");
        let problem = check(&writer.directory).expect_err("something is wrong");
        assert_eq!(problem.file, path, "byte {at}: {problem}");
    }
    for length in (0..bytes.len()).step_by(131) {
        fs::write(&path, &bytes[..length]).expect("written");
        assert_eq!(check(&writer.directory).expect_err("something is wrong").file, path, "cut at {length}");
    }
}

/// C4: what has the right checksums and is wrong all the same.
#[test]
fn a_run_that_is_written_wrongly() {
    let (writer, begin) = ledger("rules");
    let ids = [("x", 1, begin + 1, 0), ("y", 1, begin + 1, 1), ("z", 3, begin + 3, 0)];
    let path = run(&writer, (1, 3), &ids);
    let good = fs::read(&path).expect("read");
    let wrong = |at: usize, records: &[u8], tail: &[u8]| {
        let bytes = [&header(&LEDGER, 1, 3, records.len() as u64 / 36, tail), &page(records, 0, 1, 3)[..], tail];
        fs::write(&path, bytes.concat()).expect("written");
        let problem = check(&writer.directory).expect_err("something is wrong");
        assert_eq!(problem.offset, Some(at as u64), "{problem}");
        problem.what
    };
    let (records, tail) = (&good[4096..4096 + 3 * 36], &good[8192..]);
    let swapped = [&records[36..72], &records[..36], &records[72..]].concat();
    assert_eq!(wrong(4096 + 36, &swapped, tail), "a key that is not after the one before");
    assert_eq!(wrong(4096, records, &[&tail[..16], &[0; 64]].concat()), "a key that the filter does not know");
    assert_eq!(wrong(4096, records, &[&[0; 16], &tail[16..]].concat()), "its fence is not its first key");
    let late = [&records[..16], &4_u64.to_le_bytes(), &records[24..]].concat();
    assert_eq!(wrong(4096, &late, tail), "sequence 4 in the run of 1 to 3");
    let strange = [&records[..32], &1024_u32.to_le_bytes(), &records[36..]].concat();
    assert_eq!(wrong(4096, &strange, tail), "member 1024");
    let mut bytes = header(&[0; 16], 1, 3, 3, tail);
    bytes.extend(&good[4096..]);
    fs::write(&path, bytes).expect("written");
    let error = check(&writer.directory).expect_err("another ledger's").to_string();
    let expected = "the id index is of ledger 00000000000000000000000000000000, the journal of 7468";
    assert!(error.contains(expected), "{error}");
}

/// It is derived data: one that is not there, or will be made anew, is noted.
#[test]
fn an_index_that_is_left_out() {
    let writer = sample("index-odd");
    let directory = writer.write();
    let noted = |why: &str| {
        let report = check(directory).expect("nothing is wrong");
        assert_eq!(report.notes, [format!("the id index was not checked: {why}")]);
        assert_eq!(report.indexed_ids, None);
    };
    noted("there is none");
    fs::create_dir(directory.join("ids")).expect("a folder");
    noted("it was never filled");
    fs::write(directory.join("ids/damaged"), "a page").expect("written");
    noted("it is marked as damaged");
}
