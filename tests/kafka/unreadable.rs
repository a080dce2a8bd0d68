//! Records that librdkafka cannot read, in its mock cluster: a broker would not take them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

use crate::broker::{SOON, Topic, unique};
use crate::service::{Service, settings_at};
use crate::store::Memory;

const PARTITIONS: i32 = 3;

fn write(brokers: &str, topic: &str, partition: i32, name: &str, count: usize) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    for n in 0..count {
        let value = format!("event {name}-{n}");
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value.as_bytes());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(SOON).unwrap();
}

/// How a batch of one record is spoilt.
#[derive(Clone, Copy)]
enum Spoilt {
    /// It says that it is compressed by gzip, and is not.
    Codec,
    /// Its checksum is another one.
    Checksum,
}

/// Sends a produce request (version 3) with a batch that cannot be read.
fn spoil(brokers: &str, topic: &str, partition: i32, spoilt: Spoilt) {
    let codec: i16 = if matches!(spoilt, Spoilt::Codec) { 1 } else { 0 };
    let record = b"\x10\0\0\0\x01\x04no\0";
    let mut batch = Vec::new();
    batch.extend_from_slice(&0_i64.to_be_bytes());
    batch.extend_from_slice(&(49 + record.len() as i32).to_be_bytes());
    batch.extend_from_slice(&(-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&0xbad_u32.to_be_bytes());
    batch.extend_from_slice(&codec.to_be_bytes());
    batch.extend_from_slice(&0_i32.to_be_bytes());
    batch.extend_from_slice(&[0; 16]);
    batch.extend_from_slice(&(-1_i64).to_be_bytes());
    batch.extend_from_slice(&(-1_i16).to_be_bytes());
    batch.extend_from_slice(&(-1_i32).to_be_bytes());
    batch.extend_from_slice(&1_i32.to_be_bytes());
    batch.extend_from_slice(record);

    let mut request = Vec::new();
    let text = |text: &str| [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat();
    request.extend_from_slice(&[0, 0, 0, 3, 0, 0, 0, 1]);
    request.extend_from_slice(&text("test"));
    request.extend_from_slice(&(-1_i16).to_be_bytes());
    request.extend_from_slice(&1_i16.to_be_bytes());
    request.extend_from_slice(&5_000_i32.to_be_bytes());
    request.extend_from_slice(&1_i32.to_be_bytes());
    request.extend_from_slice(&text(topic));
    request.extend_from_slice(&1_i32.to_be_bytes());
    request.extend_from_slice(&partition.to_be_bytes());
    request.extend_from_slice(&(batch.len() as i32).to_be_bytes());
    request.extend_from_slice(&batch);
    let mut stream = TcpStream::connect(brokers).unwrap();
    stream.write_all(&[&(request.len() as i32).to_be_bytes()[..], &request].concat()).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(answer) as usize];
    stream.read_exact(&mut answer).unwrap();
    // Behind the correlation, the topic and the partition.
    let error = 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[error..error + 2], [0, 0], "the batch was not taken");
}

/// D6, D9: a partition is held up before what cannot be read, and says so, with its lag; the others go on as if nothing were.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_holds_up_its_partition_alone() {
    for (spoilt, behind) in [(Spoilt::Codec, 0), (Spoilt::Codec, 40), (Spoilt::Checksum, 0), (Spoilt::Checksum, 40)] {
        let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
        let topic = Topic { name: unique("unreadable") };
        cluster.create_topic(&topic.name, PARTITIONS, 1).unwrap();
        cluster.create_topic(&topic.dead_letters(), 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let store = Arc::new(Memory::default());
        write(&brokers, &topic.name, 1, "first", 20);
        write(&brokers, &topic.name, 0, "good", 20);
        spoil(&brokers, &topic.name, 0, spoilt);
        if behind > 0 {
            write(&brokers, &topic.name, 0, "behind", behind);
        }
        let check = if matches!(spoilt, Spoilt::Checksum) { "true" } else { "false" };
        let settings = settings_at(&brokers, &topic, &[("KAFKA_CHECK_CRCS", check)]);
        let service = Service::start(settings, &store);
        service.until_events(40).await;
        let is_said = |it: &Service| it.status().not_ready().is_some_and(|why| why.contains("partition 0"));
        service.until("what it waits for", is_said).await;
        let epochs = [1, 2].map(|partition| store.epoch(partition));
        for round in 0..5 {
            write(&brokers, &topic.name, 1, &format!("round-{round}"), 20);
            service.until_events(40 + 20 * (round + 1)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let is_seen = |it: &Service| it.lag(0) == behind as i64 + 1;
            if behind > 0 && round == 0 {
                service.until("its lag", is_seen).await;
            }
            assert!(behind == 0 || is_seen(&service), "its lag became {}", service.lag(0));
        }
        assert_eq!([1, 2].map(|partition| store.epoch(partition)), epochs, "the others began again");
        assert!(store.epoch(0) > 1, "the one is looked at again");
        assert_eq!(store.offsets(0), (0..20).collect::<Vec<_>>(), "nothing is passed over");
        assert_eq!(store.next(0), Some(20));
        service.stop().await;
    }
}
