//! How a request ended, and what the journal says about it.

#![warn(clippy::arithmetic_side_effects)]

use std::iter::Peekable;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::account::{AccountId, AccountState, Balance, Reason, Reject};
use crate::error::Refusal;
use crate::kernel::{Handle, Refused, State};
use crate::request::{Kind, Member, Operation, Request};

/// One operation's end: the accounts touched, in the order of the contract's fields, or why it was refused.
pub type MemberResult = Result<SmallVec<[AccountState; 2]>, Refusal>;

/// A decided transaction: a place in the commit list, and what happened there. Cheap to clone.
#[derive(Clone)]
pub struct Outcome {
    source: Source,
    /// Which member the caller asked about; None for all of them.
    member: Option<u32>,
    replayed: bool,
}

/// Where the results come from.
#[derive(Clone)]
enum Source {
    /// The transaction itself, still in memory.
    Live(Handle<Balance>),
    /// The journal.
    Recorded(Arc<Record>),
}

/// A decided transaction as the journal tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) request: Request,
    pub(crate) sequence: u64,
    /// Nanoseconds since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) refusal: Option<Refused<Reject>>,
    pub(crate) as_of: Option<u64>,
    /// The account after each change, in the order of the request; of a refused one, the account that it met.
    pub(crate) states: SmallVec<[Balance; 2]>,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcome")
            .field("sequence", &self.sequence())
            .field("replayed", &self.replayed)
            .field("result", &self.result())
            .finish()
    }
}

impl Outcome {
    /// The outcome of a decided transaction.
    pub(crate) fn new(handle: Handle<Balance>, member: Option<u32>, replayed: bool) -> Self {
        debug_assert!(handle.decision().is_some(), "an outcome was decided");
        Outcome { source: Source::Live(handle), member, replayed }
    }

    /// The outcome of a transaction that the journal records.
    pub(crate) fn recorded(record: impl Into<Arc<Record>>, member: Option<u32>, replayed: bool) -> Self {
        Outcome { source: Source::Recorded(record.into()), member, replayed }
    }

    /// What a journal has to tell of the whole transaction, whichever member was asked about.
    #[cfg(feature = "postgres")]
    pub(crate) fn to_record(&self) -> Record {
        let mut effects = Effects::from(self.source.effects());
        let mut states = SmallVec::new();
        for (member, place) in self.request().members().iter().zip(0_u32..) {
            states.extend((0..member.operation.leg_count()).map(|position| effects.state_at(place, position)));
        }
        Record {
            request: self.request().clone(),
            sequence: self.sequence(),
            time: self.time(),
            refusal: self.source.refusal(),
            as_of: self.as_of(),
            states,
        }
    }

    /// Which member the caller asked about; None for all of them.
    #[cfg(feature = "postgres")]
    pub(crate) fn member(&self) -> Option<u32> {
        self.member
    }

    /// The whole request, whichever member was asked about.
    pub(crate) fn request(&self) -> &Request {
        match &self.source {
            Source::Live(handle) => handle.request(),
            Source::Recorded(record) => &record.request,
        }
    }

    /// Its place in the commit list: 1, 2, 3, …
    #[must_use]
    pub fn sequence(&self) -> u64 {
        match &self.source {
            Source::Live(handle) => handle.decision().map_or(0, |decision| decision.sequence),
            Source::Recorded(record) => record.sequence,
        }
    }

    /// The sequence as of which it was refused, if it was refused because nobody had opened an account. Such an account
    /// is looked up before the commit, so another request may have opened it in between. On PostgreSQL also for a chain
    /// that was refused for another reason and met such an account. `None` otherwise: any other result follows exactly
    /// from the entries before this one.
    #[must_use]
    pub fn as_of(&self) -> Option<u64> {
        match &self.source {
            Source::Live(handle) => handle.as_of(),
            Source::Recorded(record) => record.as_of,
        }
    }

    /// When it was committed, nanoseconds since the Unix epoch; never before an earlier sequence.
    #[must_use]
    pub fn time(&self) -> u64 {
        match &self.source {
            Source::Live(handle) => handle.decision().map_or(0, |decision| decision.time),
            Source::Recorded(record) => record.time,
        }
    }

