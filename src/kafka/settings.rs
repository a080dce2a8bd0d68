//! The Kafka settings in the environment: the variables named `KAFKA_…`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use thiserror::Error;

use super::properties::{self, Owner};

const PREFIX: &str = "KAFKA_";

/// What a consumer and the publisher of its dead letters are started with.
#[derive(Clone)]
pub struct Settings {
    /// The topic of the events.
    pub topic: String,
    /// The topic for records that cannot become events.
    pub dead_letter_topic: String,
    /// The consumer group.
    pub group: String,
    /// How partitions are assigned to this process.
    pub membership: Membership,
    /// Where a partition begins that was never consumed.
    pub never_consumed: NeverConsumed,
    /// What to do if records between the stored offset and the start of the log are gone.
    pub on_lost_records: OnMismatch,
    /// What to do if the topic is not the one that the stored offset belongs to.
    pub on_another_topic: OnMismatch,
    /// How long the store remembers ids (24 hours by default): no record that is older is consumed a second time.
    pub id_window: Duration,
    /// librdkafka's properties, by its own names.
    properties: BTreeMap<String, String>,
}

/// How partitions come to a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// The members of the group share them.
    #[default]
    Group,
    /// All of them, without a group: for a state that one process owns.
    Alone,
}

/// Where a partition begins that was never consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NeverConsumed {
    /// At the oldest record that the log has.
    #[default]
    Earliest,
    /// At the log's end: with the next record that is written.
    Latest,
    /// It does not: the partition is stopped, and the service not ready.
    Stop,
}

/// What to do when a stored offset does not fit the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// The partition is stopped, and the service not ready, until somebody has looked at it.
    #[default]
    Stop,
    /// Go on with the oldest record that the log has, with a warning.
    Earliest,
}

/// Why the variables are no settings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A variable that is required is missing.
    #[error("{variable} is not set: {what}")]
    Missing {
        /// The variable.
        variable: &'static str,
        /// What it is for.
        what: &'static str,
    },
    /// A value that is none of the possible ones.
    #[error("{variable} is {value:?}: it can be {possible}")]
    Value {
        /// The variable.
        variable: String,
        /// Its value; never a secret's.
        value: String,
        /// What it can be.
        possible: &'static str,
    },
    /// A property of librdkafka that an operator may not set.
    #[error("{variable} cannot be set: {reason}")]
    Owned {
        /// The variable.
        variable: String,
        /// Why not.
        reason: &'static str,
    },
    /// librdkafka does not know the property, or not with this value.
    #[error("{variable}, which is librdkafka's {property}, is refused: {why}")]
    Refused {
        /// The variable.
        variable: String,
        /// The property.
        property: String,
        /// What librdkafka says.
        why: String,
    },
}

impl Settings {
    /// Reads the variables that begin with `KAFKA_`; an empty one counts as unset, the others are not looked at.
    ///
    /// | variable | what it says | default |
    /// |---|---|---|
    /// | `KAFKA_BROKERS` | some brokers, `host:port` with commas between | must be there |
    /// | `KAFKA_TOPIC` | the events | `inventory-events` |
    /// | `KAFKA_DEAD_LETTER_TOPIC` | where records go that are no events; made if it is not there | the topic's name and `-dead-letters` |
    /// | `KAFKA_GROUP_ID` | the consumer group | `equipoise` |
    /// | `KAFKA_AUTO_OFFSET_RESET` | where a partition begins that was never consumed: `earliest`, `latest`, or `none` to stop it | `earliest` |
    /// | `KAFKA_ON_LOST_RECORDS` | `stop` a partition whose next records retention took, or go on with the `earliest` | `stop` |
    /// | `KAFKA_ON_ANOTHER_TOPIC` | `stop` where another topic has the name or the log lost its end, or consume it from the `earliest` record whose id is remembered in any case | `stop` |
    ///
    /// Any other variable is a property of librdkafka in capitals, with `_` for `.`: `KAFKA_SESSION_TIMEOUT_MS` is
    /// `session.timeout.ms`. `KAFKA_SECURITY_PROTOCOL`, `KAFKA_SASL_MECHANISM`, `KAFKA_GROUP_INSTANCE_ID` and
    /// `KAFKA_PARTITION_ASSIGNMENT_STRATEGY` are found like this, too. What Kubernetes sets in every pod for a service
    /// named `kafka` (`KAFKA_PORT`, `KAFKA_SERVICE_HOST` and the like) is ignored.
    ///
    /// # Errors
    /// [`SettingsError`], in the order of the variables' names.
    pub fn from_variables(variables: impl Iterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        let variables: BTreeMap<_, _> =
            variables.filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()).collect();
        let get = |name: &str| variables.get(name).cloned();
        let topic = get("KAFKA_TOPIC").unwrap_or_else(|| "inventory-events".to_owned());
        let mut settings = Settings {
            dead_letter_topic: get("KAFKA_DEAD_LETTER_TOPIC").unwrap_or_else(|| format!("{topic}-dead-letters")),
            topic,
            group: get("KAFKA_GROUP_ID").unwrap_or_else(|| "equipoise".to_owned()),
            membership: Membership::default(),
            never_consumed: NeverConsumed::default(),
            on_lost_records: OnMismatch::default(),
            on_another_topic: OnMismatch::default(),
            id_window: crate::DEFAULT_ID_WINDOW,
            properties: properties::DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        for (variable, value) in &variables {
            settings.take(variable, value)?;
        }
        let brokers = get("KAFKA_BROKERS").ok_or(SettingsError::Missing {
            variable: "KAFKA_BROKERS",
            what: "the addresses of some brokers, host:port with commas between",
        })?;
        settings.properties.insert("bootstrap.servers".to_owned(), brokers);
        settings.check_topics()?;
        Ok(settings)
    }

