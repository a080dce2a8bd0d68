//! The gRPC service over a real socket, driven by the generated client.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod accounts;
mod batch;
mod ends_of_i64;
mod harness;
mod ids;
mod largest;
mod limits;
mod log;
mod opening;
mod operators;
mod overdraft;
mod shutdown;
mod stream;
mod trials;
mod walks;
mod watch;
