//! Which partitions this process has been given, and how far each has got on its way to being consumed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::inventory::Position;

use super::backoff::Backoff;
use super::fingerprint::UNKNOWN;

/// One assignment of one partition: whatever is in flight for an earlier one no longer counts.
pub(super) type Generation = u64;

/// How often a stopped partition is looked at again: somebody may have corrected its offset, or brought the topic back.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The shortest and the longest time for which a partition is held up whose records cannot be fetched.
const HELD_UP: Range<Duration> = Duration::from_secs(2)..Duration::from_secs(60);

/// The partitions assigned by the group, or by hand. Knows nothing of Kafka.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    latest: Generation,
    partitions: BTreeMap<i32, Assigned>,
    /// Whether the group has told us our partitions, even if there are none, and has not revoked all of them since.
    pub(super) joined: bool,
}

#[derive(Debug)]
struct Assigned {
    generation: Generation,
    stage: Stage,
    backoff: Backoff,
    not_before: Instant,
    /// Why it is not consumed yet; None if it is merely new.
    waiting: Option<String>,
    /// The offset at which it was held up last, and how often in a row.
    held_up: Option<(i64, u32)>,
}

/// How far a partition has got.
#[derive(Debug)]
enum Stage {
    /// To be taken over in the store, and then compared with the log.
    Wanted,
    /// Taken over in the store; to be compared with the log.
    TakenOver(Position),
    /// A task takes it over or compares it.
    Busy,
    /// Its records are fetched.
    Consuming,
    /// Its offset does not fit the log. From time to time a task looks again.
    Stopped { at: Position, why: String, looked_at: bool },
    /// The store says that somebody else owns it; the group has yet to confirm that.
    Fenced,
}

/// Partitions that need work, in a task of its own.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Work {
    /// To be taken over, then compared.
    pub(super) wanted: Vec<(i32, Generation)>,
    /// To be compared with the log.
    pub(super) taken_over: Vec<(Position, Generation)>,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.taken_over.is_empty()
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = (i32, Generation)> {
        let taken_over = self.taken_over.iter().map(|(position, generation)| (position.partition, *generation));
        self.wanted.iter().copied().chain(taken_over)
    }
}

/// What a task found about one partition.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) partition: i32,
    pub(super) generation: Generation,
    pub(super) result: Step,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// The partition can be consumed from `start`.
    Ready { position: Position, start: i64 },
    /// It cannot be consumed from its offset until somebody intervenes.
    /// It cannot from where it is, until somebody has looked at it.
    Stop(Position, String),
    /// Try again later, from this position if the partition was taken over already.
    Again(Option<Position>, String),
}

impl Assignment {
    /// These are ours now, whatever they were before.
    pub(super) fn assign(&mut self, partitions: &[i32], now: Instant) {
        self.joined = true;
        for partition in partitions {
            self.want(*partition, now, None);
        }
    }

    fn want(&mut self, partition: i32, not_before: Instant, waiting: Option<String>) {
        self.latest += 1;
        let (generation, stage, backoff) = (self.latest, Stage::Wanted, Backoff::default());
        let held_up = None;
        self.partitions.insert(partition, Assigned { generation, stage, backoff, not_before, waiting, held_up });
    }

