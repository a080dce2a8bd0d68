//! What operators look at over HTTP, by name, after work of which the numbers are known.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{
    CreateAccountRequest, ExecuteBatchRequest, ListAccountsRequest, Operation, UpdateBalanceRequest,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::program::{SOON, Service, equipoise};

/// Enough that what a snapshot keeps of each is more than threads count by themselves.
const ACCOUNTS: u64 = 4_000;

/// A service whose metrics are served, and how it is called.
struct Watched {
    service: Service,
    metrics: String,
    runtime: Runtime,
    client: AccountServiceClient<Channel>,
}

impl Watched {
    fn start(more: &[&str]) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log", "off"];
        let service = Service::start_as(&mut equipoise(&[&arguments, more].concat()));
        let line = service.said.iter().find_map(|line| line.strip_prefix("metrics on http://")).expect("an address");
        let metrics = line.trim_end_matches("/metrics").to_owned();
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(AccountServiceClient::connect(format!("http://{}", service.address)));
        Watched { metrics, runtime, client: client.expect("a connection"), service }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.metrics).expect("somebody listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    fn scrape(&self) -> Scraped {
        let answer = self.get("/metrics");
        let (head, text) = answer.split_once("\r\n\r\n").expect("a body");
        assert!(head.starts_with("HTTP/1.1 200 ") && text.ends_with("# EOF\n"), "{answer}");
        let value = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Scraped(text.lines().filter(|line| !line.starts_with('#')).map(|line| value(line).expect(line)).collect())
    }

    /// Waits until `is_it` is so; the numbers then.
    fn soon(&self, is_it: impl Fn(&Scraped) -> bool) -> Scraped {
        let began = Instant::now();
        loop {
            let scraped = self.scrape();
            if is_it(&scraped) {
                return scraped;
            }
            assert!(began.elapsed() < SOON, "{scraped:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// One batch; the codes of its results.
    fn batch(&mut self, operations: impl IntoIterator<Item = Operation>) -> Vec<i32> {
        let request = ExecuteBatchRequest { operations: operations.into_iter().collect() };
        let answer = self.runtime.block_on(self.client.execute_batch(request)).expect("an answer");
        answer.into_inner().results.into_iter().map(|result| result.code).collect()
    }

    fn open(&mut self) {
        assert_eq!(self.batch((0..ACCOUNTS).map(create)), [0; ACCOUNTS as usize]);
    }

    /// Threads of the service that change one account at the same time, until somebody was in the way of another.
    fn contend(&mut self) -> Scraped {
        let began = Instant::now();
        for round in 0.. {
            let mut calls = JoinSet::new();
            for caller in 0..4 {
                let server = format!("http://{}", self.service.address);
                let updates = (0..2_000).map(move |number| update(0, format!("hot-{round}-{caller}-{number}")));
                let request = ExecuteBatchRequest { operations: updates.collect() };
                // A connection of its own: one connection's calls may share a thread.
                let call = async {
                    let mut client = AccountServiceClient::connect(server).await.expect("a connection");
                    client.execute_batch(request).await
                };
                calls.spawn_on(call, self.runtime.handle());
            }
            let answers = self.runtime.block_on(calls.join_all());
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            let scraped = self.scrape();
            if scraped.of("contention_seconds_total") > 0.0 && scraped.of("retries_total") > 0.0 {
                return scraped;
            }
            assert!(began.elapsed() < SOON, "nobody is in anybody's way: {scraped:?}");
        }
        unreachable!("rounds do not end")
    }
}

/// Values by name.
#[derive(Debug)]
struct Scraped(BTreeMap<String, f64>);

impl Scraped {
    #[track_caller]
    fn of(&self, name: &str) -> f64 {
        *self.0.get(&format!("equipoise_{name}")).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

fn name(number: u64) -> String {
    format!("a{number:06}")
}

fn create(number: u64) -> Operation {
    let account_id = name(number);
    let create = CreateAccountRequest { account_id, initial_balance: 1, transaction_id: format!("create-{number}") };
    Operation { operation: Some(Kind::CreateAccount(create)), linked: false }
}

fn update(number: u64, transaction_id: String) -> Operation {
    let update = UpdateBalanceRequest { account_id: name(number), delta: 1, transaction_id };
    Operation { operation: Some(Kind::UpdateBalance(update)), linked: false }
}

/// D9: metrics, health and readiness over HTTP, on a port of their own.
#[test]
fn metrics_and_readiness_are_served_over_http() {
    let watched = Watched::start(&["--in-memory"]);
    assert!(watched.get("/healthz").starts_with("HTTP/1.1 200 "));
    assert!(watched.get("/readyz").starts_with("HTTP/1.1 200 "));
    assert!(watched.get("/nothing").starts_with("HTTP/1.1 404 "));
}

/// E7, E3, D9: each metric has the name that README tells, and there is none that it does not tell.
#[test]
fn metrics_are_those_of_the_readme() {
    const NAMES: [&str; 15] = [
        "accounts",
        "contention_seconds_total",
        "durable_sequence",
        "garbage_bytes",
        "helped_transactions_total",
        "history_oldest_sequence",
        "ids_in_memory",
        "ids_index_failing",
        "journal_short_of_space",
        "log_lines_lost_total",
        "open_snapshots",
        "refused_for_space_total",
        "retries_total",
        "sequence",
        "unopened_accounts",
    ];
    let readme = include_str!("../../README.md");
    let told = |name: &&str| readme.contains(&format!("`equipoise_{name}`"));
    assert_eq!(NAMES.iter().filter(|name| !told(name)).collect::<Vec<_>>(), [&""; 0], "not in README.md");
    let scraped = Watched::start(&["--in-memory"]).scrape();
    assert_eq!(scraped.0.into_keys().collect::<Vec<_>>(), NAMES.map(|name| format!("equipoise_{name}")));
}

/// E7: what an open snapshot keeps is garbage, which is shown, and goes once the snapshot is closed.
#[test]
fn e7_open_snapshots_and_their_garbage_are_shown() {
    let mut watched = Watched::start(&["--in-memory"]);
    watched.open();
    let before = watched.soon(|scraped| scraped.of("open_snapshots") == 0.0);
    let page = ListAccountsRequest { page_size: 1_000, ..Default::default() };
    let mut token = watched.runtime.block_on(watched.client.list_accounts(page)).expect("a page").into_inner();
    // Whatever threads and epochs hold back beside it is less.
    let kept = 32.0 * ACCOUNTS as f64;
    for round in 0..2 {
        let updates = (0..ACCOUNTS).map(|number| update(number, format!("update-{round}-{number}")));
        assert_eq!(watched.batch(updates), [0; ACCOUNTS as usize]);
    }
    let held = watched.scrape();
    assert_eq!(held.of("open_snapshots"), 1.0, "{held:?}");
    assert!(held.of("garbage_bytes") > before.of("garbage_bytes") + kept, "{before:?}, then {held:?}");
    while !token.next_page_token.is_empty() {
        let next = ListAccountsRequest { page_size: 1_000, page_token: token.next_page_token, ..Default::default() };
        token = watched.runtime.block_on(watched.client.list_accounts(next)).expect("a page").into_inner();
    }
    assert_eq!(watched.scrape().of("open_snapshots"), 0.0);
    // An account's old versions go with its next write.
    for round in 2..4 {
        let updates = (0..ACCOUNTS).map(|number| update(number, format!("update-{round}-{number}")));
        assert_eq!(watched.batch(updates), [0; ACCOUNTS as usize]);
    }
    // Memory is freed by those who go on.
    let began = Instant::now();
    while watched.scrape().of("garbage_bytes") >= held.of("garbage_bytes") - kept / 2.0 {
        assert!(began.elapsed() < SOON, "{held:?}, then {:?}", watched.scrape());
        assert_eq!(watched.batch([update(0, format!("later-{:?}", began.elapsed()))]), [0]);
    }
}

/// E3: time lost to others is shown: nothing as long as there is one caller, and more and more when there are several.
#[test]
fn e3_time_spent_waiting_is_shown() {
    let mut watched = Watched::start(&["--in-memory"]);
    watched.open();
    let began = Instant::now();
    let first = watched.contend();
    let second = watched.contend();
    for name in ["contention_seconds_total", "retries_total", "helped_transactions_total"] {
        assert!(second.of(name) >= first.of(name), "{name} fell: {first:?}, then {second:?}");
    }
    // More threads than any machine has cores.
    let most = 1_000.0 * began.elapsed().as_secs_f64();
    assert!(second.of("contention_seconds_total") < most, "{second:?}");
}

/// B5, C1, D9: accounts, ids, sequences and refusals are counted: those of a service on disk, after known work.
#[test]
fn accounts_ids_and_sequences_are_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    let mut watched = Watched::start(&["--data-dir", path, "--ids", "10000"]);
    let fresh = watched.scrape();
    let empty = ["accounts", "unopened_accounts", "ids_in_memory", "sequence", "durable_sequence", "open_snapshots"];
    assert!(empty.iter().all(|name| fresh.of(name) == 0.0), "{fresh:?}");
    watched.open();
    // A refused group that would have opened one more.
    let chain = [Operation { linked: true, ..create(ACCOUNTS) }, update(ACCOUNTS + 1, "nobody".to_owned())];
    assert!(watched.batch(chain).iter().all(|code| *code != 0));
    let scraped = watched.scrape();
    let entries = (ACCOUNTS + 1) as f64;
    assert_eq!((scraped.of("accounts"), scraped.of("unopened_accounts")), (ACCOUNTS as f64, 1.0), "{scraped:?}");
    assert_eq!((scraped.of("sequence"), scraped.of("durable_sequence")), (entries, entries), "{scraped:?}");
    assert_eq!(scraped.of("ids_in_memory"), entries + 1.0, "the group has two: {scraped:?}");
    assert_eq!(scraped.of("history_oldest_sequence"), 1.0, "{scraped:?}");
    for quiet in ["journal_short_of_space", "ids_index_failing", "refused_for_space_total", "log_lines_lost_total"] {
        assert_eq!(scraped.of(quiet), 0.0, "{quiet}: {scraped:?}");
    }
    // Past their bound ids go to the index.
    for round in 0..3 {
        let updates = (0..ACCOUNTS).map(|number| update(number, format!("update-{round}-{number}")));
        assert_eq!(watched.batch(updates), [0; ACCOUNTS as usize]);
    }
    watched.soon(|scraped| scraped.of("ids_in_memory") <= 10_000.0);
    assert_eq!(watched.scrape().of("durable_sequence"), entries + 3.0 * ACCOUNTS as f64);
}
