//! Durable transfers by the batch: ExecuteBatch with some calls under way, ExecuteStream with some streams.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use equipoise::AccountId;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::Settings;
use crate::raw::{Message, Raw};
use crate::served::{Served, times};
use crate::workload::{Latencies, Random, at_least, median, rate};

/// Transfers under way, about; no more calls than [`MOST_CALLS`].
const UNDER_WAY: usize = 32_000;
const MOST_CALLS: usize = 64;
const STREAMS: usize = 2;
/// Small batches cost the most: fewer of them.
const MOST_BATCHES: usize = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spread {
    Uniform,
    Hot,
    Zipf,
}

const SPREADS: [(Spread, &str); 3] =
    [(Spread::Uniform, "uniform"), (Spread::Hot, "hot (10)"), (Spread::Zipf, "zipf 1.5")];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Calls,
    Streams,
}

/// Transfers a second that the goal asks for at batches of that length.
fn goal(batch: usize) -> Option<f64> {
    match batch {
        100 => Some(500_000.0),
        8_000 => Some(1_000_000.0),
        _ => None,
    }
}

#[derive(Default)]
struct Series {
    rates: Vec<f64>,
    /// Microseconds of CPU time a transfer: the service's, and the generator's.
    costs: [Vec<f64>; 2],
    latencies: Latencies,
}

/// Chooses two accounts.
struct Choice {
    spread: Spread,
    /// Of account k and those before it.
    cumulated: Vec<f64>,
    random: Random,
}

impl Choice {
    fn new(spread: Spread, accounts: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=accounts).map(|rank| (rank as f64).powf(-1.5));
        let cumulated = weights.map(|weight| {
            sum += weight;
            sum
        });
        Choice { spread, cumulated: cumulated.collect(), random: Random::new(7) }
    }

    fn pair(&mut self) -> (usize, usize) {
        match self.spread {
            Spread::Uniform => self.random.pair(self.cumulated.len()),
            Spread::Hot => self.random.pair(10),
            Spread::Zipf => {
                let first = self.ranked();
                loop {
                    let second = self.ranked();
                    if second != first {
                        return (first, second);
                    }
                }
            }
        }
    }

    fn ranked(&mut self) -> usize {
        let all = self.cumulated[self.cumulated.len() - 1];
        let at = self.random.next() as f64 / u64::MAX as f64 * all;
        self.cumulated.partition_point(|sum| *sum < at).min(self.cumulated.len() - 1)
    }
}

pub async fn on_disk(settings: &Settings) {
    let disk = Served::start("disk", 2).await;
    let mut choices = SPREADS.map(|(spread, _)| Choice::new(spread, settings.ids.len()));
    for (way, name) in [(Way::Calls, "ExecuteBatch"), (Way::Streams, "ExecuteStream")] {
        for &batch in &settings.batches {
            let mut series: [Series; 3] = Default::default();
            // The first round warms up.
            for round in 0..=settings.repetitions {
                for (choice, series) in choices.iter_mut().zip(&mut series) {
                    let batches = (settings.transfers / batch).clamp(1, MOST_BATCHES);
                    let mut ignored = Series::default();
                    let series = if round == 0 { &mut ignored } else { series };
                    measure(&disk, way, encoded(batches, batch, choice, &settings.ids), batch, series).await;
                }
            }
            report(&format!("{name}, {batch} transfers a batch"), batch, &mut series);
        }
    }
}

fn encoded(batches: usize, batch: usize, choice: &mut Choice, ids: &[AccountId]) -> Vec<Bytes> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 40);
    let mut message = || {
        let first = NEXT_ID.fetch_add(batch as u64, Ordering::Relaxed);
        let mut message = Message::default();
        for id in first..first + batch as u64 {
            let (from, to) = choice.pair();
            message.push(&ids[from], &ids[to], id);
        }
        message.finish()
    };
    (0..batches).map(|_| message()).collect()
}

