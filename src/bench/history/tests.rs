use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::bench::sample;

fn row(workload: &str, started: &str) -> Row {
    Row::of_run(&sample::run(workload, started)).expect("a run that is fit")
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.jsonl");
    (folder, path)
}

fn open(path: &Path) -> Result<History, HistoryError> {
    History::open(path, false).map(|(history, _)| history)
}

fn rows(path: &Path) -> Vec<Row> {
    let lines = read(path, fs::read(path).expect("readable").as_slice()).expect("whole");
    let row = |line| match line {
        Line::Row(row) => *row,
        Line::Run(_) => panic!("a run in a history"),
    };
    lines.into_iter().map(row).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .expect("written");
}

#[test]
fn what_was_added_is_read_back() {
    let (_folder, path) = fresh();
    let (first, second) = (row("uniform", "2026-11-26T06:00:00Z"), row("hot", "2026-11-26T07:00:00.123456Z"));
    let mut history = open(&path).expect("begun");
    assert!(history.append(first.clone()).expect("added"));
    assert!(history.append(second.clone()).expect("added"));
    history.sync().expect("on disk");
    drop(history);
    assert_eq!(rows(&path), [first, second]);
    let text = fs::read_to_string(&path).expect("text");
    assert_eq!(text.lines().count(), 2);
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        for key in ["cpu", "cores", "memory", "system", "compiler", "profile", "version", "commit"] {
            assert!(!row["machine"][key].is_null(), "{key} in {line}");
        }
    }
}

#[test]
fn what_is_there_is_not_added_again() {
    let (_folder, path) = fresh();
    let first = row("uniform", "2026-11-26T06:00:00Z");
    assert!(open(&path).expect("begun").append(first.clone()).expect("added"));
    assert!(!open(&path).expect("opened").append(first.clone()).expect("known"));
    let mut elsewhere = first;
    elsewhere.machine.cores = 64;
    assert!(open(&path).expect("opened").append(elsewhere).expect("added"));
    assert_eq!(rows(&path).len(), 2);
}

/// However much of it a crash left.
#[test]
fn a_torn_last_line_is_named_and_cut_off_on_demand_only() {
    let (_folder, whole) = fresh();
    open(&whole).expect("begun").append(row("uniform", "2026-11-26T06:00:00Z")).expect("added");
    let line = fs::read(&whole).expect("readable");
    let object = line.len() - 1;
    for torn in [1, 2, 10, object / 2, object - 1] {
        let (_folder, path) = fresh();
        write(&path, &line);
        write(&path, &line[..torn]);
        let before = fs::read(&path).expect("readable");
        let error = open(&path).expect_err("torn");
        assert!(matches!(error, HistoryError::Torn { line: 2, .. }), "{torn}: {error}");
        assert!(error.to_string().starts_with(&format!("{}:2: ", path.display())), "{error}");
        assert!(matches!(read(&path, before.as_slice()), Err(HistoryError::Torn { line: 2, .. })));
        assert_eq!(fs::read(&path).expect("readable"), before, "untouched");

        let (mut history, cut) = History::open(&path, true).expect("repaired");
        assert_eq!(cut, Some(2));
        history.append(row("hot", "2026-11-26T06:00:00Z")).expect("added");
        drop(history);
        let names: Vec<_> = rows(&path).into_iter().map(|row| row.subject.benchmark).collect();
        assert_eq!(names, ["uniform", "hot"]);
    }
    // Only the line end is missing: nothing is lost, and the next row has a line of its own.
    let (_folder, path) = fresh();
    write(&path, &line[..object]);
    open(&path).expect("whole").append(row("hot", "2026-11-26T06:00:00Z")).expect("added");
    assert_eq!(rows(&path).len(), 2);
}

/// Repair is for a torn tail: what else is wrong is nothing that a crash does.
#[test]
fn a_malformed_line_is_named_and_never_cut_off() {
    let run = serde_json::to_string(&sample::run("uniform", "2026-11-26T06:00:00Z")).expect("JSON");
    for middle in ["{\"form\":", "[]", "7", "\0\0\0", "{\"form\":\"other\",\"version\":1}", &run] {
        let (_folder, path) = fresh();
        open(&path).expect("begun").append(row("uniform", "2026-11-26T06:00:00Z")).expect("added");
        write(&path, format!("\n{middle}\n").as_bytes());
        let before = fs::read(&path).expect("readable");
        let error = History::open(&path, true).expect_err("malformed");
        assert!(matches!(error, HistoryError::Malformed { line: 3, .. }), "{middle}: {error}");
        assert_eq!(fs::read(&path).expect("readable"), before);
    }
}

