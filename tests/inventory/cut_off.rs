//! Case A18: an instance that one of its servers cannot be reached from any more.

use crate::line::{Line, State};
use crate::pair::{ASKED, Pair};
use crate::servers::{Server, fresh_database, shared_broker};
use crate::state::offsets;
use crate::topic::Topic;

const BROKER: u16 = 28194;
/// Where the broker listens for the instance that is cut off, and where it says that it listens.
const BEHIND_LINE: u16 = 28198;
const LINE: u16 = 28199;

/// Each way to be cut off, once.
const CUTS: [State; 2] = [State::Silent, State::Broken];

/// A broker that sends those who come over a line back to the line.
fn broker() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let (plain, controller) = (at("PLAINTEXT", BROKER), at("CONTROLLER", BROKER + 1));
    let lines = [
        format!("listeners={plain},{controller},{}", at("LINE", BEHIND_LINE)),
        format!("advertised.listeners={plain},{}", at("LINE", LINE)),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LINE:PLAINTEXT".to_owned(),
    ];
    let properties = folder.path().join("broker.properties");
    std::fs::write(&properties, lines.join("\n")).unwrap();
    Server::broker_with(BROKER, &properties, "")
}

/// D5, A11: cut off from the brokers, it loses its partitions to the other one, and what it answers is not from before; then it
/// comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_without_brokers_is_replaced() {
    let (broker, url) = (broker(), fresh_database("no_brokers").await);
    let line = Line::new(LINE, BEHIND_LINE).await;
    let topic = Topic::create(&broker.address, "no-brokers").await;
    let over_line = format!("127.0.0.1:{}", line.port);
    let ways = [(over_line.as_str(), url.as_str()), (&broker.address, &url)];
    let pair = Pair::start("no-brokers", topic, &url, ways).await;
    for cut in CUTS {
        line.becomes(cut);
        pair.has_all(1).await;
        let before = offsets(&pair.database, &pair.topic).await;
        pair.until("every partition goes on", async || {
            let now = offsets(&pair.database, &pair.topic).await;
            now.iter().zip(&before).all(|(now, before)| now > before)
        })
        .await;
        assert_eq!(pair.told(0, pair.committed().await).await, ASKED, "the database is there");
        line.becomes(State::Whole);
        assert_eq!(pair.told(0, pair.committed().await).await, ASKED, "the database is there");
        pair.works(0).await;
    }
    pair.end(CUTS.len() as i64).await;
}

/// D5, D6, A11: cut off from the database, it keeps its partitions and says why they wait; what it answers, if anything, is not
/// from before; then it goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_without_a_database_waits() {
    let (brokers, url) = (shared_broker(), fresh_database("no_database").await);
    let (address, name) = url.rsplit_once('/').unwrap();
    let (host, server) = address.rsplit_once(':').unwrap();
    let line = Line::new(0, server.parse().unwrap()).await;
    let over_line = format!("{host}:{}/{name}", line.port);
    let topic = Topic::create(&brokers, "no-database").await;
    let pair = Pair::start("no-database", topic, &url, [(&brokers, &over_line), (&brokers, &url)]).await;
    for cut in CUTS {
        line.becomes(cut);
        pair.until("it says so", async || pair.instances[0].told("/readyz").1.contains("PostgreSQL")).await;
        let before = pair.applied(1);
        pair.until("the other one goes on", async || pair.applied(1) > before).await;
        assert_eq!(pair.told(0, pair.committed().await.split_off(ASKED - 2)).await, 0, "the database is away");
        line.becomes(State::Whole);
        pair.works(0).await;
        assert_eq!(pair.told(0, pair.committed().await).await, ASKED);
    }
    pair.end(CUTS.len() as i64).await;
}
