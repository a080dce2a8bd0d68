//! `equipoise bench run`.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use equipoise::bench::{Run, Target, Workload};

use crate::program::{BINARY, Ended, SOON, Service, ends_within, equipoise, interruptible, run, signal};

/// A fraction of a second, on few accounts, and as small as it gets.
const SHORT: [&str; 12] = [
    "--duration",
    "400ms",
    "--warm-up",
    "50ms",
    "--accounts",
    "500",
    "--batch",
    "50",
    "--callers",
    "8",
    "--json",
    "--seed=7",
];

fn runs(ended: &Ended) -> Vec<Run> {
    ended.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn measured(arguments: &[&str]) -> Vec<Run> {
    let ended = run(&mut equipoise(&[&["bench", "run"], arguments, &SHORT].concat()));
    assert!(is_done(&ended), "{ended:?}");
    runs(&ended)
}

/// Nothing is wrong, but that a debug build beside other tests may be too slow for a bound.
fn is_done(ended: &Ended) -> bool {
    let slow = ended.code == Some(1) && ended.stderr.contains("a bound is broken: ");
    slow || (ended.code, ended.stderr.as_str()) == (Some(0), "")
}

/// What must be in every run, whatever it measured.
fn is_sound(run: &Run) {
    let name = &run.workload;
    assert!(run.check.holds(), "{name}: {:?}", run.check);
    assert!(run.operations > 0 && run.rate > 0.0, "{name}: {run:?}");
    assert_eq!(run.settings.seconds, 0.4, "{name}");
    // Shortest intervals of 100 ms.
    assert_eq!(run.timeline.len(), 4, "{name}: {:?}", run.timeline);
    let over_time: f64 = run.timeline.iter().map(|moment| moment.rate * 0.1).sum();
    assert!((over_time - run.operations as f64).abs() < 1e-3 * run.operations as f64 + 1.0, "{name}: {over_time}");
    assert!(run.usage.as_ref().is_some_and(|usage| usage.resident_bytes > 1 << 20), "{name}: {:?}", run.usage);
    for call in &run.calls {
        let latency = &call.latency;
        let order = [0.0, latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max];
        assert!(order.is_sorted() && latency.p50 > 0.0 && call.failed == 0, "{name}: {call:?}");
        assert!(latency.curve.is_sorted() && latency.curve.len() >= 2, "{name}: {:?}", latency.curve);
    }
}

fn calls(run: &Run) -> BTreeSet<&str> {
    run.calls.iter().map(|call| call.name.as_str()).collect()
}

fn calls_of(workload: Workload) -> BTreeSet<&'static str> {
    let calls: &[&str] = match workload {
        Workload::Mixed | Workload::Open => &["GetBalance", "UpdateBalance", "TransferFunds"],
        Workload::Batch => &["ExecuteBatch"],
        Workload::Stream => &["ExecuteStream"],
        Workload::Snapshot => &["SnapshotBalances", "TransferFunds"],
        Workload::Contended => &["GetBalance", "UpdateBalance", "TransferFunds", "CreateAccount"],
        Workload::Create => &["CreateAccount"],
        _ => &["TransferFunds"],
    };
    calls.iter().copied().collect()
}

/// E1, E2, E3: every workload, each against a service of its own on disk, and the ledger is sound after each.
#[test]
fn every_workload_runs_against_a_service_of_its_own() {
    let runs = measured(&["all"]);
    assert_eq!(runs.len(), Workload::ALL.len());
    for (run, workload) in runs.iter().zip(Workload::ALL) {
        assert_eq!(run.workload, workload.name());
        is_sound(run);
        // On disk all of it is kept.
        assert!(!run.check.notes.iter().any(|note| note.contains("journal")), "{workload}: {:?}", run.check.notes);
        assert!(matches!(run.target, Target::Service { durable: Some(true), .. }), "{:?}", run.target);
        assert!(calls_of(workload).is_superset(&calls(run)), "{workload}: {:?}", calls(run));
    }
}

/// E1, E3: the same in this process, in memory and on disk.
#[test]
fn every_workload_runs_embedded() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().to_str().expect("UTF-8");
    for place in [&["--embedded"][..], &["--embedded", "--data-dir", dir]] {
        let runs = measured(&[&["all"], place].concat());
        for (run, workload) in runs.iter().zip(Workload::ALL) {
            is_sound(run);
            assert_eq!(run.target, Target::Embedded { durable: place.len() > 1 });
            assert!(calls_of(workload).is_superset(&calls(run)), "{workload}: {:?}", calls(run));
        }
    }
}

/// A service that holds other accounts, and goes on with them, is measured beside: nothing of theirs counts.
#[test]
fn a_service_with_other_accounts_is_measured() {
    let service = Service::start();
    service.open("account-", 100);
    let server = format!("http://{}", service.address);
    let pid = service.child.id().to_string();
    let runs = measured(&["mixed", "batch", "--server", &server, "--pid", &pid]);
    for run in &runs {
        is_sound(run);
        assert_eq!(run.target, Target::Service { server: server.clone(), durable: None, label: None });
    }
    let total = service.json(&["snapshot", "--prefix", "account-"]).pop().expect("a total");
    assert_eq!((&total["accounts"], &total["total"]), (&100.into(), &100.into()));
}

