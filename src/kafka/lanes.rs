//! The records that wait for the store, by partition, within limits.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::inventory::{Content, DeadLetter, Position, Record, Run};

use super::assignment::Generation;
use super::fingerprint::{UNKNOWN, farther, fingerprint};

use hole::Hole;

/// The limits at which a partition is paused; it goes on at half of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Records of one partition.
    pub(super) records: usize,
    /// Bytes of one partition.
    pub(super) bytes: usize,
    /// Bytes of all partitions that are not held.
    pub(super) total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { records: 10_000, bytes: 8 << 20, total_bytes: 64 << 20 }
    }
}

/// The most that is given to the store at once.
const BATCH_RECORDS: usize = 5_000;
const BATCH_BYTES: usize = 16 << 20;

/// How many records have to wait before the store gets them behind runs in flight.
const BEHIND: usize = 256;

/// What a record takes beside its key, value and headers, roughly.
const RECORD_BYTES: usize = 300;

/// The partitions being consumed. One thread puts records in, one task takes them out.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    limits: Limits,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    lanes: BTreeMap<i32, Lane>,
    /// Bytes of the lanes that are not held; held lanes do not drain.
    drainable_bytes: usize,
    waiting_records: usize,
    /// The partition that was served last, so that all take turns.
    last: i32,
}

#[derive(Debug)]
struct Lane {
    generation: Generation,
    epoch: i64,
    /// The store's next offset once everything in flight is kept.
    from: Option<i64>,
    /// The next offset that the store does not have.
    next: i64,
    /// The lowest offset that can come next.
    expected: i64,
    records: VecDeque<Waiting>,
    bytes: usize,
    runs_in_flight: usize,
    paused: bool,
    /// An offset to give to the store before the next record: where the partition begins, or what it has passed since.
    announce: Option<i64>,
    /// The announcement is in flight: the store is given nothing behind it.
    is_announced: bool,
    /// The fingerprint for `from`.
    fingerprint: i64,
    /// Nothing has come since the last call of [`Lanes::quiet`].
    is_quiet: bool,
    hole: Option<Hole>,
    /// Nothing more is taken: records before it could not be read.
    is_shut: bool,
    /// The last known end of the log.
    end: Option<i64>,
    /// The runs in flight are held: nothing is given to the store behind them, and nothing more is fetched.
    is_held: bool,
}

#[derive(Debug)]
struct Waiting {
    record: Record,
    bytes: usize,
    /// The record's fingerprint, for records that do not keep what it is computed from.
    fingerprint: i64,
}

/// What a record does to its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits.
    Waits,
    /// It waits, and its partition is to be paused: a limit is reached, or the partition is held.
    Full,
    /// It is not wanted: the partition is not ours, or the record came before.
    Dropped,
    /// It is not taken: records between it and the one before may have been unreadable.
    BehindHole,
}

/// Runs for the store, and the assignment that each one belongs to.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) runs: Vec<Run>,
    pub(super) generations: Vec<Generation>,
}

/// How far a partition is, for its lag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The next offset that the store does not have.
    pub(super) next: i64,
    /// Nothing waits, nothing is in flight.
    pub(super) idle: bool,
    /// Nothing is fetched.
    pub(super) paused: bool,
}

impl Lanes {
    #[cfg(test)]
    fn with_limits(limits: Limits) -> Self {
        Lanes { limits, ..Lanes::default() }
    }

    /// Opens the lane of a partition that begins with `start`. With `announce` the store is given this offset first, in
    /// a run without records: so the others rise, whatever the store had.
    pub(super) fn open(&self, generation: Generation, position: Position, start: i64, announce: bool) {
        let lane = Lane {
            generation,
            epoch: position.epoch,
            from: position.next,
            next: start,
            expected: start,
            records: VecDeque::new(),
            bytes: 0,
            runs_in_flight: 0,
            paused: false,
            announce: announce.then_some(start),
            is_announced: false,
            fingerprint: if announce { UNKNOWN } else { position.fingerprint },
            is_quiet: false,
            hole: None,
            is_shut: false,
            end: None,
            is_held: false,
        };
        let mut state = self.state.lock();
        state.close(position.partition);
        state.lanes.insert(position.partition, lane);
        drop(state);
        self.filled.notify_one();
    }

