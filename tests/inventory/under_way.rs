//! Two batches of one consumer are with PostgreSQL, and the first one fails: the second was decided on what the first would have made.

use std::sync::Arc;
use std::time::Duration;

use equipoise::inventory::{Applied, Position, Run, Store, StoreError, StoredDeadLetter};
use equipoise::kafka::{Consumer, Metrics, decode};
use equipoise::postgres::{PgStore, Settings};
use equipoise::{AccountId, Operation, Request, TransactionId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::events::Events;
use crate::model::{Model, everything_once, replay};
use crate::proxy::{Proxy, Trouble};
use crate::servers::{fresh_database, shared_broker};
use crate::service::SOON;
use crate::state::{State, connect, consumed};
use crate::topic::Topic;

const PRODUCTS: u64 = 20;
const EVENTS: u64 = 60_000;

/// Counts how many calls are with a store, and what became of them.
struct Watched {
    store: PgStore,
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    now: usize,
    /// Calls that were given to the store while it was at another.
    behind: usize,
    /// Calls that failed while another was behind them.
    failed_before: usize,
}

#[tonic::async_trait]
impl Store for Watched {
    async fn take_over(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, StoreError> {
        self.store.take_over(topic, partitions).await
    }

    fn at_once(&self) -> usize {
        self.store.at_once()
    }

    async fn apply(&self, topic: &str, runs: &[Run]) -> Result<Applied, StoreError> {
        {
            let mut seen = self.seen.lock();
            seen.behind += usize::from(seen.now > 0);
            seen.now += 1;
        }
        let answer = self.store.apply(topic, runs).await;
        let mut seen = self.seen.lock();
        seen.failed_before += usize::from(seen.now > 1 && answer.is_err());
        seen.now -= 1;
        answer
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        self.store.dead_letters(limit).await
    }

    async fn published(&self, numbers: &[i64]) -> Result<(), StoreError> {
        self.store.published(numbers).await
    }
}

/// A topic full of events, and the database that they go into.
struct Trial {
    brokers: String,
    topic: Topic,
    url: String,
}

impl Trial {
    async fn new(name: &'static str) -> Self {
        let (brokers, url) = (shared_broker(), fresh_database(name).await);
        let topic = Topic::create(&brokers, name).await;
        let (producer, mut events) = (topic.producer(), Events::new(name, PRODUCTS, 11));
        for _ in 0..EVENTS {
            let (key, value) = events.next();
            producer.send(None, &key, value.as_bytes());
        }
        producer.flush();
        Trial { brokers, topic, url }
    }

    /// Consumes everything by `url` while `trouble` goes on, which ends when everything is consumed.
    async fn consume(&self, url: &str, trouble: impl Future<Output = ()>) -> (Seen, Metrics) {
        let mut settings = Settings::new(url);
        // Too little for most faults, so that the consumer hears of them.
        settings.patience = Duration::from_millis(30);
        let store = PgStore::connect(&settings).await.unwrap();
        let watched = Arc::new(Watched { store, seen: Mutex::default() });
        let metrics = Metrics::default();
        let name = &self.topic.name;
        let variables = [("KAFKA_BROKERS", &self.brokers), ("KAFKA_TOPIC", name), ("KAFKA_GROUP_ID", name)];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.clone()));
        let kafka = equipoise::kafka::Settings::from_variables(variables).unwrap();
        let consumer =
            Consumer::start(kafka, watched.clone(), Arc::new(decode), metrics.clone(), &Handle::current()).unwrap();
        let client = connect(&self.url).await;
        tokio::select! {
            () = consumed(&client, &self.topic, 2 * SOON) => {}
            () = trouble => panic!("the trouble ended before its time"),
        }
        let status = consumer.status();
        assert_eq!(status.failed, None);
        consumer.stop().await;
        watched.store.close().await;
        let seen = *watched.seen.lock();
        println!(
            "{name}: {seen:?}, {} asked again, {} decided again",
            metrics.apply_retries.get(),
            metrics.redecided.get()
        );
        assert!(seen.behind > 0, "never two under way: {seen:?}");
        (seen, metrics)
    }

    async fn state(&self) -> State {
        State::read(&connect(&self.url).await, &self.topic).await
    }

    /// D3, D4: every event once, offsets to the end, the journal dense.
    async fn compare(&self) {
        everything_once(&connect(&self.url).await, &self.topic).await;
    }
}

/// D3, D4, D6: connections break at commits, heard or not, so often that the consumer is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_two_is_cut_off() {
    let trial = Trial::new("cut").await;
    let proxy = Proxy::before(&trial.url).await;
    let cutting = async {
        for trouble in [Trouble::CutBefore, Trouble::CutAfter].into_iter().cycle() {
            let until = proxy.troubled() + 4;
            proxy.plan(trouble, 1);
            while proxy.troubled() < until {
                sleep(Duration::from_millis(1)).await;
            }
            proxy.plan(Trouble::None, 1);
            sleep(Duration::from_millis(100)).await;
        }
    };
    let (seen, metrics) = trial.consume(&proxy.url, cutting).await;
    assert!(seen.failed_before > 0 && metrics.apply_retries.get() > 0, "{seen:?}");
    trial.compare().await;
}

/// D3, D4, D6: PostgreSQL cannot serialize, so often that the consumer is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_two_cannot_be_serialized() {
    let trial = Trial::new("serialize").await;
    PgStore::connect(&Settings::new(&trial.url)).await.unwrap().close().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF random() < 0.5 THEN RAISE EXCEPTION 'not now' USING ERRCODE = 'serialization_failure'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER refuse AFTER INSERT ON processed_events FOR EACH STATEMENT EXECUTE FUNCTION refuse()";
    connect(&trial.url).await.batch_execute(refuse).await.unwrap();
    let (seen, metrics) = trial.consume(&trial.url, std::future::pending()).await;
    assert!(seen.failed_before > 0 && metrics.apply_retries.get() > 0, "{seen:?}");
    trial.compare().await;
}

/// D2, D3: another instance changes the same products all the time, so what was decided on them is decided again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_two_meets_another_instance() {
    let trial = Trial::new("conflict").await;
    let other = PgStore::connect(&Settings::new(&trial.url)).await.unwrap();
    let product = |number: u64| AccountId::new(&format!("p{}", number % PRODUCTS)).unwrap();
    for number in 0..PRODUCTS {
        other.submit(Request::single(Operation::create(product(number), 0).unwrap(), None)).await.unwrap();
    }
    let calling = async {
        let mut calls = 0_u64;
        loop {
            calls += 1;
            let id = TransactionId::new(&format!("call-{calls}")).unwrap();
            other.submit(Request::single(Operation::update(product(calls), 1), Some(id))).await.unwrap();
        }
    };
    let (_, metrics) = trial.consume(&trial.url, calling).await;
    assert!(metrics.redecided.get() > 0);
    other.close().await;
    let state = trial.state().await;
    replay(&state);
    assert_eq!(state.offsets, trial.topic.ends());
    let decided = state.processed.keys().filter(|id| !id.starts_with("call-")).count();
    assert_eq!(decided, Model::of(&trial.topic).processed(), "every event has an outcome");
}
