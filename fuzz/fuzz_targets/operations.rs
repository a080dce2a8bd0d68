//! Random programs of operations against two ledgers, without and with a history, and a plain model.

#![no_main]

use std::collections::BTreeMap;

use equipoise::{
    AccountId, AccountState, Error, HistoryError, HistoryGone, InvalidRequest, Kind, Ledger, MemberResult, Operation,
    Outcome, Request, Snapshot, SubmitError, TransactionId,
};
use equipoise_fuzz::input::{Change, Name, Program, Step, chain};
use equipoise_fuzz::model::{Accounts, Answer, Entry, Held, Model, Result};
use libfuzzer_sys::fuzz_target;

/// Snapshots kept open at once, fewer than a ledger allows.
const MOST_SNAPSHOTS: usize = 12;
/// Steps of a program: every state is kept, so that long ones get slow.
const MOST_STEPS: usize = 120;
const SHORT_HISTORY: usize = 4;

fuzz_target!(|program: Program| {
    let mut run = Run::new(&program);
    for step in program.steps.iter().take(MOST_STEPS) {
        run.step(step);
    }
    run.end();
});

struct Run {
    model: Model,
    plain: Ledger,
    journaled: Ledger,
    history: usize,
    snapshots: Vec<Snapshot>,
    submitted: Vec<Request>,
    last_time: u64,
}

