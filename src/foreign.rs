//! Code that is not ours, and runs on our threads or in the middle of our calls: wakers, and the observer. Whoever comes here holds no lock,
//! so that code may call the ledger; and a panic ends here, so that it ends neither a thread of ours nor what is to be done after it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use crate::event::Event;

/// Wakes, and lets the waker go.
pub(crate) fn wake(waker: Waker) {
    run(|| waker.wake());
}

/// Who is told what an operator may want to know.
#[derive(Clone)]
pub(crate) struct Observer(Arc<dyn Fn(&Event) + Send + Sync>);

impl Observer {
    pub(crate) fn new(told: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Observer(Arc::new(told))
    }

    pub(crate) fn tell(&self, event: &Event) {
        run(|| (self.0)(event));
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// Runs it. Of a panic the process's hook has told.
fn run(code: impl FnOnce()) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(code)) else { return };
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // It would panic for ever.
        std::mem::forget(again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsAgain;

    impl Drop for PanicsAgain {
        fn drop(&mut self) {
            std::panic::panic_any(PanicsAgain);
        }
    }

    /// E4: a panic ends where the code was run, whatever it carries.
    #[test]
    fn a_panic_ends_here() {
        run(|| panic!("plain"));
        run(|| std::panic::panic_any(PanicsAgain));
        let observer = Observer::new(|event| assert_ne!(event, &Event::RoomAgain));
        observer.tell(&Event::RoomAgain);
    }
}
