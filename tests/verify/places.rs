//! The start and `verify` on the same harmed journals: both call it damage, at one place, or both a torn tail.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use equipoise::verify::{Options, verify};
use equipoise::{AccountId, Event, Ledger, Member, OpenError, Operation, Request, TransactionId};

use crate::garbage::Dice;

const LENGTH: usize = 1 << 20;
const HEADER: usize = 4096;
const NEVER: u64 = 1 << 40;
/// Stands for the segment that is ready for when the third is full.
const SPARE: u64 = 0;

/// Files that are other ones than they were, or missing.
type Changed<'a> = &'a [(u64, Option<&'a [u8]>)];

/// The files of a ledger whose process was killed.
struct Journal {
    files: Vec<(PathBuf, Vec<u8>)>,
    folder: tempfile::TempDir,
}

impl Journal {
    /// Two full segments and the beginning of a third.
    fn new(checkpoint_every: u64) -> Self {
        let (live, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let builder = Ledger::builder().segment_bytes(LENGTH as u64).checkpoint_every(checkpoint_every);
        let ledger = builder.open(live.path()).expect("an empty directory");
        let account = AccountId::new("account").expect("an id");
        ledger.create(&account, 0).expect("new");
        let third = live.path().join("journal/0000000003.segment");
        let mut more = 15;
        for number in 0.. {
            let member = |place| {
                let id = TransactionId::new(&format!("{number}-{place:0>100}")).expect("an id");
                Member { id: Some(id), operation: Operation::update(account.clone(), 1) }
            };
            let request = Request::chain((0..40 + number % 3).map(member).collect()).expect("a chain");
            let outcome = ledger.submit(request).expect("decided");
            ledger.wait_durable(outcome.sequence()).expect("durable");
            more -= i32::from(third.exists());
            if more == 0 {
                break;
            }
        }
        let begin = fs::read(&third).expect("readable")[32..40].try_into().expect("eight bytes");
        let newest = || {
            let entries = fs::read_dir(live.path().join("checkpoints")).expect("a folder");
            let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
            names.filter_map(|name| name.strip_suffix(".checkpoint")?.parse().ok()).max().unwrap_or(0)
        };
        while checkpoint_every < NEVER && newest() < u64::from_le_bytes(begin) {
            thread::sleep(Duration::from_millis(2));
        }
        let journal = Journal { files: read(live.path(), Path::new("")), folder };
        drop(ledger);
        journal
    }

    fn segment(&self, number: u64) -> &[u8] {
        let name = name(number);
        self.files.iter().find(|(path, _)| *path == name).map(|(_, bytes)| &bytes[..]).expect("a segment")
    }

    /// Compares what both say of a copy with these files changed; whether it starts.
    fn compare(&self, what: &str, changed: Changed<'_>) -> bool {
        let path = self.folder.path();
        for folder in ["journal", "checkpoints", "ids"] {
            let _ = fs::remove_dir_all(path.join(folder));
            fs::create_dir(path.join(folder)).expect("a folder");
        }
        let change = |path: &Path| changed.iter().find(|(number, _)| path == name(*number)).map(|(_, bytes)| *bytes);
        for (name, bytes) in &self.files {
            if let Some(bytes) = change(name).unwrap_or(Some(bytes)) {
                fs::write(path.join(name), bytes).expect("room");
            }
        }
        if let Some(spare) = change(&name(SPARE)).flatten() {
            fs::write(path.join(name(SPARE)), spare).expect("room");
        }
        let told: Arc<Mutex<Vec<Event>>> = Arc::default();
        let tell = told.clone();
        let verified = verify(path, &Options::default(), &mut |_, _| {});
        let builder = Ledger::builder().segment_bytes(LENGTH as u64).checkpoint_every(NEVER);
        let opened = builder.observer(move |event| tell.lock().expect("whole").push(event.clone())).open(path);
        match (verified, opened) {
            (Ok(report), Ok(ledger)) => {
                assert_eq!(report.last_sequence, ledger.sequence(), "{what}");
                let torn = told.lock().expect("whole").iter().find_map(|event| match event {
                    Event::TornTail { file, offset, bytes } => {
                        Some(format!("torn tail at {} offset {offset}, {bytes} bytes: ", file.display()))
                    }
                    _ => None,
                });
                let noted = report.notes.iter().find(|note| note.starts_with("torn tail at "));
                match (&torn, noted) {
                    (None, None) => {}
                    (Some(torn), Some(noted)) if noted.starts_with(torn) => {}
                    _ => panic!("{what}: the start says {torn:?}, verify {noted:?}"),
                }
                true
            }
            (Err(problem), Err(OpenError::Damaged { file, offset, what: says })) => {
                let place = (&problem.file, problem.offset);
                assert_eq!(place, (&file, Some(offset)), "{what}: the start says {says}, verify {problem}");
                false
            }
            (verified, opened) => {
                let opened = opened.map(|ledger| ledger.sequence());
                panic!("{what}: the start says {opened:?}, verify {verified:?}")
            }
        }
    }

    /// Harms the segment `number` in many ways, where `others` are harmed too; how often it does not start, and how
    /// often it does.
    fn harm(&self, number: u64, others: Changed<'_>, dice: &mut Dice) -> [u32; 2] {
        let whole = self.segment(number);
        let batches = batches(whole);
        let end = batches[batches.len() - 1].1;
        let mut counts = [0; 2];
        let mut try_out = |what: String, harm: &mut dyn FnMut(&mut Vec<u8>)| {
            let mut bytes = whole.to_vec();
            harm(&mut bytes);
            let starts =
                self.compare(&format!("segment {number}, {what}"), &[others, &[(number, Some(&bytes))]].concat());
            counts[usize::from(starts)] += 1;
        };
        let lengths = [0, 1, 100, 127, 128, 2_000, HEADER - 1, HEADER, HEADER + 1, LENGTH - 1, LENGTH + 1, LENGTH + 8];
        let near = [end - 1, end, end + 1, end + 8, end.next_multiple_of(8), LENGTH + 4096];
        let last = batches[batches.len() - 2].1;
        for length in lengths.into_iter().chain(near).chain((0..6).map(|_| last - 9 + dice.below(end + 18 - last))) {
            try_out(format!("{length} bytes long"), &mut |bytes| bytes.resize(length, 1));
            try_out(format!("zeros from {length}"), &mut |bytes| bytes.get_mut(length..).unwrap_or_default().fill(0));
        }
        for _ in 0..8 {
            let at = end - 1 - dice.below(2 * (end - last));
            let long = 1 + dice.below(end + 100 - at);
            let long = long.min(LENGTH - at);
            try_out(format!("{long} bytes of garbage at {at}"), &mut |bytes| {
                bytes[at..at + long].fill_with(|| 1 + dice.below(255) as u8);
            });
        }
        for _ in 0..8 {
            // What comes before the last end is padding where it is no batch.
            let (begin, end) = batches[dice.below(batches.len())];
            let at = begin + dice.below(end - begin);
            try_out(format!("one bit at {at}"), &mut |bytes| bytes[at] ^= 1 << dice.below(8));
        }
        for at in [0, 7, 9, 13, 20, 30, 40, 60, 80, 106, 120] {
            try_out(format!("one bit at {at}"), &mut |bytes| bytes[at] ^= 1);
            try_out(format!("one bit at {at}, and nothing behind the header"), &mut |bytes| {
                bytes[at] ^= 1;
                bytes[HEADER..].fill(0);
            });
        }
        try_out("garbage".to_owned(), &mut |bytes| bytes.fill_with(|| dice.below(256) as u8));
        try_out("a batch again, behind the last".to_owned(), &mut |bytes| {
            let (begin, end) = batches[0];
            let behind = batches[batches.len() - 1].1.next_multiple_of(8);
            let long = (end - begin).min(LENGTH - behind);
            bytes.copy_within(begin..begin + long, behind);
        });
        counts
    }
}

fn name(number: u64) -> PathBuf {
    if number == SPARE {
        return "journal/spare".into();
    }
    format!("journal/{number:010}.segment").into()
}

fn read(folder: &Path, name: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let files = entries.flat_map(|entry| {
        let name = name.join(entry.file_name());
        match entry.path().is_dir() {
            true => read(&entry.path(), &name),
            // The segment that another thread prepares may be going to its place.
            false => fs::read(entry.path()).map(|bytes| (name, bytes)).into_iter().collect(),
        }
    });
    files.filter(|(name, _)| !name.ends_with("spare") && !name.ends_with("LOCK")).collect()
}

/// Where each batch begins, and where it ends without its padding.
fn batches(segment: &[u8]) -> Vec<(usize, usize)> {
    let (mut batches, mut at) = (Vec::new(), HEADER);
    while segment.get(at..).is_some_and(|rest| rest.starts_with(b"EQBT")) {
        let length = segment[at + 28..at + 32].try_into().expect("four bytes");
        let end = at + 80 + u32::from_le_bytes(length) as usize;
        batches.push((at, end));
        at = end.next_multiple_of(8);
    }
    batches
}

/// Case A12: E6, C1, C2: of a segment that is too long, too short, or changed, both say the same.
#[test]
fn harm_to_a_segment_is_at_one_place() {
    let journal = Journal::new(NEVER);
    let mut dice = Dice(7);
    let [refused, started] = journal.harm(1, &[], &mut dice);
    assert!(refused > 50 && started < 20, "{refused} refused, {started} started");
    let [refused, started] = journal.harm(3, &[], &mut dice);
    assert!(refused > 5 && started > 40, "{refused} refused, {started} started");
}

/// Case A12: the same where checkpoints stand for the first segment, which was dropped.
#[test]
fn harm_to_a_compacted_journal_is_at_one_place() {
    let journal = Journal::new(10);
    let mut dice = Dice(8);
    let [refused, started] = journal.harm(3, &[(1, None)], &mut dice);
    assert!(refused > 5 && started > 5, "{refused} refused, {started} started");
}

/// Case A12: the same in more than one segment, and of segments that are in each other's place, or in none.
#[test]
fn harm_to_several_segments_is_at_one_place() {
    let journal = Journal::new(NEVER);
    let [one, two, three] = [1, 2, 3].map(|number| journal.segment(number));
    let zeros = vec![0; LENGTH];
    let blank = |segment: &[u8]| [&segment[..HEADER], &zeros[HEADER..]].concat();
    let (two_blank, three_blank) = (blank(two), blank(three));
    let ends = |segment: &[u8]| batches(segment).last().expect("a batch").1;
    let mut torn = two.to_vec();
    torn[ends(two) - 1] ^= 1;
    let short = &two[..LENGTH - 1];
    let mut behind = two.to_vec();
    let end = ends(two).next_multiple_of(8);
    behind[end..].iter_mut().take(50).for_each(|byte| *byte = 7);
    let refused: &[(&str, Changed<'_>)] = &[
        ("the first is missing", &[(1, None)]),
        ("the second is missing", &[(2, None)]),
        ("two are missing", &[(2, None), (1, None)]),
        ("one and two changed", &[(1, Some(two)), (2, Some(one))]),
        ("two and three changed", &[(2, Some(three)), (3, Some(two))]),
        ("the second is zeros", &[(2, Some(&zeros))]),
        ("the last two are zeros", &[(2, Some(&zeros)), (3, Some(&zeros))]),
        ("only a third, of zeros", &[(1, None), (2, None), (3, Some(&zeros))]),
        ("the second is a header", &[(2, Some(&two_blank))]),
        ("torn before another segment", &[(2, Some(&torn))]),
        ("torn before a segment without a batch", &[(2, Some(&torn)), (3, Some(&three_blank))]),
        ("garbage before a segment without a batch", &[(2, Some(&behind)), (3, Some(&three_blank))]),
        ("short before a segment without a batch", &[(2, Some(short)), (3, Some(&three_blank))]),
        ("short before an unused segment", &[(2, Some(short)), (3, Some(&zeros))]),
        ("the last became the spare", &[(3, None), (SPARE, Some(three))]),
        (
            "the last became the spare, and the one before is short",
            &[(2, Some(short)), (3, None), (SPARE, Some(three))],
        ),
    ];
    for (what, changed) in refused {
        assert!(!journal.compare(what, changed), "{what}");
    }
    let started: &[(&str, Changed<'_>)] = &[
        ("nothing", &[]),
        ("the last is missing", &[(3, None)]),
        ("torn before an unused segment", &[(2, Some(&torn)), (3, Some(&zeros))]),
        ("torn before an empty file", &[(2, Some(&torn)), (3, Some(&[]))]),
        ("the last is short", &[(2, Some(short)), (3, None)]),
        ("the last is short, with a spare", &[(2, Some(short)), (3, None), (SPARE, Some(&three_blank))]),
    ];
    for (what, changed) in started {
        assert!(journal.compare(what, changed), "{what}");
    }
}
