//! What can be asked: operations, checked when they are made, and requests that carry an id.

#![warn(clippy::arithmetic_side_effects)]

use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crate::account::{AccountId, Change, TransactionId};
use crate::error::InvalidRequest;

/// The most operations in one batch.
pub const MAX_BATCH_OPERATIONS: usize = 10_000;

/// The most legs in one transaction. An account touched by two operations counts twice.
pub const MAX_LEGS: usize = 1_024;

/// The default time for which an id is honoured.
pub(crate) const DEFAULT_ID_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// The most members, or legs of a posting, of a small request.
pub(crate) const SMALL: usize = 8;

/// About how many bytes of memory a leg of a large request takes.
const LEG_BYTES: usize = 512;

/// One account's part of a posting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The account.
    pub account: AccountId,
    /// The amount added to it, in smallest units; a negative one is taken away.
    pub delta: i64,
}

/// One change, valid in itself: made by the constructors, which check everything that needs no account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation(pub(crate) Kind);

/// What an [`Operation`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens an account.
    Create {
        /// The new account.
        account: AccountId,
        /// Its first balance, not negative.
        initial_balance: i64,
    },
    /// Adds a signed delta.
    Update {
        /// The account.
        account: AccountId,
        /// What is added; negative takes away.
        delta: i64,
    },
    /// Moves an amount.
    Transfer {
        /// Where it comes from.
        from: AccountId,
        /// Where it goes, another account.
        to: AccountId,
        /// How much, positive.
        amount: i64,
    },
    /// Changes several accounts so that the sum stays the same.
    Post {
        /// One or more accounts, each once; the deltas add up to 0.
        legs: Vec<Posting>,
    },
}

impl Operation {
    fn spilled_bytes(&self) -> usize {
        match &self.0 {
            Kind::Create { account, .. } | Kind::Update { account, .. } => account.spilled_bytes(),
            Kind::Transfer { from, to, .. } => from.spilled_bytes().saturating_add(to.spilled_bytes()),
            Kind::Post { legs } => {
                let accounts = legs.iter().map(|leg| leg.account.spilled_bytes());
                accounts.fold(size_of_val(legs.as_slice()), usize::saturating_add)
            }
        }
    }

    /// Opens `account` with `initial_balance`.
    ///
    /// # Errors
    /// [`InvalidRequest::NegativeInitialBalance`].
    pub fn create(account: AccountId, initial_balance: i64) -> Result<Self, InvalidRequest> {
        if initial_balance < 0 {
            return Err(InvalidRequest::NegativeInitialBalance);
        }
        Ok(Operation(Kind::Create { account, initial_balance }))
    }

    /// Adds `delta` to `account`.
    #[must_use]
    pub fn update(account: AccountId, delta: i64) -> Self {
        Operation(Kind::Update { account, delta })
    }

    /// Moves `amount` from one account to another.
    ///
    /// # Errors
    /// [`InvalidRequest::SameAccount`], then [`InvalidRequest::AmountNotPositive`].
    pub fn transfer(from: AccountId, to: AccountId, amount: i64) -> Result<Self, InvalidRequest> {
        if from == to {
            return Err(InvalidRequest::SameAccount);
        }
        if amount <= 0 {
            return Err(InvalidRequest::AmountNotPositive);
        }
        Ok(Operation(Kind::Transfer { from, to, amount }))
    }

