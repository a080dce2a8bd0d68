//! What the callers of one thread see, written down: latencies, rates over time, and what the ledger must hold afterwards.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::tally::Tally;
use super::workload::Kind;
use super::{Call, Latency, Moment};

/// The longest latency that is told apart, in nanoseconds: 10 minutes.
const LONGEST: u64 = 600_000_000_000;
/// Significant digits of a latency. One more makes ten times the memory, which would push the ledger of a thread out of its cache.
const DIGITS: u8 = 2;
/// About how many intervals a run has, and the shortest.
const MOMENTS: u32 = 100;
const SHORTEST_MOMENT: Duration = Duration::from_millis(100);
/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Shares of the calls at which the curve is drawn: each step halves what is left.
const CURVE_STEPS: u32 = 24;

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
    moments: Vec<Frozen>,
    now: Now,
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

impl Recorder {
    pub(super) fn new(window: Window) -> Self {
        Recorder {
            window,
            series: Default::default(),
            moments: Vec::new(),
            now: Now { place: 0, until: window.start, operations: 0, latencies: histogram() },
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
        let nanoseconds = u64::try_from(answered.took.as_nanos()).unwrap_or(u64::MAX).clamp(1, LONGEST);
        let numbers = self.numbers(answered.series);
        numbers.calls += 1;
        numbers.operations += u64::from(answered.operations);
        numbers.refused += u64::from(answered.refused);
        numbers.latencies.saturating_record(nanoseconds);
        self.in_time(answered, nanoseconds);
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

    /// Into the interval in which it was answered; what comes after the end belongs to the last one.
    #[inline]
    fn in_time(&mut self, answered: &Answered, nanoseconds: u64) {
        if answered.finished >= self.now.until {
            self.go_on(answered.finished);
        }
        self.now.operations += u64::from(answered.operations);
        self.now.latencies.saturating_record(nanoseconds);
    }

    /// To the interval of `moment`.
    #[cold]
    fn go_on(&mut self, moment: Instant) {
        let (whole, length) = (self.window.end.saturating_duration_since(self.window.start), self.window.moment());
        let last = whole.as_nanos().div_ceil(length.as_nanos()).saturating_sub(1);
        let since = moment.saturating_duration_since(self.window.start);
        let place = usize::try_from((since.as_nanos() / length.as_nanos()).min(last)).unwrap_or(0);
        self.freeze(place);
        let ends = (place as u128) < last;
        let after = length.saturating_mul(u32::try_from(place + 1).unwrap_or(u32::MAX));
        self.now.until = self.window.start + if ends { after } else { FOREVER };
    }

    /// Puts the interval under way to the others.
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
    pub(super) fn merge(&mut self, mut other: Recorder) {
        other.freeze(other.now.place);
        self.freeze(self.now.place);
        for (mine, theirs) in self.series.iter_mut().zip(other.series) {
            let Some(theirs) = theirs else { continue };
            match mine {
                Some(mine) => mine.add(&theirs),
                None => *mine = Some(theirs),
            }
        }
        self.moments.resize(self.moments.len().max(other.moments.len()), Frozen::default());
        for (mine, theirs) in self.moments.iter_mut().zip(other.moments) {
            mine.operations += theirs.operations;
            mine.counts.extend(theirs.counts);
        }
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

    pub(super) fn calls(&self) -> Vec<Call> {
        let seen = Series::ALL.into_iter().filter_map(|series| Some((series, self.series[series.place()].as_ref()?)));
        seen.map(|(series, numbers)| numbers.to_call(series)).collect()
    }

    /// The intervals up to `end`, which is where the run really ended.
    pub(super) fn timeline(&mut self, end: Instant) -> Vec<Moment> {
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

fn histogram<C: hdrhistogram::Counter>() -> Histogram<C> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds that are constants")
}

fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1_000.0
}

fn latency(latencies: &Histogram<u64>) -> Latency {
    if latencies.is_empty() {
        return Latency::default();
    }
    let at = |share| micros(latencies.value_at_quantile(share));
    let mut curve = vec![(0.0, micros(latencies.min()))];
    for step in 1..=CURVE_STEPS {
        let left = 0.5_f64.powi(step.cast_signed());
        if left * (latencies.len() as f64) < 1.0 {
            break;
        }
        curve.push((1.0 - left, at(1.0 - left)));
    }
    curve.push((1.0, micros(latencies.max())));
    Latency {
        mean: latencies.mean() / 1_000.0,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p99_9: at(0.999),
        max: micros(latencies.max()),
        curve,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
