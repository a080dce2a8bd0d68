//! Forgets ids whose window is over, in the background and in small steps.
//!
//! The age of an id counts from its commit, by the database's clock as far as that is believed: a clock that jumps
//! forward, or was ahead at the start, makes no id older. Batches are forgotten in the order of their commits, by one
//! instance at a time; the row of `pruned_ids` says how far that has come. `former_ids` still leads from a forgotten id
//! to the journal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::link::{Broken, Connector, Link, column};
use super::sql::{BEGIN, SESSION};

/// The advisory lock with which only one instance prunes at a time. "equiprun" in ASCII.
const LOCK: i64 = 0x6571_7569_7072_756e;

/// About how many entries one step covers.
const STEP: i64 = 2_000;

/// PostgreSQL cannot compute with longer windows; nobody sees their end.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The shortest and the longest pause while there is nothing to forget.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];

const TRY_LOCK: &str = "SELECT pg_try_advisory_xact_lock($1)";

const NOW: &str = "SELECT extract(epoch FROM clock_timestamp())::float8";

/// `$1`: about how many entries; `$2`: how old they are at least, in seconds, at the time `$3`. An id that was used
/// again since belongs to a later batch, and stays.
const PRUNE: &str = "WITH waiting AS (
        SELECT batch, first_sequence, count, committed_at,
            sum(count) OVER (ORDER BY first_sequence) - count AS before
        FROM (
            SELECT * FROM commits WHERE count > 0 AND first_sequence > (SELECT sequence FROM pruned_ids)
            ORDER BY first_sequence LIMIT 256
        ) AS next
    ), due AS MATERIALIZED (
        SELECT batch, first_sequence + count - 1 AS last FROM waiting
        WHERE before < $1::bigint AND first_sequence < coalesce(
            (SELECT min(first_sequence) FROM waiting WHERE committed_at > to_timestamp($3::float8) - make_interval(secs => $2::float8)),
            9223372036854775807)
    ), pruned AS (
        DELETE FROM processed_events e USING due d JOIN journal_entries j ON j.batch = d.batch
        WHERE e.event_id = j.transaction_id AND e.batch = j.batch AND e.place = j.place AND e.member = j.member
        RETURNING e.event_id, e.batch, e.place, e.member
    ), kept AS (
        INSERT INTO former_ids (event_id, batch, place, member) SELECT event_id, batch, place, member FROM pruned
    ), marked AS (
        UPDATE pruned_ids SET sequence = (SELECT max(last) FROM due) WHERE EXISTS (SELECT FROM due)
    )
    SELECT (SELECT count(*) FROM pruned), (SELECT count(*) FROM due)";

/// What an operator watches of the PostgreSQL store; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Ids forgotten by this instance, since their window was over.
    pub pruned_ids: Counter,
    /// Failed tries to forget some.
    pub prune_failures: Counter,
}

impl Metrics {
    /// Puts them into `registry`, as `postgres_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("postgres");
        registry.register("pruned_ids", "Transaction ids forgotten after their window", self.pruned_ids.clone());
        let failures = self.prune_failures.clone();
        registry.register("prune_failures", "Failed tries to forget transaction ids", failures);
    }
}

/// The task; dropping it ends it.
pub(super) struct Pruning(JoinHandle<()>);

impl Drop for Pruning {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pruning {
    /// Forgets ids `window` after their commits.
    pub(super) fn start(connector: Connector, window: Duration, metrics: Metrics) -> Self {
        // A commit is noted with the time just before it, and may take as long as an answer.
        let age = window.min(LONGEST) + connector.limit;
        Pruning(tokio::spawn(run(connector, window, age, metrics)))
    }
}

/// The time that ids are measured by, in seconds since 1970: no faster than this process's monotonic clock, and from
/// the beginning no later than the database's clock and this machine's.
#[derive(Clone, Copy, Debug)]
struct Believed {
    first: f64,
    since: Instant,
}

impl Believed {
    fn new(database: f64, here: SystemTime, now: Instant) -> Self {
        let here = here.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Believed { first: database.min(here), since: now }
    }

    /// The time when the database's clock says `database`.
    fn at(self, database: f64, now: Instant) -> f64 {
        database.min(self.first + now.duration_since(self.since).as_secs_f64())
    }
}

async fn run(connector: Connector, window: Duration, age: Duration, metrics: Metrics) {
    let idle = (window / 100).clamp(PAUSES[0], PAUSES[1]);
    let (mut link, mut pause, mut believed) = (None, idle, None);
    loop {
        sleep(pause).await;
        let begun = Instant::now();
        pause = match step(&connector, &mut link, &mut believed, age).await {
            Ok(Step { pruned, batches }) => {
                metrics.pruned_ids.inc_by(pruned);
                // At most half of the time.
                if batches > 0 { begun.elapsed() } else { idle }
            }
            Err(Broken { fault, .. }) => {
                tracing::debug!(?fault, "no ids were forgotten");
                metrics.prune_failures.inc();
                link = None;
                PAUSES[1].min(idle * 10)
            }
        };
    }
}

#[derive(Default)]
struct Step {
    pruned: u64,
    batches: u64,
}

async fn step(
    connector: &Connector,
    link: &mut Option<Link>,
    believed: &mut Option<Believed>,
    age: Duration,
) -> Result<Step, Broken> {
    let unfit = |fault| Broken { fault, lost: true, unexpected: false };
    let link = match link {
        Some(link) if !link.is_closed() => link,
        _ => {
            let made = link.insert(connector.connect().await.map_err(unfit)?);
            connector.look(made).await.map_err(unfit)?;
            made.timed(made.client.batch_execute(SESSION)).await?;
            made
        }
    };
    connector.standing().write().map_err(unfit)?;
    let client = &link.client;
    link.timed(client.batch_execute(BEGIN)).await?;
    let locked = link.timed(client.query_one(TRY_LOCK, &[&LOCK])).await?;
    let mut step = Step::default();
    if column(&locked, 0)? {
        let database: f64 = column(&link.timed(client.query_one(NOW, &[])).await?, 0)?;
        let here = Instant::now();
        let now = believed.get_or_insert_with(|| Believed::new(database, SystemTime::now(), here)).at(database, here);
        let row = link.timed(client.query_one(PRUNE, &[&STEP, &age.as_secs_f64(), &now])).await?;
        let [pruned, batches] = [column::<i64>(&row, 0)?, column::<i64>(&row, 1)?].map(i64::cast_unsigned);
        step = Step { pruned, batches };
    }
    link.timed(client.batch_execute("COMMIT")).await?;
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: f64 = 86_400.0;

    /// B4, case A15: a clock that jumps forward makes no id older, at whatever moment; one that is set back makes them
    /// younger.
    #[test]
    fn a_jump_of_the_clock_is_not_believed() {
        let (here, now) = (UNIX_EPOCH + Duration::from_secs(1_000_000), Instant::now());
        let later = now + Duration::from_secs(70);
        let believed = Believed::new(1_000_000.0, here, now);
        assert_eq!(believed.at(1_000_070.0, later), 1_000_070.0);
        assert_eq!(believed.at(1_000_070.0 + DAY, later), 1_000_070.0, "it jumped");
        assert_eq!(believed.at(1_000_000.0 - DAY, later), 1_000_000.0 - DAY, "it was set back");
        assert_eq!(Believed::new(1_000_000.0 + DAY, here, now).at(1_000_070.0 + DAY, later), 1_000_070.0);
        assert_eq!(
            Believed::new(1_000_000.0 - DAY, here, now).at(1_000_070.0, later),
            1_000_070.0 - DAY,
            "it was behind"
        );
    }
}
