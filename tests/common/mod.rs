//! What the tests of the crate share: short names for requests, threads that start together, and a plain model.
#![allow(dead_code, reason = "each test file takes what it needs")]

pub mod directory;
pub mod model;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use equipoise::{AccountId, AccountState, Error, Ledger, Member, Operation, Outcome, Posting, Request, TransactionId};

/// How long anything may take that should happen soon, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

pub fn account(name: &str) -> AccountId {
    AccountId::new(name).expect("a valid account id")
}

pub fn id(name: &str) -> TransactionId {
    TransactionId::new(name).expect("a valid transaction id")
}

pub fn create(name: &str, initial: i64) -> Operation {
    Operation::create(account(name), initial).expect("a valid create")
}

pub fn update(name: &str, delta: i64) -> Operation {
    Operation::update(account(name), delta)
}

pub fn transfer(from: &str, to: &str, amount: i64) -> Operation {
    Operation::transfer(account(from), account(to), amount).expect("a valid transfer")
}

pub fn posting(legs: &[(&str, i64)]) -> Vec<Posting> {
    legs.iter().map(|(name, delta)| Posting { account: account(name), delta: *delta }).collect()
}

pub fn post(legs: &[(&str, i64)]) -> Operation {
    Operation::post(posting(legs)).expect("a valid posting")
}

pub fn alone(operation: Operation) -> Request {
    Request::single(operation, None)
}

pub fn named(operation: Operation, name: &str) -> Request {
    Request::single(operation, Some(id(name)))
}

pub fn chain(operations: impl IntoIterator<Item = Operation>) -> Request {
    let members = operations.into_iter().map(|operation| Member { id: None, operation });
    Request::chain(members.collect()).expect("a valid chain")
}

pub fn named_chain(operations: impl IntoIterator<Item = (Operation, &'static str)>) -> Request {
    let members = operations.into_iter().map(|(operation, name)| Member { id: Some(id(name)), operation });
    Request::chain(members.collect()).expect("a valid chain")
}

/// A ledger with these accounts.
pub fn with_accounts(accounts: &[(&str, i64)]) -> Ledger {
    open(Ledger::new(), accounts)
}

/// `ledger`, with these accounts.
pub fn open(ledger: Ledger, accounts: &[(&str, i64)]) -> Ledger {
    for (name, initial) in accounts {
        ledger.create(&account(name), *initial).expect("a fresh account");
    }
    ledger
}

/// The outcome of `request`, which must be decided.
pub fn decide(ledger: &Ledger, request: Request) -> Outcome {
    ledger.submit(request).expect("the request is decided")
}

/// The newest state of the account, which must be open.
pub fn state(ledger: &Ledger, name: &str) -> AccountState {
    ledger.balance(&account(name)).expect("the account is open")
}

pub fn balance(ledger: &Ledger, name: &str) -> i64 {
    state(ledger, name).balance
}

/// Every result's balances, or its refusal's text.
pub fn texts(outcome: &Outcome) -> Vec<Result<Vec<i64>, String>> {
    let balances = |states: equipoise::AccountStates| states.iter().map(|state| state.balance).collect();
    outcome.results().into_iter().map(|result| result.map(balances).map_err(|refusal| refusal.to_string())).collect()
}

/// The text of the refusal of a single operation.
pub fn refusal(outcome: &Outcome) -> String {
    outcome.result().expect_err("the operation is refused").to_string()
}

/// The text of the error, and that it was a decided refusal.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.expect_err("the operation is refused") {
        Error::Refused(refusal) => refusal.to_string(),
        other => panic!("refused before it was decided: {other}"),
    }
}

/// The text of the error, and that nothing was decided.
pub fn undecided<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.expect_err("the operation is not decided") {
        Error::NotDecided(error) => error.to_string(),
        other => panic!("decided: {other}"),
    }
}

/// Runs `work` on so many threads, which start at one moment; their results, in thread order.
pub fn together<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|thread| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    start.wait();
                    work(thread)
                })
            })
            .collect();
        spawned.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })
}

/// Waits until `is` so.
#[track_caller]
pub fn soon(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fewer rounds where the build is slow.
pub fn rounds(release: usize) -> usize {
    if cfg!(debug_assertions) { release / 4 } else { release }
}

/// A small random number generator (splitmix64); the seed names the run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A number from `low` to `high`, both possible.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    /// Two different numbers below `bound`.
    pub fn pair(&mut self, bound: usize) -> (usize, usize) {
        let first = self.below(bound);
        (first, (first + 1 + self.below(bound - 1)) % bound)
    }
}
