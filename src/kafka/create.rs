//! Creates a topic that does not exist.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;

/// Creates `topic` with the brokers' default number of replicas; no error if it exists. An error is the brokers' text.
pub(super) async fn create(
    config: &ClientConfig,
    topic: &str,
    partitions: i32,
    patience: Duration,
) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(|error| error.to_string())?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(patience)).request_timeout(Some(patience));
    let results = admin.create_topics([&new], &options).await.map_err(|error| error.to_string())?;
    match results.into_iter().next() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | None => Ok(()),
        Some(Err((_, error))) => Err(format!("cannot be made: {error}")),
    }
}
