//! Case A07: every total is right while segments roll, checkpoints are written and ids are forgotten.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use equipoise::grpc::proto::{Account, ListAccountsRequest, SnapshotBalancesRequest};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::audit::{Audit, Told};
use crate::client::{Client, Order, balance, snapshot};
use crate::load::Dice;
use crate::service::{Service, serve_with, verified};

const ACCOUNTS: u64 = 10;
const EACH: i64 = 5_000;
/// Idle ones, for many messages.
const IDLE: u64 = if cfg!(debug_assertions) { 3_000 } else { 20_000 };
const LIFE: Duration = Duration::from_millis(1_500);
const BUSY: &[&str] = &["--checkpoint-every", "100", "--ids", "1000"];

fn name(number: u64) -> String {
    format!("busy{number:0>100}")
}

/// What a client saw, and the newest sequence that it was ever told of.
#[derive(Default)]
struct Seen {
    told: Told,
    newest: u64,
}

impl Seen {
    /// A snapshot, or a finished walk: right in itself, and not older than what this client knew before it asked.
    fn add(&mut self, (sequence, accounts): (u64, Vec<Account>)) {
        assert!(sequence >= self.newest, "at {sequence}, after {} was answered", self.newest);
        self.newest = sequence;
        let total: i64 = accounts.iter().map(|account| account.balance).sum();
        let known = accounts.iter().filter(|account| !account.account_id.starts_with("marker")).count() as u64;
        assert_eq!((known, total), (ACCOUNTS + IDLE, EACH * ACCOUNTS.cast_signed()), "at {sequence}");
        if self.told.snapshots.len() < 5 {
            self.told.snapshots.push((sequence, accounts));
        }
    }
}

async fn write(client: Client, mut dice: Dice, name_of: String) -> Seen {
    let mut seen = Seen::default();
    for number in 0_u64.. {
        let (from, step) = (dice.roll(ACCOUNTS), 1 + dice.roll(ACCOUNTS - 1));
        let (id, amount) = (format!("{name_of}-{number}"), 1 + dice.roll(900).cast_signed());
        let order = Order::transfer(&id, &name(from), &name((from + step) % ACCOUNTS), amount);
        match order.send(&client).await {
            Ok(answers) => {
                seen.newest = seen.newest.max(answers[0].sequence.unwrap_or(0));
                seen.told.answered.push((order, answers));
            }
            Err(_) => {
                seen.told.unanswered.push(order);
                break;
            }
        }
        if number % 50 == 0 {
            let Ok(shown) = snapshot(&client).await else { break };
            seen.add(shown);
        }
    }
    seen
}

async fn read_snapshots(client: Client, pause: Duration) -> Seen {
    let mut seen = Seen::default();
    while let Ok(shown) = slow_snapshot(&client, pause).await {
        seen.add(shown);
        for number in 0..ACCOUNTS {
            let Ok(read) = balance(&client, &name(number)).await else { return seen };
            assert!(read.balance >= 0);
            seen.newest = seen.newest.max(read.sequence);
        }
    }
    seen
}

async fn slow_snapshot(client: &Client, pause: Duration) -> Result<(u64, Vec<Account>), tonic::Status> {
    let request = SnapshotBalancesRequest { prefix: String::new() };
    let mut stream = client.clone().snapshot_balances(request).await?.into_inner();
    let (mut sequence, mut accounts) = (None, Vec::new());
    while let Some(message) = stream.message().await? {
        assert_eq!(*sequence.get_or_insert(message.sequence), message.sequence);
        accounts.extend(message.accounts);
        tokio::time::sleep(pause).await;
    }
    Ok((sequence.unwrap_or(0), accounts))
}

async fn walk(client: Client) -> Seen {
    let mut seen = Seen::default();
    loop {
        let (mut accounts, mut page_token, mut sequence) = (Vec::new(), String::new(), None);
        loop {
            // Small pages where things happen, then the idle ones.
            let page_size = if accounts.len() < 12 { 3 } else { 1_000 };
            let request = ListAccountsRequest { prefix: String::new(), page_size, page_token };
            let Ok(page) = client.clone().list_accounts(request).await else { return seen };
            let page = page.into_inner();
            assert_eq!(*sequence.get_or_insert(page.sequence), page.sequence, "one walk, one sequence");
            accounts.extend(page.accounts);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        seen.add((sequence.unwrap(), accounts));
    }
}

async fn open_accounts(client: &Client) {
    for number in 0..ACCOUNTS {
        Order::create("", &name(number), EACH).send(client).await.unwrap();
    }
    let callers = Arc::new(Mutex::new(0..IDLE));
    let mut opening = JoinSet::new();
    for _ in 0..100 {
        let (client, callers) = (client.clone(), callers.clone());
        opening.spawn(async move {
            loop {
                let Some(number) = callers.lock().await.next() else { return };
                Order::create("", &format!("idle{number:06}"), 0).send(&client).await.unwrap();
            }
        });
    }
    while let Some(done) = opening.join_next().await {
        done.unwrap();
    }
}

async fn live(dir: &Path, life: usize, audit: &mut Audit, told: &mut Told) {
    let service = Service::start(&mut serve_with(dir, BUSY));
    let client = service.client().await;
    if life == 0 {
        open_accounts(&client).await;
    } else {
        audit.read(&client).await;
        audit.check(told);
        audit.resend(&client, told).await;
    }
    let mut clients = JoinSet::new();
    for writer in 0..8 {
        let dice = Dice::new(life as u64 * 100 + writer + 1);
        clients.spawn(write(service.client().await, dice, format!("life{life}-{writer}")));
    }
    clients.spawn(read_snapshots(service.client().await, Duration::ZERO));
    clients.spawn(read_snapshots(service.client().await, Duration::from_millis(100)));
    clients.spawn(walk(service.client().await));
    tokio::time::sleep(LIFE).await;
    service.kill();
    while let Some(client) = clients.join_next().await {
        told.add(client.unwrap().told);
    }
}

/// A9, A10, C3, C6: every snapshot and every walk sums up, is at one sequence, equals the journal up to there, and is
/// not older than what its client knew, through three kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_while_the_journal_is_maintained() {
    let dir = tempfile::tempdir().unwrap();
    let (mut audit, mut told) = (Audit::default(), Told::default());
    for life in 0..4 {
        live(dir.path(), life, &mut audit, &mut told).await;
    }
    let service = Service::start(&mut serve_with(dir.path(), BUSY));
    let client = service.client().await;
    audit.read(&client).await;
    audit.check(&told);
    audit.resend(&client, &mut told).await;
    audit.compare(&client, &told).await;
    assert_eq!(audit.total(), i128::from(EACH) * i128::from(ACCOUNTS));
    assert!(told.snapshots.len() >= 20, "{} snapshots", told.snapshots.len());
    service.stop();
    let report = verified(dir.path());
    assert!(report.checkpoints > 0, "{report:?}");
}
