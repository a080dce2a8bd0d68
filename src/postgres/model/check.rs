//! Compares the final state of the database with a plain replay of its journal, and with what all callers were told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::server::{POISON, Server};
use super::world::{Answered, TOPIC};
use crate::account::{AccountId, Balance, Reason, TransactionId};
use crate::inventory::{Content, Event};
use crate::kernel::Refused;
use crate::outcome::{Outcome, Record};
use crate::postgres::PgError;
use crate::request::Kind;
use crate::{InvalidRequest, Operation, Request};

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}
pub(super) use ensure;

/// A ledger that does one thing after the other, and nothing else.
#[derive(Default)]
struct Plain {
    accounts: BTreeMap<AccountId, Balance>,
    /// At which sequence each was opened, and by whom.
    opened: HashMap<AccountId, (u64, usize)>,
}

impl Plain {
    fn state(&self, account: &AccountId) -> Balance {
        self.accounts.get(account).copied().unwrap_or(Balance { amount: 0, version: 0 })
    }

    /// What the operation does to each of its accounts.
    fn deltas(operation: &Operation) -> Vec<(AccountId, i64)> {
        match operation.kind() {
            Kind::Create { account, initial_balance } => vec![(account.clone(), *initial_balance)],
            Kind::Update { account, delta } => vec![(account.clone(), *delta)],
            Kind::Transfer { from, to, amount } => vec![(from.clone(), -amount), (to.clone(), *amount)],
            Kind::Post { .. } => Vec::new(),
        }
    }

    /// The states after each change, or which member is refused and why.
    fn attempt(&self, request: &Request) -> Result<Vec<(AccountId, Balance)>, (u32, Reason, i64)> {
        let mut accounts = self.accounts.clone();
        let mut states = Vec::new();
        for (member, place) in request.members().iter().zip(0_u32..) {
            let creates = matches!(member.operation.kind(), Kind::Create { .. });
            // Whether all are known comes before what they hold.
            if !creates && Self::deltas(&member.operation).iter().any(|(account, _)| !accounts.contains_key(account)) {
                return Err((place, Reason::NotFound, 0));
            }
            for (account, delta) in Self::deltas(&member.operation) {
                let state = match (creates, accounts.get(&account)) {
                    (true, None) => Balance { amount: delta, version: 1 },
                    (true, Some(state)) => return Err((place, Reason::AlreadyExists, state.amount)),
                    (false, state) => {
                        let Balance { amount, version } = state.copied().unwrap_or(Balance { amount: 0, version: 0 });
                        match amount.checked_add(delta) {
                            Some(after) if after >= 0 => Balance { amount: after, version: version + 1 },
                            _ => return Err((place, Reason::Insufficient, amount)),
                        }
                    }
                };
                accounts.insert(account.clone(), state);
                states.push((account, state));
            }
        }
        Ok(states)
    }

    /// The accounts that `record` met as unopened. Each was unopened up to the record's `as_of`; only another instance
    /// can have opened it since.
    fn absent(&self, record: &Record, author: usize) -> Result<BTreeSet<AccountId>, String> {
        let accounts = record.request.members().iter().flat_map(|member| Self::deltas(&member.operation));
        let states = accounts.zip(&record.states).filter(|(_, state)| state.version == 0);
        let absent: BTreeSet<_> = states.map(|((account, _), _)| account).collect();
        ensure!(absent.is_empty() == record.as_of.is_none(), "as_of of {record:?}");
        let Some(as_of) = record.as_of else { return Ok(absent) };
        ensure!(as_of < record.sequence, "as_of {as_of} of {record:?}");
        for account in &absent {
            if let Some((sequence, by)) = self.opened.get(account) {
                ensure!(*sequence > as_of, "{account} was open at {as_of}: {record:?}");
                ensure!(*by != author, "{author} does not know what it opened itself: {record:?}");
            }
        }
        Ok(absent)
    }

    fn replay(&mut self, record: &Record, author: usize) -> Result<(), String> {
        match record.refusal {
            Some(Refused { place, reject }) => {
                let absent = self.absent(record, author)?;
                let mut accounts = self.accounts.clone();
                accounts.retain(|account, _| !absent.contains(account));
                let then = Plain { accounts, opened: HashMap::new() };
                let refused = (place, reject.reason, reject.current);
                let expected = then.attempt(&record.request);
                ensure!(expected == Err(refused), "{record:?} should have been {expected:?}");
                let met = record.request.members().iter().flat_map(|member| Self::deltas(&member.operation));
                for ((account, _), state) in met.zip(&record.states) {
                    ensure!(then.state(&account) == *state, "{record:?} met {:?}", then.state(&account));
                }
            }
            None => {
                let states = self.attempt(&record.request).map_err(|refusal| format!("{record:?}: {refusal:?}"))?;
                ensure!(states.iter().map(|(_, state)| state).eq(&record.states), "{record:?}: {states:?}");
                for (account, state) in states {
                    self.opened.entry(account.clone()).or_insert((record.sequence, author));
                    self.accounts.insert(account, state);
                }
            }
        }
        Ok(())
    }
}

