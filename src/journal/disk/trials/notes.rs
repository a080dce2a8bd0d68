//! Events that are read from sources: whatever happens, no position is ahead of the outcomes that it stands for.

use std::collections::{BTreeMap, BTreeSet};

use equipoise::{Advance, Durability, Ledger, Note, NoteError, SubmitError};

use super::common::{Random, account, id, named, update};
use super::crashes::CloseWhenDead;
use super::depth;
use super::disk::{Disk, End, Fault};
use super::workload::{Events, Known, Shown, begin, checkpoint, fill, open, reopen, roll};
use crate::journal::disk::checkpoint::Moment;
use crate::journal::disk::recovery::Recovery;
use crate::journal::disk::scan::read_through;
use crate::kernel::pin;
use crate::wait::block_on;

/// Entries between two checkpoints.
const EVERY: u64 = 8;
const SOURCES: i64 = 2;

fn source(number: i64) -> String {
    format!("kafka/events/{number}")
}

/// Every third record is none that can be decided.
fn is_bad(offset: i64) -> bool {
    offset % 3 == 2
}

fn bad(source: i64, offset: i64) -> String {
    format!("bad {source}-{offset} {}", "x".repeat(if offset % 4 == 0 { 3_000 } else { 0 }))
}

fn good(source: i64, offset: i64) -> equipoise::Request {
    // Some are refused: these have outcomes as well.
    let change = update(&format!("account-{}", offset % 5), if offset % 4 == 0 { -400 } else { 7 });
    named(change, &format!("event-{source}-{offset}"))
}

fn next(ledger: &Ledger, number: i64) -> Option<i64> {
    ledger.source(&source(number)).map(|at| at.next)
}

/// What a consumer was told.
#[derive(Clone, Default)]
struct Told {
    positions: BTreeMap<i64, i64>,
    unparked: BTreeSet<u64>,
}

/// Reads records, decides them, and notes how far it is.
struct Consumer {
    random: Random,
    told: Told,
}

impl Consumer {
    fn new(seed: u64) -> Self {
        Consumer { random: Random(seed), told: Told::default() }
    }

    /// So many rounds; false when the ledger is closed.
    fn run(&mut self, ledger: &Ledger, rounds: usize) -> bool {
        let mut before = None;
        for _ in 0..rounds {
            let number = self.random.below(SOURCES as usize) as i64;
            let note = match self.decide(ledger, number) {
                Ok(note) => note,
                Err(SubmitError::Exhausted(_)) => continue,
                Err(_) => return false,
            };
            let next = note.advances[0].next;
            let unparked = note.unparked.clone();
            let noting = ledger.note(note);
            if self.random.below(3) == 0 {
                // Nobody waits; the next one believes what it is told.
                before = Some(noting);
                continue;
            }
            // A note of nothing comes after all before it.
            let barrier = block_on(ledger.note(Note { after: ledger.sequence(), ..Note::default() }));
            match block_on(noting) {
                Ok(()) => {
                    assert_eq!(super::notes::next(ledger, number), Some(next));
                    self.told.positions.insert(number, next);
                    self.told.unparked.extend(unparked);
                }
                Err(NoteError::Moved { .. }) => assert!(before.is_some(), "nobody else is there"),
                Err(NoteError::Closed(_)) => return false,
                Err(NoteError::Exhausted(_)) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(matches!(barrier, Ok(()) | Err(NoteError::Closed(_) | NoteError::Exhausted(_))), "{barrier:?}");
        }
        let barrier = block_on(ledger.note(Note { after: ledger.sequence(), ..Note::default() }));
        !matches!(barrier, Err(NoteError::Closed(_)))
    }

    fn decide(&mut self, ledger: &Ledger, number: i64) -> Result<Note, SubmitError> {
        let from = next(ledger, number);
        let begin = from.unwrap_or(0);
        let next = begin + 1 + self.random.below(4) as i64;
        let mut note = Note::default();
        for offset in begin..next {
            if is_bad(offset) {
                note.parked.push(bad(number, offset).into_bytes());
                continue;
            }
            note.after = note.after.max(ledger.submit(good(number, offset))?.sequence());
        }
        note.advances.push(Advance { source: source(number), from, next, fingerprint: next * 7, anew: false });
        note.unparked = ledger.parked(self.random.below(2)).iter().map(|parked| parked.number).collect();
        Ok(note)
    }
}

/// D3, D4: every record below a position had its effect, once; nothing that was told is lost.
fn check(ledger: &Ledger, told: &Told) {
    let (mut put_aside, mut left) = (0, BTreeSet::new());
    for number in 0..SOURCES {
        let at = ledger.source(&source(number));
        let next = at.map_or(0, |at| at.next);
        assert!(next >= told.positions.get(&number).copied().unwrap_or(0), "source {number} is back at {next}");
        assert!(at.is_none_or(|at| at.fingerprint == next * 7));
        for offset in 0..next {
            if is_bad(offset) {
                put_aside += 1;
                left.insert(bad(number, offset));
            } else {
                let id = id(&format!("event-{number}-{offset}"));
                let outcome = ledger.transaction(&id).expect("readable");
                assert!(outcome.is_some(), "{id} is below position {next} and was never decided");
            }
        }
    }
    let noted = ledger.core().notes.durable();
    assert_eq!(noted.last, put_aside, "as many numbers as bad records below the positions");
    for parked in ledger.parked(usize::MAX) {
        assert!(!told.unparked.contains(&parked.number), "{} was taken back", parked.number);
        let payload = String::from_utf8(parked.payload.to_vec()).expect("text");
        assert!(left.remove(&payload), "{payload} is parked, twice or for no position");
    }
}

fn live(disk: &Disk, seed: u64) -> Told {
    let (ledger, _) = open(disk, EVERY);
    let mut consumer = Consumer::new(seed);
    let Ok(ledger) = ledger else { return consumer.told };
    let _closing = CloseWhenDead::watch(&ledger, disk);
    begin(&ledger);
    let open = consumer.run(&ledger, 6) && consumer.run(&ledger, 4);
    assert!(open || ledger.failure().is_some() || disk.is_dead(), "closed without a reason");
    consumer.told
}

/// Something goes wrong at a call; false when there are fewer calls.
fn trial(start: &Disk, known: &Known, call: u64, fault: Fault, end: End) -> bool {
    let disk = start.copy();
    disk.fail(call, fault);
    let told = live(&disk, call);
    let struck = disk.has_failed();
    let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let after = disk.after(end);
        let ledger = reopen(&after);
        check(&ledger, &told);
        known.clone().check(&ledger, &Shown::default());
        let mut consumer = Consumer::new(call + 1_000);
        consumer.told = told.clone();
        assert!(consumer.run(&ledger, 4));
        let before = ledger.core().notes.durable();
        drop(ledger);
        let ledger = reopen(&after.after(End::PowerCut(call)));
        check(&ledger, &consumer.told);
        assert_eq!(ledger.core().notes.durable(), before);
    }));
    assert!(good.is_ok(), "call {call}, {fault:?}, {end:?}\n{}", disk.last_calls());
    struck
}

