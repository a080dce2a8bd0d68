//! Two instances that share a topic under load, of which one gets into trouble.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tonic::Code;

use crate::client::balance;
use crate::events::{Events, Load};
use crate::instance::serve;
use crate::model::everything_once;
use crate::servers::PARTITIONS;
use crate::service::{SOON, Service};
use crate::state::{connect, consumed, offsets};
use crate::topic::Topic;

/// By how much a partition's epoch may rise in a round: it goes, comes back, and once more on a machine that is busy.
const EPOCHS: i64 = 6;

/// All partitions.
const ALL: u64 = PARTITIONS.unsigned_abs() as u64;

/// How many products an instance is asked for.
pub const ASKED: usize = 20;

pub struct Pair {
    pub topic: Topic,
    pub database: Client,
    pub instances: [Service; 2],
    load: Load,
    /// The highest one before the trouble.
    epoch: i64,
}

/// A product, and its version when it was committed.
type Committed = Vec<(String, u64)>;

impl Pair {
    /// Each has its own way to the brokers and to the database, which is at `url`.
    pub async fn start(name: &'static str, topic: Topic, url: &str, ways: [(&str, &str); 2]) -> Self {
        let instances = ways.map(|(brokers, url)| Service::start(&mut serve(brokers, &topic, url)));
        let load = Load::start(topic.producer(), Events::new(name, 200, 18), 400, true);
        let database = connect(url).await;
        let mut pair = Pair { topic, database, instances, load, epoch: 0 };
        pair.works(0).await;
        pair.until("enough products", async || pair.committed().await.len() >= ASKED).await;
        pair.epoch = highest_epoch(&pair.database, &pair.topic).await;
        pair
    }

    /// How many partitions an instance consumes.
    pub fn consumes(&self, instance: usize) -> u64 {
        self.instances[instance].metric("equipoise_kafka_partitions")
    }

    /// How many events an instance has applied.
    pub fn applied(&self, instance: usize) -> u64 {
        self.instances[instance].metric("equipoise_kafka_applied_total")
    }

    pub async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let until = Instant::now() + SOON;
        while !is().await {
            // Not what the instances say: one of them may be asleep.
            assert!(
                Instant::now() < until,
                "in vain: {what}; offsets {:?}",
                offsets(&self.database, &self.topic).await
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the group has given everything to this one.
    pub async fn has_all(&self, instance: usize) {
        self.until("one consumes everything", async || self.consumes(instance) == ALL).await;
    }

    /// Waits until both share the partitions, none has two owners, and this one applies what comes.
    pub async fn works(&self, instance: usize) {
        self.until("both consume", async || {
            let [one, other] = [0, 1].map(|instance| self.consumes(instance));
            one > 0 && other > 0 && one + other == ALL
        })
        .await;
        let before = self.applied(instance);
        self.until("it applies events", async || self.applied(instance) > before).await;
        self.until("it is ready", async || self.instances[instance].told("/readyz").0.contains("200")).await;
    }

    /// Some products as they are now.
    pub async fn committed(&self) -> Committed {
        let query = "SELECT sku, version FROM products ORDER BY random() LIMIT $1";
        let rows = self.database.query(query, &[&(ASKED as i64)]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).collect()
    }

    /// A3, A11: what an instance says is not older than what was committed before; how often it says anything at all.
    pub async fn told(&self, instance: usize, committed: Committed) -> usize {
        let client = self.instances[instance].client().await;
        let mut answers = 0;
        for (sku, version) in committed {
            match balance(&client, &sku).await {
                Ok(told) => assert!(told.version >= version, "{sku}: {told:?} after version {version}"),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status}");
                    continue;
                }
            }
            answers += 1;
        }
        answers
    }

    /// D2 to D5: after so many rounds everything has its effect once, and no partition went to and fro.
    pub async fn end(self, rounds: i64) {
        let fenced = [0, 1].map(|instance| self.instances[instance].metric("equipoise_kafka_fenced_total"));
        let sent = self.load.end();
        consumed(&self.database, &self.topic, SOON).await;
        everything_once(&self.database, &self.topic).await;
        let risen = highest_epoch(&self.database, &self.topic).await - self.epoch;
        println!("{sent} records, epochs rose by up to {risen}, fenced {fenced:?}");
        assert!(risen <= rounds * EPOCHS, "a duel: epochs rose by {risen} in {rounds} rounds");
        for instance in self.instances {
            instance.stop();
        }
    }
}

async fn highest_epoch(database: &Client, topic: &Topic) -> i64 {
    let query = "SELECT max(epoch) FROM consumer_offsets WHERE topic = $1";
    database.query_one(query, &[&topic.name]).await.unwrap().get(0)
}
