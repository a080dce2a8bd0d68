//! The statements of the committer, prepared once per connection.
//!
//! Rows are always locked in one order, so that two instances never deadlock: existing accounts, by id; new accounts,
//! by id; transaction ids, in order; partitions; and last the one row that the commit sequence is drawn from.

use tokio_postgres::{Client, Error, Statement};

/// Settings of every session.
///
/// Nothing is written outside a transaction that [`BEGIN`] began. Statements are sent right behind it. If BEGIN alone
/// failed (a standby is being promoted, or somebody cancels it), PostgreSQL would run each of them by itself, and keep
/// those that happen to succeed.
///
/// Every row is found by its key, in the order in which the keys were given, however small a table is and whatever the
/// statistics say.
pub(super) const SESSION: &str = "SET default_transaction_read_only = on;
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET jit = off";

/// READ COMMITTED whatever the database's default: each statement must see what was committed while it waited.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE";

/// Draws `$1` blocks of batch numbers; the last one is used.
const NUMBERS: &str = "SELECT max(nextval('ledger_batches')) FROM generate_series(1, $1::bigint)";

/// Looks at one version of the row, however many an open snapshot keeps.
pub(super) const SEQUENCE: &str = "SELECT sequence FROM ledger_sequence ORDER BY sequence DESC LIMIT 1";

const ACCOUNTS: &str = "SELECT sku, current_stock, version FROM products WHERE sku = ANY($1)";

/// The lock that UPDATE takes: an insert of a row that refers to one of these does not wait for it.
const ACCOUNTS_LOCKED: &str =
    "SELECT sku, current_stock, version FROM products WHERE sku = ANY($1) ORDER BY sku FOR NO KEY UPDATE";

/// Which of these accounts' rows somebody else has locked, and who.
pub(super) const LOCKED_ACCOUNTS: &str = "WITH free AS MATERIALIZED (
        SELECT sku FROM products WHERE sku = ANY($1) FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT sku, xmax::text FROM products WHERE sku = ANY($1) AND sku NOT IN (SELECT sku FROM free)";

/// Which of these partitions' rows somebody else has locked, and who.
pub(super) const LOCKED_OFFSETS: &str = "WITH asked AS (
        SELECT * FROM unnest($1::text[], $2::integer[]) AS asked (topic, partition)
    ), free AS MATERIALIZED (
        SELECT o.topic, o.partition FROM consumer_offsets o
        JOIN asked USING (topic, partition) FOR UPDATE OF o SKIP LOCKED
    )
    SELECT o.topic, o.partition, o.xmax::text FROM consumer_offsets o JOIN asked USING (topic, partition)
    WHERE (o.topic, o.partition) NOT IN (SELECT topic, partition FROM free)";

/// Which of these accounts and ids are new, and were inserted by somebody else without a commit yet.
pub(super) const IN_DISPUTE: &str = "SELECT in_dispute(true, $1), in_dispute(false, $2)";

/// How long each of those tries waits. A holder that is not done by then may be an instance at its commit: so there are
/// two looks.
pub(super) const DISPUTE: &str = "SET LOCAL lock_timeout = 10";

/// The transactions that used these ids.
const IDS: &str = "SELECT * FROM journal j
    WHERE (j.batch, j.place) IN (SELECT batch, place FROM processed_events WHERE event_id = ANY($1))
    ORDER BY j.sequence, j.member";

/// Needed where some accounts are changed and others only met: both are taken in one order. The stock is compared as
/// well: it may have been changed by hand.
const LOCK_ACCOUNTS: &str = "SELECT p.sku
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS expected (sku, stock, version)
    JOIN products p ON p.sku = expected.sku
    WHERE p.current_stock = expected.stock AND p.version = expected.version
    ORDER BY p.sku FOR NO KEY UPDATE OF p";

/// Ids that are remembered as used, and are.
const RECALLED: &str = "SELECT 1 FROM unnest($1::text[], $2::bigint[]) AS recalled (id, sequence)
    JOIN processed_events e ON e.event_id = recalled.id
    JOIN commits c ON c.batch = e.batch
    WHERE c.first_sequence + e.place = recalled.sequence";

const INSERT_ACCOUNTS: &str = "INSERT INTO products (sku, current_stock, version, last_event_id, batch, place)
    SELECT sku, stock, version, event, $6::bigint, place
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[])
        AS opened (sku, stock, version, event, place)
    ORDER BY sku COLLATE \"C\"
    ON CONFLICT DO NOTHING";

