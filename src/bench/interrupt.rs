//! Cooperative cancellation of a run.

use std::sync::OnceLock;
use std::time::Instant;

use parking_lot::Mutex;

/// Asks a run to end and to print what there is. Set once.
#[derive(Debug, Default)]
pub struct Interrupt {
    asked: OnceLock<Instant>,
    /// The process of a service that a run started.
    child: Mutex<Option<u32>>,
}

impl Interrupt {
    /// Asks for the end.
    pub fn ask(&self) {
        // Asked before, it is asked.
        let _ = self.asked.set(Instant::now());
    }

    /// Whether somebody asked.
    #[inline]
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.get().is_some()
    }

    /// Ends a service that a run started, for a process that cannot wait for the run.
    pub fn abandon(&self) {
        if let Some(pid) = self.child.lock().take() {
            kill(pid);
        }
    }

    /// When somebody asked.
    pub(super) fn asked_at(&self) -> Option<Instant> {
        self.asked.get().copied()
    }

    /// A service was started, or is gone.
    pub(super) fn set_child(&self, pid: Option<u32>) {
        *self.child.lock() = pid;
    }
}

#[cfg(unix)]
fn kill(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};

    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended already.
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn kill(_: u32) {}
