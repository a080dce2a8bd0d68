//! What the commands that speak with Kafka take.

use std::env;

use clap::Args;
use rdkafka::ClientConfig;
use tonic::Status;

use super::exit::Failure;
use crate::kafka::{LogError, ProduceError};

const DEFAULT_TOPIC: &str = "inventory-events";

/// Where the brokers are, and how to speak with them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kafka")]
pub(super) struct Kafka {
    /// Some of the brokers, with commas between [env: KAFKA_BROKERS]
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// The topic of the events [env: KAFKA_TOPIC] [default: inventory-events]
    #[arg(long)]
    topic: Option<String>,
    /// The topic of the dead letters [env: KAFKA_DEAD_LETTER_TOPIC] [default: the topic's name and -dead-letters]
    #[arg(long, value_name = "TOPIC")]
    dead_letter_topic: Option<String>,
    /// A property of librdkafka, as in security.protocol=SSL; may be given more than once
    #[arg(short = 'X', long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
}

impl Kafka {
    pub(super) fn topic(&self) -> String {
        given(self.topic.as_deref(), "KAFKA_TOPIC").unwrap_or_else(|| DEFAULT_TOPIC.to_owned())
    }

    pub(super) fn dead_letter_topic(&self) -> String {
        let topic = given(self.dead_letter_topic.as_deref(), "KAFKA_DEAD_LETTER_TOPIC");
        topic.unwrap_or_else(|| format!("{}-dead-letters", self.topic()))
    }

    /// How a client of librdkafka is set up.
    pub(super) fn config(&self) -> Result<ClientConfig, Failure> {
        let brokers = given(self.brokers.as_deref(), "KAFKA_BROKERS").ok_or_else(|| {
            Failure::Usage("no brokers: give --brokers HOST:PORT, or set KAFKA_BROKERS".to_owned())
        })?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("client.id", "equipoise");
        for property in &self.properties {
            let (name, value) = property
                .split_once('=')
                .ok_or_else(|| Failure::Usage(format!("--property {property}: expected NAME=VALUE")))?;
            config.set(name, value);
        }
        Ok(config)
    }
}

/// The flag, or else the variable; an empty one counts as unset.
fn given(flag: Option<&str>, variable: &str) -> Option<String> {
    flag.map(str::to_owned).or_else(|| env::var(variable).ok().filter(|value| !value.is_empty()))
}

impl From<ProduceError> for Failure {
    fn from(error: ProduceError) -> Self {
        let text = error.to_string();
        match error {
            ProduceError::Settings { .. } => Failure::Usage(text),
            ProduceError::Topic { .. } => Failure::Refused(text),
            ProduceError::Unreachable { .. } | ProduceError::NotDelivered { .. } => Status::unavailable(text).into(),
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let text = error.to_string();
        match error {
            LogError::Settings { .. } => Failure::Usage(text),
            LogError::Topic { .. } => Failure::Refused(text),
            LogError::Unreachable { .. } => Status::unavailable(text).into(),
        }
    }
}
