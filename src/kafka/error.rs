//! Why a topic cannot be read or written.

use rdkafka::error::KafkaError;
use thiserror::Error;

/// Why a topic cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// librdkafka does not take the settings.
    #[error("the settings of the Kafka client are refused: {what}")]
    Settings {
        /// What it says.
        what: String,
    },
    /// The brokers do not answer.
    #[error("cannot reach the brokers: {what}")]
    Unreachable {
        /// What librdkafka says.
        what: String,
    },
    /// The topic is not there and cannot be made, or the brokers do not let it be read or written.
    #[error("topic {topic}: {what}")]
    Topic {
        /// Its name.
        topic: String,
        /// What the brokers say.
        what: String,
    },
    /// Records were given up.
    #[error("{failed} records did not arrive: {what}")]
    NotDelivered {
        /// How many.
        failed: u64,
        /// Why the first did not.
        what: String,
    },
}

impl TopicError {
    pub(super) fn settings(error: KafkaError) -> Self {
        TopicError::Settings { what: error.to_string() }
    }

    pub(super) fn unreachable(error: KafkaError) -> Self {
        TopicError::Unreachable { what: error.to_string() }
    }
}
