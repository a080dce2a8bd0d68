//! An instance of the service that consumes a topic into a database.

use std::process::Command;

use crate::service::equipoise;
use crate::topic::Topic;

/// How soon the group notices that a member died.
pub const SESSION: std::time::Duration = std::time::Duration::from_secs(6);

/// `equipoise serve`, consuming `topic` from `brokers` into the database at `url`.
pub fn serve(brokers: &str, topic: &Topic, url: &str) -> Command {
    let log = "info,equipoise::audit=off";
    let mut command = equipoise(&["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log", log]);
    command
        .env("DATABASE_URL", url)
        .env("KAFKA_BROKERS", brokers)
        .env("KAFKA_TOPIC", &topic.name)
        .env("KAFKA_GROUP_ID", &topic.name)
        .env("KAFKA_SESSION_TIMEOUT_MS", SESSION.as_millis().to_string())
        .env("KAFKA_HEARTBEAT_INTERVAL_MS", "1000")
        .env("KAFKA_RECONNECT_BACKOFF_MAX_MS", "500");
    command
}
