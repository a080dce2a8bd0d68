//! Clients that change at random and look on, until the service goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use equipoise::grpc::proto::WatchTransactionsRequest;
use tokio::task::JoinSet;

use crate::audit::Told;
use crate::client::{Client, Order, Step, balance, snapshot, transaction};
use crate::service::Service;

/// How many accounts the clients know.
const ACCOUNTS: u64 = 16;

/// Numbers that look random, the same for one seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From the clock; printed, so that a failure can be had again.
    pub fn of_today(test: &str) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = u64::from(since.subsec_nanos());
        println!("{test}: seed {seed}");
        Dice::new(seed)
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// As long as an id may be, nearly: segments are full sooner.
fn account(number: u64) -> String {
    format!("a{number:0>110}")
}

fn step(dice: &mut Dice) -> Step {
    match dice.roll(100) {
        0..50 => Step::Update { account: account(dice.roll(ACCOUNTS)), delta: dice.roll(600).cast_signed() - 300 },
        50..85 => {
            let from = dice.roll(ACCOUNTS);
            let to = (from + 1 + dice.roll(ACCOUNTS - 1)) % ACCOUNTS;
            Step::Transfer { from: account(from), to: account(to), amount: 1 + dice.roll(400).cast_signed() }
        }
        // New at first, then refused.
        85..93 => Step::Create { account: format!("n{}", dice.roll(300)), initial: dice.roll(50).cast_signed() },
        _ => Step::Update { account: format!("ghost{}", dice.roll(1_000_000)), delta: 5 },
    }
}

/// One call, with ids that begin with `name`.
pub fn order(dice: &mut Dice, name: &str) -> Order {
    let steps = if dice.roll(5) == 0 { 2 + dice.roll(3) } else { 1 };
    Order { steps: (0..steps).map(|at| (format!("{name}.{at:0>40}"), step(dice))).collect() }
}

/// The accounts that the clients know, 1,000 each.
pub async fn prepare(client: &Client) -> Told {
    let mut told = Told::default();
    for number in 0..ACCOUNTS {
        let order = Order::create(&format!("open-{number}"), &account(number), 1_000);
        let answers = order.send(client).await.unwrap();
        told.answered.push((order, answers));
    }
    told
}

/// Clients at work.
pub struct Load {
    clients: JoinSet<Told>,
    answers: Arc<AtomicU64>,
}

impl Load {
    /// `writers` clients that change, and one that looks on in every way. `name` tells their ids from others'.
    pub async fn start(service: &Service, name: &str, writers: u64, seed: u64) -> Self {
        let (mut clients, answers) = (JoinSet::new(), Arc::<AtomicU64>::default());
        for writer in 0..writers {
            let (client, dice) = (service.client().await, Dice::new(seed ^ (writer + 1)));
            clients.spawn(write(client, dice, format!("{name}.{writer}"), answers.clone()));
        }
        clients.spawn(look_on(service.client().await));
        clients.spawn(follow(service.client().await));
        Load { clients, answers }
    }

    /// Waits for so many answers.
    pub async fn answered(&self, count: u64) {
        // Relaxed: only a number.
        while self.answers.load(Ordering::Relaxed) < count {
            assert!(self.clients.len() > 2, "the clients have ended");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits for all clients to see that the service is gone; what they were told until then.
    pub async fn end(mut self) -> Told {
        let mut told = Told::default();
        while let Some(client) = self.clients.join_next().await {
            told.add(client.unwrap());
        }
        told
    }
}

async fn write(client: Client, mut dice: Dice, name: String, answers: Arc<AtomicU64>) -> Told {
    let mut told = Told::default();
    for number in 0_u64.. {
        let order = order(&mut dice, &format!("{name}.{number}"));
        match order.send(&client).await {
            Ok(answer) => {
                answers.fetch_add(1, Ordering::Relaxed);
                told.answered.push((order, answer));
            }
            Err(status) => {
                assert!(!status.message().contains("internal"), "{status:?}");
                told.unanswered.push(order);
                told.failures.push(status);
                break;
            }
        }
        if dice.roll(8) == 0 {
            let id = &told.answered[dice.roll(told.answered.len() as u64) as usize].0.steps[0].0;
            if let Ok(shown) = transaction(&client, id).await {
                told.transactions.push(shown);
            }
        }
    }
    told
}

async fn look_on(client: Client) -> Told {
    let mut told = Told::default();
    let mut dice = Dice::new(7);
    loop {
        for _ in 0..20 {
            let account = account(dice.roll(ACCOUNTS));
            let Ok(read) = balance(&client, &account).await else { return told };
            told.balances.push((account, read.balance, read.version, read.sequence));
        }
        let Ok(shown) = snapshot(&client).await else { return told };
        if told.snapshots.last().is_none_or(|(last, _)| *last < shown.0) {
            told.snapshots.push(shown);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Watches live, from now on.
async fn follow(client: Client) -> Told {
    let mut told = Told::default();
    let Ok((now, _)) = snapshot(&client).await else { return told };
    let request = WatchTransactionsRequest { from_sequence: now + 1, account_id: String::new() };
    let Ok(stream) = client.clone().watch_transactions(request).await else { return told };
    let mut stream = stream.into_inner();
    while let Ok(Some(message)) = stream.message().await {
        told.transactions.extend(message.transactions);
    }
    told
}
