//! What a round took.

use std::time::Instant;

use tokio_postgres::Client;

/// A round under way.
pub struct Meter {
    started: Instant,
    pub events: usize,
    here: f64,
    there: f64,
    wal: f64,
}

/// What was seen of a round.
#[derive(Clone, Copy)]
pub struct Round {
    /// Events a second.
    rate: f64,
    /// Processor time for each, of this process and of the server's, in microseconds.
    here: f64,
    there: f64,
    /// Bytes of the write-ahead log for each.
    wal: f64,
}

impl Meter {
    pub async fn new(admin: &Client, database: &str) -> Self {
        let (there, wal) = (server_time(admin, database).await, wal_bytes(admin).await);
        Meter { started: Instant::now(), events: 0, here: processor_time(), there, wal }
    }

    pub async fn read(self, admin: &Client, database: &str) -> Round {
        let (events, elapsed, here) = (self.events as f64, self.started.elapsed(), processor_time());
        let (there, wal) = (server_time(admin, database).await, wal_bytes(admin).await);
        Round {
            rate: events / elapsed.as_secs_f64(),
            here: 1e6 * (here - self.here) / events,
            there: 1e6 * (there - self.there) / events,
            wal: (wal - self.wal) / events,
        }
    }
}

impl Round {
    /// Of each figure the one in the middle.
    pub fn median(rounds: &[Round]) -> Round {
        let figure = |of: fn(&Round) -> f64| sorted(rounds.iter().map(of))[rounds.len() / 2];
        Round {
            rate: figure(|it| it.rate),
            here: figure(|it| it.here),
            there: figure(|it| it.there),
            wal: figure(|it| it.wal),
        }
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Round { rate, here, there, wal } = self;
        write!(
            f,
            "{rate:8.0}/s; for each {here:4.1} us of this process, {there:4.1} us of the server's, {wal:4.0} B of WAL"
        )
    }
}

/// How many times as fast the one was as the other, round by round; and in how much less of the server's processor time.
pub struct Ratios {
    rates: Vec<f64>,
    there: Vec<f64>,
}

impl Ratios {
    pub fn of(one: &[Round], other: &[Round]) -> Self {
        let rounds = || one.iter().zip(other);
        Ratios {
            rates: sorted(rounds().map(|(one, other)| one.rate / other.rate)),
            there: sorted(rounds().map(|(one, other)| other.there / one.there)),
        }
    }

    /// The one in the middle.
    pub fn rate(&self) -> f64 {
        self.rates[self.rates.len() / 2]
    }
}

/// The middle and the ends.
impl std::fmt::Display for Ratios {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |it: &[f64]| format!("{:.2} ({:.2} to {:.2})", it[it.len() / 2], it[0], it[it.len() - 1]);
        write!(f, "{}; by the server's processor time {}", told(&self.rates), told(&self.there))
    }
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// What this process has used of its processors, in seconds.
fn processor_time() -> f64 {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9
}

/// What the sessions with the database have used, in seconds; NaN where the server is on another machine.
async fn server_time(admin: &Client, database: &str) -> f64 {
    let sessions = "SELECT pid FROM pg_stat_activity WHERE datname = $1";
    let pids = admin.query(sessions, &[&database]).await.expect("the sessions");
    let used = |row: &tokio_postgres::Row| {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", row.get::<_, i32>(0))).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    };
    pids.iter().map(|row| used(row).unwrap_or(f64::NAN) / 1e9).sum()
}

/// How far the server's log is, of all databases.
async fn wal_bytes(admin: &Client) -> f64 {
    let query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";
    admin.query_one(query, &[]).await.expect("a place").get(0)
}
