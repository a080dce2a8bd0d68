//! The service's settings, and where each comes from.
//!
//! A setting has one name in four spellings: `max_connections` in the file, `--max-connections` on the command line,
//! `EQUIPOISE_MAX_CONNECTIONS` in the environment, and the field here. The command line overrides the environment, the
//! environment the file, and the file the default. A value is checked in every source, even if a stronger source
//! overrides it: an error in the file should not stay hidden until somebody removes a flag.
//!
//! State is on disk, unless a setting asks for memory or `DATABASE_URL` names a PostgreSQL database. `DATABASE_URL` and
//! `KAFKA_…` are well-known names: they are read as they are, and only from the environment, since they carry
//! passwords.
//!
//! If `in_memory` is true, a `data_dir` from a weaker source is ignored; one from the same or a stronger source is an
//! error.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

mod environment;
mod value;

pub use environment::Environment;

/// How many entries or ids a setting may ask for: what would fill any memory is a mistyped number.
const ENTRIES: RangeInclusive<u64> = 1..=1_000_000_000;

/// How many connections a setting may ask for.
const CONNECTIONS: RangeInclusive<u64> = 1..=10_000_000;

/// Every setting's name.
pub const KEYS: [&str; 11] = [
    "listen",
    "metrics_listen",
    "data_dir",
    "in_memory",
    "ids",
    "id_window",
    "segment_bytes",
    "checkpoint_every",
    "history",
    "max_connections",
    "log",
];

/// What `equipoise serve` runs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The address to listen on, `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// The address for metrics and health over HTTP, `HOST:PORT`; None: not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<String>,
    /// The PostgreSQL database that keeps the state; None: the state is elsewhere.
    #[serde(skip)]
    pub database_url: Option<Secret>,
    /// The variables `KAFKA_…`; the service consumes inventory events when `KAFKA_BROKERS` is among them.
    #[serde(skip)]
    pub kafka: BTreeMap<String, Secret>,
    /// The data directory; None in memory and in PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
    /// Whether state lives in memory and is lost when the service ends.
    pub in_memory: bool,
    /// How many transaction ids stay in memory (requirement B5). Past it a ledger in memory forgets the oldest; one on
    /// disk looks older ids up there.
    pub ids: usize,
    /// How long a ledger on disk honours a transaction id.
    #[serde(serialize_with = "value::print_window")]
    pub id_window: Duration,
    /// How long each file of the journal is.
    pub segment_bytes: u64,
    /// After how many journal entries a checkpoint is written.
    pub checkpoint_every: u64,
    /// How many journal entries a ledger in memory keeps for `WatchTransactions`; one on disk keeps all.
    pub history: usize,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// What is logged: a level, or `target=level` pairs with commas between.
    pub log: String,
}

impl Default for Config {
    /// What holds when nobody says anything. Where the state lives then depends on the environment.
    fn default() -> Self {
        Config {
            listen: "127.0.0.1:50051".to_owned(),
            metrics_listen: None,
            database_url: None,
            kafka: BTreeMap::new(),
            data_dir: None,
            in_memory: false,
            ids: 100_000,
            id_window: crate::DEFAULT_ID_WINDOW,
            segment_bytes: 16 << 20,
            checkpoint_every: 1_000_000,
            history: 100_000,
            max_connections: 10_000,
            log: "info".to_owned(),
        }
    }
}

/// A text that is not to be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag,
    /// A variable of the environment.
    Environment,
    /// The configuration file.
    File(PathBuf),
}

impl Source {
    /// The stronger wins.
    fn strength(&self) -> u8 {
        match self {
            Source::Flag => 2,
            Source::Environment => 1,
            Source::File(_) => 0,
        }
    }
}

/// A setting as its source spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    key: &'static str,
    source: Source,
}

