//! Runs in detail, one section each.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{Chart, Line, Size};
use super::format::{bytes, count, microseconds, number, per_second, share};
use super::page::{facts, machine, table, text};
use super::{ReportError, latency, page as frame};
use crate::bench::{Check, Contention, Moment, Run, Target, Usage, Verdict};

/// How many moments the table lists; the chart has all.
const LISTED: usize = 600;

/// One page about `runs`, in their order.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn page(runs: &[Run]) -> Result<String, ReportError> {
    let title = match runs {
        [run] => format!("Equipoise bench: {}", run.workload),
        _ => "Equipoise bench".to_owned(),
    };
    let sections = sections(runs)?;
    Ok(frame::page(
        &title,
        &html! {
            @if runs.is_empty() { p { "There is no run to report." } }
            @if runs.len() > 1 { (overview(runs)) }
            (sections)
        },
    ))
}

/// All of them, with ids `run-1`, `run-2`, ….
pub(super) fn sections(runs: &[Run]) -> Result<Markup, ReportError> {
    let sections = runs.iter().enumerate().map(|(at, run)| section(&format!("run-{}", at + 1), run));
    let sections = sections.collect::<Result<Vec<_>, _>>()?;
    Ok(html! { @for section in sections { (section) } })
}

/// What there is below, and how it went.
pub(super) fn overview(runs: &[Run]) -> Markup {
    let row = |(at, run): (usize, &Run)| {
        vec![
            html! { a href={ "#run-" (at + 1) } { (text(&run.workload)) } " v" (run.workload_version) },
            verdict(&run.check),
            html! { (per_second(run.rate)) },
            html! { (tail(run, |times| times.0)) },
            html! { (tail(run, |times| times.1)) },
            text(&run.started),
            text(&target(&run.target)),
        ]
    };
    let heads = ["Workload", "Check", "Throughput", "Slowest 50 %", "Slowest 99 %", "Started", "Target"];
    table("Runs", &heads, &runs.iter().enumerate().map(row).collect::<Vec<_>>())
}

/// The largest median or 99th percentile of its calls.
fn tail(run: &Run, pick: impl Fn((f64, f64)) -> f64) -> String {
    let answered = run.calls.iter().filter(|call| call.calls + call.unanswered > 0);
    let times = answered.map(|call| pick((call.latency.p50, call.latency.p99)));
    microseconds(times.fold(f64::NAN, f64::max))
}

fn section(id: &str, run: &Run) -> Result<Markup, ReportError> {
    let charts = [latency::chart(id, &run.calls)?, throughput(id, &run.timeline)?, over_time(id, &run.timeline)?];
    Ok(html! {
        section.run id=(id) {
            h2 { (text(&run.workload)) " " small { "version " (run.workload_version) } }
            p.about { (text(&target(&run.target))) ", started " time { (text(&run.started)) } }
            ul.tiles {
                li { strong { (per_second(run.rate)) } span { "operations" } }
                li { strong { (count(run.operations)) } span { "operations in all" } }
                li { strong { (tail(run, |times| times.0)) } span { "median of the slowest call" } }
                li { strong { (tail(run, |times| times.1)) } span { "99 % of it" } }
                li { strong { (verdict(&run.check)) } span { "check of the ledger" } }
            }
            (faults(&run.check))
            (broken(&run.verdicts))
            @if !run.check.notes.is_empty() {
                ul.about { @for note in &run.check.notes { li { (text(note)) } } }
            }
            div.charts { @for chart in charts.iter().flatten() { (chart) } }
            (latency::figures(&run.calls))
            (moments(&run.timeline))
            div.cards {
                (machine(&run.machine))
                (settings(run))
                @if let Some(usage) = &run.usage { (resources(usage, run.operations)) }
                @if let Some(contention) = &run.contention { (waiting(contention)) }
                (check(&run.check))
                (requirements(&run.verdicts))
            }
        }
    })
}

fn target(target: &Target) -> String {
    let (what, durable) = match target {
        Target::Service { server, durable, label: None } => (format!("service at {server}"), *durable),
        Target::Service { server, durable, label: Some(label) } => (format!("service at {server} ({label})"), *durable),
        Target::Embedded { durable } => ("embedded ledger".to_owned(), Some(*durable)),
    };
    match durable {
        Some(true) => format!("{what}, answers wait for the disk"),
        Some(false) => format!("{what}, answers do not wait for a disk"),
        None => what,
    }
}

fn throughput(id: &str, timeline: &[Moment]) -> Result<Option<Markup>, ReportError> {
    let points: Vec<_> = timeline.iter().map(|moment| (moment.second, moment.rate)).collect();
    let rates = || points.iter().map(|(_, rate)| *rate);
    let (least, largest) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    let chart = Chart {
        id: format!("{id}-throughput"),
        title: "Throughput over time".to_owned(),
        description: format!(
            "Operations a second in {} equal intervals: between {} and {}.",
            points.len(),
            per_second(least),
            per_second(largest)
        ),
        size: Size::Wide,
        x: seconds(timeline),
        y: Axis::from_zero("", rates(), per_second),
        lines: vec![Line { points, filled: true, ..Line::default() }],
    };
    if timeline.is_empty() { Ok(None) } else { chart.draw().map(Some) }
}

