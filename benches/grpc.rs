//! The service against an empty tonic service with the same messages, over loopback.
//!
//! `cargo bench --bench grpc -- [empty|durable|all]`: against the empty service, and the service on disk against itself in
//! memory and against the disk. Each service runs in a process of its own; one load generator here drives them in turn.
//! By environment: `GRPC_MILLISECONDS` a measurement (1000), `GRPC_REPETITIONS` (7), `GRPC_CONNECTIONS` (8),
//! `GRPC_CALLERS` (64), each with one call under way.

#![allow(missing_docs, reason = "a program, not a library")]

mod workload;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::account_service_server::{AccountService, AccountServiceServer};
use equipoise::grpc::proto::*;
use equipoise::{AccountId, Ledger};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use workload::{
    INITIAL, Latencies, Random, account_ids, at_least, at_most, data_directory, fdatasync, median, rate, transaction_id,
};

const ACCOUNTS: usize = 100_000;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--serve").skip(1);
    let runtime = Runtime::new().expect("a runtime");
    match arguments.next().as_deref() {
        Some("ours") => {
            runtime.block_on(serve_ours(Ledger::builder().history(100_000).reserve(ACCOUNTS, 200_000).build()))
        }
        Some("disk") => {
            let dir = data_directory();
            let ledger = Ledger::builder().reserve(ACCOUNTS, 200_000).open(dir.path()).expect("opens");
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
                runtime.block_on(against_empty(&settings));
            }
            if wanted("durable") {
                runtime.block_on(on_disk(&settings));
            }
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
    for account in account_ids(ACCOUNTS) {
        ledger.create(&account, INITIAL).expect("a new account");
    }
    ledger.wait_durable(ledger.sequence()).expect("an open ledger");
    let served = equipoise::grpc::serve(bind().await, ledger, equipoise::grpc::Options::default(), orphaned());
    served.await.expect("served");
}

async fn serve_empty() {
    let listener = bind().await;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder().add_service(AccountServiceServer::new(Empty));
    served.serve_with_incoming_shutdown(incoming, orphaned()).await.expect("served");
}

/// Resolves when the parent is gone: it holds the other end of the standard input.
async fn orphaned() {
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = ended.await;
}

/// Answers with constants.
struct Empty;

type Stream<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl AccountService for Empty {
    type ExecuteStreamStream = Stream<ExecuteBatchResponse>;
    type SnapshotBalancesStream = Stream<SnapshotBalancesResponse>;
    type WatchTransactionsStream = Stream<WatchTransactionsResponse>;

    async fn get_balance(&self, _: Request<GetBalanceRequest>) -> Result<Response<GetBalanceResponse>, Status> {
        Ok(Response::new(GetBalanceResponse { balance: INITIAL, version: 1, sequence: 100_000 }))
    }

    async fn update_balance(
        &self,
        _: Request<UpdateBalanceRequest>,
    ) -> Result<Response<UpdateBalanceResponse>, Status> {
        Ok(Response::new(UpdateBalanceResponse {
            new_balance: INITIAL,
            version: 2,
            sequence: 100_000,
            replayed: false,
            commit_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 999_999_999 }),
        }))
    }

    async fn transfer_funds(
        &self,
        _: Request<TransferFundsRequest>,
    ) -> Result<Response<TransferFundsResponse>, Status> {
        Ok(Response::new(TransferFundsResponse {
            from_balance: INITIAL,
            to_balance: INITIAL,
            from_version: 2,
            to_version: 2,
            sequence: 100_000,
            replayed: false,
            commit_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 999_999_999 }),
        }))
    }

    async fn create_account(
        &self,
        _: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn execute_batch(&self, _: Request<ExecuteBatchRequest>) -> Result<Response<ExecuteBatchResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn execute_stream(
        &self,
        _: Request<Streaming<ExecuteBatchRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn snapshot_balances(
        &self,
        _: Request<SnapshotBalancesRequest>,
    ) -> Result<Response<Self::SnapshotBalancesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_accounts(&self, _: Request<ListAccountsRequest>) -> Result<Response<ListAccountsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_transaction(
        &self,
        _: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch_transactions(
        &self,
        _: Request<WatchTransactionsRequest>,
    ) -> Result<Response<Self::WatchTransactionsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

// The load.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    GetBalance,
    UpdateBalance,
    TransferFunds,
}

/// A service in a process of its own, and connections to it.
struct Served {
    process: Child,
    clients: Vec<AccountServiceClient<Channel>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It is ours, and has nothing to lose.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    async fn start(service: &str, connections: usize) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut process = Command::new(program)
            .args(["--serve", service])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut address = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut address).expect("its address");
        let endpoint = Channel::from_shared(format!("http://{}", address.trim())).expect("an address");
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(AccountServiceClient::new(endpoint.connect().await.expect("a connection")));
        }
        Served { process, clients }
    }

    /// What the process has used of the CPUs (Linux).
    fn cpu_time(&self) -> Duration {
        times(&format!("/proc/{}/stat", self.process.id())).iter().sum()
    }

    /// What its threads of that name have used, in the program and in the system.
    fn thread_time(&self, name: &str) -> [Duration; 2] {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("Linux");
        let mut time = [Duration::ZERO; 2];
        for task in tasks.flatten().map(|task| task.path()) {
            let of_that_name = std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
            if of_that_name {
                let used = times(&task.join("stat").display().to_string());
                time = [time[0] + used[0], time[1] + used[1]];
            }
        }
        time
    }
}

