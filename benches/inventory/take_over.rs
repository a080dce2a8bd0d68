//! Two instances share a topic's partitions, and one is killed: how soon the other one goes on with all of them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::servers::{Sender, Servers, client};
use crate::workload::at_most;

/// How soon the group notices that a member died.
const SESSION: Duration = Duration::from_secs(6);
/// How much later every partition should go on.
const GRACE: Duration = Duration::from_secs(2);
const PER_SECOND: u32 = 500;
const PRODUCTS: u64 = 50;
/// How long two instances consume before one is killed.
const TOGETHER: Duration = Duration::from_secs(4);
/// No wait is longer.
const SOON: Duration = Duration::from_secs(60);

pub async fn after_kills(servers: &Servers) {
    let name = format!("equipoise_take_over_{}", std::process::id());
    let url = servers.create_database(&name).await;
    let load = Load::start(servers.create_topic(&name).await);
    let reader = client(&url).await;
    let mut living = Instance::start(&servers.brokers, &name, &url);
    let mut worst = Duration::ZERO;
    for _ in 0..crate::number("INVENTORY_KILLS", 3) {
        let dying = std::mem::replace(&mut living, Instance::start(&servers.brokers, &name, &url));
        tokio::time::sleep(TOGETHER).await;
        drop(dying);
        let killed = Instant::now();
        let before = offsets(&reader).await;
        until(|| async {
            let now = offsets(&reader).await;
            now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before)
        })
        .await;
        let took = killed.elapsed();
        assert!(took > SESSION / 2, "the one that was killed had no partitions");
        println!("kill -9 of one of two instances: every partition goes on {took:.1?} later");
        worst = worst.max(took);
    }
    let sent = load.end();
    until(|| async { offsets(&reader).await.iter().sum::<i64>() == sent }).await;
    let query = "SELECT (SELECT count(*) FROM processed_events), (SELECT sum(current_stock)::bigint FROM products)";
    let row = reader.query_one(query, &[]).await.expect("an answer");
    assert_eq!([row.get::<_, i64>(0), row.get(1)], [sent, sent], "every event once");
    println!(
        "the longest take-over of session timeout + {GRACE:?} = {:?}: {}; of {sent} events none was lost and none counted twice",
        SESSION + GRACE,
        at_most(worst.as_secs_f64() / (SESSION + GRACE).as_secs_f64(), 1.0)
    );
    drop(living);
    drop(reader);
    servers.drop_database(&name).await;
}

/// The next offset of each partition.
async fn offsets(reader: &Client) -> Vec<i64> {
    let query = "SELECT coalesce(next_offset, 0) FROM consumer_offsets ORDER BY partition";
    reader.query(query, &[]).await.expect("an answer").iter().map(|row| row.get(0)).collect()
}

async fn until<F: Future<Output = bool>>(reached: impl Fn() -> F) {
    let began = Instant::now();
    while !reached().await {
        assert!(began.elapsed() < SOON, "not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The service in a process of its own; killed when it is dropped.
struct Instance(Child);

impl Instance {
    /// Starts it, and waits until it is ready.
    fn start(brokers: &str, name: &str, url: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("DATABASE_URL", url)
            .env("KAFKA_BROKERS", brokers)
            .env("KAFKA_TOPIC", name)
            .env("KAFKA_GROUP_ID", name)
            .env("KAFKA_SESSION_TIMEOUT_MS", SESSION.as_millis().to_string())
            .env("KAFKA_HEARTBEAT_INTERVAL_MS", "1000");
        let mut process = command.stderr(Stdio::piped()).spawn().expect("a process");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "ready"), "it ended before it was ready");
        thread::spawn(move || lines.for_each(drop));
        Instance(process)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // kill -9. It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends events at a steady rate until it is told to end.
struct Load {
    end: mpsc::Sender<()>,
    sending: thread::JoinHandle<i64>,
}

impl Load {
    fn start(sender: Sender) -> Self {
        let (end, ended) = mpsc::channel();
        let sending = thread::spawn(move || {
            let (mut sent, mut next) = (0_i64, Instant::now());
            while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
                sender.send(&format!("e{sent}"), &format!("p{}", sent.unsigned_abs() % PRODUCTS));
                sent += 1;
                next += Duration::from_secs(1) / PER_SECOND;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            sender.flush();
            sent
        });
        Load { end, sending }
    }

    /// How many it has sent.
    fn end(self) -> i64 {
        self.end.send(()).expect("it sends");
        self.sending.join().expect("it sends")
    }
}
