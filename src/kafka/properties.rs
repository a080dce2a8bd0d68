//! librdkafka's properties: which of them the operator may set, and the values of the others.

/// Who decides about a property.
pub(super) enum Owner {
    /// The operator.
    Operator,
    /// The service: its design depends on the value.
    Design(&'static str),
}

/// How often librdkafka looks at the topics, in milliseconds.
pub(super) const METADATA_INTERVAL: &str = "topic.metadata.refresh.interval.ms";

/// How often librdkafka tells of itself, in milliseconds.
pub(super) const STATISTICS_INTERVAL: &str = "statistics.interval.ms";

/// What librdkafka says of its insides.
pub(super) const DEBUG: &str = "debug";

/// What an operator may change; librdkafka's own defaults are meant for other uses.
pub(super) const DEFAULTS: [(&str, &str); 7] = [
    ("client.id", "equipoise"),
    // New partitions are looked for this often.
    (METADATA_INTERVAL, "30000"),
    ("reconnect.backoff.max.ms", "1000"),
    (STATISTICS_INTERVAL, "5000"),
    // What is fetched ahead takes memory, and a pause discards it: so not too much of it.
    ("queued.min.messages", "20000"),
    ("queued.max.messages.kbytes", "16384"),
    ("fetch.wait.max.ms", "100"),
];

/// What holds for every consumer of the service.
pub(super) const OF_CONSUMER: [(&str, &str); 4] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "false"),
];

const STORE_HAS_OFFSETS: &str = "the offsets are in the store, with the effects that they stand for";
const IDEMPOTENT: &str = "what is written is written idempotently and waited for";

pub(super) fn owner(property: &str) -> Owner {
    let reason = match property {
        "enable.auto.commit" | "enable.auto.offset.store" | "auto.commit.enable" | "auto.commit.interval.ms" => {
            STORE_HAS_OFFSETS
        }
        "offset.store.method" | "offset.store.path" | "offset.store.sync.interval.ms" => STORE_HAS_OFFSETS,
        "enable.partition.eof" => "an end of a partition is no event",
        "bootstrap.servers" | "metadata.broker.list" => "the brokers are in KAFKA_BROKERS",
        "enable.idempotence" | "acks" | "request.required.acks" | "enable.gapless.guarantee" => IDEMPOTENT,
        "delivery.report.only.error" => IDEMPOTENT,
        "max.in.flight" | "max.in.flight.requests.per.connection" | "retries" | "message.send.max.retries" => {
            IDEMPOTENT
        }
        "transactional.id" => "dead letters are published at least once, and named by where they came from",
        "log.queue" | "log.thread.name" => "the service has a log of its own",
        _ => return Owner::Operator,
    };
    Owner::Design(reason)
}

/// Properties that a producer would complain about.
pub(super) fn is_of_consumer(property: &str) -> bool {
    const PREFIXES: [&str; 4] = ["group.", "fetch.", "queued.", "heartbeat."];
    const NAMES: [&str; 7] = [
        "session.timeout.ms",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "isolation.level",
        "check.crcs",
        "coordinator.query.interval.ms",
        "max.partition.fetch.bytes",
    ];
    PREFIXES.iter().any(|prefix| property.starts_with(prefix)) || NAMES.contains(&property)
}

/// Whether the value must not be shown: a password, a key, or what may hold one.
pub(super) fn is_secret(property: &str) -> bool {
    const PARTS: [&str; 8] = ["passw", "secret", "key", "pem", "token", "oauthbearer.config", "jaas", "assertion"];
    PARTS.iter().any(|part| property.contains(part))
}

/// Whether Kubernetes set the variable, for a service named `kafka`.
pub(super) fn is_of_kubernetes(variable: &str) -> bool {
    variable == "KAFKA_PORT"
        || variable == "KAFKA_SERVICE_HOST"
        || ["KAFKA_PORT_", "KAFKA_SERVICE_PORT"].iter().any(|prefix| variable.starts_with(prefix))
}
