//! Brokers that answer with errors, request by request, in librdkafka's mock cluster.

use std::sync::Arc;

use rdkafka::bindings;
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::RDKafkaApiKey::{
    self, Fetch, FindCoordinator, Heartbeat, JoinGroup, ListOffsets, Metadata, OffsetCommit, Produce, SyncGroup,
};
use rdkafka::types::RDKafkaRespErr::{
    self, RD_KAFKA_RESP_ERR__TRANSPORT as TRANSPORT,
    RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as COORDINATOR_LOADS,
    RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE as NO_COORDINATOR,
    RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION as ILLEGAL_GENERATION, RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR as STORAGE_ERROR,
    RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as NO_LEADER, RD_KAFKA_RESP_ERR_NOT_COORDINATOR as NOT_COORDINATOR,
    RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS as TOO_FEW_REPLICAS,
    RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER, RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE as OUT_OF_RANGE,
    RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS as REBALANCING, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as TIMED_OUT,
    RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as DENIED, RD_KAFKA_RESP_ERR_UNKNOWN as UNKNOWN,
    RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID as UNKNOWN_MEMBER,
};

use crate::broker::{SOON, Topic, unique};
use crate::service::{Service, settings_at};
use crate::store::Memory;

const PARTITIONS: i32 = 2;

/// What a broker may say to each request, and a consumer has to live with.
const ERRORS: [(RDKafkaApiKey, &[RDKafkaRespErr]); 9] = [
    (Fetch, &[NOT_LEADER, TIMED_OUT, STORAGE_ERROR, TRANSPORT, OUT_OF_RANGE, UNKNOWN, DENIED]),
    (ListOffsets, &[NOT_LEADER, TIMED_OUT, TRANSPORT, NO_LEADER]),
    (Metadata, &[TRANSPORT, NO_LEADER, TIMED_OUT]),
    (FindCoordinator, &[NO_COORDINATOR, COORDINATOR_LOADS, TRANSPORT]),
    (JoinGroup, &[COORDINATOR_LOADS, NOT_COORDINATOR, UNKNOWN_MEMBER, TRANSPORT]),
    (SyncGroup, &[REBALANCING, UNKNOWN_MEMBER, TRANSPORT]),
    (Heartbeat, &[REBALANCING, ILLEGAL_GENERATION, UNKNOWN_MEMBER, NOT_COORDINATOR, TRANSPORT]),
    (OffsetCommit, &[ILLEGAL_GENERATION, UNKNOWN_MEMBER, TRANSPORT, UNKNOWN]),
    (Produce, &[NOT_LEADER, TIMED_OUT, TOO_FEW_REPLICAS, STORAGE_ERROR, TRANSPORT]),
];

/// Writes events and what is none, each value once.
fn write(brokers: &str, topic: &str, numbers: std::ops::Range<usize>) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    for number in numbers {
        let value = if number % 50 == 0 { format!("none {number}") } else { format!("event n-{number}") };
        let record =
            BaseRecord::<[u8], [u8]>::to(topic).partition(number as i32 % PARTITIONS).payload(value.as_bytes());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(SOON).unwrap();
}

/// A mock cluster lets the first member of a group wait for 3 s, and every other join for a second less than the session timeout, which cannot
/// be shorter than the first wait, then. A member that was told that it is unknown comes back as another one beside itself: two such
/// joins an error.
fn with_quick_groups(brokers: &BaseProducer) -> MockCluster<'_, DefaultProducerContext> {
    let client = brokers.client();
    #[expect(unsafe_code, reason = "rdkafka does not offer it")]
    // Safety: the client lives.
    let cluster = unsafe { bindings::rd_kafka_handle_mock_cluster(client.native_ptr()) };
    #[expect(unsafe_code, reason = "rdkafka does not offer it")]
    // Safety: the cluster is the client's, and lives as long as that.
    unsafe {
        bindings::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 100);
    }
    client.mock_cluster().expect("it was asked for")
}

/// D6: whatever a broker answers, whichever request: every record is applied once, every dead letter published, and it goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_brokers_lose_nothing() {
    const SLICE: usize = 200;
    let brokers: BaseProducer = ClientConfig::new().set("test.mock.num.brokers", "1").create().unwrap();
    let cluster = with_quick_groups(&brokers);
    let topic = Topic { name: unique("errors") };
    cluster.create_topic(&topic.name, PARTITIONS, 1).unwrap();
    cluster.create_topic(&topic.dead_letters(), 1, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let store = Arc::new(Memory::default());
    let session = [("KAFKA_SESSION_TIMEOUT_MS", "2000")];
    let service = Service::start(settings_at(&brokers, &topic, &session), &store);
    service.until("the partitions", |it| it.consuming().len() == 2).await;
    let mut written = 0;
    for (request, errors) in ERRORS {
        println!("{request:?}: {errors:?}");
        if request == Produce {
            // Our own records are to arrive: only the letters are troubled.
            write(&brokers, &topic.name, written..written + SLICE);
            cluster.request_errors(request, errors);
        } else {
            cluster.request_errors(request, errors);
            if matches!(request, JoinGroup | SyncGroup | FindCoordinator) {
                let before = service.metrics.rebalances.get();
                cluster.request_errors(Heartbeat, &[UNKNOWN_MEMBER]);
                service.until("the end of the group", |it| it.metrics.rebalances.get() > before).await;
            }
            write(&brokers, &topic.name, written..written + SLICE);
        }
        written += SLICE;
        service.until(&format!("{request:?}"), |it| it.store.records() >= written).await;
        service.until("the letters", |it| it.store.unpublished() == 0).await;
        cluster.clear_request_errors(request);
        cluster.clear_request_errors(Heartbeat);
    }
    service.until("an end of it", |it| it.status().not_ready().is_none()).await;
    assert_eq!((store.records(), store.events()), (written, written - written / 50));
    assert_eq!(service.status().failed, None);
    service.stop().await;
}
