//! The history as a page: by host, by subject, and each metric over time. No chart, table or comparison mixes two hosts
//! or two subjects.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{Chart, Line, Size};
use super::format::{number, with_unit};
use super::page::{table, text};
use super::run::{overview, sections};
use super::trend::{BEFORE, Trend, Verdict};
use super::{ReportError, page as frame};
use crate::bench::Run;
use crate::bench::history::{Better, Host, Row, Source, Subject};

/// How many rows of a benchmark are shown, the newest ones.
const SHOWN: usize = 200;
/// How many moments are named under a chart.
const NAMED: usize = 3;

type Hosts<'a> = BTreeMap<Host, BTreeMap<&'a Subject, Vec<&'a Row>>>;

/// One page about `rows`, with the newest of `runs` of each workload and host in detail.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn page(rows: &[Row], runs: &[Run]) -> Result<String, ReportError> {
    let mut hosts = Hosts::new();
    for row in rows {
        hosts.entry(row.host()).or_default().entry(&row.subject).or_default().push(row);
    }
    let parts = hosts.iter_mut().zip(1..).map(|((name, subjects), at)| host(at, name, subjects));
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let newest = newest(runs);
    let details = sections(&newest)?;
    Ok(frame::page(
        "Equipoise benchmarks",
        &html! {
            @if !rows.is_empty() {
                p.about {
                    (rows.len()) " measurements on " (hosts.len()) " machines. A machine is its processor, cores, system, compiler and "
                    "profile; figures of different machines, versions of a workload or settings are never compared."
                }
            }
            @if rows.is_empty() && runs.is_empty() { p { "The history has no row." } }
            @if hosts.len() > 1 {
                nav aria-label="Machines" { ul { @for (host, at) in hosts.keys().zip(1..) {
                    li { a href={ "#host-" (at) } { (text(&describe(host))) } }
                } } }
            }
            @for part in parts { (part) }
            @if !newest.is_empty() {
                h2 { "The newest run of each workload" }
                (overview(&newest))
                (details)
            }
        },
    ))
}

/// Of each subject and host the run that began last, in their order.
fn newest(runs: &[Run]) -> Vec<Run> {
    let mut newest: BTreeMap<(Host, Subject), &Run> = BTreeMap::new();
    for run in runs {
        let of_its_kind = newest.entry((Host::of(&run.machine), Subject::of_run(run))).or_insert(run);
        if began(run) > began(of_its_kind) {
            *of_its_kind = run;
        }
    }
    newest.into_values().cloned().collect()
}

fn began(run: &Run) -> Option<crate::bench::history::Time> {
    crate::bench::history::Time::parse(&run.started)
}

fn describe(host: &Host) -> String {
    let Host { cpu, cores, system, compiler, profile } = host;
    format!("{cpu}, {cores} cores, {system}, {compiler}, {profile}")
}

