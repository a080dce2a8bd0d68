//! How `equipoise bench run` ends when something is not as it should be: what is kept, what is said, and the exit code.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Ended, Service, ends_within, equipoise, run, signal};

fn bench(arguments: &[&str]) -> Command {
    equipoise(&[&["bench", "run"], arguments].concat())
}

fn one_run(ended: &Ended) -> Value {
    let [run] = ended.json().try_into().unwrap_or_else(|runs| panic!("{runs:?}: {ended:?}"));
    run
}

fn begin(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn end(mut child: Child) -> Ended {
    let status = ends_within(&mut child, Duration::from_secs(20));
    let output = child.wait_with_output().expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until a run changes accounts.
fn wait_for_load(service: &Service) {
    let began = Instant::now();
    let loaded = |account: &Value| account["version"].as_u64() > Some(9);
    while !service.json(&["accounts", "--prefix", "bench-"]).iter().any(loaded) {
        assert!(began.elapsed() < Duration::from_secs(30), "nothing happens");
        thread::sleep(Duration::from_millis(10));
    }
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

/// A stall that lasts past the end is seen by those that wait in it.
#[test]
fn a_stall_at_the_end_is_seen_by_callers_that_wait() {
    let service = Service::start();
    let mut command = bench(&["mixed", "--duration", "1s", "--warm-up", "0s", "--callers", "8", "--json"]);
    let child = begin(command.args(["--accounts", "10", "--server", &service.address]));
    wait_for_load(&service);
    signal(&service.child, "STOP");
    thread::sleep(Duration::from_millis(1_500));
    signal(&service.child, "CONT");
    let ended = end(child);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let run = one_run(&ended);
    let calls = run["calls"].as_array().expect("a list");
    let longest = calls.iter().filter_map(|call| call["latency"]["max"].as_f64()).fold(0.0, f64::max);
    assert!(longest > 1_000_000.0, "{run}");
}
