//! The index on disk, over starts, merges and damage.

use std::fs;
use std::os::unix::fs::FileExt;

use super::*;

const LEDGER: [u8; 16] = [7; 16];

fn id(number: u64) -> TransactionId {
    TransactionId::new(&format!("order-{number:06}")).expect("an id")
}

fn entry(sequence: u64) -> Indexed {
    Indexed { sequence, time: sequence * 10, member: 3 }
}

fn key(number: u64) -> Key {
    Keys::new(&LEDGER).key(&id(number))
}

fn record(number: u64, sequence: u64) -> IdRecord {
    IdRecord { key: key(number), indexed: entry(sequence) }
}

/// Ids `from..through` under their own numbers as sequences, in no order.
fn run(from: u64, through: u64) -> Vec<IdRecord> {
    (from..=through).rev().map(|number| record(number, number)).collect()
}

fn folder(dir: &Path) -> Folder {
    fs::create_dir_all(dir).expect("made");
    Folder::open(dir).expect("a folder")
}

fn open_kept(dir: &Path, oldest: u64, end: u64, honoured_before: bool) -> Result<DiskIndex, IndexError> {
    DiskIndex::open(folder(dir), LEDGER, JournalSpan { oldest, end, honoured_before })
}

fn open(dir: &Path, end: u64) -> DiskIndex {
    open_kept(dir, 1, end, false).expect("opens")
}

/// Runs of `each` entries up to `through`.
fn fill(index: &DiskIndex, each: u64, through: u64) {
    while index.published() < through {
        let from = index.published() + 1;
        index.catch_up(&mut run(from, from + each - 1), from + each - 1).expect("ingested");
    }
}

fn filled(dir: &Path) {
    fill(&open(dir, 0), 300, 900);
}

fn merge(index: &DiskIndex) {
    index.merge(&Latch::new()).expect("merged");
}

fn has_all(index: &DiskIndex, through: u64) -> bool {
    (1..=through).all(|number| index.find(key(number)) == Ok(Some(entry(number))))
}

/// Every file in `dir`.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort_unstable();
    names
}

fn name(first: u64, last: u64) -> String {
    Span { first, last }.name()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("made");
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).expect("copied");
    }
}

/// B4: what was put in is found after the next start, and says how far it goes.
#[test]
fn ids_outlive_the_process() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index = open(dir.path(), 900);
    assert_eq!((index.wiped(), index.published(), index.count()), (None, 900, 900));
    assert!(has_all(&index, 900));
    assert_eq!(index.find(key(901)), Ok(None));
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
    index.catch_up(&mut vec![record(1, 1), record(1, 3), record(1, 2)], 3).expect("ingested");
    assert_eq!(index.find(key(1)), Ok(Some(entry(3))));
    for sequence in 4..40 {
        index.catch_up(&mut vec![record(1, sequence), record(2, sequence)], sequence).expect("ingested");
        assert_eq!(index.find(key(1)), Ok(Some(entry(sequence))));
    }
    drop(index);
    let index = open(dir.path(), 40);
    assert_eq!(index.find(key(1)), Ok(Some(entry(39))));
    merge(&index);
    assert!(index.count() < 20, "older entries are dropped");
    for index in [index, open(dir.path(), 40)] {
        assert_eq!((index.find(key(1)), index.find(key(2))), (Ok(Some(entry(39))), Ok(Some(entry(39)))));
    }
}

/// B4: a run that is taken again after an error or a crash changes nothing.
#[test]
fn a_run_may_be_taken_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index = open(dir.path(), 900);
    index.ingest(&mut run(901, 1_000), 1_000).expect("ingested");
    assert_eq!(index.published(), 900, "ingesting alone publishes nothing");
    index.catch_up(&mut run(901, 1_100), 1_100).expect("ingested");
    assert!(has_all(&index, 1_100));
    assert_eq!((index.published(), index.count()), (1_100, 1_100));
    drop(index);
    let index = open(dir.path(), 1_100);
    assert!(has_all(&index, 1_100));
    assert_eq!((index.wiped(), names(dir.path()).len()), (None, 4), "the shorter one is removed");
}

