//! What the engine decides, in memory, against the replay's rules: the entries are written down by this test.

use std::thread;

use equipoise::{AccountId, Kind, Ledger, Member, Operation, Outcome, Posting, Refusal, Request, TransactionId};

use crate::garbage::Dice;
use crate::writer::{
    ALREADY_EXISTS, Entry, INSUFFICIENT, NOT_FOUND, OUT_OF_RANGE, State, Writer, create, post, transfer, update,
};

/// Few accounts at a time, always some that nobody has opened yet.
fn account(dice: &mut Dice, round: usize) -> AccountId {
    AccountId::new(&format!("a{}", round / 40 + dice.below(6))).expect("an id")
}

fn operation(dice: &mut Dice, round: usize) -> Operation {
    let amount = [1, 5, 20, i64::MAX][[0, 0, 1, 1, 1, 2, 2, 3][dice.below(8)]];
    let (one, other) = (account(dice, round), account(dice, round));
    match dice.below(8) {
        0..=2 => Operation::create(one, amount).expect("not negative"),
        3 => Operation::update(one, amount),
        4 => Operation::update(one, -amount),
        5 if one != other => {
            let legs = [(one, amount), (other, -amount)].map(|(account, delta)| Posting { account, delta });
            Operation::post(legs.to_vec()).expect("balanced")
        }
        _ => Operation::transfer(one.clone(), other, amount).unwrap_or_else(|_| Operation::update(one, 1)),
    }
}

fn request(dice: &mut Dice, round: usize, thread: usize) -> Request {
    let members = (0..1 + dice.below(5).saturating_sub(2)).map(|place| {
        let id =
            (dice.below(2) == 0).then(|| TransactionId::new(&format!("t{thread}-{round}-{place}")).expect("an id"));
        Member { id, operation: operation(dice, round) }
    });
    Request::chain(members.collect()).expect("a chain")
}

/// The outcome as an entry of the format.
fn entry(outcome: &Outcome) -> Entry {
    let changes = outcome.changes();
    let mut states = changes.iter().map(|change| (change.balance, change.version));
    let mut next = || -> State { states.next().expect("a state for each account") };
    let member = |member: &Member| {
        let id = member.id.as_ref().map_or("", TransactionId::as_str);
        match member.operation.kind() {
            Kind::Create { account, initial_balance } => create(id, account.as_str(), *initial_balance, next()),
            Kind::Update { account, delta } => update(id, account.as_str(), *delta, next()),
            Kind::Transfer { from, to, amount } => {
                transfer(id, [from.as_str(), to.as_str()], *amount, [next(), next()])
            }
            Kind::Post { legs } => {
                let legs: Vec<_> = legs.iter().map(|leg| (leg.account.as_str(), leg.delta, next())).collect();
                post(id, &legs)
            }
        }
    };
    let members = outcome.members().iter().map(member).collect();
    Entry { time: outcome.time(), refusal: refusal(outcome), as_of: outcome.as_of(), members }
}

fn refusal(outcome: &Outcome) -> Option<(u32, u8, u16, i64)> {
    let results = outcome.results().into_iter().enumerate();
    let (place, refusal) = results
        .filter_map(|(place, result)| Some((place, result.err()?)))
        .find(|(_, refusal)| !matches!(refusal, Refusal::Group { .. }))?;
    let accounts = outcome.members()[place].operation.accounts();
    let leg = |account: &AccountId| accounts.iter().position(|other| *other == account).expect("one of them") as u16;
    let (reason, leg, current) = match &refusal {
        Refusal::NotFound { account } => (NOT_FOUND, leg(account), 0),
        Refusal::AlreadyExists { account } => {
            // The text does not need the balance: what it met, and what the members before make of it.
            let before = outcome.members()[..place].iter().map(|member| member.operation.accounts().len()).sum();
            let changes = outcome.changes();
            let own = changes[..before].iter().filter(|change| change.account == *account);
            (ALREADY_EXISTS, 0, changes[before].balance + own.map(|change| change.delta).sum::<i64>())
        }
        Refusal::Insufficient { current, .. } => (INSUFFICIENT, 0, *current),
        Refusal::InsufficientIn { account, current, .. } => (INSUFFICIENT, leg(account), *current),
        Refusal::OutOfRange { current, .. } => (OUT_OF_RANGE, 0, *current),
        Refusal::OutOfRangeIn { account, current, .. } => (OUT_OF_RANGE, leg(account), *current),
        other => panic!("{other}"),
    };
    Some((place as u32, reason, leg, current))
}

/// Lets `threads` submit `rounds` requests each, and checks what came of it.
fn run(name: &str, threads: usize, rounds: usize) {
    let ledger = Ledger::builder().history(threads * rounds).build();
    thread::scope(|scope| {
        for thread in 0..threads {
            let ledger = &ledger;
            scope.spawn(move || {
                let mut dice = Dice(thread as u64);
                for round in 0..rounds {
                    ledger.submit(request(&mut dice, round, thread)).expect("decided");
                }
            });
        }
    });
    while ledger.durable() < ledger.sequence() {
        thread::yield_now();
    }
    let outcomes = ledger.history(1, usize::MAX).expect("kept");
    let entries: Vec<_> = outcomes.iter().map(entry).collect();
    let mut writer = Writer::new(name);
    writer.segment_bytes = 16 << 20;
    writer.segments.clear();
    writer.segment();
    for entries in entries.chunks(100) {
        writer.batch(entries);
    }
    let snapshot = ledger.snapshot().expect("few are open");
    let report = writer.verify().unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(report.entries, (threads * rounds) as u64);
    assert_eq!((report.accounts, report.total), (snapshot.iter().count() as u64, snapshot.total()));
    let refused = outcomes.iter().filter(|outcome| outcome.results().iter().any(Result::is_err)).count();
    assert!(refused > rounds / 5 && refused < threads * rounds * 4 / 5, "{refused} refused");
}

/// C1, C3: what one thread makes.
#[test]
fn the_replay_agrees_with_the_engine() {
    run("engine", 1, 2000);
}

/// C3, E1: what threads make of each other, accounts that are opened meanwhile included.
#[test]
fn the_replay_agrees_with_the_engine_under_threads() {
    run("engine-threads", 4, 2000);
}