    fn take(&mut self, variable: &str, value: &str) -> Result<(), SettingsError> {
        match variable {
            "KAFKA_BROKERS" | "KAFKA_TOPIC" | "KAFKA_DEAD_LETTER_TOPIC" | "KAFKA_GROUP_ID" => {}
            "KAFKA_AUTO_OFFSET_RESET" => self.never_consumed = never_consumed(variable, value)?,
            "KAFKA_ON_LOST_RECORDS" => self.on_lost_records = on_mismatch(variable, value)?,
            "KAFKA_ON_ANOTHER_TOPIC" => self.on_another_topic = on_mismatch(variable, value)?,
            _ if properties::is_of_kubernetes(variable) => {}
            _ => {
                let property = variable[PREFIX.len()..].to_lowercase().replace('_', ".");
                match properties::owner(&property) {
                    Owner::Design(reason) => {
                        return Err(SettingsError::Owned { variable: variable.to_owned(), reason });
                    }
                    Owner::Operator => check_property(variable, &property, value)?,
                }
                self.properties.insert(property, value.to_owned());
            }
        }
        Ok(())
    }

    /// A topic read and written by the same service would be a loop.
    fn check_topics(&self) -> Result<(), SettingsError> {
        for (variable, name) in [("KAFKA_TOPIC", &self.topic), ("KAFKA_DEAD_LETTER_TOPIC", &self.dead_letter_topic)] {
            if !is_topic(name) {
                return Err(impossible(variable, name, "1 to 249 of the characters a-z, A-Z, 0-9, ., _ and -"));
            }
        }
        if self.topic != self.dead_letter_topic {
            return Ok(());
        }
        Err(SettingsError::Value {
            variable: "KAFKA_DEAD_LETTER_TOPIC".to_owned(),
            value: self.dead_letter_topic.clone(),
            possible: "any topic but KAFKA_TOPIC",
        })
    }

    /// The same, as the only process that consumes the topic.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.membership = Membership::Alone;
        self
    }

    /// How often the log is asked how far it is, where librdkafka does not know.
    pub(super) fn statistics_interval(&self) -> Duration {
        let milliseconds = self.properties.get(properties::STATISTICS_INTERVAL).and_then(|text| text.parse().ok());
        milliseconds.map_or(Duration::from_secs(5), Duration::from_millis).max(Duration::from_millis(500))
    }

    /// How often new partitions are looked for.
    pub(super) fn metadata_interval(&self) -> Duration {
        let milliseconds = self.properties.get(properties::METADATA_INTERVAL).and_then(|text| text.parse().ok());
        // In librdkafka -1 means never; but without a group nothing else would show a new partition.
        milliseconds.map_or(Duration::from_secs(30), Duration::from_millis).max(Duration::from_secs(1))
    }

    /// For the consumer that hands records on.
    pub(super) fn for_consumer(&self) -> ClientConfig {
        let mut config = self.plain_consumer();
        // librdkafka shows only in this log that a topic was replaced by another one of the same name.
        let debug = self.properties.get(properties::DEBUG).map_or_else(String::new, |wanted| format!("{wanted},"));
        config.set(properties::DEBUG, format!("{debug}metadata")).set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    fn plain_consumer(&self) -> ClientConfig {
        let mut config = self.client(|_| true);
        config.set("group.id", &self.group);
        config.extend(properties::OF_CONSUMER.map(|(name, value)| (name.to_owned(), value.to_owned())));
        config
    }

    /// For a consumer that looks at the log and goes away; it never joins the group.
    pub(super) fn for_look(&self) -> ClientConfig {
        let mut config = self.plain_consumer();
        // Two clients with one instance id would fence each other.
        config.remove("group.instance.id");
        config
            .set("enable.partition.eof", "true")
            .set(properties::STATISTICS_INTERVAL, "0")
            .set("fetch.wait.max.ms", "50");
        config
    }

    /// For a producer of this service.
    pub(super) fn for_producer(&self) -> ClientConfig {
        self.client(|property| !properties::is_of_consumer(property))
    }

    fn client(&self, wanted: impl Fn(&str) -> bool) -> ClientConfig {
        let mut config: ClientConfig = self
            .properties
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let wants_debug = self.properties.contains_key(properties::DEBUG);
        config.set_log_level(if wants_debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config
    }
}

/// Secrets are not shown.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &String)| match properties::is_secret(name) {
            true => format!("{name}=…"),
            false => format!("{name}={value}"),
        };
        f.debug_struct("Settings")
            .field("topic", &self.topic)
            .field("dead_letter_topic", &self.dead_letter_topic)
            .field("group", &self.group)
            .field("membership", &self.membership)
            .field("never_consumed", &self.never_consumed)
            .field("on_lost_records", &self.on_lost_records)
            .field("on_another_topic", &self.on_another_topic)
            .field("id_window", &self.id_window)
            .field("properties", &self.properties.iter().map(shown).collect::<Vec<_>>())
            .finish()
    }
}