    /// Forgets the waiting records of these partitions; what is in flight for them no longer counts.
    pub(super) fn close(&self, partitions: &[i32]) {
        let mut state = self.state.lock();
        for partition in partitions {
            state.close(*partition);
        }
    }

    /// Whether the partition is open, and a record at this offset is wanted.
    pub(super) fn wants(&self, partition: i32, offset: i64) -> bool {
        self.state.lock().lanes.get(&partition).is_some_and(|lane| lane.wants(offset))
    }

    /// A record of an open partition.
    pub(super) fn push(&self, partition: i32, record: Record, unkept: i64) -> Pushed {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(lane) = state.lanes.get_mut(&partition) else { return Pushed::Dropped };
        if !lane.wants(record.offset) {
            return Pushed::Dropped;
        }
        if lane.hole.is_some_and(|hole| hole.is_in(lane.expected..record.offset)) {
            return Pushed::BehindHole;
        }
        let bytes = RECORD_BYTES + size(&record.content);
        if let Some(hole) = &mut lane.hole {
            hole.went_on();
        }
        lane.expected = record.offset + 1;
        lane.is_quiet = false;
        lane.bytes += bytes;
        lane.records.push_back(Waiting { record, bytes, fingerprint: unkept });
        state.waiting_records += 1;
        if !lane.is_held {
            state.drainable_bytes += bytes;
        }
        let limits = self.limits;
        let is_full = lane.records.len() >= limits.records || lane.bytes >= limits.bytes;
        let full = is_full || lane.is_held || state.drainable_bytes >= limits.total_bytes;
        lane.paused |= full;
        let enough = lane.records.len() == 1 || state.waiting_records == BEHIND;
        drop(guard);
        if enough {
            self.filled.notify_one();
        }
        if full { Pushed::Full } else { Pushed::Waits }
    }

    /// The partitions whose records are all in the store, and of which nothing has come since the last call.
    pub(super) fn quiet(&self) -> Vec<i32> {
        let mut quiet = Vec::new();
        for (partition, lane) in &mut self.state.lock().lanes {
            let is_idle = lane.is_idle();
            if std::mem::replace(&mut lane.is_quiet, is_idle) && is_idle {
                quiet.push(*partition);
            }
        }
        quiet
    }

    /// Nothing more of a quiet partition comes below `end`: moves the partition there, in a run without records.
    pub(super) fn pass(&self, partition: i32, end: i64) -> Pushed {
        let mut state = self.state.lock();
        let lane = state.lanes.get_mut(&partition).filter(|lane| lane.is_quiet && lane.expected < end);
        let Some(lane) = lane else { return Pushed::Dropped };
        if lane.hole.is_some_and(|hole| hole.is_in(lane.expected..end)) {
            return Pushed::BehindHole;
        }
        lane.fingerprint = farther(lane.fingerprint, end - lane.expected);
        (lane.expected, lane.announce, lane.is_quiet) = (end, Some(end), false);
        drop(state);
        self.filled.notify_one();
        Pushed::Waits
    }

    /// The paused partitions that have room again; they count as going on.
    pub(super) fn resumable(&self) -> Vec<i32> {
        let mut state = self.state.lock();
        if state.drainable_bytes > self.limits.total_bytes / 2 {
            return Vec::new();
        }
        let limits = self.limits;
        let has_room = |lane: &Lane| lane.records.len() <= limits.records / 2 && lane.bytes <= limits.bytes / 2;
        let mut resumable = Vec::new();
        let resumes = |lane: &Lane| lane.paused && !lane.is_held && has_room(lane);
        for (partition, lane) in state.lanes.iter_mut().filter(|(_, lane)| resumes(lane)) {
            lane.paused = false;
            resumable.push(*partition);
        }
        resumable
    }

    /// Whether a paused partition may soon have room. A held one may wait for hours.
    pub(super) fn any_paused(&self) -> bool {
        self.state.lock().lanes.values().any(|lane| lane.paused && !lane.is_held)
    }

