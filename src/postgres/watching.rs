//! Whether PostgreSQL can be used: asked again and again, since nobody else may ask.

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

/// How long an answer is waited for, on a connection. How long one may take to be made is said elsewhere: until then what was found before
/// holds, or a slow way to the database would be none.
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
        // An older dump was restored. Nobody writes, and nobody would ask for it to be brought up.
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
