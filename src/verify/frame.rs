//! A frame: one entry of the journal, parsed. Whether it is true is checked by [`super::replay`].

use super::batch::Batch;
use super::bytes::{Bytes, Read, Wrong};
use super::problem::Problem;

/// Balance and version of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) balance: i64,
    pub(crate) version: u64,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Update,
    Transfer,
    Post,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Create => "create",
            Kind::Update => "update",
            Kind::Transfer => "transfer",
            Kind::Post => "post",
        }
    }
}

/// Why a change is refused. Of two reasons for one member, the smaller counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    AlreadyExists,
    NotFound,
    Insufficient,
    OutOfRange,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::AlreadyExists => "AlreadyExists",
            Reason::NotFound => "NotFound",
            Reason::Insufficient => "Insufficient",
            Reason::OutOfRange => "OutOfRange",
        }
    }
}

/// Which change was refused, and why; ordered as refusals count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    pub(crate) member: u32,
    pub(crate) reason: Reason,
    pub(crate) leg: u16,
    pub(crate) current: i64,
}

/// One operation of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: Option<&'a str>,
    /// How many of the entry's legs belong to it.
    pub(crate) legs: u16,
}

/// One account's part of a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg<'a> {
    pub(crate) account: &'a str,
    /// For a create, the initial balance.
    pub(crate) delta: i64,
    /// The state after the change; in a refused entry, the state that it met.
    pub(crate) state: State,
}

/// One entry. Its lists keep their room from entry to entry.
#[derive(Debug, Default)]
pub(crate) struct Entry<'a> {
    pub(crate) sequence: u64,
    pub(crate) time: u64,
    pub(crate) refusal: Option<Refusal>,
    /// The sequence as of which the refused account was unknown.
    pub(crate) as_of: Option<u64>,
    pub(crate) members: Vec<Member<'a>>,
    pub(crate) legs: Vec<Leg<'a>>,
    /// Where its frame begins, counted from the batch's beginning.
    pub(super) at: usize,
}

impl<'a> Entry<'a> {
    /// Each member with its place and its legs.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (u32, &Member<'a>, &[Leg<'a>])> {
        let mut legs = &self.legs[..];
        self.members.iter().zip(0..).map(move |(member, place)| {
            let (own, rest) = legs.split_at(usize::from(member.legs).min(legs.len()));
            legs = rest;
            (place, member, own)
        })
    }
}

/// The entries of a batch, one after the other.
pub(crate) struct Frames<'a> {
    batch: &'a Batch<'a>,
    bytes: Bytes<'a>,
    begin: usize,
    index: u32,
}

impl<'a> Frames<'a> {
    pub(super) fn new(batch: &'a Batch<'a>) -> Self {
        let (bytes, begin) = batch.frame_bytes();
        Frames { batch, bytes: Bytes::new(bytes), begin, index: 0 }
    }

    /// Reads the next entry into `entry`; false when the batch is done, and its frames fill it exactly.
    pub(crate) fn next(&mut self, entry: &mut Entry<'a>) -> Result<bool, Problem> {
        let sequence = self.batch.first_sequence.saturating_add(u64::from(self.index));
        if self.index == self.batch.count {
            return match self.bytes.is_empty() {
                true => Ok(false),
                false => Err(self.problem(sequence, self.bytes.wrong("bytes after the last entry of the batch"))),
            };
        }
        entry.at = self.begin + self.bytes.at();
        let length = self.bytes.u32().map_err(|wrong| self.problem(sequence, wrong))?;
        let inside = self.bytes.at();
        let frame = self.bytes.take(length as usize).map_err(|wrong| self.problem(sequence, wrong))?;
        let read = decode(&mut Bytes::new(frame), entry);
        read.map_err(|Wrong { at, what }| self.problem(sequence, Wrong { at: inside + at, what }))?;
        entry.sequence = sequence;
        self.index += 1;
        Ok(true)
    }

    fn problem(&self, sequence: u64, wrong: Wrong) -> Problem {
        self.batch.problem(self.begin + wrong.at, sequence, wrong.what)
    }
}

