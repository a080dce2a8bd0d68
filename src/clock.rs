//! The journal's time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The journal's time: the wall clock at the start and monotonic time since, so that no jump of a clock shows.
pub(crate) struct Clock {
    started: Instant,
    origin: u64,
}

impl Clock {
    /// A clock that is never before `newest`, the time of the newest entry.
    pub(crate) fn start(newest: u64) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), origin: nanoseconds(since_epoch).max(newest) }
    }

    /// Nanoseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.origin.saturating_add(nanoseconds(self.started.elapsed()))
    }
}

/// As many nanoseconds as a u64 holds: 584 years.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
