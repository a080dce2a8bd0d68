//! Decides a batch: the engine does, on the accounts as the database holds them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::batch::{AccountChange, Used, UsedId};
use crate::account::{AccountId, Balance, TransactionId};
use crate::kernel::State as _;
use crate::outcome::Record;
use crate::{InvalidRequest, Ledger, Operation, Outcome, Request, SubmitError};

/// The sequence of the first commit of a ledger that was built with accounts.
const FIRST_SEQUENCE: u64 = 2;

/// Something to decide.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) request: Request,
    /// Whether accounts that nobody has opened are opened first, with a balance of 0.
    pub(super) opens: bool,
}

/// What a batch is decided from.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Accounts that are missing here had not been opened up to this commit sequence.
    pub(super) sequence: u64,
    pub(super) accounts: HashMap<AccountId, Balance, RandomState>,
    pub(super) ids: HashMap<TransactionId, Used, RandomState>,
    /// The ids among them that are only remembered, with the commit sequences that used them.
    pub(super) recalled: Vec<(TransactionId, u64)>,
}

/// What became of an [`Ask`].
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Decided in this batch, for it or for an earlier ask with the same id.
    Decided {
        /// Its place in the batch.
        place: usize,
        /// Which member was asked about.
        member: Option<u32>,
        replayed: bool,
    },
    /// Decided before.
    Recorded { record: Arc<Record>, member: Option<u32> },
    /// Not decided, and no id was used up.
    Invalid(InvalidRequest),
    /// Left out.
    Skipped,
}

/// A decided batch.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// One for each ask.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) records: Vec<Record>,
    pub(super) accounts: Vec<AccountChange>,
    pub(super) ids: Vec<UsedId>,
}

/// Decides the asks in order, except those for which `skipped` is true.
///
/// # Errors
/// The engine can decide nothing at all: it is short of memory.
pub(super) fn decide(asks: &[Ask], known: &Known, skipped: impl Fn(usize) -> bool) -> Result<Decision, SubmitError> {
    let mut deciding = Deciding::new(asks.len(), known)?;
    let mut verdicts = Vec::with_capacity(asks.len());
    for (index, ask) in asks.iter().enumerate() {
        verdicts.push(if skipped(index) { Verdict::Skipped } else { deciding.decide(ask)? });
    }
    let mut decision = deciding.decision;
    decision.verdicts = verdicts;
    (decision.accounts, decision.ids) = effects(&decision.records, known);
    Ok(decision)
}

struct Deciding<'a> {
    ledger: Ledger,
    known: &'a Known,
    decision: Decision,
}

impl<'a> Deciding<'a> {
    fn new(count: usize, known: &'a Known) -> Result<Self, SubmitError> {
        let accounts = known.accounts.iter().map(|(id, state)| (id, *state));
        let builder = Ledger::builder().look_up_cache(false).id_capacity(usize::MAX / 2);
        let decision = Decision { records: Vec::with_capacity(count), ..Decision::default() };
        Ok(Deciding { ledger: builder.build_with(accounts)?, known, decision })
    }

    fn decide(&mut self, ask: &Ask) -> Result<Verdict, SubmitError> {
        if let Some((used, index)) = self.recorded(&ask.request) {
            let member = (ask.request.members().len() == 1).then_some(used.member);
            return Ok(match ask.request.check_replay(index, &used.record.request, used.member as usize) {
                Ok(()) => Verdict::Recorded { record: used.record.clone(), member },
                Err(invalid) => Verdict::Invalid(invalid),
            });
        }
        if ask.opens {
            self.open_accounts(&ask.request)?;
        }
        match self.ledger.submit(ask.request.clone()) {
            Ok(outcome) => Ok(self.take(&outcome)),
            Err(SubmitError::Invalid(invalid)) => Ok(Verdict::Invalid(invalid)),
            Err(error) => Err(error),
        }
    }

    /// The first used id of the request: what used it, and which member has it. None if this batch itself used it.
    fn recorded(&self, request: &Request) -> Option<(&'a Used, usize)> {
        for (index, member) in request.members().iter().enumerate() {
            let Some(id) = &member.id else { continue };
            if let Some(used) = self.known.ids.get(id) {
                return Some((used, index));
            }
            if request.members().len() > 1 && self.is_used_here(id) {
                return None;
            }
        }
        None
    }

    fn is_used_here(&self, id: &TransactionId) -> bool {
        self.ledger.transaction(id).is_ok_and(|found| found.is_some())
    }

    fn open_accounts(&mut self, request: &Request) -> Result<(), SubmitError> {
        for member in request.members() {
            // What was looked up is open, and found more quickly here than in the ledger.
            for account in member.operation.accounts().into_iter().filter(|it| !self.known.accounts.contains_key(*it)) {
                let used = || member.id.as_ref().is_some_and(|id| self.is_used_here(id));
                if self.ledger.balance(account).is_none() && !used() {
                    let opening = Request::single(Operation::create(account.clone(), 0)?, None);
                    let opened = self.ledger.submit(opening)?;
                    self.take(&opened);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, outcome: &Outcome) -> Verdict {
        let place = usize::try_from(outcome.sequence().saturating_sub(FIRST_SEQUENCE)).unwrap_or(usize::MAX);
        if !outcome.replayed() {
            let mut record = outcome.to_record();
            // Of a refused chain any of the accounts may be one that nobody had opened.
            let absent = record.refusal.is_some() && record.states.iter().any(|state| state.version == 0);
            record.as_of = (absent || record.as_of.is_some()).then_some(self.known.sequence);
            self.decision.records.push(record);
        }
        Verdict::Decided { place, member: outcome.member(), replayed: outcome.replayed() }
    }
}

/// The accounts that the records changed or met, and the ids that they used, both in order.
fn effects(records: &[Record], known: &Known) -> (Vec<AccountChange>, Vec<UsedId>) {
    let mut touched = HashMap::<&AccountId, (AccountChange, Option<&TransactionId>), RandomState>::default();
    let mut ids = Vec::with_capacity(records.len());
    for (place, record) in records.iter().enumerate() {
        let mut states = record.states.iter();
        for (member, index) in record.request.members().iter().zip(0_u32..) {
            let accounts = member.operation.accounts();
            if let (Some(id), Some(account)) = (&member.id, accounts.first()) {
                ids.push(UsedId { id: id.clone(), account: (*account).clone(), place, member: index });
            }
            for (account, state) in accounts.into_iter().zip(states.by_ref()) {
                // Nobody had opened it: `as_of` says up to when that was so.
                if state.version == 0 {
                    continue;
                }
                let (change, event) = match touched.entry(account) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        let before = known.accounts.get(account).copied();
                        let after = before.unwrap_or(Balance::ABSENT);
                        entry.insert((AccountChange { id: account.clone(), before, after, event: None, place }, None))
                    }
                };
                if record.refusal.is_none() {
                    change.after = *state;
                    change.place = place;
                    *event = member.id.as_ref().or(*event);
                }
            }
        }
    }
    let changed = touched.into_values().map(|(change, event)| AccountChange { event: event.cloned(), ..change });
    let mut accounts: Vec<_> = changed.collect();
    accounts.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    ids.sort_unstable();
    (accounts, ids)
}
