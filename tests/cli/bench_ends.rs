//! How `equipoise bench run` ends when something is not as it should be: what is kept, what is said, and the exit code.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{BINARY, Ended, SOON, Service, ends_within, equipoise, interruptible, run, run_for, signal};

fn bench(arguments: &[&str]) -> Command {
    interruptible(BINARY, &[&["bench", "run"], arguments].concat())
}

fn one_run(ended: &Ended) -> Value {
    let [run] = ended.json().try_into().unwrap_or_else(|runs| panic!("{runs:?}: {ended:?}"));
    run
}

fn begin(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn end(mut child: Child) -> Ended {
    let status = ends_within(&mut child, SOON);
    let output = child.wait_with_output().expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }
}

fn rows(history: &str) -> Vec<Value> {
    let text = fs::read_to_string(history).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// E2: a bound that is broken is an exit code, and stands in the JSON and on the page. What was answered after the end is not
/// throughput.
#[test]
fn more_than_it_can_do_breaks_the_bound() {
    let place = Place::new();
    let (page, history) = (place.path("page.html"), place.path("history"));
    let arguments = ["open", "--in-memory", "--rate", "100000", "--duration", "300ms", "--warm-up", "0s", "--json"];
    let ended =
        run(bench(&arguments).args(["--accounts=100", "--timeout=500ms", "--html", &page, "--history", &history]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.starts_with("{\"error\":") && ended.stderr.contains("a bound is broken: open: E2"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("E2 requests a second"), "{ended:?}");
    let run = one_run(&ended);
    let verdicts = run["verdicts"].as_array().expect("a list");
    let rate = verdicts.iter().find(|verdict| verdict["what"].as_str().is_some_and(|what| what.contains("requests")));
    assert_eq!(rate.expect("judged")["held"], false, "{run}");
    let page = fs::read_to_string(page).expect("a page");
    assert!(page.contains("E2") && page.contains("BROKEN"), "{page}");

    let due: u64 = run["calls"].as_array().expect("a list").iter().filter_map(|call| call["due"].as_u64()).sum();
    assert_eq!(due, 30_000, "{run}");
    let operations = run["operations"].as_u64().expect("a number");
    assert!(operations > 0 && operations < due * 9 / 10, "{operations} of {due}");
    let rates: Vec<_> =
        run["timeline"].as_array().expect("a list").iter().filter_map(|moment| moment["rate"].as_f64()).collect();
    let rate = run["rate"].as_f64().expect("a number");
    let (least, most) = (rates.iter().copied().fold(rate, f64::min), rates.iter().copied().fold(0.0, f64::max));
    assert!(least <= rate && rate <= most, "{rate} of {rates:?}");
    assert!((rate * 0.3 - operations as f64).abs() < 1.0, "{rate}, {operations}");
    assert_eq!(rows(&history)[0]["metrics"][0]["value"].as_f64(), Some(rate));
}

/// E2: calls that nobody answered count, as late as they are by then, and no bound is held that they break.
#[test]
fn calls_without_an_answer_are_judged() {
    let service = Service::start();
    let mut command = bench(&["open", "--rate", "200", "--duration", "10s", "--warm-up", "0s", "--json"]);
    command.args(["--accounts", "10", "--timeout", "500ms", "--server", &service.address]);
    let child = begin(&mut command);
    service.wait_for_load();
    signal(&service.child, "STOP");
    let ended = end(child);
    signal(&service.child, "CONT");
    assert_ne!(ended.code, Some(0), "{ended:?}");
    let run = one_run(&ended);
    let sum = |key: &str| -> u64 {
        run["calls"].as_array().expect("a list").iter().filter_map(|call| call[key].as_u64()).sum()
    };
    assert_eq!(sum("due"), 2_000, "{run}");
    assert!(sum("unanswered") > 0 && sum("calls") + sum("unanswered") == 2_000, "{run}");
    for verdict in run["verdicts"].as_array().expect("a list") {
        if verdict["what"].as_str().is_some_and(|what| what.contains("p99")) {
            assert_eq!(verdict["held"], false, "{verdict}");
        }
    }
}

/// A stall that lasts past the end is seen by those that wait in it.
#[test]
fn a_stall_at_the_end_is_seen_by_callers_that_wait() {
    let service = Service::start();
    let mut command = bench(&["mixed", "--duration", "10s", "--warm-up", "0s", "--callers", "8", "--json"]);
    let child = begin(command.args(["--accounts", "10", "--server", &service.address]));
    service.wait_for_load();
    signal(&service.child, "STOP");
    thread::sleep(Duration::from_millis(11_500));
    signal(&service.child, "CONT");
    let ended = end(child);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let run = one_run(&ended);
    let calls = run["calls"].as_array().expect("a list");
    let longest = calls.iter().filter_map(|call| call["latency"]["max"].as_f64()).fold(0.0, f64::max);
    assert!(longest > 1_000_000.0, "{run}");
}

/// What cannot be written is said before anything is measured.
#[test]
fn a_page_that_cannot_be_written_is_no_lost_run() {
    let place = Place::new();
    let arguments = ["hot", "--embedded", "--duration", "100ms", "--warm-up", "0s", "--html", "/nowhere/page.html"];
    let ended = run(bench(&arguments).args(["--history", &place.path("history")]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere/page.html: "), "{}", ended.stderr);
}

/// A workload that cannot run takes none of the figures before it along.
#[test]
fn what_was_measured_before_a_failure_is_kept() {
    let place = Place::new();
    let (page, history) = (place.path("page.html"), place.path("history"));
    let mut service = Service::start();
    let mut command = bench(&["hot", "mixed", "contended", "--duration", "3s", "--warm-up", "0s", "--json"]);
    command.args([
        "--server",
        &service.address,
        "--timeout",
        "1s",
        "--html",
        &page,
        "--history",
        &history,
        "--label=here",
    ]);
    let mut child = begin(command.arg("--accounts=10"));
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut first = String::new();
    stdout.read_line(&mut first).expect("a run");
    service.child.kill().expect("a child");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    let ended = end(child);
    assert_eq!(ended.code, Some(3), "{ended:?} {rest}");
    assert!(ended.stderr.contains("cannot reach "), "{ended:?}");
    let rows = rows(&history);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["benchmark"], "hot");
    assert!(fs::read_to_string(page).expect("a page").contains("hot"));
}

/// What was cut off is no figure to compare with, and the rest that was asked for did not run.
#[test]
fn an_interrupt_is_an_exit_code_and_leaves_no_row() {
    let place = Place::new();
    let history = place.path("history");
    let service = Service::start();
    let mut command = bench(&["hot", "zipf", "uniform", "--duration", "1m", "--warm-up", "0s", "--json"]);
    let child = begin(command.args(["--server", &service.address, "--history", &history, "--label=here"]));
    service.wait_for_load();
    signal(&child, "INT");
    let ended = end(child);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    let run = one_run(&ended);
    assert_eq!((&run["workload"], &run["cut"]), (&"hot".into(), &true.into()));
    assert!(rows(&history).is_empty());
    assert!(ended.stderr.contains("interrupted: hot was cut off; zipf, uniform did not run"), "{ended:?}");
}

/// Takes connections, and says nothing.
fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

/// Nothing waits for ever for a service that does not answer.
#[test]
fn a_service_that_does_not_answer_is_given_up() {
    let (_listener, address) = mute();
    let mut command = bench(&["hot", "--server", &address, "--timeout", "300ms"]);
    let ended = run_for(&mut command, SOON);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("300ms"), "{ended:?}");
}

/// One interrupt is enough, also for a run that waits for an answer.
#[test]
fn an_interrupt_ends_the_wait_for_an_answer() {
    let (listener, address) = mute();
    let child = begin(&mut bench(&["hot", "--server", &address, "--timeout", "10m"]));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(listener.accept()));
    let _connection = told.recv_timeout(SOON).expect("it connects");
    signal(&child, "INT");
    let ended = end(child);
    assert_eq!(ended.code, Some(130), "{ended:?}");
}

/// What could not be looked at was not found to be wrong, and is printed.
#[test]
fn a_ledger_that_cannot_be_read_is_not_a_wrong_one() {
    let place = Place::new();
    let page = place.path("page.html");
    let service = Service::start();
    let mut command = bench(&["hot", "--duration", "10s", "--warm-up", "0s", "--json", "--html", &page]);
    let child = begin(command.args(["--timeout", "500ms", "--server", &service.address]));
    service.wait_for_load();
    signal(&service.child, "STOP");
    let ended = end(child);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let check = one_run(&ended)["check"].take();
    for part in ["total", "versions", "journal"] {
        assert!(check[part].is_null(), "{check}");
    }
    assert!(ended.stderr.contains("could not be checked: hot"), "{}", ended.stderr);
    let page = fs::read_to_string(page).expect("a page");
    assert!(page.contains("could not be checked") && !page.contains("found to be wrong"), "{page}");
}

#[test]
fn a_journal_that_was_not_read_neither_holds_nor_fails() {
    let arguments = ["hot", "--embedded", "--duration", "100ms", "--warm-up", "0s", "--check-entries", "0"];
    let ended = run(bench(&arguments).arg("--json"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let check = one_run(&ended)["check"].take();
    assert!(check["total"] == true && check["journal"].is_null(), "{check}");
    let text = run(&mut bench(&arguments)).stdout;
    assert!(text.contains("total holds, versions holds, journal not looked at\n"), "{text}");
}

/// However soon after the one before.
#[test]
fn every_run_is_a_row() {
    let place = Place::new();
    let history = place.path("history");
    for count in 1..=3 {
        let arguments = ["hot", "--embedded", "--duration", "100ms", "--warm-up", "0s", "--history", &history];
        let ended = run(&mut bench(&arguments));
        assert_eq!((ended.code, rows(&history).len()), (Some(0), count), "{ended:?}");
    }
}

/// Others add to the history while a run is measured.
#[test]
fn a_history_is_free_while_a_run_is_measured() {
    let place = Place::new();
    let history = place.path("history");
    let arguments = ["hot", "--embedded", "--duration", "10s", "--warm-up", "0s", "--history", &history];
    let began = Instant::now();
    let mut child = begin(&mut bench(&arguments));
    while !Path::new(&history).exists() {
        assert!(began.elapsed() < SOON, "no history");
        thread::sleep(Duration::from_millis(5));
    }
    let mut collect = equipoise(&["bench", "collect", "--history", &history, "/dev/null"]);
    let collected = run_for(&mut collect, SOON);
    assert_eq!(collected.code, Some(0), "{collected:?}");
    assert!(child.try_wait().expect("a child").is_none(), "it waited for the run");
    assert_eq!(end(child).code, Some(0));
    assert_eq!(rows(&history).len(), 1);
}
