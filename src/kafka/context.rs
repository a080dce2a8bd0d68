//! What librdkafka calls, always from within a poll: rebalances, errors, its log and statistics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::Timeout;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};

use super::metrics::Partition;
use super::poll::is_unreadable;
use super::shared::Shared;

/// Nothing here blocks. A partition that the group assigns is only noted, since its offset comes from the store: until
/// that is known, librdkafka fetches nothing of it.
pub(super) struct Context(pub(super) Arc<Shared>);

/// What librdkafka calls a topic's id while it does not know it.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if matches!(level, RDKafkaLogLevel::Debug) && is_another_topic(line, &self.0.settings.topic) {
            tracing::warn!("the topic was deleted and created anew");
            self.0.begin_again(Instant::now(), "the topic was deleted and created anew");
        }
        self.0.quiet.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if is_unreadable(&error) {
            self.0.trouble.lock().unreadable = Some(reason.to_owned());
        }
        let text = format!("{error}: {reason}");
        if let Some(repeated) = self.0.quiet.may_say(&format!("{code:?}")) {
            tracing::warn!(repeated, "Kafka: {text}");
        }
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.0.trouble.lock().disconnected = Some(reason.to_owned());
        }
        self.0.complaint(text);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice(statistics) {
            Ok(statistics) => self.stats(statistics),
            Err(error) => tracing::debug!("librdkafka's statistics cannot be read: {error}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.connected();
        }
        let Some(topic) = statistics.topics.get(&self.0.settings.topic) else { return };
        // librdkafka knows the end of a log only while it fetches it.
        for (partition, progress) in self.0.lanes.progress().into_iter().filter(|(_, it)| !it.paused) {
            let Some(log) = topic.partitions.get(&partition) else { continue };
            let end = if log.ls_offset >= 0 { log.ls_offset } else { log.hi_offset };
            if end < 0 {
                continue;
            }
            self.0.lanes.ends(partition, end);
            // The markers of transactions at a log's end are no records, and nothing will be applied for them.
            let at_end = progress.idle && log.fetchq_cnt == 0 && log.next_offset >= end;
            let lag = if at_end { 0 } else { (end - progress.next).max(0) };
            self.0.metrics.lag.get_or_create(&Partition { partition }).set(lag);
        }
    }
}

/// Whether a line of librdkafka's log says that the topic is a new one of the same name. librdkafka goes on with the
/// old offsets then ("FIXME" in `rd_kafka_topic_metadata_update`), and shows it in no other way. The line comes before
/// the new topic's records, since these can be requested only by the new id.
fn is_another_topic(line: &str, topic: &str) -> bool {
    let Some((_, rest)) = line.split_once("Topic ") else { return false };
    let Some(ids) = rest.strip_prefix(topic).and_then(|rest| rest.strip_prefix(" changed id from ")) else {
        return false;
    };
    !ids.starts_with(NO_ID)
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let elements = list.elements_for_topic(&self.0.settings.topic);
        let partitions: Vec<_> = elements.iter().map(|element| element.partition()).collect();
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        self.0.metrics.rebalances.inc();
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(?partitions, "assigned by the group");
                self.assigned(consumer, &partitions, cooperative)
            }
            _ => {
                tracing::info!(?partitions, "revoked by the group");
                self.revoked(consumer, &partitions, cooperative)
            }
        };
        if let Err(error) = result {
            self.0.complaint(error.to_string());
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!("the offsets for lag tools were not taken: {error}");
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(Duration::from_millis(100))
    }
}

impl Context {
    fn connected(&self) {
        if self.0.trouble.lock().disconnected.take().is_some() {
            tracing::info!("a broker answers again");
        }
    }

    /// The group's rebalance ends once an assignment was made, and an empty one suffices: partitions are attached when
    /// their offsets are known.
    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &[i32], cooperative: bool) -> KafkaResult<()> {
        self.connected();
        self.0.known();
        if !cooperative {
            self.forget_all();
        }
        let mut assignment = self.0.assignment.lock();
        assignment.assign(partitions, Instant::now());
        self.0.close(partitions);
        drop(assignment);
        let nothing = TopicPartitionList::new();
        if cooperative { consumer.incremental_assign(&nothing) } else { consumer.assign(&nothing) }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &[i32], cooperative: bool) -> KafkaResult<()> {
        if !cooperative {
            self.forget_all();
            return consumer.unassign();
        }
        self.0.give_up(partitions);
        let mut held = TopicPartitionList::new();
        let mut attached = self.0.attached.lock();
        for partition in partitions.iter().filter(|partition| attached.remove(partition)) {
            held.add_partition(&self.0.settings.topic, *partition);
        }
        consumer.incremental_unassign(&held)
    }

    /// In the eager protocol a new assignment replaces all earlier ones.
    fn forget_all(&self) {
        let all = self.0.assignment.lock().all();
        self.0.give_up(&all);
        self.0.attached.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_topic_is_told_by_its_id() {
        let line = |from: &str| format!("[thrd:main]: Topic t-1 changed id from {from} to yvA8hTmVQgCLvGRnkZSmOg");
        assert!(is_another_topic(&line("x3l0Kk0bT7C6cKmhOHnHvA"), "t-1"));
        assert!(!is_another_topic(&line(NO_ID), "t-1"));
        assert!(!is_another_topic(&line("x3l0Kk0bT7C6cKmhOHnHvA"), "t"));
        assert!(!is_another_topic("[thrd:main]: Topic t-1 [0] Leader 1 Epoch 0", "t-1"));
    }
}
