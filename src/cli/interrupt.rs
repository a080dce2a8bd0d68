//! SIGINT and SIGTERM, for commands that have something to say at their end.

use std::process::exit;

use super::exit::Failure;
use super::serve::Signals;

/// How shells tell of SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// The first signal calls `first`, the next one is the end of the process, with `last` before it.
pub(super) fn listen(
    first: impl FnOnce() + Send + 'static,
    last: impl FnOnce() + Send + 'static,
) -> Result<(), Failure> {
    let cannot = |error| Failure::Other(format!("cannot wait for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new().map_err(cannot)?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            signals.next().await;
            first();
            signals.next().await;
        });
        last();
        exit(i32::from(INTERRUPTED));
    });
    Ok(())
}
