//! One entry in a batch: what was asked, how it ended, and what it led to.

use smallvec::SmallVec;

use super::bytes::{Bytes, put_text};
use crate::account::{AccountId, Balance, Reason, Reject, TransactionId};
use crate::kernel::{Handle, Refused};
use crate::outcome::{Effects, Record};
use crate::request::{Kind, MAX_LEGS, Member, Operation, Posting, Request};

/// Flags of a frame.
const REFUSED: u8 = 1;
const AS_OF: u8 = 2;

/// Kinds of a member.
const CREATE: u8 = 1;
const UPDATE: u8 = 2;
const TRANSFER: u8 = 3;
const POST: u8 = 4;

/// What is wrong with a frame.
pub(super) type Malformed = &'static str;

/// Appends the frame of a decided transaction to `into`; returns its time.
pub(super) fn encode(handle: &Handle<Balance>, into: &mut Vec<u8>) -> u64 {
    let Some(decision) = handle.decision() else { return 0 };
    let start = into.len();
    into.extend_from_slice(&[0; 4]);
    let as_of = handle.as_of();
    let flags = if decision.refusal.is_some() { REFUSED } else { 0 } | if as_of.is_some() { AS_OF } else { 0 };
    let members = handle.request().members();
    into.extend_from_slice(&decision.time.to_le_bytes());
    into.push(flags);
    into.extend_from_slice(&(members.len() as u16).to_le_bytes());
    if let Some(Refused { place, reject }) = decision.refusal {
        into.extend_from_slice(&place.to_le_bytes());
        into.push(reason_code(reject.reason));
        into.extend_from_slice(&reject.leg.to_le_bytes());
        into.extend_from_slice(&reject.current.to_le_bytes());
    }
    if let Some(as_of) = as_of {
        into.extend_from_slice(&as_of.to_le_bytes());
    }
    let mut effects = Effects::of(handle);
    for (member, place) in members.iter().zip(0_u32..) {
        encode_member(member, |position| effects.state_at(place, position), into);
    }
    let length = (into.len() - start - 4) as u32;
    into[start..start + 4].copy_from_slice(&length.to_le_bytes());
    decision.time
}

/// Appends a member. `state_at` returns the state of the member's nth account after it.
#[inline]
fn encode_member(member: &Member, mut state_at: impl FnMut(usize) -> Balance, into: &mut Vec<u8>) {
    let id = member.id.as_ref().map_or("", TransactionId::as_str);
    match member.operation.kind() {
        Kind::Create { account, initial_balance } => {
            into.push(CREATE);
            put_text(id, into);
            put_change(account, *initial_balance, state_at(0), into);
        }
        Kind::Update { account, delta } => {
            into.push(UPDATE);
            put_text(id, into);
            put_change(account, *delta, state_at(0), into);
        }
        Kind::Transfer { from, to, amount } => {
            into.push(TRANSFER);
            put_text(id, into);
            put_text(from.as_str(), into);
            put_text(to.as_str(), into);
            into.extend_from_slice(&amount.to_le_bytes());
            put_state(state_at(0), into);
            put_state(state_at(1), into);
        }
        Kind::Post { legs } => {
            into.push(POST);
            put_text(id, into);
            into.extend_from_slice(&(legs.len() as u16).to_le_bytes());
            for (position, leg) in legs.iter().enumerate() {
                put_change(&leg.account, leg.delta, state_at(position), into);
            }
        }
    }
}

#[inline]
fn put_change(account: &AccountId, amount: i64, state: Balance, into: &mut Vec<u8>) {
    put_text(account.as_str(), into);
    into.extend_from_slice(&amount.to_le_bytes());
    put_state(state, into);
}

#[inline]
fn put_state(state: Balance, into: &mut Vec<u8>) {
    into.extend_from_slice(&state.amount.to_le_bytes());
    into.extend_from_slice(&state.version.to_le_bytes());
}

fn reason_code(reason: Reason) -> u8 {
    match reason {
        Reason::AlreadyExists => 1,
        Reason::NotFound => 2,
        Reason::Insufficient => 3,
        Reason::OutOfRange => 4,
    }
}

fn reason(code: u8) -> Option<Reason> {
    Some(match code {
        1 => Reason::AlreadyExists,
        2 => Reason::NotFound,
        3 => Reason::Insufficient,
        4 => Reason::OutOfRange,
        _ => return None,
    })
}

/// A frame, read as far as its members.
pub(super) struct Frame<'a> {
    pub(super) time: u64,
    pub(super) refusal: Option<Refused<Reject>>,
    as_of: Option<u64>,
    count: u16,
    rest: Bytes<'a>,
}

/// One member of a frame; ids are not checked yet.
pub(super) struct MemberFrame<'a> {
    pub(super) id: Option<&'a str>,
    kind: KindFrame,
    pub(super) changes: SmallVec<[ChangeFrame<'a>; 2]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KindFrame {
    Create,
    Update,
    Transfer,
    Post,
}

/// One account of a member.
pub(super) struct ChangeFrame<'a> {
    pub(super) account: &'a str,
    /// Of a transfer the amount, on both sides.
    amount: i64,
    pub(super) state: Balance,
}

