//! A topic: made, written to, read whole by a consumer that knows nothing of ours.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::servers::PARTITIONS;
use crate::service::SOON;

pub struct Topic {
    brokers: String,
    pub name: String,
}

impl Topic {
    /// A fresh topic, and its dead-letter topic.
    pub async fn create(brokers: &str, name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let topic = Topic { brokers: brokers.to_owned(), name };
        let admin: AdminClient<DefaultClientContext> = topic.config().create().unwrap();
        let dead = topic.dead_letters();
        let topics = [
            NewTopic::new(&topic.name, PARTITIONS, TopicReplication::Fixed(1)),
            NewTopic::new(&dead, 1, TopicReplication::Fixed(1)),
        ];
        for result in admin.create_topics(&topics, &AdminOptions::new()).await.unwrap() {
            result.unwrap();
        }
        topic
    }

    pub fn dead_letters(&self) -> String {
        format!("{}-dead-letters", self.name)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("reconnect.backoff.max.ms", "500");
        config
    }

    pub fn producer(&self) -> Producer {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("message.timeout.ms", "120000");
        Producer { producer: config.create().unwrap(), topic: self.name.clone() }
    }

    /// Every record of `topic`, by partition, in order.
    pub fn read(&self, topic: &str) -> Vec<Vec<OwnedMessage>> {
        let mut config = self.config();
        config.set("group.id", "whoever").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), SOON).unwrap();
        let count = metadata.topics()[0].partitions().len();
        let mut records: Vec<Vec<OwnedMessage>> = vec![Vec::new(); count];
        let (mut ends, mut assignment) = (Vec::new(), TopicPartitionList::new());
        for partition in 0..i32::try_from(count).unwrap() {
            ends.push(end(&consumer, topic, partition));
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let until = Instant::now() + SOON;
        let complete = |records: &[Vec<OwnedMessage>]| {
            records
                .iter()
                .zip(&ends)
                .all(|(records, end)| *end == 0 || records.last().is_some_and(|last| last.offset() + 1 >= *end))
        };
        while !complete(&records) {
            assert!(Instant::now() < until, "the topic {topic} is not read within {SOON:?}");
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                records[usize::try_from(message.partition()).unwrap()].push(message.detach());
            }
        }
        records
    }

    /// How many members the group has that consumes it.
    pub fn members(&self) -> usize {
        let consumer: BaseConsumer = self.config().create().unwrap();
        let groups = consumer.fetch_group_list(Some(&self.name), SOON).unwrap();
        groups.groups().iter().map(|group| group.members().len()).sum()
    }

    /// The offset after the last record of each partition.
    pub fn ends(&self) -> Vec<i64> {
        let consumer: BaseConsumer = self.config().create().unwrap();
        (0..PARTITIONS).map(|partition| end(&consumer, &self.name, partition)).collect()
    }
}

/// The offset after the last record of a partition. Of a topic that was made a moment ago not every broker knows at once.
fn end(consumer: &BaseConsumer, topic: &str, partition: i32) -> i64 {
    let until = Instant::now() + SOON;
    loop {
        match consumer.fetch_watermarks(topic, partition, SOON) {
            Ok((_, end)) => return end,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The value of the last header called `name`, as text.
pub fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().filter(|header| header.key == name).last()?;
    Some(String::from_utf8(found.value?.to_vec()).unwrap())
}

pub struct Producer {
    producer: BaseProducer,
    topic: String,
}

impl Producer {
    /// Queues a record; waits for room.
    pub fn send(&self, partition: Option<i32>, key: &str, value: &[u8]) {
        loop {
            let record = BaseRecord::to(&self.topic).key(key).payload(value).headers(OwnedHeaders::new());
            let record = match partition {
                Some(partition) => record.partition(partition),
                None => record,
            };
            match self.producer.send(record) {
                Ok(()) => break,
                Err((error, _)) => {
                    let full = rdkafka::types::RDKafkaErrorCode::QueueFull;
                    assert_eq!(error.rdkafka_error_code(), Some(full), "{error}");
                    self.producer.poll(Duration::from_millis(10));
                }
            }
        }
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until the broker has everything.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_secs(120)).unwrap();
    }
}
