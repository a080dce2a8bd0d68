//! The inventory door as a whole: the real binary between a real broker and a real PostgreSQL, killed and cut off at random
//! moments under load. At the end products, ids, offsets and rejections must be what a plain single-threaded model makes of
//! the topic.
//!
//! The servers are those of scripts/test.sh: TEST_KAFKA and TEST_POSTGRES say where. Trials that kill
//! servers start their own. EQUIPOISE_INVENTORY_KILLS=200 makes the rounds of kill -9 as many as that, and
//! EQUIPOISE_INVENTORY_SLEEPS=20 those of instances that fall asleep.

#![cfg(all(feature = "kafka", feature = "postgres", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "../process/client.rs"]
#[allow(dead_code, reason = "the trials of the process use all of it")]
mod client;
#[path = "../process/service.rs"]
#[allow(dead_code, reason = "the trials of the process use all of it")]
mod service;

#[path = "../postgres/backup.rs"]
mod backup;
#[path = "../postgres/proxy.rs"]
#[allow(dead_code, reason = "the tests of PostgreSQL use all of it")]
mod proxy;

mod checking;
mod counting;
mod cut_off;
mod disk;
mod ends_of_i64;
mod events;
mod instance;
mod kills;
mod line;
mod model;
mod operators;
mod pair;
mod producing;
mod readiness;
mod readme;
mod secured;
mod servers;
mod sharing;
mod standing;
mod state;
mod stopping;
mod topic;
mod under_way;
mod zombies;