impl<'a> Frame<'a> {
    /// Takes the next frame off `body`; None at its end.
    pub(super) fn next(body: &mut Bytes<'a>) -> Option<Result<Self, Malformed>> {
        if body.0.is_empty() {
            return None;
        }
        Some(Self::read(body).ok_or("a frame that does not fit into its batch"))
    }

    fn read(body: &mut Bytes<'a>) -> Option<Self> {
        let length = body.u32()?;
        let mut rest = Bytes(body.take(usize::try_from(length).ok()?)?);
        let time = rest.u64()?;
        let flags = rest.u8()?;
        let count = rest.u16()?;
        let refusal = match flags & REFUSED {
            0 => None,
            _ => {
                let place = rest.u32()?;
                let reject = Reject { reason: reason(rest.u8()?)?, leg: rest.u16()?, current: rest.i64()? };
                Some(Refused { place, reject })
            }
        };
        let as_of = if flags & AS_OF == 0 { None } else { Some(rest.u64()?) };
        let known = flags & !(REFUSED | AS_OF) == 0 && count > 0 && usize::from(count) <= MAX_LEGS;
        known.then_some(Frame { time, refusal, as_of, count, rest })
    }

    /// How long its members are.
    pub(super) fn bytes(&self) -> usize {
        self.rest.0.len()
    }

    /// Reads the members one by one.
    pub(super) fn members(&self) -> impl Iterator<Item = Result<MemberFrame<'a>, Malformed>> + use<'a> {
        let mut rest = self.rest;
        let mut left = self.count;
        std::iter::from_fn(move || {
            if left == 0 {
                return (!std::mem::take(&mut rest.0).is_empty()).then_some(Err("a frame longer than its members"));
            }
            left -= 1;
            let member = MemberFrame::read(&mut rest).ok_or("a member that does not fit into its frame");
            if member.is_err() {
                (left, rest) = (0, Bytes(&[]));
            }
            Some(member)
        })
    }

    /// The whole entry, to answer from.
    pub(super) fn record(&self, sequence: u64) -> Result<Record, Malformed> {
        let mut members = Vec::with_capacity(usize::from(self.count));
        let mut states = SmallVec::new();
        for member in self.members() {
            let member = member?;
            states.extend(member.changes.iter().map(|change| change.state));
            members.push(member.member().ok_or("an operation that could not have been asked for")?);
        }
        let request = Request::of_members(members).map_err(|_| "a chain that could not have been asked for")?;
        let refused_at = self.refusal.map_or(0, |Refused { place, reject }| {
            let operation = request.members().get(place as usize).map(|member| &member.operation);
            operation.map_or(0, |operation| operation.leg_count().saturating_sub(usize::from(reject.leg)))
        });
        if self.refusal.is_some() && refused_at == 0 {
            return Err("a refusal of a member that is not there");
        }
        Ok(Record { request, sequence, time: self.time, refusal: self.refusal, as_of: self.as_of, states })
    }
}

impl<'a> MemberFrame<'a> {
    fn read(rest: &mut Bytes<'a>) -> Option<Self> {
        let code = rest.u8()?;
        let id = Some(rest.text()?).filter(|id| !id.is_empty());
        let state = |rest: &mut Bytes<'a>| Some(Balance { amount: rest.i64()?, version: rest.u64()? });
        let mut changes = SmallVec::new();
        let kind = match code {
            CREATE | UPDATE => {
                changes.push(ChangeFrame { account: rest.text()?, amount: rest.i64()?, state: state(rest)? });
                if code == CREATE { KindFrame::Create } else { KindFrame::Update }
            }
            TRANSFER => {
                let (from, to, amount) = (rest.text()?, rest.text()?, rest.i64()?);
                changes.push(ChangeFrame { account: from, amount, state: state(rest)? });
                changes.push(ChangeFrame { account: to, amount, state: state(rest)? });
                KindFrame::Transfer
            }
            POST => {
                for _ in 0..rest.u16()? {
                    changes.push(ChangeFrame { account: rest.text()?, amount: rest.i64()?, state: state(rest)? });
                }
                KindFrame::Post
            }
            _ => return None,
        };
        Some(MemberFrame { id, kind, changes })
    }

    fn member(&self) -> Option<Member> {
        let account = |change: &ChangeFrame<'_>| AccountId::new(change.account).ok();
        let id = match self.id {
            Some(id) => Some(TransactionId::new(id).ok()?),
            None => None,
        };
        let operation = match (self.kind, self.changes.as_slice()) {
            (KindFrame::Create, [change]) => Operation::create(account(change)?, change.amount).ok()?,
            (KindFrame::Update, [change]) => Operation::update(account(change)?, change.amount),
            (KindFrame::Transfer, [from, to]) => Operation::transfer(account(from)?, account(to)?, from.amount).ok()?,
            (KindFrame::Post, legs) => {
                let leg = |change| Some(Posting { account: account(change)?, delta: change.amount });
                Operation::post(legs.iter().map(leg).collect::<Option<_>>()?).ok()?
            }
            _ => return None,
        };
        Some(Member { id, operation })
    }
}
