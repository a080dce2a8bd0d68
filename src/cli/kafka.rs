//! What the commands that speak with Kafka take.

use std::collections::BTreeMap;
use std::env;

use clap::Args;
use tonic::Status;

use super::exit::Failure;
use crate::kafka::{Settings, SettingsError, TopicError};

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
    /// What the environment says, as it does for `serve`, and the flags before it. `more` is what a command adds.
    pub(super) fn settings(&self, more: &[(&str, &str)]) -> Result<Settings, Failure> {
        let mut variables: BTreeMap<String, String> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let flags = [
            ("KAFKA_BROKERS", &self.brokers),
            ("KAFKA_TOPIC", &self.topic),
            ("KAFKA_DEAD_LETTER_TOPIC", &self.dead_letter_topic),
        ];
        let given = flags.into_iter().filter_map(|(name, flag)| Some((name.to_owned(), flag.clone()?)));
        variables.extend(given);
        for property in &self.properties {
            let (name, value) = property
                .split_once('=')
                .ok_or_else(|| Failure::Usage(format!("--property {property}: expected NAME=VALUE")))?;
            variables.insert(variable(name), value.to_owned());
        }
        variables.extend(more.iter().map(|(name, value)| (variable(name), (*value).to_owned())));
        Settings::from_variables(variables.into_iter()).map_err(|error| match error {
            SettingsError::Missing { variable: "KAFKA_BROKERS", .. } => {
                Failure::Usage("no brokers: give --brokers HOST:PORT, or set KAFKA_BROKERS".to_owned())
            }
            other => Failure::Usage(other.to_string()),
        })
    }
}

/// The variable of a property.
fn variable(property: &str) -> String {
    format!("KAFKA_{}", property.to_uppercase().replace('.', "_"))
}

impl From<TopicError> for Failure {
    fn from(error: TopicError) -> Self {
        let text = error.to_string();
        match error {
            TopicError::Settings { .. } => Failure::Usage(text),
            TopicError::Topic { .. } => Failure::Refused(text),
            TopicError::Unreachable { .. } | TopicError::NotDelivered { .. } => Status::unavailable(text).into(),
        }
    }
}
