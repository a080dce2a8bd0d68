//! Case A09: a log that nobody reads, or that has no room.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Client, Order, balance, half_sent};
use crate::service::{SOON, equipoise, signal};
use crate::shim::shimmed;

/// How many calls fail meanwhile: more lines than the pipe and the log's queue take.
const FAILING: usize = 20_000;
const CALLERS: usize = 50;
/// What a pipe holds at least, and less than what a line of a failed call takes.
const PIPE_BYTES: usize = 64 << 10;
const LINE_BYTES: usize = 100;

fn serve(dir: &Path, listen: &str, metrics: &str) -> Command {
    let dir = dir.to_str().unwrap();
    equipoise(&["serve", "--data-dir", dir, "--listen", listen, "--metrics-listen", metrics, "--log", "info"])
}

/// Killed when it is dropped.
struct Quiet {
    child: Child,
    address: String,
    metrics: String,
    /// The other end of its standard error.
    _unread: Option<BufReader<ChildStderr>>,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Quiet {
    async fn client(&self) -> Client {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        Client::new(endpoint.connect().await.unwrap())
    }

    /// Whether it answers from its ledger.
    async fn is_ready(&self) -> bool {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        let Ok(channel) = endpoint.connect().await else { return false };
        balance(&Client::new(channel), "nobody").await.unwrap_err().code() == Code::NotFound
    }

    /// How many lines of the log were lost, by its metric.
    fn lost(&self) -> u64 {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let lost = text.lines().find_map(|line| line.strip_prefix("equipoise_log_lines_lost_total "));
        lost.unwrap_or_else(|| panic!("no count of lost lines in {text}")).parse().unwrap()
    }
}

/// Calls that fail, many of them, beside others that must not; how long the slowest of these took.
async fn good_calls_beside_failing_ones(service: &Quiet) -> Duration {
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    let failing: tokio::task::JoinSet<()> = (0..CALLERS)
        .map(|_| {
            let client = client.clone();
            async move {
                for _ in 0..FAILING / CALLERS {
                    assert_eq!(balance(&client, "nobody").await.unwrap_err().code(), Code::NotFound);
                }
            }
        })
        .collect();
    let good = tokio::spawn(async move {
        let mut slowest = Duration::ZERO;
        for at in 1..=100_i64 {
            let began = Instant::now();
            let answers = Order::update(&format!("{at}"), "a", 1).send(&client).await.unwrap();
            assert_eq!(answers[0].accounts[0].1, at);
            slowest = slowest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        slowest
    });
    failing.join_all().await;
    good.await.unwrap()
}

/// A service on whose standard error nothing is read any more once it is ready.
fn unread(mut command: Command) -> Quiet {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let (mut address, mut metrics, mut line) = (String::new(), String::new(), String::new());
    while line.trim_end() != "ready" {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
        for (start, place) in [("listening on ", &mut address), ("metrics on http://", &mut metrics)] {
            if let Some(rest) = line.trim_end().strip_prefix(start) {
                *place = rest.trim_end_matches("/metrics").to_owned();
            }
        }
    }
    Quiet { child, address, metrics, _unread: Some(said) }
}

/// A13: nobody reads the log: calls go on, and what was lost is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_up_no_call() {
    let dir = tempfile::tempdir().unwrap();
    let service = unread(serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0"));
    let slowest = good_calls_beside_failing_ones(&service).await;
    assert!(slowest < SOON / 2, "{slowest:?} for one call");
    assert!(service.lost() > 0, "the pipe took all of it");
}

/// E6, A13: nor does it hold up the end of a service whose journal failed, nor change its exit code, whether or not it is told
/// to end as well, and whoever holds on to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_journal_ends_a_service_whose_log_nobody_reads() {
    for told_to_end in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("fault");
        let command = serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0");
        let mut service = unread(shimmed(command, dir.path(), &[("FAIL_WHILE", switch.to_str().unwrap())]));
        let client = service.client().await;
        for _ in 0..PIPE_BYTES / LINE_BYTES {
            balance(&client, "nobody").await.unwrap_err();
        }
        let endpoint = Channel::from_shared(format!("http://{}", service.address)).unwrap();
        let _held = half_sent(endpoint.connect().await.unwrap()).await;
        fs::write(&switch, "sync 5 /journal/0").unwrap();
        Order::create("lost", "a", 0).send(&client).await.unwrap_err();
        if told_to_end {
            signal(service.child.id(), "TERM");
        }
        let until = Instant::now() + if told_to_end { Duration::from_secs(5) } else { SOON };
        let status = loop {
            if let Some(status) = service.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(status.code(), Some(4), "told to end: {told_to_end}");
    }
}

/// A service whose log has no room, once it is ready; None: it ended, as it does where another has got one of its
/// ports.
async fn ready_without_a_log(dir: &Path) -> Option<Quiet> {
    // Free a moment ago; the log cannot tell which they are.
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [address, metrics] = free.map(|free| free.local_addr().unwrap().to_string());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = serve(dir, &address, &metrics).stderr(full).spawn().unwrap();
    let mut service = Quiet { child, address, metrics, _unread: None };
    let until = Instant::now() + SOON;
    while service.child.try_wait().unwrap().is_none() {
        if service.is_ready().await {
            return Some(service);
        }
        assert!(Instant::now() < until, "it is not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// A13: the log has no room: calls go on, and every line is counted as lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_room_holds_up_no_call() {
    let dir = tempfile::tempdir().unwrap();
    let mut ready = None;
    for _ in 0..5 {
        ready = ready_without_a_log(dir.path()).await;
        if ready.is_some() {
            break;
        }
    }
    let service = ready.expect("each time it ended");
    let slowest = good_calls_beside_failing_ones(&service).await;
    assert!(slowest < SOON / 2, "{slowest:?} for one call");
    let until = Instant::now() + SOON;
    while service.lost() < FAILING as u64 {
        assert!(Instant::now() < until, "{} lost lines are counted of at least {FAILING}", service.lost());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
