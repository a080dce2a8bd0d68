//! The system's limits on this process: one that is too low is reported, instead of ending the process silently.

use std::io;
use std::thread;

use parking_lot::Mutex;

/// From now on a write past the limit on file size fails like any other, and SIGXFSZ does not end the process.
#[cfg(unix)]
pub(super) fn outlive_long_files() -> io::Result<()> {
    use rustix::process::{Resource, Signal, getrlimit};
    use tokio::signal::unix::{SignalKind, signal};

    if getrlimit(Resource::Fsize).current.is_none() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    // The listener is dropped, and the signal's handler stays.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

#[cfg(not(unix))]
pub(super) fn outlive_long_files() -> io::Result<()> {
    Ok(())
}

/// How many joined threads the system may still count: it does so for a moment after the join.
const STILL_COUNTED: usize = 4;

/// Fails if this many threads cannot be started at once. The log and the runtime panic if theirs cannot be.
pub(super) fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let begin = |_| thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()));
        let begun: Vec<_> = (0..count + STILL_COUNTED).map(begin).collect::<io::Result<_>>()?;
        drop(closed);
        for thread in begun {
            // It only takes the lock, so it cannot fail.
            let _ = thread.join();
        }
        Ok(())
    })
}
