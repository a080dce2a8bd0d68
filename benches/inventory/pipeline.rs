//! The store, as the service uses it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use equipoise::inventory::{Applied, Content, DeadLetter, Event, Position, Record, Run, Store as _};
use equipoise::postgres::{PgStore, Settings};
use equipoise::{AccountId, TransactionId};

use crate::events::{event_id, product};

const TOPIC: &str = "inventory-events";

/// Numbers of events that nobody measures.
const WARMING: u64 = 1 << 40;

pub async fn connect(settings: &Settings) -> PgStore {
    PgStore::connect(settings).await.expect("a store")
}

/// Consumes one partition: while one run is with the store the next one is put together and sent after it, as the service does.
pub struct Pipeline {
    store: Arc<PgStore>,
    at: Position,
    under_way: Option<(usize, Applying)>,
}

type Applying = Pin<Box<dyn Future<Output = Applied> + Send>>;

impl Pipeline {
    pub async fn new(store: PgStore) -> Self {
        let at = store.take_over(TOPIC, &[0]).await.expect("a partition")[0];
        let mut pipeline = Pipeline { store: Arc::new(store), at, under_way: None };
        // At first it looks every id up, until it has seen that there are no duplicates.
        let mut numbers = WARMING;
        for _ in 0..200 {
            pipeline.apply(10, &mut numbers).await;
        }
        pipeline.settle().await;
        pipeline
    }

    pub async fn apply(&mut self, size: usize, numbers: &mut u64) {
        let run = made(self.at.epoch, self.at.next, size, numbers);
        self.at.next = Some(run.next);
        let store = self.store.clone();
        let mut applying: Applying = Box::pin(async move { store.apply(TOPIC, &[run]).await.expect("applied") });
        // Its place is that of its first poll; what is left is to wait for the answer.
        let answered = poll_fn(|context| Poll::Ready(applying.as_mut().poll(context).is_ready())).await;
        assert!(!answered, "nothing is durable at once");
        let before = self.under_way.replace((size, applying));
        applied(before).await;
    }

    pub async fn settle(&mut self) {
        applied(self.under_way.take()).await;
    }

    pub async fn close(self) {
        self.store.close().await;
    }
}

async fn applied(under_way: Option<(usize, Applying)>) {
    if let Some((size, applying)) = under_way {
        assert_eq!(applying.await.applied, size as u64);
    }
}

/// So many new events, from an offset on.
fn made(epoch: i64, from: Option<i64>, size: usize, numbers: &mut u64) -> Run {
    let first = from.unwrap_or(0);
    let records = (first..).take(size).map(|offset| {
        *numbers += 1;
        let original = DeadLetter {
            topic: TOPIC.to_owned(),
            partition: 0,
            offset,
            timestamp: None,
            key: None,
            value: None,
            headers: Vec::new(),
            reason: String::new(),
        };
        let event = Event {
            id: TransactionId::new(&event_id(*numbers)).expect("valid"),
            product: AccountId::new(&product(*numbers)).expect("valid"),
            quantity_change: 1,
        };
        Record { offset, content: Content::Event { event, original: Arc::new(original) } }
    });
    let next = first + size as i64;
    Run { partition: 0, epoch, from, next, fingerprint: next, records: records.collect() }
}