impl Place {
    /// Where `source` spells `key`.
    #[must_use]
    pub fn new(key: &'static str, source: Source) -> Self {
        Place { key, source }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Flag => write!(f, "--{}", self.key.replace('_', "-")),
            Source::Environment => write!(f, "the environment variable {}", environment::variable(self.key)),
            Source::File(file) => write!(f, "the key {} in {}", self.key, file.display()),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that its setting does not take.
    #[error("invalid value {value:?} for {place}: {expected}")]
    Value {
        /// What was given.
        value: String,
        /// Where it stands.
        place: Place,
        /// The values it accepts.
        expected: String,
    },
    /// In memory and on disk at once.
    #[error("{in_memory} keeps the state in memory, {data_dir} on disk: leave one of them out")]
    Contradiction {
        /// Where memory is asked for.
        in_memory: Place,
        /// Where a directory is named.
        data_dir: Place,
    },
    /// In PostgreSQL and somewhere else at once.
    #[error("DATABASE_URL keeps the state in PostgreSQL, {other} somewhere else: leave one of them out")]
    TwoPlaces {
        /// Where the other place is asked for.
        other: Place,
    },
    /// A key that no setting has.
    #[error("unknown key {key:?} in {}; the keys are {}", file.display(), KEYS.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        file: PathBuf,
    },
    /// A variable that is no text.
    #[error("the environment variable {variable} is not UTF-8")]
    NotText {
        /// Its name.
        variable: String,
    },
    /// A file that cannot be read.
    #[error("cannot read the configuration file {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file that is not TOML.
    #[error("{} is not valid TOML: line {line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What was expected there.
        message: String,
    },
}

