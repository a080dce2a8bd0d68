//! How to reach PostgreSQL, and how much to do at once.

use std::path::PathBuf;
use std::time::Duration;

use super::error::PgError;
use super::link::Connector;

/// How to reach PostgreSQL, and how much to do at once. [`Settings::new`] has the defaults.
#[derive(Clone)]
#[non_exhaustive]
pub struct Settings {
    /// A URL or `key=value` pairs, as libpq takes them. In a URL, `sslmode=verify-full` checks the server's certificate
    /// and name, `verify-ca` only who signed the certificate; both trust the certificates in the file `sslrootcert`, or
    /// else those that the system trusts. `sslmode=require` only encrypts.
    pub url: String,
    /// A file of trusted certificates, as `sslrootcert`. With it the server's certificate and name are checked.
    pub root_certificate: Option<PathBuf>,
    /// The name that operators see in `pg_stat_activity`.
    pub application_name: String,
    /// About how many events and operations one transaction has (default 5,000).
    pub batch: usize,
    /// How long work is retried while the database is unavailable, before its caller gets an error (default 5 s).
    pub patience: Duration,
    /// How long an id is honoured at least, from its commit (default 24 h). Of all instances on a database, the
    /// shortest window counts.
    pub id_window: Duration,
    /// How long one statement may take (default 10 s). A connection that takes a second longer to answer is given up.
    pub statement_timeout: Duration,
    /// How long connecting to one of the hosts may take (default 5 s).
    pub connect_timeout: Duration,
    /// How long [`PgStore::connect`](super::PgStore::connect) waits for a database that is not up yet (default: not at
    /// all).
    pub wait_for_start: Duration,
    /// How many accounts are remembered (default 200,000), some 100 bytes each.
    pub remembered_accounts: usize,
    /// How many ids are remembered (default 100,000), some 500 bytes each. Other ids are looked up.
    pub remembered_ids: usize,
}

impl Settings {
    /// The defaults, for the database at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Settings {
            url: url.into(),
            root_certificate: None,
            application_name: "equipoise".to_owned(),
            batch: 5_000,
            patience: Duration::from_secs(5),
            id_window: crate::DEFAULT_ID_WINDOW,
            statement_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            wait_for_start: Duration::ZERO,
            remembered_accounts: 200_000,
            remembered_ids: 100_000,
        }
    }

    /// Checks the settings as far as that is possible without the database.
    ///
    /// # Errors
    /// [`PgError::Settings`].
    pub fn check(&self) -> Result<(), PgError> {
        Connector::new(self).map(drop)
    }
}

impl std::fmt::Debug for Settings {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("application_name", &self.application_name).finish_non_exhaustive()
    }
}
