//! The task that gives the store what has come. While the store is at one batch, the next one gathers and is decoded. A
//! store that takes several at once gets it without waiting.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::inventory::{Applied, StoreError};

use super::assignment::Generation;
use super::backoff::Backoff;
use super::caught::watched;
use super::lanes::Batch;
use super::shared::{Asker, Shared};

/// How long a store that failed is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

type Answer = Result<Applied, StoreError>;

/// What the store was asked, or has answered.
enum Asked {
    Waiting(Pin<Box<dyn Future<Output = (Batch, Answer)> + Send>>),
    Answered(Batch, Answer),
}

/// The batches that the store was asked for, in their order.
#[derive(Default)]
struct UnderWay(VecDeque<Asked>);

impl UnderWay {
    fn ask(&mut self, shared: Arc<Shared>, batch: Batch) {
        self.0.push_back(Asked::Waiting(Box::pin(async move {
            let answer = shared.store.apply(&shared.settings.topic, &batch.runs).await;
            (batch, answer)
        })));
    }

    /// Waits for the answer to the oldest batch; None if there is no batch.
    async fn next(&mut self) -> Option<(Batch, Answer)> {
        poll_fn(|context| self.poll(context)).await
    }

    /// Polls all of them, in their order.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(Batch, Answer)>> {
        for asked in &mut self.0 {
            if let Asked::Waiting(answer) = asked
                && let Poll::Ready((batch, answer)) = answer.as_mut().poll(context)
            {
                *asked = Asked::Answered(batch, answer);
            }
        }
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Asked::Answered(batch, answer)) => Poll::Ready(Some((batch, answer))),
            Some(waiting) => {
                self.0.push_front(waiting);
                Poll::Pending
            }
        }
    }
}

/// Runs until `stop` is set, its sender is gone, or the consumer has failed.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut under_way = UnderWay::default();
    // Tasks for held runs, beside which the other partitions go on. They end with this function.
    let mut waits = JoinSet::new();
    while !*stop.borrow() && !shared.has_failed() {
        give(&shared, &mut under_way);
        tokio::select! {
            Some((batch, answer)) = under_way.next() => match answer {
                Ok(applied) => kept(&shared, Asker::Apply, &batch, applied),
                Err(error) => {
                    let mut later = Vec::new();
                    while let Some(answered) = under_way.next().await {
                        later.push(answered);
                    }
                    for (partition, held) in ask_again(&shared, batch, error, later, &mut stop).await {
                        waits.spawn(watched(shared.clone(), wait(shared.clone(), partition, held, stop.clone())));
                    }
                }
            },
            Some(_) = waits.join_next() => {}
            () = shared.lanes.filled() => {}
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
    // The store was asked already, so what it keeps still counts.
    while let Some((batch, answer)) = under_way.next().await {
        if let Ok(applied) = answer {
            kept(&shared, Asker::Apply, &batch, applied);
        }
    }
}

/// Gives the store what has come, as far as the store takes it.
fn give(shared: &Arc<Shared>, under_way: &mut UnderWay) {
    while under_way.0.len() < shared.store.at_once() {
        let batch = if under_way.0.is_empty() { shared.lanes.take() } else { shared.lanes.take_behind() };
        if batch.runs.is_empty() {
            return;
        }
        under_way.ask(shared.clone(), batch);
    }
}

/// Asks again for a batch whose answer was an error, then for those in `later`, which may have failed because of it.
/// Returns the runs that are held, in order, by partition, since each partition waits by itself.
async fn ask_again(
    shared: &Shared,
    mut batch: Batch,
    error: StoreError,
    later: Vec<(Batch, Answer)>,
    stop: &mut watch::Receiver<bool>,
) -> BTreeMap<i32, Vec<Batch>> {
    for (later, answer) in &later {
        if answer.is_ok() {
            // `later` began where the batch ends, so the batch was kept.
            done(shared, &batch.before(later));
        }
    }
    let mut held = Vec::new();
    if !batch.runs.is_empty() {
        held.push(settle(shared, Asker::Apply, batch, Err(error), stop).await);
    }
    for (mut batch, answer) in later {
        match answer {
            Ok(applied) => kept(shared, Asker::Apply, &batch, applied),
            Err(_) if *stop.borrow() || shared.has_failed() => break,
            Err(error) => {
                shared.lanes.keep_current(&mut batch);
                // What follows a held run waits behind it.
                let behind = held.iter().map(|held| batch.before(held)).collect::<Vec<_>>();
                held.extend(behind);
                let answer = match error {
                    // What was kept of it is counted by this answer alone.
                    StoreError::Held { .. } => Err(error),
                    _ if batch.runs.is_empty() => continue,
                    _ => shared.store.apply(&shared.settings.topic, &batch.runs).await,
                };
                held.push(settle(shared, Asker::Apply, batch, answer, stop).await);
            }
        }
    }
    by_partition(held)
}

/// Splits batches into one batch per run, by partition and in order.
fn by_partition(batches: Vec<Batch>) -> BTreeMap<i32, Vec<Batch>> {
    let mut by_partition = BTreeMap::<_, Vec<_>>::new();
    for Batch { runs, generations } in batches {
        for (run, generation) in runs.into_iter().zip(generations) {
            let partition = run.partition;
            by_partition.entry(partition).or_default().push(Batch { runs: vec![run], generations: vec![generation] });
        }
    }
    by_partition
}

/// Asks the store for these batches of one partition, in order, until it has them.
async fn wait(shared: Arc<Shared>, partition: i32, held: Vec<Batch>, mut stop: watch::Receiver<bool>) {
    let asker = Asker::Wait(partition);
    for mut batch in held {
        let mut backoff = Backoff::default();
        while !batch.runs.is_empty() && !*stop.borrow() && !shared.has_failed() {
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                _ = stop.changed() => return,
            }
            shared.lanes.keep_current(&mut batch);
            if !batch.runs.is_empty() {
                let answer = shared.store.apply(&shared.settings.topic, &batch.runs).await;
                batch = settle(&shared, asker, batch, answer, &mut stop).await;
            }
        }
    }
}

