//! Inventory events, whatever brings them and wherever their effects go.
//!
//! An event is an update of the account `product_id` by `quantity_change` under the id `event_id`; all doors share one
//! id space. A [`Store`] takes events together with the offsets up to which they were consumed, and keeps both or
//! neither.

mod cloudevents;
mod decode;
mod encode;
mod event;
mod json;
mod ledger_store;
mod letter;
mod malformed;
mod protobuf;
mod store;
#[cfg(test)]
mod tests;
mod workload;

pub use decode::{Header, Message, decode};
pub use encode::{Encoded, Format};
pub use event::Event;
pub use ledger_store::LedgerStore;
pub use malformed::Malformed;
pub use store::{Applied, Content, DeadLetter, Position, Record, Run, Store, StoreError, StoredDeadLetter};
pub use workload::{Poison, Sent, Tally, Totals, What, Workload, WorkloadOptions};
