//! How a run went over time: equal intervals, each with its rate and latencies.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Moment;
use super::latencies::{histogram, micros};

/// About how many intervals a run has, and the shortest.
const MOMENTS: u32 = 100;
const SHORTEST_MOMENT: Duration = Duration::from_millis(100);

/// When a run is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// When the callers begin.
    pub(super) warm_up: Instant,
    pub(super) start: Instant,
    pub(super) end: Instant,
}

impl Window {
    /// The length of an interval: equal ones, and the last may be shorter.
    pub(super) fn moment(&self) -> Duration {
        (self.end.saturating_duration_since(self.start) / MOMENTS).max(SHORTEST_MOMENT)
    }
}

/// The intervals of what one thread saw.
#[derive(Debug)]
pub(super) struct Timeline {
    window: Window,
    moments: Vec<Frozen>,
    now: Now,
}

/// The interval under way.
#[derive(Debug)]
struct Now {
    place: usize,
    until: Instant,
    operations: u64,
    latencies: Histogram<u32>,
}

/// An interval that is over: what its histogram held, and no more.
#[derive(Clone, Debug, Default)]
struct Frozen {
    operations: u64,
    counts: Vec<(u64, u32)>,
}

impl Timeline {
    pub(super) fn new(window: Window) -> Self {
        let now = Now { place: 0, until: window.start, operations: 0, latencies: histogram() };
        Timeline { window, moments: Vec::new(), now }
    }

    /// Adds an answer to the interval in which it came, which is before the end.
    #[inline]
    pub(super) fn add(&mut self, answered: Instant, operations: u32, nanoseconds: u64) {
        if answered >= self.now.until {
            self.go_on(answered);
        }
        self.now.operations += u64::from(operations);
        self.now.latencies.saturating_record(nanoseconds);
    }

    /// Moves on to the interval of `moment`.
    #[cold]
    fn go_on(&mut self, moment: Instant) {
        let length = self.window.moment();
        let since = moment.saturating_duration_since(self.window.start);
        let place = u32::try_from(since.as_nanos() / length.as_nanos()).unwrap_or(u32::MAX);
        self.freeze(place as usize);
        self.now.until = self.window.start + length.saturating_mul(place.saturating_add(1));
    }

    /// Closes the interval under way.
    fn freeze(&mut self, next: usize) {
        let counts = self.now.latencies.iter_recorded();
        let counts = counts.map(|step| (step.value_iterated_to(), step.count_at_value()));
        self.moments.resize(self.moments.len().max(self.now.place + 1), Frozen::default());
        let frozen = &mut self.moments[self.now.place];
        frozen.operations += self.now.operations;
        frozen.counts.extend(counts);
        self.now.latencies.reset();
        self.now.operations = 0;
        self.now.place = next;
    }

    /// Adds what another thread saw.
    pub(super) fn merge(&mut self, mut other: Timeline) {
        other.freeze(other.now.place);
        self.moments.resize(self.moments.len().max(other.moments.len()), Frozen::default());
        for (mine, theirs) in self.moments.iter_mut().zip(other.moments) {
            mine.operations += theirs.operations;
            mine.counts.extend(theirs.counts);
        }
    }

    /// The intervals up to `end`, which is where the run really ended.
    pub(super) fn moments(&mut self, end: Instant) -> Vec<Moment> {
        self.freeze(self.now.place);
        let (whole, length) = (end.saturating_duration_since(self.window.start), self.window.moment());
        let mut begin = Duration::ZERO;
        let mut timeline = Vec::new();
        // Also those in which nothing was answered.
        let empty = Frozen::default();
        let mut moments = self.moments.iter().chain(std::iter::repeat(&empty));
        while let Some(frozen) = moments.next().filter(|_| begin < whole) {
            let finish = (begin + length).min(whole);
            timeline.push(frozen.to_moment(finish, (finish - begin).as_secs_f64()));
            begin = finish;
        }
        timeline
    }
}

impl Frozen {
    fn to_moment(&self, end: Duration, seconds: f64) -> Moment {
        let mut latencies: Histogram<u32> = histogram();
        for (value, count) in &self.counts {
            latencies.saturating_record_n(*value, *count);
        }
        Moment {
            second: end.as_secs_f64(),
            rate: self.operations as f64 / seconds,
            p50: micros(latencies.value_at_quantile(0.5)),
            p99: micros(latencies.value_at_quantile(0.99)),
        }
    }
}
