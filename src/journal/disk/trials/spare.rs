//! The next segment: who waits for it gets it whole, whoever else is at it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::common;
use super::disk::{Disk, End, Fault};
use super::workload::{Known, Shown, begin, eventually, fill_applied, observed, open, reopen, roll, spare_is_made};
use equipoise::{Durability, Event, Ledger, OpenError, SubmitError};
use parking_lot::Mutex;

const SPARE: &str = "journal/spare";
const UNFINISHED: &str = "journal/spare.tmp";
const SECOND: &str = "journal/0000000002.segment";

/// C1, C2: a spare that is waited for is not made again while it is given away.
#[test]
fn a_spare_that_is_waited_for_is_given_once() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.hold(Some(UNFINISHED));
    assert!(roll(&ledger));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| roll(&ledger));
        assert!(eventually(|| disk.names().contains(&UNFINISHED.to_owned())));
        std::thread::sleep(Duration::from_millis(5));
        // It is made, and whoever waited for it is about to write its header.
        disk.hold(Some(SPARE));
        assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
        std::thread::sleep(Duration::from_millis(20));
        disk.hold(None);
        assert!(waiting.join().expect("no panic"));
    });
    assert!(roll(&ledger), "there is another");
    let mut shown = Shown::default();
    let later = common::alone(common::create("later", 1));
    shown.outcome(&ledger.with_durability(Durability::OnDisk).submit(later).expect("decided"));
    let cut = disk.after(End::WorstPowerCut);
    drop(ledger);
    Known::default().check(&reopen(&cut), &shown);
}

/// C1, E4: what was committed before a close is on disk after it, though the next segment is still being made.
#[test]
fn a_close_waits_for_the_next_segment_to_be_made() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.hold(Some(UNFINISHED));
    assert!(roll(&ledger));
    fill_applied(&ledger, 8);
    let closing = ledger.clone();
    let closing = std::thread::spawn(move || closing.close());
    std::thread::sleep(Duration::from_millis(20));
    disk.hold(None);
    closing.join().expect("no panic");
    let sequence = ledger.sequence();
    assert_eq!((ledger.durable(), ledger.failure()), (sequence, None));
    drop(ledger);
    assert_eq!(reopen(&disk.after(End::WorstPowerCut)).sequence(), sequence);
}

/// Case A13: E4: a close where there is no room for what was decided says so, and does not hang.
#[test]
fn a_close_on_a_full_disk_ends() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.hold(Some(UNFINISHED));
    assert!(roll(&ledger));
    fill_applied(&ledger, 8);
    disk.limit(Some(disk.used()));
    disk.hold(None);
    let closing = ledger.clone();
    let closing = std::thread::spawn(move || closing.close());
    assert!(eventually(|| closing.is_finished()), "it ends");
    let failure = ledger.failure().expect("a reason");
    assert!(failure.contains("journal/0000000003.segment"), "{failure}");
    let mut known = Known::default();
    drop(ledger);
    disk.limit(None);
    known.check(&reopen(&disk.after(End::WorstPowerCut)), &Shown::default());
    assert!(known.sequence > 5);
}

/// E6: a device that fails while the next segment is made is told of as that, not as full; once it works there is a
/// segment.
#[test]
fn a_segment_that_cannot_be_made_says_why() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 1_000);
    let ledger = ledger.expect("opens");
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.hold(Some(UNFINISHED));
    assert!(roll(&ledger));
    assert!(eventually(|| disk.names().contains(&UNFINISHED.to_owned())));
    // Nobody but its maker calls the disk now.
    disk.fail(disk.calls() + 1, Fault::Failed);
    disk.hold(None);
    let told = |wanted: fn(&Event) -> bool| eventually(|| events.lock().iter().any(wanted));
    assert!(told(|event| matches!(event, Event::RoomAgain)), "{}", disk.last_calls());
    assert!(told(|event| matches!(event, Event::SegmentFailed { error, .. } if error == "simulated EIO")));
    assert!(!events.lock().iter().any(|event| matches!(event, Event::NoRoom { .. })));
    assert!(roll(&ledger));
}

/// E7: whoever is refused while the next segment cannot be made hears what failed, now; once it can be made, writes go
/// on by themselves.
#[test]
fn a_refused_caller_hears_why_there_is_no_segment() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 1_000);
    let ledger = ledger.expect("opens");
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.break_writes(Some(UNFINISHED));
    assert!(roll(&ledger));
    let answer = || ledger.submit(common::alone(common::create("probe", 1))).map_err(|refused| refused.to_string());
    let hears = |text: &str| eventually(|| answer().is_err_and(|refused| refused == text));
    assert!(hears("cannot make the journal's next segment in journal: simulated EIO"), "{:?}", answer());
    disk.limit(Some(disk.used()));
    disk.break_writes(None);
    assert!(hears("no room in journal: 1048576 bytes are needed"), "{:?}", answer());
    disk.limit(None);
    assert!(eventually(|| answer().is_ok()));
    let told = |wanted: fn(&Event) -> bool| events.lock().iter().filter(|event| wanted(event)).count();
    assert_eq!(told(|event| matches!(event, Event::SegmentFailed { error, .. } if error == "simulated EIO")), 1);
    assert_eq!(told(|event| matches!(event, Event::NoRoom { .. })), 1);
    assert!(eventually(|| told(|event| matches!(event, Event::RoomAgain)) == 1));
}