pub(super) fn check(server: &Server, logs: &[Vec<Content>], answers: &[Answered]) -> Result<(), String> {
    let mut plain = Plain::default();
    let mut used = HashMap::<TransactionId, (usize, u32)>::new();
    let mut time = 0;
    for ((place, record), author) in server.journal.iter().enumerate().zip(&server.authors) {
        ensure!(record.sequence == place as u64 + 1, "{} stands at {}", record.sequence, place + 1);
        ensure!(record.time >= time, "time goes back at {}", record.sequence);
        time = record.time;
        plain.replay(record, *author)?;
        for (member, index) in record.request.members().iter().zip(0_u32..) {
            if let Some(id) = &member.id {
                let before = used.insert(id.clone(), (place, index));
                ensure!(before.is_none(), "{id} was used twice");
            }
        }
    }
    ensure!(server.fenced_writes == 0, "somebody wrote for a partition that was not his any more");
    ensure!(plain.accounts == server.rows, "the rows are not what the journal says");
    ensure!(used.len() == server.ids.len(), "{} ids used, {} known", used.len(), server.ids.len());
    let operation = |id: &TransactionId| {
        let (place, member) = used.get(id)?;
        Some(server.journal[*place].request.members()[*member as usize].operation.clone())
    };
    check_events(server, logs, &operation)?;
    let mut first = HashMap::new();
    for Answered { request, answer } in answers {
        check_answer(server, request, answer, &operation)?;
        let ids: Vec<_> = request.members().iter().filter_map(|member| member.id.clone()).collect();
        if let (false, Ok(outcome)) = (ids.is_empty(), answer) {
            let told = (outcome.sequence(), outcome.results());
            let earlier = first.entry(ids.clone()).or_insert_with(|| told.clone());
            ensure!(*earlier == told, "{ids:?}: first {earlier:?}, then {told:?}");
        }
    }
    Ok(())
}

/// D3, D6: every record below the stored offset has one outcome.
fn check_events(
    server: &Server,
    logs: &[Vec<Content>],
    operation: &impl Fn(&TransactionId) -> Option<Operation>,
) -> Result<(), String> {
    for (partition, log) in logs.iter().enumerate() {
        let row = server.offsets.get(&(TOPIC.to_owned(), partition as i32));
        ensure!(row.is_some_and(|row| row.1 == Some(log.len() as i64)), "partition {partition} ended at {row:?}");
        for (offset, content) in log.iter().enumerate() {
            let letters = server.letters.iter();
            let letters: Vec<_> = letters
                .filter(|letter| letter.partition == partition as i32 && letter.offset == offset as i64)
                .collect();
            let expected = match content {
                Content::Tombstone => 0,
                Content::Malformed(_) => 1,
                Content::Event { event: Event { id, product, quantity_change }, .. } => {
                    let change = Operation::update(product.clone(), *quantity_change);
                    let decided = operation(id).is_some_and(|known| known == change);
                    ensure!(!decided || *quantity_change != POISON, "poison was kept");
                    usize::from(!decided)
                }
            };
            ensure!(letters.len() == expected, "{content:?} at {offset}: {letters:?}");
            ensure!(letters.iter().all(|letter| !letter.reason.is_empty()), "a dead letter without a reason");
        }
    }
    Ok(())
}

fn check_answer(
    server: &Server,
    request: &Request,
    answer: &Result<Outcome, PgError>,
    operation: &impl Fn(&TransactionId) -> Option<Operation>,
) -> Result<(), String> {
    match answer {
        Ok(outcome) => {
            let record = server.journal.get(outcome.sequence() as usize - 1);
            let record = record.ok_or_else(|| format!("an answer from beyond the journal: {outcome:?}"))?;
            let member = (record.request.members().len() > request.members().len()).then(|| outcome.member());
            let truth = Outcome::recorded(record.clone(), member.flatten(), false);
            ensure!(truth.results() == outcome.results(), "told {outcome:?}, but it is {truth:?}");
            ensure!(truth.time() == outcome.time(), "told another time: {outcome:?}");
            let fresh = request.members().iter().all(|member| member.id.is_none());
            ensure!(!fresh || outcome.result().is_ok(), "an account of one's own: {outcome:?}");
        }
        Err(PgError::Invalid(InvalidRequest::IdReused { id, .. } | InvalidRequest::IdOfAnother { id, .. })) => {
            ensure!(operation(id).is_some(), "{id} was never used");
        }
        Err(PgError::Refused { .. }) => {
            let poison = request
                .members()
                .iter()
                .any(|member| Plain::deltas(&member.operation).iter().any(|(_, delta)| *delta == POISON));
            ensure!(poison, "{request:?} was refused");
        }
        Err(PgError::Unavailable { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}
