//! A store in memory that keeps the seam's promises, watches that its caller keeps them too, and fails as told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use equipoise::inventory::{Applied, Content, DeadLetter, Position, Run, Store, StoreError, StoredDeadLetter};
use parking_lot::Mutex;

#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
    orders: Mutex<Orders>,
    /// Calls of `apply` that are under way have their effects in the order in which they came.
    turn: tokio::sync::Mutex<()>,
}

/// How to fail.
#[derive(Clone, Default)]
pub struct Orders {
    /// Every `apply` takes so long.
    pub delay: Duration,
    /// So many may be under way behind another one.
    pub behind: usize,
    /// So many calls of `apply` say that they are unavailable, and do nothing.
    pub unavailable: usize,
    /// So many do what they should, and say that they are unavailable.
    pub answers_lost: usize,
    /// So many calls of `take_over` say that they are unavailable.
    pub take_over_unavailable: usize,
    /// These partitions are not handed over.
    pub locked: Vec<i32>,
    /// So many calls of `published` say that they are unavailable, and do nothing.
    pub published_unavailable: usize,
    /// Letters take so long to come.
    pub letters_delay: Duration,
    /// Every `apply` fails for good.
    pub failed: bool,
    /// The runs of these partitions have to wait, if they go beyond `held_from`.
    pub held: Vec<i32>,
    pub held_from: i64,
    /// Every `apply` panics.
    pub panics: bool,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<i32, Row>,
    ids: BTreeSet<String>,
    /// By partition, in the order in which they were applied.
    applied: BTreeMap<i32, Vec<(i64, Content)>>,
    letters: Vec<StoredDeadLetter>,
    next_letter: i64,
    complaints: Vec<String>,
    calls: usize,
    largest: usize,
}

#[derive(Clone, Copy, Default, Debug)]
struct Row {
    epoch: i64,
    next: Option<i64>,
    fingerprint: i64,
}

impl Memory {
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock());
    }

    /// As if the partition had been consumed up to `next`.
    pub fn set(&self, partition: i32, next: i64, fingerprint: i64) {
        self.state.lock().partitions.insert(partition, Row { epoch: 1, next: Some(next), fingerprint });
    }

    /// Somebody else takes the partition over.
    pub fn steal(&self, partition: i32) {
        self.state.lock().partitions.entry(partition).or_default().epoch += 1;
    }

    pub fn next(&self, partition: i32) -> Option<i64> {
        self.state.lock().partitions.get(&partition)?.next
    }

    pub fn epoch(&self, partition: i32) -> i64 {
        self.state.lock().partitions.get(&partition).map_or(0, |row| row.epoch)
    }

    /// How many different events were applied.
    pub fn events(&self) -> usize {
        self.state.lock().ids.len()
    }

    /// How many records were applied, events or not.
    pub fn records(&self) -> usize {
        self.state.lock().applied.values().map(Vec::len).sum()
    }

    pub fn contents(&self, partition: i32) -> Vec<(i64, Content)> {
        self.state.lock().applied.get(&partition).cloned().unwrap_or_default()
    }

    pub fn offsets(&self, partition: i32) -> Vec<i64> {
        self.contents(partition).iter().map(|(offset, _)| *offset).collect()
    }

    pub fn calls(&self) -> usize {
        self.state.lock().calls
    }

    pub fn largest_batch(&self) -> usize {
        self.state.lock().largest
    }

    pub fn unpublished(&self) -> usize {
        self.state.lock().letters.len()
    }

    pub fn add_letter(&self, letter: DeadLetter) {
        self.state.lock().add_letter(letter);
    }

    /// Panics with what the caller did wrong.
    pub fn assert_content(&self) {
        let state = self.state.lock();
        assert!(state.complaints.is_empty(), "{:?}", state.complaints);
        for (partition, applied) in &state.applied {
            let offsets: Vec<_> = applied.iter().map(|(offset, _)| *offset).collect();
            assert!(offsets.is_sorted_by(|a, b| a < b), "partition {partition}: {offsets:?}");
        }
    }
}

impl State {
    fn add_letter(&mut self, letter: DeadLetter) {
        self.next_letter += 1;
        self.letters.push(StoredDeadLetter { number: self.next_letter, letter });
    }

