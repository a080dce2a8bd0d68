//! kill -9 of the consumers, of the broker and of PostgreSQL at random moments under load.

use std::time::Duration;

use crate::events::{Events, Load};
use crate::instance::serve;
use crate::model::everything_once;
use crate::servers::Server;
use crate::service::{SOON, Service};
use crate::state::{connect, consumed};
use crate::topic::Topic;

fn rounds() -> u64 {
    std::env::var("EQUIPOISE_INVENTORY_KILLS").map_or(6, |rounds| rounds.parse().expect("a number"))
}

/// D2 to D6, E6: whatever is killed, whenever: nothing is lost, nothing is applied twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments() {
    let (mut broker, mut database) = (Server::broker(28192), Server::database(28532));
    let topic = Topic::create(&broker.address, "kills").await;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into();
    let (brokers, url) = (broker.address.clone(), database.address.clone());
    let start = || Service::spawn(&mut serve(&brokers, &topic, &url));
    let mut instances = [start(), start()];
    let load = Load::start(topic.producer(), Events::new("kills", 50, seed), 1_000, true);
    let mut dice = seed;
    let mut roll = |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % below
    };
    for _ in 0..rounds() {
        tokio::time::sleep(Duration::from_millis(200 + roll(2_000))).await;
        match roll(8) {
            0 => {
                broker.kill();
                broker.start();
            }
            1 | 2 => {
                database.kill();
                tokio::time::sleep(Duration::from_millis(roll(500))).await;
                database.start();
            }
            victim => {
                let victim = &mut instances[usize::try_from(victim % 2).unwrap()];
                std::mem::replace(victim, start()).kill();
            }
        }
    }
    let sent = load.end();
    let client = connect(&url).await;
    consumed(&client, &topic, 2 * SOON).await;
    let state = everything_once(&client, &topic).await;
    println!("{sent} records, {} entries, {} ids", state.journal.len(), state.processed.len());
    for instance in instances {
        instance.stop();
    }
}