impl Config {
    /// Puts the settings together: `flags` (key and value) over `environment` over `file` over the defaults.
    ///
    /// # Errors
    /// [`ConfigError`], naming the first setting that is wrong, its value, and where it stands.
    pub fn resolve(
        flags: &[(&'static str, Option<&str>)],
        environment: &Environment,
        file: Option<&Path>,
    ) -> Result<Config, ConfigError> {
        let mut reading = Reading::default();
        if let Some(file) = file {
            reading.read_file(file)?;
        }
        for key in KEYS {
            if let Some(text) = environment.get(key)? {
                reading.set(text, Place { key, source: Source::Environment })?;
            }
        }
        for &(key, text) in flags {
            if let Some(text) = text {
                reading.set(text, Place { key, source: Source::Flag })?;
            }
        }
        reading.finish(environment)
    }

    /// The settings as a file that [`Config::resolve`] reads back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

/// The settings read so far, weaker sources first.
#[derive(Default)]
struct Reading {
    config: Config,
    in_memory_from: Option<Place>,
    data_dir_from: Option<Place>,
}

impl Reading {
    fn read_file(&mut self, file: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Read { file: file.into(), error })?;
        let table = text.parse::<toml::Table>().map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            ConfigError::Syntax { file: file.into(), line, message: error.message().to_owned() }
        })?;
        for (name, value) in table {
            let Some(key) = KEYS.into_iter().find(|key| *key == name) else {
                return Err(ConfigError::UnknownKey { key: name, file: file.into() });
            };
            let place = Place { key, source: Source::File(file.into()) };
            match value {
                toml::Value::String(text) => self.set(&text, place)?,
                toml::Value::Integer(number) => self.set(&number.to_string(), place)?,
                toml::Value::Boolean(flag) => self.set(&flag.to_string(), place)?,
                other => {
                    let expected = "expected a text, a whole number, true or false".to_owned();
                    return Err(ConfigError::Value { value: other.to_string(), place, expected });
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, text: &str, place: Place) -> Result<(), ConfigError> {
        let Reading { config, in_memory_from, data_dir_from } = self;
        let result = match place.key {
            "listen" => value::address(text).map(|listen| config.listen = listen),
            "metrics_listen" => value::address(text).map(|listen| config.metrics_listen = Some(listen)),
            "data_dir" => value::directory(text).map(|dir| {
                config.data_dir = Some(dir);
                *data_dir_from = Some(place.clone());
            }),
            "in_memory" => value::flag(text).map(|in_memory| {
                config.in_memory = in_memory;
                *in_memory_from = Some(place.clone());
            }),
            "ids" => value::count(text, ENTRIES).map(|ids| config.ids = size(ids)),
            "id_window" => value::window(text).map(|window| config.id_window = window),
            "segment_bytes" => value::count(text, crate::SEGMENT_BYTES).map(|bytes| config.segment_bytes = bytes),
            "checkpoint_every" => value::count(text, ENTRIES).map(|entries| config.checkpoint_every = entries),
            "history" => value::count(text, ENTRIES).map(|entries| config.history = size(entries)),
            "max_connections" => value::count(text, CONNECTIONS).map(|most| config.max_connections = size(most)),
            "log" => value::filter(text).map(|log| config.log = log),
            _ => Err(format!("expected one of the keys {}", KEYS.join(", "))),
        };
        result.map_err(|expected| ConfigError::Value { value: text.to_owned(), place, expected })
    }

    /// Decides where the state lives.
    fn finish(self, environment: &Environment) -> Result<Config, ConfigError> {
        let Reading { mut config, in_memory_from, data_dir_from } = self;
        config.kafka = environment.kafka()?;
        config.database_url = environment.database_url()?;
        if config.database_url.is_some() {
            let memory = in_memory_from.filter(|_| config.in_memory);
            let stronger = |place: &Place| place.source.strength() >= Source::Environment.strength();
            if let Some(other) = memory.into_iter().chain(data_dir_from).find(stronger) {
                return Err(ConfigError::TwoPlaces { other });
            }
            (config.in_memory, config.data_dir) = (false, None);
            return Ok(config);
        }
        if config.in_memory {
            config.data_dir = None;
            if let (Some(in_memory), Some(data_dir)) = (in_memory_from, data_dir_from)
                && data_dir.source.strength() >= in_memory.source.strength()
            {
                return Err(ConfigError::Contradiction { in_memory, data_dir });
            }
        } else {
            config.data_dir.get_or_insert_with(|| environment.data_dir());
        }
        Ok(config)
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `resolve` makes of `in_memory` and `data_dir` from the environment and from flags.
    fn resolved(environment: [&str; 2], flags: [&str; 2]) -> Result<Config, ConfigError> {
        let variables = [("EQUIPOISE_IN_MEMORY", environment[0]), ("EQUIPOISE_DATA_DIR", environment[1])];
        let environment = variables.into_iter().chain([("HOME", "/home/me")]);
        let environment = environment.map(|(name, value)| (name.into(), value.into())).collect();
        let flags = flags.map(|text| Some(text).filter(|text| !text.is_empty()));
        Config::resolve(&[("in_memory", flags[0]), ("data_dir", flags[1])], &environment, None)
    }

    /// A weaker place gives way to memory, an equal or stronger one contradicts it.
    #[test]
    fn memory_and_a_directory_contradict_each_other() {
        let dir = |environment, flags| resolved(environment, flags).expect("settings").data_dir;
        assert_eq!(dir(["", ""], ["", ""]).as_deref(), Some("/home/me/.local/share/equipoise"));
        assert_eq!(dir(["", "e"], ["", ""]).as_deref(), Some("e"));
        assert_eq!(dir(["", "e"], ["true", ""]), None);
        assert_eq!(dir(["true", "e"], ["false", ""]).as_deref(), Some("e"));
        assert_eq!(dir(["true", ""], ["false", "f"]).as_deref(), Some("f"));
        for (environment, flags, named) in [
            (["true", "e"], ["", ""], ["EQUIPOISE_IN_MEMORY", "EQUIPOISE_DATA_DIR"]),
            (["true", ""], ["", "f"], ["EQUIPOISE_IN_MEMORY", "--data-dir"]),
            (["", ""], ["true", "f"], ["--in-memory", "--data-dir"]),
        ] {
            let text = resolved(environment, flags).expect_err("a contradiction").to_string();
            assert!(named.iter().all(|name| text.contains(name)), "{text}");
        }
    }

    /// D8: DATABASE_URL decides where the state lives, unless something as strong says otherwise.
    #[test]
    fn a_database_and_another_place_contradict_each_other() {
        let resolved = |variables: &[(&str, &str)], flags: &[(&'static str, Option<&str>)]| {
            let database = [("DATABASE_URL", "postgres://me:secret@db/stock")];
            let variables = database.iter().chain(variables);
            let environment = variables.map(|(name, value)| (name.into(), value.into())).collect();
            Config::resolve(flags, &environment, None)
        };
        let config = resolved(&[("KAFKA_BROKERS", "b:9092"), ("KAFKA_EMPTY", "")], &[]).expect("settings");
        assert_eq!((config.data_dir.as_deref(), config.in_memory), (None, false));
        assert_eq!(config.database_url.as_ref().map(Secret::expose), Some("postgres://me:secret@db/stock"));
        assert_eq!(config.kafka.keys().collect::<Vec<_>>(), ["KAFKA_BROKERS"]);
        assert!(!format!("{config:?}{}", config.to_toml()).contains("secret"));
        for (variables, flags, named) in [
            (&[("EQUIPOISE_DATA_DIR", "d")][..], &[][..], "EQUIPOISE_DATA_DIR"),
            (&[], &[("in_memory", Some("true"))], "--in-memory"),
        ] {
            let text = resolved(variables, flags).expect_err("a contradiction").to_string();
            assert!(text.contains(named), "{text}");
        }
    }

    #[test]
    fn every_key_sets_something_or_says_why_not() {
        for key in KEYS {
            let result = Reading::default().set("\0", Place { key, source: Source::Flag });
            let text = result.expect_err(key).to_string();
            assert!(text.contains(&key.replace('_', "-")), "{text}");
        }
    }
}
