//! Case A14: one process on a directory, whatever it is called.

use std::path::Path;
use std::process::Command;

use crate::client::{Order, balance};
use crate::service::{SOON, Service, equipoise, run, serve, skipped, verified};

/// A second service on `path`, another name of the directory that `holder` has: ends, and says who has it.
#[track_caller]
pub fn refused(path: &Path, holder: u32) {
    let (status, said) = Service::spawn(&mut serve(path)).ended_within(SOON);
    let code = status.code();
    assert_eq!(code, Some(4), "{said}");
    let error = format!("error: {} is in use by process {holder}", path.display());
    assert_eq!(said.lines().last(), Some(error.as_str()), "{said}");
}

/// E6, C2: a second service ends at once under every name of the directory, verify beside the first one works, and
/// after a kill nothing needs removing by hand, however soon the next one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_at_a_time() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("data");
    let service = Service::start(&mut serve(&dir));
    let client = service.client().await;
    Order::create("open", "a", 5).send(&client).await.unwrap();
    refused(&dir, service.process());
    let link = above.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    refused(&link, service.process());
    let bound = above.path().join("bound");
    std::fs::create_dir(&bound).unwrap();
    if run(Command::new("mount").arg("--bind").args([&dir, &bound])).0 == Some(0) {
        let _unmounted = Unmounted(&bound);
        refused(&bound, service.process());
    } else {
        skipped("a directory under another mount: mounts are not permitted here, only the symlink was tried");
    }
    for number in 0..20 {
        Order::update(&format!("u{number}"), "a", 1).send(&client).await.unwrap();
        if number % 5 == 0 {
            let beside = run(&mut equipoise(&["verify", dir.to_str().unwrap()]));
            assert_eq!(beside, (Some(0), String::new()));
        }
    }
    let mut last = service;
    for round in 0..5 {
        last.kill();
        last = Service::spawn(&mut serve(&dir));
        last.wait_for("ready");
        if round % 2 == 0 {
            refused(&dir, last.process());
        }
    }
    last.kill();
    let last = Service::start(&mut serve(&dir));
    assert_eq!(balance(&last.client().await, "a").await.unwrap().balance, 25);
    last.stop();
    verified(&dir);
}

/// A mount that ends with its test.
pub struct Unmounted<'a>(pub &'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        let (code, said) = run(Command::new("umount").arg(self.0));
        assert_eq!(code, Some(0), "{said}");
    }
}