    /// Changes several accounts at once; the deltas must add up to 0, so nothing is made or lost.
    ///
    /// # Errors
    /// In this order: [`InvalidRequest::EmptyPosting`], [`InvalidRequest::TooManyLegs`],
    /// [`InvalidRequest::PostingTwice`], [`InvalidRequest::PostingUnbalanced`].
    pub fn post(legs: Vec<Posting>) -> Result<Self, InvalidRequest> {
        if legs.is_empty() {
            return Err(InvalidRequest::EmptyPosting);
        }
        if legs.len() > MAX_LEGS {
            return Err(InvalidRequest::TooManyLegs { legs: legs.len() });
        }
        let mut accounts: Vec<_> = legs.iter().map(|leg| &leg.account).collect();
        accounts.sort_unstable();
        if let Some(twice) = accounts.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidRequest::PostingTwice { account: twice[0].clone() });
        }
        let sum: i128 = legs.iter().map(|leg| i128::from(leg.delta)).sum();
        if sum != 0 {
            return Err(InvalidRequest::PostingUnbalanced { sum });
        }
        Ok(Operation(Kind::Post { legs }))
    }

    /// What it does.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.0
    }

    /// The journal's name for it: `create`, `update`, `transfer` or `post`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::Create { .. } => "create",
            Kind::Update { .. } => "update",
            Kind::Transfer { .. } => "transfer",
            Kind::Post { .. } => "post",
        }
    }

    /// The accounts that it touches, in the order of the contract's fields.
    #[must_use]
    pub fn accounts(&self) -> SmallVec<[&AccountId; 2]> {
        match &self.0 {
            Kind::Create { account, .. } | Kind::Update { account, .. } => smallvec![account],
            Kind::Transfer { from, to, .. } => SmallVec::from_buf([from, to]),
            Kind::Post { legs } => legs.iter().map(|leg| &leg.account).collect(),
        }
    }

    /// Whether it touches `account`.
    #[must_use]
    pub fn concerns(&self, account: &AccountId) -> bool {
        self.accounts().contains(&account)
    }

    /// How many accounts it touches.
    pub(crate) fn leg_count(&self) -> usize {
        match &self.0 {
            Kind::Create { .. } | Kind::Update { .. } => 1,
            Kind::Transfer { .. } => 2,
            Kind::Post { legs } => legs.len(),
        }
    }

    /// The account at `position` of [`Self::accounts`].
    #[inline]
    pub(crate) fn account(&self, position: usize) -> Option<&AccountId> {
        match (&self.0, position) {
            (Kind::Create { account, .. } | Kind::Update { account, .. }, 0) => Some(account),
            (Kind::Transfer { from, .. }, 0) => Some(from),
            (Kind::Transfer { to, .. }, 1) => Some(to),
            (Kind::Post { legs }, position) => legs.get(position).map(|leg| &leg.account),
            _ => None,
        }
    }

    /// What is added to the account at `position`.
    pub(crate) fn delta(&self, position: usize) -> i64 {
        match (&self.0, position) {
            (Kind::Create { initial_balance, .. }, _) => *initial_balance,
            (Kind::Update { delta, .. }, _) => *delta,
            // Positive by construction, so it has a negation.
            (Kind::Transfer { amount, .. }, 0) => amount.saturating_neg(),
            (Kind::Transfer { amount, .. }, _) => *amount,
            (Kind::Post { legs }, position) => legs.get(position).map_or(0, |leg| leg.delta),
        }
    }

    /// The change at `position` of [`Self::accounts`].
    #[inline]
    pub(crate) fn change(&self, position: usize) -> Change {
        match &self.0 {
            Kind::Create { initial_balance, .. } => Change::Open { initial: *initial_balance },
            _ => Change::Add { delta: self.delta(position), leg: position as u16 },
        }
    }

    /// The first field, by its name and order in the contract, in which `other` differs.
    pub(crate) fn first_difference(&self, other: &Operation) -> Option<&'static str> {
        let fields: &[(&'static str, bool)] = match (&self.0, &other.0) {
            (
                Kind::Create { account, initial_balance },
                Kind::Create { account: other_account, initial_balance: other_balance },
            ) => &[("account_id", account != other_account), ("initial_balance", initial_balance != other_balance)],
            (Kind::Update { account, delta }, Kind::Update { account: other_account, delta: other_delta }) => {
                &[("account_id", account != other_account), ("delta", delta != other_delta)]
            }
            (
                Kind::Transfer { from, to, amount },
                Kind::Transfer { from: other_from, to: other_to, amount: other_amount },
            ) => &[
                ("from_account_id", from != other_from),
                ("to_account_id", to != other_to),
                ("amount", amount != other_amount),
            ],
            (Kind::Post { legs }, Kind::Post { legs: other_legs }) => &[("legs", legs != other_legs)],
            _ => &[("operation", true)],
        };
        fields.iter().find(|(_, differs)| *differs).map(|(field, _)| *field)
    }
}

