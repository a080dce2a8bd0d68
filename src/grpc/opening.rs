//! The ledger that a service serves, which may still be opening.

use std::fmt;
use std::future::{self, Future};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::timeout;

use super::Error;
use super::books::Books;
use super::status::percent;
#[cfg(feature = "postgres")]
use crate::postgres::{PgStore, Settings};
use crate::{Builder, Ledger, OpenError, Progress};

/// How often the log tells how far the opening is.
const LOG_EVERY: Duration = Duration::from_secs(1);

type Pending = Pin<Box<dyn Future<Output = Result<Books, Error>> + Send>>;

type Told = Box<dyn FnOnce(&Books) + Send>;

/// A ledger that is open or being opened: what [`serve`](super::serve) takes. A [`Ledger`] converts into one that is
/// open.
///
/// Until it is open the service is alive and not ready: health says SERVING for `""` and NOT_SERVING for
/// `equipoise.v1.AccountService`, and every account call gets UNAVAILABLE.
pub struct Opening {
    /// None once it has ended.
    books: Option<Pending>,
    recovery: Arc<Recovery>,
    on_ready: Option<Told>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("recovery", &self.recovery).finish_non_exhaustive()
    }
}

impl From<Ledger> for Opening {
    fn from(ledger: Ledger) -> Self {
        Opening::new(future::ready(Ok(ledger)))
    }
}

impl Opening {
    /// A ledger that somebody else opens. If the service ends first, the future `ledger` has
    /// [`Options::shutdown_grace`](super::Options::shutdown_grace) to finish, and is then dropped.
    pub fn new(ledger: impl Future<Output = Result<Ledger, OpenError>> + Send + 'static) -> Self {
        Opening::of(async { Ok(ledger.await?.into()) })
    }

    fn of(books: impl Future<Output = Result<Books, Error>> + Send + 'static) -> Self {
        Opening { books: Some(Box::pin(books)), recovery: Arc::default(), on_ready: None }
    }

    /// Accounts that PostgreSQL keeps.
    #[cfg(feature = "postgres")]
    pub fn on_postgres(settings: Settings) -> Self {
        Opening::of(async move { Ok(Books::Postgres(Arc::new(PgStore::connect(&settings).await?))) })
    }

    /// Opens the ledger in the data directory `dir` on a blocking thread, and reports progress to callers and the log.
    /// Replaces [`Builder::progress`] and [`Builder::blocking`]. The end of the service cancels it.
    pub fn on_disk(builder: Builder, dir: impl Into<PathBuf>) -> Self {
        let (recovery, dir) = (Arc::<Recovery>::default(), dir.into());
        let builder = builder.progress(recovery.clone().follow()).blocking(beside_others);
        let told = recovery.clone();
        let open = async move {
            let began = Instant::now();
            let ledger = match tokio::task::spawn_blocking(move || builder.open(dir)).await {
                Ok(opened) => opened?,
                Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
                // The runtime is going away.
                Err(_) => return Err(OpenError::Cancelled),
            };
            let (entries, seconds) = (told.progress().replayed, began.elapsed().as_secs_f64());
            tracing::info!("recovered {entries} entries in {seconds:.1} s");
            Ok(ledger)
        };
        Opening { recovery, ..Opening::new(open) }
    }

    /// Calls `told` with the accounts once the service takes account calls. It must not block.
    #[must_use]
    pub fn on_ready(mut self, told: impl FnOnce(&Books) + Send + 'static) -> Self {
        self.on_ready = Some(Box::new(told));
        self
    }

    pub(super) fn recovery(&self) -> Arc<Recovery> {
        self.recovery.clone()
    }

    /// Returns the accounts once they are there. Cancel safe; not to be called again once it has returned.
    pub(super) async fn books(&mut self) -> Result<Books, Error> {
        let Some(books) = &mut self.books else { return future::pending().await };
        let opened = books.await;
        self.books = None;
        opened
    }

    pub(super) fn tell_ready(&mut self, books: &Books) {
        if let Some(told) = self.on_ready.take() {
            told(books);
        }
    }

    /// Ends what is under way, within `grace`. Returns the accounts if they were opened before that.
    pub(super) async fn cancel(&mut self, grace: Duration) -> Option<Books> {
        self.books.as_ref()?;
        self.recovery.cancel();
        match timeout(grace, self.books()).await {
            Ok(Ok(books)) => return Some(books),
            Ok(Err(Error::Open(OpenError::Cancelled))) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the ledger could not be opened, and is not needed any more"),
            Err(_) => tracing::warn!("the opening of the ledger did not end within {grace:?}"),
        }
        None
    }
}

/// Runs what may wait for a disk. A worker's other tasks go to another thread first: among them may be calls that need
/// no disk. Nothing cuts a read short: its call ends when the disk answers, however long after its limits.
fn beside_others(read: &mut dyn FnMut()) {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(read),
        // One of its own threads, or a runtime with nobody to hand them to.
        _ => read(),
    }
}

/// How far an opening is, and whether it is still wanted.
pub(super) struct Recovery {
    progress: Mutex<Progress>,
    cancelled: OnceLock<()>,
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.progress().fmt(f)
    }
}

impl Default for Recovery {
    fn default() -> Self {
        let progress = Progress { replayed: 0, bytes: 0, total_bytes: 0 };
        Recovery { progress: Mutex::new(progress), cancelled: OnceLock::new() }
    }
}

impl Recovery {
    pub(super) fn progress(&self) -> Progress {
        *self.progress.lock()
    }

    fn cancel(&self) {
        // It may have been before.
        let _ = self.cancelled.set(());
    }

    /// What a builder tells its progress to.
    fn follow(self: Arc<Self>) -> impl FnMut(Progress) -> ControlFlow<()> + Send + 'static {
        let (mut logged, mut at) = (0, Instant::now());
        move |progress| {
            *self.progress.lock() = progress;
            let Progress { replayed, bytes, total_bytes } = progress;
            let since = at.elapsed();
            if since >= LOG_EVERY {
                let entries_per_second = u128::from(replayed.saturating_sub(logged)) * 1_000 / since.as_millis().max(1);
                let percent = percent(bytes, total_bytes);
                tracing::info!(entries = replayed, percent, entries_per_second, "recovering the ledger");
                (logged, at) = (replayed, Instant::now());
            }
            match self.cancelled.get() {
                Some(()) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A10, E4: whoever asks hears how far it is, and an opening that is not wanted any more is told.
    #[test]
    fn progress_is_told_on_and_cancelled() {
        let recovery = Arc::<Recovery>::default();
        let mut told = recovery.clone().follow();
        let progress = Progress { replayed: 5, bytes: 1, total_bytes: 2 };
        assert_eq!(told(progress), ControlFlow::Continue(()));
        assert_eq!(recovery.progress(), progress);
        recovery.cancel();
        recovery.cancel();
        assert_eq!(told(progress), ControlFlow::Break(()));
    }

    /// E4: a cancelled opening is given time to end, and no more.
    #[tokio::test]
    async fn cancelling_waits_for_the_end_but_not_for_ever() {
        let grace = Duration::from_millis(20);
        let mut stuck = Opening::new(future::pending());
        assert!(stuck.cancel(grace).await.is_none());
        let mut ended = Opening::new(future::ready(Err(OpenError::Cancelled)));
        assert!(ended.cancel(grace).await.is_none());
        let mut faster = Opening::from(Ledger::new());
        assert!(faster.cancel(grace).await.is_some());
        assert!(faster.cancel(grace).await.is_none(), "it is somebody else's by now");
    }
}