    /// These are not ours any more.
    pub(super) fn revoke(&mut self, partitions: &[i32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
        self.joined &= !self.partitions.is_empty();
    }

    /// The log has changed, as `why` says: the partitions being consumed stay ours, but begin again with the take-over.
    /// Returns them.
    pub(super) fn begin_again(&mut self, not_before: Instant, why: &str) -> Vec<i32> {
        let again: Vec<_> = self.consuming().collect();
        for partition in &again {
            self.want(*partition, not_before, Some(why.to_owned()));
        }
        again
    }

    /// As [`Assignment::begin_again`], for one partition whose records cannot be fetched from `next` on. It waits ever
    /// longer while that lasts. Returns how long; None if the partition is not being consumed.
    pub(super) fn hold_up(&mut self, partition: i32, next: i64, now: Instant, why: &str) -> Option<Duration> {
        let assigned = self.partitions.get(&partition).filter(|it| matches!(it.stage, Stage::Consuming))?;
        let times = assigned.held_up.filter(|(at, _)| *at == next).map_or(0, |(_, times)| times + 1);
        let pause = HELD_UP.start.saturating_mul(1 << times.min(16)).min(HELD_UP.end);
        self.want(partition, now + pause, Some(why.to_owned()));
        self.partitions.get_mut(&partition)?.held_up = Some((next, times));
        Some(pause)
    }

    /// Treats every partition as possibly somebody else's by now. Returns them.
    pub(super) fn doubt_all(&mut self) -> Vec<i32> {
        for assigned in self.partitions.values_mut() {
            assigned.stage = Stage::Fenced;
        }
        self.all()
    }

    /// The store says that somebody else owns these partitions. Returns those that we were consuming.
    pub(super) fn fence(&mut self, partitions: &[(i32, Generation)]) -> Vec<i32> {
        let mut believed = Vec::new();
        for (partition, generation) in partitions {
            if let Some(assigned) = self.partitions.get_mut(partition)
                && assigned.generation == *generation
                && matches!(assigned.stage, Stage::Consuming)
            {
                assigned.stage = Stage::Fenced;
                believed.push(*partition);
            }
        }
        believed
    }

    /// What can be begun now.
    pub(super) fn due(&mut self, now: Instant) -> Work {
        let mut work = Work::default();
        for (partition, assigned) in self.partitions.iter_mut().filter(|(_, it)| it.not_before <= now) {
            match &mut assigned.stage {
                Stage::Wanted => work.wanted.push((*partition, assigned.generation)),
                Stage::TakenOver(position) => work.taken_over.push((*position, assigned.generation)),
                // Taken over again, since its offset may be another one.
                Stage::Stopped { looked_at, .. } if !*looked_at => {
                    work.wanted.push((*partition, assigned.generation));
                    *looked_at = true;
                    continue;
                }
                _ => continue,
            }
            assigned.stage = Stage::Busy;
        }
        work
    }

    /// Keeps what a task found, unless the partition was assigned anew meanwhile. True when it can be consumed now.
    pub(super) fn settle(&mut self, settled: &Settled, now: Instant) -> bool {
        let Some(assigned) = self.partitions.get_mut(&settled.partition) else { return false };
        // Fenced meanwhile: what the task found is of no use.
        if assigned.generation != settled.generation {
            return false;
        }
        let stopped = match &mut assigned.stage {
            Stage::Busy => None,
            Stage::Stopped { at, why, looked_at: true } => Some((*at, std::mem::take(why))),
            _ => return false,
        };
        assigned.stage = match (&settled.result, stopped) {
            (found, Some((at, why))) if tells_nothing_new(found, at) => Stage::Stopped { at, why, looked_at: false },
            (Step::Ready { .. }, _) => Stage::Consuming,
            (Step::Stop(at, why), _) => Stage::Stopped { at: *at, why: why.clone(), looked_at: false },
            (Step::Again(position, _), _) => position.map_or(Stage::Wanted, Stage::TakenOver),
        };
        assigned.waiting = match (&assigned.stage, &settled.result) {
            (Stage::Wanted | Stage::TakenOver(_), Step::Again(_, why)) => Some(why.clone()),
            _ => None,
        };
        let pause = match assigned.stage {
            Stage::Consuming => return true,
            Stage::Stopped { .. } => LOOK_AGAIN,
            _ => assigned.backoff.next(),
        };
        assigned.not_before = now + pause;
        false
    }

    /// Takes nothing over before `delay` has passed: this process slept, and may have lost its partitions.
    pub(super) fn hold_back(&mut self, now: Instant, delay: Duration) {
        let to_be_taken = |it: &&mut Assigned| matches!(it.stage, Stage::Wanted | Stage::Stopped { .. });
        for assigned in self.partitions.values_mut().filter(to_be_taken) {
            assigned.not_before = assigned.not_before.max(now + delay);
        }
    }

    /// Whether this assignment of the partition is still the current one.
    pub(super) fn is_current(&self, partition: i32, generation: Generation) -> bool {
        self.partitions.get(&partition).is_some_and(|assigned| assigned.generation == generation)
    }

    /// All of them, in any stage.
    pub(super) fn all(&self) -> Vec<i32> {
        self.partitions.keys().copied().collect()
    }

    /// The partitions whose records are fetched.
    pub(super) fn consuming(&self) -> impl Iterator<Item = i32> {
        self.partitions.iter().filter(|(_, it)| matches!(it.stage, Stage::Consuming)).map(|(partition, _)| *partition)
    }

    /// Which are stopped, and why.
    pub(super) fn stopped(&self) -> impl Iterator<Item = (i32, &str)> {
        self.partitions.iter().filter_map(|(partition, assigned)| match &assigned.stage {
            Stage::Stopped { why, .. } => Some((*partition, why.as_str())),
            _ => None,
        })
    }

    /// The partitions that the store has offsets of but that are not fetched, each with the next offset that the store
    /// does not have.
    pub(super) fn held_up(&self) -> impl Iterator<Item = (i32, Option<i64>)> {
        self.partitions.iter().filter_map(|(partition, assigned)| match &assigned.stage {
            Stage::TakenOver(at) | Stage::Stopped { at, .. } => Some((*partition, at.next)),
            Stage::Wanted | Stage::Busy => assigned.held_up.map(|(next, _)| (*partition, Some(next))),
            Stage::Consuming | Stage::Fenced => None,
        })
    }

    /// What keeps one of them from being consumed, unless it is stopped.
    pub(super) fn waiting(&self) -> Option<&str> {
        self.partitions.values().find_map(|assigned| assigned.waiting.as_deref())
    }

    pub(super) fn any_fenced(&self) -> bool {
        self.partitions.values().any(|assigned| matches!(assigned.stage, Stage::Fenced))
    }
}

/// Whether a partition that was stopped there stays so. Another topic may have grown past its offset by now, which fits
/// only if somebody has corrected it, or the record before it is known and was compared.
fn tells_nothing_new(found: &Step, stopped: Position) -> bool {
    match found {
        Step::Ready { position, .. } => position.next == stopped.next && position.fingerprint == UNKNOWN,
        Step::Stop(..) => false,
        Step::Again(..) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(partition: i32) -> Position {
        Position { partition, epoch: 1, next: Some(5), fingerprint: 9 }
    }

    fn settled(partition: i32, generation: Generation, result: Step) -> Settled {
        Settled { partition, generation, result }
    }

    #[test]
    fn what_was_done_for_an_earlier_assignment_does_not_count() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.assign(&[0, 1], now);
        let work = assignment.due(now);
        assert_eq!(work.wanted.len(), 2);
        assert!(assignment.due(now).is_empty(), "a task is at it");
        assignment.revoke(&[0]);
        assignment.assign(&[0], now);
        let ready = |partition| Step::Ready { position: position(partition), start: 5 };
        let took = work.wanted.iter().map(|(partition, generation)| {
            assignment.settle(&settled(*partition, *generation, ready(*partition)), now)
        });
        assert_eq!(took.collect::<Vec<_>>(), [false, true]);
        assert_eq!(assignment.consuming().collect::<Vec<_>>(), [1]);
        assert_eq!(assignment.due(now).wanted.len(), 1);
    }

    #[test]
    fn a_partition_taken_over_is_not_taken_over_again() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.assign(&[0], now);
        let generation = assignment.due(now).wanted[0].1;
        assignment.settle(&settled(0, generation, Step::Again(Some(position(0)), "no broker".to_owned())), now);
        assert!(assignment.due(now).is_empty(), "later");
        let work = assignment.due(now + Duration::from_secs(6));
        assert_eq!(work.taken_over, [(position(0), generation)]);
        assert!(work.wanted.is_empty());
    }

