//! How many bytes only old readers need: versions kept for open snapshots, and memory that waits for an epoch to pass.
//! Counted for the whole process, since crossbeam's default collector is shared: one thread asleep inside a guard holds
//! back every ledger's garbage.

use std::cell::Cell;

use super::sync::Ordering::Relaxed;

/// A thread reports its share once it has moved this far, bytes.
const REPORT: i64 = 16 * 1024;

static BYTES: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

struct Share(Cell<i64>);

impl Drop for Share {
    fn drop(&mut self) {
        // Relaxed: a statistic; it orders nothing.
        BYTES.fetch_add(self.0.get(), Relaxed);
    }
}

thread_local! {
    static SHARE: Share = const { Share(Cell::new(0)) };
}

/// Counts `delta` bytes more.
pub(super) fn count(delta: i64) {
    let reported = SHARE.try_with(|Share(share)| {
        let moved = share.get() + delta;
        if moved.abs() < REPORT {
            share.set(moved);
            return 0;
        }
        share.set(0);
        moved
    });
    // A thread past its thread-locals reports at once.
    let moved = reported.unwrap_or(delta);
    if moved != 0 {
        // Relaxed: a statistic; it orders nothing.
        BYTES.fetch_add(moved, Relaxed);
    }
}

/// Bytes of versions kept for snapshots, and of whatever was retired and not freed yet; to within 16 KiB a thread.
pub(crate) fn bytes() -> u64 {
    // Relaxed: a statistic; it orders nothing.
    BYTES.load(Relaxed).max(0) as u64
}