/// Takes the rows in the order of the arrays: see [`SESSION`].
const UPDATE_ACCOUNTS: &str = "UPDATE products p
    SET current_stock = changed.stock, version = changed.version, updated_at = now(),
        last_event_id = coalesce(changed.event, p.last_event_id), batch = $6::bigint, place = changed.place
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[], $7::bigint[], $8::bigint[])
        AS changed (sku, stock, version, event, place, expected_stock, expected_version)
    WHERE p.sku = changed.sku
        AND p.version = changed.expected_version AND p.current_stock = changed.expected_stock";

/// Fails with [`ID_TAKEN`] where one was used.
const INSERT_IDS: &str = "INSERT INTO processed_events (event_id, product_id, batch, place, member)
    SELECT id, account, $5::bigint, place, coalesce(member, 0)
    FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[]) AS used (id, account, place, member)";

pub(super) const ID_TAKEN: &str = "processed_events_pkey";

/// The keys that a batch violates if another batch has its number.
pub(super) const NUMBER_TAKEN: [&str; 2] = ["journal_entries_pkey", "commits_pkey"];

/// The error code of `expect_rows`.
pub(super) const UNEXPECTED: &str = "EQ001";

const UPDATE_OFFSETS: &str = "UPDATE consumer_offsets o
    SET next_offset = consumed.next, fingerprint = consumed.fingerprint
    FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS consumed (topic, partition, epoch, expected, next, fingerprint)
    WHERE o.topic = consumed.topic AND o.partition = consumed.partition
        AND o.epoch = consumed.epoch AND o.next_offset IS NOT DISTINCT FROM consumed.expected
    RETURNING o.topic, o.partition";

const OFFSETS: &str = "SELECT o.topic, o.partition, o.epoch, o.next_offset
    FROM unnest($1::text[], $2::integer[]) AS asked (topic, partition)
    JOIN consumer_offsets o ON o.topic = asked.topic AND o.partition = asked.partition";

const INSERT_ENTRIES: &str = "INSERT INTO journal_entries (batch, place, member, transaction_id, operation, account_id,
        counterparty_id, amount, balance_after, version_after, counterparty_balance_after, counterparty_version_after,
        status, refused_account, refused_current, as_of, time_ns)
    SELECT $17::bigint, place, coalesce(member, 0), id, coalesce(operation, 'update'), account, counterparty, amount,
        balance, version, counterparty_balance, counterparty_version, coalesce(status, 'applied'), refused_account,
        refused_current, as_of, time_ns
    FROM unnest($1::integer[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
            $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::smallint[], $14::bigint[], $15::bigint[],
            $16::bigint[])
        AS entry (place, member, id, operation, account, counterparty, amount, balance, version, counterparty_balance,
            counterparty_version, status, refused_account, refused_current, as_of, time_ns)";

const INSERT_LETTER: &str = "INSERT INTO dead_letters
        (topic, partition, kafka_offset, record_time, key, value, header_names, header_values, reason)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (topic, partition, kafka_offset) DO NOTHING";

/// Locks the row that the sequences of a batch are drawn from. It stays locked until the commit, which follows at once;
/// so whoever sees a sequence sees all before it. Instances queue for this row however long the commit ahead takes:
/// none is to lose its place.
const LOCK_SEQUENCE: &str = "WITH patient AS MATERIALIZED (SELECT set_config('lock_timeout', '0', true))
    SELECT l.sequence FROM patient, ledger_sequence l ORDER BY l.sequence DESC LIMIT 1 FOR UPDATE OF l";

/// Draws the sequences of a batch. A statement of its own: so it sees what was drawn while the one before waited for
/// the row, and finds the row by its key. See [`SEQUENCE`].
///
/// `$4` is the table that it draws from. If that table is another one by now, or empty, somebody is restoring the
/// database, and its tables may have no keys yet.
const COMMIT_ENTRIES: &str = "WITH checked AS MATERIALIZED (
        SELECT expect_rows(
            coalesce((SELECT tableoid::bigint FROM ledger_sequence ORDER BY sequence DESC LIMIT 1), 0), $4::bigint)
    ),
    drawn AS (
        UPDATE ledger_sequence l
        SET sequence = l.sequence + $2::bigint, floor_ns = l.time_ns, time_ns = greatest(l.time_ns, $3::bigint)
        FROM checked WHERE l.sequence = (SELECT max(sequence) FROM ledger_sequence)
        RETURNING l.sequence, l.floor_ns
    )
    INSERT INTO commits (batch, first_sequence, count, time_floor)
    SELECT $1::bigint, sequence - $2::bigint + 1, $2::bigint::integer, floor_ns
    FROM checked LEFT JOIN drawn ON true
    RETURNING first_sequence, time_floor";

