//! The Kafka door: consumes inventory events, and publishes the dead ones.
//!
//! A [`Consumer`] hands the records of a topic to an [`inventory::Store`](crate::inventory::Store), which keeps their
//! effects together with the offsets up to which they were consumed. The offsets in Kafka are written for lag tools,
//! and never read.
//!
//! * A partition that the group assigns is first taken over in the store, which says where it goes on, and from then on
//!   refuses its former owner. Then its offset is compared with the log, and the record before it with the one that was
//!   consumed. Only then is it fetched. Polling goes on meanwhile, whatever the store does, so membership never depends
//!   on the store.
//! * The store alone decides who owns a partition. A member that the store refuses drops what it had of the partition,
//!   and does not take it over again until the group assigns it.
//! * What waits for the store is bounded. A partition is paused while too much of it waits, or while it is held.
//!
//! One thread polls; one task applies, one more does so for each held partition, and one publishes dead letters.

mod apply;
mod assignment;
mod backoff;
mod caught;
mod check;
mod consumer;
mod context;
mod create;
mod dead_letter;
mod doubt;
mod error;
mod fingerprint;
mod lanes;
mod log;
mod metrics;
mod poll;
mod producer;
mod properties;
mod quiet;
mod record;
mod settings;
mod shared;
mod status;
mod take_over;

pub use consumer::{Consumer, StartError};
pub use error::TopicError;
pub use log::{Log, Offsets};
pub use metrics::{Metrics, Partition};
pub use producer::{Delivered, Producer};
pub use record::{Decode, decode};
pub use settings::{Membership, NeverConsumed, OnMismatch, Settings, SettingsError};
pub use status::Status;
