//! What an operator watches.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters and gauges of a consumer; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Records read from the topic, including those read again after a take-over.
    pub consumed: Counter,
    /// Events that changed a stock.
    pub applied: Counter,
    /// Events decided before.
    pub duplicates: Counter,
    /// Events refused, for want of stock or of room in a number.
    pub rejected: Counter,
    /// Records that became dead letters.
    pub dead_letters: Counter,
    /// Dead letters published to their topic.
    pub dead_letters_published: Counter,
    /// Failed tries to publish a dead letter.
    pub dead_letter_retries: Counter,
    /// Records without a value.
    pub tombstones: Counter,
    /// Partitions that turned out to be another member's when something was to be written for them.
    pub fenced: Counter,
    /// Assignments and revocations by the group.
    pub rebalances: Counter,
    /// Batches decided again because of another instance.
    pub redecided: Counter,
    /// Times that the store was asked again because it was unavailable.
    pub apply_retries: Counter,
    /// Errors that librdkafka reported.
    pub errors: Counter,
    /// When the last error was, in seconds since the Unix epoch; 0 for never.
    pub last_error: Gauge,
    /// Partitions being consumed here.
    pub partitions: Gauge,
    /// Partitions that were stopped because their offsets do not fit the log.
    pub stopped: Gauge,
    /// Records in the log that are not applied yet.
    pub lag: Family<Partition, Gauge>,
}

/// The label of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Partition {
    /// Its number.
    pub partition: i32,
}

impl Metrics {
    /// Puts them into `registry`, as `kafka_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("kafka");
        let counters = [
            ("consumed", "Records read from the topic", &self.consumed),
            ("applied", "Events that changed a stock", &self.applied),
            ("duplicates", "Events decided before", &self.duplicates),
            ("rejected", "Events refused, for want of stock or of room in a number", &self.rejected),
            ("dead_letters", "Records that became dead letters", &self.dead_letters),
            ("dead_letters_published", "Dead letters published to their topic", &self.dead_letters_published),
            ("dead_letter_retries", "Failed tries to publish a dead letter", &self.dead_letter_retries),
            ("tombstones", "Records without a value", &self.tombstones),
            ("fenced", "Partitions found to be owned by another member", &self.fenced),
            ("rebalances", "Assignments and revocations by the group", &self.rebalances),
            ("redecided", "Batches decided again because of another instance", &self.redecided),
            ("apply_retries", "Times that an unavailable store was asked again", &self.apply_retries),
            ("errors", "Errors that the Kafka client reported", &self.errors),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("last_error_timestamp_seconds", "When the last error was, 0 for never", &self.last_error),
            ("partitions", "Partitions being consumed here", &self.partitions),
            ("stopped_partitions", "Partitions whose offsets do not fit the log", &self.stopped),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register("lag", "Records in the log that are not applied yet", self.lag.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D9: what the requirement names is there.
    #[test]
    fn they_are_all_registered() {
        let metrics = Metrics::default();
        metrics.lag.get_or_create(&Partition { partition: 3 }).set(7);
        metrics.fenced.inc();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in ["kafka_lag{partition=\"3\"} 7", "kafka_fenced_total 1", "kafka_duplicates_total 0"] {
            assert!(text.contains(line), "{line} in {text}");
        }
        for name in ["rejected", "dead_letters", "rebalances"] {
            assert!(text.contains(&format!("kafka_{name}_total 0")), "{name} in {text}");
        }
    }
}