/// Nothing was decided, so no sequence is drawn and nobody is waited for.
const COMMIT_NOTHING: &str = "INSERT INTO commits (batch, first_sequence, count, time_floor)
    SELECT $1::bigint, 0, 0, 0
    WHERE expect_rows(
        coalesce((SELECT tableoid::bigint FROM ledger_sequence ORDER BY sequence DESC LIMIT 1), 0), $2::bigint)
    RETURNING first_sequence, time_floor";

/// Waits for a commit under way, and keeps one that was not begun from ever going through.
const GIVE_UP: &str = "INSERT INTO commits (batch, first_sequence, count, time_floor) VALUES ($1, NULL, 0, 0)
    ON CONFLICT DO NOTHING RETURNING batch";

/// The commit of a batch of `$2` entries whose first one has the time `$3`. Another batch may have its number: see
/// `Fault::Numbered`.
const FATE: &str = "SELECT first_sequence, time_floor FROM commits c
    WHERE batch = $1 AND first_sequence IS NOT NULL AND count = $2::bigint
        AND ($2::bigint = 0 OR EXISTS (SELECT FROM journal_entries j WHERE j.batch = c.batch AND j.place = 0 AND j.time_ns = $3::bigint))";

const TAKE_OVER: &str = "INSERT INTO consumer_offsets AS o (topic, partition, epoch)
    SELECT $1::text, partition, 1 FROM unnest($2::integer[]) AS taken (partition) ORDER BY partition
    ON CONFLICT (topic, partition) DO UPDATE SET epoch = o.epoch + 1
    RETURNING partition, epoch, next_offset, fingerprint";

/// Makes `$1` the publisher of the dead letters for `$2` seconds, if there are letters and nobody else is the
/// publisher. An end too far in the future stems from a clock that was put back since.
const PUBLISH: &str = "INSERT INTO dead_letter_publisher AS p (holder, until)
    SELECT $1::bigint, clock_timestamp() + make_interval(secs => $2::float8) WHERE EXISTS (SELECT FROM dead_letters)
    ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, until = clock_timestamp() + make_interval(secs => $2::float8)
    WHERE p.holder = excluded.holder OR p.until < clock_timestamp()
        OR p.until > clock_timestamp() + 2 * make_interval(secs => $2::float8)
    RETURNING true";

/// The oldest letters, at most `$1`, and about `$2` bytes of keys and values; at least one letter. Without those of
/// [`UNREADABLE`].
const LETTERS: &str = "SELECT number, topic, partition, kafka_offset, record_time, key, value, header_names,
        header_values, reason
    FROM (SELECT *, coalesce(sum(coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)) OVER (
            ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM (
            SELECT * FROM dead_letters WHERE array_position(header_names, NULL::bytea) IS NULL
            ORDER BY number LIMIT $1
        ) AS oldest) AS sized
    WHERE before < $2::bigint ORDER BY number";

/// The oldest letter that has a header without a name, which no record has: somebody changed it by hand.
pub(super) const UNREADABLE: &str = "SELECT number FROM dead_letters
    WHERE array_position(header_names, NULL::bytea) IS NOT NULL ORDER BY number LIMIT 1";

/// Removes these letters, but not others that got their numbers after the database was put back. Then `$6` is no longer
/// the publisher.
const PUBLISHED: &str = "WITH gone AS (
        DELETE FROM dead_letters d
        USING unnest($1::bigint[], $2::text[], $3::integer[], $4::bigint[], $5::bigint[])
            AS sent (number, topic, partition, kafka_offset, record_time)
        WHERE d.number = sent.number AND d.topic = sent.topic AND d.partition = sent.partition
            AND d.kafka_offset = sent.kafka_offset AND d.record_time IS NOT DISTINCT FROM sent.record_time
    )
    UPDATE dead_letter_publisher SET until = '-infinity' WHERE holder = $6";

/// The prepared statements.
///
/// A batch is written with one of two kinds: statements that end the transaction if they do not find what was expected,
/// so that COMMIT can be sent right behind them, and statements that tell what they found.
pub(super) struct Statements {
    pub(super) numbers: Statement,
    pub(super) sequence: Statement,
    pub(super) accounts: Statement,
    pub(super) accounts_locked: Statement,
    pub(super) ids: Statement,
    pub(super) surely: Writing,
    pub(super) asking: Writing,
    pub(super) offsets: Statement,
    pub(super) insert_entries: Statement,
    pub(super) insert_letter: Statement,
    pub(super) lock_sequence: Statement,
    pub(super) commit_entries: Statement,
    pub(super) commit_nothing: Statement,
    pub(super) give_up: Statement,
    pub(super) fate: Statement,
    pub(super) take_over: Statement,
    pub(super) publish: Statement,
    pub(super) letters: Statement,
    pub(super) published: Statement,
    /// The table `ledger_sequence`.
    pub(super) ledger: i64,
}

