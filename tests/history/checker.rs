//! Judges a recorded history. It knows nothing of the engine: a history is calls with their times and answers.

use std::collections::{BTreeMap, BTreeSet};

use equipoise::Member;

use crate::common::model::{Answer, Entry, Model};

/// One call: who made it, when it was invoked and when it returned (one clock for all), and what came of it.
#[derive(Clone, Debug)]
pub struct Record {
    pub thread: usize,
    pub invoked: u64,
    pub returned: u64,
    pub call: Call,
}

#[derive(Clone, Debug)]
pub enum Call {
    /// A decided request.
    Write { members: Vec<Member>, sequence: u64, as_of: Option<u64>, replayed: bool, answers: Vec<Answer> },
    /// A read of the newest state.
    Read { account: String, found: Option<Entry> },
    /// A snapshot of the newest sequence.
    Snapshot { sequence: u64, states: Vec<(String, Entry)>, total: i128 },
}

impl Call {
    /// The commit sequence that must have been reached when it returned.
    fn evidence(&self) -> u64 {
        match self {
            Call::Write { sequence, .. } | Call::Snapshot { sequence, .. } => *sequence,
            Call::Read { found, .. } => found.map_or(0, |entry| entry.sequence),
        }
    }
}

/// What is promised about the sum of all balances.
#[derive(Clone, Copy, Debug)]
pub enum Totals {
    Free,
    /// The same in every snapshot from this sequence on.
    Constant {
        from: u64,
        total: i128,
    },
}

/// What is wrong with a history; `call` is an index into it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Two executions with one commit sequence.
    SequenceTwice { sequence: u64 },
    /// A commit sequence that no execution has.
    SequenceMissing { sequence: u64 },
    /// An execution answered something else than the model at its place.
    WrongAnswer { call: usize, sequence: u64 },
    /// The versions of an account's changes, in commit order, are not 1, 2, 3, …
    VersionGap { account: String, sequence: u64 },
    /// A balance below 0.
    BelowFloor { account: String, sequence: u64 },
    /// Two executions of one transaction id.
    ExecutedTwice { id: String },
    /// A replay that did not repeat its execution's answer.
    WrongReplay { call: usize },
    /// An execution was invoked after another call had returned with a higher or the same sequence.
    OutOfRealTime { call: usize, after: u64 },
    /// A state that its account never had.
    UnknownState { call: usize },
    /// A read or snapshot that lacks what was known when it was invoked.
    Stale { call: usize, known: u64 },
    /// A thread did not see its own write.
    OwnWriteMissed { call: usize },
    /// A thread's reads of an account went back.
    WentBack { call: usize },
    /// A call returned before what it saw was invoked.
    FromTheFuture { call: usize },
    /// A snapshot that is not the state at its sequence.
    TornSnapshot { call: usize },
    /// A snapshot whose total is not the sum, or not the promised one.
    WrongTotal { call: usize },
}

/// Everything that is wrong with `history`, which must contain every write of its ledger.
pub fn check(history: &[Record], totals: Totals) -> Vec<Violation> {
    let mut found = BTreeSet::new();
    let executions = executions(history, &mut found);
    let states = replay(history, &executions, &mut found);
    check_versions(history, &executions, &mut found);
    check_replays(history, &executions, &mut found);
    check_real_time(history, &executions, &states, &mut found);
    check_threads(history, &mut found);
    check_snapshots(history, &states, totals, &mut found);
    found.into_iter().collect()
}

/// The calls that executed something, by commit sequence.
fn executions(history: &[Record], found: &mut BTreeSet<Violation>) -> BTreeMap<u64, usize> {
    let mut executions = BTreeMap::new();
    for (call, record) in history.iter().enumerate() {
        if let Call::Write { sequence, replayed: false, .. } = record.call
            && executions.insert(sequence, call).is_some()
        {
            found.insert(Violation::SequenceTwice { sequence });
        }
    }
    let newest = executions.last_key_value().map_or(0, |(sequence, _)| *sequence);
    let missing = (1..=newest).filter(|sequence| !executions.contains_key(sequence));
    found.extend(missing.map(|sequence| Violation::SequenceMissing { sequence }));
    executions
}

/// Replays the executions on a model and compares answers; the state of everything after each sequence, from 0 on.
fn replay(history: &[Record], executions: &BTreeMap<u64, usize>, found: &mut BTreeSet<Violation>) -> States {
    let mut model = Model::default();
    let mut states = States::default();
    for (&sequence, &call) in executions {
        let Call::Write { members, as_of, answers, .. } = &history[call].call else { continue };
        let expected = model.settle(members, sequence, *as_of, answers);
        if *answers != expected {
            found.insert(Violation::WrongAnswer { call, sequence });
        }
        for (account, entry) in expected.into_iter().flatten().flatten() {
            if entry.balance < 0 {
                found.insert(Violation::BelowFloor { account: account.clone(), sequence });
            }
            let changes = states.accounts.entry(account).or_default();
            // Of several changes under one sequence only the last is ever visible.
            if changes.last().is_some_and(|last| last.sequence == sequence) {
                changes.pop();
            }
            changes.push(entry);
        }
    }
    states
}

/// Every account's states in commit order.
#[derive(Default)]
struct States {
    accounts: BTreeMap<String, Vec<Entry>>,
}

impl States {
    /// The account's state at `sequence`.
    fn at(&self, account: &str, sequence: u64) -> Option<Entry> {
        let changes = self.accounts.get(account)?;
        let until = changes.partition_point(|entry| entry.sequence <= sequence);
        until.checked_sub(1).map(|last| changes[last])
    }

    fn all_at(&self, sequence: u64) -> Vec<(String, Entry)> {
        self.accounts.keys().filter_map(|name| Some((name.clone(), self.at(name, sequence)?))).collect()
    }
}

