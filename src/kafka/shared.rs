//! The state that the poll thread, the tasks and the outside share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::inventory::Store;

use super::assignment::{Assignment, Generation};
use super::check::Extent;
use super::lanes::Lanes;
use super::metrics::{Metrics, Partition};
use super::quiet::Quiet;
use super::record::Decode;
use super::settings::Settings;
use super::status::Status;

/// Locks are taken in the order of the fields, and for moments.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) store: Arc<dyn Store>,
    pub(super) decode: Decode,
    pub(super) metrics: Metrics,
    pub(super) assignment: Mutex<Assignment>,
    /// The partitions that librdkafka fetches.
    pub(super) attached: Mutex<BTreeSet<i32>>,
    pub(super) lanes: Lanes,
    /// The offsets to commit for lag tools.
    pub(super) to_commit: Mutex<BTreeMap<i32, i64>>,
    pub(super) trouble: Mutex<Trouble>,
    /// Notified when the store has got dead letters.
    pub(super) dead_letters: Notify,
    pub(super) quiet: Quiet,
}

/// What is wrong at present, in the words of [`Status`].
#[derive(Debug, Default)]
pub(super) struct Trouble {
    unavailable: BTreeMap<Asker, String>,
    /// Why the topic's partitions are not known.
    pub(super) unknown: Option<String>,
    pub(super) disconnected: Option<String>,
    pub(super) last_error: Option<String>,
    /// librdkafka's last message about records that cannot be read.
    pub(super) unreadable: Option<String>,
    pub(super) failed: Option<String>,
}

/// Who asks the store: an answer to one says nothing about the others. (The take-over reports by itself what it waits
/// for.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    Apply,
    /// The task that waits with this partition's held runs.
    Wait(i32),
    Publish,
}

impl Shared {
    pub(super) fn new(settings: Settings, store: Arc<dyn Store>, decode: Decode, metrics: Metrics) -> Self {
        Shared {
            settings,
            store,
            decode,
            metrics,
            assignment: Mutex::default(),
            attached: Mutex::default(),
            lanes: Lanes::default(),
            to_commit: Mutex::default(),
            trouble: Mutex::default(),
            dead_letters: Notify::new(),
            quiet: Quiet::default(),
        }
    }

    pub(super) fn status(&self) -> Status {
        let assignment = self.assignment.lock();
        let held = self.lanes.held();
        let held =
            (!held.is_empty()).then(|| format!("the partitions {held:?} wait for a row that somebody has locked"));
        let (shut, any_hole) = (self.lanes.all_shut(), self.lanes.any_hole());
        let trouble = self.trouble.lock();
        let said = trouble.unreadable.as_deref().unwrap_or_default();
        let hole = any_hole.then(|| format!("records cannot be read, of which partition is not known yet: {said}"));
        let shut = (!shut.is_empty()).then(|| format!("records of the partitions {shut:?} cannot be read: {said}"));
        Status {
            joined: assignment.joined,
            assigned: assignment.all(),
            consuming: assignment.consuming().collect(),
            stopped: assignment.stopped().map(|(partition, why)| (partition, why.to_owned())).collect(),
            unavailable: trouble.unavailable.values().next().cloned(),
            waiting: trouble
                .unknown
                .clone()
                .or_else(|| assignment.waiting().map(str::to_owned))
                .or(held)
                .or(shut)
                .or(hole),
            disconnected: trouble.disconnected.clone(),
            last_error: trouble.last_error.clone(),
            failed: trouble.failed.clone(),
        }
    }

