//! Case A18: an instance that was asleep while others took over.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use crate::client::balance;
use crate::events::{Events, Load};
use crate::instance::{SESSION, serve};
use crate::model::everything_once;
use crate::pair::{ASKED, Pair};
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
            sleep(Duration::from_secs(2)).await;
            sleeper.signal("STOP");
            sleep(SESSION + Duration::from_secs(4)).await;
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

/// D5, A11: it falls asleep within a transaction, which waits for a row that somebody else has locked, and which the database goes on
/// with, or gives up, while the other instance takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_leaves_a_transaction_behind() {
    let (brokers, url) = (shared_broker(), fresh_database("waiting").await);
    let topic = Topic::create(&brokers, "waiting").await;
    let locker = connect(&url).await;
    // PostgreSQL tells who waits by the role.
    let roles = [0, 1].map(|instance| format!("sleeper_{}_{instance}", std::process::id()));
    for role in &roles {
        locker.batch_execute(&format!("CREATE ROLE {role} SUPERUSER LOGIN")).await.unwrap();
    }
    let urls = [0, 1].map(|instance| url.replace("//postgres@", &format!("//{}@", roles[instance])));
    let pair = Pair::start("waiting", topic, &url, [(&brokers, &urls[0]), (&brokers, &urls[1])]).await;
    // The row is free again as soon as it sleeps, or when the other one has everything.
    for until_replaced in [false, true] {
        let asleep = asleep_within_a_transaction(&pair, &locker, &roles).await;
        if !until_replaced {
            locker.batch_execute("ROLLBACK").await.unwrap();
        }
        pair.has_all(1 - asleep).await;
        if until_replaced {
            locker.batch_execute("ROLLBACK").await.unwrap();
        }
        let committed = pair.committed().await;
        pair.instances[asleep].signal("CONT");
        assert_eq!(pair.told(asleep, committed).await, ASKED);
        pair.works(asleep).await;
    }
    pair.end(2).await;
    for role in &roles {
        locker
            .batch_execute(&format!("REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}"))
            .await
            .unwrap();
    }
}

/// Puts an instance to sleep while its transaction waits for a row that `locker` has locked, and keeps locked; which one.
async fn asleep_within_a_transaction(pair: &Pair, locker: &Client, roles: &[String; 2]) -> usize {
    let pid: i32 = locker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let waiting = async || {
        let query = "SELECT usename::text FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
        let rows = pair.database.query(query, &[&pid]).await.unwrap();
        (0..2).find(|instance| rows.iter().any(|row| row.get::<_, &str>(0) == roles[*instance]))
    };
    let until = Instant::now() + SOON;
    loop {
        locker.batch_execute("BEGIN; SELECT FROM products WHERE sku = 'p7' FOR UPDATE").await.unwrap();
        // It waits once, for a second, and from then on does without what needs the row; and at first there may be no row.
        let locked = Instant::now();
        while locked.elapsed() < Duration::from_secs(3) {
            if let Some(instance) = waiting().await {
                pair.instances[instance].signal("STOP");
                if waiting().await == Some(instance) {
                    return instance;
                }
                pair.instances[instance].signal("CONT");
            }
            sleep(Duration::from_millis(2)).await;
        }
        locker.batch_execute("ROLLBACK").await.unwrap();
        assert!(Instant::now() < until, "no transaction waits for the row");
    }
}

/// D5, A11: both sleep until the group has forgotten them, and wake up at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sleep_at_once() {
    let (brokers, url) = (shared_broker(), fresh_database("both").await);
    let topic = Topic::create(&brokers, "both").await;
    let pair = Pair::start("both", topic, &url, [(&brokers, &url); 2]).await;
    for _ in 0..2 {
        pair.instances.iter().for_each(|sleeper| sleeper.signal("STOP"));
        let until = Instant::now() + SOON;
        while pair.topic.members() > 0 {
            assert!(Instant::now() < until, "the group has not forgotten them");
            sleep(Duration::from_millis(100)).await;
        }
        let committed = pair.committed().await;
        pair.instances.iter().for_each(|sleeper| sleeper.signal("CONT"));
        for instance in [0, 1] {
            assert_eq!(pair.told(instance, committed.clone()).await, ASKED);
        }
        pair.works(0).await;
        pair.works(1).await;
    }
    pair.end(2).await;
}

/// D5: the partitions of an instance that died are consumed again soon after the group's session has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_living_take_over_from_the_dead() {
    let (brokers, url) = (shared_broker(), fresh_database("takeover").await);
    let topic = Topic::create(&brokers, "takeover").await;
    let start = || Service::start(&mut serve(&brokers, &topic, &url));
    let (dying, living) = (start(), start());
    let load = Load::start(topic.producer(), Events::new("takeover", 50, 4), 500, true);
    sleep(Duration::from_secs(4)).await;
    let database = connect(&url).await;
    dying.kill();
    let killed = Instant::now();
    let before = crate::state::offsets(&database, &topic).await;
    loop {
        let now = crate::state::offsets(&database, &topic).await;
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            break;
        }
        assert!(killed.elapsed() < SOON, "{now:?} after {before:?}");
        sleep(Duration::from_millis(20)).await;
    }
    println!("every partition went on {:?} after the kill, the session being {SESSION:?}", killed.elapsed());
    load.end();
    consumed(&database, &topic, SOON).await;
    everything_once(&database, &topic).await;
    living.stop();
}
