//! The index on disk, over starts and damage.

use std::io::Read;

use super::*;

const LEDGER: [u8; 16] = [7; 16];

fn id(number: u64) -> TransactionId {
    TransactionId::new(&format!("order-{number:06}")).expect("an id")
}

fn entry(sequence: u64) -> Indexed {
    Indexed { sequence, time: sequence * 10, member: 3 }
}

/// Ids `from..through` under their own numbers as sequences, in no order.
fn run(from: u64, through: u64) -> Vec<(TransactionId, Indexed)> {
    (from..=through).rev().map(|number| (id(number), entry(number))).collect()
}

fn open(dir: &Path, journal_end: u64) -> DiskIndex {
    DiskIndex::open(dir, LEDGER, journal_end).expect("opens")
}

fn filled(dir: &Path) {
    let index = open(dir, 0);
    for from in [1, 301, 601] {
        index.catch_up(&mut run(from, from + 299), from + 299).expect("ingested");
    }
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn closed() -> IndexError {
    IndexError::NoSpace { path: PathBuf::from("somewhere") }
}

/// B4: what was put in is found after the next start, and says how far it goes.
#[test]
fn ids_outlive_the_process() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index = open(dir.path(), 900);
    assert_eq!((index.wiped(), index.published(), index.count()), (None, 900, 900));
    assert!((1..=900).all(|number| index.find(&id(number)) == Ok(Some(entry(number)))));
    assert_eq!(index.find(&id(901)), Ok(None));
    assert!(index.bytes_on_disk() > 0);
    index.catch_up(&mut Vec::new(), 950).expect("a run without ids");
    drop(index);
    assert_eq!(open(dir.path(), 950).published(), 950);
}

/// B4: an id that was used again is found at its newest entry: in one run, in a later one, and after merging.
#[test]
fn the_newest_entry_of_an_id_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let index = open(dir.path(), 0);
    index.catch_up(&mut vec![(id(1), entry(1)), (id(1), entry(3)), (id(1), entry(2))], 3).expect("ingested");
    assert_eq!(index.find(&id(1)), Ok(Some(entry(3))));
    for sequence in 4..40 {
        index.catch_up(&mut vec![(id(1), entry(sequence)), (id(2), entry(sequence))], sequence).expect("ingested");
        assert_eq!(index.find(&id(1)), Ok(Some(entry(sequence))));
    }
    drop(index);
    let index = open(dir.path(), 40);
    assert_eq!(index.find(&id(1)), Ok(Some(entry(39))));
    index.open.read().as_ref().expect("open").ids.major_compact().expect("merged");
    assert_eq!((index.find(&id(1)), index.find(&id(2))), (Ok(Some(entry(39))), Ok(Some(entry(39)))));
}

/// B4: a run that is taken again after a crash changes nothing.
#[test]
fn a_run_may_be_taken_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index = open(dir.path(), 900);
    index.ingest(&mut run(500, 1_000), 1_000).expect("ingested");
    assert_eq!(index.published(), 900, "ingesting alone publishes nothing");
    index.catch_up(&mut run(500, 1_000), 1_000).expect("ingested");
    assert!((1..=1_000).all(|number| index.find(&id(number)) == Ok(Some(entry(number)))));
    assert_eq!(index.published(), 1_000);
}

/// B4: what belongs to another ledger or another past of this one is deleted, and says why.
#[test]
fn what_is_not_this_journals_is_wiped() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index = DiskIndex::open(dir.path(), [8; 16], 900).expect("opens");
    assert!(index.wiped().expect("wiped").contains("another ledger's"));
    assert_eq!((index.published(), index.find(&id(1))), (0, Ok(None)));
    drop(index);

    filled(dir.path());
    let index = open(dir.path(), 899);
    assert!(index.wiped().expect("wiped").contains("beyond the journal's end"));
    assert_eq!((index.published(), index.find(&id(1))), (0, Ok(None)));
    index.ingest(&mut run(1, 9), 9).expect("ingested");
    drop(index);

    let index = open(dir.path(), 9);
    assert_eq!((index.wiped(), index.published()), (None, 9));
    let begun = |index: &DiskIndex| {
        let open = index.open.read();
        open.as_ref().expect("open").meta.insert(BEGUN, 12_u64.to_le_bytes()).expect("written");
    };
    begun(&index);
    drop(index);
    let index = open(dir.path(), 11);
    assert!(index.wiped().is_some(), "a run may have been taken that the journal does not have");
}

/// Copies a database; of its log, which is as long as it may become, only the beginning.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        let mut bytes = Vec::new();
        let reader = fs::File::open(&file).expect("opened");
        reader.take(1 << 20).read_to_end(&mut bytes).expect("read");
        fs::write(&target, &bytes).expect("written");
    }
}

/// What an index opened after damage says: None if it was wiped, else how many reads failed. No answer is wrong.
fn read_all(dir: &Path, what: &str) -> Option<usize> {
    let index = open(dir, 900);
    if index.wiped().is_some() {
        assert_eq!((index.published(), index.find(&id(1))), (0, Ok(None)), "{what}");
        return None;
    }
    let mut failed = 0;
    for number in 1..=index.published() {
        match index.find(&id(number)) {
            Ok(found) => assert_eq!(found, Some(entry(number)), "{what}"),
            Err(_) => failed += 1,
        }
    }
    Some(failed)
}

/// B4: damage anywhere in the files is found when they are opened or read, never believed, and healed by the next
/// start; nothing panics.
#[test]
fn damage_is_wiped_and_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let (original, damaged) = (dir.path().join("original"), dir.path().join("damaged"));
    filled(&original);
    copy(&original, &damaged);
    assert_eq!(read_all(&damaged, "undamaged"), Some(0));
    let (mut wiped, mut met_later) = (0, 0);
    for file in files(&original) {
        for cut in [false, true] {
            copy(&original, &damaged);
            let victim = damaged.join(file.strip_prefix(&original).expect("below"));
            let mut bytes = fs::read(&victim).expect("read");
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default();
            match cut {
                true => bytes.truncate(written / 3),
                false => bytes.iter_mut().skip(written / 3).take(1).for_each(|byte| *byte ^= 0x10),
            }
            fs::write(&victim, &bytes).expect("written");
            match read_all(&damaged, &format!("{}, cut: {cut}", file.display())) {
                None => wiped += 1,
                Some(0) => {}
                Some(_) => {
                    met_later += 1;
                    assert_eq!(read_all(&damaged, "known to be damaged"), None);
                }
            }
        }
    }
    assert!(wiped > 0 && met_later > 0, "{wiped} wiped, {met_later} met later");
}

/// B2: after an error the index is opened again by the next run; until then, reads fail and nothing is new.
#[test]
fn an_error_is_followed_by_opening_it_again() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index = open(dir.path(), 900);
    *index.open.write() = Err(closed());
    assert!(matches!(index.find(&id(1)), Err(IndexError::NoSpace { .. })));
    index.catch_up(&mut run(901, 910), 910).expect("opened again");
    assert_eq!((index.find(&id(1)), index.find(&id(910))), (Ok(Some(entry(1))), Ok(Some(entry(910)))));

    *index.open.write() = Err(closed());
    index.publish(2_000);
    let lost = index.ingest(&mut run(2_001, 2_010), 2_010);
    assert!(matches!(lost, Err(IndexError::Damaged { .. })), "what was published must be there: {lost:?}");
    drop(index);
    assert!(open(dir.path(), 2_000).wiped().is_some());
}
