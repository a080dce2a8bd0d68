//! PostgreSQL as the place of the state.

mod batch;
mod committer;
mod database;
mod decide;
mod error;
mod link;
mod memory;
mod migrate;
#[cfg(test)]
mod model;
mod read;
mod rows;
mod session;
mod settings;
mod sql;
mod store;
mod work;
mod write;

pub use error::PgError;
pub use read::Listing;
pub use settings::Settings;
pub use store::{PgStore, Queued};
