//! The PostgreSQL store against a real server.

mod harness;
mod proxy;

mod backup;
mod doors;
mod events;
mod faults;
mod instances;
mod poison;
mod pruning;
mod tables;
