//! PostgreSQL as the place of the state.

mod batch;
mod committer;
mod database;
mod decide;
mod error;
mod memory;
#[cfg(test)]
mod model;
mod work;

pub use error::PgError;
