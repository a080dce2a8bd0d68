//! The broker and the database, and what a bench makes there.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio_postgres::{Client, NoTls};

/// Of a topic that a bench makes.
const PARTITIONS: i32 = 8;

pub struct Servers {
    pub brokers: String,
    /// URL of a database.
    database: String,
}

impl Servers {
    /// As `scripts/servers.sh` sets them.
    pub fn from_environment() -> Option<Self> {
        let variable = |name| std::env::var(name).ok();
        Some(Servers { brokers: variable("KAFKA_BROKERS")?, database: variable("DATABASE_URL")? })
    }

    /// A client of the database that is there already.
    pub async fn admin(&self) -> Client {
        client(&self.database).await
    }

    /// Makes a database, and returns its URL.
    pub async fn create_database(&self, name: &str) -> String {
        self.admin().await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let (server, _) = self.database.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{name}")
    }

    pub async fn drop_database(&self, name: &str) {
        self.admin().await.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.expect("dropped");
    }

    /// Makes a topic, and returns who sends to it.
    pub async fn create_topic(&self, name: &str) -> Sender {
        let mut config = ClientConfig::new();
        let admin: AdminClient<DefaultClientContext> =
            config.set("bootstrap.servers", &self.brokers).create().expect("an admin client");
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        for result in admin.create_topics(&[topic], &AdminOptions::new()).await.expect("an answer") {
            result.expect("a topic");
        }
        let producer = config.set("linger.ms", "0").set("enable.idempotence", "true").create().expect("a producer");
        Sender { producer, topic: name.to_owned() }
    }
}

pub async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

/// Sends events to a topic, without delay.
pub struct Sender {
    producer: BaseProducer,
    topic: String,
}

impl Sender {
    /// Sends an event that adds one to a product.
    pub fn send(&self, id: &str, product: &str) {
        let event = format!(r#"{{"event_id":"{id}","product_id":"{product}","quantity_change":1}}"#);
        let record = BaseRecord::to(&self.topic).key(product).payload(&event);
        self.producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
        self.producer.poll(std::time::Duration::ZERO);
    }

    /// Waits until the broker has everything.
    pub fn flush(&self) {
        self.producer.flush(std::time::Duration::from_secs(10)).expect("it is sent");
    }
}
