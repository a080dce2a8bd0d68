//! Dead letters that are sent back.

use std::process::Command;
use std::sync::Arc;

use rdkafka::message::{Header, OwnedHeaders};

use crate::broker::{self, Topic, Writer};
use crate::service::{Service, settings};
use crate::store::Memory;

/// Sends letters back; the lines that it prints, one a letter.
fn redrive(topic: &Topic, which: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
    command.args(["dead-letters", "redrive", which, "--json", "--brokers", broker::address(), "--topic", &topic.name]);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// D6: a letter that comes back, since it still is no event, is not sent once more beside its copy: what stays bad does not multiply.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_bad_does_not_multiply() {
    let topic = Topic::new("redriven", 1).await;
    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    let writer = Writer::new(&[]);
    for value in ["bad", "worse"] {
        let headers = OwnedHeaders::new().insert(Header { key: "of", value: Some("ours") });
        writer.record(&topic.name, 0, Some(b"key"), Some(value.as_bytes()), headers);
    }
    writer.flush();
    for round in 1..4 {
        service.until("the letters", |it| it.metrics.dead_letters_published.get() == 2 * round).await;
        let sent = redrive(&topic, "--all");
        assert_eq!(sent.len(), 2, "round {round}: {sent:?}");
    }
    service.until("the last letters", |it| it.metrics.dead_letters_published.get() == 8).await;
    // Whoever names a letter means it.
    assert_eq!(redrive(&topic, "0:0").len(), 1);
    service.until("one more", |it| it.metrics.dead_letters_published.get() == 9).await;
    let letters = broker::read(&topic.dead_letters(), 9);
    assert!(letters.iter().all(|it| broker::header(it, "of").as_deref() == Some("ours")));
    let ways = letters.iter().map(|it| broker::header(it, "equipoise-redriven"));
    let ways: Vec<_> = ways.map(|way| way.map(|way| way.split('@').next().unwrap().to_owned())).collect();
    let expected = [None, None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), Some(0)];
    assert_eq!(ways, expected.map(|offset: Option<i64>| offset.map(|it| format!("{}/0:{it}", topic.name))));
    service.stop().await;
}