#[test]
fn a_newer_form_is_refused_by_its_version() {
    let (_folder, path) = fresh();
    write(&path, b"{\"form\":\"equipoise-benchmark\",\"version\":2,\"new\":true}\n");
    let error = open(&path).expect_err("newer");
    assert!(matches!(error, HistoryError::Newer { line: 1, version: 2, .. }), "{error}");
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn keys_that_a_later_build_adds_are_passed_over() {
    let mut row = serde_json::to_value(row("uniform", "2026-11-26T06:00:00Z")).expect("JSON");
    row["weather"] = "fine".into();
    row["machine"]["colour"] = "grey".into();
    let lines = read(Path::new("h"), format!("{row}\n").as_bytes()).expect("read");
    assert_eq!(lines.len(), 1);
}

#[test]
fn a_run_that_is_void_gives_no_row() {
    let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
    run.check.total = Some(false);
    run.check.faults.push("the sum is 99".to_owned());
    let error = Row::of_run(&run).expect_err("void");
    assert!(error.to_string().contains("the sum is 99"), "{error}");
    let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
    run.cut = true;
    assert_eq!(Row::of_run(&run), Err(Unfit::Cut { workload: "uniform".to_owned() }));
    let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
    run.check = crate::bench::Check::none("cannot reach it".to_owned());
    let error = Row::of_run(&run).expect_err("unchecked");
    assert!(matches!(&error, Unfit::Unchecked { notes, .. } if notes == "cannot reach it"), "{error}");
    let error = Row::of_run(&sample::run("uniform", "yesterday")).expect_err("no time");
    assert!(matches!(error, Unfit::Started { .. }), "{error}");
}

#[test]
fn what_is_no_number_is_no_metric() {
    let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
    (run.rate, run.operations) = (f64::NAN, 0);
    run.calls[1].calls = 0;
    for moment in &mut run.timeline {
        moment.rate = f64::INFINITY;
    }
    let names: Vec<_> = Row::of_run(&run).expect("fit").metrics.into_iter().map(|metric| metric.name).collect();
    assert!(names.contains(&"TransferFunds p99".to_owned()), "{names:?}");
    for none in ["throughput", "CPU per operation", "GetBalance p99"] {
        assert!(!names.contains(&none.to_owned()), "{none} in {names:?}");
    }
}

fn labelled(label: Option<&str>) -> Target {
    let label = label.map(str::to_owned);
    Target::Service { server: "http://127.0.0.1:50051".to_owned(), durable: None, label }
}

/// A service does not tell where its state lives: in memory and on disk would be one subject.
#[test]
fn what_nobody_knows_is_compared_with_nothing() {
    let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
    run.target = labelled(None);
    assert_eq!(Row::of_run(&run), Err(Unfit::Unnamed { workload: "uniform".to_owned() }));
    let of = |label| {
        let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
        run.target = labelled(Some(label));
        Row::of_run(&run).expect("fit").subject
    };
    assert_ne!(of("0.1.0, in memory"), of("0.1.0, on disk"));
}

#[test]
fn what_was_asked_for_keeps_subjects_apart_and_the_port_does_not() {
    let of = |change: fn(&mut Run)| {
        let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
        change(&mut run);
        Subject::of_run(&run)
    };
    let at = |server: &str| Target::Service { server: server.to_owned(), durable: Some(true), label: None };
    let plain = of(|_| ());
    for local in ["http://localhost:1", "127.0.0.1:2", "http://[::1]:3", "https://127.0.0.2/"] {
        let mut run = sample::run("uniform", "2026-11-26T06:00:00Z");
        run.target = at(local);
        assert_eq!(Subject::of_run(&run), plain, "{local}");
    }
    let others: [fn(&mut Run); 9] = [
        |run| run.workload_version = 2,
        |run| run.settings.callers = 16,
        |run| run.settings.rate = Some(500.0),
        |run| run.target = Target::Embedded { durable: true },
        |run| {
            run.target =
                Target::Service { server: "http://127.0.0.1:50051".to_owned(), durable: Some(false), label: None }
        },
        |run| {
            run.target =
                Target::Service { server: "http://db.example:50051".to_owned(), durable: Some(true), label: None }
        },
        |run| run.settings.threads = 8,
        |run| run.target = labelled(Some("0.1.0, in memory")),
        |run| run.target = labelled(Some("0.1.0, PostgreSQL")),
    ];
    for other in others {
        assert_ne!(of(other), plain);
    }
    assert_eq!(of(|run| run.settings.seed = 2), plain);
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/criterion")
}

/// The fixture is what criterion 0.8.2 wrote; its `base` folders are no results of their own.
#[test]
fn results_of_criterion_are_read() {
    let since = Time::parse("1970-01-01T00:00:00Z").expect("a time");
    let collected = collect(&fixture(), &sample::machine(), since).expect("read");
    let mut rows = collected.rows;
    rows.sort_by(|a, b| a.subject.cmp(&b.subject));
    let names: Vec<_> = rows.iter().map(|row| row.subject.benchmark.as_str()).collect();
    assert_eq!(names, ["balance", "transfer/two <threads>"]);
    assert!(rows.iter().all(|row| row.machine == sample::machine()));
    let [time] = rows[0].metrics.as_slice() else { panic!("{:?}", rows[0]) };
    assert_eq!((time.unit.as_str(), time.better), ("ns", Better::Smaller));
    // The slope, which criterion prints as the time, and its interval.
    assert_eq!((time.value, time.low), (7.970872274891276, Some(7.864297896116839)));
    let [time, throughput] = rows[1].metrics.as_slice() else { panic!("{:?}", rows[1]) };
    assert!((throughput.value - 100.0 * 1e9 / time.value).abs() < 1e-3);
    assert!(throughput.low < Some(throughput.value) && Some(throughput.value) < throughput.high);

    let later = Time::parse("9999-01-01T00:00:00Z").expect("a time");
    let collected = collect(&fixture(), &sample::machine(), later).expect("read");
    assert!(collected.rows.is_empty());
    assert_eq!(collected.older, ["balance", "transfer/two <threads>"]);
}

#[test]
fn a_result_that_criterion_did_not_write_so_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = folder.path().join("group/new");
    fs::create_dir_all(&new).expect("a folder");
    fs::write(new.join("estimates.json"), "{}").expect("written");
    fs::write(new.join("benchmark.json"), "{\"full_id\":\"group\",\"throughput\":null}").expect("written");
    let since = Time::parse("1970-01-01T00:00:00Z").expect("a time");
    let error = collect(folder.path(), &sample::machine(), since).expect_err("malformed").to_string();
    assert!(error.contains("estimates.json") && error.contains("mean"), "{error}");
    assert!(collect(&new.join("nowhere"), &sample::machine(), since).is_err());
}