fn never_consumed(variable: &str, value: &str) -> Result<NeverConsumed, SettingsError> {
    match value {
        "earliest" => Ok(NeverConsumed::Earliest),
        "latest" => Ok(NeverConsumed::Latest),
        "none" => Ok(NeverConsumed::Stop),
        _ => Err(impossible(variable, value, "earliest, latest or none")),
    }
}

fn on_mismatch(variable: &str, value: &str) -> Result<OnMismatch, SettingsError> {
    match value {
        "stop" => Ok(OnMismatch::Stop),
        "earliest" => Ok(OnMismatch::Earliest),
        _ => Err(impossible(variable, value, "stop or earliest")),
    }
}

fn impossible(variable: &str, value: &str, possible: &'static str) -> SettingsError {
    SettingsError::Value { variable: variable.to_owned(), value: value.to_owned(), possible }
}

/// Whether Kafka accepts `name` for a topic. librdkafka would subscribe to some other names as patterns.
fn is_topic(name: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && name.bytes().all(is_legal) && name != "." && name != ".."
}

/// Asks librdkafka itself, which knows its properties best.
fn check_property(variable: &str, property: &str, value: &str) -> Result<(), SettingsError> {
    let mut config = ClientConfig::new();
    config.set(property, value);
    let error = match config.create_native_config() {
        // Only the statistics show that a broker answers again.
        Ok(taken) if property == properties::STATISTICS_INTERVAL && taken.get(property).is_ok_and(|it| it == "0") => {
            return Err(impossible(variable, value, "1 or more: the service is ready by what they tell"));
        }
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let why = match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, why, _, _) => why,
        _ if properties::is_secret(property) => "it does not take this value, which is not shown here".to_owned(),
        KafkaError::ClientConfig(_, why, _, _) => why,
        other => other.to_string(),
    };
    Err(SettingsError::Refused { variable: variable.to_owned(), property: property.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_variables(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }

    /// D8: the settings that operators know have the defaults that they expect.
    #[test]
    fn brokers_suffice() {
        let settings =
            settings(&[("KAFKA_BROKERS", "a:1,b:2"), ("KAFKA_GROUP_ID", ""), ("HOME", "/")]).expect("enough");
        assert_eq!(settings.topic, "inventory-events");
        assert_eq!(settings.dead_letter_topic, "inventory-events-dead-letters");
        assert_eq!(settings.group, "equipoise");
        assert_eq!(settings.for_consumer().get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!(settings.for_consumer().get("enable.auto.commit"), Some("false"));
        assert_eq!(settings.for_consumer().get("auto.offset.reset"), Some("error"));
    }

    #[test]
    fn without_brokers_the_variable_is_named() {
        let error = settings(&[("KAFKA_TOPIC", "t")]).expect_err("no brokers");
        assert!(error.to_string().starts_with("KAFKA_BROKERS is not set"), "{error}");
    }

    /// D8: any property of librdkafka is a variable.
    #[test]
    fn a_property_is_a_variable() {
        let settings = settings(&[
            ("KAFKA_BROKERS", "a:1"),
            ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
            ("KAFKA_CLIENT_ID", "shop-1"),
            ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "cooperative-sticky"),
            ("KAFKA_GROUP_INSTANCE_ID", "one"),
            ("KAFKA_TOPIC", "stock"),
            ("KAFKA_AUTO_OFFSET_RESET", "latest"),
        ])
        .expect("known properties");
        let consumer = settings.for_consumer();
        assert_eq!(consumer.get("session.timeout.ms"), Some("6000"));
        assert_eq!(consumer.get("client.id"), Some("shop-1"));
        assert_eq!(consumer.get("partition.assignment.strategy"), Some("cooperative-sticky"));
        assert_eq!(settings.dead_letter_topic, "stock-dead-letters");
        assert_eq!(settings.never_consumed, NeverConsumed::Latest);
        assert_eq!(settings.for_look().get("group.instance.id"), None);
        assert_eq!(settings.for_producer().get("session.timeout.ms"), None);
        consumer.create_native_config().expect("librdkafka takes them");
        settings.for_producer().create_native_config().expect("librdkafka takes them");
    }

    #[test]
    fn an_unknown_property_names_its_variable() {
        let error = settings(&[("KAFKA_BROKERS", "a:1"), ("KAFKA_SESION_TIMEOUT_MS", "1")]).expect_err("mistyped");
        let text = error.to_string();
        assert!(text.contains("KAFKA_SESION_TIMEOUT_MS") && text.contains("sesion.timeout.ms"), "{text}");
    }

    #[test]
    fn what_the_design_owns_is_refused_with_a_reason() {
        let variables = [
            "KAFKA_ENABLE_AUTO_COMMIT",
            "KAFKA_ENABLE_AUTO_OFFSET_STORE",
            "KAFKA_ENABLE_PARTITION_EOF",
            "KAFKA_DELIVERY_REPORT_ONLY_ERROR",
        ];
        for variable in variables {
            let error = settings(&[("KAFKA_BROKERS", "a:1"), (variable, "true")]).expect_err("owned");
            assert!(matches!(&error, SettingsError::Owned { variable: named, .. } if named == variable), "{error}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let variables = [
            ("KAFKA_BROKERS", "a:1"),
            ("KAFKA_SASL_PASSWORD", "hunter2"),
            ("KAFKA_SSL_KEY_PEM", "hunter2"),
            ("KAFKA_SASL_OAUTHBEARER_CONFIG", "hunter2"),
        ];
        let shown = format!("{:?}", settings(&variables).expect("good settings"));
        assert!(shown.contains("sasl.password=…") && !shown.contains("hunter2"), "{shown}");
        // Kafka has no such property, but its value was meant to be secret.
        let error = settings(&[("KAFKA_BROKERS", "a:1"), ("KAFKA_SSL_KEY_PASSWORT", "hunter2")]).expect_err("mistyped");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn the_variables_of_kubernetes_are_passed_over() {
        let variables = [
            ("KAFKA_BROKERS", "a:1"),
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_SERVICE_HOST", "10.0.0.1"),
            ("KAFKA_SERVICE_PORT_CLIENT", "9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ];
        settings(&variables).expect("they mean nothing here");
    }

    /// D9: readiness lives on them.
    #[test]
    fn statistics_cannot_be_turned_off() {
        let with = |value| settings(&[("KAFKA_BROKERS", "a:1"), ("KAFKA_STATISTICS_INTERVAL_MS", value)]);
        let error = with("0").expect_err("never");
        assert!(error.to_string().starts_with("KAFKA_STATISTICS_INTERVAL_MS is \"0\""), "{error}");
        assert!(with("00").is_err());
        assert_eq!(with("250").expect("often").for_consumer().get("statistics.interval.ms"), Some("250"));
    }

    /// librdkafka takes some other names for patterns, and waits in silence for topics that fit.
    #[test]
    fn a_topic_has_a_name_that_kafka_knows() {
        let long = "t".repeat(250);
        for variable in ["KAFKA_TOPIC", "KAFKA_DEAD_LETTER_TOPIC"] {
            for name in ["^inv.*", "a b", "a/b", "käse", ".", "..", &long] {
                let error = settings(&[("KAFKA_BROKERS", "a:1"), (variable, name)]).expect_err(name);
                assert!(error.to_string().starts_with(variable), "{error}");
            }
            for name in ["t", "a.B_c-9", &long[1..]] {
                let more = ("KAFKA_DEAD_LETTER_TOPIC", "other");
                settings(&[("KAFKA_BROKERS", "a:1"), more, (variable, name)]).expect(name);
            }
        }
        // What is made of a good name may be too long for one.
        let error = settings(&[("KAFKA_BROKERS", "a:1"), ("KAFKA_TOPIC", &long[1..])]).expect_err("too long");
        assert!(error.to_string().starts_with("KAFKA_DEAD_LETTER_TOPIC"), "{error}");
    }

    #[test]
    fn dead_letters_do_not_come_back() {
        settings(&[("KAFKA_BROKERS", "a:1"), ("KAFKA_TOPIC", "t"), ("KAFKA_DEAD_LETTER_TOPIC", "t")])
            .expect_err("a loop");
    }
}
