//! A connection: made with time limits, and given up when it does not answer.

use std::fmt::Display;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postgres_native_tls::MakeTlsConnector;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Config, Error, Row};

use super::database::Fault;
use super::error::PgError;
use super::settings::Settings;
use super::sql::{ID_TAKEN, NUMBER_TAKEN, UNEXPECTED};
use super::standing::Standing;
use super::tls::Trust;

/// How much longer than the server's own limit an answer may take.
const GRACE: Duration = Duration::from_secs(1);

/// How long a lock is waited for at most: while one batch waits, all others do. Instances wait for one another, mostly
/// for milliseconds.
const LOCK: Duration = Duration::from_secs(1);

/// How to connect: the settings, checked.
#[derive(Clone)]
pub(super) struct Connector {
    /// One for each host.
    hosts: Vec<Config>,
    tls: MakeTlsConnector,
    session: String,
    connect_timeout: Duration,
    /// Raised when another server may be behind the address: older connections are of no use then.
    generation: Arc<Mutex<u64>>,
    /// What was found about the database last.
    standing: Arc<Mutex<Standing>>,
    /// How long one answer may take.
    pub(super) limit: Duration,
}

impl Connector {
    pub(super) fn new(settings: &Settings) -> Result<Self, PgError> {
        let (trust, url) = Trust::split(&settings.url, settings.root_certificate.as_deref())?;
        let config = Config::from_str(&url).map_err(|error| PgError::Settings { what: text(&error) })?;
        let mut hosts = hosts(config);
        for host in &mut hosts {
            host.application_name(&settings.application_name)
                .connect_timeout(settings.connect_timeout)
                .tcp_user_timeout(settings.statement_timeout + GRACE)
                .keepalives_idle(Duration::from_secs(10))
                .keepalives_interval(Duration::from_secs(2))
                .keepalives_retries(3);
            if trust.is_asked_for() {
                // Otherwise a man in the middle could claim that the server has no TLS.
                host.ssl_mode(SslMode::Require);
            }
        }
        let tls = trust.connector()?;
        let limit = settings.statement_timeout.as_millis().max(1);
        let lock = LOCK.min(settings.statement_timeout / 2).as_millis().max(1);
        // An abandoned transaction must not keep its locks; an answered commit must survive; and a role that is subject
        // to row security is refused, even if its policy shows every row: hidden rows would count as missing.
        let session = format!(
            "SET statement_timeout = {limit}; SET lock_timeout = {lock}; SET idle_in_transaction_session_timeout = {limit};
             SET row_security = off;
             SELECT set_config('synchronous_commit', 'on', false)
             WHERE current_setting('synchronous_commit') = 'off'"
        );
        let limit = settings.statement_timeout + GRACE;
        let connect_timeout = settings.connect_timeout;
        Ok(Connector {
            hosts,
            tls,
            session,
            connect_timeout,
            generation: Arc::default(),
            standing: Arc::default(),
            limit,
        })
    }

    /// From now on every connection uses this schema, which is named as in SQL.
    pub(super) fn in_schema(mut self, schema: &str) -> Self {
        self.session.push_str(&format!("; SET search_path = {schema}"));
        self
    }

    /// Causes every connection of this connector and its clones to be replaced.
    pub(super) fn renew(&self) {
        *self.generation.lock() += 1;
    }

    /// What was found of the database last.
    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// Finds out whether the database can be used.
    pub(super) async fn look(&self, link: &Link) -> Result<Standing, Fault> {
        let standing = Standing::look(link).await?;
        self.standing.lock().clone_from(&standing);
        Ok(standing)
    }

    /// To the first of the hosts that answers in time.
    pub(super) async fn connect(&self) -> Result<Link, Fault> {
        let first = match self.hosts.first().map(Config::get_load_balance_hosts) {
            Some(LoadBalanceHosts::Random) => RandomState::new().hash_one(()) as usize % self.hosts.len(),
            _ => 0,
        };
        let mut connected = Err(Fault::Unavailable("no host is named".to_owned()));
        for host in self.hosts.iter().cycle().skip(first).take(self.hosts.len()) {
            connected = self.connect_to(host).await;
            if connected.is_ok() {
                break;
            }
        }
        connected
    }