    /// Where to fetch these partitions from; they count as not paused.
    pub(super) fn attach(&self, partitions: impl Iterator<Item = i32>) -> Vec<(i32, i64)> {
        let mut state = self.state.lock();
        let mut starts = Vec::new();
        for partition in partitions {
            if let Some(lane) = state.lanes.get_mut(&partition) {
                lane.paused = false;
                starts.push((partition, lane.expected));
            }
        }
        starts
    }

    /// How far each partition is.
    pub(super) fn progress(&self) -> BTreeMap<i32, Progress> {
        let state = self.state.lock();
        let progress = |lane: &Lane| Progress { next: lane.next, idle: lane.is_idle(), paused: lane.paused };
        state.lanes.iter().map(|(partition, lane)| (*partition, progress(lane))).collect()
    }

    /// Waits until something may have come.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The next batch: some records of each partition that has none in flight, in their order.
    pub(super) fn take(&self) -> Batch {
        let ready = |lane: &Lane| lane.runs_in_flight == 0 && (!lane.records.is_empty() || lane.announce.is_some());
        self.state.lock().take(ready)
    }

    /// The next batch while the store is at others: as [`Lanes::take`], behind the runs in flight, if enough records
    /// wait.
    pub(super) fn take_behind(&self) -> Batch {
        let mut state = self.state.lock();
        if state.waiting_records < BEHIND {
            return Batch::default();
        }
        state.take(|lane| !lane.is_held && !lane.is_announced && lane.announce.is_none() && !lane.records.is_empty())
    }

    /// The store has these runs.
    pub(super) fn applied(&self, batch: &Batch) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut more = false;
        for (run, generation) in batch.runs.iter().zip(&batch.generations) {
            if let Some(lane) = state.lanes.get_mut(&run.partition)
                && lane.generation == *generation
            {
                lane.runs_in_flight = lane.runs_in_flight.saturating_sub(1);
                lane.next = run.next;
                lane.is_announced = false;
                if lane.is_held && lane.runs_in_flight == 0 {
                    lane.is_held = false;
                    state.drainable_bytes += lane.bytes;
                }
                more |= !lane.records.is_empty();
            }
        }
        drop(guard);
        if more {
            self.filled.notify_one();
        }
    }

    /// The store holds these runs: see [`StoreError::Held`](crate::inventory::StoreError::Held).
    pub(super) fn hold(&self, batch: &Batch) {
        let state = &mut *self.state.lock();
        for (run, generation) in batch.runs.iter().zip(&batch.generations) {
            if let Some(lane) = state.lanes.get_mut(&run.partition)
                && lane.generation == *generation
                && !std::mem::replace(&mut lane.is_held, true)
            {
                state.drainable_bytes -= lane.bytes;
            }
        }
    }

    /// The partitions whose runs are held.
    pub(super) fn held(&self) -> Vec<i32> {
        let state = self.state.lock();
        state.lanes.iter().filter(|(_, lane)| lane.is_held).map(|(partition, _)| *partition).collect()
    }

    /// Removes the runs from `batch` whose partition was closed or assigned anew.
    pub(super) fn keep_current(&self, batch: &mut Batch) {
        let state = self.state.lock();
        let current = |partition: i32, generation: Generation| {
            state.lanes.get(&partition).is_some_and(|lane| lane.generation == generation)
        };
        batch.retain(current);
    }
}

impl State {
    fn take(&mut self, ready: impl Fn(&Lane) -> bool) -> Batch {
        let state = self;
        let (after, before): (Vec<_>, Vec<_>) = state
            .lanes
            .iter()
            .filter(|(_, lane)| ready(lane))
            .map(|(partition, _)| *partition)
            .partition(|partition| *partition > state.last);
        let turn: Vec<_> = after.into_iter().chain(before).collect();
        let mut batch = Batch::default();
        let (mut records, mut bytes) = (BATCH_RECORDS, BATCH_BYTES);
        for (index, partition) in turn.iter().enumerate() {
            let waiting_lanes = turn.len() - index;
            let (share, byte_share) = (records.div_ceil(waiting_lanes), bytes.div_ceil(waiting_lanes));
            if share == 0 || byte_share == 0 {
                break;
            }
            let Some(lane) = state.lanes.get_mut(partition) else { continue };
            let (run, taken) = lane.take(*partition, share, byte_share);
            records -= run.records.len().min(records);
            bytes = bytes.saturating_sub(taken);
            state.drainable_bytes -= taken;
            state.waiting_records -= run.records.len();
            state.last = *partition;
            batch.generations.push(lane.generation);
            batch.runs.push(run);
        }
        batch
    }

