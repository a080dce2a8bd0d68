//! librdkafka's log, without its repetitions.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// How long the same message is not repeated.
const REPEATED: Duration = Duration::from_secs(60);

/// How many different messages are remembered; librdkafka has some dozens.
const REMEMBERED: usize = 256;

/// Lets each kind of line through once a minute, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    said: Mutex<HashMap<String, Said>>,
}

#[derive(Debug)]
struct Said {
    last: Instant,
    since: u64,
}

impl Quiet {
    /// Whether to log a message of this kind now: Some with the number of times that it was left out since the last.
    pub(super) fn may_say(&self, kind: &str) -> Option<u64> {
        self.may_say_at(kind, Instant::now())
    }

    fn may_say_at(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut said = self.said.lock();
        if said.len() >= REMEMBERED {
            said.retain(|_, said| now.duration_since(said.last) < REPEATED);
        }
        let Some(known) = said.get_mut(kind) else {
            if said.len() < REMEMBERED {
                said.insert(kind.to_owned(), Said { last: now, since: 0 });
            }
            return Some(0);
        };
        if now.duration_since(known.last) < REPEATED {
            known.since += 1;
            return None;
        }
        known.last = now;
        Some(std::mem::take(&mut known.since))
    }

    /// A line of librdkafka.
    pub(super) fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        // CONFWARN tells a producer that some property is a consumer's.
        if matches!(level, Debug | Info | Notice) || facility == "CONFWARN" {
            tracing::debug!(target: "librdkafka", facility, "{line}");
            return;
        }
        let Some(repeated) = self.may_say(facility) else { return };
        match level {
            Emerg | Alert | Critical => tracing::error!(target: "librdkafka", facility, repeated, "{line}"),
            Error | Warning | Notice | Info | Debug => {
                tracing::warn!(target: "librdkafka", facility, repeated, "{line}");
            }
        }
    }
}

/// The context of a client that logs nothing: its user reports the results.
pub(super) struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(target: "librdkafka", facility, "{line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Silent {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_is_said_once_a_minute() {
        let quiet = Quiet::default();
        let now = Instant::now();
        assert_eq!(quiet.may_say_at("FAIL", now), Some(0));
        assert_eq!(quiet.may_say_at("FAIL", now + Duration::from_secs(1)), None);
        assert_eq!(quiet.may_say_at("ERROR", now + Duration::from_secs(1)), Some(0));
        assert_eq!(quiet.may_say_at("FAIL", now + Duration::from_secs(59)), None);
        assert_eq!(quiet.may_say_at("FAIL", now + REPEATED), Some(2));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let quiet = Quiet::default();
        for kind in 0..10 * REMEMBERED {
            quiet.may_say(&kind.to_string());
        }
        assert!(quiet.said.lock().len() <= REMEMBERED);
    }
}
