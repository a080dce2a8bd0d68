//! From produce to visible row: events at a steady rate through Kafka into PostgreSQL, and how long a second reader has to look until it
//! finds them. `cargo bench --bench latency --features full`, with the servers of scripts/servers.sh or scripts/test.sh in
//! `TEST_KAFKA` and `TEST_POSTGRES`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::kafka::{Consumer, Metrics, Settings, decode};
use equipoise::postgres::PgStore;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio_postgres::NoTls;

/// The service's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PER_SECOND: u32 = 1_000;
const SECONDS: u32 = 20;
/// One event in so many is looked for.
const SAMPLED: u32 = 20;
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(1);
const PARTITIONS: i32 = 8;

fn main() {
    let servers = ["TEST_KAFKA", "TEST_POSTGRES"].map(std::env::var);
    let [Ok(brokers), Ok(server)] = servers else {
        // `cargo test --benches` comes by here as well.
        println!("TEST_KAFKA or TEST_POSTGRES is not set: nothing is measured");
        return;
    };
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&brokers, &server));
}

async fn measure(brokers: &str, server: &str) {
    let name = format!("equipoise_latency_{}", std::process::id());
    let admin = client(server).await;
    admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
    let url = format!("{}/{name}", &server[..server.rfind('/').expect("a URL with a database")]);
    create_topic(brokers, &name).await;
    let store = Arc::new(PgStore::connect(&equipoise::postgres::Settings::new(&url)).await.expect("a store"));
    let variables = [("KAFKA_BROKERS", brokers), ("KAFKA_TOPIC", &name), ("KAFKA_GROUP_ID", &name)];
    let settings = Settings::from_variables(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
    let handle = tokio::runtime::Handle::current();
    let consumer =
        Consumer::start(settings.expect("settings"), store.clone(), Arc::new(decode), Metrics::default(), &handle);
    let consumer = consumer.expect("a consumer");
    while consumer.status().not_ready().is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reader = Arc::new(client(&url).await);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("linger.ms", "0");
    let producer: BaseProducer = config.create().expect("a producer");
    let (started, mut looking) = (Instant::now(), Vec::new());
    for number in 0..PER_SECOND * SECONDS {
        tokio::time::sleep_until((started + Duration::from_secs(1) * number / PER_SECOND).into()).await;
        let (id, product) = (format!("e{number}"), format!("p{}", number % 500));
        let event = format!(r#"{{"event_id":"{id}","product_id":"{product}","quantity_change":1}}"#);
        let record = BaseRecord::to(&name).key(&product).payload(&event);
        producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
        producer.poll(Duration::ZERO);
        if number % SAMPLED == 0 {
            looking.push(tokio::spawn(seen(reader.clone(), id, Instant::now())));
        }
    }
    producer.flush(Duration::from_secs(10)).expect("it is sent");
    let mut took = Vec::new();
    for look in looking {
        took.push(look.await.expect("it is seen"));
    }
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{PER_SECOND} events/s for {SECONDS} s: visible after {:.1?} at the median, {:.1?} at the 99th percentile, {:.1?} at most ({} looked for)",
        at(0.5),
        at(0.99),
        at(1.0),
        took.len()
    );
    consumer.stop().await;
    store.close().await;
    drop((reader, store));
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.expect("dropped");
}

/// How long after `sent` the event is in the table.
async fn seen(reader: Arc<tokio_postgres::Client>, id: String, sent: Instant) -> Duration {
    let query = "SELECT 1 FROM processed_events WHERE event_id = $1";
    while reader.query_opt(query, &[&id]).await.expect("an answer").is_none() {
        tokio::time::sleep(LOOK).await;
    }
    sent.elapsed()
}

async fn create_topic(brokers: &str, name: &str) {
    let mut config = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        config.set("bootstrap.servers", brokers).create().expect("an admin client");
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
    for result in admin.create_topics(&[topic], &AdminOptions::new()).await.expect("an answer") {
        result.expect("a topic");
    }
}

async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}
