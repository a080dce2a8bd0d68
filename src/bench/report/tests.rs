use super::trend::{self, Trend};
use super::*;
use crate::bench::history::{Better, Row};
use crate::bench::{Run, Target, Verdict, sample};

const HOSTILE: &str = "\"'><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>&\u{202e}";

fn run(started: &str) -> Run {
    sample::run("uniform", started)
}

fn row(started: &str) -> Row {
    Row::of_run(&run(started)).expect("fit")
}

/// What would make a browser run or load something, or take part of a text for markup.
fn assert_inert(page: &str) {
    let lower = page.to_lowercase();
    for forbidden in
        ["<script", "<img", "<link", "<iframe", "<object", "<image", "<use", " src=", "@import", "url(", "javascript:"]
    {
        assert!(!tags(&lower).contains(forbidden), "{forbidden}");
    }
    for link in lower.split(" href=").skip(1) {
        assert!(link.starts_with("\"#"), "{link:.40}");
    }
    for tag in lower.split('<').skip(1).filter_map(|tag| tag.split('>').next()) {
        // Names of attributes: what is between the quotes is their values.
        let names: String = tag.split('"').step_by(2).collect();
        assert!(!names.contains(" on"), "<{tag}>: a handler");
    }
    assert!(lower.contains("content-security-policy") && lower.contains("default-src 'none'"));
}

/// The page without its texts.
fn tags(page: &str) -> String {
    page.split('<').skip(1).filter_map(|tag| tag.split_once('>')).map(|(tag, _)| format!("<{tag}>")).collect()
}

/// Every element that is opened is closed, in order.
fn assert_well_formed(page: &str) {
    let void = ["meta", "!doctype"];
    let mut open = Vec::new();
    for tag in page.split('<').skip(1).filter_map(|tag| tag.split('>').next()) {
        let name = tag.split([' ', '/', '\n']).find(|part| !part.is_empty()).unwrap_or_default().to_lowercase();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "</{name}>");
        } else if !tag.ends_with('/') && !void.contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

fn assert_no_strange_number(page: &str) {
    for strange in ["NaN", ">inf", "-inf", " inf", "null"] {
        assert!(!page.contains(strange), "{strange}");
    }
}

#[test]
fn a_page_shows_what_a_run_found() {
    let page = page(&[run("2026-11-26T06:00:00Z")]).expect("a page");
    for expected in [
        "Latency by percentile",
        "Throughput over time",
        "Latency over time",
        "99.9 %",
        "TransferFunds",
        "GetBalance",
        "Example CPU",
        "rustc 1.90.0",
        "0123456789ab",
        "100\u{202f}000",
        "20 k/s",
        "21 ms",
        "300 MiB",
        "60 %",
        "1.25 %",
        "✓ holds",
        "Journal against snapshot",
        "warm-up",
        "<title>Equipoise bench: uniform</title>",
    ] {
        assert!(page.to_lowercase().contains(&expected.to_lowercase()), "{expected}");
    }
    assert_inert(&page);
    assert_well_formed(&page);
    assert_no_strange_number(&page);
}

#[test]
fn a_chart_has_a_name_a_description_and_lines() {
    let page = page(&[run("2026-11-26T06:00:00Z")]).expect("a page");
    let charts: Vec<_> = page.split("<svg").skip(1).collect();
    assert_eq!(charts.len(), 3);
    for chart in charts {
        let chart = chart.split("</svg>").next().expect("closed");
        assert!(
            chart.contains("role=\"img\"") && chart.contains("<title id=") && chart.contains("<desc id="),
            "{chart:.300}"
        );
        assert!(chart.contains("<polyline") && chart.contains("<text"), "{chart:.300}");
    }
    assert!(page.contains("half of the calls took less than 200 µs"));
}