fn host(at: usize, host: &Host, subjects: &mut BTreeMap<&Subject, Vec<&Row>>) -> Result<Markup, ReportError> {
    let parts = subjects.iter_mut().zip(1..).map(|((name, rows), number)| {
        rows.sort_by_key(|row| row.time);
        let newest = rows.len().saturating_sub(SHOWN);
        subject(&format!("host-{at}-{number}"), name, &rows[newest..], newest)
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    Ok(html! {
        section.host id={ "host-" (at) } {
            h2 { (text(&host.cpu)) ", " (host.cores) " cores" }
            p.about { (text(&host.system)) " · " (text(&host.compiler)) " · " (text(&host.profile)) }
            @for part in parts { (part) }
        }
    })
}

fn subject(id: &str, subject: &Subject, rows: &[&Row], left_out: usize) -> Result<Markup, ReportError> {
    let trends = Trend::all(rows);
    let worth = trends.iter().filter(|trend| trend.is_worth_a_chart()).zip(1..);
    let charts = worth.map(|(trend, at)| chart(&format!("{id}-{at}"), trend, rows)).collect::<Result<Vec<_>, _>>()?;
    let conditions: Vec<_> = subject.conditions.iter().map(|(name, value)| format!("{name} {value}")).collect();
    Ok(html! {
        section.benchmark {
            h3 {
                (text(&subject.benchmark)) " "
                small { @match (subject.source, subject.benchmark_version) {
                    (Source::Criterion, _) => "criterion",
                    (Source::Bench, Some(version)) => { "version " (version) }
                    (Source::Bench, None) => {}
                } }
            }
            @if !conditions.is_empty() { p.about { (text(&conditions.join(" · "))) } }
            (summary(&trends))
            div.trends { @for chart in charts { (chart) } }
            details {
                summary { "All figures" }
                @if left_out > 0 { p { (left_out) " older measurements are not shown." } }
                (figures(&trends, rows))
            }
        }
    })
}

fn summary(trends: &[Trend<'_>]) -> Markup {
    let row = |trend: &Trend<'_>| {
        let newest = trend.points.last().map_or(f64::NAN, |(_, metric)| metric.value);
        let shown = |value| with_unit(value, trend.unit);
        let mut cells = vec![text(trend.name), text(&shown(newest))];
        match trend.change() {
            None => cells.extend([html! { "first" }, html! { "–" }, html! { "–" }, html! { "–" }]),
            Some(change) => cells.extend([
                text(&shown(change.median)),
                html! { (change.share.map_or_else(|| "–".to_owned(), signed)) },
                text(&format!("{} to {}", shown(change.least), shown(change.largest))),
                verdict(change.verdict, change.rows),
            ]),
        }
        cells
    };
    let caption = format!("Newest figures against the measurements before on this machine, {BEFORE} at most");
    let heads = ["Metric", "Newest", "Median before", "Change", "Spread before", "In words"];
    table(&caption, &heads, &trends.iter().map(row).collect::<Vec<_>>())
}

fn signed(share: f64) -> String {
    let percent = number((share * 100.0).abs());
    match share {
        share if !share.is_finite() => "–".to_owned(),
        _ if percent == "0" => "0 %".to_owned(),
        share if share < 0.0 => format!("−{percent} %"),
        _ => format!("+{percent} %"),
    }
}

fn verdict(verdict: Verdict, rows: usize) -> Markup {
    html! {
        @match verdict {
            Verdict::Better => span.good { "✓ better than each of " (rows) " before" },
            Verdict::Worse => span.bad { "✗ worse than each of " (rows) " before" },
            Verdict::Within => { "within the " (rows) " before" }
            Verdict::TooFew => { "too few before to say" }
        }
    }
}

fn chart(id: &str, trend: &Trend<'_>, rows: &[&Row]) -> Result<Markup, ReportError> {
    #[expect(clippy::cast_precision_loss, reason = "a place in a chart")]
    let points: Vec<_> = trend.points.iter().map(|(at, metric)| (*at as f64, *metric)).collect();
    let places: Vec<_> = points.iter().map(|(at, metric)| (*at, metric.value)).collect();
    let ranges = points.iter().filter_map(|(at, metric)| Some((*at, metric.low?, metric.high?)));
    let ends = points.iter().flat_map(|(_, metric)| [Some(metric.value), metric.low, metric.high]).flatten();
    let direction = if trend.better == Better::Bigger { "more is better" } else { "less is better" };
    let newest = places.last().map_or(f64::NAN, |(_, value)| *value);
    let ranges = ranges.collect();
    let chart = Chart {
        id: id.to_owned(),
        title: format!("{} ({direction})", trend.name),
        description: format!("{} measurements; the newest is {}.", places.len(), with_unit(newest, trend.unit)),
        size: Size::Small,
        x: moments(rows),
        y: Axis::around("", ends, |value| with_unit(value, trend.unit)),
        lines: vec![Line { points: places.clone(), marks: places, ranges, ..Line::default() }],
    };
    chart.draw()
}

/// One place a row; the first, a middle and the last one are named by commit, or by day.
fn moments(rows: &[&Row]) -> Axis {
    let last = rows.len().saturating_sub(1);
    let mut named: Vec<usize> = (0..NAMED).map(|part| part * last / (NAMED - 1)).collect();
    named.dedup();
    #[expect(clippy::cast_precision_loss, reason = "a place in a chart")]
    let label = |at: usize| {
        let row = rows.get(at)?;
        // Git shortens so, and there is room for it.
        let commit = row.machine.commit.as_ref().map(|commit| commit.chars().take(7).collect());
        Some((at as f64, commit.unwrap_or_else(|| row.time.day())))
    };
    Axis::ordinal("", u32::try_from(rows.len()).unwrap_or(u32::MAX), named.into_iter().filter_map(label).collect())
}

fn figures(trends: &[Trend<'_>], rows: &[&Row]) -> Markup {
    let heads: Vec<&str> =
        ["Time", "Commit", "Version"].into_iter().chain(trends.iter().map(|trend| trend.name)).collect();
    let line = |(at, row): (usize, &&Row)| {
        let figure = |trend: &Trend<'_>| {
            let point = trend.points.iter().find(|(place, _)| *place == at);
            let shown = |value| with_unit(value, trend.unit);
            let Some((_, metric)) = point else { return html! { "–" } };
            match metric.low.zip(metric.high) {
                Some((low, high)) => text(&format!("{} ({} to {})", shown(metric.value), shown(low), shown(high))),
                None => text(&shown(metric.value)),
            }
        };
        let commit = row.machine.commit.as_deref().unwrap_or("–");
        let about = [row.time.to_string(), commit.to_owned(), row.machine.version.clone()];
        about.iter().map(|cell| text(cell)).chain(trends.iter().map(figure)).collect()
    };
    let lines: Vec<_> = rows.iter().enumerate().rev().map(line).collect();
    table("All figures, the newest first", &heads, &lines)
}
