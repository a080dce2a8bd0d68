//! What a journal must be after a crash, given everything that anybody was ever told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use equipoise::grpc::proto::{Account, Transaction};

use tonic::Status;

use crate::client::{Answer, Client, Order, balance, snapshot, transaction, watch};
use crate::ids_survive_a_restart;

/// What one generation of clients was told.
#[derive(Default)]
pub struct Told {
    pub answered: Vec<(Order, Vec<Answer>)>,
    pub unanswered: Vec<Order>,
    /// Why.
    pub failures: Vec<Status>,
    /// GetBalance: account, balance, version, sequence.
    pub balances: Vec<(String, i64, u64, u64)>,
    pub snapshots: Vec<(u64, Vec<Account>)>,
    /// WatchTransactions and GetTransaction.
    pub transactions: Vec<Transaction>,
}

impl Told {
    pub fn add(&mut self, other: Told) {
        self.answered.extend(other.answered);
        self.unanswered.extend(other.unanswered);
        self.failures.extend(other.failures);
        self.balances.extend(other.balances);
        self.snapshots.extend(other.snapshots);
        self.transactions.extend(other.transactions);
    }
}

/// The journal as it was read over gRPC, done again.
#[derive(Default)]
pub struct Audit {
    through: u64,
    time: (i64, i32),
    /// Each account's states, oldest first: sequence, version, balance.
    accounts: HashMap<String, Vec<(u64, u64, i64)>>,
    by_id: HashMap<String, Transaction>,
}

impl Audit {
    /// Reads what is new in the journal and checks each entry against the ones before.
    pub async fn read(&mut self, client: &Client) {
        static MARKERS: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only a number that nobody else gets.
        let name = format!("marker-{}", MARKERS.fetch_add(1, Ordering::Relaxed));
        let marker = Order::create(&name, &name, 0).send(client).await.expect("a service that works");
        let end = marker[0].sequence.expect("a new account");
        let read = watch(client, self.through + 1, end).await.expect("the journal");
        for transaction in read {
            self.follow(transaction);
        }
        assert_eq!(self.through, end);
    }

    fn follow(&mut self, entry: Transaction) {
        let next = entry.sequence == self.through + 1;
        assert!(next || entry.sequence == self.through, "{} after {}", entry.sequence, self.through);
        self.through = entry.sequence;
        let time = entry.commit_time.map(|time| (time.seconds, time.nanos)).unwrap();
        assert!(time >= self.time, "commit times fall at {entry:?}");
        self.time = time;
        for leg in entry.legs.iter().filter(|_| entry.code == 0) {
            let states = self.accounts.entry(leg.account_id.clone()).or_default();
            let (_, version, balance) = states.last().copied().unwrap_or_default();
            assert_eq!((leg.version, leg.balance), (version + 1, balance + leg.delta), "{entry:?}");
            assert!(leg.balance >= 0, "{entry:?}");
            states.push((entry.sequence, leg.version, leg.balance));
        }
        if !entry.transaction_id.is_empty() {
            let before = self.by_id.insert(entry.transaction_id.clone(), entry.clone());
            assert!(before.is_none(), "one id twice: {before:?} and {entry:?}");
        }
    }

