//! Calls of one operation, each caller with one under way, against other services.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use equipoise::AccountId;
use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::*;
use tonic::transport::Channel;

use crate::Settings;
use crate::frames;
use crate::served::Served;
use crate::workload::{INITIAL, Latencies, Random, at_least, at_most, data_directory, median, rate, transaction_id};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    GetBalance,
    UpdateBalance,
    TransferFunds,
}

/// What no transaction is called yet.
static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 40);

/// One service under one kind of call.
#[derive(Default)]
pub struct Series {
    pub rates: Vec<f64>,
    /// Microseconds of the service's CPU time a call.
    pub costs: Vec<f64>,
    pub latencies: Latencies,
}

impl Series {
    /// Adds a measurement: the calls, its beginning, and the service's CPU time.
    fn add(&mut self, calls: u64, began: Instant, cpu: Duration) {
        self.rates.push(calls as f64 / began.elapsed().as_secs_f64());
        self.costs.push(cpu.as_secs_f64() * 1e6 / calls as f64);
    }
}

pub async fn against_empty(settings: &Settings) {
    let ours = Served::start("ours", settings.connections).await;
    let empty = Served::start("empty", settings.connections).await;
    let calls = [
        (Call::GetBalance, "GetBalance", 0.95),
        (Call::UpdateBalance, "UpdateBalance", 0.9),
        (Call::TransferFunds, "TransferFunds", 0.9),
    ];
    for &callers in &settings.callers {
        for (call, name, goal) in calls {
            let mut series: [Series; 2] = Default::default();
            for _ in 0..settings.repetitions {
                for (served, series) in [&ours, &empty].into_iter().zip(&mut series) {
                    load(served, call, settings, callers, series).await;
                }
            }
            report(&format!("{callers} callers, {name}"), goal, &mut series);
        }
    }
}

/// Durable transfers against the lock-based service in Go, durable and without its journal. The empty service beside them shows the most that any
/// service on tonic could reach.
pub async fn against_go(settings: &Settings, program: &OsStr) {
    let dir = data_directory();
    let go = |journal: Option<&Path>| {
        let mut command = Command::new(program);
        command.arg(format!("-accounts={}", settings.ids.len())).arg(format!("-initial={INITIAL}"));
        command.args(journal.map(|path| format!("-journal={}", path.display())));
        Served::run(command, settings.connections)
    };
    let ours = Served::start("disk", settings.connections).await;
    let durable = go(Some(&dir.path().join("journal"))).await;
    let in_memory = go(None).await;
    let empty = Served::start("empty", settings.connections).await;
    for &callers in &settings.callers {
        let mut series: [Series; 4] = Default::default();
        for _ in 0..settings.repetitions {
            for (served, series) in [&ours, &durable, &in_memory, &empty].into_iter().zip(&mut series) {
                light_load(served, settings, callers, series).await;
            }
        }
        let [ours, go, memory, empty] = series.each_mut().map(|series| median(&mut series.rates));
        println!(
            "{callers} callers, durable TransferFunds: ours {}, Go {} (without its journal {}), {}",
            rate(ours),
            rate(go),
            rate(memory),
            at_least(ours / go, 2.0)
        );
        println!("{callers} callers: an empty tonic service {}, {:.2} of Go", rate(empty), empty / go);
        let [ours, go, _, empty] = series.each_mut().map(|series| median(&mut series.costs));
        println!("{callers} callers: CPU of the service a call: ours {ours:.1} us, Go {go:.1} us, empty {empty:.1} us");
        let [ours, go, _, empty] = &series;
        let [ours_p99, go_p99, empty_p99] = [ours, go, empty].map(|series| series.latencies.percentile(990));
        println!(
            "{callers} callers: p50/p99/max: ours {:.2?}/{ours_p99:.2?}/{:.1?}, Go {:.2?}/{go_p99:.2?}/{:.1?}; p99 of ours {}, empty p99 {empty_p99:.2?}",
            ours.latencies.percentile(500),
            ours.latencies.longest(),
            go.latencies.percentile(500),
            go.latencies.longest(),
            at_most(ours_p99.as_secs_f64() / go_p99.as_secs_f64(), 0.5)
        );
    }
}

/// Transfers by a client that costs little, so that it is the services that are compared.
async fn light_load(served: &Served, settings: &Settings, callers: u64, series: &mut Series) {
    let stop = Arc::new(AtomicBool::new(false));
    let cpu_before = served.cpu_time();
    let began = Instant::now();
    let connections = settings.connections as u64;
    let threads: Vec<_> = (0..connections)
        .map(|connection| {
            let (address, ids, stop) = (served.address.clone(), settings.ids.clone(), stop.clone());
            let under_way = callers / connections + u64::from(connection < callers % connections);
            // Far more than one run uses.
            let first_id = NEXT_ID.fetch_add(1 << 32, Ordering::Relaxed);
            thread::spawn(move || frames::transfers(&address, under_way, &ids, first_id, &stop))
        })
        .collect();
    tokio::time::sleep(settings.duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    for thread in threads {
        let (calls, latencies) = thread.join().expect("a connection");
        done += calls;
        series.latencies.merge(&latencies);
    }
    series.add(done, began, served.cpu_time().saturating_sub(cpu_before));
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

/// Calls for as long as a measurement takes. Returns how many there were.
pub async fn load(served: &Served, call: Call, settings: &Settings, callers: u64, series: &mut Series) -> u64 {
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
    series.add(done, began, served.cpu_time().saturating_sub(cpu_before));
    done
}

/// Calls one after the other.
async fn closed_loop(
    mut client: AccountServiceClient<Channel>,
    call: Call,
    ids: Arc<Vec<AccountId>>,
    stop: Arc<AtomicBool>,
) -> (u64, Latencies) {
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
