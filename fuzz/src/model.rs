//! A ledger as one would explain it: maps, no concurrency, every state kept. It shares the request types with the
//! crate and nothing else; the texts of refusals are spelled out again, from requirements.md.

use std::collections::BTreeMap;

use equipoise::{AccountId, InvalidRequest, Kind, Member, Operation, Request, TransactionId};

/// An account of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub balance: i64,
    pub version: u64,
    pub sequence: u64,
}

/// All accounts at one sequence.
pub type Accounts = BTreeMap<AccountId, Held>;

/// One operation's end: the accounts that it touched, after it; or the text of the refusal.
pub type Result = std::result::Result<Vec<(AccountId, Held)>, String>;

/// One line of the journal: account, what was added, balance and version after it.
pub type Change = (AccountId, i64, i64, u64);

/// A decided request.
#[derive(Clone, Debug)]
pub struct Entry {
    pub sequence: u64,
    pub members: Vec<Member>,
    pub results: Vec<Result>,
    pub changes: Vec<Vec<Change>>,
}

impl Entry {
    /// Only the member at `place`, as if it had been asked about alone.
    fn only(&self, place: usize) -> Entry {
        Entry {
            sequence: self.sequence,
            members: vec![self.members[place].clone()],
            results: vec![self.results[place].clone()],
            changes: vec![self.changes[place].clone()],
        }
    }
}

/// What the model answers.
#[derive(Clone, Debug)]
pub struct Answer {
    pub replayed: bool,
    pub entry: Entry,
}

/// The whole history of a ledger.
#[derive(Default)]
pub struct Model {
    /// `states[n]`: the accounts at sequence n + 1; before that there are none.
    states: Vec<Accounts>,
    entries: Vec<Entry>,
    /// The entry of an id, and which member of it.
    ids: BTreeMap<TransactionId, (usize, usize)>,
}