fn every_call(start: &Disk, stride: u64) {
    let mut known = Known::default();
    known.check(&reopen(&start.copy()), &Shown::default());
    let stride = (stride / depth()).max(1);
    for (fault, offset) in Fault::ALL.into_iter().zip(0..) {
        let mut call = 1 + offset % stride;
        loop {
            let ends = [End::Killed, End::PowerCut(call * 31 + offset)];
            if ends.map(|end| trial(start, &known, call, fault, end)) == [false, false] {
                break;
            }
            call += stride;
        }
    }
}

/// D3, D4: from an empty directory on.
#[test]
fn positions_of_a_young_ledger_are_never_ahead() {
    every_call(&Disk::new(), 14);
}

/// D3, D4: over the end of a segment, on a checkpoint with notes.
#[test]
fn positions_are_never_ahead_between_two_segments() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 1);
    let ledger = ledger.expect("opens");
    begin(&ledger);
    assert!(Consumer::new(1).run(&ledger, 6));
    fill(&ledger, 1, 6_000);
    checkpoint(&ledger, &events, &disk, ledger.durable());
    drop(ledger);
    every_call(&disk, 14);
}

/// A note of so much that it takes several batches.
fn large(ledger: &Ledger, from: Option<i64>) -> Note {
    let advances =
        vec![Advance { source: "large".to_owned(), from, next: from.unwrap_or(0) + 5, fingerprint: 0, anew: false }];
    Note { after: ledger.sequence(), advances, parked: vec![vec![7; 700_000]; 4], unparked: Vec::new() }
}

/// D4: a note of several batches is kept as a whole or not at all, over segments too.
#[test]
fn a_large_note_is_whole_or_not_there() {
    let disk = Disk::new();
    begin(&reopen(&disk));
    for (fault, offset) in Fault::ALL.into_iter().zip(0..) {
        let mut call = 1 + offset % 4;
        loop {
            let dying = disk.copy();
            dying.fail(call, fault);
            let mut kept = false;
            if let Ok(ledger) = open(&dying, 1_000).0 {
                let _closing = CloseWhenDead::watch(&ledger, &dying);
                kept = block_on(ledger.note(large(&ledger, None))).is_ok();
            }
            let after = dying.after(End::PowerCut(call));
            let ledger = reopen(&after);
            let found = ledger.source("large").map(|at| at.next);
            assert!(found == Some(5) || (found.is_none() && !kept), "call {call}, {fault:?}: {found:?}");
            assert_eq!(ledger.parked(10).len(), if found.is_some() { 4 } else { 0 });
            // What was begun before does not get in its way.
            block_on(ledger.note(large(&ledger, found))).expect("kept");
            let noted = ledger.core().notes.durable();
            drop(ledger);
            assert_eq!(reopen(&after.after(End::Killed)).core().notes.durable(), noted);
            if !dying.has_failed() {
                break;
            }
            call += 4;
        }
    }
}

