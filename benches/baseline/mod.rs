//! What users would write instead: banks with the duties of a [`Ledger`], each giving the same answers.
//!
//! The duties: an id table whose replays compare the whole request (bounded, the oldest id goes first), a log of the
//! newest entries (bounded), and a snapshot of all accounts. Request, answer and id types are the crate's own on both
//! sides, so that nothing but the concurrency differs.

#![allow(dead_code, reason = "each bench uses its part")]

pub mod bare;
mod locks;
mod mutex;
mod ours;
mod seqlocks;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use equipoise::{
    AccountId, AccountState, InvalidRequest, Kind, Member, MemberResult, Operation, Refusal, Request, TransactionId,
};
use smallvec::smallvec;

pub use locks::Locks;
pub use mutex::Mutexed;
pub use ours::Ours;
pub use seqlocks::Seqlocks;

/// How much a bank keeps.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Ids honoured.
    pub ids: usize,
    /// Entries in the log.
    pub log: usize,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub sequence: u64,
    pub replayed: bool,
    pub result: MemberResult,
}

/// One way of keeping balances.
pub trait Bank: Send + Sync + 'static {
    /// As the printed lines call it.
    const NAME: &'static str;

    /// Opens every account with `initial`; the tables are grown beforehand.
    fn build(accounts: &[AccountId], initial: i64, limits: Limits) -> Self;

    /// The newest committed state.
    fn read(&self, account: &AccountId) -> Option<AccountState>;

    /// Decides one update or transfer, or replays it. `make` may be called again when the bank pushes back.
    fn submit(&self, make: &dyn Fn() -> Request) -> Result<Answer, InvalidRequest>;

    /// Takes a consistent copy of all accounts: how many, and their sum.
    fn snapshot(&self) -> (usize, i128);

    /// Waits until nothing is left over that calls have put off.
    fn settle(&self) {}

    /// How many requests it has pushed back, each to be sent again.
    fn pushed_back(&self) -> u64 {
        0
    }

    /// Moves `amount`, with an id.
    fn transfer(&self, from: &AccountId, to: &AccountId, amount: i64, id: &TransactionId) -> Answer {
        self.submit(&|| transfer(from, to, amount, id)).expect("a fresh id")
    }

    /// Adds `delta`, with an id.
    fn update(&self, account: &AccountId, delta: i64, id: &TransactionId) -> Answer {
        let make = || Request::single(Operation::update(account.clone(), delta), Some(id.clone()));
        self.submit(&make).expect("a fresh id")
    }
}

pub fn transfer(from: &AccountId, to: &AccountId, amount: i64, id: &TransactionId) -> Request {
    let operation = Operation::transfer(from.clone(), to.clone(), amount).expect("two accounts and an amount");
    Request::single(operation, Some(id.clone()))
}

/// An account of a baseline.
#[derive(Clone, Copy)]
struct Held {
    balance: i64,
    version: u64,
    sequence: u64,
}

impl Held {
    fn opened(initial: i64, sequence: u64) -> Self {
        Held { balance: initial, version: 1, sequence }
    }

    fn state(&self, id: &AccountId) -> AccountState {
        AccountState { id: id.clone(), balance: self.balance, version: self.version, sequence: self.sequence }
    }

    fn set(&mut self, balance: i64, sequence: u64) {
        *self = Held { balance, version: self.version + 1, sequence };
    }
}

/// A decided request: what the log keeps, and what a replay answers.
struct Entry {
    request: Request,
    sequence: u64,
    time: u64,
    result: MemberResult,
}

impl Entry {
    fn answer(&self, replayed: bool) -> Answer {
        Answer { sequence: self.sequence, replayed, result: self.result.clone() }
    }

    /// The answer to `request`, sent again.
    fn replay(&self, request: &Request) -> Result<Answer, InvalidRequest> {
        match &only(request).id {
            Some(id) if self.request != *request => {
                // Which field differs is worked out off the hot path, and not here at all.
                Err(InvalidRequest::IdReused { id: id.clone(), field: "operation" })
            }
            _ => Ok(self.answer(true)),
        }
    }
}

