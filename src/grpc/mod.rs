//! The gRPC door: `equipoise.v1.AccountService` as `proto/equipoise/v1/accounts.proto` describes it, beside
//! `grpc.health.v1` and reflection (v1 and v1alpha).
//!
//! Every answer waits until what it says can no longer be lost. Failures carry `google.rpc` details: an `ErrorInfo`
//! with a stable reason (its metadata says `replayed: true` when the refusal was decided by an earlier call of the
//! same id), a `BadRequest` naming the field, a `RetryInfo` where trying again helps.
//!
//! The service is alive before it is ready: [`serve`] takes an [`Opening`] too. When the journal fails it takes no more
//! calls and ends with [`Error::JournalFailed`].
//!
//! Limits that hold whatever a client does: [`Options`].

use std::time::Duration;

use thiserror::Error;

use crate::OpenError;

mod audit;
mod backend;
mod batch;
mod books;
mod call;
mod codec;
mod convert;
mod deadline;
mod door;
mod foreign;
mod opening;
mod operations;
mod pull;
mod readers;
mod results;
mod server;
mod service;
mod status;
mod stream;
mod unready;
mod upload;
mod walk;
mod watch;

#[cfg(feature = "server")]
pub(crate) use audit::name as code_name;
pub use books::Books;
pub use opening::Opening;
pub use server::serve;

/// What prost and tonic make of the contract: messages, client and server.
pub mod proto {
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated code")]

    tonic::include_proto!("equipoise.v1");

    /// The compiled contract, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/accounts.bin"));
}

/// The service as [`proto`] has it, but that a batch is read and written without a message for each of its operations.
mod server_side {
    #![allow(clippy::all, clippy::pedantic, clippy::restriction, reason = "generated code")]

    include!(concat!(env!("OUT_DIR"), "/server_side/equipoise.v1.rs"));
}

/// The service's limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest message read or written, in bytes. A longer request gets RESOURCE_EXHAUSTED.
    pub max_message_bytes: usize,
    /// The most connections at once; less when the process may not open that many files. One more is closed at once.
    pub max_connections: usize,
    /// The most calls at once on one connection.
    pub max_streams: u32,
    /// The most calls at once on one connection whose client sends many messages: ExecuteStream and reflection. One
    /// more gets RESOURCE_EXHAUSTED.
    pub max_request_streams: usize,
    /// The most bytes still to come of messages that have begun, counted when each begins, over all connections; on
    /// each connection a quarter of it, or the longest message. A message past that waits for a tenth of
    /// `request_timeout`, then gets RESOURCE_EXHAUSTED. Less than [`Self::max_message_bytes`] counts as that.
    pub max_begun_bytes: usize,
    /// How long a call may take to begin its answer, whatever deadline the client named.
    pub request_timeout: Duration,
    /// How long a ListAccounts walk or a SnapshotBalances stream keeps its snapshot without being read.
    pub walk_lease: Duration,
    /// The most walks and snapshot streams at once.
    pub max_walks: usize,
    /// How often an idle connection is asked whether its client is still there.
    pub keepalive_interval: Duration,
    /// How long the client has to answer that, and a new connection to begin to speak HTTP/2.
    pub keepalive_timeout: Duration,
    /// How long calls may go on after shutdown began; then their connections are cut.
    pub shutdown_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_message_bytes: 4 * 1024 * 1024,
            max_connections: 10_000,
            max_streams: 1_024,
            max_request_streams: 16,
            max_begun_bytes: 256 * 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            walk_lease: Duration::from_secs(60),
            max_walks: 32,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            // With what closing the ledger and the log may take after it: less than five seconds.
            shutdown_grace: Duration::from_secs(3),
        }
    }
}

/// Why the service could not start, or ended by itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The compiled contract is damaged.
    #[error("reflection cannot read the contract: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// PostgreSQL cannot be used.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] crate::postgres::PgError),
    /// The journal cannot be written any more. What was not answered may or may not be there after the next start: its
    /// id tells.
    #[error("the journal failed: {what}")]
    JournalFailed {
        /// Why.
        what: String,
    },
    /// The process may not open enough files for a single connection.
    #[error("the limit on open files is {files}, and a service needs {least} at least")]
    NoConnections {
        /// How many it may open.
        files: u64,
        /// How many a service with one connection needs.
        least: u64,
    },
}