/// Opens the ledger anew, with a checkpoint of all that is there.
fn with_checkpoint(disk: &Disk) -> (Ledger, Events) {
    let (ledger, events) = open(disk, 1);
    let ledger = ledger.expect("opens");
    checkpoint(&ledger, &events, disk, ledger.durable());
    (ledger, events)
}

/// A ledger with a checkpoint, at whose sequence nothing but notes follows, over several segments.
fn notes_after_a_checkpoint(before: bool) -> (Disk, Ledger, Events) {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    if before {
        block_on(ledger.note(large(&ledger, None))).expect("kept");
    }
    drop(ledger);
    let (ledger, events) = with_checkpoint(&disk);
    let from = ledger.source("large").map(|at| at.next);
    block_on(ledger.note(large(&ledger, from))).expect("kept");
    assert!(roll(&ledger));
    block_on(ledger.note(Note { unparked: vec![2], ..Note::default() })).expect("kept");
    (disk, ledger, events)
}

/// C2: entries after a checkpoint are read wherever they are, also where its batch says that a later segment is soon
/// enough.
#[test]
fn a_checkpoint_of_a_later_batch_than_its_sequence_loses_nothing() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    block_on(ledger.note(large(&ledger, None))).expect("kept");
    let core = ledger.core();
    let journal = core.disk.as_ref().expect("on disk");
    let registered = core.kernel.open_durable_snapshot().expect("few are open");
    let sequence = registered.sequence;
    fill(&ledger, 1, 100);
    ledger.wait_durable(ledger.sequence()).expect("open");
    assert!(roll(&ledger));
    let (batch, time) = journal.newest();
    let moment = Moment { sequence, time, batch, noted: core.notes.durable() };
    let written = journal.write_checkpoint(&moment, |push| {
        let guard = &pin();
        for account in core.directory.walk("", None, usize::MAX, guard) {
            let (changed, state) = account.read_at(sequence, guard).expect("registered");
            if state.version > 0 {
                push(account.key(), state, changed)?;
            }
        }
        Ok(true)
    });
    written.expect("room");
    core.kernel.close_snapshot(registered);
    let mut known = Known::default();
    known.check(&ledger, &Shown::default());
    let killed = disk.after(End::Killed);
    drop(ledger);
    known.check_accounts(&reopen(&killed));
}

/// D3, C6: notes at the sequence of a checkpoint, but after it, are found, whatever segments they are in.
#[test]
fn notes_after_a_checkpoint_at_its_sequence_are_found() {
    for before in [false, true] {
        let (disk, ledger, _events) = notes_after_a_checkpoint(before);
        let noted = ledger.core().notes.durable();
        let killed = disk.after(End::Killed);
        drop(ledger);
        let recovered = reopen(&killed);
        assert_eq!(recovered.core().notes.durable(), noted);
        assert_eq!(recovered.parked(1)[0].number, 1);
        assert_eq!(recovered.parked(2)[1].number, 3);
    }
}

/// C2: a journal that ends before the notes that a checkpoint has lost its tail, even when no entry is missing.
#[test]
fn a_tail_of_notes_that_is_missing_is_noticed() {
    let disk = Disk::new();
    begin(&reopen(&disk));
    let without = disk.copy();
    let ledger = reopen(&disk);
    block_on(ledger.note(large(&ledger, None))).expect("kept");
    drop(ledger);
    drop(with_checkpoint(&disk));
    let killed = disk.after(End::Killed);
    reopen(&killed.copy());
    for name in killed.names().iter().filter(|name| name.ends_with(".segment")) {
        killed.take(name);
    }
    for name in without.names().iter().filter(|name| name.ends_with(".segment")) {
        killed.put(name, &without.bytes(name));
    }
    let refused = open(&killed, 1).0.expect_err("a tail is missing").to_string();
    assert!(refused.contains("a tail is missing"), "{refused}");
}

