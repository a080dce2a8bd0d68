//! A service without a file descriptor to spare.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use equipoise::Ledger;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tonic::Code;

use crate::audit::Audit;
use crate::moved_directory::{fill, fill_up, segments};
use crate::service::{SOON, Service, equipoise, serve_with, verified};

/// E6: while no file can be opened the journal goes on into the segment that is ready, then writes are refused; with descriptors
/// again it heals by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_the_journal_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(&mut serve_with(dir.path(), &["--checkpoint-every", "100000000"]));
    let client = service.client().await;
    let mut told = fill(&client, "before", 1).await;
    let spare = dir.path().join("journal/spare");
    let until = Instant::now() + SOON;
    while !spare.exists() {
        assert!(Instant::now() < until, "no spare");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let descriptors = |current| {
        let process = Pid::from_raw(service.process().cast_signed()).unwrap();
        prlimit(Some(process), Resource::Nofile, Rlimit { current: Some(current), maximum: Some(1024) }).unwrap();
    };
    descriptors(3);
    let before = segments(dir.path());
    let (more, refused) = fill_up(&client, "into-the-spare", 2).await;
    told.add(more);
    let refused = refused.expect("there is no other segment");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("Too many open files"), "{refused:?}");
    assert_eq!(segments(dir.path()), before + 1);
    descriptors(1024);
    service.says("there is room for the journal again").await;
    told.add(fill(&client, "after", 2).await);
    service.kill();
    let service = Service::start(&mut serve_with(dir.path(), &[]));
    let client = service.client().await;
    let mut audit = Audit::default();
    audit.read(&client).await;
    audit.check(&told);
    audit.compare(&client, &told).await;
    service.stop();
    assert_eq!(verified(dir.path()).total, audit.total());
}

/// E6: at whichever descriptor a start comes to the end of them, it ends.
#[test]
fn a_start_without_enough_descriptors_ends() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ledger::open(dir.path()).unwrap());
    let whole = equipoise(&["compact", dir.path().to_str().unwrap()]);
    let mut ends = HashSet::new();
    for limit in 4..40 {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$@\"")).arg("sh").arg(whole.get_program());
        command.args(whole.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + SOON / 4;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                ends.insert(status.code());
                break;
            }
            if Instant::now() > until {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("with {limit} descriptors it goes on and on");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(ends.contains(&Some(0)) && ends.len() > 1, "{ends:?}");
    verified(dir.path());
}
