//! The real binary on a real directory: killed, cut off from power, out of room, on a failing disk, under a moving
//! clock. The cases are those of the requirements' list; E6 unless a test says otherwise.
//!
//! EQUIPOISE_KILLS=1000 makes the rounds of kill -9 as many as that (scripts/kills.sh).

#![cfg(all(feature = "server", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod access;
mod audit;
mod client;
mod clock;
mod damage;
mod deadlines;
mod descriptors;
mod failing_disk;
mod full_disk;
mod hot_copy;
mod kills;
mod limits;
mod load;
mod moved_directory;
mod power;
mod recovery;
mod refusals;
mod service;
mod shim;
mod stalled_disk;
mod totals;
mod two_processes;
mod unfinished;
mod unread_log;
mod watchers;

/// Whether an id that was used before a restart is known after it: the id index on disk sees to that. Where it did not,
/// a trial would look into the journal first and resend only what is not there.
fn ids_survive_a_restart() -> bool {
    true
}
