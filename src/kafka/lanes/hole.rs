//! Records that librdkafka could not read, of whatever partition: it does not say of which, and goes on behind them.
//!
//! A partition whose records follow one another without a gap has passed over nothing, and goes on. One that has a gap where they may
//! be is held up; so is one that stands still where they are.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::Lanes;

/// How long a partition stands still until that alone is enough.
const LONG: Duration = Duration::from_secs(10);

/// Where they are, if they are of this partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    first: i64,
    last: i64,
    /// What was expected when they were met, and since when.
    expected: i64,
    since: Instant,
}

impl Hole {
    /// Whether some of them may be among offsets that were passed over.
    pub(super) fn is_in(&self, gap: Range<i64>) -> bool {
        !gap.is_empty() && gap.start <= self.last && gap.end > self.first
    }
}

impl Lanes {
    /// Records from `at` on could not be read; None: nobody knows where. Returns the partitions whose they are, as far as that can be told
    /// now.
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
            });
            // Everything before them has come.
            let can_be = lane.end.is_none_or(|end| end > lane.expected) && !lane.paused;
            if can_be {
                let is_long = lane.is_idle() && now.duration_since(since) >= LONG;
                still.push((*partition, at.is_none_or(|at| at == lane.expected), is_long));
            }
        }
        match still.iter().filter(|(_, is_there, _)| *is_there).collect::<Vec<_>>()[..] {
            [(only, ..)] => vec![*only],
            [] => still.iter().filter(|(.., is_long)| *is_long).map(|(partition, ..)| *partition).collect(),
            ref several => several.iter().filter(|(.., is_long)| *is_long).map(|(partition, ..)| *partition).collect(),
        }
    }

    /// How far the log of a partition is.
    pub(in crate::kafka) fn ends(&self, partition: i32, end: i64) {
        if let Some(lane) = self.state.lock().lanes.get_mut(&partition) {
            lane.end = Some(end);
        }
    }

    /// The least offset that can come next.
    pub(in crate::kafka) fn expected(&self, partition: i32) -> Option<i64> {
        self.state.lock().lanes.get(&partition).map(|lane| lane.expected)
    }
}
