//! The account service's other side: its ledger, from its opening to its end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout_at};
use tonic_health::server::HealthReporter;

use super::Error;
use super::books::Books;
use super::opening::Opening;
use super::server_side::account_service_server::{AccountService, AccountServiceServer};
use super::service::Accounts;
use super::walk::Walks;

/// How often health looks whether the accounts can be reached.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) type Service = AccountServiceServer<Accounts>;

/// What the account service is made of, once there is a ledger.
pub(super) struct Backend {
    pub(super) accounts: Arc<OnceLock<Service>>,
    pub(super) walks: Arc<Walks>,
    pub(super) health: HealthReporter,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) max_message_bytes: usize,
}

impl Backend {
    /// Lets calls in once the ledger is open. Returns when the ledger cannot be opened, or when its journal fails.
    pub(super) async fn live(&self, opening: &mut Opening, opened: &mut Option<Books>) -> Error {
        let books = match opening.books().await {
            Ok(books) => opened.insert(books),
            Err(error) => return error,
        };
        self.accounts.get_or_init(|| self.accounts(books));
        self.health.set_serving::<Service>().await;
        opening.tell_ready(books);
        self.closed(books).await;
        if let Some(what) = books.failure() {
            return Error::JournalFailed { what };
        }
        // Whoever embeds the service closed the ledger: reads go on until the service is told to end.
        self.health.set_not_serving::<Service>().await;
        std::future::pending().await
    }

    /// Resolves when the accounts are closed. Until then it reports to health whether they can be reached.
    async fn closed(&self, books: &Books) {
        let mut look = interval(LOOK_EVERY);
        let mut serving = true;
        loop {
            tokio::select! {
                () = books.closed() => return,
                _ = look.tick() => {
                    if serving == books.unavailable().is_some() {
                        serving = !serving;
                        match serving {
                            true => self.health.set_serving::<Service>().await,
                            false => self.health.set_not_serving::<Service>().await,
                        }
                    }
                }
            }
        }
    }

    fn accounts(&self, books: &Books) -> Service {
        let accounts = Accounts {
            books: books.clone(),
            walks: self.walks.clone(),
            stopping: self.stopping.clone(),
            max_message_bytes: self.max_message_bytes,
        };
        self.service(accounts)
    }

    pub(super) fn service<T: AccountService>(&self, calls: T) -> AccountServiceServer<T> {
        AccountServiceServer::new(calls)
            .max_decoding_message_size(self.max_message_bytes)
            .max_encoding_message_size(self.max_message_bytes)
    }

    /// Closes `books` and lets go of it, which may take a disk's time, by `latest`.
    pub(super) async fn close(self, books: Books, latest: Instant) -> Result<(), Error> {
        // The service has it too.
        drop(self);
        match timeout_at(latest, books.close()).await {
            Ok(Some(what)) => Err(Error::JournalFailed { what }),
            Ok(None) => Ok(()),
            Err(_) => {
                tracing::warn!(
                    "the accounts take longer to close than the service has time; what was answered is safe"
                );
                Ok(())
            }
        }
    }
}
