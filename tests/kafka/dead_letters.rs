//! The way of dead letters to their topic.

use std::sync::Arc;
use std::time::Duration;

use equipoise::inventory::DeadLetter;
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};

use crate::broker::{Topic, Writer, read, text};
use crate::service::{Service, settings};
use crate::store::Memory;

/// Our headers of a published letter.
fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().filter(|header| header.key == name).last()?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}

/// A letter that another process left behind.
fn letter(topic: &Topic, offset: i64) -> DeadLetter {
    DeadLetter {
        topic: topic.name.clone(),
        partition: 0,
        offset,
        timestamp: None,
        key: None,
        value: None,
        headers: Vec::new(),
        reason: "left behind by another process".to_owned(),
    }
}

/// D6: key, value and headers as they came, with the origin and the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_published_untouched() {
    let topic = Topic::new("letters", 1).await;
    let writer = Writer::new(&[]);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header { key: "a", value: Some("2") })
        .insert(Header { key: "b", value: None::<&str> });
    writer.event(&topic.name, 0, "good");
    writer.record(&topic.name, 0, Some(b"key\xff"), Some(b"\xff\x00bad"), headers);
    writer.flush();
    let service = Service::start(settings(&topic, &[]), &Arc::default());
    service.until("the letter", |it| it.metrics.dead_letters_published.get() == 1).await;
    let letters = read(&topic.dead_letters(), 1);
    let letter = &letters[0];
    assert_eq!((letter.key(), letter.payload()), (Some(&b"key\xff"[..]), Some(&b"\xff\x00bad"[..])));
    let originals: Vec<_> = letter.headers().unwrap().iter().take(3).map(|it| (it.key, it.value)).collect();
    assert_eq!(originals, [("a", Some(&b"1"[..])), ("a", Some(&b"2"[..])), ("b", None)]);
    let says = |name| header(letter, name).unwrap();
    assert_eq!(says("equipoise-reason"), "not an event");
    assert_eq!(says("equipoise-topic"), topic.name);
    assert_eq!((says("equipoise-partition"), says("equipoise-offset")), ("0".to_owned(), "1".to_owned()));
    assert!(says("equipoise-timestamp").parse::<i64>().unwrap() > 1_600_000_000_000);
    assert_eq!(header(letter, "equipoise-cut"), None);
    assert_eq!(service.store.unpublished(), 0);
    service.stop().await;
}

/// D6: a letter that is too large for its topic is cut, and holds up none of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_too_large_is_cut() {
    let topic = Topic::with("large", 1, &[("max.message.bytes", "40000")]).await;
    let writer = Writer::new(&[]);
    let with_header = |bytes: usize| OwnedHeaders::new().insert(Header { key: "h", value: Some(&vec![b'h'; bytes]) });
    let bad = |value: usize, headers| writer.record(&topic.name, 0, Some(b"k"), Some(&vec![b'x'; value]), headers);
    bad(10, OwnedHeaders::new());
    bad(100_000, OwnedHeaders::new());
    bad(10, with_header(100_000));
    for _ in 0..20 {
        // Each fits, and all of them together do not.
        bad(10_000, OwnedHeaders::new());
    }
    writer.flush();
    let service = Service::start(settings(&topic, &[]), &Arc::default());
    service.until("the letters", |it| it.metrics.dead_letters_published.get() == 23).await;
    assert_eq!(service.store.unpublished(), 0);
    let mut letters = read(&topic.dead_letters(), 23);
    letters.sort_by_key(|letter| header(letter, "equipoise-offset").unwrap().parse::<i64>().unwrap());
    let cut: Vec<_> = letters.iter().map(|letter| header(letter, "equipoise-cut")).collect();
    assert_eq!(cut[..3], [None, Some("value".to_owned()), Some("value, key, headers, reason".to_owned())]);
    assert!(cut[3..].iter().all(Option::is_none), "{cut:?}");
    assert_eq!((text(&letters[0]).len(), text(&letters[1]).len(), text(&letters[2]).len()), (10, 16 << 10, 0));
    assert!(letters[3..].iter().all(|letter| text(letter).len() == 10_000));
    service.stop().await;
}

/// D6: a letter that another process left behind is published; where its topic is missing, that is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_left_behind_goes_to_a_topic_that_was_missing() {
    let topic = Topic::new("missing", 1).await;
    let store = Arc::new(Memory::default());
    let elsewhere = format!("{}-elsewhere", topic.name);
    store.add_letter(letter(&topic, 7));
    let service = Service::start(settings(&topic, &[("KAFKA_DEAD_LETTER_TOPIC", &elsewhere)]), &store);
    service.until("the letter", |it| it.store.unpublished() == 0).await;
    let letters = read(&elsewhere, 1);
    assert_eq!(header(&letters[0], "equipoise-offset").as_deref(), Some("7"));
    assert_eq!((letters[0].key(), letters[0].payload()), (None, None));
    service.stop().await;
}

/// D6: letters that were delivered while the store could not forget them are not sent again; those behind them go out.
#[tokio::test(flavor = "multi_thread")]
async fn letters_that_cannot_be_forgotten_are_published_once() {
    let topic = Topic::new("remembered", 1).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| orders.published_unavailable = usize::MAX);
    store.add_letter(letter(&topic, 1));
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("tries", |it| it.metrics.dead_letter_retries.get() >= 3).await;
    store.add_letter(letter(&topic, 2));
    let offsets = read(&topic.dead_letters(), 2).iter().map(|it| header(it, "equipoise-offset")).collect::<Vec<_>>();
    assert_eq!(offsets, ["1", "2"].map(|offset| Some(offset.to_owned())));
    store.order(|orders| orders.published_unavailable = 0);
    service.until("an end of it", |it| it.metrics.dead_letters_published.get() == 2).await;
    assert_eq!(service.store.unpublished(), 0);
    service.stop().await;
}

/// D6: a store that is too slow for its letters to be published is told of those that were before.
#[tokio::test(flavor = "multi_thread")]
async fn letters_that_were_delivered_are_forgotten_also_when_they_come_late() {
    let topic = Topic::new("late", 1).await;
    let store = Arc::new(Memory::default());
    store.order(|orders| orders.published_unavailable = usize::MAX);
    store.add_letter(letter(&topic, 1));
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("tries", |it| it.metrics.dead_letter_retries.get() >= 3).await;
    store.order(|orders| orders.letters_delay = Duration::from_secs(13));
    // What was asked for without the delay has its answer by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    store.order(|orders| orders.published_unavailable = 0);
    service.until("an end of it", |it| it.metrics.dead_letters_published.get() == 1).await;
    assert_eq!(service.store.unpublished(), 0);
    service.stop().await;
}