async fn measure(served: &Served, way: Way, batches: Vec<Bytes>, batch: usize, series: &mut Series) {
    let transfers = batches.len() * batch;
    let tasks = match way {
        Way::Calls => (UNDER_WAY / batch).clamp(4, MOST_CALLS),
        Way::Streams => STREAMS,
    };
    let own = || times("/proc/self/stat").iter().sum::<Duration>();
    let before = [served.cpu_time(), own()];
    let began = Instant::now();
    let mut running = Vec::new();
    match way {
        Way::Calls => {
            let queue = Arc::new(Mutex::new(VecDeque::from(batches)));
            for task in 0..tasks {
                running.push(tokio::spawn(calls(served.channel(task), queue.clone(), batch)));
            }
        }
        Way::Streams => {
            for (task, part) in batches.chunks(batches.len().div_ceil(tasks)).enumerate() {
                running.push(tokio::spawn(stream(served.channel(task), part.to_vec(), batch)));
            }
        }
    }
    for task in running {
        series.latencies.merge(&task.await.expect("a caller"));
    }
    series.rates.push(transfers as f64 / began.elapsed().as_secs_f64());
    for ((costs, before), after) in series.costs.iter_mut().zip(before).zip([served.cpu_time(), own()]) {
        costs.push(after.saturating_sub(before).as_secs_f64() * 1e6 / transfers as f64);
    }
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

/// Calls one after the other until nothing is left.
async fn calls(channel: Channel, queue: Arc<Mutex<VecDeque<Bytes>>>, batch: usize) -> Latencies {
    let (mut client, mut latencies) = (Grpc::new(channel), Latencies::default());
    loop {
        let Some(message) = queue.lock().pop_front() else { return latencies };
        let began = Instant::now();
        client.ready().await.expect("a connection");
        let method = path("/equipoise.v1.AccountService/ExecuteBatch");
        let answer = client.unary(Request::new(message), method, Raw).await.expect("OK").into_inner();
        assert_eq!((answer.results, answer.refused), (batch, 0));
        latencies.record(began.elapsed());
    }
}

/// One stream of all of them.
async fn stream(channel: Channel, batches: Vec<Bytes>, batch: usize) -> Latencies {
    let mut client = Grpc::new(channel);
    client.ready().await.expect("a connection");
    let (sent, mut latencies) = (Arc::new(Mutex::new(VecDeque::new())), Latencies::default());
    let times = sent.clone();
    let mut expected = batches.len();
    let messages = tokio_stream::StreamExt::map(tokio_stream::iter(batches), move |message| {
        times.lock().push_back(Instant::now());
        message
    });
    let method = path("/equipoise.v1.AccountService/ExecuteStream");
    let mut answers = client.streaming(Request::new(messages), method, Raw).await.expect("OK").into_inner();
    while let Some(answer) = answers.message().await.expect("OK") {
        assert_eq!((answer.results, answer.refused), (batch, 0));
        expected -= 1;
        let began = sent.lock().pop_front().expect("an answer to what was sent");
        latencies.record(began.elapsed());
    }
    assert_eq!(expected, 0, "an answer to every batch");
    latencies
}

fn report(name: &str, batch: usize, series: &mut [Series; 3]) {
    let rates = series.each_mut().map(|series| median(&mut series.rates));
    for ((series, (_, spread)), reached) in series.iter_mut().zip(SPREADS).zip(rates) {
        let [service, generator] = series.costs.each_mut().map(|costs| median(costs));
        println!(
            "{name}, {spread}: {}; CPU a transfer: service {service:.2} us, generator {generator:.2} us; batches p50/p99/max \
             {:.2?}/{:.2?}/{:.1?}",
            rate(reached),
            series.latencies.percentile(500),
            series.latencies.percentile(990),
            series.latencies.longest(),
        );
    }
    let [uniform, hot, zipf] = rates;
    let wanted = goal(batch).map(|goal| format!("uniform against {}: {}; ", rate(goal), at_least(uniform / goal, 1.0)));
    println!(
        "{name}: {}hot/uniform {}; zipf/uniform {}",
        wanted.unwrap_or_default(),
        at_least(hot / uniform, 0.9),
        at_least(zipf / uniform, 0.9)
    );
}
