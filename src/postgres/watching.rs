//! Polls whether PostgreSQL can be used, even while nobody else asks it anything.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::database::Fault;
use super::error::PgError;
use super::link::{Connector, Link};
use super::migrate::migrate;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);

/// How long an answer may take on an existing connection. Connecting has its own timeout, and the last finding holds
/// until then: otherwise a slow network would look like a database that is down.
const PATIENCE: Duration = Duration::from_secs(3);

/// The task; dropping it ends it.
pub(super) struct Watching {
    unavailable: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watching {
    pub(super) fn start(connector: Connector) -> Self {
        let unavailable = Arc::default();
        let task = tokio::spawn(run(connector, Arc::clone(&unavailable)));
        Watching { unavailable, task }
    }

    pub(super) fn unavailable(&self) -> Option<String> {
        self.unavailable.lock().clone()
    }
}

async fn run(connector: Connector, unavailable: Arc<Mutex<Option<String>>>) {
    let mut link = None;
    loop {
        sleep(EVERY).await;
        let asked = ask(&connector, &mut link).await;
        if asked.is_err() {
            link = None;
        }
        *unavailable.lock() = asked.err().map(|fault| PgError::from(fault).to_string());
        // An older dump was restored. Nothing is written now, so nothing else would bring the schema up to date.
        if connector.standing().is_older()
            && let Err(error) = bring_up(&connector).await
        {
            *unavailable.lock() = Some(error.to_string());
        }
    }
}

async fn bring_up(connector: &Connector) -> Result<(), PgError> {
    migrate(&connector.connect().await?, false).await.map(drop)
}

async fn ask(connector: &Connector, link: &mut Option<Link>) -> Result<(), Fault> {
    let link = match link {
        Some(link) if !link.is_closed() => link,
        _ => link.insert(connector.connect().await?),
    };
    let looked = timeout(PATIENCE, connector.look(link)).await;
    looked.unwrap_or_else(|_| Err(Fault::Unavailable("it does not answer".to_owned())))?.write()
}
