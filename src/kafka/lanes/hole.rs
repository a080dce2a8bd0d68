//! Holes: records that librdkafka could not read. It does not say of which partition they are, and goes on behind them.
//!
//! A partition whose records follow one another without a gap has passed over nothing, and goes on. One with a gap
//! where the unreadable records may be is held up, and so is one that stands still at that place.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Lane, Lanes};

/// How long a partition has to stand still for that alone to suffice.
const LONG: Duration = Duration::from_secs(10);

/// Where the unreadable records are, if they belong to this partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    first: i64,
    last: i64,
    /// The lane's expected offset when the error came, and since when that has been so.
    expected: i64,
    since: Instant,
    /// Whether the records are known to belong elsewhere.
    proof: Proof,
}

/// How far it is known that the unreadable records belong to another partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    None,
    /// All of the log had come when its end was seen, but that may have been before the error.
    SeenOnce,
    Elsewhere,
}

impl Hole {
    /// A record came after the error, and no offset was passed over where the unreadable records could be: librdkafka
    /// keeps the order of a partition.
    pub(super) fn went_on(&mut self) {
        self.proof = Proof::Elsewhere;
    }

    fn is_open(&self) -> bool {
        self.proof != Proof::Elsewhere
    }

    /// Whether some of the records may lie in a `gap` that was passed over.
    pub(super) fn is_in(&self, gap: Range<i64>) -> bool {
        !gap.is_empty() && gap.start <= self.last && gap.end > self.first
    }
}

impl Lanes {
    /// Records from `at` on (None: at an unknown offset) could not be read. Returns their partitions, as far as these
    /// are known now.
    pub(in crate::kafka) fn unreadable(&self, at: Option<i64>, now: Instant) -> Vec<i32> {
        let mut state = self.state.lock();
        let mut still = Vec::new();
        for (partition, lane) in &mut state.lanes {
            let first = at.map_or(lane.expected, |at| at.max(lane.expected));
            let before = lane.hole.filter(|hole| hole.last >= lane.expected);
            let since = before.filter(|hole| hole.expected == lane.expected).map_or(now, |hole| hole.since);
            lane.hole = Some(Hole {
                first: before.map_or(first, |hole| hole.first.min(first)),
                last: before.map_or(first, |hole| hole.last.max(first)),
                expected: lane.expected,
                since,
                proof: Proof::None,
            });
            // Everything before them has come.
            if lane.can_have_more() {
                let is_long = lane.is_idle() && now.duration_since(since) >= LONG;
                still.push((*partition, at.is_none_or(|at| at == lane.expected), is_long));
            }
        }
        let there: Vec<_> = still.iter().copied().filter(|(_, is_there, _)| *is_there).collect();
        if let [(only, ..)] = there[..] {
            return vec![only];
        }
        let candidates = if there.is_empty() { still } else { there };
        candidates.into_iter().filter(|(.., is_long)| *is_long).map(|(partition, ..)| partition).collect()
    }

    /// The partitions that have long stood still where unreadable records may be: not every error comes again.
    pub(in crate::kafka) fn stuck(&self, now: Instant) -> Vec<i32> {
        let state = self.state.lock();
        let is_stuck = |lane: &Lane| {
            let open = lane.hole.filter(Hole::is_open);
            lane.can_have_more() && lane.is_idle() && open.is_some_and(|it| now.duration_since(it.since) >= LONG)
        };
        state.lanes.iter().filter(|(_, lane)| is_stuck(lane)).map(|(partition, _)| *partition).collect()
    }

    /// Takes nothing more of this partition. Whether the store has all that came of it before.
    pub(in crate::kafka) fn shut(&self, partition: i32) -> bool {
        self.state.lock().lanes.get_mut(&partition).is_some_and(|lane| {
            lane.is_shut = true;
            lane.is_idle()
        })
    }

    /// The partitions of which nothing more is taken.
    pub(in crate::kafka) fn all_shut(&self) -> Vec<i32> {
        let state = self.state.lock();
        state.lanes.iter().filter(|(_, lane)| lane.is_shut).map(|(partition, _)| *partition).collect()
    }

    /// The partitions of which nothing more is taken, and the store has all that came.
    pub(in crate::kafka) fn drained(&self) -> Vec<i32> {
        let state = self.state.lock();
        let drained = state.lanes.iter().filter(|(_, lane)| lane.is_shut && lane.is_idle());
        drained.map(|(partition, _)| *partition).collect()
    }

    /// Whether there are unreadable records that may belong to one of these partitions.
    pub(in crate::kafka) fn any_hole(&self) -> bool {
        self.state.lock().lanes.values().any(|lane| lane.hole.is_some_and(|hole| hole.is_open()))
    }

    /// How far the log of a partition is.
    pub(in crate::kafka) fn ends(&self, partition: i32, end: i64) {
        if let Some(lane) = self.state.lock().lanes.get_mut(&partition) {
            lane.end = Some(end);
            if let Some(hole) = lane.hole.as_mut().filter(|_| end <= lane.expected) {
                hole.proof = if hole.proof == Proof::None { Proof::SeenOnce } else { Proof::Elsewhere };
            }
        }
    }

    /// The least offset that can come next.
    pub(in crate::kafka) fn expected(&self, partition: i32) -> Option<i64> {
        self.state.lock().lanes.get(&partition).map(|lane| lane.expected)
    }
}

impl Lane {
    /// Whether its log may have more records, which would be fetched.
    fn can_have_more(&self) -> bool {
        self.end.is_none_or(|end| end > self.expected) && !self.paused
    }
}
