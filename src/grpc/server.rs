//! The wiring: accepts connections, within limits, and ends them all soon after it is told to.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::backend::{Backend, Service};
use super::deadline::Tasks;
use super::door::Door;
use super::opening::Opening;
use super::unready::Unready;
use super::upload::{Room, WAITING};
use super::walk::Walks;
use super::{Error, Options, proto};

/// Open files kept for everything but connections.
const RESERVED_FILES: u64 = 64;
/// How many streams a client may reset faster than the server accepts them (one that cancels much is no attack: its
/// other calls go on), and how many errors of a client on single streams its connection survives.
const MAX_RESETS: usize = 10_000;
/// The longest header block.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// How long the accept loop rests when the system has no descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// How long closing the ledger may take, in addition to [`Options::shutdown_grace`].
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// How long clients may hold on to a service whose ledger could not be opened.
const NEVER_OPENED_GRACE: Duration = Duration::from_millis(300);
/// The most that HTTP/2 allows.
const MAX_WINDOW: usize = (1 << 31) - 1;
/// How many bytes of a stream may be unread: its client goes on sending while the service gets round to reading.
const STREAM_WINDOW: usize = 512 * 1024;
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves `ledger` (a [`Ledger`](crate::Ledger), or an [`Opening`]) on `listener` until `shutdown` is ready, the ledger
/// cannot be opened, or its journal fails; then ends every stream, lets calls under way finish within
/// [`Options::shutdown_grace`], cuts what is left, and closes the ledger.
///
/// # Errors
/// [`enum@Error`] when the service cannot start or ended by itself. Trouble with single connections is logged.
pub async fn serve(
    listener: TcpListener,
    ledger: impl Into<Opening>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let mut opening = ledger.into();
    let (stop, stopping) = watch::channel(false);
    let (backend, mut server) = wire(&options, &opening, &stopping)?;
    backend.health.set_not_serving::<Service>().await;
    let mut opened = None;
    let life = async {
        tokio::select! {
            biased;
            () = shutdown => Ok(()),
            error = backend.live(&mut opening, &mut opened) => Err(error),
        }
    };
    let result = server.accept_until(&listener, &backend.walks, life).await;

    for name in ["", Service::NAME] {
        backend.health.set_service_status(name, ServingStatus::NotServing).await;
    }
    drop(listener);
    stop.send_replace(true);
    let grace = match result {
        Err(Error::Open(_)) => NEVER_OPENED_GRACE,
        _ => options.shutdown_grace,
    };
    let latest = Instant::now() + grace + CLOSE_TIME;
    let ((), late) = tokio::join!(server.drain(grace), opening.cancel(grace));
    drop(server);
    match opened.or(late) {
        Some(books) => result.and(backend.close(books, latest).await),
        None => result,
    }
}

/// Builds the backend and the server in front of it.
fn wire(options: &Options, opening: &Opening, stopping: &watch::Receiver<bool>) -> Result<(Backend, Server), Error> {
    let (health, others) = health_and_reflection()?;
    let backend = Backend {
        accounts: Arc::default(),
        walks: Arc::new(Walks::new(options.walk_lease, options.max_walks)),
        health,
        stopping: stopping.clone(),
        max_message_bytes: options.max_message_bytes,
    };
    let door = Door {
        accounts: backend.accounts.clone(),
        unready: backend.service(Unready { recovery: opening.recovery() }),
        others,
        places: Arc::new(Semaphore::const_new(0)),
        max_request_streams: options.max_request_streams,
        room: Room::new(options.max_begun_bytes, options.max_message_bytes),
        stopping: stopping.clone(),
        cap: options.request_timeout,
    };
    let server = Server {
        http: http(options),
        door,
        stopping: stopping.clone(),
        limit: connection_limit(options.max_connections)?,
        keepalive_timeout: options.keepalive_timeout,
        connections: JoinSet::new(),
        complained: None,
    };
    Ok((backend, server))
}

/// The services besides ours, and the handle that sets the health status.
fn health_and_reflection() -> Result<(HealthReporter, Routes), Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    let others = Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok((health, others))
}

