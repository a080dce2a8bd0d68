//! `equipoise bench collect`, `report` and `export`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::program::{Ended, equipoise, run};

/// A run as `bench run --json` prints it.
fn measured(workload: &str, started: &str, rate: f64) -> Value {
    let latency = json!({
        "mean": 220.0, "p50": 200.0, "p90": 350.0, "p99": 900.0, "p99_9": 4000.0, "max": 21000.0,
        "curve": [[0.5, 200.0], [0.9, 350.0], [0.99, 900.0], [0.999, 4000.0], [1.0, 21000.0]],
    });
    json!({
        "workload": workload, "workload_version": 1, "started": started,
        "machine": {
            "cpu": "Example CPU", "cores": 2, "memory": 8_000_000_000_u64, "system": "linux x86_64",
            "compiler": "rustc 1.90.0", "profile": "release", "version": "0.1.0", "commit": null,
        },
        "target": {"kind": "embedded", "durable": false},
        "settings": {
            "seconds": 10.0, "warm_up": 1.0, "callers": 2, "connections": 1, "batch": 1, "accounts": 10, "rate": null, "seed": 1,
        },
        "operations": 1000, "rate": rate,
        "calls": [{"name": "TransferFunds", "calls": 1000, "refused": 0, "failed": 0, "latency": latency}],
        "timeline": [{"second": 1.0, "rate": rate, "p50": 200.0, "p99": 900.0}],
        "usage": null, "contention": null,
        "check": {"total": true, "versions": true, "journal": true, "faults": []},
    })
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn bench(&self, arguments: &[&str]) -> Ended {
        run(equipoise(&[&["bench"], arguments].concat()).current_dir(self.0.path()))
    }

    fn succeeds(&self, arguments: &[&str]) -> Ended {
        let ended = self.bench(arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }
}

#[test]
fn runs_are_collected_drawn_and_exported() {
    let place = Place::new();
    let runs = [("06", 1000.0), ("07", 1100.0)]
        .map(|(hour, rate)| measured("hot", &format!("2026-11-26T{hour}:00:00Z"), rate));
    fs::write(place.path("runs.jsonl"), format!("{}\n{}\n", runs[0], runs[1])).expect("written");
    let told = place.succeeds(&["collect", "runs.jsonl", "--json"]).json();
    assert_eq!(told, [json!({"history": "bench-history.jsonl", "added": 2, "already_there": 0, "left_out": 0})]);

    // From a pipe, and once more: nothing is there twice.
    let mut child = equipoise(&["bench", "collect", "-"]);
    let child = child.current_dir(place.0.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("the binary runs");
    let line = format!("{}\n", runs[0]);
    child.stdin.take().expect("piped").write_all(line.as_bytes()).expect("written");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "bench-history.jsonl: 0 added, 1 there already\n");

    place.succeeds(&["report", "bench-history.jsonl", "runs.jsonl", "--out", "page.html"]);
    let page = fs::read_to_string(place.path("page.html")).expect("a page");
    assert!(page.contains("Example CPU") && page.contains("+10 %") && page.contains("Latency by percentile"), "{page}");
    assert!(!page.contains("<script") && !page.contains("src="));
    assert_eq!(place.succeeds(&["report"]).stdout.matches("<section class=\"run\"").count(), 0);

    let bigger: Value = serde_json::from_str(&place.succeeds(&["export", "--better", "bigger"]).stdout).expect("JSON");
    let [entry] = bigger.as_array().expect("an array").as_slice() else { panic!("{bigger}") };
    assert_eq!((&entry["value"], &entry["unit"]), (&json!(1100.0), &json!("operations/s")));
    let smaller: Value =
        serde_json::from_str(&place.succeeds(&["export", "--better", "smaller"]).stdout).expect("JSON");
    for entry in smaller.as_array().expect("an array") {
        assert!(entry["name"].is_string() && entry["unit"].is_string() && entry["value"].is_number(), "{entry}");
    }
}

#[test]
fn results_of_criterion_are_collected_with_this_machine() {
    let place = Place::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/criterion");
    let fixture = fixture.to_str().expect("UTF-8");
    place.succeeds(&["collect", "--criterion", fixture, "--max-age", "1000years"]);
    let history = fs::read_to_string(place.path("bench-history.jsonl")).expect("a history");
    assert_eq!(history.lines().count(), 2);
    for line in history.lines() {
        let row: Value = serde_json::from_str(line).expect("JSON");
        assert!(row["machine"]["cores"].as_u64() > Some(0), "{line}");
        assert!(row["machine"]["compiler"].as_str().is_some_and(|compiler| compiler.starts_with("rustc ")), "{line}");
    }
    let left_out = place.succeeds(&["collect", "--history", "other", "--criterion", fixture, "--max-age", "0s"]);
    assert!(
        left_out.stderr.contains("left out, older than --max-age: balance, transfer/two <threads>"),
        "{left_out:?}"
    );
    assert_eq!(place.bench(&["collect", "--criterion", "nowhere"]).code, Some(4));
}

#[test]
fn a_torn_history_is_named_and_repaired_on_demand_only() {
    let place = Place::new();
    fs::write(place.path("run"), format!("{}\n", measured("hot", "2026-11-26T06:00:00Z", 1.0))).expect("written");
    place.succeeds(&["collect", "run"]);
    let whole = fs::read(place.path("bench-history.jsonl")).expect("a history");
    let torn = [whole.as_slice(), &whole[..100]].concat();
    fs::write(place.path("bench-history.jsonl"), &torn).expect("written");
    for command in [&["collect", "run"][..], &["report"], &["export", "--better", "bigger"]] {
        let ended = place.bench(command);
        assert!(ended.code == Some(4) && ended.stdout.is_empty(), "{ended:?}");
        assert!(ended.stderr.contains("bench-history.jsonl:2: the last line is torn"), "{ended:?}");
    }
    assert_eq!(fs::read(place.path("bench-history.jsonl")).expect("a history"), torn);
    let repaired = place.succeeds(&["collect", "--repair"]);
    assert!(repaired.stderr.contains("bench-history.jsonl:2: the torn line was cut off"), "{repaired:?}");
    assert_eq!(fs::read(place.path("bench-history.jsonl")).expect("a history"), whole);
}

/// One run that is not fit for a history keeps out no other: they may have come from a pipe, and be gone.
#[test]
fn unfit_runs_are_named_and_the_others_are_kept() {
    let place = Place::new();
    let [good, mut void, mut unnamed, later] = [("hot", "06"), ("zipf", "07"), ("mixed", "08"), ("open", "09")]
        .map(|(workload, hour)| measured(workload, &format!("2026-11-26T{hour}:00:00Z"), 1.0));
    void["check"] = json!({"total": false, "versions": true, "journal": true, "faults": ["the sum is 99"]});
    unnamed["target"] = json!({"kind": "service", "server": "http://127.0.0.1:1", "durable": null});
    fs::write(place.path("runs"), format!("{good}\n{void}\n{unnamed}\n{later}\n")).expect("written");
    let ended = place.bench(&["collect", "runs", "--json"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let told = json!({"history": "bench-history.jsonl", "added": 2, "already_there": 0, "left_out": 2});
    assert_eq!(ended.json(), [told]);
    let why = ended.error()["message"].to_string();
    assert!(why.contains("zipf: the sum is 99 (begun 2026-11-26T07:00:00Z)"), "{why}");
    assert!(why.contains("mixed ran against a service that has no label"), "{why}");
    let history = fs::read_to_string(place.path("bench-history.jsonl")).expect("a history");
    let kept: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(kept.iter().map(|row| &row["benchmark"]).collect::<Vec<_>>(), ["hot", "open"]);
    let again = place.bench(&["collect", "runs"]);
    assert_eq!(again.stdout, "bench-history.jsonl: 0 added, 2 there already, 2 left out\n");
}

/// A page does not take the place of the history that it is drawn from.
#[test]
fn a_history_is_not_written_over() {
    let place = Place::new();
    let history = place.path("history.jsonl");
    std::fs::write(&history, "").expect("written");
    let path = history.to_str().expect("UTF-8");
    for command in [&["report", path, "--out", path][..], &["export", path, "--better", "smaller", "--out", path]] {
        let ended = place.bench(command);
        assert_eq!((ended.code, ended.stderr.contains("it is what was read")), (Some(2), true), "{ended:?}");
    }
    assert_eq!(std::fs::read(&history).expect("there").len(), 0);
}

/// Nothing is written before everything was read.
#[test]
fn what_cannot_be_collected_leaves_the_history_as_it_was() {
    let place = Place::new();
    let good = measured("hot", "2026-11-26T06:00:00Z", 1.0);
    fs::write(place.path("runs"), format!("{good}\n{{\"workload\":1}}\n")).expect("written");
    let ended = place.bench(&["collect", "runs"]);
    assert!(ended.code == Some(4) && ended.stderr.contains("runs:2: "), "{ended:?}");
    assert!(!place.path("bench-history.jsonl").exists());
    let newer = json!({"form": "equipoise-benchmark", "version": 9});
    fs::write(place.path("bench-history.jsonl"), format!("{newer}\n")).expect("written");
    let ended = place.bench(&["report"]);
    assert!(
        ended.code == Some(4) && ended.stderr.contains("bench-history.jsonl:1: ") && ended.stderr.contains("version 9")
    );
    assert_eq!(place.bench(&["collect"]).code, Some(2));
    let lonely = place.bench(&["report", "nowhere.jsonl"]);
    assert!(lonely.code == Some(4) && lonely.stderr.contains("nowhere.jsonl"), "{lonely:?}");
}
