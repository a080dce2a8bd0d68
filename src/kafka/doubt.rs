//! When to leave a group that says that partitions are ours which the store has given to somebody else.

use std::time::{Duration, Instant};

/// How long the group may take to correct itself: a member that slept is told at its next poll.
const GRACE: Duration = Duration::from_secs(3);

/// The most that [`GRACE`] grows to: it doubles with each departure, so that two groups on one store do not keep taking
/// partitions from each other.
const LONGEST: Duration = Duration::from_secs(60);

/// How long to stay out of the group.
const OUT: Duration = Duration::from_secs(1);

/// This long after the last departure, the next one counts as the first.
const FORGOTTEN: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Doubt {
    since: Option<Instant>,
    left: Option<Instant>,
    last: Option<Instant>,
    times: u32,
}

impl Doubt {
    /// Whether to leave the group now. `doubtful`: some partition is assigned to us and fenced.
    pub(super) fn must_leave(&mut self, doubtful: bool, now: Instant) -> bool {
        if !doubtful || self.left.is_some() {
            self.since = None;
            return false;
        }
        if self.last.is_some_and(|last| now.duration_since(last) > FORGOTTEN) {
            self.times = 0;
        }
        let grace = GRACE.saturating_mul(1 << self.times.min(8)).min(LONGEST);
        if now.duration_since(*self.since.get_or_insert(now)) < grace {
            return false;
        }
        *self = Doubt { since: None, left: Some(now), last: Some(now), times: self.times + 1 };
        true
    }

    /// Whether we left and it is time to come back. Says so once.
    pub(super) fn may_rejoin(&mut self, now: Instant) -> bool {
        let back = self.left.is_some_and(|left| now.duration_since(left) >= OUT);
        if back {
            self.left = None;
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D5: a member that was fenced leaves only where the group does not tell it, and ever more seldom.
    #[test]
    fn leaving_is_rare_and_ever_rarer() {
        let begun = Instant::now();
        let mut doubt = Doubt::default();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert!(!doubt.must_leave(true, at(0)));
        assert!(!doubt.must_leave(false, at(2)), "the group has told us");
        assert!(!doubt.must_leave(true, at(4)) && !doubt.must_leave(true, at(6)));
        assert!(doubt.must_leave(true, at(7)));
        assert!(!doubt.may_rejoin(at(7)) && doubt.may_rejoin(at(8)) && !doubt.may_rejoin(at(9)));
        assert!(!doubt.must_leave(true, at(10)) && !doubt.must_leave(true, at(14)));
        assert!(doubt.must_leave(true, at(16)));
        doubt.may_rejoin(at(17));
        assert!(!doubt.must_leave(true, at(400)) && doubt.must_leave(true, at(403)), "forgotten");
    }
}