/// B4: what belongs to another ledger or another past of this one is deleted, and says why; what is good stays.
#[test]
fn what_is_not_this_journals_is_wiped() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index =
        DiskIndex::open(folder(dir.path()), [8; 16], JournalSpan { oldest: 1, end: 900, honoured_before: false })
            .expect("opens");
    assert!(index.wiped().expect("wiped").contains("another ledger's"));
    assert_eq!((index.published(), index.find(key(1))), (0, Ok(None)));
    drop(index);

    filled(dir.path());
    let index = open(dir.path(), 899);
    assert!(index.wiped().expect("wiped").contains("beyond the journal's end"));
    assert_eq!((index.published(), index.find(key(601))), (600, Ok(None)));
    assert!(has_all(&index, 600));
    drop(index);
    let index = open(dir.path(), 600);
    assert_eq!((index.wiped(), index.published()), (None, 600));
}

/// B4: the chain begins at the oldest entry that the journal has, or before it.
#[test]
fn the_chain_begins_where_the_journal_does() {
    let dir = tempfile::tempdir().expect("a folder");
    let index = open_kept(dir.path(), 301, 900, false).expect("opens");
    assert_eq!(index.published(), 300);
    fill(&index, 300, 900);
    drop(index);
    let index = open_kept(dir.path(), 601, 900, true).expect("opens");
    assert_eq!((index.wiped(), index.published()), (None, 900));
    drop(index);
    let index = open_kept(dir.path(), 300, 900, true).expect("opens");
    assert_eq!((index.wiped().is_some(), index.published()), (true, 299));
}

/// B1, B4: ids from before the journal's oldest entry cannot be taken from it again. Where they are honoured nothing is
/// removed and the index is not opened, however they were lost; where not, what is left is removed, so that the next
/// index is whole.
#[test]
fn what_the_journal_cannot_make_again_is_not_given_up() {
    type Loss = fn(&Path);
    let bad: Loss = |dir| fs::write(dir.join(name(1, 300)), "no run").expect("written");
    let missing: Loss = |dir| fs::remove_file(dir.join(name(1, 300))).expect("removed");
    let bad_behind: Loss = |dir| fs::write(dir.join(name(301, 600)), "no run").expect("written");
    let marked: Loss = |dir| fs::write(dir.join(DAMAGE_MARK), "a page").expect("written");
    for (loss, oldest, file) in [
        (bad, 500, name(1, 300)),
        (missing, 500, name(301, 600)),
        (missing, 200, name(301, 600)),
        (bad_behind, 500, name(301, 600)),
        (marked, 500, DAMAGE_MARK.to_owned()),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        filled(dir.path());
        loss(dir.path());
        let before = names(dir.path());
        let Err(IndexError::Damaged { path, .. }) = open_kept(dir.path(), oldest, 900, true) else { panic!("{file}") };
        assert_eq!((path.file_name().expect("a name"), names(dir.path())), (file.as_ref(), before));
        let index = open_kept(dir.path(), oldest, 900, false).expect("opens");
        assert_eq!((index.published(), names(dir.path())), (oldest - 1, Vec::new()), "{file}");
        assert!(index.wiped().expect("wiped").starts_with(&file), "{:?}", index.wiped());
        fill(&index, 901 - oldest, 900);
        drop(index);
        assert_eq!(open_kept(dir.path(), oldest, 900, true).expect("opens").wiped(), None);
    }
}

/// B4: what the journal has is made again, also where the index began before it.
#[test]
fn what_the_journal_has_is_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    fs::write(dir.path().join(name(601, 900)), "no run").expect("written");
    let index = open_kept(dir.path(), 500, 900, true).expect("opens");
    assert_eq!((index.wiped().is_some(), index.published()), (true, 600));
    fill(&index, 300, 900);
    assert!(has_all(&index, 900));
}

/// B4: a run that is missing in the middle takes what follows with it.
#[test]
fn a_gap_ends_the_chain() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    fs::remove_file(dir.path().join(name(301, 600))).expect("removed");
    let index = open(dir.path(), 900);
    assert!(index.wiped().expect("wiped").contains("sequence 301"));
    assert_eq!((index.published(), names(dir.path())), (300, vec![name(1, 300)]));
    fill(&index, 300, 900);
    assert!(has_all(&index, 900));
}

