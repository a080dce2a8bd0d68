//! A connection for code that only reads, made like the store's connections: so it goes to the same place.

use tokio_postgres::Client;

use super::error::PgError;
use super::link::{Connector, Link};
use super::settings::Settings;

/// A connection, closed when it is dropped.
pub(crate) struct Asking(Link);

impl Asking {
    /// # Errors
    /// [`PgError::Settings`], [`PgError::Unavailable`], [`PgError::Failed`].
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, PgError> {
        Ok(Asking(Connector::new(settings)?.connect().await?))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }
}
