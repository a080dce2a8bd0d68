//! What a setting's value may be.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serializer;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

const SECOND: Duration = Duration::from_secs(1);
const DAY: u64 = 24 * 60 * 60;
/// The longest window: what is longer is a mistyped unit.
const LONGEST_WINDOW: Duration = Duration::from_secs(3_650 * DAY);

/// `HOST:PORT`; names are resolved when the service starts.
pub(super) fn address(text: &str) -> Result<String, String> {
    let parsed = text.parse::<SocketAddr>().is_ok();
    let named = text.rsplit_once(':').is_some_and(|(host, port)| {
        let host_character = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
        !host.is_empty() && host.chars().all(host_character) && port.parse::<u16>().is_ok()
    });
    if parsed || named { Ok(text.to_owned()) } else { Err("expected HOST:PORT, as in 127.0.0.1:50051".to_owned()) }
}

pub(super) fn count(text: &str, allowed: RangeInclusive<u64>) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if allowed.contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {} to {}", allowed.start(), allowed.end())),
    }
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".to_owned())
}

pub(super) fn directory(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') { Err("expected a directory".to_owned()) } else { Ok(text.to_owned()) }
}

/// How long something is kept, as people say it: `24h`.
pub(super) fn window(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(window) if (SECOND..=LONGEST_WINDOW).contains(&window) => Ok(window),
        _ => Err("expected a duration from 1s to 3650days, as in 24h".to_owned()),
    }
}

/// Writes what [`window`] reads.
pub(super) fn print_window<S: Serializer>(window: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    match window.as_secs() {
        seconds if seconds.is_multiple_of(3_600) && window.subsec_nanos() == 0 => {
            serializer.collect_str(&format_args!("{}h", seconds / 3_600))
        }
        _ => serializer.collect_str(&humantime::format_duration(*window)),
    }
}

/// A log filter. A bare word must be a level: the filter itself would take a mistyped one for the name of a module.
pub(super) fn filter(text: &str) -> Result<String, String> {
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
    use crate::config::Config;

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
    fn a_window_is_printed_as_it_can_be_read() {
        for (text, printed) in
            [("24h", "24h"), ("1day", "24h"), ("90m", "1h 30m"), ("1s", "1s"), ("1500ms", "1s 500ms")]
        {
            let read = window(text).expect(text);
            let config = Config { id_window: read, ..Config::default() };
            assert!(config.to_toml().contains(&format!("id_window = \"{printed}\"\n")), "{}", config.to_toml());
            assert_eq!(window(printed), Ok(read));
        }
        for bad in ["", "24", "0s", "999ms", "11years", "-1h", "soon"] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }
}
