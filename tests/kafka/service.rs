//! A consumer with its store and its metrics, as a process would have them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::inventory::{Content, DeadLetter, Event};
use equipoise::kafka::{Consumer, Decode, Metrics, Partition, Settings, Status};
use equipoise::{AccountId, TransactionId};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::broker::{self, SOON, Topic};
use crate::store::Memory;

pub struct Service {
    pub consumer: Consumer,
    pub store: Arc<Memory>,
    pub metrics: Metrics,
}

/// Settings with which tests need not wait long.
pub fn settings(topic: &Topic, more: &[(&str, &str)]) -> Settings {
    settings_at(broker::address(), topic, more)
}

pub fn settings_at(brokers: &str, topic: &Topic, more: &[(&str, &str)]) -> Settings {
    let usual = [
        ("KAFKA_BROKERS", brokers),
        ("KAFKA_TOPIC", &topic.name),
        ("KAFKA_GROUP_ID", &topic.name),
        ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
        ("KAFKA_MAX_POLL_INTERVAL_MS", "6000"),
        ("KAFKA_HEARTBEAT_INTERVAL_MS", "500"),
        ("KAFKA_STATISTICS_INTERVAL_MS", "500"),
        ("KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS", "1000"),
    ];
    let variables = usual.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string()));
    Settings::from_variables(variables.collect::<std::collections::BTreeMap<_, _>>().into_iter()).unwrap()
}

/// `event ID` is an event of one unit; nothing is a tombstone, all else malformed.
pub fn decode(letter: DeadLetter) -> Content {
    let Some(value) = &letter.value else { return Content::Tombstone };
    let id = std::str::from_utf8(value).ok().and_then(|text| text.strip_prefix("event "));
    match id.and_then(|id| TransactionId::new(id).ok()) {
        Some(id) => {
            let event = Event { id, product: AccountId::new("product").unwrap(), quantity_change: 1 };
            Content::Event { event, original: Arc::new(letter) }
        }
        None => Content::Malformed(Arc::new(DeadLetter { reason: "not an event".to_owned(), ..letter })),
    }
}

impl Service {
    pub fn start(settings: Settings, store: &Arc<Memory>) -> Self {
        Service::with(settings, store, Arc::new(decode))
    }

    pub fn with(settings: Settings, store: &Arc<Memory>, decode: Decode) -> Self {
        let metrics = Metrics::default();
        let store = Arc::clone(store);
        let consumer =
            Consumer::start(settings, Arc::<Memory>::clone(&store), decode, metrics.clone(), &Handle::current())
                .unwrap();
        Service { consumer, store, metrics }
    }

    pub async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            let seen = (self.status(), self.store.events(), self.store.records());
            assert!(begun.elapsed() < SOON, "waited in vain for {what}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_events(&self, count: usize) {
        self.until(&format!("{count} events"), |it| it.store.events() >= count).await;
    }

    pub fn status(&self) -> Status {
        self.consumer.status()
    }

    pub fn lag(&self, partition: i32) -> i64 {
        self.metrics.lag.get_or_create(&Partition { partition }).get()
    }

    pub fn consuming(&self) -> Vec<i32> {
        self.status().consuming
    }

    pub async fn stop(self) {
        self.stop_within(SOON).await;
    }

    /// E4: whatever it waits for.
    pub async fn stop_in_time(self) {
        self.stop_within(Duration::from_secs(5)).await;
    }

    async fn stop_within(self, limit: Duration) {
        timeout(limit, self.consumer.stop()).await.unwrap_or_else(|_| panic!("stopping takes more than {limit:?}"));
        self.store.assert_content();
    }
}
