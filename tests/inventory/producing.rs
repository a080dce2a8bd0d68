//! How `equipoise produce` ends when it is interrupted, or its records are refused.

use std::collections::BTreeMap;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use serde_json::Value;

use crate::servers::shared_broker;
use crate::service::{SOON, interruptible, signal};
use crate::topic::Topic;

fn produce(brokers: &str, topic: &str, more: &[&str]) -> Command {
    let arguments = ["produce", "--json", "--brokers", brokers, "--topic", topic];
    let mut command = interruptible(&[&arguments, more].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Its exit code, and the only object on stdout and on stderr.
fn end(mut child: Child) -> (Option<i32>, Value, Value) {
    let until = Instant::now() + SOON;
    while child.try_wait().unwrap().is_none() && Instant::now() < until {
        sleep(Duration::from_millis(10));
    }
    // It may have ended already.
    let _ = child.kill();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let [told, said] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    let object = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {told:?} {said:?}"));
    (status.code(), object(&told), object(&said)["error"].take())
}

/// D6: whoever ends it early is told what arrived, and with which seed the same comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_can_be_made_again() {
    for name in ["INT", "TERM"] {
        let topic = Topic::create(&shared_broker(), &format!("interrupted-{name}")).await;
        let child = produce(&shared_broker(), &topic.name, &["--events=1000000", "--rate=500"]).spawn().unwrap();
        let until = Instant::now() + SOON;
        while topic.ends().iter().sum::<i64>() < 50 {
            assert!(Instant::now() < until, "nothing is sent");
            sleep(Duration::from_millis(50));
        }
        signal(child.id(), name);
        let (code, told, error) = end(child);
        assert_eq!(code, Some(130), "{told} {error}");
        let arrived = topic.ends().iter().sum::<i64>();
        assert_eq!(told["acknowledged"].as_i64(), Some(arrived), "{told}");
        let seed = told["seed"].as_u64().unwrap();
        assert_eq!(error["code"], "CANCELLED", "{error}");
        let text = error["message"].as_str().unwrap();
        assert!(text.contains(&format!("{arrived} of 1000000")) && text.contains(&format!("--seed {seed} ")), "{text}");

        let again =
            produce(&shared_broker(), &topic.name, &[&format!("--events={arrived}"), &format!("--seed={seed}")])
                .output()
                .unwrap();
        assert!(again.status.success(), "{again:?}");
        let mut seen = BTreeMap::<_, u32>::new();
        for record in topic.read(&topic.name).into_iter().flatten() {
            *seen.entry((record.key().map(<[u8]>::to_vec), record.payload().map(<[u8]>::to_vec))).or_default() += 1;
        }
        assert!(seen.values().all(|count| count % 2 == 0), "the second run sent something else");
    }
}

/// D6: brokers that take nothing hold up no end: neither a full queue nor what is on its way.
#[test]
fn an_interrupt_waits_for_no_broker() {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("held-up", 1, 1).unwrap();
    let little_room = ["-X", "queue.buffering.max.messages=100"];
    let arguments = [&["--events=1000000"][..], &little_room].concat();
    let child = produce(&brokers.bootstrap_servers(), "held-up", &arguments).spawn().unwrap();
    let reader: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers.bootstrap_servers()).create().unwrap();
    let until = Instant::now() + SOON;
    while reader.fetch_watermarks("held-up", 0, SOON).unwrap().1 == 0 {
        assert!(Instant::now() < until, "nothing is sent");
        sleep(Duration::from_millis(10));
    }
    brokers.broker_round_trip_time(1, Duration::from_secs(600)).unwrap();
    sleep(Duration::from_secs(2));
    let asked = Instant::now();
    signal(child.id(), "INT");
    let (code, told, error) = end(child);
    assert_eq!(code, Some(130), "{told} {error}");
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(told["acknowledged"].as_u64() < told["records"].as_u64(), "{told}");
}

/// D6: so is whoever is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_fails_tells_its_seed() {
    let topic = Topic::create(&shared_broker(), "unwanted").await;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", shared_broker()).create().unwrap();
    let small = AlterConfig::new(ResourceSpecifier::Topic(&topic.name)).set("max.message.bytes", "1");
    admin.alter_configs(&[small], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let until = Instant::now() + SOON;
    let described = async || {
        let topics = [ResourceSpecifier::Topic(&topic.name)];
        let topic = admin.describe_configs(&topics, &AdminOptions::new()).await.unwrap().remove(0).unwrap();
        topic.get("max.message.bytes").and_then(|entry| entry.value.clone())
    };
    // The controller tells the broker in its own time.
    while described().await.as_deref() != Some("1") {
        assert!(Instant::now() < until, "larger messages are taken still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, told, error) = end(produce(&shared_broker(), &topic.name, &["--events=10"]).spawn().unwrap());
    assert_eq!((code, &error["code"]), (Some(3), &Value::from("UNAVAILABLE")), "{told} {error}");
    assert_eq!(told["acknowledged"], 0, "{told}");
    assert!(told["seed"].is_u64(), "{told}");
}
