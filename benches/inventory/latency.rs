//! From produce to visible row: events at a steady rate through Kafka into PostgreSQL, and how long a second reader has to look until it
//! finds them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::kafka::{Consumer, Metrics, Settings, decode};
use equipoise::postgres::PgStore;

use crate::servers::{Servers, client};
use crate::workload::{Latencies, at_most};

const PER_SECOND: u32 = 1_000;
/// One event in so many is looked for.
const SAMPLED: u32 = 20;
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(1);
/// What the 99th percentile should stay under.
const BOUND: Duration = Duration::from_millis(250);

pub async fn until_visible(servers: &Servers) {
    let seconds = crate::number("INVENTORY_SECONDS", 20);
    let name = format!("equipoise_latency_{}", std::process::id());
    let url = servers.create_database(&name).await;
    let sender = servers.create_topic(&name).await;
    let store = Arc::new(PgStore::connect(&equipoise::postgres::Settings::new(&url)).await.expect("a store"));
    let variables = [("KAFKA_BROKERS", &servers.brokers), ("KAFKA_TOPIC", &name), ("KAFKA_GROUP_ID", &name)];
    let settings = Settings::from_variables(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
    let handle = tokio::runtime::Handle::current();
    let consumer =
        Consumer::start(settings.expect("settings"), store.clone(), Arc::new(decode), Metrics::default(), &handle);
    let consumer = consumer.expect("a consumer");
    while consumer.status().not_ready().is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reader = Arc::new(client(&url).await);
    let (started, mut looking) = (Instant::now(), Vec::new());
    for number in 0..PER_SECOND * seconds {
        tokio::time::sleep_until((started + Duration::from_secs(1) * number / PER_SECOND).into()).await;
        let id = format!("e{number}");
        sender.send(&id, &format!("p{}", number % 500));
        if number % SAMPLED == 0 {
            looking.push(tokio::spawn(seen(reader.clone(), id, Instant::now())));
        }
    }
    sender.flush();
    let mut latencies = Latencies::default();
    for look in looking {
        latencies.record(look.await.expect("it is seen"));
    }
    let p99 = latencies.percentile(990);
    println!(
        "{PER_SECOND} events/s for {seconds} s, from produce to visible row: {:.1?} at the median, {p99:.1?} at the 99th percentile, {:.1?} \
         at most; the 99th percentile of {BOUND:?}: {}",
        latencies.percentile(500),
        latencies.longest(),
        at_most(p99.as_secs_f64() / BOUND.as_secs_f64(), 1.0)
    );
    consumer.stop().await;
    store.close().await;
    drop((reader, store));
    servers.drop_database(&name).await;
}

/// How long after `sent` the event is in the table.
async fn seen(reader: Arc<tokio_postgres::Client>, id: String, sent: Instant) -> Duration {
    let query = "SELECT 1 FROM processed_events WHERE event_id = $1";
    while reader.query_opt(query, &[&id]).await.expect("an answer").is_none() {
        tokio::time::sleep(LOOK).await;
    }
    sent.elapsed()
}