/// C3: a crash while a run is written leaves a file that is removed; one after a merge, files that are contained.
#[test]
fn what_a_crash_leaves_is_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    fill(&open(&before, 0), 20, 160);
    copy(&before, &after);
    merge(&open(&after, 160));
    assert_eq!(names(&after), [name(1, 160)]);
    fs::copy(after.join(name(1, 160)), before.join(name(1, 160))).expect("copied");
    fs::write(before.join(Span { first: 161, last: 180 }.unfinished_name()), "half a run").expect("written");
    let index = open(&before, 200);
    assert_eq!((index.wiped(), index.published(), index.count()), (None, 160, 160));
    assert!(has_all(&index, 160));
    assert_eq!(names(&before), [name(1, 160)]);
}

/// C3: a merged run that is damaged while what it was made of is still there costs nothing.
#[test]
fn the_inputs_of_a_bad_merge_serve() {
    let dir = tempfile::tempdir().expect("a folder");
    fill(&open(dir.path(), 0), 20, 160);
    fs::write(dir.path().join(name(1, 160)), "no run").expect("written");
    let index = open(dir.path(), 160);
    assert_eq!((index.wiped(), index.published()), (None, 160));
    assert!(has_all(&index, 160));
}

/// B4: two that look ids up beside ingestion and merging see every published id, at every moment.
#[test]
fn ids_are_found_beside_merging() {
    let dir = tempfile::tempdir().expect("a folder");
    let index = open(dir.path(), 0);
    let (closed, done) = (Latch::new(), Latch::new());
    std::thread::scope(|scope| {
        scope.spawn(|| index.merge_until_closed(&closed, |error| panic!("{error}")));
        for seed in [1, 7] {
            let (index, done) = (&index, &done);
            scope.spawn(move || {
                let mut number: u64 = seed;
                while !done.is_set() {
                    let published = index.published();
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let wanted = (number >> 33) % (published + 1);
                    let expected = (wanted > 0).then(|| entry(wanted));
                    assert_eq!(index.find(key(wanted)), Ok(expected));
                    assert_eq!(index.find(key(999_999)), Ok(None));
                }
            });
        }
        fill(&index, 500, 60_000);
        done.set();
        let settled = || index.runs.load().len() < 20;
        let rest = || std::thread::sleep(std::time::Duration::from_millis(10));
        assert!((0..6_000).any(|_| {
            rest();
            settled()
        }));
        closed.set();
        index.wake();
    });
    assert!(has_all(&index, 60_000));
    assert_eq!(names(dir.path()).len(), index.runs.load().len(), "what was merged is removed");
    drop(index);
    assert!(has_all(&open(dir.path(), 60_000), 60_000));
}

/// E4: closing ends a merge that is under way, and leaves nothing of it.
#[test]
fn closing_ends_a_merge() {
    let dir = tempfile::tempdir().expect("a folder");
    let index = open(dir.path(), 0);
    fill(&index, 2_000, 16_000);
    let runs = index.runs.load_full();
    let closed = Latch::new();
    closed.set();
    index.merge_into_one(&runs, 0, &closed).expect("ended");
    assert_eq!(index.runs.load().len(), 8);
    assert!(names(dir.path()).iter().all(|name| name.ends_with(".run")) && names(dir.path()).len() == 8);
    merge(&index);
    assert_eq!(index.runs.load().len(), 1);
    assert!(has_all(&index, 16_000));
}

/// B2: a run that cannot be written is an error, leaves nothing, and may be taken again.
#[test]
fn a_failed_run_is_taken_again() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let index = open(dir.path(), 900);
    let obstacle = dir.path().join(name(901, 910));
    fs::create_dir(&obstacle).expect("a folder where the file should be");
    assert!(matches!(index.catch_up(&mut run(901, 910), 910), Err(IndexError::Failed { .. })));
    assert_eq!((index.published(), names(dir.path()).len()), (900, 4));
    assert!(has_all(&index, 900));
    fs::remove_dir(&obstacle).expect("removed");
    index.catch_up(&mut run(901, 910), 910).expect("ingested");
    assert!(has_all(&index, 910));
}

