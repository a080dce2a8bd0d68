//! One figure of one benchmark on one host, from row to row.

use crate::bench::history::{Better, Metric, Row};

/// With how many rows before it the newest one is compared: few, so that an old step does not hide a new one.
pub(super) const BEFORE: usize = 10;
/// With fewer rows before it, the newest is not judged.
const ENOUGH: usize = 3;

/// A metric in the order of time, from rows that are of one subject and one host.
pub(super) struct Trend<'a> {
    pub(super) name: &'a str,
    pub(super) unit: &'a str,
    pub(super) better: Better,
    /// The number of the row, and its figure.
    pub(super) points: Vec<(usize, &'a Metric)>,
}

/// The newest figure beside those before it.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    /// The number of earlier figures, at most [`BEFORE`].
    pub(super) rows: usize,
    /// Their median.
    pub(super) median: f64,
    /// The least of them.
    pub(super) least: f64,
    /// The largest of them.
    pub(super) largest: f64,
    /// The relative change of the newest figure from their median: 0.1 is a tenth more. None if the median is 0.
    pub(super) share: Option<f64>,
    pub(super) verdict: Verdict,
}

/// What that says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Better than each before.
    Better,
    /// Worse than each before.
    Worse,
    /// As they were.
    Within,
    /// There are too few to say.
    TooFew,
}

impl<'a> Trend<'a> {
    /// Every metric of `rows`, in the order in which they come up. One that changed its unit or direction is another
    /// one.
    pub(super) fn all(rows: &[&'a Row]) -> Vec<Self> {
        let mut trends: Vec<Self> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            for metric in row.metrics.iter().filter(|metric| metric.value.is_finite()) {
                let same = |trend: &&mut Self| {
                    trend.name == metric.name && trend.unit == metric.unit && trend.better == metric.better
                };
                match trends.iter_mut().find(same) {
                    Some(trend) => trend.points.push((at, metric)),
                    None => {
                        let Metric { name, unit, better, .. } = metric;
                        trends.push(Self { name, unit, better: *better, points: vec![(at, metric)] });
                    }
                }
            }
        }
        trends
    }

    /// Whether there is more to see than zeros.
    pub(super) fn is_worth_a_chart(&self) -> bool {
        self.points.iter().any(|(_, metric)| metric.value != 0.0)
    }

    /// The newest figure against those before it; none when it is the first.
    pub(super) fn change(&self) -> Option<Change> {
        let ((_, newest), before) = self.points.split_last()?;
        let mut before: Vec<f64> = before.iter().rev().take(BEFORE).map(|(_, metric)| metric.value).collect();
        before.sort_by(f64::total_cmp);
        let (least, largest) = (*before.first()?, *before.last()?);
        let middle = before.len() / 2;
        let median = if before.len().is_multiple_of(2) {
            f64::midpoint(before[middle - 1], before[middle])
        } else {
            before[middle]
        };
        let share = (median != 0.0).then(|| newest.value / median - 1.0);
        let verdict = match newest.value {
            _ if before.len() < ENOUGH => Verdict::TooFew,
            value if value > largest => self.of_more(),
            value if value < least => self.of_less(),
            _ => Verdict::Within,
        };
        Some(Change { rows: before.len(), median, least, largest, share, verdict })
    }

    fn of_more(&self) -> Verdict {
        if self.better == Better::Bigger { Verdict::Better } else { Verdict::Worse }
    }

    fn of_less(&self) -> Verdict {
        if self.better == Better::Bigger { Verdict::Worse } else { Verdict::Better }
    }
}