impl Run {
    fn new(program: &Program) -> Self {
        let history = if program.short_history { SHORT_HISTORY } else { 100_000 };
        let plain = if program.cache { Ledger::new() } else { Ledger::builder().look_up_cache(false).build() };
        let journaled = Ledger::builder().look_up_cache(program.cache).history(history).build();
        let model = Model::default();
        Run { model, plain, journaled, history, snapshots: Vec::new(), submitted: Vec::new(), last_time: 0 }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Submit(submission) => self.submit(submission.request()),
            Step::Chain(submissions) => self.submit(chain(submissions)),
            Step::Again(which) => self.submit(pick(&self.submitted, *which).cloned()),
            Step::Direct(change) => self.direct(change),
            Step::TransferBetween { from, to, amount } => self.between(from.account(), to.account(), amount.0),
            Step::UpdateHandle { account, delta } => self.by_handle(&account.account(), delta.0),
            Step::Read(account) => self.read(&account.account()),
            Step::Parse(name) => parse(*name),
            Step::Open { durable } => self.open(*durable),
            Step::Compare(which) => {
                if let Some(snapshot) = pick(&self.snapshots, *which) {
                    self.compare(snapshot);
                }
            }
            Step::Page { snapshot, prefix, after, limit } => {
                if let Some(snapshot) = pick(&self.snapshots, *snapshot) {
                    self.page(snapshot, &prefix.text(), after.map(Name::account).as_ref(), usize::from(*limit));
                }
            }
            Step::Close(which) => {
                if !self.snapshots.is_empty() {
                    self.snapshots.swap_remove(usize::from(*which) % self.snapshots.len());
                }
            }
            Step::Transaction(name) => self.transaction(&name.id()),
            Step::History { from, limit } => self.history(u64::from(*from), usize::from(*limit)),
        }
    }

    fn ledgers(&self) -> [&Ledger; 2] {
        [&self.plain, &self.journaled]
    }

    fn submit(&mut self, request: Option<Request>) {
        let Some(request) = request else { return };
        let expected = self.model.submit(&request);
        for ledger in self.ledgers() {
            check_answer(ledger.submit(request.clone()), &expected);
            assert_eq!(ledger.sequence(), self.model.sequence());
            assert_eq!(ledger.stats().ids, self.model.ids() as u64);
        }
        self.submitted.push(request);
        if let Some(id) = self.submitted.last().and_then(|request| request.members()[0].id.clone()) {
            self.transaction(&id);
        }
    }

    fn direct(&mut self, change: &Change) {
        let Some(operation) = change.operation() else { return };
        let expected = self.decide(operation.clone());
        for ledger in self.ledgers() {
            let got = match operation.kind() {
                Kind::Create { account, initial_balance } => ledger.create(account, *initial_balance),
                Kind::Update { account, delta } => ledger.update(account, *delta),
                Kind::Transfer { from, to, amount } => ledger.transfer(from, to, *amount),
                Kind::Post { legs } => ledger.post(legs.clone()),
            };
            assert_eq!(told(got.map(|accounts| accounts.into_vec())), expected);
        }
    }

    /// What the model says of an operation without an id.
    fn decide(&mut self, operation: Operation) -> Result {
        let answer = self.model.submit(&Request::single(operation, None)).expect("no id to be wrong with");
        answer.entry.results[0].clone()
    }

    fn between(&mut self, from: AccountId, to: AccountId, amount: i64) {
        let opened = self.model.now();
        let handles = self.ledgers().map(|ledger| (ledger.account(&from), ledger.account(&to)));
        let expected = match Operation::transfer(from.clone(), to.clone(), amount) {
            Ok(operation) if opened.contains_key(&from) && opened.contains_key(&to) => self.decide(operation),
            Ok(_) => Ok(Vec::new()),
            Err(invalid) => Err(invalid.to_string()),
        };
        for (ledger, (source, target)) in self.ledgers().into_iter().zip(handles) {
            assert_eq!((source.is_some(), target.is_some()), (opened.contains_key(&from), opened.contains_key(&to)));
            let (Some(source), Some(target)) = (source, target) else { continue };
            let got = ledger.transfer_between(&source, &target, amount);
            assert_eq!(told(got.map(|accounts| accounts.into_vec())), expected);
        }
    }

    fn by_handle(&mut self, account: &AccountId, delta: i64) {
        if !self.model.now().contains_key(account) {
            return;
        }
        let expected = self.decide(Operation::update(account.clone(), delta));
        for ledger in self.ledgers() {
            let handle = ledger.account(account).expect("an open account");
            assert_eq!(told(handle.update(delta).map(|state| vec![state])), expected);
        }
    }

    fn read(&self, account: &AccountId) {
        let expected = self.model.now().get(account).copied();
        for ledger in self.ledgers() {
            assert_eq!(ledger.balance(account).map(|state| held(&state)), expected);
            let handle = ledger.account(account);
            assert_eq!(handle.as_ref().map(|handle| held(&handle.read())), expected);
            if let Some(handle) = handle {
                assert_eq!(handle.id(), account);
                assert!(handle.word().is_multiple_of(2), "nobody holds it");
            }
        }
        assert_eq!(self.plain.balance_durable(account).map(|state| held(&state)), expected);
        let earliest = self.journaled.durable();
        let durable = self.journaled.balance_durable(account).map(|state| held(&state));
        let possible = earliest..=self.journaled.durable();
        assert!(possible.into_iter().any(|sequence| self.model.at(sequence).get(account).copied() == durable));
    }

    fn open(&mut self, durable: bool) {
        if self.snapshots.len() >= MOST_SNAPSHOTS {
            return;
        }
        for ledger in [self.plain.clone(), self.journaled.clone()] {
            let earliest = ledger.durable();
            let opened = if durable { ledger.snapshot_durable() } else { ledger.snapshot() };
            let opened = opened.expect("a free slot");
            if durable {
                assert!((earliest..=ledger.durable()).contains(&opened.sequence()));
            } else {
                assert_eq!(opened.sequence(), self.model.sequence());
            }
            self.snapshots.push(opened);
        }
    }

    /// A snapshot is the model's copy of that sequence, whatever was done since.
    fn compare(&self, snapshot: &Snapshot) {
        let expected = self.model.at(snapshot.sequence());
        let states: Vec<_> = snapshot.iter().map(|state| (state.id.clone(), held(&state))).collect();
        assert!(states.iter().map(|(id, _)| id).is_sorted(), "in id order");
        assert_eq!(states.into_iter().collect::<Accounts>(), expected);
        assert_eq!(snapshot.len(), expected.len());
        assert_eq!(snapshot.total(), total(&expected));
        for name in 0..=u8::MAX {
            let account = account_of(name);
            assert_eq!(snapshot.get(&account).map(|state| held(&state)), expected.get(&account).copied());
            if name > 8 {
                break;
            }
        }
    }

    fn page(&self, snapshot: &Snapshot, prefix: &str, after: Option<&AccountId>, limit: usize) {
        let expected: Vec<_> = self
            .model
            .at(snapshot.sequence())
            .into_iter()
            .filter(|(id, _)| id.as_str().starts_with(prefix) && after.is_none_or(|after| id > after))
            .take(limit)
            .collect();
        let page = snapshot.page(prefix, after, limit);
        assert_eq!(page.iter().map(|state| (state.id.clone(), held(state))).collect::<Vec<_>>(), expected);
    }

    fn transaction(&self, id: &TransactionId) {
        let expected = self.model.transaction(id);
        for ledger in self.ledgers() {
            let found = ledger.transaction(id).expect("readable");
            assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some(expected)) = (found, &expected) {
                assert!(!found.replayed());
                check_entry(&found, expected);
            }
        }
    }

    fn history(&mut self, from: u64, limit: usize) {
        let newest = self.model.sequence();
        self.journaled.wait_durable(newest).expect("an open ledger");
        let oldest = (newest + 1).saturating_sub(self.history as u64).max(1);
        let got = self.journaled.history(from, limit);
        let first = if from == 0 { oldest } else { from };
        if first < oldest {
            assert_eq!(got.map(|entries| entries.len()), Err(HistoryError::Gone(HistoryGone { oldest })));
            return;
        }
        let got = got.expect("kept");
        let expected: Vec<_> = (first..=newest).take(limit).collect();
        assert_eq!(got.iter().map(Outcome::sequence).collect::<Vec<_>>(), expected);
        for outcome in &got {
            check_entry(outcome, self.model.entry(outcome.sequence()));
        }
    }

    fn end(mut self) {
        for snapshot in std::mem::take(&mut self.snapshots) {
            self.compare(&snapshot);
        }
        self.submitted.clear();
        self.replay();
        let now = self.model.now();
        for ledger in self.ledgers() {
            self.compare(&ledger.snapshot().expect("a free slot"));
            let stats = ledger.stats();
            assert_eq!((stats.accounts, stats.sequence), (now.len() as u64, self.model.sequence()));
            assert_eq!(stats.open_snapshots, 0);
            ledger.close();
            let request = Request::single(Operation::update(account_of(0), 1), None);
            assert!(matches!(ledger.submit(request), Err(SubmitError::Closed)));
            assert_eq!(ledger.durable(), self.model.sequence());
        }
    }

    /// Replaying the first n entries gives the accounts at sequence n, for every n, and no balance below 0.
    fn replay(&mut self) {
        self.history(0, usize::MAX);
        let entries = self.journaled.history(0, usize::MAX).expect("kept");
        let before = entries.first().map_or(0, |entry| entry.sequence() - 1);
        let mut accounts: BTreeMap<_, _> = self.model.at(before);
        for entry in entries {
            assert!(entry.time() >= self.last_time, "time goes on");
            self.last_time = entry.time();
            if entry.results().iter().all(MemberResult::is_ok) {
                for change in entry.changes() {
                    let met = accounts.get(&change.account).copied().unwrap_or_default();
                    assert_eq!(i128::from(met.balance) + i128::from(change.delta), i128::from(change.balance));
                    assert_eq!(met.version + 1, change.version);
                    assert!(change.balance >= 0);
                    let after = Held { balance: change.balance, version: change.version, sequence: entry.sequence() };
                    accounts.insert(change.account, after);
                }
            }
            assert_eq!(accounts, self.model.at(entry.sequence()));
        }
        assert_eq!(accounts, self.model.now());
    }
}

