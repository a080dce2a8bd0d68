//! The numbers of a ledger.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::{Ledger, Stats};

/// Reads a ledger's numbers when they are asked for.
#[derive(Debug)]
pub struct LedgerMetrics {
    ledger: Ledger,
}

impl LedgerMetrics {
    /// The metrics of `ledger`, which is kept alive.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        LedgerMetrics { ledger }
    }
}

impl Collector for LedgerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Stats {
            accounts,
            unopened_accounts,
            ids,
            sequence,
            durable,
            open_snapshots,
            helps,
            retries,
            waiting,
            garbage_bytes,
            history_oldest,
            short_of_space,
            ids_index_failing,
            refused_for_space,
        } = self.ledger.stats();
        let gauges = [
            ("accounts", "Accounts opened", accounts),
            ("unopened_accounts", "Accounts that refused linked groups made and nobody opened", unopened_accounts),
            ("ids_in_memory", "Transaction ids kept in memory", ids),
            ("sequence", "The newest commit sequence", sequence),
            ("durable_sequence", "The newest sequence that cannot be lost any more", durable),
            ("history_oldest_sequence", "The oldest sequence of the journal that is kept", history_oldest),
            ("open_snapshots", "Snapshots open now", open_snapshots),
            ("garbage_bytes", "Bytes that wait for a suspended thread", garbage_bytes),
            (
                "journal_short_of_space",
                "1 while the journal's next segment cannot be allocated: writes are refused, reads go on",
                u64::from(short_of_space),
            ),
            (
                "ids_index_failing",
                "1 while the id index cannot be written: ids wait in memory, then requests with ids are refused",
                u64::from(ids_index_failing),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let counters = [
            ("helped_transactions", "Transactions that a thread finished for another", helps),
            ("retries", "Times that a thread was overtaken on an account or the commit list, and tried again", retries),
            (
                "refused_for_space",
                "Requests refused because the journal's next segment or the id index cannot be written",
                refused_for_space,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let waiting = ConstCounter::new(waiting.as_secs_f64());
        let help = "Time that threads were held up by others, helping them and trying again";
        let unit = Unit::Seconds;
        waiting.encode(encoder.encode_descriptor("contention", help, Some(&unit), waiting.metric_type())?)
    }
}
