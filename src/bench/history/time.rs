//! A moment, as rows write it.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The first second that RFC 3339 has no four digits for.
const END: u64 = 253_402_300_800;

/// A moment between 1970 and 9999, in whole milliseconds; RFC 3339 in UTC as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(u64);

impl Time {
    /// From `2026-11-26T06:26:29Z`, with or without a fraction of a second.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(humantime::parse_rfc3339(text).ok()?)
    }

    /// None outside the years it can have.
    #[must_use]
    pub fn of(time: SystemTime) -> Option<Self> {
        let since = time.duration_since(UNIX_EPOCH).ok().filter(|since| since.as_secs() < END)?;
        Some(Self(u64::try_from(since.as_millis()).ok()?))
    }

    /// Its day alone.
    #[must_use]
    pub fn day(self) -> String {
        self.to_string().chars().take_while(|character| *character != 'T').collect()
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Time::parse(&text).ok_or_else(|| format!("{text:?} is no RFC 3339 time in UTC"))
    }
}
