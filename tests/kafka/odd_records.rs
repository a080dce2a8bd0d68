//! Records as nobody should write them.

use std::sync::Arc;

use equipoise::inventory::Content;
use rdkafka::bindings;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::types::RDKafkaRespErr;

use crate::broker::{Topic, Writer};
use crate::service::{Service, settings};
use crate::store::Memory;

/// D1, case A16: whatever a batch is compressed with.
#[tokio::test(flavor = "multi_thread")]
async fn every_compression_is_read() {
    let topic = Topic::new("codecs", 1).await;
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let writer = Writer::new(&[("compression.type", codec)]);
        for n in 0..200 {
            writer.event(&topic.name, 0, &format!("{codec}-{n}"));
        }
        writer.flush();
    }
    let service = Service::start(settings(&topic, &[]), &Arc::default());
    service.until_events(200 * codecs.len()).await;
    service.stop().await;
}

/// A header with a name that is not UTF-8, as other clients write it.
fn unreadable(headers: OwnedHeaders) -> OwnedHeaders {
    let native = std::ptr::from_ref(headers.as_borrowed()).cast_mut().cast();
    let (name, value) = (b"caf\xe9", b"latin-1");
    #[expect(unsafe_code, reason = "rdkafka takes no such name, and librdkafka does")]
    // Safety: this is librdkafka's own list, which nobody else has; it copies name and value.
    let added = unsafe {
        bindings::rd_kafka_header_add(native, name.as_ptr().cast(), 4, value.as_ptr().cast(), value.len() as isize)
    };
    assert_eq!(added, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    headers
}

/// D1, case A16: headers decide nothing, and hurt nobody: a thousand, twice the same, without a value, not UTF-8.
#[tokio::test(flavor = "multi_thread")]
async fn odd_headers_hurt_nobody() {
    let topic = Topic::new("headers", 1).await;
    let writer = Writer::new(&[]);
    let write =
        |id: &str, headers| writer.record(&topic.name, 0, None, Some(format!("event {id}").as_bytes()), headers);
    let plain = |key, value| OwnedHeaders::new().insert(Header { key, value });
    write("none", OwnedHeaders::new());
    write("twice", plain("ce_id", Some("a")).insert(Header { key: "ce_id", value: Some("b") }));
    write("null", plain("ce_id", None::<&str>));
    write("empty", plain("", Some("")));
    let many = (0..1_000)
        .fold(OwnedHeaders::new(), |headers, n| headers.insert(Header { key: &format!("h{n}"), value: Some("v") }));
    write("many", many);
    write("unreadable", unreadable(plain("before", Some("1"))).insert(Header { key: "after", value: Some("2") }));
    write("last", OwnedHeaders::new());
    writer.flush();

    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    service.until_events(7).await;
    let headers: Vec<_> = store
        .contents(0)
        .into_iter()
        .map(|(_, content)| match content {
            Content::Event { original, .. } => original.headers.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    let value = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(headers[0], []);
    assert_eq!(headers[1], [("ce_id".to_owned(), value("a")), ("ce_id".to_owned(), value("b"))]);
    assert_eq!(headers[2], [("ce_id".to_owned(), None)]);
    assert_eq!(headers[3], [(String::new(), value(""))]);
    assert_eq!(headers[4].len(), 1_000);
    let [before, unreadable, after] = &headers[5][..] else { panic!("{:?}", headers[5]) };
    assert_eq!((before, after), (&("before".to_owned(), value("1")), &("after".to_owned(), value("2"))));
    assert_eq!(unreadable.0, "\u{fffd}");
    service.stop().await;
}

/// D1, case A16: a record without a value moves the partition on; one that says nothing becomes a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn tombstones_and_bad_records_move_the_partition_on() {
    let topic = Topic::new("bad", 1).await;
    let writer = Writer::new(&[]);
    for n in 0..10 {
        writer.event(&topic.name, 0, &format!("good-{n}"));
        writer.record(&topic.name, 0, Some(b"key"), None, OwnedHeaders::new());
        writer.record(&topic.name, 0, Some(b"\xff\x00"), Some(b"\xffbad"), OwnedHeaders::new());
    }
    writer.record(&topic.name, 0, Some(b"key"), None, OwnedHeaders::new());
    writer.flush();
    let store = Arc::new(Memory::default());
    let service = Service::start(settings(&topic, &[]), &store);
    service.until("all", |it| it.store.next(0) == Some(31)).await;
    let metrics = &service.metrics;
    service.until("the counts", |_| metrics.tombstones.get() == 11).await;
    assert_eq!((metrics.applied.get(), metrics.dead_letters.get()), (10, 10));
    service.stop().await;
    // The last one was a tombstone, and its fingerprint fits.
    let service = Service::start(settings(&topic, &[]), &store);
    topic.write_events("more", 0..1, 1);
    service.until_events(11).await;
    service.stop().await;
}
