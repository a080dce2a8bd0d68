//! The history checker: many threads record every call, and a plain model judges what they saw.

#[path = "../common/mod.rs"]
mod common;

mod checker;
mod recorder;
mod seeded;

use std::time::Instant;

use checker::{Totals, check};
use common::{Random, account, create, id, open, post, rounds, together, transfer, update};
use equipoise::{Account, Ledger, Member, Operation, Request};
use recorder::Recorder;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const THREADS: usize = 6;

/// What the threads of a run do.
#[derive(Clone, Copy)]
enum Mix {
    /// Transfers and postings only, so that the total is constant.
    Constant,
    /// Everything.
    Everything,
}

fn operation(random: &mut Random, mix: Mix) -> Operation {
    let (one, other) = random.pair(NAMES.len());
    let (one, other) = (NAMES[one], NAMES[other]);
    let amount = random.between(1, 120);
    match (random.below(10), mix) {
        (0..2, _) => post(&[(one, -amount), (other, amount)]),
        (2..5, Mix::Everything) => update(one, 60 - amount),
        (5, Mix::Everything) => create(["g", "h", "i", one][random.below(4)], amount),
        (6, Mix::Everything) => update(["ghost", "g", "h", "i"][random.below(4)], 1),
        _ => transfer(one, other, amount),
    }
}

/// A request with up to three members; with an id, the id decides all of it, so that duplicates are equal.
fn request(random: &mut Random, mix: Mix) -> Request {
    match random.below(8) {
        0 => Request::chain(
            (0..2 + random.below(2)).map(|_| Member { id: None, operation: operation(random, mix) }).collect(),
        )
        .expect("a chain"),
        1..4 => {
            let number = random.below(rounds(6_000));
            let mut random = Random(number as u64);
            if number.is_multiple_of(10) {
                let members = ["x", "y"].map(|end| Member {
                    id: Some(id(&format!("chain-{number}-{end}"))),
                    operation: operation(&mut random, mix),
                });
                Request::chain(members.to_vec()).expect("a chain")
            } else {
                Request::single(operation(&mut random, mix), Some(id(&format!("id-{number}"))))
            }
        }
        _ => Request::single(operation(random, mix), None),
    }
}

fn run(ledger: Ledger, mix: Mix, seed: u64) {
    let ledger = open(ledger, &[]);
    let origin = Instant::now();
    let mut setup = Recorder::new(&ledger, origin, THREADS);
    for name in NAMES {
        setup.submit(Request::single(create(name, 1_000), None));
    }
    let from = ledger.sequence();
    let handles: Vec<Account> = NAMES.iter().map(|name| ledger.account(&account(name)).expect("open")).collect();
    let recorded = together(THREADS, |thread| {
        let mut recorder = Recorder::new(&ledger, origin, thread);
        let mut random = Random(seed * 1_000 + thread as u64);
        for _ in 0..rounds(5_000) {
            match (random.below(20), mix) {
                (0..4, _) => recorder.read(NAMES[random.below(NAMES.len())]),
                (4..7, _) => recorder.read_handle(&handles[random.below(handles.len())]),
                (7, _) => recorder.snapshot(),
                (8, Mix::Everything) => recorder.update_handle(&handles[random.below(handles.len())], 1),
                (9, Mix::Everything) => recorder.read(["ghost", "g", "h", "i"][random.below(4)]),
                _ => recorder.submit(request(&mut random, mix)),
            }
        }
        recorder.records
    });
    let mut history = setup.records;
    history.extend(recorded.into_iter().flatten());
    let totals = match mix {
        Mix::Constant => Totals::Constant { from, total: 1_000 * NAMES.len() as i128 },
        Mix::Everything => Totals::Free,
    };
    let violations = check(&history, totals);
    let shown: Vec<_> = violations.iter().take(10).collect();
    assert!(violations.is_empty(), "{} violations in {} calls: {shown:#?}", violations.len(), history.len());
}

/// A5, A7, A9, A10, A11, A12, B1, B2, C3: transfers and postings on six threads, in memory.
#[test]
fn a_history_of_transfers_is_in_order() {
    (0..3).for_each(|seed| run(Ledger::new(), Mix::Constant, seed));
}

/// A3, A5, A6, A9, A11, A12, A15, B1, B2, C3: everything on six threads, in memory.
#[test]
fn a_history_of_everything_is_in_order() {
    (0..3).for_each(|seed| run(Ledger::new(), Mix::Everything, 10 + seed));
}

/// A9, A10, A11, A15, B2, C3: the same with a journal, whose flusher trims versions meanwhile.
#[test]
fn a_history_beside_a_flusher_is_in_order() {
    run(Ledger::builder().history(100).build(), Mix::Constant, 20);
    run(Ledger::builder().history(1_000).look_up_cache(false).build(), Mix::Everything, 21);
}