/// What an index opened after damage says. No answer is wrong, whatever is damaged.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    AtTheStart,
    Later,
    Never,
}

fn read_all(dir: &Path, what: &str) -> Met {
    let index = open(dir, 900);
    if index.wiped().is_some() {
        assert!(index.published() < 900, "{what}");
        assert!(index.find(key(index.published().max(1))).is_ok(), "{what}");
        return Met::AtTheStart;
    }
    assert_eq!(index.published(), 900, "{what}");
    let mut met = Met::Never;
    for number in 650..=900 {
        match index.find(key(number)) {
            Ok(found) => assert_eq!(found, Some(entry(number)), "{what}"),
            Err(error) => {
                assert!(matches!(error, IndexError::Damaged { .. }), "{what}: {error}");
                met = Met::Later;
            }
        }
    }
    met
}

/// B4: damage of any byte of a file is found when it is opened or read, never believed, and healed by the next start;
/// nothing panics.
#[test]
fn damage_is_wiped_and_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let (original, damaged) = (dir.path().join("original"), dir.path().join("damaged"));
    let index = open(&original, 0);
    index.catch_up(&mut run(1, 700), 700).expect("ingested");
    index.catch_up(&mut run(701, 900), 900).expect("ingested");
    drop(index);
    copy(&original, &damaged);
    let victim = name(701, 900);
    let bytes = fs::read(original.join(&victim)).expect("read");
    let mut met_later = 0;
    for at in 0..bytes.len() {
        // Between header and pages nothing is read.
        if (128..4096).contains(&at) && at % 256 != 0 {
            continue;
        }
        let path = damaged.join(&victim);
        if !path.exists() {
            fs::write(&path, &bytes).expect("written");
        }
        // In place: some file systems make a file that is written over durable at once.
        let file = fs::File::options().write(true).open(&path).expect("opened");
        file.write_all_at(&[bytes[at] ^ (1 << (at % 8))], at as u64).expect("written");
        let met = read_all(&damaged, &format!("byte {at}"));
        match met {
            Met::Never => assert!((128..4096).contains(&at), "byte {at}"),
            Met::AtTheStart => {}
            Met::Later => met_later += 1,
        }
        let marked = damaged.join(DAMAGE_MARK);
        assert_eq!(marked.exists(), met == Met::Later);
        if met == Met::Later {
            fs::remove_file(marked).expect("removed");
        }
        file.write_all_at(&bytes[at..=at], at as u64).expect("written");
    }
    fs::write(damaged.join(DAMAGE_MARK), "a page").expect("written");
    assert_eq!(read_all(&damaged, "known to be damaged"), Met::AtTheStart);
    assert_eq!(met_later, 2 * 4096);
}

/// C3: a file that was cut at any length is found to be, and what came before it serves.
#[test]
fn a_cut_file_is_wiped() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let victim = dir.path().join(name(601, 900));
    let bytes = fs::read(&victim).expect("read");
    for length in (0..bytes.len()).rev().step_by(3).chain([0]) {
        fs::write(&victim, &bytes[..length]).expect("written");
        let index = open(dir.path(), 900);
        assert_eq!((index.wiped().is_some(), index.published()), (true, 600), "cut at {length}");
        assert!(!victim.exists());
    }
    assert!(has_all(&open(dir.path(), 900), 600));
}

/// B4: a page of another run, whole as it is, is not believed.
#[test]
fn a_strange_page_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let [own, strange] = [name(301, 600), name(601, 900)].map(|name| dir.path().join(name));
    let page = fs::read(strange).expect("read")[4096..8192].to_vec();
    let mut bytes = fs::read(&own).expect("read");
    bytes[4096..8192].copy_from_slice(&page);
    fs::write(&own, &bytes).expect("written");
    let index = open(dir.path(), 900);
    let answers: Vec<_> = (301..=600).map(|number| index.find(key(number))).collect();
    assert!(answers.iter().filter(|answer| answer.is_err()).count() > 100);
    assert!(answers.iter().all(|answer| *answer != Ok(None)));
    assert!(matches!(index.merge_into_one(&index.runs.load_full(), 0, &Latch::new()), Err(IndexError::Damaged { .. })));
    assert_eq!(names(dir.path()).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
}
