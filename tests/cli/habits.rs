//! Exit codes, streams, pipes and colours.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Instant;

use crate::program::{SOON, Service, ends_within, equipoise, run};

#[test]
fn exit_codes_mean_something() {
    let service = Service::start();
    service.json(&["create", "a"]);
    let cases: [(&[&str], i32); 9] = [
        (&["balance", "nobody"], 1),
        (&["create", "a"], 1),
        (&["update", "a", "-1"], 1),
        (&["transaction", "never-seen"], 1),
        (&["transfer", "a", "a", "1"], 2),
        (&["create", "b", "--balance", "-1"], 2),
        (&["balance", ""], 2),
        (&["update", "a", "much"], 2),
        (&["balance", "a", "--server", "127.0.0.1:1"], 3),
    ];
    for (arguments, code) in cases {
        let ended = service.run(arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{arguments:?}: {ended:?}");
    }
    // A3: the text is exact.
    assert_eq!(service.run(&["balance", "nobody"]).stderr, "error: Account nobody not found\n");
}

#[test]
fn a_service_that_is_away_is_named_and_the_id_told() {
    let ended = run(&mut equipoise(&["update", "a", "5", "--server", "127.0.0.1:1"]));
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("cannot reach http://127.0.0.1:1: Connection refused"), "{ended:?}");
    assert!(ended.stderr.contains("--id '"), "{ended:?}");
    let error = run(&mut equipoise(&["update", "a", "5", "--server", "127.0.0.1:1", "--id", "u1", "--json"])).error();
    assert_eq!((error["code"].as_str(), error["transaction_id"].as_str()), (Some("UNAVAILABLE"), Some("u1")));
}

/// A service that accepts and then says nothing is given up at the timeout.
#[test]
fn the_timeout_holds() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let began = Instant::now();
    let ended = run(&mut equipoise(&["balance", "a", "--server", &address, "--timeout", "300ms"]));
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("within 300ms"), "{ended:?}");
    assert!(began.elapsed() < SOON);
}

#[test]
fn help_and_version_and_nothing() {
    let help = run(&mut equipoise(&["--help"]));
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("Exit codes:"));
    let version = run(&mut equipoise(&["--version"]));
    assert_eq!(version.stdout, concat!("equipoise ", env!("CARGO_PKG_VERSION"), "\n"));
    let nothing = run(&mut equipoise(&[]));
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
    assert!(nothing.stderr.contains("Usage:"));
    assert_eq!(run(&mut equipoise(&["balance", "a", "--wrong"])).code, Some(2));
}

/// More output than a pipe holds, and a reader that leaves after one line: quiet, and no failure.
#[test]
fn a_closed_pipe_is_quiet() {
    let service = Service::start();
    service.open("account-", 5_000);
    for arguments in [&["snapshot", "--json"][..], &["accounts"], &["watch", "--from", "1"]] {
        let mut child = service.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let status = ends_within(&mut child, SOON);
        let mut stderr = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!line.is_empty());
    }
}

/// `watch | true` ends although nothing happens on the service.
#[test]
fn a_watch_without_news_sees_its_reader_leave() {
    let service = Service::start();
    let mut child = service.command(&["watch"]).stdout(Stdio::piped()).spawn().expect("runs");
    drop(child.stdout.take());
    assert_eq!(ends_within(&mut child, SOON).code(), Some(0));
}

#[test]
fn a_watch_prints_what_happens_while_it_runs() {
    let service = Service::start();
    let mut child = service.command(&["watch", "--from", "1", "--json"]).stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    for sequence in 1..=3 {
        service.json(&["create", &format!("a{sequence}")]);
        let line = lines.next().expect("a line").expect("text");
        let entry: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(entry["sequence"], sequence);
    }
    drop(lines);
    ends_within(&mut child, SOON);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let service = Service::start();
    service.json(&["create", "a"]);
    for arguments in [&["snapshot", "--json"][..], &["balance", "a"], &["--help"], &["serve", "--print-config"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let ended = run(service.command(arguments).stdout(full));
        assert_eq!(ended.code, Some(4), "{arguments:?}");
        assert!(ended.stderr.contains("cannot write the output: No space left"), "{ended:?}");
    }
}

/// Wrong usage is that also where nobody can be told.
#[cfg(target_os = "linux")]
#[test]
fn wrong_usage_has_its_code_without_stderr() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    assert_eq!(run(equipoise(&["balance", "a", "--wrong"]).stderr(full)).code, Some(2));
}

#[test]
fn colours_are_for_terminals() {
    let service = Service::start();
    let forced = run(service.command(&["accounts"]).env("CLICOLOR_FORCE", "1"));
    assert!(forced.stdout.contains('\u{1b}'), "{forced:?}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "xterm-256color")] {
        let plain = run(service.command(&["accounts"]).env(name, value));
        assert!(!plain.stdout.contains('\u{1b}'), "{plain:?}");
    }
    let json = run(service.command(&["snapshot", "--json"]).env("CLICOLOR_FORCE", "1"));
    assert!(!json.stdout.contains('\u{1b}'), "{json:?}");
}
