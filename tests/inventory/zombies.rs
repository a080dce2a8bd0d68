//! Case A18: an instance that was asleep while others took over.

use std::time::Duration;

use crate::client::balance;
use crate::events::{Events, Load};
use crate::instance::{SESSION, serve};
use crate::model::everything_once;
use crate::servers::{PARTITIONS, fresh_database, shared_broker};
use crate::service::{SOON, Service};
use crate::state::{connect, consumed};
use crate::topic::Topic;

/// As many times as each of two instances is put to sleep; a round takes 24 s.
fn rounds() -> i64 {
    std::env::var("EQUIPOISE_INVENTORY_SLEEPS").map_or(1, |rounds| rounds.parse().expect("a number"))
}

/// D5, A11: what it did before it fell asleep counts once or not at all, what it answers afterwards is not older than what
/// others committed meanwhile, and it takes only what it is assigned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_changes_nothing_and_tells_nothing_old() {
    let (brokers, url) = (shared_broker(), fresh_database("zombies").await);
    let topic = Topic::create(&brokers, "zombies").await;
    let start = || Service::start(&mut serve(&brokers, &topic, &url));
    let instances = [start(), start()];
    let load = Load::start(topic.producer(), Events::new("zombies", 200, 18), 1_000, true);
    let database = connect(&url).await;
    let rounds = rounds();
    for _ in 0..rounds {
        for sleeper in &instances {
            let client = sleeper.client().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            sleeper.signal("STOP");
            tokio::time::sleep(SESSION + Duration::from_secs(4)).await;
            let query = "SELECT sku, version FROM products ORDER BY random() LIMIT 20";
            let committed = database.query(query, &[]).await.unwrap();
            sleeper.signal("CONT");
            for row in committed {
                let (sku, version): (String, i64) = (row.get(0), row.get(1));
                let told = balance(&client, &sku).await.unwrap();
                assert!(i64::try_from(told.version).unwrap() >= version, "{sku}: {told:?} after version {version}");
            }
        }
    }
    load.end();
    consumed(&database, &topic, 2 * SOON).await;
    everything_once(&database, &topic).await;
    // Two members join; then each sleep costs its partitions, and each awakening some of them.
    let epochs = "SELECT max(epoch) FROM consumer_offsets WHERE topic = $1";
    let epochs: i64 = database.query_one(epochs, &[&topic.name]).await.unwrap().get(0);
    println!("epochs up to {epochs}, {PARTITIONS} partitions");
    assert!(epochs <= 4 + 2 * rounds * 4, "a duel: {epochs}");
    for instance in instances {
        instance.stop();
    }
}

/// D5: the partitions of an instance that died are consumed again soon after the group's session has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_living_take_over_from_the_dead() {
    let (brokers, url) = (shared_broker(), fresh_database("takeover").await);
    let topic = Topic::create(&brokers, "takeover").await;
    let start = || Service::start(&mut serve(&brokers, &topic, &url));
    let (dying, living) = (start(), start());
    let load = Load::start(topic.producer(), Events::new("takeover", 50, 4), 500, true);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let database = connect(&url).await;
    dying.kill();
    let killed = std::time::Instant::now();
    let before = crate::state::offsets(&database, &topic).await;
    loop {
        let now = crate::state::offsets(&database, &topic).await;
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            break;
        }
        assert!(killed.elapsed() < SOON, "{now:?} after {before:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("every partition went on {:?} after the kill, the session being {SESSION:?}", killed.elapsed());
    load.end();
    consumed(&database, &topic, SOON).await;
    everything_once(&database, &topic).await;
    living.stop();
}