/// Time in the program and in the system, of a `stat` file of /proc.
fn times(stat: &str) -> [Duration; 2] {
    let text = std::fs::read_to_string(stat).expect("Linux");
    let fields: Vec<_> = text.rsplit(") ").next().expect("fields after the name").split(' ').collect();
    [11, 12].map(|field| Duration::from_millis(10 * fields[field].parse::<u64>().expect("ticks")))
}

/// One service under one kind of call.
#[derive(Default)]
struct Series {
    rates: Vec<f64>,
    /// Microseconds of the service's CPU time a call.
    costs: Vec<f64>,
    latencies: Latencies,
}

struct Settings {
    duration: Duration,
    repetitions: u64,
    connections: usize,
    callers: u64,
    ids: Arc<Vec<AccountId>>,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |text| text.parse().expect("a number in the environment"))
        };
        Settings {
            duration: Duration::from_millis(number("GRPC_MILLISECONDS", 1_000)),
            repetitions: number("GRPC_REPETITIONS", 7),
            connections: number("GRPC_CONNECTIONS", 8) as usize,
            callers: number("GRPC_CALLERS", 64),
            ids: Arc::new(account_ids(ACCOUNTS)),
        }
    }
}

async fn against_empty(settings: &Settings) {
    let ours = Served::start("ours", settings.connections).await;
    let empty = Served::start("empty", settings.connections).await;
    let calls = [
        (Call::GetBalance, "GetBalance", 0.9),
        (Call::UpdateBalance, "UpdateBalance", 0.8),
        (Call::TransferFunds, "TransferFunds", 0.8),
    ];
    for (call, name, goal) in calls {
        let mut series: [Series; 2] = Default::default();
        for _ in 0..settings.repetitions {
            for (served, series) in [&ours, &empty].into_iter().zip(&mut series) {
                load(served, call, settings, settings.callers, series).await;
            }
        }
        report(name, goal, &mut series);
    }
}

/// Durable transfers against the same in memory, and against what the disk allows.
async fn on_disk(settings: &Settings) {
    let dir = data_directory();
    let memory = Served::start("ours", settings.connections).await;
    let disk = Served::start("disk", settings.connections).await;
    for callers in [1, 64, 200] {
        let mut series: [Series; 2] = Default::default();
        let (mut floor, mut share) = (Vec::new(), Vec::new());
        for _ in 0..settings.repetitions {
            floor.push(fdatasync(dir.path()).percentile(500).as_secs_f64());
            load(&memory, Call::TransferFunds, settings, callers, &mut series[0]).await;
            let before = (disk.cpu_time(), disk.thread_time("equipoise-flush"));
            load(&disk, Call::TransferFunds, settings, callers, &mut series[1]).await;
            let whole = disk.cpu_time().saturating_sub(before.0).as_secs_f64();
            let flusher = disk.thread_time("equipoise-flush").map(|time| time.as_secs_f64());
            let before = before.1.map(|time| time.as_secs_f64());
            share.push([0, 1].map(|mode| (flusher[mode] - before[mode]) / whole));
        }
        let [in_memory, on_disk] = &mut series;
        let floor = median(&mut floor);
        let (memory_rate, disk_rate) = (median(&mut in_memory.rates), median(&mut on_disk.rates));
        let allowed = memory_rate.min(callers as f64 / floor);
        println!(
            "{callers} callers, TransferFunds: on disk {}, in memory {}, the disk allows {} (fdatasync {:.0} us): of the smaller {}",
            rate(disk_rate),
            rate(memory_rate),
            rate(callers as f64 / floor),
            floor * 1e6,
            at_least(disk_rate / allowed, 0.8)
        );
        let [memory_p50, disk_p50] = [&*in_memory, &*on_disk].map(|series| series.latencies.percentile(500));
        let bound = (floor + memory_p50.as_secs_f64()) * 1.25;
        println!(
            "{callers} callers: p50/p99/max on disk {:.2?}/{:.2?}/{:.1?}, in memory {:.2?}/{:.2?}; p50 against (fdatasync + in memory) + 25 %: {}",
            disk_p50,
            on_disk.latencies.percentile(990),
            on_disk.latencies.longest(),
            memory_p50,
            in_memory.latencies.percentile(990),
            at_most(disk_p50.as_secs_f64() / bound, 1.0)
        );
        let mut shares = [0, 1].map(|mode| share.iter().map(|share| share[mode]).collect::<Vec<f64>>());
        let [user, system] = shares.each_mut().map(|values| 100.0 * median(values));
        println!(
            "{callers} callers: CPU of the service a call {:.1} us on disk, {:.1} us in memory; the flusher's thread {user:.1} % of it in \
             the program (goal 5 %), {system:.1} % in the system (write and fdatasync)",
            median(&mut on_disk.costs),
            median(&mut in_memory.costs)
        );
    }
}