/// E2: the rate is the one that was asked for, and the bounds are judged.
#[test]
fn an_open_workload_keeps_its_rate_and_is_judged() {
    let arguments = ["bench", "run", "open", "--in-memory", "--rate", "200", "--duration", "1s", "--warm-up", "100ms"];
    let ended = run(&mut equipoise(&arguments));
    assert!(is_done(&ended), "{ended:?}");
    for expected in [
        "E2  GetBalance p99, ms: ",
        "E2  UpdateBalance p99, ms: ",
        "E2  TransferFunds p99, ms: ",
        "E2  requests a second, of 200 asked for: ",
        "E2  cores used by the service: ",
        "check        total holds, versions holds, journal holds\n",
    ] {
        assert!(ended.stdout.contains(expected), "{expected} is not in\n{}", ended.stdout);
    }
}

/// In memory a part of the journal is gone when a long run ends: that is said, and is no fault.
#[test]
fn what_was_not_looked_at_is_a_note() {
    let run = &measured(&["batch", "--embedded", "--check-entries", "100"])[0];
    is_sound(run);
    assert!(run.check.notes[0].contains("the newest 100 were read"), "{:?}", run.check);
}

/// A service that is killed under way: what was measured is printed, and it could not be checked.
#[test]
fn a_service_that_dies_is_told_of() {
    let mut service = Service::start();
    let arguments = ["bench", "run", "hot", "--duration", "4s", "--warm-up", "0s", "--json", "--server"];
    let mut command = equipoise(&arguments);
    command.arg(&service.address).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("it runs");
    service.wait_for_load();
    service.child.kill().expect("a child");
    let output = child.wait_with_output().expect("its output");
    let run: Run = serde_json::from_slice(&output.stdout).expect("one run");
    assert_eq!(output.status.code(), Some(3), "{run:?}");
    assert!(run.operations > 0 && run.calls[0].failed > 0, "{run:?}");
    assert!(run.check.notes[0].starts_with("the ledger cannot be read: cannot reach "), "{:?}", run.check);
    assert!(!run.check.fails(), "{:?}", run.check);
    assert!(run.check.notes.iter().any(|note| note.contains("calls failed, one of them with TransferFunds: ")));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("could not be checked: hot"), "{stderr}");
}

/// An interrupt ends the run, and what there is is printed.
#[test]
fn an_interrupt_ends_it_early() {
    let service = Service::start();
    let arguments = ["bench", "run", "hot", "uniform", "--duration", "1m", "--warm-up", "0s", "--json", "--server"];
    let mut command = interruptible(BINARY, &arguments);
    command.arg(&service.address).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    service.wait_for_load();
    signal(&child, "INT");
    let status = ends_within(&mut child, SOON);
    let output = child.wait_with_output().expect("its output");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let runs: Vec<Run> = stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!((status.code(), runs.len()), (Some(130), 1), "{stdout}");
    assert!(runs[0].settings.seconds < 30.0 && runs[0].operations > 0 && runs[0].check.holds(), "{:?}", runs[0]);
    assert!(runs[0].check.notes.iter().any(|note| note.starts_with("it was ended after")), "{:?}", runs[0].check);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("note: ending early; once more to end at once\n"), "{stderr}");
}

/// The second interrupt ends the program at once, and the service that it started with it.
#[test]
#[cfg(target_os = "linux")]
fn a_second_interrupt_leaves_nothing_behind() {
    let arguments = ["bench", "run", "hot", "--in-memory", "--duration", "1m", "--json"];
    let mut command = interruptible(BINARY, &arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let began = Instant::now();
    let service = loop {
        let pid = std::fs::read_to_string(&children).ok().and_then(|pids| pids.trim().parse::<u32>().ok());
        // Started, and become the service.
        if let Some(pid) = pid
            && std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(5).any(|part| part == b"serve"))
        {
            break pid;
        }
        assert!(began.elapsed() < SOON, "no service");
        thread::sleep(Duration::from_millis(5));
    };
    signal(&child, "INT");
    thread::sleep(Duration::from_millis(50));
    signal(&child, "INT");
    // A run that ended by the first one alone is as good.
    ends_within(&mut child, SOON);
    let began = Instant::now();
    while std::fs::read(format!("/proc/{service}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(began.elapsed() < SOON, "the service runs on");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_means_nothing_is_refused_by_name() {
    let cases: [(&[&str], i32, &str); 12] = [
        (&["hot", "--server", "127.0.0.1:1", "--history", "/nowhere/h"], 2, "--label"),
        (&["hot", "--server", "127.0.0.1:1", "--history", "/nowhere/h", "--label", ""], 2, "--label"),
        (&["hot", "--embedded", "--threads", "3"], 2, "--threads 3 means nothing to an embedded ledger"),
        (&["hot", "--embedded", "--connections", "3"], 2, "--connections 3 means nothing to an embedded ledger"),
        (&["hot", "--rate", "5"], 2, "--rate 5 means nothing to hot"),
        (&["open", "--batch", "5"], 2, "--batch 5 means nothing to open"),
        (&["hot", "create", "--accounts", "50"], 2, "--accounts 50 means nothing to hot, create"),
        (&["fast"], 2, "'fast'"),
        (&["hot", "--duration", "0s"], 2, "'0s' for '--duration"),
        (&["open", "--rate", "-1"], 2, "--rate"),
        (&["hot", "--server", "127.0.0.1:1", "--embedded"], 2, "--embedded"),
        (&["hot", "--server", "127.0.0.1:1"], 3, "cannot reach http://127.0.0.1:1"),
    ];
    for (arguments, code, text) in cases {
        let ended = run(&mut equipoise(&[&["bench", "run"], arguments].concat()));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(text), "{arguments:?}: {}", ended.stderr);
    }
    let nowhere = run(&mut equipoise(&["bench", "run", "hot", "--data-dir", "/dev/null/x"]));
    assert_eq!(nowhere.code, Some(4));
    assert!(nowhere.stderr.contains("ended before it was ready"), "{}", nowhere.stderr);
}
