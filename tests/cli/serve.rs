//! The service's beginning and end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Service, ends_within, equipoise, run, signal};

/// E4, A11: gone within 5 s of the signal, whatever clients do, and with exit code 0.
#[test]
fn e4_a_signal_ends_the_service_in_time() {
    for name in ["TERM", "INT"] {
        let mut service = Service::start();
        service.json(&["create", "a"]);
        let mut watch = quiet(service.command(&["watch"])).spawn().expect("runs");
        let idle = std::net::TcpStream::connect(&service.address).expect("a connection");
        let mut asleep = quiet(service.command(&["watch"])).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(300));
        signal(&asleep, "STOP");
        let began = Instant::now();
        signal(&service.child, name);
        let status = ends_within(&mut service.child, Duration::from_secs(5));
        let took = began.elapsed();
        asleep.kill().expect("a child");
        asleep.wait().expect("a child");
        assert_eq!(status.code(), Some(0), "SIG{name}");
        assert!(took < Duration::from_secs(5), "SIG{name}: {took:?}");
        drop(idle);
        // The watcher hears that the service went away.
        assert_eq!(ends_within(&mut watch, Duration::from_secs(5)).code(), Some(3));
    }
}

/// A11: a second signal does not wait for anybody, not for a client that is asleep.
#[test]
fn e4_a_second_signal_ends_it_at_once() {
    let mut service = Service::start();
    let mut asleep = quiet(service.command(&["watch"])).spawn().expect("runs");
    std::thread::sleep(Duration::from_millis(300));
    signal(&asleep, "STOP");
    signal(&service.child, "TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(service.child.try_wait().expect("a child"), None, "it waits for the sleeper");
    signal(&service.child, "TERM");
    let status = ends_within(&mut service.child, Duration::from_secs(1));
    asleep.kill().expect("a child");
    asleep.wait().expect("a child");
    assert_eq!(status.code(), Some(0));
}

fn quiet(mut command: Command) -> Command {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn a_port_in_use_is_named() {
    let service = Service::start();
    let ended = run(&mut equipoise(&["serve", "--listen", &service.address]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(
        ended.stderr.contains(&format!("cannot listen on {}: Address already in use", service.address)),
        "{ended:?}"
    );
}

#[test]
fn a_data_directory_is_refused_until_there_is_a_journal_on_disk() {
    for command in [&mut equipoise(&["serve", "--data-dir", "d"]), equipoise(&["serve"]).env("EQUIPOISE_DATA_DIR", "d")]
    {
        let ended = run(command);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("cannot be used yet") && ended.stderr.contains("in memory"), "{ended:?}");
    }
}
