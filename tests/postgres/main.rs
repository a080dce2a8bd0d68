//! The PostgreSQL store against a real server.

mod harness;
#[allow(dead_code, reason = "the trials of the inventory door use all of it")]
mod proxy;

mod backup;
mod doors;
mod events;
mod faults;
mod instances;
mod letters;
mod listings;
mod locks;
mod poison;
mod privileges;
mod pruning;
mod reads;
mod restore;
mod sequence;
mod tables;
#[cfg(feature = "grpc")]
mod watching;
