//! How long calls took: the curves, and the table.

use maud::Markup;

use super::ReportError;
use super::axis::Axis;
use super::chart::{Chart, Line, Size};
use super::format::{count, microseconds};
use super::page::{table, text};
use crate::bench::Call;

/// The percentiles that are marked on a curve.
const MARKED: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// Where the curves end, however many calls there were: what is past it is in the table.
const END: f64 = 0.999_99;

/// One curve a call: the time that a share of them is faster than. None when there is nothing to draw.
pub(super) fn chart(id: &str, calls: &[Call]) -> Result<Option<Markup>, ReportError> {
    let lines: Vec<Line> = calls.iter().filter(|call| call.calls + call.unanswered > 0).map(line).collect();
    let points = || lines.iter().flat_map(|line| &line.points).copied();
    if points().next().is_none() {
        return Ok(None);
    }
    let chart = Chart {
        id: format!("{id}-latency"),
        title: "Latency by percentile".to_owned(),
        description: calls
            .iter()
            .filter(|call| call.calls + call.unanswered > 0)
            .map(describe)
            .collect::<Vec<_>>()
            .join(" "),
        size: Size::Tall,
        x: Axis::percentiles("share of the calls that were faster", points().map(|(share, _)| share)),
        y: Axis::logarithmic("", points().map(|(_, value)| value), microseconds),
        lines,
    };
    chart.draw().map(Some)
}

fn line(call: &Call) -> Line {
    let latency = &call.latency;
    let known = [latency.p50, latency.p90, latency.p99, latency.p99_9];
    let marks: Vec<_> = MARKED.into_iter().zip(known).filter(|(_, value)| *value > 0.0).collect();
    #[expect(clippy::cast_precision_loss, reason = "a place in a chart")]
    let last = 1.0 - 1.0 / call.calls.max(2) as f64;
    // The longest call is the last one: the share of the faster ones is one call short of all.
    let within = |&(share, value): &(f64, f64)| (0.0..=1.0).contains(&share) && value > 0.0 && value.is_finite();
    let mut points: Vec<_> =
        latency.curve.iter().copied().filter(within).map(|(share, value)| (share.min(last), value)).collect();
    points.retain(|(share, _)| *share <= END);
    if points.is_empty() {
        points.clone_from(&marks);
    }
    // Marks past the end of the curve would stand alone: so few calls have no such percentile.
    let end = points.iter().map(|(share, _)| *share).fold(0.0, f64::max);
    let marks = marks.into_iter().filter(|(share, _)| *share <= end).collect();
    Line { name: call.name.clone(), points, marks, ..Line::default() }
}

fn describe(call: &Call) -> String {
    let latency = &call.latency;
    format!(
        "{}: half of the calls took less than {}, 99 in 100 less than {}, 999 in 1000 less than {}, the longest {}.",
        call.name,
        microseconds(latency.p50),
        microseconds(latency.p99),
        microseconds(latency.p99_9),
        microseconds(latency.max)
    )
}

/// All figures of each call.
pub(super) fn figures(calls: &[Call]) -> Markup {
    let heads = [
        "Call",
        "Due",
        "Answered",
        "Unanswered",
        "Refused",
        "Failed",
        "Mean",
        "50 %",
        "90 %",
        "99 %",
        "99.9 %",
        "Longest",
    ];
    let row = |call: &Call| {
        let counts = [call.due, call.calls, call.unanswered, call.refused, call.failed].map(count);
        let latency = &call.latency;
        let times = [latency.mean, latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max];
        let times =
            times.map(|time| if call.calls + call.unanswered > 0 { microseconds(time) } else { "–".to_owned() });
        let cells = [call.name.clone()].into_iter().chain(counts).chain(times);
        cells.map(|cell| text(&cell)).collect()
    };
    table("Latency of each call", &heads, &calls.iter().map(row).collect::<Vec<_>>())
}
