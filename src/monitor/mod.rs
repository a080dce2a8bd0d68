//! What operators look at, over HTTP: metrics, and whether the service is alive and ready.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 as long as the process can answer |
//! | `/readyz` | 200 when every part is ready, else 503 with a line for each that is not |
//! | `/metrics` | the OpenMetrics text that Prometheus reads |

mod ledger;
mod log;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use ledger::LedgerMetrics;
pub use log::LogMetrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The most connections at once; others wait. Connections take descriptors that the service needs.
const MAX_CONNECTIONS: usize = 64;
/// How long a whole connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the accept loop rests when the system has no descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What every metric's name begins with.
const PREFIX: &str = "equipoise";

/// Says why a part of the service is not ready; None when it is.
type Unready = Box<dyn Fn() -> Option<String> + Send>;

/// The metrics of this process, and which of its parts are ready.
pub struct Monitor {
    registry: Mutex<Registry>,
    /// By name.
    parts: Mutex<BTreeMap<&'static str, Unready>>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Monitor").field(&self.unready_parts()).finish()
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Monitor { registry: Mutex::new(Registry::with_prefix(PREFIX)), parts: Mutex::default() }
    }
}

impl Monitor {
    /// Adds metrics.
    pub fn register(&self, metrics: impl FnOnce(&mut Registry)) {
        metrics(&mut self.registry.lock());
    }

    /// Asks `unready` from now on why `part` is not ready.
    pub fn watch(&self, part: &'static str, unready: impl Fn() -> Option<String> + Send + 'static) {
        self.parts.lock().insert(part, Box::new(unready));
    }

    /// A line for each part that is not ready.
    fn unready_parts(&self) -> String {
        let parts = self.parts.lock();
        parts.iter().filter_map(|(part, why)| Some(format!("{part}: {}\n", why()?))).collect()
    }
}

/// Answers on `listener` until `shutdown` is ready: one request a connection.
pub async fn serve(listener: TcpListener, monitor: Arc<Monitor>, shutdown: impl Future<Output = ()>) {
    serve_within(PATIENCE, listener, monitor, shutdown).await;
}

async fn serve_within(
    patience: Duration,
    listener: TcpListener,
    monitor: Arc<Monitor>,
    shutdown: impl Future<Output = ()>,
) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(monitor);
    let mut http = http1::Builder::new();
    // Its formatter panics on a wall clock before 1970.
    http.keep_alive(false).auto_date_header(false);
    let (mut connections, mut shutdown) = (JoinSet::new(), pin!(shutdown));
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(router.clone());
                    connections.spawn(timeout(patience, http.serve_connection(TokioIo::new(stream), service)));
                }
                // The error may last (no descriptors left): do not spin on it.
                Err(_) => sleep(ACCEPT_REST).await,
            },
        }
    }
}

async fn readyz(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    match monitor.unready_parts() {
        unready if unready.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        unready => (StatusCode::SERVICE_UNAVAILABLE, unready),
    }
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &monitor.registry.lock()) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => {
            let text = format!("cannot write the metrics: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::{AccountId, Ledger};

    async fn response(response: impl IntoResponse) -> (StatusCode, String) {
        let response = response.into_response();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// D9: not ready as long as one part is not, and it says which and why.
    #[tokio::test]
    async fn every_part_must_be_ready() {
        let monitor = Arc::new(Monitor::default());
        monitor.watch("ledger", || Some("recovering".to_owned()));
        monitor.watch("kafka", || None);
        let (status, text) = response(readyz(State(monitor.clone())).await).await;
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "ledger: recovering\n"));
        monitor.watch("ledger", || None);
        assert_eq!(response(readyz(State(monitor)).await).await.0, StatusCode::OK);
    }

    /// D9: connections that say nothing, or not all of it, are few and end: an operator gets an answer all the same.
    #[tokio::test]
    async fn connections_that_hold_on_are_few_and_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_within(Duration::from_millis(500), listener, Arc::default(), std::future::pending()));
        let began = Instant::now();
        let mut held = Vec::new();
        for number in 0..2 * MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all([&b""[..], b"GET / HTTP/1.1\r\n"][number % 2]).await.unwrap();
            held.push(stream);
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut text = String::new();
        let answered = stream.read_to_string(&mut text);
        tokio::time::timeout(Duration::from_secs(10), answered).await.expect("in time").unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\nok\n"), "{text}");
        // Two rounds had to end before.
        assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
        for mut stream in held {
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }
    }

    /// D9: the numbers are those of the moment at which they are asked for.
    #[tokio::test]
    async fn metrics_are_read_when_they_are_asked_for() {
        let (monitor, ledger) = (Arc::new(Monitor::default()), Ledger::new());
        monitor.register(|registry| registry.register_collector(Box::new(LedgerMetrics::new(ledger.clone()))));
        for name in ["a", "b"] {
            ledger.create(&AccountId::new(name).unwrap(), 1).unwrap();
            let (status, text) = response(metrics(State(monitor.clone())).await).await;
            assert_eq!(status, StatusCode::OK);
            assert!(text.contains(&format!("\nequipoise_accounts {}\n", ledger.stats().accounts)), "{text}");
            assert!(text.ends_with("# EOF\n"), "{text}");
        }
    }
}
