//! The variables named `EQUIPOISE_…`, and where the system wants data to be.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{ConfigError, KEYS, Secret};

const PREFIX: &str = "EQUIPOISE_";

/// Variables that are not settings of the service: its file, and the client's two.
const OTHERS: [&str; 3] = ["config", "server", "timeout"];

/// The variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

/// Where the PostgreSQL database is, as everybody calls it.
const DATABASE_URL: &str = "DATABASE_URL";

/// What the variables about Kafka begin with.
const KAFKA: &str = "KAFKA_";

/// The variables that say where a user's data is (the XDG base directory specification), and the directory below.
const DATA_HOMES: [(&str, &str); 2] = [("XDG_DATA_HOME", "equipoise"), ("HOME", ".local/share/equipoise")];

/// The data directory where there is no home.
const HOMELESS: &str = "equipoise-data";

/// What the environment says to Equipoise. An empty variable counts as unset.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    ours: BTreeMap<String, OsString>,
    /// [`DATABASE_URL`] and those of [`KAFKA`].
    others: BTreeMap<String, OsString>,
    /// By the order in [`DATA_HOMES`].
    homes: [Option<String>; DATA_HOMES.len()],
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Environment::from_iter(std::env::vars_os())
    }

    /// The value of `key`, if it is set.
    ///
    /// # Errors
    /// [`ConfigError::NotText`].
    pub fn get(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        let variable = variable(key);
        match self.ours.get(&variable).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text)),
            Some(None) => Err(ConfigError::NotText { variable }),
        }
    }

    /// The value of `key`, as the system gave it: for paths.
    #[must_use]
    pub fn get_os(&self, key: &str) -> Option<&OsStr> {
        self.ours.get(&variable(key)).map(OsString::as_os_str)
    }

    /// The PostgreSQL database.
    pub(super) fn database_url(&self) -> Result<Option<Secret>, ConfigError> {
        self.others.get(DATABASE_URL).map(|url| secret(DATABASE_URL, url)).transpose()
    }

    /// The variables about Kafka.
    pub(super) fn kafka(&self) -> Result<BTreeMap<String, Secret>, ConfigError> {
        let kafka = self.others.iter().filter(|(name, _)| name.starts_with(KAFKA));
        kafka.map(|(name, value)| Ok((name.clone(), secret(name, value)?))).collect()
    }

    /// The data directory when no setting names one: `$XDG_DATA_HOME/equipoise`, else `~/.local/share/equipoise`, else
    /// `equipoise-data` in the working directory.
    #[must_use]
    pub fn data_dir(&self) -> String {
        let below = |(home, (_, below)): (&Option<String>, (&str, &str))| {
            home.as_ref().map(|home| format!("{}/{below}", home.trim_end_matches('/')))
        };
        self.homes.iter().zip(DATA_HOMES).find_map(below).unwrap_or_else(|| HOMELESS.to_owned())
    }

    /// The variables that mean nothing to Equipoise: mistyped, or somebody else's. They are worth a warning and no
    /// more, since Kubernetes sets `EQUIPOISE_PORT` and the like for every pod beside a service named `equipoise`.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let known: Vec<_> = KEYS.iter().chain(&OTHERS).map(|key| variable(key)).collect();
        self.ours.keys().map(String::as_str).filter(move |name| !known.iter().any(|known| known == name))
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let mut environment = Environment::default();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            if let Some(at) = DATA_HOMES.iter().position(|(home, _)| *home == name) {
                // The specification: a relative path there is to be ignored.
                environment.homes[at] = value.into_string().ok().filter(|home| Path::new(home).is_absolute());
            } else if value.is_empty() {
                continue;
            } else if name.starts_with(PREFIX) {
                environment.ours.insert(name, value);
            } else if name == DATABASE_URL || name.starts_with(KAFKA) {
                environment.others.insert(name, value);
            }
        }
        environment
    }
}

fn secret(variable: &str, value: &OsStr) -> Result<Secret, ConfigError> {
    let text = value.to_str().ok_or_else(|| ConfigError::NotText { variable: variable.to_owned() })?;
    Ok(Secret(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let environment = environment(&[("EQUIPOISE_LISTEN", ""), ("EQUIPOISE_IDS", "7")]);
        assert_eq!(environment.get("listen").expect("text"), None);
        assert_eq!(environment.get("ids").expect("text"), Some("7"));
    }

    #[test]
    fn data_is_where_the_system_wants_it() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[("HOME", "/home/me"), ("XDG_DATA_HOME", "/data/")], "/data/equipoise"),
            (&[("HOME", "/home/me"), ("XDG_DATA_HOME", "data")], "/home/me/.local/share/equipoise"),
            (&[("HOME", "/")], "/.local/share/equipoise"),
            (&[("HOME", "")], "equipoise-data"),
        ];
        for (variables, dir) in cases {
            assert_eq!(environment(variables).data_dir(), dir);
        }
    }

    #[test]
    fn only_our_unknown_variables_are_named() {
        let environment = environment(&[("EQUIPOISE_LISTNE", "x"), ("PATH", "/bin"), ("EQUIPOISE_SERVER", "y")]);
        assert_eq!(environment.unknown().collect::<Vec<_>>(), ["EQUIPOISE_LISTNE"]);
    }
}
