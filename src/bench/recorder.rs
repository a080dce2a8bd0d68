//! What the callers of one thread see, written down: latencies, rates over time, and what the ledger must hold afterwards.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::latencies::{histogram, latency, nanoseconds};
use super::tally::Tally;
use super::timeline::{Timeline, Window};
use super::workload::Kind;
use super::{Call, Moment};

/// One kind of call: the single ones, and those that carry many operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Series {
    Single(Kind),
    Batch,
    Stream,
    Snapshot,
}

impl Series {
    const COUNT: usize = 7;

    const ALL: [Series; Series::COUNT] = [
        Series::Single(Kind::Read),
        Series::Single(Kind::Update),
        Series::Single(Kind::Transfer),
        Series::Single(Kind::Create),
        Series::Batch,
        Series::Stream,
        Series::Snapshot,
    ];

    fn place(self) -> usize {
        match self {
            Series::Single(kind) => kind as usize,
            Series::Batch => 4,
            Series::Stream => 5,
            Series::Snapshot => 6,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Series::Single(kind) => kind.name(),
            Series::Batch => "ExecuteBatch",
            Series::Stream => "ExecuteStream",
            Series::Snapshot => "SnapshotBalances",
        }
    }
}

/// A call that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) series: Series,
    /// The moment that says whether it is measured: of an open workload the intended start, else the answer.
    pub(super) counted: Instant,
    pub(super) finished: Instant,
    pub(super) took: Duration,
    pub(super) operations: u32,
    pub(super) refused: u32,
}

/// What one thread's callers saw. Threads share nothing while they measure.
#[derive(Debug)]
pub(super) struct Recorder {
    window: Window,
    series: [Option<Box<Numbers>>; Series::COUNT],
    timeline: Timeline,
    /// What the ledger must hold, of the whole run.
    pub(super) tally: Tally,
    /// What a call failed with, the first time.
    pub(super) failure: Option<String>,
    /// What a reader of snapshots found wrong.
    pub(super) faults: Vec<String>,
}

#[derive(Debug)]
struct Numbers {
    calls: u64,
    operations: u64,
    refused: u64,
    failed: u64,
    latencies: Histogram<u64>,
}

impl Recorder {
    pub(super) fn new(window: Window) -> Self {
        Recorder {
            window,
            series: Default::default(),
            timeline: Timeline::new(window),
            tally: Tally::default(),
            failure: None,
            faults: Vec::new(),
        }
    }

    /// Writes a call down, if it belongs to what is measured.
    #[inline]
    pub(super) fn answered(&mut self, answered: &Answered) {
        if answered.counted < self.window.start || answered.counted >= self.window.end {
            return;
        }
        let nanoseconds = nanoseconds(answered.took);
        let numbers = self.numbers(answered.series);
        numbers.calls += 1;
        numbers.operations += u64::from(answered.operations);
        numbers.refused += u64::from(answered.refused);
        numbers.latencies.saturating_record(nanoseconds);
        self.timeline.add(answered.finished, answered.operations, nanoseconds);
    }

    /// Writes down that a call failed, whenever it was.
    pub(super) fn failed(&mut self, series: Series, text: &str) {
        self.numbers(series).failed += 1;
        if self.failure.is_none() {
            self.failure = Some(format!("{}: {text}", series.name()));
        }
    }

    #[inline]
    fn numbers(&mut self, series: Series) -> &mut Numbers {
        self.series[series.place()].get_or_insert_with(|| Box::new(Numbers::new()))
    }

    /// Adds what another thread saw.
    pub(super) fn merge(&mut self, other: Recorder) {
        for (mine, theirs) in self.series.iter_mut().zip(other.series) {
            let Some(theirs) = theirs else { continue };
            match mine {
                Some(mine) => mine.add(&theirs),
                None => *mine = Some(theirs),
            }
        }
        self.timeline.merge(other.timeline);
        self.tally.add(&other.tally);
        self.failure = self.failure.take().or(other.failure);
        self.faults.extend(other.faults);
    }

    /// Operations that were answered.
    pub(super) fn operations(&self) -> u64 {
        self.series.iter().flatten().map(|numbers| numbers.operations).sum()
    }

    /// Calls that failed.
    pub(super) fn failures(&self) -> u64 {
        self.series.iter().flatten().map(|numbers| numbers.failed).sum()
    }

    /// The intervals up to `end`, which is where the run really ended.
    pub(super) fn timeline(&mut self, end: Instant) -> Vec<Moment> {
        self.timeline.moments(end)
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        let seen = Series::ALL.into_iter().filter_map(|series| Some((series, self.series[series.place()].as_ref()?)));
        seen.map(|(series, numbers)| numbers.to_call(series)).collect()
    }
}

