//! Merging: many small runs become one, so that a look-up asks few.
//!
//! A run's level follows from its number of ids; each level holds eight times the ids of the one below. Eight
//! neighbours of a level become one run of the next, together with smaller ones between them. While a large merge runs
//! it lets smaller ones go first, among the runs that arrived after it began: so there are never many runs, and none
//! waits.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::folder::Folder;
use crate::kernel::cells::Latch;

use super::format::{PER_PAGE, Span};
use super::run::{Records, Run};
use super::{DiskIndex, IdRecord, Index as _, IndexError};

/// Runs that are merged into one.
pub(super) const FANOUT: usize = 8;

/// Ids of the largest run that would be below level 0.
const SMALLEST: u64 = 1 << 10;

/// Past that many the cheapest are merged, whatever their levels: each is an open file.
const MOST: usize = 64;

/// Records between looks at whether there is something more urgent.
const STRIDE: usize = 64 * PER_PAGE;

/// The first and the longest pause after a failed merge.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a merge waits for the last reader of its inputs, so that not the reader frees them.
const PATIENCE: Duration = Duration::from_secs(1);

impl DiskIndex {
    /// The merging thread; `failed` hears of the first failure in a row. Ends after [`DiskIndex::wake`] once `closed`
    /// is set; what it has written by then of a run is removed.
    pub(crate) fn merge_until_closed(&self, closed: &Latch, failed: impl Fn(&IndexError)) {
        let (mut pause, mut again) = (FIRST_PAUSE, Instant::now());
        while !closed.is_set() {
            match again > Instant::now() {
                true => self.merge_bell.listen(|| closed.is_set()),
                false => self.merge_bell.listen(|| closed.is_set() || self.has_due()),
            }
            if again > Instant::now() {
                continue;
            }
            match self.merge(closed) {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    if pause == FIRST_PAUSE {
                        failed(&error);
                    }
                    again = Instant::now() + pause;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// Wakes the merging thread, to see that the ledger was closed.
    pub(crate) fn wake(&self) {
        self.merge_bell.ring();
    }

    /// Merges until nothing is due.
    pub(super) fn merge(&self, closed: &Latch) -> Result<(), IndexError> {
        self.merge_after(0, None, closed).map_err(|error| self.mark(error))
    }

    pub(super) fn has_due(&self) -> bool {
        let counts: Vec<_> = self.mergeable(0).iter().map(|run| run.count()).collect();
        due(&counts, None).is_some()
    }

    /// The published runs after sequence `after`. What is not published may still be replaced.
    fn mergeable(&self, after: u64) -> Vec<Arc<Run>> {
        let published = self.published();
        let of_interest = |run: &&Arc<Run>| run.span().first > after && run.span().last <= published;
        self.runs.load().iter().filter(of_interest).cloned().collect()
    }

    /// Merges what is due after sequence `after`, of levels below `below`.
    fn merge_after(&self, after: u64, below: Option<u32>, closed: &Latch) -> Result<(), IndexError> {
        while !closed.is_set() {
            let runs = self.mergeable(after);
            let counts: Vec<_> = runs.iter().map(|run| run.count()).collect();
            let Some((range, level)) = due(&counts, below) else { return Ok(()) };
            self.merge_into_one(&runs[range], level, closed)?;
        }
        Ok(())
    }

    pub(super) fn merge_into_one(&self, inputs: &[Arc<Run>], level: u32, closed: &Latch) -> Result<(), IndexError> {
        let [oldest, .., newest] = inputs else { return Ok(()) };
        let span = Span { first: oldest.span().first, last: newest.span().last };
        let ids = inputs.iter().map(|run| run.count()).sum();
        let mut writer = self.writer(span, ids)?;
        let mut merged = Merged::begin(inputs)?;
        let mut until_look = STRIDE;
        while let Some(record) = merged.next()? {
            writer.push(&record)?;
            until_look -= 1;
            if until_look == 0 {
                until_look = STRIDE;
                self.merge_after(span.last, Some(level), closed)?;
                if closed.is_set() {
                    return Ok(());
                }
            }
        }
        drop(merged);
        let run = Arc::new(writer.finish()?);
        self.runs.rcu(|runs| {
            let (before, rest) = runs.split_at(runs.partition_point(|run| run.span().first < span.first));
            let after = rest.partition_point(|run| run.span().last <= span.last);
            [before, std::slice::from_ref(&run), &rest[after..]].concat()
        });
        retire(&self.dir, inputs)
    }
}

/// Which runs of so many ids to merge next, and their level.
fn due(counts: &[u64], below: Option<u32>) -> Option<(Range<usize>, u32)> {
    let level = |count: u64| (count / SMALLEST).max(1).ilog2() / 3;
    let levels: Vec<_> = counts.iter().map(|count| level(*count)).collect();
    let top = levels.iter().copied().max()?;
    for level in 0..=top.min(below.unwrap_or(u32::MAX)) {
        if Some(level) == below {
            return None;
        }
        let (mut begin, mut of_level) = (0, 0);
        for (place, at) in levels.iter().enumerate() {
            of_level += usize::from(*at == level);
            if *at > level {
                (begin, of_level) = (place + 1, 0);
            }
            if of_level == FANOUT {
                return Some((begin..place + 1, level));
            }
        }
    }
    if below.is_some() || counts.len() <= MOST {
        return None;
    }
    let windows = counts.windows(FANOUT).zip(0..);
    let (_, begin) = windows.min_by_key(|(window, _)| window.iter().sum::<u64>())?;
    let range = begin..begin + FANOUT;
    Some((range.clone(), levels[range].iter().copied().max()?))
}

/// Removes merged runs from `dir`, and lets go of them when nobody else reads them.
fn retire(dir: &Folder, runs: &[Arc<Run>]) -> Result<(), IndexError> {
    let removed = runs.iter().map(|run| run.remove(dir)).fold(Ok(()), Result::and);
    let began = Instant::now();
    // One is the caller's, a clone of what was in the set.
    while runs.iter().any(|run| Arc::strong_count(run) > 1) && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    removed
}

/// The records of several runs in order; of an id's only the newest.
struct Merged<'a> {
    /// With the next record of each, the oldest run first.
    inputs: Vec<(Records<'a>, IdRecord)>,
}

impl<'a> Merged<'a> {
    fn begin(runs: &'a [Arc<Run>]) -> Result<Self, IndexError> {
        let mut inputs = Vec::with_capacity(runs.len());
        for run in runs {
            let mut records = run.records();
            if let Some(first) = records.next()? {
                inputs.push((records, first));
            }
        }
        Ok(Merged { inputs })
    }

    fn next(&mut self) -> Result<Option<IdRecord>, IndexError> {
        let heads = self.inputs.iter().map(|(_, record)| record);
        // `min_by_key` returns the first of equal keys; in reverse, that is the newest run's.
        let Some(least) = heads.rev().min_by_key(|record| record.key).copied() else { return Ok(None) };
        let mut ended = false;
        for (records, head) in self.inputs.iter_mut().filter(|(_, head)| head.key == least.key) {
            match records.next()? {
                Some(next) => *head = next,
                None => ended = true,
            }
        }
        if ended {
            // What did not move on has none after it.
            self.inputs.retain(|(_, head)| head.key != least.key);
        }
        Ok(Some(least))
    }
}

#[cfg(all(test, equipoise_engine))]
mod tests {
    use super::*;

    /// B4: neighbours of a level are merged, the smallest first, and never too many are left.
    #[test]
    fn neighbours_of_a_level_are_due() {
        assert_eq!(due(&[], None), None);
        assert_eq!(due(&[50_000; 7], None), None);
        assert_eq!(due(&[50_000; 9], None), Some((0..8, 1)));
        let small = [9_000_000, 10, 0, 5, 10, 10, 10, 10, 10, 50_000];
        assert_eq!(due(&small, None), Some((1..9, 0)));
        assert_eq!(due(&small, Some(0)), None);
        let between = [50_000, 10, 50_000, 50_000, 50_000, 50_000, 10, 50_000, 50_000, 50_000];
        assert_eq!(due(&between, None), Some((0..10, 1)));
        let apart: Vec<_> = (0..80).map(|place| if place % 2 == 0 { 10 } else { 1 << (20 + place % 7 * 3) }).collect();
        assert!(due(&apart, None).is_some());
    }
}