/// Submits entries of about 150 kB until one is refused, and returns the error.
fn fill(ledger: &Ledger) -> SubmitError {
    let name = "x".repeat(equipoise::MAX_ID_BYTES);
    let long = || common::chain((0..1_000).map(|_| common::update(&name, 1)));
    let _ = ledger.create(&common::account(&name), 1);
    for _ in 0..100_000 {
        match ledger.submit(long()) {
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(refused) => return refused,
        }
    }
    panic!("it is never refused");
}

/// Like [`fill`], until there is no room for an entry.
fn fill_until_refused(ledger: &Ledger) {
    let refused = fill(ledger);
    assert!(matches!(refused, SubmitError::Exhausted(_)), "{refused}");
}

/// Case A13: C1, E7: a name that the next segment cannot have closes nothing: writes are refused, with the reason, and
/// what was decided waits, until it can.
#[test]
fn a_refused_name_is_asked_for_again() {
    let disk = Disk::new();
    let (ledger, events) = open(&disk, 1_000);
    let ledger = ledger.expect("opens");
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.break_renames(Some(SPARE));
    let answer = || ledger.submit(common::alone(common::create("probe", 1))).map_err(|refused| refused.to_string());
    fill_until_refused(&ledger);
    assert_eq!(answer().expect_err("refused"), "cannot make the journal's next segment in journal: simulated EIO");
    std::thread::sleep(Duration::from_millis(600));
    let (decided, durable) = (ledger.sequence(), ledger.durable());
    assert!(durable < decided && ledger.failure().is_none());
    assert_eq!(ledger.balance(&common::account("account-0")).map(|state| state.balance), Some(500));
    disk.break_renames(None);
    ledger.wait_durable(decided).expect("open");
    assert!(eventually(|| answer().is_ok()));
    let told = |wanted: fn(&Event) -> bool| events.lock().iter().filter(|event| wanted(event)).count();
    assert_eq!(told(|event| matches!(event, Event::SegmentFailed { .. })), 1);
    assert!(eventually(|| told(|event| matches!(event, Event::RoomAgain)) == 1));
    assert!(roll(&ledger));
    let cut = disk.after(End::WorstPowerCut);
    drop(ledger);
    assert!(reopen(&cut).sequence() >= decided);
}

/// C1, E4: a close ends the wait for a name, and says what was not written.
#[test]
fn a_close_waits_for_no_name() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.break_renames(Some(SPARE));
    fill_until_refused(&ledger);
    let durable = ledger.durable();
    let closing = ledger.clone();
    let closing = std::thread::spawn(move || closing.close());
    assert!(eventually(|| closing.is_finished()), "it ends");
    let failure = ledger.failure().expect("a reason");
    assert!(failure.contains("journal/0000000002.segment"), "{failure}");
    drop(ledger);
    disk.break_renames(None);
    assert!(reopen(&disk.after(End::WorstPowerCut)).sequence() >= durable);
}

/// C1, E4: an observer may close the ledger when a segment's rename fails. The close ends, and so do waiting calls.
#[test]
fn an_observer_may_close_the_ledger() {
    let disk = Disk::new();
    let (of, closed) = (Arc::new(Mutex::new(None::<Ledger>)), Arc::new(OnceLock::new()));
    let (ledger, done) = (of.clone(), closed.clone());
    let closes = move |event: &Event| {
        // Taken out: an observer that owns its ledger would keep it for ever.
        let ledger = matches!(event, Event::SegmentFailed { .. }).then(|| ledger.lock().take()).flatten();
        if let Some(ledger) = ledger {
            ledger.close();
            let _ = done.set(());
        }
    };
    let ledger = observed(&disk, 1_000, closes).expect("opens");
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.break_renames(Some(SPARE));
    *of.lock() = Some(ledger.clone());
    fill(&ledger);
    assert!(eventually(|| closed.get().is_some()), "a close by the observer ends");
    assert!(ledger.wait_durable(ledger.sequence()).is_err());
    let failure = ledger.failure().expect("a reason");
    assert!(failure.contains("journal/0000000002.segment"), "{failure}");
    let durable = ledger.durable();
    disk.break_renames(None);
    assert!(reopen(&disk.after(End::WorstPowerCut)).sequence() >= durable);
}

/// C1, E7: an observer that panics ends no thread: the failure heals, and writes go on by themselves.
#[test]
fn an_observer_that_panics_holds_nothing_up() {
    let disk = Disk::new();
    let ledger = observed(&disk, 1_000, |event| panic!("told of: {event}")).expect("opens");
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.break_renames(Some(SPARE));
    fill_until_refused(&ledger);
    let decided = ledger.sequence();
    disk.break_renames(None);
    assert!(eventually(|| ledger.durable() >= decided), "it heals");
    assert!(eventually(|| !ledger.stats().short_of_space) && roll(&ledger) && roll(&ledger));
    assert_eq!(ledger.failure(), None);
    let (sequence, cut) = (ledger.sequence(), disk.after(End::WorstPowerCut));
    drop(ledger);
    assert!(reopen(&cut).sequence() <= sequence);
}

