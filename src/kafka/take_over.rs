//! From an assigned partition to an offset: taken over in the store, compared with the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::inventory::{Position, StoreError};

use super::assignment::{Generation, Settled, Step, Work};
use super::caught::caught;
use super::check::check;
use super::poll::Told;
use super::shared::Shared;

/// How long the store may take to hand partitions over.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a partition waits that the store does not hand over with the others.
const LEFT_OUT: &str = "somebody has locked its row in the store";

/// Does the work, and tells the poll thread the results: once, for all of it, even if the store panics.
pub(super) async fn settle(shared: Arc<Shared>, work: Work, told: Sender<Told>) {
    let left_undone = |(partition, generation)| {
        let result = Step::Again(None, "the task that was to take it over has panicked".to_owned());
        Settled { partition, generation, result }
    };
    let settled = caught(settled(&shared, &work)).await;
    let settled = settled.unwrap_or_else(|| work.partitions().map(left_undone).collect());
    // The poll thread has ended when nobody listens.
    drop(told.send(Told::Settled(settled)));
}

async fn settled(shared: &Arc<Shared>, work: &Work) -> Vec<Settled> {
    let mut settled = Vec::new();
    let mut positions: BTreeMap<i32, (Position, Generation)> =
        work.taken_over.iter().map(|(position, generation)| (position.partition, (*position, *generation))).collect();
    let (taken, why_not) = match take_over(shared, &work.wanted).await {
        Ok(taken) => (taken, LEFT_OUT.to_owned()),
        Err(why) => (BTreeMap::new(), why),
    };
    let left = work.wanted.iter().filter(|(partition, _)| !taken.contains_key(partition));
    settled.extend(left.map(|(partition, generation)| Settled {
        partition: *partition,
        generation: *generation,
        result: Step::Again(None, why_not.clone()),
    }));
    positions.extend(taken);
    let to_check: Vec<_> = positions.values().map(|(position, _)| *position).collect();
    let checker = Arc::clone(shared);
    let steps = match to_check.is_empty() {
        true => Ok(Vec::new()),
        false => tokio::task::spawn_blocking(move || check(&checker.settings, &to_check)).await,
    };
    match steps {
        Ok(steps) => settled.extend(steps.into_iter().filter_map(|(partition, result)| {
            let (_, generation) = positions.get(&partition)?;
            Some(Settled { partition, generation: *generation, result })
        })),
        Err(error) => settled.extend(positions.values().map(|(position, generation)| Settled {
            partition: position.partition,
            generation: *generation,
            result: Step::Again(Some(*position), format!("the log was not looked at: {error}")),
        })),
    }
    settled
}

/// Takes these partitions over; we own those that it returns.
async fn take_over(
    shared: &Shared,
    wanted: &[(i32, Generation)],
) -> Result<BTreeMap<i32, (Position, Generation)>, String> {
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let partitions: Vec<_> = wanted.iter().map(|(partition, _)| *partition).collect();
    let taking = shared.store.take_over(&shared.settings.topic, &partitions);
    let taken = tokio::time::timeout(PATIENCE, taking).await.unwrap_or_else(|_| {
        let what = format!("partitions were not taken over within {} s", PATIENCE.as_secs());
        Err(StoreError::Unavailable { what })
    });
    let taken = taken.map_err(|error| error.to_string())?;
    let generations: BTreeMap<_, _> = wanted.iter().copied().collect();
    let found = taken.into_iter().filter_map(|position| {
        let generation = generations.get(&position.partition)?;
        Some((position.partition, (position, *generation)))
    });
    Ok(found.collect())
}
