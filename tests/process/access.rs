//! A directory that may be read and not written: of another user, or on a file system mounted read-only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::Order;
use crate::service::{Service, equipoise, run, serve, skipped, verified};
use crate::two_processes::Unmounted;

const NOBODY: u32 = 65_534;

/// A data directory with one account, in a folder that everybody may pass; its owner lets everybody read it.
async fn filled() -> (tempfile::TempDir, PathBuf) {
    let above = tempfile::tempdir().unwrap();
    fs::set_permissions(above.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = above.path().join("data");
    let service = Service::start(&mut serve(&dir));
    Order::create("open", "a", 5).send(&service.client().await).await.unwrap();
    service.stop();
    for (path, content) in tree(above.path()) {
        let mode = if content.is_some() { 0o644 } else { 0o755 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    (above, dir)
}

/// Every file and folder below, with what it holds.
fn tree(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let content = path.is_file().then(|| fs::read(&path).unwrap());
            if content.is_none() {
                folders.push(path.clone());
            }
            found.push((path, content));
        }
    }
    found.sort();
    found
}

/// Who changes the directory is refused and told why, who only reads it is served; nothing in `dir` changes.
fn only_read(dir: &Path, shown: &Path, why: &str, as_whom: impl Fn(Command) -> Command) {
    let before = tree(dir);
    let shown = shown.to_str().unwrap();
    let lock = format!("error: cannot lock {shown}/LOCK: {why}");
    for mut command in [as_whom(serve(Path::new(shown))), as_whom(equipoise(&["compact", shown]))] {
        let (code, said) = run(&mut command);
        assert_eq!((code, said.lines().last()), (Some(4), Some(lock.as_str())), "{said}");
    }
    for name in ["verify", "inspect", "stats", "export"] {
        assert_eq!(run(&mut as_whom(equipoise(&[name, shown]))), (Some(0), String::new()), "{name}");
    }
    assert!(before == tree(dir));
}

/// E6: the directory belongs to somebody else; without the right to read it, that is said too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_user_is_only_read() {
    // Only root can become somebody else; everybody else owns what the test makes, and gives up the right to write.
    let root = fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0);
    let (_above, dir) = filled().await;
    let as_whom = |mut command: Command| {
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let permit = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    if !root {
        fs::set_permissions(dir.join("LOCK"), fs::Permissions::from_mode(0o444)).unwrap();
    }
    only_read(&dir, &dir, "Permission denied (os error 13)", as_whom);
    permit(0o000);
    for mut command in [as_whom(serve(&dir)), as_whom(equipoise(&["verify", dir.to_str().unwrap()]))] {
        let (code, said) = run(&mut command);
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(code, Some(4), "{said}");
        assert!(last.contains(dir.to_str().unwrap()) && last.contains("Permission denied"), "{said}");
    }
    permit(0o755);
    assert_eq!(verified(&dir).total, 5);
}

/// E6: the file system is mounted read-only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_file_system_is_only_read() {
    let (above, dir) = filled().await;
    let mount = above.path().join("read-only");
    fs::create_dir(&mount).unwrap();
    if run(Command::new("mount").arg("--bind").args([&dir, &mount])).0 != Some(0) {
        skipped("a file system mounted read-only: mounts are not permitted here");
        return;
    }
    let _unmounted = Unmounted(&mount);
    let (code, said) = run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&mount));
    assert_eq!(code, Some(0), "{said}");
    only_read(&dir, &mount, "Read-only file system (os error 30)", |command| command);
}