/// Workloads, calls, servers and machines are what others wrote.
#[test]
fn hostile_text_stays_text() {
    let mut run = sample::run(HOSTILE, "2026-11-26T06:00:00Z");
    run.calls[0].name = HOSTILE.to_owned();
    run.target = Target::Service { server: HOSTILE.to_owned(), durable: None, label: Some(HOSTILE.to_owned()) };
    run.machine.cpu = HOSTILE.to_owned();
    run.machine.compiler = HOSTILE.to_owned();
    run.machine.commit = Some(HOSTILE.to_owned());
    let row = Row::of_run(&run).expect("fit");
    let mut later = row.clone();
    later.time = crate::bench::history::Time::parse("2026-11-27T06:00:00Z").expect("a time");
    later.metrics[0].unit = HOSTILE.to_owned();
    run.started = HOSTILE.to_owned();
    run.check.faults.push(HOSTILE.to_owned());
    run.check.notes.push(HOSTILE.to_owned());
    for page in [
        page(&[run.clone()]).expect("a page"),
        page(&[run.clone(), run.clone()]).expect("a page"),
        history_page(&[row, later], &[run]).expect("a page"),
    ] {
        assert_inert(&page);
        assert_well_formed(&page);
        assert!(page.contains("&lt;script&gt;alert(1)"), "it is shown");
    }
}

#[test]
fn without_runs_the_page_says_so() {
    for page in [page(&[]).expect("a page"), history_page(&[], &[]).expect("a page")] {
        assert_inert(&page);
        assert_well_formed(&page);
        assert!(page.contains("no r"), "{page}");
    }
}

#[test]
fn figures_that_are_none_are_dashes() {
    for strange in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, f64::MAX, f64::MIN_POSITIVE] {
        let mut run = run("2026-11-26T06:00:00Z");
        (run.rate, run.operations) = (strange, 0);
        for call in &mut run.calls {
            let latency = &mut call.latency;
            (latency.mean, latency.p50, latency.p99, latency.max) = (strange, strange, strange, strange);
            latency.curve = vec![(0.5, strange), (strange, 3.0), (1.0, 5.0)];
        }
        for moment in &mut run.timeline {
            (moment.rate, moment.p99, moment.second) = (strange, strange, strange);
        }
        run.usage.as_mut().expect("there").cpu_share = strange;
        let page = page(&[run]).expect("a page");
        assert_no_strange_number(&page);
        assert_well_formed(&page);
    }
}

#[test]
fn a_run_of_nothing_has_a_page() {
    let mut run = run("2026-11-26T06:00:00Z");
    (run.calls, run.timeline, run.usage, run.contention) = (Vec::new(), Vec::new(), None, None);
    let page = page(&[run]).expect("a page");
    assert!(!page.contains("<svg"));
    assert_no_strange_number(&page);
}

#[test]
fn a_ledger_that_was_found_wrong_is_not_to_be_overlooked() {
    let mut run = run("2026-11-26T06:00:00Z");
    run.check.total = Some(false);
    run.check.faults.push("the sum is 99 and must be 100".to_owned());
    run.check.notes.push("the journal was not watched".to_owned());
    let page = page(&[run]).expect("a page");
    assert!(
        page.contains("role=\"alert\"")
            && page.contains("the sum is 99 and must be 100")
            && page.contains("the journal was not watched")
            && page.contains("✗ FAILS")
    );
}

/// E2: what was judged stands on the page.
#[test]
fn a_broken_requirement_is_not_to_be_overlooked() {
    let mut run = run("2026-11-26T06:00:00Z");
    let verdict = |found: Option<f64>, held| Verdict {
        requirement: "E2".to_owned(),
        what: "GetBalance p99, ms".to_owned(),
        found,
        bound: 5.0,
        at_least: false,
        held,
    };
    run.verdicts = vec![verdict(Some(0.9), Some(true)), verdict(None, None)];
    let held = page(&[run.clone()]).expect("a page");
    assert!(held.contains("✓ held") && held.contains("not told") && !held.contains("role=\"alert\""), "{held}");
    run.verdicts = vec![verdict(Some(7.0), Some(false)), verdict(None, Some(false))];
    let broken = page(&[run]).expect("a page");
    assert!(broken.contains("✗ BROKEN") && broken.contains("role=\"alert\"") && broken.contains("7.00, under 5"));
    assert_no_strange_number(&broken);
}