    /// Whether the id had been used before, and this is the answer of that time.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// The request's operations: one, or the chain's.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        let members = self.request().members();
        match self.member {
            Some(index) => members.get(index as usize).map_or(members, std::slice::from_ref),
            None => members,
        }
    }

    /// One outcome per member, each as if that member had been asked about alone.
    #[must_use]
    pub fn split(&self) -> Vec<Outcome> {
        let first = self.first_place();
        (first..).take(self.members().len()).map(|place| Outcome { member: Some(place), ..self.clone() }).collect()
    }

    /// The result of the first member; a single operation has only one.
    ///
    /// # Errors
    /// The refusal that was decided.
    pub fn result(&self) -> MemberResult {
        match self.refused(self.first_place()) {
            Some(refusal) => Err(refusal),
            None => {
                let mine = self.states().take_while(|(place, _)| *place == self.first_place());
                Ok(mine.map(|(_, state)| state).collect())
            }
        }
    }

    /// Every member's result, in order.
    #[must_use]
    pub fn results(&self) -> Vec<MemberResult> {
        let mut results = Vec::with_capacity(self.members().len());
        self.each_result(|result| results.push(result));
        results
    }

    /// Shows `each` every member's result, in order.
    pub fn each_result(&self, mut each: impl FnMut(MemberResult)) {
        let mut states = self.states().peekable();
        for place in (self.first_place()..).take(self.members().len()) {
            each(match self.refused(place) {
                Some(refusal) => Err(refusal),
                None => {
                    let mine = std::iter::from_fn(|| states.next_if(|(of, _)| *of == place));
                    Ok(mine.map(|(_, state)| state).collect())
                }
            });
        }
    }

    /// Every change of every member as the journal has it, in the order of the request. A refused member changed
    /// nothing; it shows the balance and version it found (version 0: nobody had opened the account).
    #[must_use]
    pub fn changes(&self) -> Vec<AccountChange> {
        let mut effects = Effects::from(self.effects());
        let mut changes = Vec::new();
        for (member, place) in self.members().iter().zip(self.first_place()..) {
            for (account, position) in member.operation.accounts().into_iter().zip(0..) {
                let state = effects.state_at(place, position);
                changes.push(AccountChange {
                    account: account.clone(),
                    delta: member.operation.delta(position),
                    balance: state.amount,
                    version: state.version,
                });
            }
        }
        changes
    }

    fn first_place(&self) -> u32 {
        self.member.unwrap_or(0)
    }

    /// Why the member at `place` was refused.
    fn refused(&self, place: u32) -> Option<Refusal> {
        let refused = self.source.refusal()?;
        if refused.place != place {
            return Some(Refusal::Group { index: refused.place as usize });
        }
        let member = self.request().members().get(place as usize)?;
        Some(refusal(&member.operation, refused.reject))
    }

    /// The accounts after each accepted change, with its member's place, in the order of the request.
    fn states(&self) -> impl Iterator<Item = (u32, AccountState)> + '_ {
        let members = self.request().members();
        let sequence = self.sequence();
        self.effects().into_iter().filter_map(move |Effect { place, position, state }| {
            let id = members.get(place as usize)?.operation.account(position)?.clone();
            Some((place, AccountState { id, balance: state.amount, version: state.version, sequence }))
        })
    }

    /// What the asked members' changes led to, in the order of the request.
    fn effects(&self) -> SmallVec<[Effect; 2]> {
        let mut effects = self.source.effects();
        if let Some(asked) = self.member {
            effects.retain(|effect| effect.place == asked);
        }
        effects
    }

    /// Whether it touches `account`, or was refused because nobody opened it.
    #[must_use]
    pub fn concerns(&self, account: &AccountId) -> bool {
        self.members().iter().any(|member| member.operation.concerns(account))
    }
}

impl Source {
    /// What the changes led to, in the order of the request.
    fn effects(&self) -> SmallVec<[Effect; 2]> {
        match self {
            Source::Live(handle) => effects(handle),
            Source::Recorded(record) => record.effects(),
        }
    }

