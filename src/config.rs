//! The service's settings, and where each comes from.
//!
//! A setting has one name in four spellings: `max_connections` in the file, `--max-connections` on the command line,
//! `EQUIPOISE_MAX_CONNECTIONS` in the environment, and the field here. The command line wins over the environment, that
//! over the file, that over the default. A value is checked wherever it stands, also where a stronger source overrides it:
//! a broken file should not wait for the day on which somebody drops a flag.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

mod environment;

pub use environment::Environment;

/// The most entries or ids that a setting may ask for: what would fill any memory is a mistyped number.
const MOST_ENTRIES: usize = 1_000_000_000;

/// The most connections that a setting may ask for.
const MOST_CONNECTIONS: usize = 10_000_000;

/// Every setting's name.
pub const KEYS: [&str; 6] = ["listen", "history", "ids", "max_connections", "log", "data_dir"];

/// What `equipoise serve` runs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The address to listen on, `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// How many journal entries stay in memory for `WatchTransactions` and `GetTransaction`.
    pub history: usize,
    /// How many transaction ids stay in memory; past it the oldest are forgotten (requirement B5).
    pub ids: usize,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// What is logged: a level, or `target=level` pairs with commas between.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: "127.0.0.1:50051".to_owned(),
            history: 100_000,
            ids: 100_000,
            max_connections: 10_000,
            log: "info".to_owned(),
        }
    }
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag,
    /// A variable of the environment.
    Environment,
    /// The configuration file.
    File(PathBuf),
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
        /// What would have been right.
        expected: String,
    },
    /// A setting that is not there yet.
    #[error(
        "{place} cannot be used yet: this version has no journal on disk, its state lives in memory and is lost when \
         the service ends; leave it out to run like that"
    )]
    InMemory {
        /// Where it stands.
        place: Place,
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
        let mut config = Config::default();
        if let Some(file) = file {
            config.read_file(file)?;
        }
        for key in KEYS {
            if let Some(text) = environment.get(key)? {
                config.set(text, Place { key, source: Source::Environment })?;
            }
        }
        for &(key, text) in flags {
            if let Some(text) = text {
                config.set(text, Place { key, source: Source::Flag })?;
            }
        }
        Ok(config)
    }

    /// The settings as a file that [`Config::resolve`] reads back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

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
                other => {
                    let expected = "expected a text or a whole number".to_owned();
                    return Err(ConfigError::Value { value: other.to_string(), place, expected });
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, text: &str, place: Place) -> Result<(), ConfigError> {
        let result = match place.key {
            "listen" => address(text).map(|listen| self.listen = listen),
            "history" => count(text, MOST_ENTRIES).map(|entries| self.history = entries),
            "ids" => count(text, MOST_ENTRIES).map(|ids| self.ids = ids),
            "max_connections" => count(text, MOST_CONNECTIONS).map(|connections| self.max_connections = connections),
            "log" => filter(text).map(|log| self.log = log),
            _ => return Err(ConfigError::InMemory { place }),
        };
        result.map_err(|expected| ConfigError::Value { value: text.to_owned(), place, expected })
    }
}

/// `HOST:PORT`; names are resolved when the service starts.
fn address(text: &str) -> Result<String, String> {
    let parsed = text.parse::<std::net::SocketAddr>().is_ok();
    let named = text.rsplit_once(':').is_some_and(|(host, port)| {
        let host_character = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
        !host.is_empty() && host.chars().all(host_character) && port.parse::<u16>().is_ok()
    });
    if parsed || named { Ok(text.to_owned()) } else { Err("expected HOST:PORT, as in 127.0.0.1:50051".to_owned()) }
}

fn count(text: &str, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {most}")),
    }
}

/// A log filter. A bare word must be a level: the filter itself would take a mistyped one for the name of a module.
fn filter(text: &str) -> Result<String, String> {
    let level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let mistyped = |part: &&str| !part.contains(['=', '[']) && !level(part);
    if let Some(part) = text.split(',').map(str::trim).find(mistyped) {
        return Err(format!("{part:?} is none of error, warn, info, debug, trace, off, and no target=level"));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_word_in_the_filter_must_be_a_level() {
        assert!(filter("info").is_ok());
        assert!(filter("warn,equipoise=debug").is_ok());
        assert!(filter("inof").is_err());
        assert!(filter("equipoise=loud").is_err());
        assert!(filter("").is_err());
    }

    #[test]
    fn an_address_needs_host_and_port() {
        for good in ["127.0.0.1:0", "[::1]:50051", "localhost:50051", "db-1.internal:1"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":50051", "50051", "localhost:65536", "::1:50051", "a b:1", "http://x:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_key_sets_something_or_says_why_not() {
        for key in KEYS {
            let result = Config::default().set("\u{7}", Place { key, source: Source::Flag });
            let text = result.expect_err(key).to_string();
            assert!(text.contains(&key.replace('_', "-")), "{text}");
        }
    }
}
