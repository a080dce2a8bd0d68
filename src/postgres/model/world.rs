//! Two instances, a topic, callers, and whoever moves partitions and kills instances.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::check::{check, ensure};
use super::executor::{Executor, Random, pause};
use super::server::{Bug, POISON, Server, Session};
use crate::account::{AccountId, TransactionId};
use crate::inventory::{Applied, Content, DeadLetter, Event, Position, Record, Run, StoreError};
use crate::postgres::PgError;
use crate::postgres::committer::{Bounds, Committer};
use crate::postgres::work::{Job, Work};
use crate::{Member, Operation, Outcome, Request};

pub(super) const TOPIC: &str = "inventory-events";
const PARTITIONS: usize = 3;
const INSTANCES: u64 = 2;
const CALLS: u64 = 12;
/// More steps than any run needs: past it, everything is stuck.
const MOST_STEPS: u64 = 3_000_000;

pub(super) struct Answered {
    pub(super) request: Request,
    pub(super) answer: Result<Outcome, PgError>,
}

/// How a world is made.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) bug: Bug,
    /// Once in how many steps something goes wrong; 0: never.
    pub(super) trouble: u64,
}

#[derive(Default, Debug)]
pub(super) struct Seen {
    pub(super) applied: Applied,
    pub(super) fenced: u64,
    pub(super) crashes: u64,
    pub(super) lost_commits: u64,
    pub(super) replays: u64,
}

#[derive(Clone)]
struct World {
    server: Arc<Mutex<Server>>,
    random: Random,
    logs: Arc<Vec<Vec<Content>>>,
    /// Which instance is meant to have each partition.
    owners: Arc<Mutex<Vec<usize>>>,
    answers: Arc<Mutex<Vec<Answered>>>,
    seen: Arc<Mutex<Seen>>,
    bug: Bug,
}

/// Runs a world to its end, and checks what it has come to.
pub(super) fn run(plan: Plan) -> Result<Seen, String> {
    let random = Random::new(plan.seed);
    let world = World {
        server: Arc::default(),
        logs: Arc::new((0..PARTITIONS).map(|partition| log(&random, partition)).collect()),
        owners: Arc::new(Mutex::new(vec![0; PARTITIONS])),
        answers: Arc::default(),
        seen: Arc::default(),
        bug: plan.bug,
        random: random.clone(),
    };
    world.server.lock().trouble = plan.trouble;
    let mut executor = Executor::default();
    let mut instances: Vec<usize> = (0..INSTANCES as usize).collect();
    instances.iter().for_each(|instance| world.start(&mut executor, *instance));
    let mut steps = 0;
    while !executor.is_idle() {
        executor.step(&random);
        steps += 1;
        ensure!(steps < MOST_STEPS, "nobody gets on: {}", world.server.lock().stuck());
        if steps > 20_000 {
            world.server.lock().trouble = 0;
        } else if random.once_in(300) {
            *random.pick_mut(&mut world.owners.lock()) = *random.pick(&instances);
        } else if plan.trouble > 0 && random.once_in(2_000) {
            let crashed = random.below(INSTANCES) as usize;
            executor.crash(instances[crashed]);
            let next = instances.iter().max().map_or(0, |newest| newest + 1);
            world
                .owners
                .lock()
                .iter_mut()
                .filter(|owner| **owner == instances[crashed])
                .for_each(|owner| *owner = next);
            instances[crashed] = next;
            world.start(&mut executor, next);
            world.seen.lock().crashes += 1;
        }
    }
    let server = world.server.lock();
    check(&server, &world.logs, &world.answers.lock())?;
    let mut seen = std::mem::take(&mut *world.seen.lock());
    seen.lost_commits = server.lost_commits;
    let records: u64 = world.logs.iter().map(|log| log.len() as u64).sum();
    let Applied { applied, duplicates, rejected, dead_letters, tombstones, .. } = seen.applied;
    let counted = applied + duplicates + rejected + dead_letters + tombstones;
    ensure!(plan.trouble > 0 || counted == records, "{records} records were counted as {counted}");
    Ok(seen)
}

type ApplyAnswer = oneshot::Receiver<Result<Applied, StoreError>>;

/// Where a run ends.
fn behind(run: &Run) -> Position {
    Position { partition: run.partition, epoch: run.epoch, next: Some(run.next), fingerprint: 0 }
}

/// Few products, few ids: most things meet.
fn event(random: &Random) -> Event {
    let number = random.below(30);
    let quantity_change = match random.below(20) {
        0 => POISON,
        1 => 7,
        _ => [5, -3, 1, 0, -4, 2][number as usize % 6],
    };
    Event { id: id(&format!("e{number}")), product: account(&format!("p{}", number % 4)), quantity_change }
}

