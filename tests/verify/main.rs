//! `equipoise verify` and `inspect` against journals that the tests write themselves, from the format's description:
//! neither the engine's writer nor the reader's own code is asked what is right.

#![cfg(all(feature = "server", unix))]

mod checkpoints;
mod commands;
mod damage;
mod engine;
mod garbage;
mod index;
mod places;
mod rules;
mod sources;
mod whole;
mod writer;