    async fn connect_to(&self, host: &Config) -> Result<Link, Fault> {
        let made_in = *self.generation.lock();
        let connecting = async {
            let (client, connection) = host.connect(self.tls.clone()).await?;
            let task = tokio::spawn(async move {
                // Whoever waits for an answer is told the same.
                let _ = connection.await;
            });
            let (tls, generation) = (self.tls.clone(), self.generation.clone());
            let link = Link { client, task, tls, limit: self.limit, made_in, generation };
            link.client.batch_execute(&self.session).await?;
            Ok(link)
        };
        match timeout(self.connect_timeout + GRACE, connecting).await {
            Ok(connected) => connected.map_err(|error: Error| fault(&error)),
            Err(_) => Err(Fault::Unavailable("it does not answer".to_owned())),
        }
    }
}

/// One configuration per host: a timeout for all hosts together would be used up by the first one that hangs.
fn hosts(config: Config) -> Vec<Config> {
    let (names, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = names.len().max(addresses.len());
    let fit = |named: usize| named == 0 || named == count;
    if count < 2 || !fit(names.len()) || !fit(addresses.len()) || !(fit(ports.len()) || ports.len() == 1) {
        // Where they do not fit together, connecting says so.
        return vec![config];
    }
    let mut common = Config::new();
    common
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    if let Some(user) = config.get_user() {
        common.user(user);
    }
    if let Some(password) = config.get_password() {
        common.password(password);
    }
    if let Some(name) = config.get_dbname() {
        common.dbname(name);
    }
    if let Some(options) = config.get_options() {
        common.options(options);
    }
    let host = |at: usize| {
        let mut host = common.clone();
        match names.get(at) {
            Some(Host::Tcp(name)) => drop(host.host(name)),
            Some(Host::Unix(path)) => drop(host.host_path(path)),
            None => {}
        }
        if let Some(address) = addresses.get(at) {
            host.hostaddr(*address);
        }
        if let Some(port) = ports.get(at).or(ports.first()) {
            host.port(*port);
        }
        host
    };
    (0..count).map(host).collect()
}

/// A connection. Dropping it closes it at once, whatever is under way.
pub(super) struct Link {
    pub(super) client: Client,
    task: JoinHandle<()>,
    tls: MakeTlsConnector,
    limit: Duration,
    made_in: u64,
    generation: Arc<Mutex<u64>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// With another time that one answer may take.
    pub(super) fn patient(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Has the server give up what it is doing for this connection.
    pub(super) async fn cancel(&self) {
        // It is done without being heard of again.
        let _ = timeout(GRACE, self.client.cancel_token().cancel_query(self.tls.clone())).await;
    }

    /// Whether it is of no use any more.
    pub(super) fn is_closed(&self) -> bool {
        let is_old = *self.generation.lock() != self.made_in;
        is_old || self.client.is_closed() || self.task.is_finished()
    }

    /// The answer, unless it takes too long.
    pub(super) async fn timed<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Broken> {
        match timeout(self.limit, answer).await {
            Ok(result) => result.map_err(|error| Broken {
                fault: fault(&error),
                lost: error.code().is_none_or(is_of_schema) || is_outdated(&error) || is_of_standby(&error),
                unexpected: is_unexpected(&error),
            }),
            Err(_) => Err(Broken::lost("it does not answer")),
        }
    }
}

/// An answer that did not come.
pub(super) struct Broken {
    pub(super) fault: Fault,
    /// Whether the connection is of no use any more.
    pub(super) lost: bool,
    /// Whether a statement found something else than its batch was decided from.
    pub(super) unexpected: bool,
}

impl Broken {
    pub(super) fn lost(what: &str) -> Self {
        Broken { fault: Fault::Unavailable(what.to_owned()), lost: true, unexpected: false }
    }
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Broken { fault, lost: false, unexpected: false }
    }
}

/// Reads a column. If its type is not ours, somebody has to intervene.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, index: impl RowIndex + Display) -> Result<T, Fault> {
    row.try_get(index).map_err(|error| Fault::Failed(text(&error)))
}

fn is_unexpected(error: &Error) -> bool {
    let Some(error) = error.as_db_error() else { return false };
    error.code().code() == UNEXPECTED || error.constraint() == Some(ID_TAKEN)
}

