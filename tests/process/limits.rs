//! Limits that the system sets a process: what cannot be had is told, with exit code 4.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use equipoise::{AccountId, Ledger};

use crate::service::{Service, equipoise, run, verified};

/// Nobody else runs under it, so that what it may have is what these tests give it.
const STRANGER: u32 = 54_321;

/// `command` under a limit, given as `prlimit` takes it.
fn limited(limit: &str, command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(limit).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn serve(dir: &Path) -> Command {
    equipoise(&["serve", "--data-dir", text(dir), "--listen", "127.0.0.1:0", "--segment-bytes", "1048576"])
}

/// E6: a file that would be longer than the process may write is an error, and not its end by SIGXFSZ.
#[test]
fn a_limit_on_files_is_told() {
    let place = tempfile::tempdir().unwrap();
    let [data, new, exported, file] =
        ["data", "new", "exported.jsonl", "export.jsonl"].map(|name| place.path().join(name));
    let ledger = Ledger::open(&data).unwrap();
    for number in 0..5_000 {
        ledger.create(&AccountId::new(&format!("account-{number}")).unwrap(), 1).unwrap();
    }
    drop(ledger);
    assert_eq!(run(&mut equipoise(&["export", text(&data), "--output", text(&exported)])).0, Some(0));
    let commands = [
        serve(&new),
        equipoise(&["import", text(&new), text(&exported)]),
        equipoise(&["export", text(&data), "--output", text(&file)]),
    ];
    for command in commands {
        let (code, said) = run(&mut limited("--fsize=32768", &command));
        assert_eq!(code, Some(4), "{command:?}: {said}");
        assert!(said.contains("File too large"), "{command:?}: {said}");
    }
    assert!(!file.exists());
    assert_eq!(verified(&data).total, 5_000);
}

/// E6: with less threads than a service needs it ends, and says why.
#[test]
fn a_limit_on_threads_is_told() {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let place = tempfile::tempdir().unwrap();
    if root {
        chown(place.path(), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    // Of somebody who runs other things all threads are counted.
    let limits = if root { 1..30 } else { 1..2 };
    let mut served = false;
    for limit in limits {
        let mut command = limited(&format!("--nproc={limit}"), &serve(&place.path().join("data")));
        command.env("TOKIO_WORKER_THREADS", "2");
        if root {
            command.uid(STRANGER).gid(STRANGER);
        }
        let service = Service::spawn(&mut command);
        match service.ready_or_ended() {
            Ok(()) => {
                service.stop();
                served = true;
            }
            Err(_) => {
                let (status, said) = service.ended_within(crate::service::SOON);
                assert_eq!(status.code(), Some(4), "{limit} threads: {said}");
                assert!(!served, "{limit} threads are less than one less: {said}");
            }
        }
    }
    assert!(served || !root);
}

/// E6: a service that could take no connection does not start.
#[test]
fn a_limit_on_connections_is_told() {
    let place = tempfile::tempdir().unwrap();
    let (code, said) = run(&mut limited("--nofile=40", &serve(&place.path().join("data"))));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("error: ") && said.contains("open files"), "{said}");
    assert!(!said.contains("ready"), "{said}");
}