fn log(random: &Random, partition: usize) -> Vec<Content> {
    let contents = (0..6 + random.below(14)).map(|offset| {
        let letter = |reason: &str| {
            Arc::new(DeadLetter {
                topic: TOPIC.to_owned(),
                partition: partition as i32,
                offset: offset as i64,
                timestamp: None,
                key: None,
                value: None,
                headers: Vec::new(),
                reason: reason.to_owned(),
            })
        };
        match random.below(15) {
            0 => Content::Malformed(letter("malformed")),
            1 => Content::Tombstone,
            _ => Content::Event { event: event(random), original: letter("") },
        }
    });
    contents.collect()
}

fn call(random: &Random, serial: &str) -> Request {
    let member = |random: &Random, kind: &str| {
        let number = random.below(12);
        let [from, to] = [number % 4, (number + 1) % 4].map(|product| account(&format!("p{product}")));
        let transfer = Operation::transfer(from, to, 1 + number as i64 % 3).expect("valid");
        Member { id: Some(id(&format!("{kind}{number}"))), operation: transfer }
    };
    match random.below(6) {
        0 => Request::single(Operation::create(account(serial), 5).expect("valid"), None),
        1 => {
            let member = member(random, "t");
            Request::single(member.operation, member.id)
        }
        2 => {
            let mut members = vec![member(random, "t"), member(random, "c")];
            if random.once_in(3) {
                let product = account(&format!("q{}", random.below(3)));
                let operation = Operation::create(product.clone(), 1).expect("valid");
                members[0] = Member { id: Some(id(&format!("linked {product}"))), operation };
            }
            if random.once_in(2) {
                members.reverse();
            }
            Request::chain(members).expect("two ids")
        }
        3 => {
            let product = account(&format!("q{}", random.below(3)));
            Request::single(Operation::create(product.clone(), 1).expect("valid"), Some(id(&format!("open {product}"))))
        }
        4 => {
            let product = account(&format!("q{}", random.below(3)));
            Request::single(Operation::update(product.clone(), -1), Some(id(&format!("u{product}{}", random.below(4)))))
        }
        _ => {
            let Event { id, product, quantity_change } = event(random);
            Request::single(Operation::update(product, quantity_change), Some(id))
        }
    }
}

fn id(text: &str) -> TransactionId {
    TransactionId::new(text).expect("valid")
}

fn account(text: &str) -> AccountId {
    AccountId::new(text).expect("valid")
}

impl World {
    fn start(&self, executor: &mut Executor, instance: usize) {
        let (queue, jobs) = mpsc::channel(16);
        let session = || Session::new(self.server.clone(), self.random.clone(), self.bug, instance);
        // Smaller than what there is, so that they forget.
        let batch = 1 + self.random.below(12) as usize;
        let bounds =
            Bounds { batch, ahead: 1 + self.random.below(4) as usize, accounts: 4, ids: 10, id_age: Duration::MAX };
        let mut committer = Committer::new(session(), session(), jobs, bounds);
        committer.ahead.never_doubts = matches!(self.bug, Bug::OnFailed | Bug::NeverDoubts);
        executor.spawn(instance, committer.run());
        executor.spawn(instance, self.clone().consume(instance, queue.clone()));
        executor.spawn(instance, self.clone().call(instance, queue.clone()));
        executor.spawn(instance, self.clone().call(instance + 1_000, queue));
    }

    fn is_consumed(&self) -> bool {
        let server = self.server.lock();
        self.logs.iter().enumerate().all(|(partition, log)| {
            let row = server.offsets.get(&(TOPIC.to_owned(), partition as i32));
            row.is_some_and(|row| row.1 == Some(log.len() as i64))
        })
    }

