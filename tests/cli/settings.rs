//! Where the service's settings come from, and what is said of wrong ones.

use std::process::Command;

use crate::program::{Service, TempFile, equipoise, run};

/// The settings in effect, with nothing said beside them.
fn settings(command: &mut Command) -> toml::Table {
    let ended = run(command.args(["serve", "--print-config"]));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    ended.stdout.parse().expect("TOML and nothing else")
}

#[test]
fn the_printed_settings_can_be_read_back() {
    let changed = [
        ("EQUIPOISE_LISTEN", "[::1]:7"),
        ("EQUIPOISE_HISTORY", "5"),
        ("EQUIPOISE_IDS", "6"),
        ("EQUIPOISE_MAX_CONNECTIONS", "7"),
        ("EQUIPOISE_LOG", "warn,equipoise=debug"),
    ];
    let printed = settings(equipoise(&[]).envs(changed));
    assert_eq!(printed["log"].as_str(), Some("warn,equipoise=debug"));
    let file = TempFile::new("round-trip", &printed.to_string());
    assert_eq!(settings(equipoise(&[]).env("EQUIPOISE_CONFIG", file.path())), printed);
    let ended = run(&mut equipoise(&["serve", "--print-config", "--config", file.path()]));
    assert_eq!(ended.stdout.parse::<toml::Table>().expect("TOML"), printed);
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let file = TempFile::new("order", "history = 1\nids = 1\nlog = \"off\"\n");
    let command = || {
        let mut command = equipoise(&["serve", "--print-config", "--config", file.path(), "--history", "3"]);
        command.env("EQUIPOISE_HISTORY", "2").env("EQUIPOISE_IDS", "2").env("EQUIPOISE_LOG", "");
        command
    };
    let ended = run(&mut command());
    let expected = "listen = \"127.0.0.1:50051\"\nhistory = 3\nids = 2\nmax_connections = 10000\nlog = \"off\"\n";
    assert_eq!(ended.stdout, expected, "an empty variable is unset: {ended:?}");
}

#[test]
fn wrong_settings_are_named_with_value_and_place() {
    let unknown = TempFile::new("unknown", "hsitory = 1\n");
    let kind = TempFile::new("kind", "ids = true\n");
    let syntax = TempFile::new("syntax", "ids = 1\nhistory = \n");
    let file = |file: &TempFile| {
        let mut command = equipoise(&["serve", "--config"]);
        command.arg(file.path());
        command
    };
    let environment = |name: &str, value: &str| {
        let mut command = equipoise(&["serve"]);
        command.env(name, value);
        command
    };
    let cases: [(Command, &[&str]); 8] = [
        (file(&unknown), &["unknown key \"hsitory\"", unknown.path()]),
        (file(&kind), &["\"true\"", "the key ids", kind.path()]),
        (file(&syntax), &[syntax.path(), "line 2"]),
        (equipoise(&["serve", "--config", "/no/such/file"]), &["/no/such/file", "No such file"]),
        (environment("EQUIPOISE_IDS", "many"), &["\"many\"", "EQUIPOISE_IDS", "whole number"]),
        (equipoise(&["serve", "--history", "0"]), &["\"0\"", "--history", "from 1"]),
        (equipoise(&["serve", "--listen", "nowhere"]), &["\"nowhere\"", "--listen", "HOST:PORT"]),
        (equipoise(&["serve", "--log", "inof"]), &["\"inof\"", "--log"]),
    ];
    for (mut command, expected) in cases {
        let ended = run(&mut command);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.lines().count() == 1, "{ended:?}");
        for part in expected {
            assert!(ended.stderr.contains(part), "{part:?} is not in {ended:?}");
        }
    }
}

#[test]
fn an_unknown_variable_is_warned_of_and_ignored() {
    let ended = run(equipoise(&["serve", "--print-config"]).env("EQUIPOISE_LISTNE", "x"));
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stderr, "warning: no setting is called EQUIPOISE_LISTNE; ignored\n");
}

/// The settings reach the service: with one connection allowed, a second one is closed.
#[test]
fn settings_take_effect() {
    use std::io::Read;
    use std::net::TcpStream;
    use std::time::Duration;

    let mut command = equipoise(&["serve", "--listen", "127.0.0.1:0"]);
    let service = Service::start_as(command.env("EQUIPOISE_MAX_CONNECTIONS", "1"));
    let _first = TcpStream::connect(&service.address).expect("a connection");
    let mut second = TcpStream::connect(&service.address).expect("a connection");
    second.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    assert!(matches!(second.read(&mut [0]), Ok(0) | Err(_)));
}