/// Asks the store until it has the batch, or the batch is no longer wanted. Returns the runs that are held.
async fn settle(
    shared: &Shared,
    asker: Asker,
    mut batch: Batch,
    mut answer: Answer,
    stop: &mut watch::Receiver<bool>,
) -> Batch {
    let mut backoff = Backoff::default();
    loop {
        let paused = match answer {
            Ok(applied) => {
                kept(shared, asker, &batch, applied);
                return Batch::default();
            }
            Err(StoreError::Held { partitions, applied }) => {
                let held = batch.split_off(&partitions);
                kept(shared, asker, &batch, applied);
                shared.lanes.hold(&held);
                return held;
            }
            Err(StoreError::Fenced { partitions }) => {
                drop_fenced(shared, &mut batch, &partitions);
                ControlFlow::Continue(())
            }
            Err(StoreError::Unavailable { what }) => pause(shared, asker, &what, backoff.next(), stop).await,
            // Somebody has to fix this, but should not have to restart this process as well.
            Err(StoreError::Failed { what }) => pause(shared, asker, &what, AFTER_FAILURE, stop).await,
        };
        if paused.is_break() {
            return Batch::default();
        }
        // A partition that was taken from us meanwhile is left to its next owner.
        shared.lanes.keep_current(&mut batch);
        if batch.runs.is_empty() {
            // Nobody asks any more.
            shared.available(asker);
            return batch;
        }
        answer = shared.store.apply(&shared.settings.topic, &batch.runs).await;
    }
}

/// Waits before asking an unavailable store again. Break: the consumer is to end.
async fn pause(
    shared: &Shared,
    asker: Asker,
    what: &str,
    pause: Duration,
    stop: &mut watch::Receiver<bool>,
) -> ControlFlow<()> {
    shared.unavailable(asker, what);
    shared.metrics.apply_retries.inc();
    tokio::select! {
        () = tokio::time::sleep(pause) => ControlFlow::Continue(()),
        _ = stop.changed() => ControlFlow::Break(()),
    }
}

fn kept(shared: &Shared, asker: Asker, batch: &Batch, applied: Applied) {
    shared.available(asker);
    count(shared, applied);
    done(shared, batch);
}

/// Drops the runs of these partitions. Nothing was changed, so the other runs are still to be applied.
fn drop_fenced(shared: &Shared, batch: &mut Batch, partitions: &[i32]) {
    let is_fenced = |partition: i32| partitions.contains(&partition);
    // If the store names none of ours it means all of them, or this would never end.
    let all = !batch.runs.iter().any(|run| is_fenced(run.partition));
    let fenced: Vec<(i32, Generation)> = batch
        .runs
        .iter()
        .zip(&batch.generations)
        .map(|(run, generation)| (run.partition, *generation))
        .filter(|(partition, _)| all || is_fenced(*partition))
        .collect();
    shared.fenced(&fenced);
    batch.retain(|partition, generation| !fenced.contains(&(partition, generation)));
}

fn done(shared: &Shared, batch: &Batch) {
    let current = {
        let assignment = shared.assignment.lock();
        let runs = batch.runs.iter().zip(&batch.generations);
        let current = runs.filter(|(run, generation)| assignment.is_current(run.partition, **generation));
        current.map(|(run, _)| (run.partition, run.next)).collect::<Vec<_>>()
    };
    shared.to_commit.lock().extend(current);
    shared.lanes.applied(batch);
}

fn count(shared: &Shared, applied: Applied) {
    let metrics = &shared.metrics;
    let counts = [
        (&metrics.applied, applied.applied),
        (&metrics.duplicates, applied.duplicates),
        (&metrics.rejected, applied.rejected),
        (&metrics.dead_letters, applied.dead_letters),
        (&metrics.tombstones, applied.tombstones),
        (&metrics.redecided, applied.redecided),
    ];
    for (counter, by) in counts {
        counter.inc_by(by);
    }
    if applied.dead_letters > 0 {
        shared.dead_letters.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::tests::shared;
    use super::*;
    use crate::inventory::Run;

    /// D6: that nobody waits any more for a partition tells nothing of the store that the others wait for.
    #[tokio::test]
    async fn an_end_of_waiting_is_no_answer_to_the_others() {
        let shared = shared();
        let (_stopper, mut stop) = watch::channel(false);
        shared.unavailable(Asker::Apply, "away");
        let run = Run { partition: 0, epoch: 1, from: None, next: 1, fingerprint: 0, records: Vec::new() };
        let batch = Batch { runs: vec![run], generations: vec![1] };
        let fenced = Err(StoreError::Fenced { partitions: vec![0] });
        let left = settle(&shared, Asker::Wait(0), batch, fenced, &mut stop).await;
        assert!(left.runs.is_empty());
        assert_eq!(shared.status().unavailable.as_deref(), Some("away"));
    }
}
