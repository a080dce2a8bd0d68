//! Where the service's settings come from, and what is said of wrong ones.

use std::process::Command;

use crate::program::{SOON, Service, TempFile, equipoise, run};

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
        ("EQUIPOISE_METRICS_LISTEN", "127.0.0.1:9"),
        ("EQUIPOISE_DATA_DIR", "data \"here\""),
        ("EQUIPOISE_IN_MEMORY", "false"),
        ("EQUIPOISE_IDS", "6"),
        ("EQUIPOISE_ID_WINDOW", "90m"),
        ("EQUIPOISE_SEGMENT_BYTES", "1048576"),
        ("EQUIPOISE_CHECKPOINT_EVERY", "8"),
        ("EQUIPOISE_HISTORY", "5"),
        ("EQUIPOISE_MAX_CONNECTIONS", "7"),
        ("EQUIPOISE_LOG", "warn,equipoise=debug"),
    ];
    let printed = settings(equipoise(&[]).envs(changed));
    assert_eq!(printed["log"].as_str(), Some("warn,equipoise=debug"));
    assert_eq!(printed.len(), changed.len());
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
        command.env("XDG_DATA_HOME", "/data");
        command
    };
    let ended = run(&mut command());
    let expected = "\
listen = \"127.0.0.1:50051\"
data_dir = \"/data/equipoise\"
in_memory = false
ids = 2
id_window = \"24h\"
segment_bytes = 16777216
checkpoint_every = 1000000
history = 3
max_connections = 10000
log = \"off\"
";
    assert_eq!(ended.stdout, expected, "an empty variable is unset: {ended:?}");
}

/// The four spellings of where the state lives, and what is printed can be read back.
#[test]
fn memory_is_asked_for() {
    let file = TempFile::new("memory", "in_memory = true\n");
    let flag = &mut equipoise(&["serve", "--print-config", "--in-memory"]);
    // A weaker source's directory gives way.
    flag.env("EQUIPOISE_DATA_DIR", "d");
    let variable = &mut equipoise(&["serve", "--print-config"]);
    variable.env("EQUIPOISE_IN_MEMORY", "true");
    let key = &mut equipoise(&["serve", "--print-config", "--config", file.path()]);
    for command in [flag, variable, key] {
        let ended = run(command);
        let printed: toml::Table = ended.stdout.parse().expect("TOML");
        assert_eq!(printed["in_memory"].as_bool(), Some(true), "{ended:?}");
        assert!(!printed.contains_key("data_dir"), "{ended:?}");
        let file = TempFile::new("memory-again", &ended.stdout);
        assert_eq!(settings(equipoise(&[]).env("EQUIPOISE_CONFIG", file.path())), printed);
    }
    let ended = run(equipoise(&["serve", "--print-config", "--in-memory=false"]).env("EQUIPOISE_IN_MEMORY", "true"));
    assert!(ended.stdout.contains("in_memory = false"), "{ended:?}");
}

#[test]
fn wrong_settings_are_named_with_value_and_place() {
    let unknown = TempFile::new("unknown", "hsitory = 1\n");
    let kind = TempFile::new("kind", "ids = true\n");
    let syntax = TempFile::new("syntax", "ids = 1\nhistory = \n");
    let both = TempFile::new("both", "in_memory = true\ndata_dir = \"d\"\n");
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
    let mut stronger = equipoise(&["serve", "--data-dir", "d"]);
    stronger.env("EQUIPOISE_IN_MEMORY", "true");
    let cases: [(Command, &[&str]); 15] = [
        (file(&both), &["the key in_memory in", "the key data_dir in", both.path(), "leave one of them out"]),
        (equipoise(&["serve", "--in-memory", "--data-dir", "d"]), &["--in-memory keeps", "--data-dir on disk"]),
        (stronger, &["EQUIPOISE_IN_MEMORY", "--data-dir"]),
        (environment("EQUIPOISE_IN_MEMORY", "yes"), &["\"yes\"", "EQUIPOISE_IN_MEMORY", "true or false"]),
        (equipoise(&["serve", "--segment-bytes", "1000"]), &["\"1000\"", "--segment-bytes", "from 1048576"]),
        (equipoise(&["serve", "--id-window", "24"]), &["\"24\"", "--id-window", "as in 24h"]),
        (equipoise(&["serve", "--checkpoint-every", "0"]), &["\"0\"", "--checkpoint-every", "from 1"]),
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
    use std::io::{ErrorKind, Read};
    use std::net::TcpStream;

    let mut command = equipoise(&["serve", "--in-memory", "--listen", "127.0.0.1:0"]);
    let service = Service::start_as(command.env("EQUIPOISE_MAX_CONNECTIONS", "1"));
    let _first = TcpStream::connect(&service.address).expect("a connection");
    let mut second = TcpStream::connect(&service.address).expect("a connection");
    second.set_read_timeout(Some(SOON)).expect("a timeout");
    let read = second.read(&mut [0]);
    let closed = read.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |length| *length == 0);
    assert!(closed, "{read:?}");
}
