//! The service's beginning and end.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::program::{SOON, Service, TempFile, ends_within, equipoise, run, run_for, signal};

/// E4, case A11: gone within 5 s of the signal, whatever clients do, and with exit code 0.
#[test]
fn e4_a_signal_ends_the_service_in_time() {
    for name in ["TERM", "INT"] {
        let mut service = Service::start_as(&mut equipoise(&LOGGING));
        service.json(&["create", "a"]);
        let mut watch = watching(&service);
        let idle = TcpStream::connect(&service.address).expect("a connection");
        let mut asleep = watching(&service);
        signal(&asleep, "STOP");
        signal(&service.child, name);
        service.says("shutting down");
        let status = ends_within(&mut service.child, Duration::from_secs(5));
        asleep.kill().expect("a child");
        asleep.wait().expect("a child");
        assert_eq!(status.code(), Some(0), "SIG{name}");
        drop(idle);
        // The watcher hears that the service went away.
        assert_eq!(ends_within(&mut watch, SOON).code(), Some(3));
    }
}

/// Case A11: a second signal does not wait for anybody, not for a client that is asleep.
#[test]
fn e4_a_second_signal_ends_it_at_once() {
    let mut service = Service::start_as(&mut equipoise(&LOGGING));
    service.json(&["create", "a"]);
    let mut asleep = watching(&service);
    signal(&asleep, "STOP");
    signal(&service.child, "TERM");
    service.says("shutting down");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(service.child.try_wait().expect("a child"), None, "it waits for the sleeper");
    signal(&service.child, "TERM");
    // It would wait for 3 s.
    let status = ends_within(&mut service.child, Duration::from_millis(2_500));
    asleep.kill().expect("a child");
    asleep.wait().expect("a child");
    assert_eq!(status.code(), Some(0));
}

/// A service that says when it is told to end.
const LOGGING: [&str; 6] = ["serve", "--in-memory", "--listen", "127.0.0.1:0", "--log", "info"];

/// A watcher that has heard of what was done so far.
fn watching(service: &Service) -> Child {
    let mut command = service.command(&["watch"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
    // A pipe that is dropped would end it.
    let mut heard = BufReader::new(child.stdout.take().expect("piped"));
    heard.read_line(&mut String::new()).expect("a line");
    child.stdout = Some(heard.into_inner());
    child
}

#[test]
fn a_port_in_use_is_named() {
    let service = Service::start();
    let ended = run(&mut equipoise(&["serve", "--in-memory", "--listen", &service.address]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(
        ended.stderr.contains(&format!("cannot listen on {}: Address already in use", service.address)),
        "{ended:?}"
    );
}

/// E4: what the service says is where its state lives, then its address, then that it takes calls.
#[test]
fn it_says_where_its_state_lives() {
    let memory = Service::start();
    assert_eq!(memory.said[0], "state lives in memory: it is lost when the service ends");
    assert_eq!(memory.said[1..], [format!("listening on {}", memory.address), "ready".to_owned()]);
    let dir = tempfile::tempdir().expect("a directory");
    let command = &mut equipoise(&["serve", "--listen", "127.0.0.1:0", "--log", "info", "--data-dir", "d"]);
    let mut disk = Service::start_as(command.current_dir(dir.path()));
    let path = dir.path().join("d");
    assert_eq!(disk.said[0], format!("state lives in {}", path.display()), "an absolute path");
    assert_eq!(disk.said[1], format!("listening on {}", disk.address));
    assert!(disk.said[2..].iter().all(|line| line == "ready" || line.starts_with('{')), "{:?}", disk.said);
    assert_eq!(disk.json(&["create", "a", "--balance", "5"])[0]["balance"], 5);
    signal(&disk.child, "TERM");
    assert_eq!(ends_within(&mut disk.child, SOON).code(), Some(0));
}

/// C2: a data directory that is none is named.
#[test]
fn a_data_directory_that_cannot_be_opened_is_named() {
    let file = TempFile::new("no-directory", "");
    let ended = run_for(&mut equipoise(&["serve", "--listen", "127.0.0.1:0", "--data-dir", file.path()]), SOON);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{ended:?}");
    let error = ended.stderr.lines().last().expect("an error");
    assert!(error.starts_with("error: ") && error.contains(file.path()), "{ended:?}");
    assert!(!ended.stderr.contains("ready"), "{ended:?}");
}

/// Case A14: a second service on one directory ends, naming it and who holds it; the first goes on.
#[test]
fn a_second_service_on_one_directory_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", path];
    let mut first = Service::start_as(&mut equipoise(&arguments));
    first.json(&["create", "a", "--balance", "5"]);
    let ended = run_for(&mut equipoise(&arguments), SOON);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let error = format!("error: {path} is in use by process {}", first.child.id());
    assert_eq!(ended.stderr.lines().last(), Some(error.as_str()), "{ended:?}");
    // Nothing needs removing by hand after a kill.
    first.child.kill().expect("a child");
    first.child.wait().expect("a child");
    let again = Service::start_as(&mut equipoise(&arguments));
    assert_eq!(again.json(&["balance", "a"])[0]["balance"], 5);
}

/// A13: a misspelt target silences even errors, which is said.
#[test]
fn a_log_filter_for_others_alone_is_told() {
    for (filter, told) in [("equipose=debug", true), ("warn,equipose=debug", false)] {
        let service =
            Service::start_as(&mut equipoise(&["serve", "--in-memory", "--listen=127.0.0.1:0", "--log", filter]));
        let warned =
            service.said.iter().any(|line| line.starts_with("warning: the log filter equipose=debug names no"));
        assert_eq!(warned, told, "{:?}", service.said);
    }
}

/// D6: a variable for Kafka that does nothing, because the one that asks for it is missing or misspelt.
#[test]
#[cfg(feature = "kafka")]
fn a_variable_for_kafka_without_brokers_is_told() {
    let of_kubernetes = [("KAFKA_PORT", "tcp://10.0.0.1:9092"), ("KAFKA_SERVICE_HOST", "10.0.0.1")];
    for (variable, told) in [(Some("KAFKA_BROKER"), true), (Some("KAFKA_BOOTSTRAP_SERVERS"), true), (None, false)] {
        let mut command = equipoise(&["serve", "--in-memory", "--listen=127.0.0.1:0"]);
        command.envs(of_kubernetes).envs(variable.map(|variable| (variable, "10.0.0.1:9092")));
        let service = Service::start_as(&mut command);
        let expected =
            format!("warning: {} without KAFKA_BROKERS: no events are consumed", variable.unwrap_or_default());
        assert_eq!(service.said.contains(&expected), told, "{:?}", service.said);
        assert_eq!(service.said.iter().any(|line| line.starts_with("warning:")), told, "{:?}", service.said);
    }
}
