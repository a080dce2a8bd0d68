//! SIGINT, SIGTERM and SIGHUP, for commands that have something to say, or to tidy, at their end.

use std::io;
use std::process::exit;
use std::thread;

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
    let (mut signals, mut hangup) = {
        let _entered = runtime.enter();
        (Signals::new().map_err(cannot)?, Hangup::new().map_err(cannot)?)
    };
    let mut next = async move || {
        tokio::select! {
            _ = signals.next() => {}
            () = hangup.next() => {}
        }
    };
    let listen = move || {
        runtime.block_on(async {
            next().await;
            first();
            next().await;
        });
        last();
        exit(i32::from(INTERRUPTED));
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(cannot)?;
    Ok(())
}

/// The end of the terminal; None: whoever ignores it, as nohup does, wants to outlive that.
#[cfg(target_os = "linux")]
struct Hangup(Option<tokio::signal::unix::Signal>);

#[cfg(target_os = "linux")]
impl Hangup {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let hangup = SignalKind::hangup();
        let status = procfs::process::Process::myself().and_then(|process| process.status());
        // Where that cannot be known, nothing is changed.
        let ignored = status.map_or(true, |status| status.sigign & (1 << (hangup.as_raw_value() - 1)) != 0);
        Ok(Hangup(if ignored { None } else { Some(signal(hangup)?) }))
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
struct Hangup;

#[cfg(not(target_os = "linux"))]
impl Hangup {
    fn new() -> io::Result<Self> {
        Ok(Hangup)
    }

    async fn next(&mut self) {
        std::future::pending().await
    }
}
