//! The task that gives the store what has come. One batch is in flight; the next gathers and is decoded meanwhile.

use std::sync::Arc;

use tokio::sync::watch;

use crate::inventory::{Applied, StoreError};

use super::assignment::Generation;
use super::backoff::Backoff;
use super::lanes::Batch;
use super::shared::Shared;

/// Runs until `stop` is set, its sender is gone, or the store has failed.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() && !shared.has_failed() {
        let batch = shared.lanes.take();
        if !batch.runs.is_empty() {
            settle(&shared, batch, &mut stop).await;
            continue;
        }
        tokio::select! {
            () = shared.lanes.filled() => {}
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

/// Asks the store until it has the batch, or nobody wants it any more.
async fn settle(shared: &Shared, mut batch: Batch, stop: &mut watch::Receiver<bool>) {
    let mut backoff = Backoff::default();
    while !batch.runs.is_empty() {
        match shared.store.apply(&shared.settings.topic, &batch.runs).await {
            Ok(applied) => {
                shared.available();
                count(shared, applied);
                done(shared, &batch);
                return;
            }
            Err(StoreError::Fenced { partitions }) => drop_fenced(shared, &mut batch, &partitions),
            Err(StoreError::Unavailable { what }) => {
                shared.unavailable(&what);
                shared.metrics.apply_retries.inc();
                tokio::select! {
                    () = tokio::time::sleep(backoff.next()) => {}
                    _ = stop.changed() => return,
                }
            }
            Err(error @ StoreError::Failed { .. }) => {
                shared.fail(error.to_string());
                return;
            }
        }
        // A partition that was taken from us while the store was asked is its next owner's business.
        shared.lanes.keep_current(&mut batch);
    }
}

/// Forgets the runs of these partitions; nothing was changed, so the others are still to be applied.
fn drop_fenced(shared: &Shared, batch: &mut Batch, partitions: &[i32]) {
    let is_fenced = |partition: i32| partitions.contains(&partition);
    // A store that names none of ours means all of them, or this would go on for ever.
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
