//! What the callers of one thread see, written down: latencies, rates over time, and what the ledger must hold
//! afterwards.

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
    pub(super) due: Due,
    pub(super) finished: Instant,
    pub(super) took: Duration,
    pub(super) operations: u32,
    pub(super) refused: u32,
}

/// The time that decides whether a call belongs to the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// In an open workload, the intended start.
    At(Instant),
    /// For callers that wait, its end.
    AtItsEnd,
}

impl Due {
    fn at(self, ended: Instant) -> Instant {
        match self {
            Due::At(intended) => intended,
            Due::AtItsEnd => ended,
        }
    }
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
    due: u64,
    calls: u64,
    unanswered: u64,
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

    /// The run was cut off: what is answered from now on came after its end.
    pub(super) fn cut(&mut self, end: Instant) {
        self.window.end = self.window.end.min(end);
    }

    /// Records an answer. A late one, after the end, counts for latency, since its call was due, but not for
    /// throughput.
    #[inline]
    pub(super) fn answered(&mut self, answered: &Answered) {
        let Window { start, end, .. } = self.window;
        let nanoseconds = nanoseconds(answered.took);
        let numbers = self.numbers(answered.series);
        if answered.due.at(answered.finished) >= start {
            numbers.due += 1;
            numbers.calls += 1;
            numbers.refused += u64::from(answered.refused);
            numbers.latencies.saturating_record(nanoseconds);
        }
        if (start..end).contains(&answered.finished) {
            numbers.operations += u64::from(answered.operations);
            self.timeline.add(answered.finished, answered.operations, nanoseconds);
        }
    }

    /// Records a call whose answer is no longer waited for: its latency is the time waited.
    pub(super) fn unanswered(&mut self, series: Series, due: Due, waited: Duration) {
        if due.at(Instant::now()) < self.window.start {
            return;
        }
        let numbers = self.numbers(series);
        numbers.due += 1;
        numbers.unanswered += 1;
        numbers.latencies.saturating_record(nanoseconds(waited));
    }

    /// Records that a call failed, whether or not it was in the measured time.
    pub(super) fn failed(&mut self, series: Series, due: Due, text: &str) {
        let measured = due.at(Instant::now()) >= self.window.start;
        self.numbers(series).due += u64::from(measured);
        self.failed_in_part(series, text);
    }

    /// Records that a part of an answered call failed.
    pub(super) fn failed_in_part(&mut self, series: Series, text: &str) {
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

    /// Operations that were answered within the measured time.
    pub(super) fn operations(&self) -> u64 {
        self.series.iter().flatten().map(|numbers| numbers.operations).sum()
    }

    /// Calls that nobody answered.
    pub(super) fn without_answer(&self) -> u64 {
        self.series.iter().flatten().map(|numbers| numbers.unanswered).sum()
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
        Numbers { due: 0, calls: 0, unanswered: 0, operations: 0, refused: 0, failed: 0, latencies: histogram() }
    }

    fn add(&mut self, other: &Numbers) {
        self.due += other.due;
        self.calls += other.calls;
        self.unanswered += other.unanswered;
        self.operations += other.operations;
        self.refused += other.refused;
        self.failed += other.failed;
        // Both have the same bounds.
        let _ = self.latencies.add(&other.latencies);
    }

    fn to_call(&self, series: Series) -> Call {
        let name = series.name().to_owned();
        let Numbers { due, calls, unanswered, refused, failed, .. } = *self;
        Call { name, due, calls, unanswered, refused, failed, latency: latency(&self.latencies) }
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
        Answered { series, due: Due::AtItsEnd, finished, took, operations: 1, refused: 0 }
    }

    /// E2: percentiles are those of the calls inside the window.
    #[test]
    fn only_the_window_is_measured() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut recorder = Recorder::new(window(start, Duration::from_secs(1)));
        recorder.answered(&read(start - Duration::from_nanos(1), Duration::from_secs(9)));
        let warm_up = Due::At(start - Duration::from_nanos(1));
        recorder.unanswered(Series::Single(Kind::Read), warm_up, Duration::from_secs(9));
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

    /// E2: a call that is answered late, or never, is as late as it is, and no throughput.
    #[test]
    fn what_comes_after_the_end_is_a_latency_and_no_throughput() {
        let start = Instant::now() - Duration::from_secs(5);
        let mut recorder = Recorder::new(window(start, Duration::from_secs(1)));
        for call in 0..97 {
            recorder.answered(&read(start + Duration::from_millis(call * 10), Duration::from_millis(1)));
        }
        let late = read(start + Duration::from_secs(3), Duration::from_secs(2));
        recorder.answered(&late);
        recorder.answered(&Answered { due: Due::At(start), ..late });
        let read = Series::Single(Kind::Read);
        recorder.unanswered(read, Due::At(start), Duration::from_secs(4));
        recorder.failed(read, Due::AtItsEnd, "gone");
        let call = &recorder.calls()[0];
        assert_eq!((call.due, call.calls, call.unanswered, call.failed), (101, 99, 1, 1));
        assert!(call.latency.p90 < 1_020.0 && call.latency.p99 > 1_900_000.0, "{:?}", call.latency);
        assert!(call.latency.max > 3_900_000.0, "{:?}", call.latency);
        assert_eq!((recorder.operations(), recorder.without_answer()), (97, 1));
        let end = start + Duration::from_secs(1);
        let answered: f64 = recorder.timeline(end).iter().map(|moment| moment.rate * 0.1).sum();
        assert!((answered - 97.0).abs() < 1e-6, "{answered}");
    }

    /// A run that is cut off ends there.
    #[test]
    fn what_comes_after_a_cut_is_no_throughput() {
        let start = Instant::now();
        let mut recorder = Recorder::new(window(start, Duration::from_secs(60)));
        recorder.answered(&read(start + Duration::from_secs(1), Duration::from_millis(1)));
        recorder.cut(start + Duration::from_secs(2));
        recorder.answered(&read(start + Duration::from_secs(3), Duration::from_secs(2)));
        assert_eq!((recorder.operations(), recorder.calls()[0].calls), (1, 2));
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
        first.merge(second);
        let timeline = first.timeline(window.end);
        assert_eq!(timeline.len(), 100);
        assert!((timeline[0].rate - 10.0).abs() < 1e-6 && (timeline[99].rate - 10.0).abs() < 1e-6, "{timeline:?}");
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
        recorder.failed(Series::Batch, Due::AtItsEnd, "UNAVAILABLE: gone");
        recorder.failed(Series::Batch, Due::AtItsEnd, "again");
        assert_eq!((recorder.failures(), recorder.operations()), (2, 0));
        assert_eq!(recorder.failure.as_deref(), Some("ExecuteBatch: UNAVAILABLE: gone"));
        assert_eq!(recorder.calls()[0].latency, Latency::default());
    }
}
