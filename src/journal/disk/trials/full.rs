//! A full disk: writes are refused before anything is decided, reads go on, and it heals by itself.

use std::path::Path;
use std::time::{Duration, Instant};

use equipoise::{Durability, Event, Exhausted, Ledger, OpenError, SubmitError};

use crate::journal::disk::checkpoint::name;

use super::common::{account, alone, chain, create, named};
use super::disk::{Disk, End, Fault};
use super::workload::{
    Known, Shown, begin, checkpoint, eventually, fill, newest_checkpoint, open, reopen, spare_is_made,
};

const SEGMENT: usize = 1 << 20;

fn is_full(ledger: &Ledger) -> bool {
    let request = alone(create("probe", 1));
    match ledger.submit(request) {
        Err(SubmitError::Exhausted(Exhausted::Disk { path, needed })) => {
            assert_eq!((path.as_str(), needed), ("journal", SEGMENT as u64));
            true
        }
        Ok(_) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Case A13: E7, C1: no room for the next segment.
#[test]
fn without_room_for_a_segment_writes_are_refused_and_reads_go_on_until_there_is() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 1_000);
    let ledger = ledger.expect("opens");
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&"journal/spare".to_owned())));
    disk.limit(Some(2 * SEGMENT + SEGMENT / 2));
    // Over the end of the first segment: the spare is taken, and there is no other.
    fill(&ledger, 1, 0);
    assert!(eventually(|| is_full(&ledger)), "{}", disk.last_calls());
    ledger.wait_durable(ledger.sequence()).expect("what was decided had room");
    let standing = (ledger.sequence(), ledger.durable());
    let refused = ledger.stats().refused_for_space;
    for _ in 0..10 {
        assert!(is_full(&ledger));
    }
    let batch = (0..5).map(|_| alone(create("probe", 1)));
    assert!(ledger.submit_all(batch).iter().all(Result::is_err));
    let stats = ledger.stats();
    assert!(stats.short_of_space);
    assert_eq!(stats.refused_for_space - refused, 15, "each once");
    assert_eq!((ledger.sequence(), ledger.durable()), standing, "nothing was decided");
    assert_eq!(standing.0, standing.1);
    let mut known = Known::default();
    known.check(&ledger, &Shown::default());
    let told = |wanted: fn(&Event) -> bool| events.lock().iter().filter(|event| wanted(event)).count();
    assert_eq!(told(|event| matches!(event, Event::NoRoom { .. })), 1);
    disk.limit(None);
    assert!(eventually(|| !is_full(&ledger)), "it heals");
    assert!(!ledger.stats().short_of_space);
    assert!(eventually(|| told(|event| matches!(event, Event::RoomAgain)) == 1));
    ledger.wait_durable(ledger.sequence()).expect("open");
    known.check(&ledger, &Shown::default());
    drop(ledger);
    known.check_accounts(&reopen(&disk.after(End::PowerCut(1))));
}

/// Case A13: E6: a start on a full disk serves reads, and writes once there is room.
#[test]
fn a_start_on_a_full_disk_serves_reads() {
    let disk = Disk::new();
    let mut known = Known::default();
    {
        let ledger = reopen(&disk);
        begin(&ledger);
        known.check(&ledger, &Shown::default());
        assert!(eventually(|| disk.names().contains(&"journal/spare".to_owned())));
    }
    let full = disk.after(End::Killed);
    full.take("journal/spare");
    full.limit(Some(full.used()));
    let ledger = reopen(&full);
    known.check_accounts(&ledger);
    assert!(eventually(|| is_full(&ledger)));
    full.limit(None);
    assert!(eventually(|| !is_full(&ledger)));
}

/// Case A13: E6: nothing can begin on a full disk; it says what is needed, and begins when that is there.
#[test]
fn a_journal_that_cannot_begin_says_what_it_needs() {
    for room in [0, 1, SEGMENT / 2, SEGMENT - 1] {
        let disk = Disk::new();
        disk.limit(Some(room));
        let refused = open(&disk, 1_000).0.expect_err("no room");
        assert!(matches!(refused, OpenError::NoRoom { needed, .. } if needed == 2 * SEGMENT as u64), "{refused}");
        assert_eq!(disk.used(), 0, "it leaves nothing");
        disk.limit(None);
        begin(&reopen(&disk));
    }
}

/// Case A13: C1: a checkpoint that finds no room harms nobody, and is written later.
#[test]
fn a_checkpoint_without_room_harms_nobody() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 5);
    let ledger = ledger.expect("opens");
    assert!(eventually(|| disk.names().contains(&"journal/spare".to_owned())));
    disk.limit(Some(disk.used() + 100));
    begin(&ledger);
    begin(&ledger);
    ledger.core().checkpoint_bell.ring();
    let failed = || events.lock().iter().filter(|event| matches!(event, Event::CheckpointFailed { .. })).count();
    assert!(eventually(|| failed() > 0));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(failed() <= 2, "it does not try without a rest");
    let later = ledger.with_durability(Durability::OnDisk);
    later.create(&account("later"), 1).expect("a segment has room");
    assert_eq!(newest_checkpoint(&events), 0);
    disk.limit(None);
    checkpoint(&ledger, &events, &disk, ledger.durable());
    assert!(!disk.names().iter().any(|name| name.ends_with(".tmp")), "{:?}", disk.names());
    let mut known = Known::default();
    known.check(&ledger, &Shown::default());
    drop((ledger, later));
    known.check_accounts(&reopen(&disk.after(End::PowerCut(1))));
}

