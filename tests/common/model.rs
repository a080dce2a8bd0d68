//! A plain ledger: one thread, one map, one operation after the other. It shares no code with the engine; what the two
//! disagree on is a bug in one of them.

use std::collections::BTreeMap;

use equipoise::{AccountState, Kind, Member, Outcome};

/// An account in the model: what [`AccountState`] says, without the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub balance: i64,
    pub version: u64,
    pub sequence: u64,
}

/// The accounts that one operation touched, after it, or the refusal's text.
pub type Answer = Result<Vec<(String, Entry)>, String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub accounts: BTreeMap<String, Entry>,
    /// The sequence at which each account was opened.
    opened: BTreeMap<String, u64>,
}

impl Model {
    /// Applies what was decided under `sequence` and returns what its answers must be. A "not found" with an `as_of` may
    /// be true of that sequence only; it then changes nothing, and everything before it in the chain must hold.
    pub fn settle(&mut self, members: &[Member], sequence: u64, as_of: Option<u64>, answers: &[Answer]) -> Vec<Answer> {
        let mut after = self.clone();
        let expected = after.apply(members, sequence);
        if expected.as_slice() != answers
            && let Some(as_of) = as_of
            && self.was_refused_as_of(members, sequence, as_of, answers)
        {
            return answers.to_vec();
        }
        *self = after;
        expected
    }

    fn was_refused_as_of(&self, members: &[Member], sequence: u64, as_of: u64, answers: &[Answer]) -> bool {
        let unknown = |name: &str| self.opened.get(name).is_none_or(|opened| *opened > as_of);
        let culprit = members.iter().zip(answers).position(|(member, answer)| {
            let accounts = member.operation.accounts();
            accounts.iter().any(|id| unknown(id.as_str()) && *answer == Err(format!("Account {id} not found")))
        });
        let Some(culprit) = culprit else { return false };
        let group = Err(format!("Linked group failed at operation {culprit}"));
        let others = answers.iter().enumerate().all(|(index, answer)| index == culprit || *answer == group);
        others && self.clone().apply(&members[..culprit], sequence).iter().all(Result::is_ok)
    }

    /// Applies the operations as one chain under `sequence`: all of them, or none.
    pub fn apply(&mut self, members: &[Member], sequence: u64) -> Vec<Answer> {
        let before = self.clone();
        let mut answers = Vec::new();
        for (index, member) in members.iter().enumerate() {
            match self.apply_one(member.operation.kind(), sequence) {
                Ok(touched) => answers.push(Ok(touched)),
                Err(text) => {
                    *self = before;
                    let group = || Err(format!("Linked group failed at operation {index}"));
                    return (0..members.len())
                        .map(|other| if other == index { Err(text.clone()) } else { group() })
                        .collect();
                }
            }
        }
        answers
    }

    fn apply_one(&mut self, kind: &Kind, sequence: u64) -> Answer {
        match kind {
            Kind::Create { account, initial_balance } => {
                let name = account.as_str();
                if self.accounts.contains_key(name) {
                    return Err(format!("Account {name} already exists"));
                }
                let entry = Entry { balance: *initial_balance, version: 1, sequence };
                self.accounts.insert(name.to_owned(), entry);
                self.opened.insert(name.to_owned(), sequence);
                Ok(vec![(name.to_owned(), entry)])
            }
            Kind::Update { account, delta } => {
                let current = self.known(account.as_str())?.balance;
                match current.checked_add(*delta) {
                    Some(balance) if balance >= 0 => Ok(vec![self.set(account.as_str(), balance, sequence)]),
                    None if *delta > 0 => Err(format!("Balance out of range: current={current}, delta={delta}")),
                    _ => Err(format!("Insufficient balance: current={current}, delta={delta}")),
                }
            }
            Kind::Transfer { from, to, amount } => {
                self.move_all(&[(from.as_str(), -amount), (to.as_str(), *amount)], sequence)
            }
            Kind::Post { legs } => {
                let legs: Vec<_> = legs.iter().map(|leg| (leg.account.as_str(), leg.delta)).collect();
                self.move_all(&legs, sequence)
            }
        }
    }

    /// Accounts known, in order; then funds, in order; then room, in order.
    fn move_all(&mut self, legs: &[(&str, i64)], sequence: u64) -> Answer {
        let mut before = Vec::new();
        for (name, _) in legs {
            before.push(self.known(name)?.balance);
        }
        for ((name, delta), current) in legs.iter().zip(&before) {
            if i128::from(*current) + i128::from(*delta) < 0 {
                let required = -i128::from(*delta);
                return Err(format!("Insufficient balance in account {name}: current={current}, required={required}"));
            }
        }
        for ((name, delta), current) in legs.iter().zip(&before) {
            if current.checked_add(*delta).is_none() {
                return Err(format!("Balance out of range in account {name}: current={current}, amount={delta}"));
            }
        }
        Ok(legs.iter().zip(before).map(|((name, delta), current)| self.set(name, current + delta, sequence)).collect())
    }

    fn known(&self, name: &str) -> Result<Entry, String> {
        self.accounts.get(name).copied().ok_or_else(|| format!("Account {name} not found"))
    }

    fn set(&mut self, name: &str, balance: i64, sequence: u64) -> (String, Entry) {
        let entry = self.accounts.get_mut(name).expect("known");
        *entry = Entry { balance, version: entry.version + 1, sequence };
        (name.to_owned(), *entry)
    }

    /// Applies a journal entry, and panics when its results are not what the model comes to.
    pub fn replay(&mut self, outcome: &Outcome) {
        let answers = answers(outcome);
        let expected = self.settle(outcome.members(), outcome.sequence(), outcome.as_of(), &answers);
        assert_eq!(answers, expected, "journal entry {}", outcome.sequence());
    }

    pub fn total(&self) -> i128 {
        self.accounts.values().map(|entry| i128::from(entry.balance)).sum()
    }

    /// The accounts in id order, as a snapshot shows them.
    pub fn states(&self) -> Vec<(String, Entry)> {
        self.accounts.iter().map(|(name, entry)| (name.clone(), *entry)).collect()
    }
}

/// An account's state in the model's terms.
pub fn plain(state: &AccountState) -> (String, Entry) {
    let AccountState { id, balance, version, sequence } = state;
    (id.as_str().to_owned(), Entry { balance: *balance, version: *version, sequence: *sequence })
}

/// An outcome's results in the model's terms.
pub fn answers(outcome: &Outcome) -> Vec<Answer> {
    let touched = |states: equipoise::AccountStates| states.iter().map(plain).collect();
    outcome.results().into_iter().map(|result| result.map(touched).map_err(|refusal| refusal.to_string())).collect()
}