fn over_time(id: &str, timeline: &[Moment]) -> Result<Option<Markup>, ReportError> {
    let line = |name: &str, time: fn(&Moment) -> f64| {
        let points = timeline.iter().map(|moment| (moment.second, time(moment)));
        Line { name: name.to_owned(), points: points.filter(|(_, time)| *time > 0.0).collect(), ..Line::default() }
    };
    let lines = vec![line("99 %", |moment| moment.p99), line("50 %", |moment| moment.p50)];
    let times = || lines.iter().flat_map(|line| &line.points).map(|(_, time)| *time);
    if times().next().is_none() {
        return Ok(None);
    }
    let highest = timeline.iter().map(|moment| moment.p99).fold(0.0, f64::max);
    let chart = Chart {
        id: format!("{id}-latency-over-time"),
        title: "Latency over time".to_owned(),
        description: format!(
            "Median and 99th percentile in each interval; the highest 99th is {}.",
            microseconds(highest)
        ),
        size: Size::Wide,
        x: seconds(timeline),
        y: Axis::logarithmic("", times(), microseconds),
        lines,
    };
    chart.draw().map(Some)
}

fn seconds(timeline: &[Moment]) -> Axis {
    Axis::from_zero("seconds", timeline.iter().map(|moment| moment.second), number)
}

fn moments(timeline: &[Moment]) -> Markup {
    let every = timeline.len().div_ceil(LISTED).max(1);
    let row = |moment: &Moment| {
        let cells =
            [number(moment.second), per_second(moment.rate), microseconds(moment.p50), microseconds(moment.p99)];
        cells.map(|cell| html! { (cell) }).to_vec()
    };
    let rows: Vec<_> = timeline.iter().step_by(every).map(row).collect();
    html! {
        @if !rows.is_empty() {
            details {
                summary { "Figures over time" }
                @if every > 1 { p { "One interval in " (every) " is listed." } }
                (table("Each interval", &["Up to second", "Throughput", "50 %", "99 %"], &rows))
            }
        }
    }
}

fn settings(run: &Run) -> Markup {
    let settings = &run.settings;
    facts(
        "Settings",
        [
            ("Measured", Some(format!("{} s", number(settings.seconds)))),
            ("Warm-up", Some(format!("{} s", number(settings.warm_up)))),
            ("Callers", Some(count(settings.callers.into()))),
            ("Connections", Some(count(settings.connections.into()))),
            ("Threads that call", (settings.threads > 0).then(|| count(settings.threads.into()))),
            ("Operations a call", Some(count(settings.batch.into()))),
            ("Accounts", Some(count(settings.accounts.into()))),
            ("Fixed rate", settings.rate.map(|rate| format!("{} calls/s", number(rate)))),
            ("Seed", Some(settings.seed.to_string())),
        ],
    )
}

fn resources(usage: &Usage, operations: u64) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let each = usage.cpu_seconds * 1e6 / operations as f64;
    facts(
        "Resources of the process that answered",
        [
            ("CPU", Some(format!("{} s", number(usage.cpu_seconds)))),
            ("CPU, share of all cores", Some(share(usage.cpu_share))),
            ("CPU per operation", Some(microseconds(each))),
            ("Resident memory", Some(bytes(usage.resident_bytes))),
        ],
    )
}

fn waiting(contention: &Contention) -> Markup {
    facts(
        "Contention",
        [
            ("Transactions helped", Some(count(contention.helped))),
            ("Waiting on accounts", Some(format!("{} s", number(contention.waiting_seconds)))),
            ("Share of writers' time", Some(share(contention.waiting_share))),
        ],
    )
}

fn check(check: &Check) -> Markup {
    let word = |holds: Option<bool>| {
        let word = match holds {
            Some(true) => "holds",
            Some(false) => "FAILS",
            None => "not looked at",
        };
        Some(word.to_owned())
    };
    facts(
        "Check of the ledger",
        [
            ("Sum of all balances", word(check.total)),
            ("Versions are dense", word(check.versions)),
            ("Journal against snapshot", word(check.journal)),
        ],
    )
}

fn requirements(verdicts: &[Verdict]) -> Markup {
    let row = |verdict: &Verdict| {
        let held = match verdict.held {
            Some(true) => html! { span.good { "✓ held" } },
            Some(false) => html! { span.bad { "✗ BROKEN" } },
            None => html! { "not told" },
        };
        let word = if verdict.at_least { "at least" } else { "under" };
        let found = verdict.found.map_or_else(|| number(f64::NAN), number);
        let bound = format!("{word} {}", number(verdict.bound));
        vec![text(&format!("{} {}", verdict.requirement, verdict.what)), html! { (found) }, html! { (bound) }, held]
    };
    let rows: Vec<_> = verdicts.iter().map(row).collect();
    html! { @if !rows.is_empty() { (table("Requirements", &["Bounded", "Found", "Bound", "Verdict"], &rows)) } }
}

fn broken(verdicts: &[Verdict]) -> Markup {
    let broken: Vec<_> = verdicts.iter().filter(|verdict| verdict.held == Some(false)).collect();
    html! {
        @if !broken.is_empty() {
            div.alarm role="alert" {
                p { strong { "A requirement was broken." } }
                ul { @for verdict in broken { li { (text(&verdict.to_string())) } } }
            }
        }
    }
}

fn verdict(check: &Check) -> Markup {
    html! {
        @if check.fails() { span.bad { "✗ FAILS" } }
        @else if check.holds() { span.good { "✓ holds" } }
        @else { span.bad { "not checked" } }
    }
}

fn faults(check: &Check) -> Markup {
    html! {
        @if !check.fails() && !check.holds() {
            div.alarm role="alert" { p { strong { "The ledger could not be checked." } } }
        }
        @if check.fails() {
            div.alarm role="alert" {
                p { strong { "The ledger was found to be wrong: the figures of this run are void." } }
                ul { @for fault in &check.faults { li { (text(fault)) } } }
            }
        }
    }
}