/// The newest entries, in commit order; numbers them.
struct Log {
    started: Instant,
    sequence: u64,
    capacity: usize,
    entries: VecDeque<Arc<Entry>>,
}

impl Log {
    fn new(sequence: u64, capacity: usize) -> Self {
        Log { started: Instant::now(), sequence, capacity, entries: VecDeque::with_capacity(capacity + 1) }
    }

    /// Appends what `decide` makes of the next sequence; the entry that fell out is returned to be dropped outside.
    fn append(
        &mut self,
        request: Request,
        decide: impl FnOnce(u64, &Operation) -> MemberResult,
    ) -> (Arc<Entry>, Option<Arc<Entry>>) {
        self.sequence += 1;
        let result = decide(self.sequence, &only(&request).operation);
        let time = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let entry = Arc::new(Entry { request, sequence: self.sequence, time, result });
        self.entries.push_back(entry.clone());
        let dropped = if self.entries.len() > self.capacity { self.entries.pop_front() } else { None };
        (entry, dropped)
    }
}

/// Ids honoured, the oldest forgotten first.
struct Ids {
    capacity: usize,
    known: std::collections::HashMap<TransactionId, Arc<Entry>, foldhash::fast::RandomState>,
    order: VecDeque<TransactionId>,
}

impl Ids {
    fn new(capacity: usize) -> Self {
        let known = std::collections::HashMap::with_capacity_and_hasher(capacity + 1, Default::default());
        Ids { capacity, known, order: VecDeque::with_capacity(capacity + 1) }
    }

    fn get(&self, request: &Request) -> Option<&Arc<Entry>> {
        self.known.get(only(request).id.as_ref()?)
    }

    /// Remembers `entry`; what was forgotten for it is returned to be dropped outside.
    fn insert(&mut self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let id = only(&entry.request).id.as_ref()?;
        self.known.insert(id.clone(), entry.clone());
        self.order.push_back(id.clone());
        if self.order.len() > self.capacity {
            let oldest = self.order.pop_front()?;
            return self.known.remove(&oldest);
        }
        None
    }
}

/// The request's only member.
fn only(request: &Request) -> &Member {
    match request.members() {
        [member] => member,
        _ => unreachable!("the benches send single operations"),
    }
}

/// Adds `delta` to `account`, if it can hold that.
fn update(id: &AccountId, account: Option<(i64, impl FnOnce(i64) -> AccountState)>, delta: i64) -> MemberResult {
    let Some((current, set)) = account else { return Err(Refusal::NotFound { account: id.clone() }) };
    match current.checked_add(delta) {
        Some(balance) if balance >= 0 => Ok(smallvec![set(balance)]),
        None if delta > 0 => Err(Refusal::OutOfRange { current, delta }),
        _ => Err(Refusal::Insufficient { current, delta }),
    }
}

/// The balances after moving `amount` between two accounts that hold so much.
fn moved(from: &AccountId, to: &AccountId, held: [Option<i64>; 2], amount: i64) -> Result<[i64; 2], Refusal> {
    let source = held[0].ok_or_else(|| Refusal::NotFound { account: from.clone() })?;
    let target = held[1].ok_or_else(|| Refusal::NotFound { account: to.clone() })?;
    if source < amount {
        let required = i128::from(amount);
        return Err(Refusal::InsufficientIn { account: from.clone(), current: source, required });
    }
    match target.checked_add(amount) {
        Some(after) => Ok([source - amount, after]),
        None => Err(Refusal::OutOfRangeIn { account: to.clone(), current: target, amount }),
    }
}

/// The accounts of an operation, source before destination.
fn accounts_of(operation: &Operation) -> (&AccountId, Option<&AccountId>) {
    match operation.kind() {
        Kind::Transfer { from, to, .. } => (from, Some(to)),
        Kind::Update { account, .. } | Kind::Create { account, .. } => (account, None),
        Kind::Post { .. } => unreachable!("the benches post nothing"),
    }
}
