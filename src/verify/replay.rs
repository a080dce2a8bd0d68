//! The model: the accounts as replaying the entries in order makes them, and whether each entry agrees.

use std::collections::HashMap;

use super::frame::{Entry, Kind, Leg, Reason, Refusal, State};

/// An account, as the entries so far make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) state: State,
    /// The sequence of its last change.
    pub(super) changed: u64,
    /// The sequence that opened it; if it comes from a checkpoint, a sequence that is not before that.
    opened: u64,
}

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Replay {
    accounts: HashMap<Box<str>, Account>,
    total: i128,
}

impl Replay {
    pub(super) fn accounts(&self) -> u64 {
        self.accounts.len() as u64
    }

    pub(super) fn total(&self) -> i128 {
        self.total
    }

    pub(super) fn account(&self, id: &str) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// In no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Account)> {
        self.accounts.iter().map(|(id, account)| (&**id, account))
    }

    /// Adds an account from the checkpoint that the replay begins with.
    pub(super) fn adopt(&mut self, id: &str, state: State, changed: u64) {
        self.total += i128::from(state.balance);
        self.accounts.insert(id.into(), Account { state, changed, opened: changed });
    }

    /// Replays `entry`, and compares the result with the one recorded in it.
    pub(super) fn apply(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        match entry.refusal {
            None => self.accepted(entry),
            Some(refusal) => match entry.as_of {
                Some(as_of) => self.unknown(entry, refusal, as_of),
                None => self.refused(entry, refusal),
            },
        }
    }

    fn accepted(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for (_, member, legs) in entry.parts() {
            for leg in legs {
                self.change(member.kind, leg, entry.sequence)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, kind: Kind, leg: &Leg<'_>, sequence: u64) -> Result<(), String> {
        let known = self.accounts.get_mut(leg.account);
        let before = known.as_ref().map_or(State::default(), |account| account.state);
        let after = step(kind, before, leg.delta).map_err(|reason| {
            format!(
                "{} of {} on account {} was accepted; with balance {} (version {}) it is refused: {}",
                kind.name(),
                leg.delta,
                leg.account,
                before.balance,
                before.version,
                reason.name(),
            )
        })?;
        same(leg.account, leg.state, after)?;
        self.total += i128::from(after.balance) - i128::from(before.balance);
        match known {
            Some(account) => (account.state, account.changed) = (after, sequence),
            None => {
                let opened = Account { state: after, changed: sequence, opened: sequence };
                self.accounts.insert(leg.account.into(), opened);
            }
        }
        Ok(())
    }

    /// An account that was unknown as of an earlier sequence may have been opened since: only that it was unknown then
    /// can be checked.
    fn unknown(&self, entry: &Entry<'_>, refusal: Refusal, as_of: u64) -> Result<(), String> {
        if as_of >= entry.sequence {
            return Err(format!("refused for an account unknown as of sequence {as_of}, which was yet to come"));
        }
        if refusal.current != 0 {
            return Err(format!("refused for an unknown account with a balance of {}", refusal.current));
        }
        let leg = entry.parts().find(|(place, ..)| *place == refusal.member);
        let leg = leg.and_then(|(_, _, legs)| legs.get(usize::from(refusal.leg)));
        match leg.and_then(|leg| Some((leg, self.account(leg.account)?))) {
            Some((leg, account)) if account.opened <= as_of => {
                Err(format!("account {} was not unknown as of sequence {as_of}", leg.account))
            }
            _ => Ok(()),
        }
    }

    /// Nothing was applied, so each state is that before the entry; and replaying the members in order must lead to the
    /// same refusal.
    fn refused(&self, entry: &Entry<'_>, recorded: Refusal) -> Result<(), String> {
        let before = |account: &str| self.account(account).map_or(State::default(), |account| account.state);
        let mut folded: HashMap<&str, State> = HashMap::new();
        let mut found: Option<Refusal> = None;
        for (place, member, legs) in entry.parts() {
            for (leg, position) in legs.iter().zip(0..) {
                // If the refusal is for something else, the accounts after it may have been looked up long before: one
                // that was unknown then is recorded as unknown, even if somebody has opened it since.
                let looked_up_early = (place, position) > (recorded.member, recorded.leg);
                if !(looked_up_early && leg.state == State::default()) {
                    same(leg.account, leg.state, before(leg.account))?;
                }
                if place > recorded.member {
                    continue;
                }
                let state = folded.entry(leg.account).or_insert_with(|| before(leg.account));
                match step(member.kind, *state, leg.delta) {
                    Ok(after) => *state = after,
                    Err(reason) => {
                        let refusal = Refusal { member: place, reason, leg: position, current: state.balance };
                        found = Some(found.map_or(refusal, |first| first.min(refusal)));
                    }
                }
            }
        }
        match found {
            Some(found) if found == recorded => Ok(()),
            Some(found) => Err(format!("recorded as {}; it is {}", describe(recorded), describe(found))),
            None => Err(format!("recorded as {}; nothing speaks against it", describe(recorded))),
        }
    }
}

fn describe(refusal: Refusal) -> String {
    let Refusal { member, reason, leg, current } = refusal;
    format!("refused at member {member}, account {leg}: {} with balance {current}", reason.name())
}

fn same(account: &str, recorded: State, replayed: State) -> Result<(), String> {
    if recorded == replayed {
        return Ok(());
    }
    let State { balance, version } = recorded;
    Err(format!(
        "account {account}: balance {balance} (version {version}) is recorded, replay gives {} (version {})",
        replayed.balance, replayed.version,
    ))
}

/// One change of one account.
fn step(kind: Kind, before: State, delta: i64) -> Result<State, Reason> {
    match kind {
        Kind::Create if before.version == 0 => Ok(State { balance: delta, version: 1 }),
        Kind::Create => Err(Reason::AlreadyExists),
        _ if before.version == 0 => Err(Reason::NotFound),
        _ => match before.balance.checked_add(delta) {
            Some(balance) if balance >= 0 => Ok(State { balance, version: before.version.saturating_add(1) }),
            None if delta > 0 => Err(Reason::OutOfRange),
            _ => Err(Reason::Insufficient),
        },
    }
}