/// Four rows with throughputs that would look like one trend, were they put together.
#[test]
fn machines_versions_and_settings_are_never_on_one_line() {
    let mut rows = Vec::new();
    for (at, day) in (0..4).zip(["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"]) {
        let mut run = run(&format!("{day}T00:00:00Z"));
        match at {
            1 => run.machine.cores = 64,
            2 => run.workload_version = 2,
            3 => run.settings.callers = 1,
            _ => {}
        }
        rows.push(Row::of_run(&run).expect("fit"));
    }
    let apart = history_page(&rows, &[]).expect("a page");
    assert_eq!(apart.matches("<section class=\"host\"").count(), 2);
    assert_eq!(apart.matches("<section class=\"benchmark\"").count(), 4);
    assert_eq!(
        apart.matches(">first<").count(),
        apart.matches("<svg").count() + 16,
        "calls that failed or had no answer have no chart: {apart}"
    );
    for verdict in ["before to say", "than each of", "within the"] {
        assert!(!apart.contains(verdict), "{verdict}");
    }
    let together: Vec<_> =
        ["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"].map(|day| row(&format!("{day}T00:00:00Z"))).into();
    let together = history_page(&together, &[]).expect("a page");
    assert_eq!(together.matches("<section class=\"benchmark\"").count(), 1);
    assert!(together.contains("within the 3 before"));
}

#[test]
fn the_newest_figure_is_judged_by_those_before_it() {
    let judged = |values: &[f64], better: Better| {
        let rows: Vec<_> = values
            .iter()
            .map(|value| {
                let mut row = row("2026-11-01T00:00:00Z");
                row.metrics.truncate(1);
                (row.metrics[0].value, row.metrics[0].better) = (*value, better);
                row
            })
            .collect();
        let rows: Vec<_> = rows.iter().collect();
        Trend::all(&rows)[0].change().map(|change| (change.median, change.share, change.verdict))
    };
    assert_eq!(judged(&[5.0], Better::Bigger), None);
    assert_eq!(judged(&[4.0, 5.0], Better::Bigger), Some((4.0, Some(0.25), trend::Verdict::TooFew)));
    assert_eq!(judged(&[4.0, 1.0, 2.0, 5.0], Better::Bigger), Some((2.0, Some(1.5), trend::Verdict::Better)));
    assert_eq!(judged(&[4.0, 1.0, 2.0, 5.0], Better::Smaller), Some((2.0, Some(1.5), trend::Verdict::Worse)));
    assert_eq!(judged(&[4.0, 1.0, 2.0, 3.0, 0.5], Better::Smaller), Some((2.5, Some(-0.8), trend::Verdict::Better)));
    assert_eq!(
        judged(&[4.0, 1.0, 2.0, 3.0, 4.0], Better::Smaller).map(|judged| judged.2),
        Some(trend::Verdict::Within)
    );
    assert_eq!(judged(&[0.0, 0.0, 0.0, 3.0], Better::Smaller), Some((0.0, None, trend::Verdict::Worse)));
}

#[test]
fn the_newest_run_of_each_workload_is_shown_in_detail() {
    let mut newest = run("2026-11-26T10:00:00Z");
    newest.settings.seed = 4711;
    let mut older = run("2026-11-26T09:00:00Z");
    older.settings.seed = 815;
    let page = history_page(&[], &[newest, older, sample::run("hot", "2026-11-20T00:00:00Z")]).expect("a page");
    assert_eq!(page.matches("<section class=\"run\"").count(), 2);
    assert!(page.contains("4711") && !page.contains(">815<"));
}
