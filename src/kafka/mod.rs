//! The Kafka door: consumes inventory events, and publishes the dead ones.
//!
//! A [`Consumer`] hands the records of a topic to an [`inventory::Store`](crate::inventory::Store), which keeps their effects and
//! the offsets up to which they were consumed in one. The offsets that Kafka keeps are written for lag tools and never read.
//!
//! * A partition that the group assigns is first taken over in the store, which says where it goes on and refuses its former owner
//!   from then on; then its offset is compared with the log, and the record before it with the one that was consumed. Only then
//!   it is fetched. Meanwhile, and whatever the store does, the poll goes on, so membership never depends on the store.
//! * Who owns a partition is the store's word alone. A member that the store refuses drops what it had, and takes nothing over
//!   until the group assigns it something.
//! * What waits for the store is bounded; a partition of which too much waits, or that waits for somebody, is paused.
//!
//! One thread polls, one task applies, and one for each partition that waits for somebody, one publishes dead letters.

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
