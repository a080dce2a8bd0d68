//! The Kafka door: consumes inventory events, and publishes the dead ones.

mod log;
mod producer;

pub use log::{Log, LogError, LogRecord, Offsets};
pub use producer::{Delivered, ProduceError, Producer};