fn http(options: &Options) -> http2::Builder<Tasks> {
    // Streams that are not read, and calls that wait for room, leave one stream's window to the connection's other
    // calls.
    let window = STREAM_WINDOW.saturating_mul(options.max_request_streams.saturating_add(WAITING + 1));
    let mut http = http2::Builder::new(Tasks);
    http.timer(TokioTimer::new())
        // gRPC has no use for it, and its formatter panics on a wall clock before 1970.
        .auto_date_header(false)
        .max_concurrent_streams(options.max_streams)
        .initial_stream_window_size(STREAM_WINDOW as u32)
        .initial_connection_window_size(window.min(MAX_WINDOW) as u32)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    http
}

/// The number of connections asked for, or that the process may open, after raising its soft limit where that is
/// allowed.
fn connection_limit(asked: usize) -> Result<usize, Error> {
    let wanted = (asked as u64).saturating_add(RESERVED_FILES);
    let files = rlimit::increase_nofile_limit(wanted).unwrap_or(wanted);
    let room = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX);
    if room == 0 {
        return Err(Error::NoConnections { files, least: RESERVED_FILES + 1 });
    }
    if room < asked {
        tracing::warn!(asked, room, "the limit on open files allows fewer connections than configured");
    }
    Ok(asked.min(room))
}

struct Server {
    http: http2::Builder<Tasks>,
    door: Door,
    stopping: watch::Receiver<bool>,
    limit: usize,
    keepalive_timeout: Duration,
    connections: JoinSet<()>,
    complained: Option<Instant>,
}

impl Server {
    /// Accepts until `life` ends.
    async fn accept_until<T>(&mut self, listener: &TcpListener, walks: &Walks, life: impl Future<Output = T>) -> T {
        let mut life = pin!(life);
        let mut sweep = interval(Duration::from_secs(1));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ended = &mut life => return ended,
                _ = sweep.tick() => walks.sweep(),
                Some(_) = self.connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.accepted(stream),
                    Err(error) => {
                        self.complain(&format!("cannot accept a connection: {error}"));
                        // The error may last (no descriptors left): do not spin on it.
                        sleep(ACCEPT_REST).await;
                    }
                },
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream) {
        if self.connections.len() >= self.limit {
            drop(stream);
            self.complain(&format!("refused a connection: {} are open, the limit", self.limit));
            return;
        }
        let (http, door, stopping) = (self.http.clone(), self.door.of_connection(), self.stopping.clone());
        self.connections.spawn(connection(stream, http, door, stopping, self.keepalive_timeout));
    }

    /// Logs at most once in ten seconds: whoever causes it can cause a million.
    fn complain(&mut self, what: &str) {
        if self.complained.is_none_or(|last| last.elapsed() >= Duration::from_secs(10)) {
            self.complained = Some(Instant::now());
            tracing::error!("{what}");
        }
    }

    /// Waits for the connections to end by themselves, at most `grace`.
    async fn drain(&mut self, grace: Duration) {
        let ended = timeout(grace, async { while self.connections.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(connections = self.connections.len(), "cutting connections that did not end in time");
            self.connections.shutdown().await;
        }
    }
}

async fn connection(
    stream: TcpStream,
    http: http2::Builder<Tasks>,
    door: Door,
    mut stopping: watch::Receiver<bool>,
    patience: Duration,
) {
    // Fails only on a socket that is dead already.
    let _ = stream.set_nodelay(true);
    let speaks = tokio::select! {
        speaks = timeout(patience, speaks_http2(&stream)) => speaks.unwrap_or(false),
        _ = stopping.wait_for(|stopping| *stopping) => false,
    };
    if !speaks {
        return;
    }
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), door));
    tokio::select! {
        ended = &mut connection => return drop(ended),
        _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
    }
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Whether the client begins as HTTP/2 does. hyper would wait for that as long as the client likes.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut seen = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut seen).await {
            Ok(0) | Err(_) => return false,
            Ok(bytes) if seen[..bytes] != PREFACE[..bytes] => return false,
            Ok(bytes) if bytes == PREFACE.len() => return true,
            // Peeking is ready at once again: rest.
            Ok(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
