//! The Kafka door against a real broker, whose address is in `TEST_KAFKA`; the store is one in memory that fails as told.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod alone;
mod broker;
mod broker_errors;
mod consuming;
mod dead_letters;
mod log;
mod membership;
mod odd_records;
mod outages;
mod redrive;
mod service;
mod store;
mod unreadable;