    /// D6: a stopped partition stays so while it is looked at, and goes on when its offset fits.
    #[test]
    fn a_stopped_partition_is_looked_at_again() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.assign(&[0], now);
        let generation = assignment.due(now).wanted[0].1;
        let unknown = Position { fingerprint: UNKNOWN, ..position(0) };
        let stop = |why: &str| settled(0, generation, Step::Stop(unknown, why.to_owned()));
        let ready = |position| settled(0, generation, Step::Ready { position, start: 5 });
        assert!(!assignment.settle(&stop("lost"), now));
        assert!(assignment.due(now + LOOK_AGAIN / 2).is_empty());
        let again = settled(0, generation, Step::Again(None, String::new()));
        for (round, found) in (1..).zip([stop("lost more"), again, ready(unknown)]) {
            let later = now + LOOK_AGAIN * round;
            assert_eq!(assignment.due(later).wanted, [(0, generation)]);
            assert_eq!(assignment.stopped().count(), 1, "while it is looked at");
            assert!(assignment.due(later + LOOK_AGAIN).is_empty(), "a task is at it");
            assert!(!assignment.settle(&found, later));
            assert_eq!(assignment.stopped().collect::<Vec<_>>(), [(0, "lost more")]);
        }
        assert_eq!(assignment.due(now + LOOK_AGAIN * 4).wanted.len(), 1);
        assert!(assignment.settle(&ready(Position { next: Some(4), ..unknown }), now), "somebody corrected it");
        assert_eq!((assignment.stopped().count(), assignment.consuming().count()), (0, 1));
    }

    /// D6: what cannot be had of one partition holds up no other one, and is tried ever less often.
    #[test]
    fn a_partition_is_held_up_alone() {
        let mut now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.assign(&[0, 1], now);
        let flow = |assignment: &mut Assignment, now| {
            for (partition, generation) in assignment.due(now).wanted {
                let ready = Step::Ready { position: position(partition), start: 5 };
                assert!(assignment.settle(&settled(partition, generation, ready), now));
            }
        };
        flow(&mut assignment, now);
        let mut pauses = Vec::new();
        for next in [5, 5, 5, 5, 5, 5, 5, 6] {
            let pause = assignment.hold_up(0, next, now, "unreadable").expect("it flows");
            assert_eq!(assignment.hold_up(0, next, now, "unreadable"), None, "once");
            assert_eq!(
                (assignment.consuming().collect::<Vec<_>>(), assignment.waiting()),
                (vec![1], Some("unreadable"))
            );
            assert!(assignment.due(now + pause / 2).is_empty());
            now += pause;
            flow(&mut assignment, now);
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 2]);
    }

    /// D5: no duel: what was fenced waits for the group.
    #[test]
    fn a_fenced_partition_is_not_taken_over_until_it_is_assigned() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.assign(&[0], now);
        let generation = assignment.due(now).wanted[0].1;
        assignment.settle(&settled(0, generation, Step::Ready { position: position(0), start: 5 }), now);
        assert_eq!(assignment.fence(&[(0, generation + 1)]), [] as [i32; 0]);
        assert_eq!(assignment.fence(&[(0, generation)]), [0]);
        assignment.begin_again(now, "another log");
        assert!(assignment.due(now + Duration::from_secs(60)).is_empty());
        assignment.assign(&[0], now);
        assert_eq!(assignment.due(now).wanted.len(), 1);
    }
}