    fn close(&mut self, partition: i32) {
        if let Some(lane) = self.lanes.remove(&partition) {
            if !lane.is_held {
                self.drainable_bytes -= lane.bytes;
            }
            self.waiting_records -= lane.records.len();
        }
    }
}

impl Lane {
    fn wants(&self, offset: i64) -> bool {
        !self.is_shut && offset >= self.expected
    }

    /// Nothing waits, nothing is in flight.
    fn is_idle(&self) -> bool {
        self.records.is_empty() && self.announce.is_none() && self.runs_in_flight == 0
    }

    /// A run of at most `records`, and of at most `bytes` unless the first record alone is larger.
    fn take(&mut self, partition: i32, records: usize, bytes: usize) -> (Run, usize) {
        let announced = self.announce.take();
        let records = if announced.is_some() { 0 } else { records };
        let (mut taken, mut last) = (0, None);
        let mut run = Vec::with_capacity(records.min(self.records.len()));
        while run.len() < records
            && let Some(waiting) = self.records.front()
            && (run.is_empty() || taken + waiting.bytes <= bytes)
            && let Some(waiting) = self.records.pop_front()
        {
            taken += waiting.bytes;
            last = Some((waiting.record.offset + 1, waiting.fingerprint));
            run.push(waiting.record);
        }
        self.bytes -= taken;
        let (next, unkept) = last.unwrap_or((announced.unwrap_or(self.expected), self.fingerprint));
        let kept = run.last().and_then(|record| original(&record.content)).map(print);
        self.fingerprint = kept.unwrap_or(unkept);
        let run =
            Run { partition, epoch: self.epoch, from: self.from, next, fingerprint: self.fingerprint, records: run };
        self.from = Some(next);
        self.runs_in_flight += 1;
        self.is_announced = announced.is_some();
        (run, taken)
    }
}

impl Batch {
    /// Takes out the runs of partitions of which `later` has some too.
    pub(super) fn before(&mut self, later: &Batch) -> Batch {
        let partitions = later.runs.iter().map(|run| run.partition).collect::<Vec<_>>();
        self.split_off(&partitions)
    }

    /// Takes out the runs of these partitions.
    pub(super) fn split_off(&mut self, partitions: &[i32]) -> Batch {
        let all = std::mem::take(self);
        let (off, rest): (Vec<_>, Vec<_>) =
            all.runs.into_iter().zip(all.generations).partition(|(run, _)| partitions.contains(&run.partition));
        (self.runs, self.generations) = rest.into_iter().unzip();
        let (runs, generations) = off.into_iter().unzip();
        Batch { runs, generations }
    }

    /// Keeps the runs for which `wanted` says so.
    pub(super) fn retain(&mut self, wanted: impl Fn(i32, Generation) -> bool) {
        let generations = std::mem::take(&mut self.generations);
        let mut keep =
            self.runs.iter().zip(&generations).map(|(run, it)| wanted(run.partition, *it)).collect::<Vec<_>>();
        self.generations = generations.into_iter().zip(&keep).filter(|(_, keep)| **keep).map(|(it, _)| it).collect();
        let mut keep = keep.drain(..);
        self.runs.retain(|_| keep.next().unwrap_or_default());
    }
}

/// The record as it came, where it is kept.
fn original(content: &Content) -> Option<&DeadLetter> {
    match content {
        Content::Event { original, .. } | Content::Malformed(original) => Some(original),
        Content::Tombstone => None,
    }
}

fn print(original: &DeadLetter) -> i64 {
    fingerprint(original.timestamp, original.key.as_deref(), original.value.as_deref())
}

fn size(content: &Content) -> usize {
    original(content).map_or(0, |original| {
        let headers = original.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) + 48);
        let parts = [&original.key, &original.value].map(|part| part.as_ref().map_or(0, Vec::len));
        parts.iter().sum::<usize>() + headers.sum::<usize>()
    })
}

mod hole;
#[cfg(test)]
mod tests;
