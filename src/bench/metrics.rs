//! The metrics of a target, in the text form that Prometheus reads: the same way for a ledger and for a service.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::{Contention, Usage};
use crate::Ledger;
use crate::monitor::LedgerMetrics;

const HELPED: &str = "helped_transactions_total";
const WAITING: &str = "contention_seconds_total";

/// How long a service may take to tell.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is read of them; None where the target does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Reading {
    pub(super) helped: Option<f64>,
    pub(super) waiting: Option<f64>,
}

impl Reading {
    /// Of a ledger in this process.
    pub(super) fn of_ledger(ledger: &Ledger) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(LedgerMetrics::new(ledger.clone())));
        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => Reading::parse(&text),
            Err(_) => Reading::default(),
        }
    }

    /// Of the service whose metrics are at `address`.
    pub(super) fn of_service(address: &str) -> Self {
        fetch(address).map(|text| Reading::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let lines = text.lines().filter_map(|line| line.split_once(' '));
            let mut named = lines.filter(|(key, _)| key.strip_prefix("equipoise_").unwrap_or(key) == name);
            named.next().and_then(|(_, value)| value.trim().parse().ok())
        };
        Reading { helped: value(HELPED), waiting: value(WAITING) }
    }

    /// How much longer than at `before` transactions waited for each other. None if the target does not tell, or if the
    /// time that it worked is not known.
    pub(super) fn since(self, before: Reading, usage: Option<&Usage>) -> Option<Contention> {
        let waiting_seconds = (self.waiting? - before.waiting?).max(0.0);
        let worked = usage.map(|usage| usage.cpu_seconds).filter(|seconds| *seconds > 0.0)?;
        let waiting_share = waiting_seconds / worked;
        Some(Contention { helped: self.helped_since(before)?, waiting_seconds, waiting_share })
    }

    /// How many transactions were finished by another thread since `before`.
    pub(super) fn helped_since(self, before: Reading) -> Option<u64> {
        // Counts: whole numbers that a f64 holds.
        Some((self.helped? - before.helped?).max(0.0) as u64)
    }
}

/// One GET, by HTTP/1.0: the answer ends with the connection.
fn fetch(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E3: what a target does not tell is not zero but unknown.
    #[test]
    fn what_is_not_told_is_unknown() {
        let text = "# TYPE x\nequipoise_helped_transactions_total 12\nequipoise_contention_seconds_total 0.5\n# EOF\n";
        let told = Reading::parse(text);
        assert_eq!(told, Reading { helped: Some(12.0), waiting: Some(0.5) });
        let usage = Usage { cpu_seconds: 10.0, cpu_share: 0.5, resident_bytes: 1 };
        let later = Reading { helped: Some(20.0), waiting: Some(1.5) };
        let contention = later.since(told, Some(&usage)).expect("told");
        assert_eq!((contention.helped, contention.waiting_seconds, contention.waiting_share), (8, 1.0, 0.1));
        assert_eq!(later.since(Reading::default(), Some(&usage)), None);
        assert_eq!(later.since(told, None), None);
    }

    #[test]
    fn a_ledger_tells_how_often_it_helped() {
        assert_eq!(Reading::of_ledger(&Ledger::new()).helped, Some(0.0));
        assert_eq!(Reading::of_service("127.0.0.1:1"), Reading::default());
    }
}
