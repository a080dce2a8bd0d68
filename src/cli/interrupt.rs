//! SIGINT, SIGTERM and SIGHUP, for commands that report something or clean up when they end.

use std::io;
use std::process::{self, exit};
use std::sync::Arc;
use std::thread;

use parking_lot::{Mutex, MutexGuard};
use signal_hook::low_level::emulate_default_handler;
use tokio::signal::unix::{Signal as Hearing, SignalKind, signal};

use super::exit::Failure;

/// The exit code by which shells report SIGINT.
pub(super) const INTERRUPTED: u8 = Signal::Interrupt.exit_code();

/// A signal, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Hangup = 1,
    Interrupt = 2,
    Terminate = 15,
}

impl Signal {
    /// The exit code by which shells report a process that ended by this signal.
    pub(super) const fn exit_code(self) -> u8 {
        128 + self as u8
    }

    /// Ends the process by this signal, so that a shell ends its script. After an exit with code 130 it would go on.
    fn end(self) -> ! {
        // In a container the process may be number 1, which none of its own signals ends.
        if process::id() != 1 {
            let _ = emulate_default_handler(self as i32);
        }
        exit(i32::from(self.exit_code()))
    }
}

/// The first signal calls `first`; the next one calls `last` and ends the process. Signals are not handled while they
/// run, so they print through [`say_within`](super::exit::say_within).
pub(super) fn listen(
    first: impl FnOnce(Signal) + Send + 'static,
    last: impl FnOnce() + Send + 'static,
) -> Result<(), Failure> {
    let cannot = |error| Failure::Other(format!("cannot wait for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new().map_err(cannot)?
    };
    let listen = move || {
        runtime.block_on(async {
            first(signals.next().await);
            signals.next().await;
        });
        last();
        exit(i32::from(INTERRUPTED));
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(cannot)?;
    Ok(())
}

/// A signal calls `tell` and ends the process. Nobody passes the gate meanwhile.
pub(super) fn end_after(gate: &Gate, tell: impl FnOnce(Signal) + Send + 'static) -> Result<(), Failure> {
    let closing = gate.clone();
    let end = move |signal: Signal| {
        let _closed = closing.pass();
        tell(signal);
        signal.end();
    };
    listen(end, || ())
}

/// A gate that is open until a signal comes.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<()>>);

impl Gate {
    /// Does not return once a signal has come. A signal that comes while the guard is held waits until it is dropped.
    pub(super) fn pass(&self) -> MutexGuard<'_, ()> {
        self.0.lock()
    }
}

/// Signals that were ignored when the process began stay ignored: nohup needs that, and so do shells for the background
/// jobs of a script.
struct Signals {
    hangup: Option<Hearing>,
    interrupt: Option<Hearing>,
    terminate: Option<Hearing>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let ignored = ignored();
        // If that is unknown, a run survives its terminal, and Ctrl-C ends it.
        let hear = |kind: SignalKind, unknown: bool| {
            let heard = ignored.map_or(unknown, |ignored| ignored & (1 << (kind.as_raw_value() - 1)) == 0);
            heard.then(|| signal(kind)).transpose()
        };
        Ok(Signals {
            hangup: hear(SignalKind::hangup(), false)?,
            interrupt: hear(SignalKind::interrupt(), true)?,
            terminate: hear(SignalKind::terminate(), true)?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            () = hear(&mut self.hangup) => Signal::Hangup,
            () = hear(&mut self.interrupt) => Signal::Interrupt,
            () = hear(&mut self.terminate) => Signal::Terminate,
        }
    }
}

async fn hear(signal: &mut Option<Hearing>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The ignored signals, as bits; None if unknown.
#[cfg(target_os = "linux")]
fn ignored() -> Option<u64> {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.ok().map(|status| status.sigign)
}

#[cfg(not(target_os = "linux"))]
fn ignored() -> Option<u64> {
    None
}
