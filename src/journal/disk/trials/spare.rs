//! The next segment: who waits for it gets it whole, whoever else is at it.

use super::common;
use std::time::Duration;

use super::disk::{Disk, End, Fault};
use super::workload::{Known, Shown, begin, eventually, fill_applied, open, reopen, roll};
use equipoise::{Durability, Event};

const SPARE: &str = "journal/spare";
const UNFINISHED: &str = "journal/spare.tmp";

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

/// E6: a device that fails while the next segment is made is told of as that, not as full; once it works there is a segment.
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

/// E7: whoever is refused while the next segment cannot be made hears what failed, now; once it can be made, writes go on by themselves.
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

/// C1: what a process answers after another died between the rename of a segment and the sync of its folder is not taken
/// back by a power cut.
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