    /// Ends the consuming for good.
    pub(super) fn fail(&self, why: String) {
        let mut trouble = self.trouble.lock();
        if trouble.failed.is_none() {
            tracing::error!("no events are consumed any more: {why}");
            trouble.failed = Some(why);
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.trouble.lock().failed.is_some()
    }

    /// The store cannot be reached.
    pub(super) fn unavailable(&self, asker: Asker, what: &str) {
        if self.trouble.lock().unavailable.insert(asker, what.to_owned()).is_none() {
            tracing::warn!(?asker, "the store is unavailable, trying again: {what}");
        }
    }

    /// The store answers, or is not asked.
    pub(super) fn available(&self, asker: Asker) {
        if self.trouble.lock().unavailable.remove(&asker).is_some() {
            tracing::info!(?asker, "the store answers again");
        }
    }

    /// Something that librdkafka complains of.
    pub(super) fn complaint(&self, error: String) {
        self.metrics.errors.inc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.last_error.set(now.as_secs().cast_signed());
        self.trouble.lock().last_error = Some(error);
    }

    /// The topic's partitions are known, or will be told by the group.
    pub(super) fn known(&self) {
        self.trouble.lock().unknown = None;
    }

    /// The partitions of which nothing is fetched, so that librdkafka does not know how far their logs are, and the
    /// next offset that the store does not have.
    pub(super) fn held_up(&self) -> BTreeMap<i32, Option<i64>> {
        let assignment = self.assignment.lock();
        let paused = self.lanes.progress().into_iter().filter(|(_, it)| it.paused);
        assignment.held_up().chain(paused.map(|(partition, it)| (partition, Some(it.next)))).collect()
    }

    /// Records the ends of some partitions' logs.
    pub(super) fn behind(&self, extents: &[(i32, Extent)]) {
        let held_up = self.held_up();
        for (partition, Extent { first, end }) in extents {
            if let Some(next) = held_up.get(partition) {
                let lag = end.saturating_sub(next.unwrap_or(*first)).max(0);
                self.metrics.lag.get_or_create(&Partition { partition: *partition }).set(lag);
            }
        }
    }

    /// The log has changed: offsets that were good may no longer fit, and are compared again.
    pub(super) fn begin_again(&self, not_before: Instant, why: &str) {
        let mut assignment = self.assignment.lock();
        self.close(&assignment.begin_again(not_before, why));
    }

    /// Records of this partition cannot be read: it waits before them, once the store has those that could be. Until
    /// then nothing more of it is taken, and [`Lanes::drained`] tells when to come again.
    pub(super) fn hold_up(&self, partition: i32, now: Instant) {
        if !self.lanes.shut(partition) {
            return;
        }
        let Some(next) = self.lanes.expected(partition) else { return };
        let said = self.trouble.lock().unreadable.clone().unwrap_or_default();
        let why = format!("partition {partition} is held up at offset {next}: records cannot be read: {said}");
        let mut assignment = self.assignment.lock();
        let Some(pause) = assignment.hold_up(partition, next, now, &why) else { return };
        // The partition stays ours: its lag and its offset for lag tools stay, too.
        self.lanes.close(&[partition]);
        drop(assignment);
        if let Some(repeated) = self.quiet.may_say(&format!("held up {partition}")) {
            tracing::warn!(repeated, partition, next, ?pause, "held up, since records cannot be read: {said}");
        }
    }

    /// These partitions are not consumed here any more.
    pub(super) fn give_up(&self, partitions: &[i32]) {
        let mut assignment = self.assignment.lock();
        assignment.revoke(partitions);
        self.close(partitions);
    }

    /// Forgets what waits for these partitions; what is in flight for them no longer counts. The caller still holds the
    /// lock of the assignment that it changed: otherwise this would close the lanes of the next one.
    pub(super) fn close(&self, partitions: &[i32]) {
        self.lanes.close(partitions);
        let mut to_commit = self.to_commit.lock();
        for partition in partitions {
            to_commit.remove(partition);
            self.metrics.lag.remove(&Partition { partition: *partition });
        }
    }

    /// The store says that somebody else owns these partitions. Drops everything about them; they are not taken over
    /// again until the group assigns them.
    pub(super) fn fenced(&self, partitions: &[(i32, Generation)]) {
        let mut assignment = self.assignment.lock();
        let believed = assignment.fence(partitions);
        if !believed.is_empty() {
            self.metrics.fenced.inc_by(believed.len() as u64);
            tracing::warn!(partitions = ?believed, "another member has taken over these partitions");
            self.close(&believed);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::inventory::{Applied, Position, Run, StoreError, StoredDeadLetter};

    /// Nobody asks it anything.
    struct NoStore;

    #[tonic::async_trait]
    impl Store for NoStore {
        async fn take_over(&self, _: &str, _: &[i32]) -> Result<Vec<Position>, StoreError> {
            unimplemented!()
        }

        async fn apply(&self, _: &str, _: &[Run]) -> Result<Applied, StoreError> {
            unimplemented!()
        }

        async fn dead_letters(&self, _: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
            unimplemented!()
        }

        async fn published(&self, _: &[i64]) -> Result<(), StoreError> {
            unimplemented!()
        }
    }

    /// What a consumer without a broker and without a store has.
    pub(in crate::kafka) fn shared() -> Arc<Shared> {
        let variables = [("KAFKA_BROKERS".to_owned(), "nowhere:1".to_owned())];
        let settings = Settings::from_variables(variables.into_iter()).expect("good settings");
        Arc::new(Shared::new(settings, Arc::new(NoStore), Arc::new(super::super::decode), Metrics::default()))
    }
}
