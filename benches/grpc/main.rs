//! The service over loopback: against an empty tonic service with the same messages, on disk, and by the batch.
//!
//! `cargo bench --bench grpc -- [empty|durable|batches|burst|all]`: single calls in memory against the empty service;
//! durable ones against the same in memory, the empty service and the disk; durable batches, as calls and as streams;
//! 1,000 reads at the same time, through the crate as well, against requirement A4. `scripts/peers.sh`
//! builds a lock-based service in Go and runs `go`: durable calls against it. Each service runs in a process of its own,
//! on the same processors as the one load generator here, which drives them in turn.
//! By environment: `GRPC_MILLISECONDS` a measurement (1000), `GRPC_REPETITIONS` (7), `GRPC_CONNECTIONS` (8),
//! `GRPC_CALLERS` (16, 64 and 256, one number instead), each with one call under way; `GRPC_TRANSFERS` a measurement by
//! the batch (400000), `GRPC_BATCH` (10, 100, 1000 and 8000, one number instead); `GRPC_SERVICE` another build of this
//! program, whose services are driven; `GRPC_GO` the Go service.

#![allow(missing_docs, reason = "a program, not a library")]

mod batches;
mod burst;
mod durable;
mod empty;
mod frames;
mod raw;
mod served;
mod unary;
#[path = "../workload/mod.rs"]
mod workload;

use std::sync::Arc;
use std::time::Duration;

use equipoise::grpc::proto::account_service_server::AccountServiceServer;
use equipoise::{AccountId, Ledger};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use workload::{account_ids, data_directory, open_accounts};

const ACCOUNTS: usize = 100_000;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--serve").skip(1);
    let runtime = Runtime::new().expect("a runtime");
    match arguments.next().as_deref() {
        Some("ours") => runtime.block_on(serve_ours(Ledger::builder().history(100_000).reserve(ACCOUNTS).build())),
        Some("disk") => {
            let dir = data_directory();
            let ledger = Ledger::builder().reserve(ACCOUNTS).open(dir.path()).expect("opens");
            runtime.block_on(serve_ours(ledger));
        }
        Some("empty") => runtime.block_on(serve_empty()),
        Some(other) => panic!("--serve {other}: ours, disk or empty"),
        None => {
            // Cargo passes `--bench`.
            let asked: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
            let wanted = |name| asked.is_empty() || asked.iter().any(|asked| asked == name || asked == "all");
            let settings = Settings::from_environment();
            if wanted("empty") {
                runtime.block_on(unary::against_empty(&settings));
            }
            if wanted("durable") {
                runtime.block_on(durable::on_disk(&settings));
            }
            // Asked for by name only: it has to be built first.
            if let Some(program) = std::env::var_os("GRPC_GO").filter(|_| asked.iter().any(|asked| asked == "go")) {
                runtime.block_on(unary::against_go(&settings, &program));
            }
            if wanted("batches") {
                runtime.block_on(batches::on_disk(&settings));
            }
            if wanted("burst") {
                runtime.block_on(burst::of_reads(&settings));
            }
        }
    }
}

struct Settings {
    duration: Duration,
    repetitions: u64,
    connections: usize,
    callers: Vec<u64>,
    transfers: usize,
    batches: Vec<usize>,
    ids: Arc<Vec<AccountId>>,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().expect("a number in the environment"))
        };
        Settings {
            duration: Duration::from_millis(number("GRPC_MILLISECONDS").unwrap_or(1_000)),
            repetitions: number("GRPC_REPETITIONS").unwrap_or(7),
            connections: number("GRPC_CONNECTIONS").unwrap_or(8) as usize,
            callers: number("GRPC_CALLERS").map_or_else(|| vec![16, 64, 256], |callers| vec![callers]),
            transfers: number("GRPC_TRANSFERS").unwrap_or(400_000) as usize,
            batches: number("GRPC_BATCH").map_or_else(|| vec![10, 100, 1_000, 8_000], |batch| vec![batch as usize]),
            ids: Arc::new(account_ids(ACCOUNTS)),
        }
    }
}

// The services.

async fn bind() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    listener
}

async fn serve_ours(ledger: Ledger) {
    open_accounts(&ledger, &account_ids(ACCOUNTS));
    ledger.wait_durable(ledger.sequence()).expect("an open ledger");
    let served = equipoise::grpc::serve(bind().await, ledger, equipoise::grpc::Options::default(), orphaned());
    served.await.expect("served");
}

async fn serve_empty() {
    let listener = bind().await;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder().add_service(AccountServiceServer::new(empty::Empty));
    served.serve_with_incoming_shutdown(incoming, orphaned()).await.expect("served");
}

/// Resolves when the parent has no more use for it: the parent holds the other end of the standard input.
async fn orphaned() {
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = ended.await;
}
