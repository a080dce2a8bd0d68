//! Runs foreign code: wakers and the observer, which run on the engine's threads or inside its calls. Callers hold no
//! lock, so that code may call the ledger. Panics are caught here: they end no thread of the engine, and what follows
//! is still done.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use crate::event::Event;

/// Wakes `waker` and drops it.
pub(crate) fn wake(waker: Waker) {
    run(|| waker.wake());
}

/// The embedder's callback for events that an operator may want to know.
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

/// Runs `code` and catches a panic, which the panic hook has already reported.
fn run(code: impl FnOnce()) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(code)) else { return };
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // Dropping this payload might panic again, without end.
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

    /// E4: `run` contains a panic, whatever its payload.
    #[test]
    fn a_panic_ends_here() {
        run(|| panic!("plain"));
        run(|| std::panic::panic_any(PanicsAgain));
        let observer = Observer::new(|event| assert_ne!(event, &Event::RoomAgain));
        observer.tell(&Event::RoomAgain);
    }
}
