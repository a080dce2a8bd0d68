//! Distributions of latencies, in nanoseconds, and what a run tells of one.

use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

use super::Latency;

/// The longest latency that is told apart: 10 minutes.
const LONGEST: u64 = 600_000_000_000;
/// Significant digits. One more makes ten times the memory, which would push the ledger of a thread out of its cache.
const DIGITS: u8 = 2;
/// Shares of the calls at which the curve is drawn: two of them halve what is left.
const CURVE_STEPS: u32 = 48;

/// As it is written down.
#[inline]
pub(super) fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).clamp(1, LONGEST)
}

/// An empty one. All have the same bounds.
pub(super) fn histogram<C: Counter>() -> Histogram<C> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds that are constants")
}

/// Nanoseconds as what a run tells.
pub(super) fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1_000.0
}

/// What a run tells of a distribution.
pub(super) fn latency(latencies: &Histogram<u64>) -> Latency {
    if latencies.is_empty() {
        return Latency::default();
    }
    let at = |share| micros(latencies.value_at_quantile(share));
    let mut curve = vec![(0.0, micros(latencies.min()))];
    for step in 1..=CURVE_STEPS {
        let left = 0.5_f64.powf(f64::from(step) / 2.0);
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