/// Case A13: E6: a checkpoint takes no room that the journal needs for its next segments, and is tried ever less often.
#[test]
fn a_checkpoint_that_does_not_fit_leaves_room_for_segments() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 1_000_000);
    let ledger = ledger.expect("opens").with_durability(Durability::OnDisk);
    for number in 0..40 {
        let long = |account| format!("{number:0>60}-{account:0>60}");
        ledger.submit(chain((0..1_000).map(|account| create(&long(account), 1)))).expect("decided");
    }
    drop(ledger);
    assert_eq!(newest_checkpoint(&events), 0);

    // Of its 5.8 MB five find room.
    let capacity = disk.used() + 5 * SEGMENT;
    disk.limit(Some(capacity));
    disk.peak();
    let began = Instant::now();
    let (ledger, events) = open(&disk, 5);
    let ledger = ledger.expect("opens");
    let failed = || events.lock().iter().filter(|event| matches!(event, Event::CheckpointFailed { .. })).count();
    assert!(eventually(|| failed() >= 1));
    fill(&ledger, 2, 0);
    assert!(eventually(|| failed() >= 3));
    assert!(began.elapsed() > Duration::from_millis(2_900), "{:?}", began.elapsed());
    let peak = disk.peak();
    assert!(peak + SEGMENT <= capacity, "{peak} of {capacity}");
    assert!(!events.lock().iter().any(|event| matches!(event, Event::NoRoom { .. })), "{:?}", events.lock());

    disk.limit(None);
    assert!(eventually(|| newest_checkpoint(&events) > 0));
}

/// C2, E6: an old checkpoint that cannot be removed is told of, and the new ones are good all the same.
#[test]
fn a_checkpoint_that_cannot_be_removed_is_in_nobodys_way() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 5);
    let ledger = ledger.expect("opens").with_durability(Durability::OnDisk);
    let mut oldest = None;
    for round in 0..5 {
        for number in 0..5 {
            ledger.create(&account(&format!("account-{round}-{number}")), 1).expect("new");
        }
        checkpoint(&ledger, &events, &disk, ledger.durable());
        let name = name(newest_checkpoint(&events));
        disk.break_removals(Some(oldest.get_or_insert(name)));
    }
    let oldest = oldest.expect("five were written");
    let left = |event: &Event| matches!(event, Event::CheckpointLeft { file, .. } if *file == Path::new(&oldest));
    assert!(eventually(|| events.lock().iter().filter(|event| left(event)).count() == 3));
    let events = events.lock();
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(|event| matches!(event, Event::CheckpointWritten { .. })), 5, "{events:?}");
    assert_eq!(count(|event| matches!(event, Event::CheckpointFailed { .. })), 0, "{events:?}");
    assert!(disk.names().contains(&oldest));
    assert_eq!(disk.names().iter().filter(|name| name.starts_with("checkpoints/")).count(), 3, "{:?}", disk.names());
}

/// C1: when a failed disk ends a batch of requests, the answers that are durable stand.
#[test]
fn a_failed_device_takes_no_durable_answer_back() {
    let disk = Disk::new();
    let ledger = reopen(&disk).with_durability(Durability::OnDisk);
    begin(&ledger);
    let first = ledger.submit(named(create("kept", 1), "x")).expect("decided");
    assert!(spare_is_made(&disk));
    disk.fail(disk.calls() + 1, Fault::Failed);
    let requests = [named(create("kept", 1), "x"), named(create("lost", 1), "y"), named(create("kept", 2), "x")];
    let [kept, lost, reused] = ledger.submit_all(requests).try_into().expect("three");
    assert_eq!(kept.expect("durable").sequence(), first.sequence());
    assert!(matches!(lost, Err(SubmitError::JournalFailed { .. })), "{lost:?}");
    // The use that it met is durable, but the error path does not check which use that was.
    assert!(reused.is_err());
}

/// C1: a failed write or sync closes the ledger: calls say so, reads go on, and its end does not hang.
#[test]
fn a_failed_device_closes_the_ledger() {
    for call in 1..=2 {
        let disk = Disk::new();
        let (ledger, events) = open(&disk, 1_000);
        let ledger = ledger.expect("opens").with_durability(Durability::OnDisk);
        begin(&ledger);
        assert!(spare_is_made(&disk));
        let mut known = Known::default();
        known.check(&ledger, &Shown::default());
        disk.fail(disk.calls() + call, Fault::Failed);
        let last = ledger.create(&account("lost"), 1).expect_err("the disk failed").to_string();
        let failure = ledger.failure().expect("a reason");
        assert!(failure.contains("journal/0000000001.segment at offset"), "{failure}");
        assert!(last.contains(&failure), "{last}");
        let closed = eventually(
            || matches!(ledger.submit(alone(create("x", 1))), Err(SubmitError::JournalFailed { what }) if what == failure),
        );
        assert!(closed);
        assert_eq!(ledger.balance_durable(&account("account-0")).map(|state| state.balance), Some(500));
        assert_eq!(ledger.history(1, 10).expect("readable").len(), 4);
        assert!(eventually(|| events.lock().iter().any(|event| matches!(event, Event::JournalFailed { .. }))));
        let flusher = ledger.core().flusher.as_ref().expect("on disk");
        assert!(flusher.paused(|| ()).is_none(), "no checkpoint: the journal may hold more than what is durable");
        let dropped = std::thread::spawn(move || drop(ledger));
        assert!(eventually(|| dropped.is_finished()), "it ends");
        // Whatever became of the last call, the rest is there.
        let ledger = reopen(&disk.after(End::PowerCut(call)));
        assert!(ledger.sequence() >= 4 && ledger.balance_durable(&account("account-3")).is_some());
    }
}
