//! Makes calls and writes down when each was invoked, when it returned, and what it said.

use std::time::Instant;

use equipoise::{Account, Ledger, Member, Operation, Request};

use crate::checker::{Call, Record};
use crate::common::account;
use crate::common::model::{answers, plain};

pub struct Recorder<'l> {
    ledger: &'l Ledger,
    origin: Instant,
    thread: usize,
    pub records: Vec<Record>,
}

impl<'l> Recorder<'l> {
    /// Times are nanoseconds since `origin`, which all recorders of a history share.
    pub fn new(ledger: &'l Ledger, origin: Instant, thread: usize) -> Self {
        Recorder { ledger, origin, thread, records: Vec::new() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("tests are short")
    }

    /// `call` makes the call and nothing else; `record` turns what it returned into a record.
    fn time<T>(&mut self, call: impl FnOnce(&Ledger) -> T, record: impl FnOnce(T) -> Call) {
        let invoked = self.now();
        let answer = call(self.ledger);
        let returned = self.now();
        self.records.push(Record { thread: self.thread, invoked, returned, call: record(answer) });
    }

    pub fn submit(&mut self, request: Request) {
        let members = request.members().to_vec();
        self.time(
            |ledger| ledger.submit(request).expect("decided: same id, same request"),
            |outcome| Call::Write {
                members,
                sequence: outcome.sequence(),
                as_of: outcome.as_of(),
                replayed: outcome.replayed(),
                answers: answers(&outcome),
            },
        );
    }

    /// An update without a look-up; it must be one that is accepted.
    pub fn update_handle(&mut self, handle: &Account, delta: i64) {
        let members = vec![Member { id: None, operation: Operation::update(handle.id().clone(), delta) }];
        self.time(
            |_| handle.update(delta).expect("accepted"),
            |state| Call::Write {
                members,
                sequence: state.sequence,
                as_of: None,
                replayed: false,
                answers: vec![Ok(vec![plain(&state)])],
            },
        );
    }

    pub fn read(&mut self, name: &str) {
        let id = account(name);
        self.time(
            |ledger| ledger.balance(&id),
            |found| Call::Read { account: name.to_owned(), found: found.map(|state| plain(&state).1) },
        );
    }

    pub fn read_handle(&mut self, handle: &Account) {
        self.time(
            |_| handle.read(),
            |state| Call::Read { account: state.id.to_string(), found: Some(plain(&state).1) },
        );
    }

    /// Opens a snapshot, and reads it after the call has returned.
    pub fn snapshot(&mut self) {
        self.time(
            |ledger| ledger.snapshot().expect("few are open"),
            |snapshot| Call::Snapshot {
                sequence: snapshot.sequence(),
                states: snapshot.iter().map(|state| plain(&state)).collect(),
                total: snapshot.total(),
            },
        );
    }
}