    pub fn knows(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub fn entries(&self) -> u64 {
        self.through
    }

    pub fn total(&self) -> i128 {
        self.accounts.values().filter_map(|states| states.last()).map(|(_, _, balance)| i128::from(*balance)).sum()
    }

    /// Asserts that nothing that was told is missing.
    pub fn check(&self, told: &Told) {
        for (order, answers) in &told.answered {
            for ((id, _), answer) in order.steps.iter().zip(answers) {
                self.check_answer(id, answer);
            }
        }
        for (account, balance, version, sequence) in &told.balances {
            let states = self.accounts.get(account).map(Vec::as_slice).unwrap_or_default();
            assert!(
                states.contains(&(*sequence, *version, *balance)),
                "{account} was shown at balance {balance}, version {version}, sequence {sequence}, and is now {states:?}"
            );
        }
        for (sequence, accounts) in &told.snapshots {
            self.check_snapshot(*sequence, accounts);
        }
        for shown in told.transactions.iter().filter(|shown| !shown.transaction_id.is_empty()) {
            assert_eq!(self.by_id.get(&shown.transaction_id), Some(shown), "shown before");
        }
    }

    fn check_answer(&self, id: &str, answer: &Answer) {
        let Some(entry) = self.by_id.get(id) else { panic!("{id} was answered and is not there: {answer:?}") };
        assert_eq!((entry.code, &entry.message), (answer.code, &answer.message), "{id}");
        if let Some(sequence) = answer.sequence {
            assert_eq!(entry.sequence, sequence, "{id}");
            let legs = entry.legs.iter().map(|leg| (leg.account_id.clone(), leg.balance, leg.version));
            assert_eq!(legs.collect::<Vec<_>>(), answer.accounts, "{id}");
        }
    }

    /// Asserts that a snapshot is the replay up to its sequence.
    pub fn check_snapshot(&self, sequence: u64, shown: &[Account]) {
        assert!(sequence <= self.through, "a snapshot at {sequence} was shown, the journal ends at {}", self.through);
        let at = |states: &[(u64, u64, i64)]| states.iter().rev().find(|state| state.0 <= sequence).copied();
        let mut replayed: Vec<_> = self
            .accounts
            .iter()
            .filter_map(|(account, states)| {
                at(states).map(|(last, version, balance)| (account, balance, version, last))
            })
            .collect();
        replayed.sort_unstable();
        let shown = shown.iter().map(|shown| (&shown.account_id, shown.balance, shown.version, shown.sequence));
        assert_eq!(replayed, shown.collect::<Vec<_>>(), "the snapshot at {sequence}");
    }

    /// Sends again what nobody knows the end of: afterwards each has exactly one effect.
    pub async fn resend(&mut self, client: &Client, told: &mut Told) {
        for order in std::mem::take(&mut told.unanswered) {
            let there = order.steps.iter().filter(|(id, _)| self.knows(id)).count();
            assert!(there == 0 || there == order.steps.len(), "half a chain: {order:?}");
            if there == 0 || ids_survive_a_restart() {
                let answers = order.send(client).await.expect("a service that works");
                assert!(answers.iter().all(|answer| answer.replayed == (there > 0)), "{there}: {order:?}: {answers:?}");
                told.answered.push((order, answers));
            }
        }
        self.read(client).await;
        self.check(told);
    }

    /// Asserts that the service answers as the journal says: balances, a snapshot, and ids used before.
    pub async fn compare(&self, client: &Client, told: &Told) {
        let (sequence, accounts) = snapshot(client).await.unwrap();
        assert_eq!(sequence, self.through);
        self.check_snapshot(sequence, &accounts);
        let shown: i128 = accounts.iter().map(|account| i128::from(account.balance)).sum();
        assert_eq!(shown, self.total());
        for account in accounts.iter().take(50) {
            let read = balance(client, &account.account_id).await.unwrap();
            let expected = (account.balance, account.version, account.sequence);
            assert_eq!((read.balance, read.version, read.sequence), expected);
        }
        if ids_survive_a_restart() {
            self.ask_again(client, told).await;
        }
    }

    /// A sample of the ids that were used, looked up and sent again.
    async fn ask_again(&self, client: &Client, told: &Told) {
        for (order, answers) in told.answered.iter().step_by(told.answered.len() / 20 + 1) {
            for (id, _) in &order.steps {
                assert_eq!(&transaction(client, id).await.unwrap(), &self.by_id[id]);
            }
            let again = order.send(client).await.unwrap();
            let first = answers.iter().map(|answer| Answer { replayed: true, ..answer.clone() });
            assert_eq!(again, first.collect::<Vec<_>>(), "{order:?}");
        }
    }
}
