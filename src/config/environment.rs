//! The variables named `EQUIPOISE_…`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::{ConfigError, KEYS};

const PREFIX: &str = "EQUIPOISE_";

/// Variables that are not settings of the service: its file, and the client's two.
const OTHERS: [&str; 3] = ["config", "server", "timeout"];

/// The variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

/// What the environment says to Equipoise. An empty variable counts as unset.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

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
        match self.0.get(&variable).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text)),
            Some(None) => Err(ConfigError::NotText { variable }),
        }
    }

    /// The value of `key`, as the system gave it: for paths.
    #[must_use]
    pub fn get_os(&self, key: &str) -> Option<&OsStr> {
        self.0.get(&variable(key)).map(OsString::as_os_str)
    }

    /// The variables that mean nothing to Equipoise: mistyped, or somebody else's. They are worth a warning and no
    /// more, since Kubernetes sets `EQUIPOISE_PORT` and the like for every pod beside a service named `equipoise`.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let known: Vec<_> = KEYS.iter().chain(&OTHERS).map(|key| variable(key)).collect();
        self.0.keys().map(String::as_str).filter(move |name| !known.iter().any(|known| known == name))
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let ours = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok()?;
            (name.starts_with(PREFIX) && !value.is_empty()).then_some((name, value))
        };
        Environment(variables.into_iter().filter_map(ours).collect())
    }
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
    fn only_our_unknown_variables_are_named() {
        let environment = environment(&[("EQUIPOISE_LISTNE", "x"), ("PATH", "/bin"), ("EQUIPOISE_SERVER", "y")]);
        assert_eq!(environment.unknown().collect::<Vec<_>>(), ["EQUIPOISE_LISTNE"]);
    }
}