/// Versions and floors as the executions themselves reported them, whatever the model says.
fn check_versions(history: &[Record], executions: &BTreeMap<u64, usize>, found: &mut BTreeSet<Violation>) {
    let mut versions = BTreeMap::<&str, u64>::new();
    for (&sequence, &call) in executions {
        let Call::Write { answers, .. } = &history[call].call else { continue };
        for (account, entry) in answers.iter().flatten().flatten() {
            let version = versions.entry(account).or_default();
            if entry.version != *version + 1 {
                found.insert(Violation::VersionGap { account: account.clone(), sequence });
            }
            *version = entry.version;
            if entry.balance < 0 {
                found.insert(Violation::BelowFloor { account: account.clone(), sequence });
            }
        }
    }
}

/// One execution an id, and every replay repeats it.
fn check_replays(history: &[Record], executions: &BTreeMap<u64, usize>, found: &mut BTreeSet<Violation>) {
    let mut owners = BTreeMap::new();
    for call in executions.values() {
        let Call::Write { members, .. } = &history[*call].call else { continue };
        for id in members.iter().filter_map(|member| member.id.as_ref()) {
            if owners.insert(id.as_str(), *call).is_some() {
                found.insert(Violation::ExecutedTwice { id: id.to_string() });
            }
        }
    }
    for (call, record) in history.iter().enumerate() {
        let Call::Write { members, sequence, replayed: true, answers, .. } = &record.call else { continue };
        let id = members.iter().find_map(|member| member.id.as_ref()).map(|id| id.as_str());
        let same = id.and_then(|id| owners.get(id)).is_some_and(|owner| match &history[*owner].call {
            Call::Write { members: first, sequence: at, answers: said, .. } => {
                first == members && at == sequence && said == answers
            }
            _ => false,
        });
        if !same {
            found.insert(Violation::WrongReplay { call });
        }
    }
}

/// What had returned before a call was invoked is before it; what it saw had been invoked before it returned.
fn check_real_time(
    history: &[Record],
    executions: &BTreeMap<u64, usize>,
    states: &States,
    found: &mut BTreeSet<Violation>,
) {
    // At equal times a call counts as invoked before another one returned: only what is certain is judged.
    let mut events: Vec<_> = history.iter().enumerate().map(|(call, record)| (record.invoked, 0, call)).collect();
    events.extend(history.iter().enumerate().map(|(call, record)| (record.returned, 1, call)));
    events.sort_unstable();
    let mut known = 0;
    for (_, returned, call) in events {
        let record = &history[call];
        if returned == 1 {
            known = known.max(record.call.evidence());
            let origin = executions.get(&record.call.evidence());
            if origin.is_some_and(|origin| history[*origin].invoked > record.returned) {
                found.insert(Violation::FromTheFuture { call });
            }
            continue;
        }
        match &record.call {
            Call::Write { sequence, replayed: false, .. } if *sequence <= known => {
                found.insert(Violation::OutOfRealTime { call, after: known });
            }
            Call::Write { .. } => {}
            Call::Snapshot { sequence, .. } => {
                if *sequence < known {
                    found.insert(Violation::Stale { call, known });
                }
            }
            Call::Read { account, found: read } => {
                let sequence = read.map_or(0, |entry| entry.sequence);
                if states.at(account, sequence) != *read {
                    found.insert(Violation::UnknownState { call });
                }
                if states.at(account, known).is_some_and(|entry| entry.sequence > sequence) {
                    found.insert(Violation::Stale { call, known });
                }
            }
        }
    }
}

/// Each thread sees its own writes, and never less than it saw before. In real-time order this follows; it is checked
/// for itself because it holds without clocks.
fn check_threads(history: &[Record], found: &mut BTreeSet<Violation>) {
    let mut calls: Vec<_> = history.iter().enumerate().collect();
    calls.sort_by_key(|(call, record)| (record.thread, record.invoked, *call));
    let mut thread = usize::MAX;
    let (mut written, mut read) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, u64>::new());
    for (call, record) in calls {
        if record.thread != thread {
            thread = record.thread;
            written.clear();
            read.clear();
        }
        let mut see = |account: &str, version: u64| {
            if written.get(account).is_some_and(|own| *own > version) {
                found.insert(Violation::OwnWriteMissed { call });
            }
            if read.get(account).is_some_and(|seen| *seen > version) {
                found.insert(Violation::WentBack { call });
            }
        };
        match &record.call {
            Call::Write { answers, .. } => {
                for (account, entry) in answers.iter().flatten().flatten() {
                    let version = written.entry(account).or_default();
                    *version = entry.version.max(*version);
                }
            }
            Call::Read { account, found: state } => {
                let version = state.map_or(0, |entry| entry.version);
                see(account, version);
                read.insert(account, version);
            }
            Call::Snapshot { states, .. } => {
                states.iter().for_each(|(account, entry)| see(account, entry.version));
                read.extend(states.iter().map(|(account, entry)| (account.as_str(), entry.version)));
            }
        }
    }
}

/// Every snapshot is the state at its sequence, with its total.
fn check_snapshots(history: &[Record], states: &States, totals: Totals, found: &mut BTreeSet<Violation>) {
    for (call, record) in history.iter().enumerate() {
        let Call::Snapshot { sequence, states: shown, total } = &record.call else { continue };
        if *shown != states.all_at(*sequence) {
            found.insert(Violation::TornSnapshot { call });
        }
        let sum: i128 = shown.iter().map(|(_, entry)| i128::from(entry.balance)).sum();
        let promised = match totals {
            Totals::Constant { from, total } if *sequence >= from => total,
            _ => sum,
        };
        if *total != sum || *total != promised {
            found.insert(Violation::WrongTotal { call });
        }
    }
}