/// One operation with the id under which it may be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id; without one the operation is executed again when it is sent again.
    pub id: Option<TransactionId>,
    /// What to do.
    pub operation: Operation,
}

/// One operation, or a chain of them in order, committed under one sequence or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    members: SmallVec<[Member; 1]>,
}

impl Request {
    /// One operation.
    #[must_use]
    pub fn single(operation: Operation, id: Option<TransactionId>) -> Self {
        Request { members: SmallVec::from_buf([Member { id, operation }]) }
    }

    /// A linked chain: each operation sees the ones before it; all are applied, or none.
    ///
    /// # Errors
    /// [`InvalidRequest::EmptyChain`], [`InvalidRequest::TooManyLegs`]; [`InvalidRequest::IdTwiceInChain`] when two
    /// members carry one id.
    pub fn chain(members: Vec<Member>) -> Result<Self, InvalidRequest> {
        if members.is_empty() {
            return Err(InvalidRequest::EmptyChain);
        }
        let legs = members.iter().map(|member| member.operation.leg_count()).sum();
        if legs > MAX_LEGS {
            return Err(InvalidRequest::TooManyLegs { legs });
        }
        let mut ids: Vec<_> = members.iter().filter_map(|member| member.id.as_ref()).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidRequest::IdTwiceInChain { id: twice[0].clone() });
        }
        Ok(Request { members: members.into() })
    }

    /// One operation, or a chain of several.
    pub(crate) fn of_members(members: Vec<Member>) -> Result<Self, InvalidRequest> {
        match <[Member; 1]>::try_from(members) {
            Ok([member]) => Ok(Request::single(member.operation, member.id)),
            Err(members) => Request::chain(members),
        }
    }

    /// The operations, in order.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// About how many bytes a large request takes while its transaction is in memory; None for a small one.
    #[inline]
    pub(crate) fn weight(&self) -> Option<u64> {
        let legs = match self.members() {
            [Member { operation, .. }] => match operation.kind() {
                Kind::Post { legs } if legs.len() > SMALL => legs.len(),
                _ => return None,
            },
            members if members.len() > SMALL => members.iter().map(|member| member.operation.leg_count()).sum(),
            _ => return None,
        };
        Some(legs.saturating_mul(LEG_BYTES) as u64)
    }

    /// How many bytes it has allocated on the heap.
    pub(crate) fn spilled_bytes(&self) -> usize {
        let members = if self.members.spilled() { size_of_val(self.members()) } else { 0 };
        let within = self.members.iter().map(|member| {
            let id = member.id.as_ref().map_or(0, TransactionId::spilled_bytes);
            id.saturating_add(member.operation.spilled_bytes())
        });
        within.fold(members, usize::saturating_add)
    }

    /// Whether it asks for the same as `owner`, where its member `index` carries the id of `owner`'s member `place`.
    pub(crate) fn check_replay(&self, index: usize, owner: &Request, place: usize) -> Result<(), InvalidRequest> {
        let Some(Member { id: Some(id), operation }) = self.members.get(index) else { return Ok(()) };
        let differs = match owner.members.get(place) {
            Some(known) if self.members.len() == 1 => known
                .operation
                .first_difference(operation)
                .map(|field| InvalidRequest::IdReused { id: id.clone(), field }),
            _ => owner.first_difference(self).map(|difference| match difference {
                Some((id, field)) => InvalidRequest::IdReused { id, field },
                None => InvalidRequest::IdOfAnother { id: id.clone(), index },
            }),
        };
        differs.map_or(Ok(()), Err)
    }

    /// How `other` differs: the first member and field that differ under the same ids; `Some(None)` when the ids
    /// differ.
    fn first_difference(&self, other: &Request) -> Option<Option<(TransactionId, &'static str)>> {
        if self == other {
            return None;
        }
        let ids = |request: &'_ Request| request.members.iter().map(|member| member.id.clone()).collect::<Vec<_>>();
        if ids(self) != ids(other) {
            return Some(None);
        }
        Some(
            self.members.iter().zip(&other.members).find_map(|(known, asked)| {
                Some((asked.id.clone()?, known.operation.first_difference(&asked.operation)?))
            }),
        )
    }
}
