//! A doorbell for one thread that sleeps while there is nothing to do.

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

use super::sync::{AtomicBool, Ordering::SeqCst};

/// Wakes one listener; ringing costs a load while it is awake.
pub(crate) struct Doorbell {
    listener: OnceLock<Thread>,
    asleep: AtomicBool,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Doorbell { listener: OnceLock::new(), asleep: AtomicBool::new(false) }
    }

    /// Wakes the listener if it sleeps.
    #[inline]
    pub(crate) fn ring(&self) {
        // SeqCst: pairs with the store in `listen`: either we see it asleep, or it sees what we did before ringing.
        if self.asleep.load(SeqCst)
            && self.asleep.swap(false, SeqCst)
            && let Some(listener) = self.listener.get()
        {
            listener.unpark();
        }
    }

    /// Sleeps until rung, unless `busy` says that there is work already. For one thread, always the same.
    pub(crate) fn listen(&self, busy: impl Fn() -> bool) {
        self.listener.get_or_init(std::thread::current);
        self.asleep.store(true, SeqCst);
        if !busy() {
            std::thread::park_timeout(Duration::from_secs(1));
        }
        self.asleep.store(false, SeqCst);
    }
}