/// The statements that find out whether all is as a batch expects it.
pub(super) struct Writing {
    pub(super) recalled: Statement,
    pub(super) lock_accounts: Statement,
    pub(super) insert_accounts: Statement,
    pub(super) update_accounts: Statement,
    pub(super) insert_ids: Statement,
    pub(super) update_offsets: Statement,
}

/// Wraps `statement` so that it ends the transaction unless it finds as many rows as its last parameter says.
fn expecting(statement: &str, last: usize) -> String {
    format!("WITH found AS ({statement}) SELECT expect_rows(count(*), ${last}) FROM found")
}

impl Writing {
    /// Those that end the transaction themselves.
    async fn surely(client: &Client) -> Result<Self, Error> {
        let texts = [
            expecting(RECALLED, 3),
            expecting(LOCK_ACCOUNTS, 4),
            expecting(&format!("{INSERT_ACCOUNTS} RETURNING 1"), 7),
            expecting(&format!("{UPDATE_ACCOUNTS} RETURNING 1"), 9),
            INSERT_IDS.to_owned(),
            expecting(UPDATE_OFFSETS, 7),
        ];
        Self::prepare(client, &texts).await
    }

    /// Those that say what they found.
    async fn asking(client: &Client) -> Result<Self, Error> {
        let ids = format!("{INSERT_IDS} ON CONFLICT DO NOTHING");
        let texts =
            [RECALLED, LOCK_ACCOUNTS, INSERT_ACCOUNTS, UPDATE_ACCOUNTS, &ids, UPDATE_OFFSETS].map(str::to_owned);
        Self::prepare(client, &texts).await
    }

    async fn prepare(client: &Client, texts: &[String; 6]) -> Result<Self, Error> {
        let [recalled, accounts, opened, changed, ids, offsets] = texts;
        let (recalled, lock_accounts, insert_accounts, update_accounts, insert_ids, update_offsets) = tokio::try_join!(
            client.prepare(recalled),
            client.prepare(accounts),
            client.prepare(opened),
            client.prepare(changed),
            client.prepare(ids),
            client.prepare(offsets),
        )?;
        Ok(Writing { recalled, lock_accounts, insert_accounts, update_accounts, insert_ids, update_offsets })
    }
}

impl Statements {
    /// In one round trip, since work waits while a connection is made anew.
    pub(super) async fn prepare(client: &Client, ledger: i64) -> Result<Self, Error> {
        // On the heap: together they would overflow a worker's stack without optimizations.
        let writing = async { tokio::try_join!(Box::pin(Writing::surely(client)), Box::pin(Writing::asking(client))) };
        let looking_up = async {
            tokio::try_join!(
                client.prepare(NUMBERS),
                client.prepare(SEQUENCE),
                client.prepare(ACCOUNTS),
                client.prepare(ACCOUNTS_LOCKED),
                client.prepare(IDS),
                client.prepare(OFFSETS),
            )
        };
        let keeping = async {
            tokio::try_join!(
                client.prepare(INSERT_ENTRIES),
                client.prepare(INSERT_LETTER),
                client.prepare(LOCK_SEQUENCE),
                client.prepare(COMMIT_ENTRIES),
                client.prepare(COMMIT_NOTHING),
                client.prepare(GIVE_UP),
                client.prepare(FATE),
            )
        };
        let others = async {
            tokio::try_join!(
                client.prepare(TAKE_OVER),
                client.prepare(PUBLISH),
                client.prepare(LETTERS),
                client.prepare(PUBLISHED)
            )
        };
        let (writing, looking_up, keeping, others) = tokio::try_join!(writing, looking_up, keeping, others)?;
        let (surely, asking) = writing;
        let (numbers, sequence, accounts, accounts_locked, ids, offsets) = looking_up;
        let (insert_entries, insert_letter, lock_sequence, commit_entries, commit_nothing, give_up, fate) = keeping;
        let (take_over, publish, letters, published) = others;
        Ok(Statements {
            numbers,
            sequence,
            accounts,
            accounts_locked,
            ids,
            surely,
            asking,
            offsets,
            insert_entries,
            insert_letter,
            lock_sequence,
            commit_entries,
            commit_nothing,
            give_up,
            fate,
            take_over,
            publish,
            letters,
            published,
            ledger,
        })
    }
}