impl Numbers {
    fn new() -> Self {
        Numbers { calls: 0, operations: 0, refused: 0, failed: 0, latencies: histogram() }
    }

    fn add(&mut self, other: &Numbers) {
        self.calls += other.calls;
        self.operations += other.operations;
        self.refused += other.refused;
        self.failed += other.failed;
        // Both have the same bounds.
        let _ = self.latencies.add(&other.latencies);
    }

    fn to_call(&self, series: Series) -> Call {
        let name = series.name().to_owned();
        Call { name, calls: self.calls, refused: self.refused, failed: self.failed, latency: latency(&self.latencies) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Latency;

    fn window(start: Instant, length: Duration) -> Window {
        Window { warm_up: start, start, end: start + length }
    }

    fn read(finished: Instant, took: Duration) -> Answered {
        let series = Series::Single(Kind::Read);
        Answered { series, counted: finished, finished, took, operations: 1, refused: 0 }
    }

    /// E2: percentiles are those of the calls inside the window, and of no others.
    #[test]
    fn only_the_window_is_measured() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut recorder = Recorder::new(window(start, Duration::from_secs(1)));
        recorder.answered(&read(start - Duration::from_nanos(1), Duration::from_secs(9)));
        recorder.answered(&read(start + Duration::from_secs(1), Duration::from_secs(9)));
        for call in 0..1_000 {
            recorder.answered(&read(start + Duration::from_micros(call * 900), Duration::from_micros(call + 1)));
        }
        let calls = recorder.calls();
        assert_eq!((calls.len(), calls[0].calls, recorder.operations()), (1, 1_000, 1_000));
        let latency = &calls[0].latency;
        for (value, expected) in [(latency.p50, 500.0), (latency.p99, 990.0), (latency.max, 1_000.0)] {
            assert!((value - expected).abs() <= expected / 100.0, "{value} is not {expected}");
        }
        assert!(latency.curve.is_sorted() && latency.curve.len() > 8, "{:?}", latency.curve);
        assert_eq!(latency.curve.last().map(|point| point.0), Some(1.0));
    }

    #[test]
    fn intervals_hold_what_was_answered_in_them() {
        let start = Instant::now();
        let window = window(start, Duration::from_secs(20));
        assert_eq!(window.moment(), Duration::from_millis(200));
        let (mut first, mut second) = (Recorder::new(window), Recorder::new(window));
        for call in 0..100 {
            first.answered(&read(start + Duration::from_millis(call * 200), Duration::from_millis(1)));
            second.answered(&read(start + Duration::from_millis(call * 200 + 150), Duration::from_millis(3)));
        }
        // Intended before the end, answered after it.
        let late = Answered { counted: start, ..read(window.end + Duration::from_secs(3), Duration::from_secs(3)) };
        second.answered(&late);
        first.merge(second);
        let timeline = first.timeline(window.end);
        assert_eq!(timeline.len(), 100);
        assert!((timeline[0].rate - 10.0).abs() < 1e-6 && (timeline[99].rate - 15.0).abs() < 1e-6, "{timeline:?}");
        assert!((timeline[7].second - 1.6).abs() < 1e-9 && timeline[7].p50 < 1_020.0 && timeline[7].p99 > 2_900.0);
        // Nothing is answered any more.
        let still = Window { end: window.end + Duration::from_secs(2), ..window };
        assert!(Recorder::new(still).timeline(still.end).iter().all(|moment| moment.rate == 0.0 && moment.p99 == 0.0));
        assert_eq!(Recorder::new(still).timeline(still.end).len(), 100);
        // Ended early: the interval under way is as long as it was.
        let timeline = first.timeline(start + Duration::from_millis(300));
        assert_eq!(timeline.len(), 2);
        assert!((timeline[1].rate - 20.0).abs() < 1e-6, "{timeline:?}");
    }

    #[test]
    fn a_failure_has_no_latency_and_is_told() {
        let start = Instant::now();
        let mut recorder = Recorder::new(window(start, Duration::from_secs(1)));
        recorder.failed(Series::Batch, "UNAVAILABLE: gone");
        recorder.failed(Series::Batch, "again");
        assert_eq!((recorder.failures(), recorder.operations()), (2, 0));
        assert_eq!(recorder.failure.as_deref(), Some("ExecuteBatch: UNAVAILABLE: gone"));
        assert_eq!(recorder.calls()[0].latency, Latency::default());
    }
}