    fn fenced(&self, runs: &[Run]) -> Vec<i32> {
        let fenced = |run: &&Run| self.partitions.get(&run.partition).is_none_or(|row| row.epoch != run.epoch);
        runs.iter().filter(fenced).map(|run| run.partition).collect()
    }

    fn apply(&mut self, run: &Run, counts: &mut Applied) {
        let row = self.partitions.entry(run.partition).or_default();
        if run.from == Some(run.next) {
            self.complaints.push(format!("partition {}: a run that goes nowhere", run.partition));
        }
        if row.next == Some(run.next) && run.from != Some(run.next) {
            // Done before, and the answer was lost.
            return;
        }
        if row.next != run.from {
            self.complaints
                .push(format!("partition {}: has {:?}, run is from {:?}", run.partition, row.next, run.from));
            return;
        }
        (row.next, row.fingerprint) = (Some(run.next), run.fingerprint);
        if run.records.last().is_some_and(|last| last.offset + 1 != run.next) {
            self.complaints.push(format!("partition {}: the run does not end where it says", run.partition));
        }
        for record in &run.records {
            self.applied.entry(run.partition).or_default().push((record.offset, record.content.clone()));
            match &record.content {
                Content::Event { event, .. } if self.ids.insert(event.id.as_str().to_owned()) => counts.applied += 1,
                Content::Event { .. } => counts.duplicates += 1,
                Content::Malformed(letter) => {
                    self.add_letter((**letter).clone());
                    counts.dead_letters += 1;
                }
                Content::Tombstone => counts.tombstones += 1,
            }
        }
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { what: "told so".to_owned() }
}

fn failed() -> StoreError {
    StoreError::Failed { what: "told so".to_owned() }
}

/// Takes one of the calls that are to go wrong.
fn spend(count: &mut usize) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

#[tonic::async_trait]
impl Store for Memory {
    async fn take_over(&self, _: &str, partitions: &[i32]) -> Result<Vec<Position>, StoreError> {
        if spend(&mut self.orders.lock().take_over_unavailable) {
            return Err(unavailable());
        }
        let locked = self.orders.lock().locked.clone();
        let mut state = self.state.lock();
        let take = |partition: &i32| {
            let row = state.partitions.entry(*partition).or_default();
            row.epoch += 1;
            Position { partition: *partition, epoch: row.epoch, next: row.next, fingerprint: row.fingerprint }
        };
        Ok(partitions.iter().filter(|partition| !locked.contains(partition)).map(take).collect())
    }

    fn at_once(&self) -> usize {
        1 + self.orders.lock().behind
    }

    async fn apply(&self, _: &str, runs: &[Run]) -> Result<Applied, StoreError> {
        let _turn = self.turn.lock().await;
        let orders = self.orders.lock().clone();
        tokio::time::sleep(orders.delay).await;
        assert!(!orders.panics, "told so");
        if orders.failed {
            return Err(failed());
        }
        if spend(&mut self.orders.lock().unavailable) {
            return Err(unavailable());
        }
        let mut state = self.state.lock();
        let fenced = state.fenced(runs);
        if !fenced.is_empty() {
            return Err(StoreError::Fenced { partitions: fenced });
        }
        let mut counts = Applied::default();
        let is_held = |run: &&Run| orders.held.contains(&run.partition) && run.next > orders.held_from;
        let (held, free): (Vec<_>, Vec<_>) = runs.iter().partition(is_held);
        for run in free {
            state.apply(run, &mut counts);
        }
        state.calls += 1;
        state.largest = state.largest.max(runs.iter().map(|run| run.records.len()).sum());
        if spend(&mut self.orders.lock().answers_lost) {
            return Err(unavailable());
        }
        match held.iter().map(|run| run.partition).collect::<Vec<_>>() {
            held if held.is_empty() => Ok(counts),
            partitions => Err(StoreError::Held { partitions, applied: counts }),
        }
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        let delay = self.orders.lock().letters_delay;
        tokio::time::sleep(delay).await;
        Ok(self.state.lock().letters.iter().take(limit).cloned().collect())
    }

    async fn published(&self, numbers: &[i64]) -> Result<(), StoreError> {
        if spend(&mut self.orders.lock().published_unavailable) {
            return Err(unavailable());
        }
        self.state.lock().letters.retain(|letter| !numbers.contains(&letter.number));
        Ok(())
    }
}
