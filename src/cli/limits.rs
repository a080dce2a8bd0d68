//! What the system lets this process have: where that is not enough it is told of, and is not the end without a word.

use std::io;
use std::thread;

use parking_lot::Mutex;

/// From now on a write past the longest file that may be written is an error as others are, and not the end by SIGXFSZ.
#[cfg(unix)]
pub(super) fn outlive_long_files() -> io::Result<()> {
    use rustix::process::{Resource, Signal, getrlimit};
    use tokio::signal::unix::{SignalKind, signal};

    if getrlimit(Resource::Fsize).current.is_none() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    // Whoever hears the signal is dropped, and its handler stays.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

#[cfg(not(unix))]
pub(super) fn outlive_long_files() -> io::Result<()> {
    Ok(())
}

/// The system counts a thread for a moment longer than whoever joins it waits.
const STILL_COUNTED: usize = 4;

/// Fails when not so many threads can be had at once. The log and the runtime panic where theirs cannot be had.
pub(super) fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let begin = |_| thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()));
        let begun: Vec<_> = (0..count + STILL_COUNTED).map(begin).collect::<io::Result<_>>()?;
        drop(closed);
        for thread in begun {
            // Its only way to end is that it got the lock.
            let _ = thread.join();
        }
        Ok(())
    })
}