#[test]
fn dashboards_get_the_newest_build_of_one_machine_only() {
    let mut old = row("uniform", "2026-11-25T06:00:00Z");
    old.machine.commit = Some("old".to_owned());
    let mut elsewhere = row("uniform", "2026-11-26T07:00:00Z");
    elsewhere.machine.cpu = "Another CPU".to_owned();
    let first = row("uniform", "2026-11-26T08:00:00Z");
    let mut second = row("uniform", "2026-11-26T09:00:00Z");
    second.metrics[0].value = 7.0;
    let rows = [old, second, elsewhere, first, row("hot", "2026-11-26T08:30:00Z")];
    let bigger = export(&rows, Better::Bigger);
    let names: Vec<_> = bigger.iter().map(|entry| entry.name.split(' ').next().expect("a word")).collect();
    assert_eq!(names, ["hot", "uniform"]);
    assert_eq!((bigger[1].value, bigger[1].unit.as_str()), (7.0, "operations/s"));
    assert!(bigger[1].name.contains("@ Example CPU, 2 cores"), "{}", bigger[1].name);
    assert!(bigger[1].range.as_ref().is_some_and(|range| range.starts_with("± ")));
    let smaller = export(&rows, Better::Smaller);
    assert!(smaller.iter().any(|entry| entry.name.contains("TransferFunds p99 @")));
    let mut unique: Vec<_> = smaller.iter().map(|entry| &entry.name).collect();
    unique.dedup();
    assert_eq!(unique.len(), smaller.len());
    assert!(export(&[], Better::Bigger).is_empty());
}