/// What an error means for what was asked.
pub(super) fn fault(error: &Error) -> Fault {
    let what = text(error);
    let Some(code) = error.code() else {
        // The server said nothing: it is gone, or the way to it. (A wrong password has a code.)
        return if is_distrust(error) { Fault::Failed(what) } else { Fault::Unavailable(what) };
    };
    match code.code().get(..2) {
        _ if error.as_db_error().and_then(DbError::constraint).is_some_and(|it| NUMBER_TAKEN.contains(&it)) => {
            Fault::Numbered(what)
        }
        _ if *code == SqlState::LOCK_NOT_AVAILABLE => Fault::Locked(what),
        _ if is_of_schema(code) => Fault::Unavailable(what),
        // A column that is not ours: we fill all of ours.
        _ if *code == SqlState::NOT_NULL_VIOLATION => Fault::Unfilled(what),
        Some("22" | "23" | "54") => Fault::Refused(what),
        Some("08" | "25" | "40" | "53" | "55" | "57") => Fault::Unavailable(what),
        _ if is_of_standby(error) || is_outdated(error) => Fault::Unavailable(what),
        // A pooler that gives each transaction another session: prepared statements are missing there, or are somebody
        // else's.
        _ if ["26000", "42P05"].contains(&code.code()) => {
            Fault::Failed(format!("{what}; a pooler in between must pool by session, not by transaction"))
        }
        _ => Fault::Failed(what),
    }
}

/// Whether the server refuses to write because it is, or became, a standby. That lasts until it is promoted, or another
/// server is behind the address; so each try makes a new connection.
fn is_of_standby(error: &Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) || is_raised_by(error, "call_bool_check_hook")
}

/// Whether a part of the schema is missing, as while a dump is restored. A new connection finds out whether that is
/// over.
fn is_of_schema(code: &SqlState) -> bool {
    let missing = [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_OBJECT,
        SqlState::INVALID_SCHEMA_NAME,
        // A key that ON CONFLICT names.
        SqlState::INVALID_COLUMN_REFERENCE,
    ];
    missing.contains(code)
}

/// Whether a table has changed since the statement was prepared: a new connection prepares it again.
fn is_outdated(error: &Error) -> bool {
    is_raised_by(error, "RevalidateCachedQuery")
}

/// Whether something is "not supported", by the routine of the server that says so: its message may be in any language.
fn is_raised_by(error: &Error, routine: &str) -> bool {
    let server = error.as_db_error().filter(|server| *server.code() == SqlState::FEATURE_NOT_SUPPORTED);
    server.and_then(DbError::routine) == Some(routine)
}

/// Whether the server could not prove its identity.
fn is_distrust(error: &Error) -> bool {
    // A connection that breaks during the handshake is an error of TLS too.
    causes(error).any(|cause| cause.is::<native_tls::Error>())
        && !causes(error).any(|cause| cause.is::<std::io::Error>())
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

/// What is wrong, with what the server says about it.
pub(super) fn text(error: &Error) -> String {
    let Some(server) = error.as_db_error() else {
        return causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    };
    let named = [("column", server.column()), ("constraint", server.constraint()), ("table", server.table())];
    let named: String = named.iter().filter_map(|(kind, name)| Some(format!(", {kind} {}", (*name)?))).collect();
    format!("{} ({}{named})", server.message(), server.code().code())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D8: several hosts are taken apart where they can be connected to, and left to the driver's refusal where they
    /// cannot.
    #[test]
    fn hosts_that_do_not_fit_are_left_together() {
        let parts = |text: &str| hosts(Config::from_str(text).unwrap()).len();
        for (text, expected) in [
            ("host=a,b port=1", 2),
            ("host=a,b port=1,2", 2),
            ("host=a,b hostaddr=10.0.0.1,10.0.0.2", 2),
            ("hostaddr=10.0.0.1,10.0.0.2", 2),
            ("host=a,b hostaddr=10.0.0.1", 1),
            ("host=a hostaddr=10.0.0.1,10.0.0.2", 1),
            ("host=a,b port=1,2,3", 1),
            ("host=a", 1),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }
}