fn decode<'a>(bytes: &mut Bytes<'a>, entry: &mut Entry<'a>) -> Read<()> {
    const REFUSED: u8 = 1;
    const AS_OF: u8 = 2;
    const MOST_MEMBERS: u16 = 1024;
    entry.members.clear();
    entry.legs.clear();
    entry.time = bytes.u64()?;
    let before = *bytes;
    let flags = bytes.u8()?;
    let members = bytes.u16()?;
    if flags & !(REFUSED | AS_OF) != 0 {
        return Err(before.wrong(format!("unknown flags {flags:#x} of an entry")));
    }
    if members == 0 || members > MOST_MEMBERS {
        return Err(before.wrong(format!("an entry with {members} members")));
    }
    let refusal = *bytes;
    entry.refusal = if flags & REFUSED != 0 { Some(self::refusal(bytes)?) } else { None };
    entry.as_of = if flags & AS_OF != 0 { Some(bytes.u64()?) } else { None };
    for _ in 0..members {
        member(bytes, entry)?;
    }
    if !bytes.is_empty() {
        return Err(bytes.wrong("bytes after the last member of the entry"));
    }
    if let Some(Refusal { member, leg, .. }) = entry.refusal
        && entry.members.get(member as usize).is_none_or(|member| leg >= member.legs)
    {
        return Err(refusal.wrong(format!("account {leg} of member {member} was refused, and there is none")));
    }
    if entry.as_of.is_some() && entry.refusal.is_none_or(|refusal| refusal.reason != Reason::NotFound) {
        return Err(refusal.wrong("an unknown account's sequence in an entry that was not refused for one"));
    }
    Ok(())
}

fn refusal(bytes: &mut Bytes<'_>) -> Read<Refusal> {
    let member = bytes.u32()?;
    let before = *bytes;
    let reason = match bytes.u8()? {
        1 => Reason::AlreadyExists,
        2 => Reason::NotFound,
        3 => Reason::Insufficient,
        4 => Reason::OutOfRange,
        other => return Err(before.wrong(format!("unknown reason {other} of a refusal"))),
    };
    Ok(Refusal { member, reason, leg: bytes.u16()?, current: bytes.i64()? })
}

fn member<'a>(bytes: &mut Bytes<'a>, entry: &mut Entry<'a>) -> Read<()> {
    let begin = *bytes;
    let kind = bytes.u8()?;
    let id = bytes.id()?;
    let (kind, legs) = match kind {
        1 | 2 => {
            let (account, delta, state) = (bytes.account()?, bytes.i64()?, state(bytes)?);
            if kind == 1 && delta < 0 {
                return Err(begin.wrong(format!("an account opened with {delta}")));
            }
            entry.legs.push(Leg { account, delta, state });
            (if kind == 1 { Kind::Create } else { Kind::Update }, 1)
        }
        3 => {
            let (from, to, amount) = (bytes.account()?, bytes.account()?, bytes.i64()?);
            if amount <= 0 {
                return Err(begin.wrong(format!("a transfer of {amount}")));
            }
            if from == to {
                return Err(begin.wrong(format!("a transfer from account {from} to itself")));
            }
            entry.legs.push(Leg { account: from, delta: -amount, state: state(bytes)? });
            entry.legs.push(Leg { account: to, delta: amount, state: state(bytes)? });
            (Kind::Transfer, 2)
        }
        4 => (Kind::Post, post(bytes, entry)?),
        other => return Err(begin.wrong(format!("unknown kind {other} of a member"))),
    };
    entry.members.push(Member { kind, id, legs });
    Ok(())
}

fn post<'a>(bytes: &mut Bytes<'a>, entry: &mut Entry<'a>) -> Read<u16> {
    let begin = *bytes;
    let legs = bytes.u16()?;
    let first = entry.legs.len();
    for _ in 0..legs {
        let (account, delta, state) = (bytes.account()?, bytes.i64()?, state(bytes)?);
        entry.legs.push(Leg { account, delta, state });
    }
    let own = &entry.legs[first..];
    let sum: i128 = own.iter().map(|leg| i128::from(leg.delta)).sum();
    if sum != 0 || own.is_empty() {
        return Err(begin.wrong(format!("a posting of {legs} legs that add up to {sum}, not 0")));
    }
    let mut accounts: Vec<_> = own.iter().map(|leg| leg.account).collect();
    accounts.sort_unstable();
    match accounts.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(begin.wrong(format!("a posting that names account {} twice", twice[0]))),
        None => Ok(legs),
    }
}

fn state(bytes: &mut Bytes<'_>) -> Read<State> {
    let begin = *bytes;
    let state = State { balance: bytes.i64()?, version: bytes.u64()? };
    if state.balance < 0 {
        return Err(begin.wrong(format!("a balance of {}, below 0", state.balance)));
    }
    if state.version == 0 && state.balance != 0 {
        return Err(begin.wrong(format!("a balance of {} on an account that nobody opened", state.balance)));
    }
    Ok(state)
}