    /// Which member was refused, and why.
    fn refusal(&self) -> Option<Refused<Reject>> {
        match self {
            Source::Live(handle) => handle.decision()?.refusal,
            Source::Recorded(record) => record.refusal,
        }
    }
}

/// The effect of one change of one member.
struct Effect {
    place: u32,
    position: usize,
    state: Balance,
}

/// What the changes of a transaction led to, to be asked about in the order of the request.
pub(crate) struct Effects(Peekable<smallvec::IntoIter<[Effect; 2]>>);

impl Effects {
    /// The effects of a decided transaction.
    pub(crate) fn of(handle: &Handle<Balance>) -> Self {
        effects(handle).into()
    }

    /// The account at `position` of the member at `place`, after it; an account that was not found is absent.
    #[inline]
    pub(crate) fn state_at(&mut self, place: u32, position: usize) -> Balance {
        let effect = self.0.next_if(|effect| (effect.place, effect.position) == (place, position));
        effect.map_or(Balance::ABSENT, |effect| effect.state)
    }
}

impl From<SmallVec<[Effect; 2]>> for Effects {
    fn from(effects: SmallVec<[Effect; 2]>) -> Self {
        Effects(effects.into_iter().peekable())
    }
}

/// The effects of a decided transaction, in the order of the request; none for accounts that were not found. Reads the
/// transaction, not the accounts: an outcome may outlive its ledger.
fn effects(handle: &Handle<Balance>) -> SmallVec<[Effect; 2]> {
    let Some(decision) = handle.decision() else { return SmallVec::new() };
    let accepted = decision.refusal.is_none();
    let mut effects = SmallVec::<[Effect; 2]>::new();
    for (leg, before) in decision.legs.iter().zip(decision.before) {
        let mut state = *before;
        for (place, change) in leg.ops() {
            if accepted {
                state = state.apply(change).unwrap_or(state);
            }
            effects.push(Effect { place: *place, position: change.position(), state });
        }
    }
    effects.sort_unstable_by_key(|effect| (effect.place, effect.position));
    effects
}

impl Record {
    fn effects(&self) -> SmallVec<[Effect; 2]> {
        let members = self.request.members().iter().zip(0_u32..);
        let places = members.flat_map(|(member, place)| (0..member.operation.leg_count()).map(move |at| (place, at)));
        places.zip(&self.states).map(|((place, position), state)| Effect { place, position, state: *state }).collect()
    }
}

/// One change in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountChange {
    /// The account.
    pub account: AccountId,
    /// The amount that was added, or would have been; smallest units.
    pub delta: i64,
    /// The balance after it.
    pub balance: i64,
    /// The version after it; 0: nobody had opened the account.
    pub version: u64,
}

/// The refusal that `reject` stands for in `operation`.
fn refusal(operation: &Operation, reject: Reject) -> Refusal {
    let leg = usize::from(reject.leg);
    let current = reject.current;
    let account = operation.accounts()[leg].clone();
    match (reject.reason, operation.kind()) {
        (Reason::NotFound, _) => Refusal::NotFound { account },
        (Reason::AlreadyExists, _) => Refusal::AlreadyExists { account },
        (Reason::Insufficient, Kind::Transfer { amount, .. }) => {
            Refusal::InsufficientIn { account, current, required: i128::from(*amount) }
        }
        (Reason::Insufficient, Kind::Post { legs }) => {
            Refusal::InsufficientIn { account, current, required: i128::from(legs[leg].delta).saturating_neg() }
        }
        (Reason::OutOfRange, Kind::Transfer { amount, .. }) => {
            Refusal::OutOfRangeIn { account, current, amount: *amount }
        }
        (Reason::OutOfRange, Kind::Post { legs }) => {
            Refusal::OutOfRangeIn { account, current, amount: legs[leg].delta }
        }
        (Reason::Insufficient, Kind::Update { delta, .. }) => Refusal::Insufficient { current, delta: *delta },
        (Reason::OutOfRange, Kind::Update { delta, .. }) => Refusal::OutOfRange { current, delta: *delta },
        (Reason::Insufficient | Reason::OutOfRange, Kind::Create { initial_balance, .. }) => {
            Refusal::OutOfRange { current, delta: *initial_balance }
        }
    }
}