    /// Consumes the partitions that it believes to own, which may be more than it does own.
    async fn consume(self, instance: usize, queue: mpsc::Sender<Job>) {
        let mut held = BTreeMap::<i32, Position>::new();
        while !self.is_consumed() {
            pause().await;
            let owners = self.owners.lock().clone();
            let mine = |partition: i32| owners[partition as usize] == instance;
            if self.random.once_in(4) {
                held.retain(|partition, _| mine(*partition));
            }
            let new = (0..PARTITIONS as i32).filter(|partition| mine(*partition) && !held.contains_key(partition));
            let partitions: Vec<_> = new.collect();
            if !partitions.is_empty() {
                let (answer, answered) = oneshot::channel();
                let _ = queue.send(Job::TakeOver { topic: TOPIC.to_owned(), partitions, answer }).await;
                if let Ok(Ok(positions)) = answered.await {
                    held.extend(positions.into_iter().map(|position| (position.partition, position)));
                }
            }
            let runs: Vec<_> = held.values().filter_map(|position| self.run(position)).collect();
            if runs.is_empty() {
                continue;
            }
            let (first, answer) = self.send(&queue, &runs).await;
            // What goes on where it ends, while it is under way.
            let later: Vec<_> = first.iter().filter_map(|run| self.run(&behind(run))).collect();
            let later =
                if later.is_empty() || self.random.once_in(2) { None } else { Some(self.send(&queue, &later).await) };
            let mut answer = answer.await.expect("the committer answers");
            let later = match later {
                Some((runs, answer)) => Some((runs, answer.await.expect("the committer answers"))),
                None => None,
            };
            let mut runs = first;
            if let (Err(_), Some((later, Ok(_)))) = (&answer, &later) {
                let is_later = |run: &Run| later.iter().any(|later| later.partition == run.partition);
                runs.retain(|run| {
                    let through = is_later(run);
                    if through {
                        held.entry(run.partition).and_modify(|position| position.next = Some(run.next));
                    }
                    !through
                });
                answer = Err(StoreError::Unavailable { what: String::new() });
            }
            self.settle(&queue, &mut held, runs, answer).await;
            if let Some((mut runs, mut answer)) = later {
                if answer.is_err() {
                    runs.retain(|run| held.get(&run.partition).is_some_and(|position| position.epoch == run.epoch));
                    answer = Err(StoreError::Unavailable { what: String::new() });
                }
                self.settle(&queue, &mut held, runs, answer).await;
            }
        }
    }

    /// As the consumer does it: until the runs are kept, or nobody is their owner any more.
    async fn settle(
        &self,
        queue: &mpsc::Sender<Job>,
        held: &mut BTreeMap<i32, Position>,
        mut runs: Vec<Run>,
        mut answer: Result<Applied, StoreError>,
    ) {
        while !runs.is_empty() {
            match answer {
                Ok(applied) => {
                    add(&mut self.seen.lock().applied, applied);
                    for run in runs {
                        held.entry(run.partition).and_modify(|position| position.next = Some(run.next));
                    }
                    return;
                }
                Err(StoreError::Fenced { partitions }) => {
                    self.seen.lock().fenced += 1;
                    held.retain(|partition, _| !partitions.contains(partition));
                    runs.retain(|run| !partitions.contains(&run.partition));
                }
                Err(StoreError::Unavailable { .. }) => pause().await,
                Err(error) => panic!("{error}"),
            }
            if runs.is_empty() {
                return;
            }
            let (sent, next) = self.send(queue, &runs).await;
            (runs, answer) = (sent, next.await.expect("the committer answers"));
        }
    }

    fn run(&self, position: &Position) -> Option<Run> {
        let log = &self.logs[position.partition as usize];
        let from = position.next.unwrap_or(0);
        let next = (from + 1 + self.random.below(6) as i64).min(log.len() as i64);
        let records = (from..next).map(|offset| Record { offset, content: log[offset as usize].clone() }).collect();
        let Position { partition, epoch, next: stored, .. } = *position;
        (from < next).then_some(Run { partition, epoch, from: stored, next, fingerprint: 0, records })
    }

    async fn send(&self, queue: &mpsc::Sender<Job>, runs: &[Run]) -> (Vec<Run>, ApplyAnswer) {
        let (answer, answered) = oneshot::channel();
        let work = Work::Apply { topic: TOPIC.to_owned(), runs: runs.to_vec(), answer };
        let _ = queue.send(Job::Batched(work)).await;
        (runs.to_vec(), answered)
    }

    /// Calls, and calls again with the same id when it was told to.
    async fn call(self, caller: usize, queue: mpsc::Sender<Job>) {
        for serial in 0..CALLS {
            let request = call(&self.random, &format!("own {caller} {serial}"));
            let has_id = request.members().iter().any(|member| member.id.is_some());
            loop {
                let (answer, answered) = oneshot::channel();
                let _ = queue.send(Job::Batched(Work::Call { request: request.clone(), answer })).await;
                let answer = answered.await.expect("the committer answers");
                let again = has_id && matches!(answer, Err(PgError::Unavailable { .. }));
                if answer.as_ref().is_ok_and(Outcome::replayed) {
                    self.seen.lock().replays += 1;
                }
                self.answers.lock().push(Answered { request: request.clone(), answer });
                if !again {
                    break;
                }
                pause().await;
            }
        }
    }
}

fn add(sum: &mut Applied, more: Applied) {
    sum.applied += more.applied;
    sum.duplicates += more.duplicates;
    sum.rejected += more.rejected;
    sum.dead_letters += more.dead_letters;
    sum.tombstones += more.tombstones;
    sum.redecided += more.redecided;
}