fn pick<T>(from: &[T], which: u8) -> Option<&T> {
    from.get(usize::from(which).checked_rem(from.len())?)
}

fn account_of(number: u8) -> AccountId {
    let mut bytes = arbitrary::Unstructured::new(std::slice::from_ref(&number));
    bytes.arbitrary::<Name>().expect("one byte").account()
}

fn held(state: &AccountState) -> Held {
    Held { balance: state.balance, version: state.version, sequence: state.sequence }
}

fn total(accounts: &Accounts) -> i128 {
    accounts.values().map(|held| i128::from(held.balance)).sum()
}

/// What a method without an id said, in the model's words.
fn told(got: std::result::Result<Vec<AccountState>, Error>) -> Result {
    match got {
        Ok(states) => Ok(states.iter().map(|state| (state.id.clone(), held(state))).collect()),
        Err(error) => Err(error.to_string()),
    }
}

fn told_member(got: &MemberResult) -> Result {
    match got {
        Ok(states) => Ok(states.iter().map(|state| (state.id.clone(), held(state))).collect()),
        Err(refusal) => Err(refusal.to_string()),
    }
}

fn check_answer(
    got: std::result::Result<Outcome, SubmitError>,
    expected: &std::result::Result<Answer, InvalidRequest>,
) {
    match (got, expected) {
        (Ok(outcome), Ok(answer)) => {
            assert_eq!(outcome.replayed(), answer.replayed);
            check_entry(&outcome, &answer.entry);
        }
        (Err(SubmitError::Invalid(invalid)), Err(expected)) => assert_eq!(&invalid, expected),
        (got, expected) => panic!("{got:?} instead of {expected:?}"),
    }
}

fn check_entry(outcome: &Outcome, expected: &Entry) {
    assert_eq!(outcome.sequence(), expected.sequence);
    assert_eq!(outcome.members(), expected.members);
    let results: Vec<_> = outcome.results().iter().map(told_member).collect();
    assert_eq!(results, expected.results);
    assert_eq!(told_member(&outcome.result()), expected.results[0]);
    let changes: Vec<_> = outcome
        .changes()
        .into_iter()
        .map(|change| (change.account, change.delta, change.balance, change.version))
        .collect();
    assert_eq!(changes, expected.changes.concat());
    let split = outcome.split();
    assert_eq!(split.len(), expected.members.len());
    for (place, one) in split.iter().enumerate() {
        assert_eq!(told_member(&one.result()), expected.results[place]);
        assert_eq!(one.members(), &expected.members[place..=place]);
    }
}

/// A14: 1 to 128 bytes without control characters, at every door alike; else the field and the length.
fn parse(name: Name) {
    let text = name.text();
    let valid = !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control);
    for (field, parsed) in [
        ("account_id", AccountId::new(&text).map(|id| id.as_str().to_owned())),
        ("transaction_id", TransactionId::new(&text).map(|id| id.as_str().to_owned())),
    ] {
        match parsed {
            Ok(id) => assert!(valid && id == text),
            Err(invalid) => {
                assert!(!valid);
                let said = invalid.to_string();
                assert!(said.contains(field) && said.contains(&text.len().to_string()), "{said}");
            }
        }
    }
}