/// C1, E7: somebody removes the spare: another is made.
#[test]
fn a_spare_that_is_gone_is_made_again() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    assert!(eventually(|| disk.names().contains(&SPARE.to_owned())));
    disk.take(SPARE);
    assert!(roll(&ledger));
    begin(&ledger);
    let sequence = ledger.sequence();
    let cut = disk.after(End::WorstPowerCut);
    drop(ledger);
    assert_eq!(reopen(&cut).sequence(), sequence);
}

/// C1: of a segment's beginning only the rename may fail; after a failed write or sync the disk's contents are unknown.
#[test]
fn a_failed_write_or_sync_of_a_segments_begin_closes_the_ledger() {
    const NAME: u64 = 3;
    for call in 1..=4 {
        let disk = Disk::new();
        let ledger = reopen(&disk);
        begin(&ledger);
        assert!(spare_is_made(&disk));
        disk.fail(disk.calls() + call, Fault::Failed);
        assert_eq!(roll(&ledger), call == NAME, "{}", disk.last_calls());
    }
}

/// C1: what a process answers after another died between the rename of a segment and the sync of its folder is not
/// taken back by a power cut.
#[test]
fn a_name_that_was_not_durable_is_made_so_before_anybody_relies_on_it() {
    let disk = Disk::new();
    begin(&reopen(&disk));
    for call in 1.. {
        let dying = disk.after(End::Killed);
        dying.fail(call, Fault::CrashBefore);
        if let Ok(ledger) = open(&dying, 1_000).0 {
            // Dead, it would wait for a spare for ever.
            std::thread::scope(|scope| {
                let rolled = scope.spawn(|| roll(&ledger));
                assert!(eventually(|| rolled.is_finished() || dying.has_failed()));
                ledger.close();
            });
        }
        let killed = dying.after(End::Killed);
        // A spare's own folder sync would help.
        killed.hold(Some(UNFINISHED));
        let ledger = reopen(&killed);
        let made = ledger.with_durability(Durability::OnDisk).create(&common::account("later"), 1).is_ok();
        let cut = killed.after(End::WorstPowerCut);
        cut.hold(None);
        killed.hold(None);
        drop(ledger);
        let found = reopen(&cut).balance(&common::account("later"));
        assert!(found.is_some() || !made, "call {call}\n{}", dying.last_calls());
        if !dying.has_failed() {
            return;
        }
    }
}

/// C2: a file called spare that somebody else wrote to, or of another length, does not become a segment.
#[test]
fn only_zeros_become_a_segment() {
    let of_the_past = Disk::new();
    let ledger = reopen(&of_the_past);
    begin(&ledger);
    drop(ledger);
    let old = of_the_past.bytes("journal/0000000001.segment");
    for spare in [old.clone(), vec![7; 1 << 20], vec![0; 5], vec![0; 2 << 20]] {
        let disk = Disk::new();
        disk.put(SPARE, &spare);
        let ledger = reopen(&disk);
        begin(&ledger);
        let mut known = Known::default();
        assert!(roll(&ledger));
        begin(&ledger);
        known.check(&ledger, &Shown::default());
        let killed = disk.after(End::Killed);
        drop(ledger);
        known.check_accounts(&reopen(&killed));
    }
}

/// C2, C3: a segment that is called spare and goes on where the journal ends is not removed: the start says which file
/// that is. Under its own name it is read; with nothing in it, it is a spare.
#[test]
fn a_segment_under_the_spares_name_is_not_removed() {
    let disk = Disk::new();
    let ledger = reopen(&disk);
    begin(&ledger);
    assert!(roll(&ledger));
    begin(&ledger);
    let sequence = ledger.sequence();
    let killed = disk.after(End::Killed);
    drop(ledger);
    let segment = killed.bytes(SECOND);
    killed.take(SECOND);
    killed.put(SPARE, &segment);
    let names = killed.names();
    let refused = open(&killed, 1_000).0.expect_err("it may hold what was answered");
    let OpenError::Damaged { file, offset, what } = refused else { panic!("{refused}") };
    assert_eq!((file.to_str(), offset), (Some(SPARE), 4096));
    assert!(what.contains(SECOND), "{what}");
    assert_eq!((killed.names(), killed.bytes(SPARE) == segment), (names, true), "it is as it was");

    let blank = killed.copy();
    blank.edit(SPARE, |bytes| bytes[4096..].fill(0));
    let found = reopen(&blank);
    assert!(found.sequence() < sequence && roll(&found));
    drop(found);
    killed.take(SPARE);
    killed.put(SECOND, &segment);
    assert_eq!(reopen(&killed).sequence(), sequence);
}
