//! Signals that come in the middle of something.

use std::fs;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};

use crate::program::{BINARY, Ended, SOON, Service, ends_within, equipoise, interruptible, signal};

const HUP: i32 = 1;
const INT: i32 = 2;
const TERM: i32 = 15;

fn end(mut child: Child) -> (ExitStatus, Ended) {
    let status = ends_within(&mut child, SOON);
    let output = child.wait_with_output().expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status, Ended { code: status.code(), stdout: text(output.stdout), stderr: text(output.stderr) })
}

/// A service that takes connections and says nothing.
fn silent() -> (TcpListener, String) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    (silent, address)
}

/// B1: whoever interrupts a change that has no answer yet is told under which id it can be sent again.
#[test]
fn an_interrupted_change_tells_its_id() {
    let (silent, address) = silent();
    let interrupted = |change: &[&str], name: &str, number: i32| {
        let mut command = interruptible(BINARY, &[change, &["--server", &address, "--timeout", "1h"]].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let (_connection, _) = silent.accept().expect("a connection");
        signal(&child, name);
        let (status, ended) = end(child);
        assert_eq!((status.signal(), ended.stdout.as_str()), (Some(number), ""), "{change:?}: {ended:?}");
        ended
    };
    for change in [&["create", "a"][..], &["update", "a", "5"], &["transfer", "a", "b", "5"]] {
        let said = interrupted(change, "INT", INT).stderr;
        let (_, rest) = said.split_once("sending it again with --id '").expect(&said);
        assert_eq!(rest.split_once('\'').expect(&said).0.len(), 36, "{said}");
    }
    // As a shell tells of the signal.
    for (name, number, exit) in [("TERM", TERM, 143), ("HUP", HUP, 129), ("INT", INT, 130)] {
        let error = interrupted(&["update", "a", "5", "--json"], name, number).error();
        assert_eq!((error["code"].as_str(), error["exit"].as_u64()), (Some("CANCELLED"), Some(exit)), "{error}");
        assert_eq!(error["transaction_id"].as_str().map(str::len), Some(36), "{error}");
    }
    let said = interrupted(&["update", "a", "5", "--id", "order-1"], "HUP", HUP).stderr;
    assert!(said.contains("sending it again with --id 'order-1'"), "{said}");
}

/// Ctrl-C ends a script, too: bash goes on after a command that did not die by the signal.
#[test]
fn an_interrupt_ends_the_script_of_a_change() {
    let (silent, address) = silent();
    let script = r#"for account in alice bob; do "$0" update "$account" 5 "$@"; echo "went on"; done"#;
    let arguments = ["-c", script, BINARY, "--server", &address, "--timeout", "1h"];
    let mut command = interruptible("bash", &arguments);
    let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let (_connection, _) = silent.accept().expect("a connection");
    let group = format!("kill -INT -{}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &group]).status().expect("sh runs").success());
    let (status, ended) = end(child);
    assert_eq!((status.signal(), ended.stdout.as_str()), (Some(INT), ""), "{ended:?}");
    assert!(ended.stderr.contains("sending it again with --id '"), "{ended:?}");
}

/// A full pipe. It stays open as long as the reader that comes with it.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("a pipe");
    for piece in [4096, 1] {
        while writer.write(&vec![b'.'; piece]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty()).expect("a pipe");
    (reader, writer)
}

/// Nobody reads what an interrupted command has to say: it ends nevertheless.
#[test]
fn an_interrupt_waits_for_no_reader() {
    let (silent, address) = silent();
    let (_reader, writer) = full_pipe();
    let begin = |arguments: &[&str]| {
        let mut command = interruptible(BINARY, &[arguments, &["--server", &address, "--timeout", "1h"]].concat());
        let stderr = writer.try_clone().expect("a pipe");
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("it runs");
        (child, silent.accept().expect("a connection"))
    };
    for (name, number) in [("TERM", TERM), ("INT", INT), ("HUP", HUP)] {
        let (mut child, _connection) = begin(&["transfer", "a", "b", "5"]);
        signal(&child, name);
        assert_eq!(ends_within(&mut child, SOON).signal(), Some(number), "{name}");
    }
    // The run itself has something to say at its end; a second interrupt ends that.
    let (mut child, _connection) = begin(&["bench", "run", "hot"]);
    let until = Instant::now() + SOON;
    let status = loop {
        signal(&child, "INT");
        thread::sleep(Duration::from_millis(20));
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        assert!(Instant::now() < until, "it runs on");
    };
    assert_eq!(status.code(), Some(130), "{status}");
}

/// C3: a watch that the service ends says where to go on, also to programs.
#[test]
fn a_watch_that_is_cut_says_where_to_go_on() {
    let service = Service::start();
    service.json(&["create", "a"]);
    let mut command = service.command(&["watch", "--from", "1", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
    signal(&service.child, "TERM");
    let error = end(child).1.error();
    assert_eq!(error["note"].as_str(), Some("go on with --from 2"), "{error}");
}

/// E4: a service that is told to end before it has read its settings ends as one that serves.
#[test]
fn e4_a_signal_before_the_settings_are_read_is_an_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.toml");
    let config = config.to_str().expect("UTF-8");
    assert!(std::process::Command::new("mkfifo").arg(config).status().expect("mkfifo").success());
    for name in ["TERM", "INT"] {
        let mut command = equipoise(&["serve", "--in-memory", "--listen", "127.0.0.1:0", "--config", config]);
        let mut child = command.stderr(Stdio::null()).spawn().expect("it runs");
        // Open when it reads there, and empty when it is closed.
        let settings = fs::OpenOptions::new().write(true).open(config).expect("a pipe");
        signal(&child, name);
        drop(settings);
        assert_eq!(ends_within(&mut child, SOON).code(), Some(0), "{name}");
    }
}

/// The process of the service that a run of the bench has started.
#[cfg(target_os = "linux")]
fn service_of(bench: &Child) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", bench.id());
    let until = Instant::now() + SOON;
    loop {
        let pid = fs::read_to_string(&children).ok().and_then(|pids| pids.trim().parse::<u32>().ok());
        // Between its start and its program it is still the bench.
        let serves =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("serve"));
        if let Some(pid) = pid.filter(serves) {
            return pid;
        }
        assert!(Instant::now() < until, "no service");
        thread::sleep(Duration::from_millis(5));
    }
}

/// However a run of the bench ends, its service ends with it; and its directory goes, unless it was killed.
#[test]
#[cfg(target_os = "linux")]
fn a_bench_takes_its_service_along() {
    for name in ["HUP", "KILL"] {
        let place = tempfile::tempdir().expect("a directory");
        let mut command = interruptible(BINARY, &["bench", "run", "hot", "--duration", "10m", "--json"]);
        command.env("TMPDIR", place.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it runs");
        let service = service_of(&child);
        signal(&child, name);
        ends_within(&mut child, SOON);
        let until = Instant::now() + SOON;
        while fs::read(format!("/proc/{service}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            assert!(Instant::now() < until, "{name}: the service runs on");
            thread::sleep(Duration::from_millis(5));
        }
        let left = fs::read_dir(place.path()).expect("a folder").count();
        assert!(name == "KILL" || left == 0, "{name}: {left} left");
    }
}

/// What is ignored at its start stays so: nohup and the background jobs of scripts want that.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_is_ignored_stays_ignored() {
    let (silent, address) = silent();
    for (name, number, heard, by) in
        [("HUP", HUP, "TERM", TERM), ("INT", INT, "TERM", TERM), ("TERM", TERM, "INT", INT)]
    {
        let script = format!(r#"trap "" {name}; exec "$0" "$@""#);
        let arguments = ["-c", &script, BINARY, "update", "a", "5", "--server", &address, "--timeout", "1h"];
        let mut command = interruptible("sh", &arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        let (_connection, _) = silent.accept().expect("a connection");
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("a process");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a line");
        let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
        assert_eq!(ignored >> (number - 1) & 1, 1, "{name}: {ignored:x}");
        signal(&child, heard);
        assert_eq!(ends_within(&mut child, SOON).signal(), Some(by), "{name}");
    }
}
