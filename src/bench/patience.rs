//! How long a run waits for an answer that it cannot do without.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::Error;
use super::interrupt::Interrupt;

/// How often to look for an interrupt.
const LOOK: Duration = Duration::from_millis(50);

/// Waits up to a fixed time for each answer, and not at all once the run is interrupted.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) limit: Duration,
    interrupt: Arc<Interrupt>,
    /// The end was already requested, and this wait is part of it.
    ending: bool,
}

impl Patience {
    pub(super) fn new(limit: Duration, interrupt: &Arc<Interrupt>) -> Self {
        Patience { limit, interrupt: interrupt.clone(), ending: false }
    }

    /// For what belongs to the end. If that was already requested, the interrupt does not cut these waits short.
    pub(super) fn of_the_end(limit: Duration, interrupt: &Arc<Interrupt>) -> Self {
        Patience { ending: interrupt.is_asked(), ..Patience::new(limit, interrupt) }
    }

    /// The answer.
    ///
    /// # Errors
    /// What it failed with, DEADLINE_EXCEEDED, or [`Error::Interrupted`].
    pub(super) async fn wait<T, E: Into<Error>>(&self, answer: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
        let interrupted = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if self.look().is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer.map_err(Into::into),
            () = interrupted => Err(Error::Interrupted),
            () = tokio::time::sleep(self.limit) => {
                Err(Status::deadline_exceeded(format!("no answer within {:?}", self.limit)).into())
            }
        }
    }

    /// # Errors
    /// [`Error::Interrupted`] when the end was requested since.
    pub(super) fn look(&self) -> Result<(), Error> {
        if self.interrupt.is_asked() && !self.ending { Err(Error::Interrupted) } else { Ok(()) }
    }
}
