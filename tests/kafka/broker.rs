//! Topics of a test's own at the broker, and what is written to them.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

/// How long anything may take that should happen soon, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

/// The address of the broker.
pub fn address() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        std::env::var("TEST_KAFKA").expect("TEST_KAFKA is not set: run scripts/test.sh, which starts a broker")
    })
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address());
    config
}

fn admin() -> AdminClient<DefaultClientContext> {
    config().create().unwrap()
}

/// A name that no other test has, nor a former run.
pub fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{name}-{}-{}", std::process::id(), now.as_nanos())
}

/// A topic of a test's own.
pub struct Topic {
    pub name: String,
}

impl Topic {
    pub async fn new(name: &str, partitions: i32) -> Self {
        Topic::with(name, partitions, &[]).await
    }

    /// A topic with settings of its own, and one for its dead letters.
    pub async fn with(name: &str, partitions: i32, dead_letter_settings: &[(&str, &str)]) -> Self {
        let topic = Topic { name: unique(name) };
        create(&topic.name, partitions, &[]).await;
        create(&topic.dead_letters(), 1, dead_letter_settings).await;
        topic
    }

    pub fn dead_letters(&self) -> String {
        format!("{}-dead-letters", self.name)
    }

    pub async fn delete(&self) {
        let deleted = admin().delete_topics(&[&self.name], &options()).await.unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    }

    /// Creates it again, once its deletion is through.
    pub async fn recreate(&self, partitions: i32) {
        create(&self.name, partitions, &[]).await;
    }

    pub async fn grow_to(&self, partitions: usize) {
        let grown = admin().create_partitions(&[NewPartitions::new(&self.name, partitions)], &options()).await.unwrap();
        assert!(grown.iter().all(Result::is_ok), "{grown:?}");
    }

    /// Deletes the records before `offset`.
    pub async fn delete_before(&self, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).unwrap();
        admin().delete_records(&list, &options()).await.unwrap();
    }

    /// Writes an event of one unit with the id `{name}-{n}` for each of `numbers`, to the partitions in turn.
    pub fn write_events(&self, name: &str, numbers: std::ops::Range<usize>, partitions: usize) {
        let writer = Writer::new(&[]);
        for n in numbers {
            writer.event(&self.name, (n % partitions) as i32, &format!("{name}-{n}"));
        }
        writer.flush();
    }
}

async fn create(name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let until = std::time::Instant::now() + SOON;
    loop {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let created = admin().create_topics(&[topic], &options()).await.unwrap();
        match &created[0] {
            Ok(_) => return,
            // A deletion takes its time.
            Err(error) => assert!(std::time::Instant::now() < until, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(SOON)).request_timeout(Some(SOON))
}

/// Writes records, and waits for them in the end.
pub struct Writer(ThreadedProducer<DefaultProducerContext>);

impl Writer {
    pub fn new(settings: &[(&str, &str)]) -> Self {
        let mut config = config();
        config.set("acks", "all").set("linger.ms", "2").set("message.max.bytes", "10000000");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        Writer(config.create().unwrap())
    }

    /// An event of one unit.
    pub fn event(&self, topic: &str, partition: i32, id: &str) {
        self.record(topic, partition, Some(id.as_bytes()), Some(format!("event {id}").as_bytes()), OwnedHeaders::new());
    }

    /// An event of one unit, written `age` ago.
    pub fn event_of_age(&self, topic: &str, partition: i32, id: &str, age: Duration) {
        let written = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - age;
        let value = format!("event {id}");
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value.as_bytes());
        self.0.send(record.timestamp(written.as_millis() as i64)).map_err(|(error, _)| error).unwrap();
    }

    pub fn record(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>, headers: OwnedHeaders) {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).headers(headers);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.0.send(record).map_err(|(error, _)| error).unwrap();
    }

    pub fn flush(&self) {
        self.0.flush(SOON).unwrap();
    }

    pub fn begin_transactions(&self) {
        self.0.init_transactions(SOON).unwrap();
    }

    /// Writes within a transaction, which is then committed or aborted.
    pub fn transaction(&self, commit: bool, write: impl Fn(&Self)) {
        self.0.begin_transaction().unwrap();
        write(self);
        self.flush();
        match commit {
            true => self.0.commit_transaction(SOON).unwrap(),
            false => self.0.abort_transaction(SOON).unwrap(),
        }
    }
}

/// Reads a topic of one partition from its beginning, until there are `count` records.
pub fn read(topic: &str, count: usize) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = config().set("group.id", unique("reader")).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let until = std::time::Instant::now() + SOON;
    let mut messages = Vec::new();
    while messages.len() < count && std::time::Instant::now() < until {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => messages.push(message.detach()),
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    consumer.unassign().unwrap();
    messages
}

/// The first header of this name, as text.
pub fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let header = message.headers()?.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(header.value?).into_owned())
}

/// Sets Kafka's own offset of a group.
pub fn commit_in_kafka(group: &str, topic: &str, partition: i32, offset: i64) {
    let consumer: BaseConsumer = config().set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    consumer.commit(&list, rdkafka::consumer::CommitMode::Sync).unwrap();
}

/// Kafka's own offset of a group.
pub fn committed_in_kafka(group: &str, topic: &str, partition: i32) -> Option<i64> {
    let consumer: BaseConsumer = config().set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let list = consumer.committed_offsets(list, SOON).unwrap();
    let offset = list.find_partition(topic, partition).unwrap().offset();
    offset.to_raw().filter(|offset| *offset >= 0)
}

/// The timestamp is read by nobody here, but a message without one would be no message.
pub fn text(message: &OwnedMessage) -> String {
    String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned()
}
