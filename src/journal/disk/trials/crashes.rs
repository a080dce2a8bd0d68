//! The process dies at any call, or the call fails: what was shown as durable is there after the next start.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use equipoise::{Durability, Ledger};
use parking_lot::Mutex;

use super::disk::{Disk, End, Fault};
use super::workload::{Caller, Known, Shown, begin, checkpoint, fill, newest_checkpoint, open, reopen};
use super::{common, depth};

/// Entries between two checkpoints.
const EVERY: u64 = 10;

/// Closes the ledger of a process that has died: whoever waits there for the next segment would do so for ever.
pub(super) struct CloseWhenDead {
    over: Arc<Mutex<bool>>,
    watching: Option<JoinHandle<()>>,
}

impl CloseWhenDead {
    pub(super) fn watch(ledger: &Ledger, disk: &Disk) -> Self {
        let over = Arc::new(Mutex::new(false));
        let (ledger, disk, ended) = (ledger.clone(), disk.clone(), over.clone());
        let watching = std::thread::spawn(move || {
            while !*ended.lock() && !disk.is_dead() {
                std::thread::sleep(Duration::from_millis(2));
            }
            if disk.is_dead() {
                ledger.close();
            }
        });
        CloseWhenDead { over, watching: Some(watching) }
    }
}

impl Drop for CloseWhenDead {
    fn drop(&mut self) {
        *self.over.lock() = true;
        self.watching.take().expect("one").join().expect("no panic");
    }
}

/// Where a trial starts.
struct Start {
    disk: Disk,
    known: Known,
}

impl Start {
    /// Where nothing is.
    fn empty() -> Self {
        Start { disk: Disk::new(), known: Known::default() }
    }

    /// Shortly before the end of a segment, with a checkpoint.
    fn before_the_next_segment() -> Self {
        let disk = Disk::new();
        let (ledger, events) = open(&disk, 1);
        let ledger = ledger.expect("opens");
        begin(&ledger);
        fill(&ledger, 1, 2_500);
        checkpoint(&ledger, &events, &disk, ledger.durable());
        let mut known = Known::default();
        known.check(&ledger, &Shown::default());
        drop(ledger);
        Start { disk, known }
    }

    /// One life of the ledger; what it showed.
    fn live(&self, disk: &Disk, threads: usize, seed: u64) -> Shown {
        let mut shown = Shown::default();
        let (ledger, events) = open(disk, EVERY);
        let Ok(ledger) = ledger else { return shown };
        let _closing = CloseWhenDead::watch(&ledger, disk);
        begin(&ledger);
        let callers = common::together(threads, |thread| {
            let mut caller = Caller::new(&format!("{}-{thread}", self.known.sequence), seed + thread as u64);
            for _ in 0..2 {
                caller.run(&ledger, 12 / threads);
                let last = newest_checkpoint(&events).max(self.known.sequence);
                if thread == 0 && !caller.closed && ledger.durable() >= last + EVERY {
                    checkpoint(&ledger, &events, disk, last + 1);
                }
            }
            caller
        });
        let failed = ledger.failure().is_some() || disk.is_dead();
        for caller in callers {
            assert!(!caller.closed || failed, "closed without a reason");
            shown.merge(caller.shown);
        }
        shown
    }

    /// Something goes wrong at a call: nothing that was shown may be missing afterwards. False when there are fewer
    /// calls.
    fn trial(&self, threads: usize, seed: u64, call: u64, fault: Fault, end: End) -> bool {
        let disk = self.disk.copy();
        disk.fail(call, fault);
        let shown = self.live(&disk, threads, seed);
        let struck = disk.has_failed();
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut known = self.known.clone();
            let disk = disk.after(end);
            let ledger = reopen(&disk);
            known.check(&ledger, &shown);
            let later = self.ten_more(&ledger);
            drop(ledger);
            let disk = disk.after(End::PowerCut(seed + call));
            let ledger = reopen(&disk);
            known.check(&ledger, &later);
        }));
        if told.is_err() {
            panic!("{threads} threads, seed {seed}, call {call}, {fault:?}, {end:?}\n{}", disk.last_calls());
        }
        struck
    }

    fn ten_more(&self, ledger: &Ledger) -> Shown {
        let ledger = ledger.with_durability(Durability::OnDisk);
        let mut shown = Shown::default();
        for number in 0..10 {
            let account = common::account(&format!("later-{number}"));
            let request = common::alone(common::create(account.as_str(), number));
            shown.outcome(&ledger.submit(request).expect("decided"));
        }
        shown
    }

    fn every_call(&self, threads: usize, stride: u64) {
        let stride = (stride / depth()).max(1);
        for (fault, offset) in Fault::ALL.into_iter().zip(0..) {
            let mut call = 1 + offset % stride;
            loop {
                let ends = [End::Killed, End::PowerCut(call * 31 + offset)];
                let struck = ends.map(|end| self.trial(threads, call + offset, call, fault, end));
                if struck == [false, false] {
                    break;
                }
                call += stride;
            }
        }
    }
}

/// C1, C2, C3: from an empty directory on.
#[test]
fn a_young_ledger_survives_a_fault_at_any_call() {
    Start::empty().every_call(1, 9);
}

/// C1, C2, C3: over the end of a segment, beside a checkpoint.
#[test]
fn a_ledger_survives_a_fault_at_any_call_between_two_segments() {
    Start::before_the_next_segment().every_call(1, 9);
}

/// C1, C2, C3, A5: as above, with several callers.
#[test]
fn a_ledger_with_several_callers_survives_a_fault_at_any_call() {
    let start = Start::before_the_next_segment();
    start.every_call(2, 30);
    start.every_call(4, 30);
}

/// C1, C2, C3: the start after a crash dies as well, at any call, and the one after that.
#[test]
fn a_ledger_survives_deaths_at_its_starts() {
    let start = Start::before_the_next_segment();
    let mut random = common::Random(7);
    for seed in 0..20 * depth() {
        let disk = start.disk.copy();
        disk.fail(1 + random.below(60) as u64, Fault::CrashWithin);
        let mut shown = start.live(&disk, 1, seed);
        let mut disk = disk;
        for _ in 0..3 {
            let end = if random.below(2) == 0 { End::Killed } else { End::PowerCut(random.next()) };
            disk = disk.after(end);
            let fault = Fault::ALL[random.below(Fault::ALL.len())];
            disk.fail(1 + random.below(40) as u64, fault);
            if let Ok(ledger) = open(&disk, EVERY).0 {
                let _closing = CloseWhenDead::watch(&ledger, &disk);
                let mut caller = Caller::new(&format!("again-{}", random.next()), seed);
                caller.run(&ledger, 5);
                shown.merge(caller.shown);
            }
        }
        let mut known = start.known.clone();
        known.check(&reopen(&disk.after(End::PowerCut(seed))), &shown);
    }
}
