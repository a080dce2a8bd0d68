//! The committer against a model of the database, under thousands of interleavings, crashes and lost answers.

mod check;
mod executor;
mod server;
mod world;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::committer::{Bounds, Committer};
use super::work::Job;
use executor::{Executor, Random};
use server::{Bug, Server, Session};
use world::{Plan, Seen, TOPIC, run};

/// How many seeds a test tries; `EQUIPOISE_MODEL_SEEDS` says otherwise.
fn seeds(usual: u64) -> u64 {
    std::env::var("EQUIPOISE_MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usual)
}

fn all(seeds: u64, trouble: u64, bug: Bug) -> Seen {
    let mut total = Seen::default();
    for seed in 0..seeds {
        match run(Plan { seed, bug, trouble }) {
            Ok(seen) => {
                total.fenced += seen.fenced;
                total.crashes += seen.crashes;
                total.lost_commits += seen.lost_commits;
                total.replays += seen.replays;
                total.applied.redecided += seen.applied.redecided;
                total.applied.rejected += seen.applied.rejected;
            }
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    total
}

/// D2, D3, D5: two instances on the same products, ids and partitions: everything has one outcome, in one order.
#[test]
fn two_instances_are_as_one() {
    let seen = all(seeds(300), 0, Bug::None);
    assert!(seen.fenced > 0 && seen.replays > 0 && seen.applied.redecided > 0 && seen.applied.rejected > 0, "{seen:?}");
}

/// D4, D6: connections break, commits are not answered, instances are killed: nothing is lost and nothing happens
/// twice.
#[test]
fn trouble_changes_nothing() {
    let seen = all(seeds(400), 60, Bug::None);
    assert!(seen.lost_commits > 0 && seen.crashes > 0 && seen.fenced > 0, "{seen:?}");
}

/// D4: what was decided on top of a batch that failed does no harm where it is written all the same, as it is compared
/// then.
#[test]
fn a_batch_on_a_failed_one_is_in_vain() {
    let seen = all(seeds(400), 60, Bug::NeverDoubts);
    assert!(seen.lost_commits > 0 && seen.applied.redecided > 0, "{seen:?}");
}

/// D5: a take-over that nobody waits for any more takes nothing from whoever owns the partition by now.
#[test]
fn a_take_over_that_nobody_waits_for_is_left_out() {
    let server: Arc<Mutex<Server>> = Arc::default();
    let random = Random::new(0);
    let session = || Session::new(server.clone(), random.clone(), Bug::None, 0);
    let (queue, jobs) = mpsc::channel(2);
    let bounds = Bounds { batch: 1, ahead: 1, accounts: 4, ids: 10, id_age: Duration::MAX };
    let mut executor = Executor::default();
    executor.spawn(0, Committer::new(session(), session(), jobs, bounds).run());
    let (answer, answered) = oneshot::channel();
    drop(answered);
    let abandoned = Job::TakeOver { topic: TOPIC.to_owned(), partitions: vec![0], answer };
    for job in [abandoned, Job::End] {
        assert!(queue.try_send(job).is_ok());
    }
    while !executor.is_idle() {
        executor.step(&random);
    }
    assert!(server.lock().offsets.is_empty());
}

/// The test is worth something: it minds every rule that is broken.
#[test]
fn every_seeded_bug_is_seen() {
    let bugs = [
        Bug::Epoch,
        Bug::Offset,
        Bug::Version,
        Bug::Met,
        Bug::Id,
        Bug::Fate,
        Bug::LateCommit,
        Bug::Sequence,
        Bug::Fancy,
        Bug::Surely,
        Bug::OnFailed,
    ];
    for bug in bugs {
        let caught = (0..2_000).find_map(|seed| {
            let result = run(Plan { seed, bug, trouble: 60 });
            result.err().map(|what| (seed, what))
        });
        let (seed, what) = caught.unwrap_or_else(|| panic!("{bug:?} was not seen"));
        let what: String = what.chars().take(160).collect();
        println!("{bug:?}: seed {seed}: {what}");
    }
}
