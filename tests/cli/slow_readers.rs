//! Readers of the output that pause: the connection to the service outlasts that.

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use equipoise::Ledger;
use equipoise::grpc::{Options, serve};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::data::account;
use crate::program::{Ended, SOON, ends_within, equipoise};

/// More than what lies in buffers on the way.
const ACCOUNTS: usize = 30_000;

/// A service in this process, for as long as the runtime lives.
fn service(options: Options) -> (Runtime, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (service_on(listener, options), address)
}

fn service_on(listener: std::net::TcpListener, options: Options) -> Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let ledger = Ledger::builder().history(ACCOUNTS).build();
    for number in 0..ACCOUNTS {
        ledger.create(&account(&format!("{number:0120}")), 1).expect("new");
    }
    listener.set_nonblocking(true).expect("a socket");
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener).expect("a socket")
    };
    runtime.spawn(serve(listener, ledger, options, std::future::pending()));
    runtime
}

/// Runs a command whose reader pauses after the first line.
fn paused(
    address: &str,
    arguments: &[&str],
    meanwhile: impl FnOnce(),
    read: impl FnOnce(&mut BufReader<ChildStdout>, &mut String),
) -> Ended {
    let mut command = equipoise(&[arguments, &["--json", "--server", address]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut reader = BufReader::new(child.stdout.take().expect("piped"));
    let mut stdout = String::new();
    reader.read_line(&mut stdout).expect("a line");
    meanwhile();
    read(&mut reader, &mut stdout);
    drop(reader);
    let status = ends_within(&mut child, SOON);
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    Ended { code: status.code(), stdout, stderr }
}

/// A20: the service is sure that a client is there whose output waits for its reader.
#[test]
fn a_reader_may_pause() {
    let (interval, patience) = (Duration::from_secs(1), Duration::from_secs(10));
    let options = Options { keepalive_interval: interval, keepalive_timeout: patience, ..Options::default() };
    let (_runtime, address) = service(options);
    let pause = || thread::sleep(patience + patience / 2);
    // All at once: they are slow by nature.
    thread::scope(|scope| {
        scope.spawn(|| {
            let watched = paused(&address, &["watch", "--from", "1"], pause, |reader, text| {
                for _ in 1..ACCOUNTS {
                    reader.read_line(text).expect("a line");
                }
            });
            assert_eq!((watched.code, watched.stderr.as_str()), (Some(0), ""));
            let sequences = watched.json().into_iter().map(|entry| entry["sequence"].as_u64().expect("a sequence"));
            assert!(sequences.eq(1..=ACCOUNTS as u64));
        });
        let snapshot = paused(&address, &["snapshot"], pause, |reader, text| {
            reader.read_to_string(text).expect("text");
        });
        assert_eq!((snapshot.code, snapshot.stderr.as_str()), (Some(0), ""));
        assert_eq!(snapshot.json().last().expect("a total")["total"], ACCOUNTS);
    });
}

/// A20: a walk that the service gave up, as nobody read it, is no wrong usage.
#[test]
fn a_walk_that_nobody_reads_is_given_up() {
    let (_runtime, address) = service(Options { walk_lease: Duration::from_secs(1), ..Options::default() });
    for walk in ["accounts", "snapshot"] {
        let pause = || thread::sleep(Duration::from_secs(5));
        let ended = paused(&address, &[walk], pause, |reader, text| {
            reader.read_to_string(text).expect("text");
        });
        let error = ended.error();
        assert_eq!((ended.code, error["code"].as_str()), (Some(3), Some("RESOURCE_EXHAUSTED")), "{walk}: {error}");
        assert!(ended.stdout.lines().count() < ACCOUNTS, "{walk}");
    }
}

/// A20: a service that was restarted knows no walk of before, and the reader is not blamed for that.
#[test]
fn a_list_does_not_outlive_the_service() {
    // It stays open, so that nobody else gets the port meanwhile.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let begin = || service_on(listener.try_clone().expect("a socket"), Options::default());
    let (first, mut second) = (begin(), None);
    let restart = || {
        first.shutdown_timeout(SOON);
        second = Some(begin());
    };
    let ended = paused(&address, &["accounts"], restart, |reader, text| {
        reader.read_to_string(text).expect("text");
    });
    drop(second);
    let error = ended.error();
    let [code, reason] = ["code", "reason"].map(|name| error[name].as_str());
    assert_eq!((ended.code, code, reason), (Some(3), Some("RESOURCE_EXHAUSTED"), Some("PAGE_TOKEN")), "{error}");
    assert!(error["message"].as_str().expect("a text").contains("or the service was restarted"), "{error}");
}
