-- The state, what led to it, and how far each partition was consumed. Ids are compared by their bytes: COLLATE "C".

CREATE TABLE products (
    sku text COLLATE "C" PRIMARY KEY CHECK (octet_length(sku) BETWEEN 1 AND 128),
    current_stock bigint NOT NULL DEFAULT 0 CHECK (current_stock >= 0),
    version bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_event_id text COLLATE "C",
    batch bigint,
    place integer
) WITH (fillfactor = 80);

COMMENT ON TABLE products IS 'The accounts: stock on hand, or a balance.';
COMMENT ON COLUMN products.version IS '1 when the account was opened, one more with every change.';
COMMENT ON COLUMN products.last_event_id IS 'The id of the newest change that had one.';
COMMENT ON COLUMN products.batch IS 'With place: the journal entry of the newest change; null when it was written by hand.';

CREATE TABLE processed_events (
    event_id text COLLATE "C" PRIMARY KEY,
    product_id text COLLATE "C" NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    batch bigint NOT NULL,
    place integer NOT NULL,
    member integer NOT NULL
);

COMMENT ON TABLE processed_events IS 'Every id that was used, through whichever door, and the journal entry that it belongs to.';

CREATE TABLE commits (
    batch bigint PRIMARY KEY,
    first_sequence bigint,
    count integer NOT NULL,
    time_floor bigint NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE UNIQUE INDEX commits_in_order ON commits (first_sequence) WHERE count > 0;

COMMENT ON TABLE commits IS 'The batches in the order of their commits.';
COMMENT ON COLUMN commits.first_sequence IS 'The commit sequence of its first entry; null: it was given up, and nothing of it was kept.';
COMMENT ON COLUMN commits.time_floor IS 'No entry of it is before this time, in nanoseconds since the Unix epoch.';

-- The sequences are dense because this row is locked until the commit that draws from it is through.
CREATE TABLE ledger_sequence (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    sequence bigint NOT NULL,
    time_ns bigint NOT NULL,
    floor_ns bigint NOT NULL
);

COMMENT ON COLUMN ledger_sequence.time_ns IS 'The time of the newest entry, in nanoseconds since the Unix epoch.';
COMMENT ON COLUMN ledger_sequence.floor_ns IS 'What time_ns was before the newest commit.';

INSERT INTO ledger_sequence (sequence, time_ns, floor_ns) VALUES (0, 0, 0);

-- Each draw is a block of numbers for one instance.
CREATE SEQUENCE ledger_batches INCREMENT BY 1024;

CREATE TABLE journal_entries (
    batch bigint NOT NULL,
    place integer NOT NULL,
    member integer NOT NULL,
    transaction_id text COLLATE "C",
    operation text NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    counterparty_id text COLLATE "C",
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    version_after bigint NOT NULL,
    counterparty_balance_after bigint,
    counterparty_version_after bigint,
    status text NOT NULL,
    refused_account smallint,
    refused_current bigint,
    as_of bigint,
    time_ns bigint NOT NULL,
    PRIMARY KEY (batch, place, member)
);

COMMENT ON TABLE journal_entries IS 'What was decided, a row for each operation. Rows are added and never changed.';
COMMENT ON COLUMN journal_entries.status IS 'applied, or why not: not_found, already_exists, insufficient, out_of_range; group: another operation of its chain was refused.';
COMMENT ON COLUMN journal_entries.amount IS 'The initial balance, the delta, or the amount moved.';
COMMENT ON COLUMN journal_entries.as_of IS 'not_found: nobody had opened the account up to this sequence.';

CREATE FUNCTION journal_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'journal_entries is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal_entries
    FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only();

CREATE VIEW journal AS
SELECT
    c.first_sequence + j.place AS sequence,
    j.member,
    greatest(j.time_ns, c.time_floor) AS time_ns,
    j.transaction_id,
    j.operation,
    j.account_id,
    j.counterparty_id,
    j.amount,
    j.balance_after,
    j.version_after,
    j.counterparty_balance_after,
    j.counterparty_version_after,
    j.status,
    j.refused_account,
    j.refused_current,
    j.as_of,
    j.batch,
    j.place
FROM journal_entries j
JOIN commits c ON c.batch = j.batch AND c.count > 0;

COMMENT ON VIEW journal IS 'The journal in commit order: 1, 2, 3, … ; the operations of a chain share a sequence.';

CREATE TABLE consumer_offsets (
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    next_offset bigint,
    fingerprint bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

COMMENT ON COLUMN consumer_offsets.epoch IS 'The ownership: one more with every change of hands. Writes under an older one are refused.';
COMMENT ON COLUMN consumer_offsets.next_offset IS 'Every record below it has its outcome; null: never consumed.';

CREATE TABLE dead_letters (
    number bigserial PRIMARY KEY,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    record_time bigint,
    key bytea,
    value bytea,
    header_names bytea[] NOT NULL,
    header_values bytea[] NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (topic, partition, kafka_offset)
);

COMMENT ON TABLE dead_letters IS 'Records that could not become events, until they are published to their topic.';
COMMENT ON COLUMN dead_letters.header_names IS 'UTF-8; as bytes, since a name may hold what no text may: U+0000.';