/// C2, C6: a damaged checkpoint with notes is passed over; the one before, or the journal, says the same.
#[test]
fn a_flipped_byte_in_a_checkpoint_with_notes_is_passed_over() {
    let (disk, ledger, events) = notes_after_a_checkpoint(true);
    let create = |name: &str| {
        let durable = ledger.with_durability(Durability::OnDisk);
        durable.create(&account(name), 1).expect("new")[0].sequence
    };
    let unparked = ledger.parked(usize::MAX).iter().skip(1).map(|parked| parked.number).collect();
    let after = create("second");
    block_on(ledger.note(Note { after, unparked, ..Note::default() })).expect("kept");
    checkpoint(&ledger, &events, &disk, create("third"));
    let noted = ledger.core().notes.durable();
    drop(ledger);
    let killed = disk.after(End::Killed);
    let newest = killed.names().into_iter().rfind(|name| name.starts_with("checkpoints/")).expect("one");
    let length = killed.bytes(&newest).len();
    // What it parks is long, and the same everywhere.
    let places = (0..400).chain((400..length - 400).step_by(100_000)).chain(length - 400..length);
    for at in places.step_by((7 / depth()).max(1) as usize) {
        let disk = killed.copy();
        disk.edit(&newest, |bytes| bytes[at] ^= 1 << (at % 8));
        let (ledger, events) = open(&disk, 1_000);
        assert_eq!(ledger.expect("opens").core().notes.durable(), noted, "offset {at}");
        let told = events.lock().iter().any(|event| matches!(event, equipoise::Event::CheckpointDamaged { .. }));
        assert!(told, "offset {at}");
    }
}

/// D4: a damaged byte in a section of notes is damage, or a torn tail; never a position that was not noted.
#[test]
fn a_flipped_byte_in_notes_is_named_or_cut() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    let mut seen = vec![ledger.core().notes.durable()];
    let mut consumer = Consumer::new(3);
    for _ in 0..6 {
        let number = consumer.random.below(SOURCES as usize) as i64;
        let note = consumer.decide(&ledger, number).expect("open");
        block_on(ledger.note(note)).expect("kept");
        seen.push(ledger.core().notes.durable());
    }
    let killed = disk.after(End::Killed);
    drop(ledger);
    let name = "journal/0000000001.segment";
    let bytes = killed.bytes(name);
    let end = crate::journal::disk::bytes::written(&bytes);
    let (mut cut, mut refused) = (0, 0);
    for at in (4_096..end).step_by((37 / depth()).max(1) as usize) {
        let disk = killed.copy();
        disk.edit(name, |bytes| bytes[at] ^= 1 << (at % 8));
        match open(&disk, 1_000).0 {
            Ok(ledger) => {
                assert!(seen.contains(&ledger.core().notes.durable()), "offset {at}");
                cut += 1;
            }
            Err(equipoise::OpenError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(cut > 0 && refused > 0, "{cut} and {refused}");
}

/// C4, D3: compaction keeps the segments whose notes only one checkpoint has, and the notes when it drops the others.
#[test]
fn compaction_drops_no_note() {
    use crate::journal::disk::compact::{CompactOptions, KeptBecause, compact_in};

    let (disk, ledger, events) = notes_after_a_checkpoint(false);
    let one_more = |ledger: &Ledger, name: &str| {
        let durable = ledger.with_durability(Durability::OnDisk);
        durable.create(&account(name), 1).expect("new")[0].sequence
    };
    checkpoint(&ledger, &events, &disk, one_more(&ledger, "second"));
    let noted = ledger.core().notes.durable();
    let options = CompactOptions { id_window: std::time::Duration::ZERO, ..CompactOptions::default() };
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    drop(ledger);
    let killed = disk.after(End::Killed);
    let compacted = compact_in(&*killed.files(), &options, go_on).expect("good");
    // The older checkpoint is from before the first note.
    assert!(compacted.dropped.is_empty(), "{compacted:?}");
    assert!(matches!(compacted.because, KeptBecause::Checkpoint { .. }), "{compacted:?}");
    assert_eq!(reopen(&killed).core().notes.durable(), noted);

    let (ledger, events) = open(&disk, 1);
    let ledger = ledger.expect("opens");
    assert!(roll(&ledger));
    checkpoint(&ledger, &events, &disk, one_more(&ledger, "third"));
    drop(ledger);
    let killed = disk.after(End::Killed);
    let compacted = compact_in(&*killed.files(), &options, go_on).expect("good");
    assert!(compacted.dropped.len() > 2, "{compacted:?}");
    assert_eq!(reopen(&killed).core().notes.durable(), noted);
    let mut recovery = Recovery { install: &mut |_| Ok(()), progress: go_on, tell: &|_| {} };
    assert!(read_through(&*killed.files(), &mut recovery).expect("good").len() as u64 == compacted.kept);
}