fn report(name: &str, goal: f64, series: &mut [Series; 2]) {
    let [ours, empty] = series;
    let (ours_rate, empty_rate) = (median(&mut ours.rates), median(&mut empty.rates));
    let (ours_cost, empty_cost) = (median(&mut ours.costs), median(&mut empty.costs));
    println!(
        "{name}: ours {}, empty service {}, {}",
        rate(ours_rate),
        rate(empty_rate),
        at_least(ours_rate / empty_rate, goal)
    );
    println!(
        "{name}: CPU of the service a call: ours {ours_cost:.1} us, empty {empty_cost:.1} us; \
         p50/p99/max: ours {:.2?}/{:.2?}/{:.1?}, empty {:.2?}/{:.2?}/{:.1?}",
        ours.latencies.percentile(500),
        ours.latencies.percentile(990),
        ours.latencies.longest(),
        empty.latencies.percentile(500),
        empty.latencies.percentile(990),
        empty.latencies.longest()
    );
}

async fn load(served: &Served, call: Call, settings: &Settings, callers: u64, series: &mut Series) {
    let stop = Arc::new(AtomicBool::new(false));
    let cpu_before = served.cpu_time();
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let client = served.clients[caller as usize % served.clients.len()].clone();
            tokio::spawn(closed_loop(client, call, settings.ids.clone(), stop.clone()))
        })
        .collect();
    tokio::time::sleep(settings.duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    for task in tasks {
        let (calls, latencies) = task.await.expect("a caller");
        done += calls;
        series.latencies.merge(&latencies);
    }
    series.rates.push(done as f64 / began.elapsed().as_secs_f64());
    series.costs.push(served.cpu_time().saturating_sub(cpu_before).as_secs_f64() * 1e6 / done as f64);
}

/// Calls one after the other.
async fn closed_loop(
    mut client: AccountServiceClient<Channel>,
    call: Call,
    ids: Arc<Vec<AccountId>>,
    stop: Arc<AtomicBool>,
) -> (u64, Latencies) {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 40);
    let mut random = Random::new(NEXT_ID.fetch_add(1, Ordering::Relaxed));
    let (mut done, mut latencies) = (0, Latencies::default());
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = random.pair(ids.len());
        let account_id = ids[from].to_string();
        let id = transaction_id(NEXT_ID.fetch_add(1, Ordering::Relaxed)).to_string();
        let began = Instant::now();
        match call {
            Call::GetBalance => drop(client.get_balance(GetBalanceRequest { account_id }).await.expect("OK")),
            Call::UpdateBalance => {
                let request = UpdateBalanceRequest { account_id, delta: 1, transaction_id: id };
                drop(client.update_balance(request).await.expect("OK"));
            }
            Call::TransferFunds => {
                let request = TransferFundsRequest {
                    from_account_id: account_id,
                    to_account_id: ids[to].to_string(),
                    amount: 1,
                    transaction_id: id,
                };
                drop(client.transfer_funds(request).await.expect("OK"));
            }
        }
        latencies.record(began.elapsed());
        done += 1;
    }
    (done, latencies)
}