impl Model {
    pub fn sequence(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The accounts at `sequence`.
    pub fn at(&self, sequence: u64) -> Accounts {
        match usize::try_from(sequence).expect("short programs").checked_sub(1) {
            Some(place) => self.states[place].clone(),
            None => Accounts::new(),
        }
    }

    pub fn now(&self) -> Accounts {
        self.at(self.sequence())
    }

    pub fn ids(&self) -> usize {
        self.ids.len()
    }

    /// The entry of `sequence`.
    pub fn entry(&self, sequence: u64) -> &Entry {
        &self.entries[usize::try_from(sequence).expect("short programs") - 1]
    }

    /// What an id's request came to.
    pub fn transaction(&self, id: &TransactionId) -> Option<Entry> {
        self.ids.get(id).map(|(entry, member)| self.entries[*entry].only(*member))
    }

    pub fn submit(&mut self, request: &Request) -> std::result::Result<Answer, InvalidRequest> {
        if let Some(answer) = self.known(request)? {
            return Ok(answer);
        }
        let mut accounts = self.now();
        let before = accounts.clone();
        let sequence = self.sequence() + 1;
        let mut results: Vec<Result> = Vec::new();
        let mut changes = Vec::new();
        let mut refused = None;
        for (place, member) in request.members().iter().enumerate() {
            match apply(&mut accounts, &member.operation, sequence) {
                Ok(touched) => results.push(Ok(touched)),
                Err(text) => {
                    refused = Some((place, text));
                    break;
                }
            }
        }
        if let Some((culprit, text)) = refused {
            accounts = before.clone();
            let others = format!("Linked group failed at operation {culprit}");
            results = vec![Err(others); request.members().len()];
            results[culprit] = Err(text);
        }
        for (member, result) in request.members().iter().zip(&results) {
            let deltas = deltas(&member.operation);
            changes.push(match result {
                Ok(touched) => {
                    let after = touched.iter().zip(&deltas);
                    after.map(|((id, held), (_, delta))| (id.clone(), *delta, held.balance, held.version)).collect()
                }
                Err(_) => {
                    let met = |id: &AccountId| before.get(id).copied().unwrap_or_default();
                    let met = |(id, delta): &(AccountId, i64)| (id.clone(), *delta, met(id).balance, met(id).version);
                    deltas.iter().map(met).collect()
                }
            });
        }
        for (place, member) in request.members().iter().enumerate() {
            if let Some(id) = &member.id {
                self.ids.insert(id.clone(), (self.entries.len(), place));
            }
        }
        let entry = Entry { sequence, members: request.members().to_vec(), results, changes };
        self.states.push(accounts);
        self.entries.push(entry.clone());
        Ok(Answer { replayed: false, entry })
    }

    /// The answer to a request that carries an id seen before.
    fn known(&self, request: &Request) -> std::result::Result<Option<Answer>, InvalidRequest> {
        let members = request.members();
        let first = members.iter().enumerate().find_map(|(index, member)| {
            let id = member.id.as_ref()?;
            self.ids.get(id).map(|(entry, place)| (index, id, &self.entries[*entry], *place))
        });
        let Some((index, id, known, place)) = first else { return Ok(None) };
        if let [only] = members {
            return match difference(&known.members[place].operation, &only.operation) {
                Some(field) => Err(InvalidRequest::IdReused { id: id.clone(), field }),
                None => Ok(Some(Answer { replayed: true, entry: known.only(place) })),
            };
        }
        if known.members == members {
            return Ok(Some(Answer { replayed: true, entry: known.clone() }));
        }
        let of_another = InvalidRequest::IdOfAnother { id: id.clone(), index };
        let ids = |members: &[Member]| members.iter().map(|member| member.id.clone()).collect::<Vec<_>>();
        if ids(&known.members) != ids(members) {
            return Err(of_another);
        }
        // The same ids on a chain that says something else.
        let differing = known
            .members
            .iter()
            .zip(members)
            .find_map(|(known, asked)| Some((asked.id.clone()?, difference(&known.operation, &asked.operation)?)));
        Err(differing.map_or(of_another, |(id, field)| InvalidRequest::IdReused { id, field }))
    }
}

/// The accounts of an operation in the order of the contract's fields, with what is added to each.
fn deltas(operation: &Operation) -> Vec<(AccountId, i64)> {
    match operation.kind() {
        Kind::Create { account, initial_balance } => vec![(account.clone(), *initial_balance)],
        Kind::Update { account, delta } => vec![(account.clone(), *delta)],
        Kind::Transfer { from, to, amount } => vec![(from.clone(), -*amount), (to.clone(), *amount)],
        Kind::Post { legs } => legs.iter().map(|leg| (leg.account.clone(), leg.delta)).collect(),
    }
}

/// Applies one operation, or changes nothing and says why.
fn apply(accounts: &mut Accounts, operation: &Operation, sequence: u64) -> Result {
    if let Kind::Create { account, initial_balance } = operation.kind() {
        if accounts.contains_key(account) {
            return Err(format!("Account {account} already exists"));
        }
        let opened = Held { balance: *initial_balance, version: 1, sequence };
        accounts.insert(account.clone(), opened);
        return Ok(vec![(account.clone(), opened)]);
    }
    let deltas = deltas(operation);
    if let Some((unknown, _)) = deltas.iter().find(|(id, _)| !accounts.contains_key(id)) {
        return Err(format!("Account {unknown} not found"));
    }
    let after = |id: &AccountId, delta: i64| i128::from(accounts[id].balance) + i128::from(delta);
    if let Some((short, delta)) = deltas.iter().find(|(id, delta)| after(id, *delta) < 0) {
        let current = accounts[short].balance;
        return Err(match operation.kind() {
            Kind::Update { .. } => format!("Insufficient balance: current={current}, delta={delta}"),
            _ => {
                let required = -i128::from(*delta);
                format!("Insufficient balance in account {short}: current={current}, required={required}")
            }
        });
    }
    if let Some((full, delta)) = deltas.iter().find(|(id, delta)| after(id, *delta) > i128::from(i64::MAX)) {
        let current = accounts[full].balance;
        return Err(match operation.kind() {
            Kind::Update { .. } => format!("Balance out of range: current={current}, delta={delta}"),
            _ => format!("Balance out of range in account {full}: current={current}, amount={delta}"),
        });
    }
    Ok(deltas
        .into_iter()
        .map(|(id, delta)| {
            let held = accounts.get_mut(&id).expect("looked up above");
            *held = Held { balance: held.balance + delta, version: held.version + 1, sequence };
            (id, *held)
        })
        .collect())
}

/// The first field of the contract in which two operations differ.
fn difference(one: &Operation, other: &Operation) -> Option<&'static str> {
    let fields: Vec<(&'static str, bool)> = match (one.kind(), other.kind()) {
        (Kind::Create { account: a, initial_balance: m }, Kind::Create { account: b, initial_balance: n }) => {
            vec![("account_id", a == b), ("initial_balance", m == n)]
        }
        (Kind::Update { account: a, delta: m }, Kind::Update { account: b, delta: n }) => {
            vec![("account_id", a == b), ("delta", m == n)]
        }
        (Kind::Transfer { from: a, to: b, amount: m }, Kind::Transfer { from: c, to: d, amount: n }) => {
            vec![("from_account_id", a == c), ("to_account_id", b == d), ("amount", m == n)]
        }
        (Kind::Post { legs: a }, Kind::Post { legs: b }) => vec![("legs", a == b)],
        _ => vec![("operation", false)],
    };
    fields.into_iter().find_map(|(field, same)| (!same).then_some(field))
}
