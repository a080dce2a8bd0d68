//! The Kafka door of a service: settings first, a consumer once there are accounts, and its end.

#[cfg(feature = "kafka")]
pub(super) use with_kafka::Consuming;
#[cfg(not(feature = "kafka"))]
pub(super) use without_kafka::Consuming;

/// The variable that asks for the door.
const BROKERS: &str = "KAFKA_BROKERS";

#[cfg(feature = "kafka")]
mod with_kafka {
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::runtime::Handle;
    use tokio::time::timeout;

    use crate::cli::exit::Failure;
    use crate::cli::warn;
    use crate::config::Config;
    use crate::grpc::Books;
    use crate::inventory::{LedgerStore, Store};
    use crate::kafka::{Consumer, Metrics, Settings, decode};
    use crate::monitor::Monitor;

    /// The consumer's name among the parts that must be ready.
    const KAFKA: &str = "kafka";

    /// How long a consumer may take to stop before the accounts are closed under it. After that it leaves the group by
    /// itself.
    const END: Duration = Duration::from_secs(2);

    /// The prefixes of the variables that Kubernetes sets in every pod for a service named `kafka`.
    const OF_KUBERNETES: [&str; 2] = ["KAFKA_PORT", "KAFKA_SERVICE_"];

    /// A consumer that is to be, or is.
    pub(in crate::cli) struct Consuming {
        /// None: nobody asked for it.
        settings: Option<Settings>,
        consumer: Arc<Mutex<Option<Consumer>>>,
    }

    impl Consuming {
        /// Reads the settings, if there are any.
        pub(in crate::cli) fn new(config: &Config) -> Result<Self, Failure> {
            let variables = || config.kafka.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
            let asked = config.kafka.contains_key(super::BROKERS);
            let settings = asked.then(|| Settings::from_variables(variables())).transpose();
            let mut settings = settings.map_err(|error| Failure::Usage(error.to_string()))?;
            let unused: Vec<_> = config
                .kafka
                .keys()
                .filter(|name| !OF_KUBERNETES.iter().any(|start| name.starts_with(start)))
                .cloned()
                .collect();
            if !asked && !unused.is_empty() {
                let (unused, brokers) = (unused.join(", "), super::BROKERS);
                warn(&format!("{unused} without {brokers}: no events are consumed"));
            }
            if let Some(settings) = &mut settings {
                settings.id_window = config.id_window;
            }
            Ok(Consuming { settings, consumer: Arc::default() })
        }

        /// Starts to consume into `books`, within a runtime.
        pub(in crate::cli) fn start(&self, books: &Books, monitor: &Monitor) {
            let Some(settings) = self.settings.clone() else { return };
            let (store, settings): (Arc<dyn Store>, _) = match books {
                // One process has the directory, so it has all partitions.
                Books::Ledger(ledger) => (Arc::new(LedgerStore::new(ledger)), settings.alone()),
                #[cfg(feature = "postgres")]
                Books::Postgres(store) => (store.clone(), settings),
            };
            let metrics = Metrics::default();
            monitor.register(|registry| metrics.register(registry));
            match Consumer::start(settings, store, Arc::new(decode), metrics, &Handle::current()) {
                Ok(started) => {
                    let consumer = self.consumer.clone();
                    *consumer.lock() = Some(started);
                    monitor.watch(KAFKA, move || match &*consumer.lock() {
                        Some(consumer) => consumer.status().not_ready(),
                        None => Some("it has ended".to_owned()),
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "no events are consumed");
                    let why = error.to_string();
                    monitor.watch(KAFKA, move || Some(why.clone()));
                }
            }
        }

        /// Ends the consumer, if there is one.
        pub(in crate::cli) async fn stop(&self) {
            let consumer = self.consumer.lock().take();
            if let Some(consumer) = consumer
                && timeout(END, consumer.stop()).await.is_err()
            {
                tracing::warn!("the consumer did not end within {END:?}");
            }
        }
    }
}

#[cfg(not(feature = "kafka"))]
mod without_kafka {
    use crate::cli::exit::Failure;
    use crate::config::Config;
    use crate::grpc::Books;
    use crate::monitor::Monitor;

    /// No consumer: this program was built without.
    pub(in crate::cli) struct Consuming;

    impl Consuming {
        /// Refuses to start a service that would not do what it was asked to.
        pub(in crate::cli) fn new(config: &Config) -> Result<Self, Failure> {
            if config.kafka.contains_key(super::BROKERS) {
                let what = format!("{} is set, but this program was built without the feature kafka", super::BROKERS);
                return Err(Failure::Usage(what));
            }
            Ok(Consuming)
        }

        pub(in crate::cli) fn start(&self, _: &Books, _: &Monitor) {}

        pub(in crate::cli) async fn stop(&self) {}
    }
}
