//! A running consumer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::inventory::Store;

use super::apply;
use super::caught::watched;
use super::context::Context;
use super::dead_letter;
use super::metrics::Metrics;
use super::poll::Poller;
use super::record::Decode;
use super::settings::Settings;
use super::shared::Shared;
use super::status::Status;

/// How long a batch in flight may take at the end; together with [`LEAVING`] under five seconds.
const FINISHING: Duration = Duration::from_millis(1_500);

/// How long it may take to leave the group.
const LEAVING: Duration = Duration::from_secs(3);

/// Why there is no consumer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// librdkafka does not take the settings, all together.
    #[error("the Kafka client cannot be started: {0}")]
    Client(#[from] rdkafka::error::KafkaError),
    /// The system gives no thread.
    #[error("no thread for the Kafka client: {0}")]
    Thread(#[from] std::io::Error),
}

/// Consumes a topic into a [`Store`], and publishes its dead letters.
///
/// The store gets each record at least once, in the order of its partition, from the offset that the store names. The
/// consumer waits for brokers that are down and a store that is unavailable; what cannot go on until somebody
/// intervenes is in [`Consumer::status`]. A consumer dropped without [`Consumer::stop`] ends by itself soon after.
pub struct Consumer {
    shared: Arc<Shared>,
    stop_tasks: watch::Sender<bool>,
    stop_polling: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    polling: thread::JoinHandle<()>,
    polled: oneshot::Receiver<()>,
}

impl Consumer {
    /// Starts consuming. Returns at once; whether a broker can be reached is seen in [`Consumer::status`].
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        decode: Decode,
        metrics: Metrics,
        runtime: &Handle,
    ) -> Result<Self, StartError> {
        let config = settings.for_consumer();
        let shared = Arc::new(Shared::new(settings, store, decode, metrics));
        let consumer: BaseConsumer<Context> = config.create_with_context(Context(Arc::clone(&shared)))?;
        let publisher = dead_letter::Publisher::new(Arc::clone(&shared))?;
        let (stop_tasks, stop) = watch::channel(false);
        let (stop_polling, stopped) = watch::channel(false);
        let (polling_ended, polled) = oneshot::channel();
        let poller = Poller::new(Arc::clone(&shared), consumer, runtime.clone(), stopped);
        let witness = Arc::clone(&shared);
        let polling = thread::Builder::new().name("equipoise-kafka".to_owned()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| poller.run())).is_err() {
                witness.fail("the thread that consumes has panicked".to_owned());
            }
            // Nobody waits for it when the consumer was dropped.
            let _ = polling_ended.send(());
        })?;
        let applying = watched(Arc::clone(&shared), apply::run(Arc::clone(&shared), stop.clone()));
        let publishing = watched(Arc::clone(&shared), publisher.run(stop));
        let tasks = vec![runtime.spawn(applying), runtime.spawn(publishing)];
        Ok(Consumer { shared, stop_tasks, stop_polling, tasks, polling, polled })
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Stops: lets the batch in flight end, leaves the group, and joins the thread, within five seconds. Records that
    /// are not applied by then are consumed again by the next owner of their partitions.
    pub async fn stop(self) {
        let Consumer { shared: _, stop_tasks, stop_polling, tasks, polling, polled } = self;
        // Their receivers may have ended before.
        stop_tasks.send_replace(true);
        let until = tokio::time::Instant::now() + FINISHING;
        for mut task in tasks {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
            }
        }
        stop_polling.send_replace(true);
        match tokio::time::timeout(LEAVING, polled).await {
            // It has said its last word: nothing is waited for here.
            Ok(_) => drop(polling.join()),
            Err(_) => tracing::warn!("the Kafka client did not end in time, and is left behind"),
        }
    }
}
