//! A disk that fails while the service runs: it ends by itself and says why, and nothing that was answered is lost.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tonic::Code;

use crate::audit::{Audit, Told};
use crate::client::{Client, Order, half_sent};
use crate::load::{Load, prepare};
use crate::service::{SOON, Service, run, serve, serve_with, verified};
use crate::shim::shimmed;

/// Runs a load into `fault`, with what it says: the journal must fail, and all that was answered be there afterwards.
async fn ends_and_comes_back(fault: &str, reason: &str) {
    let dir = tempfile::tempdir().unwrap();
    let switch = dir.path().join("fault");
    let faulty = || shimmed(serve(dir.path()), dir.path(), &[("FAIL_WHILE", switch.to_str().unwrap())]);
    let service = Service::start(&mut faulty());
    let mut told = prepare(&service.client().await).await;
    let load = Load::start(&service, "first", 16, 1).await;
    load.answered(100).await;
    fs::write(&switch, fault).unwrap();
    let (status, said) = service.ended_within(SOON);
    assert_eq!(status.code(), Some(4), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains(reason), "{last}");
    told.add(load.end().await);
    assert_eq!(told.failures.len(), 16);
    told.failures.iter().for_each(|status| assert!(gone(status), "{status:?}"));
    // Nothing is cut off, or made up, by starts that cannot succeed.
    let (code, said) = run(&mut faulty());
    assert_eq!(code, Some(4), "{said}");
    assert!(said.lines().last().unwrap().contains(reason), "{said}");
    fs::remove_file(&switch).unwrap();
    come_back(dir.path(), told).await;
}

/// UNAVAILABLE, or the connection broke while the answer was awaited.
pub fn gone(status: &tonic::Status) -> bool {
    // What tonic's client says of a connection that broke is not the service's word.
    let broken = matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal) && status.source().is_some();
    status.code() == Code::Unavailable || broken
}

/// D9: from the failure of the journal to the end of the process nobody is told that it is ready, however long its clients
/// hold on to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_journal_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let switch = dir.path().join("fault");
    let told = serve_with(dir.path(), &["--metrics-listen", "127.0.0.1:0"]);
    let service = Service::start(&mut shimmed(told, dir.path(), &[("FAIL_WHILE", switch.to_str().unwrap())]));
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    let _held = half_sent(service.endpoint().connect().await.unwrap()).await;
    fs::write(&switch, "sync 5 /journal/0").unwrap();
    let status = Order::update("lost", "a", 1).send(&client).await.unwrap_err();
    assert!(gone(&status), "{status:?}");
    let mut asked = 0;
    while let Ok((status, body)) = service.try_told("/readyz") {
        assert_eq!(status, "HTTP/1.1 503 Service Unavailable", "{body}");
        asked += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(asked > 10, "nothing held it up: {asked}");
    let (status, said) = service.ended_within(SOON);
    assert_eq!(status.code(), Some(4), "{said}");
}

async fn come_back(dir: &Path, mut told: Told) {
    let service = Service::start(&mut serve(dir));
    let client = service.client().await;
    let mut audit = Audit::default();
    audit.read(&client).await;
    audit.check(&told);
    audit.resend(&client, &mut told).await;
    audit.compare(&client, &told).await;
    service.stop();
    assert_eq!(verified(dir).total, audit.total());
}

/// E6: a failed fdatasync loses pages; a later one that succeeds proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fdatasync_ends_the_service() {
    ends_and_comes_back("sync 5 /journal/0", "Input/output error").await;
}

/// E6: a failed write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_ends_the_service() {
    ends_and_comes_back("write 5 /journal/0", "Input/output error").await;
}

/// E6: room that was there when the segment was made is gone: a thin volume.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_inside_a_segment_ends_the_service() {
    ends_and_comes_back("write 28 /journal/0", "No space left on device").await;
}

/// E6: the n-th fdatasync fails, at the beginning of a journal or of a service's life too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nth_fdatasync_fails() {
    for fault in ["spare 1", "spare 2", "0 1", "0 2", "0 5"] {
        let dir = tempfile::tempdir().unwrap();
        let fault = format!("sync 5 /journal/{fault}");
        let service = Service::begin(&mut shimmed(serve(dir.path()), dir.path(), &[("FAIL", &fault)]));
        let mut told = Told::default();
        // It may be gone before there is a connection.
        if let Ok(channel) = service.endpoint().connect().await {
            try_some(&Client::new(channel), &mut told).await;
        }
        let (status, said) = service.ended_within(SOON);
        assert_eq!(status.code(), Some(4), "{fault}: {said}");
        assert!(said.lines().last().unwrap().contains("Input/output error"), "{fault}: {said}");
        come_back(dir.path(), told).await;
    }
}

async fn try_some(client: &Client, told: &mut Told) {
    // Not counted while it recovers.
    while told.answered.len() < 50 {
        let number = told.answered.len();
        let order = Order::create(&format!("c{number}"), &format!("a{number}"), 5);
        match order.send(client).await {
            Ok(answers) => told.answered.push((order, answers)),
            Err(status) if status.message().contains("recovered") => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(status) => {
                assert!(gone(&status), "{status:?}");
                return told.unanswered.push(order);
            }
        }
    }
}

/// E6, C6: what is derived may fail: no checkpoint is written, or one is damaged, and the service goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_that_fail_do_no_harm() {
    for fault in ["sync 5 /checkpoints/", "write 28 /checkpoints/", "write 5 /checkpoints/"] {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("fault");
        fs::write(&switch, fault).unwrap();
        let settings = [("FAIL_WHILE", switch.to_str().unwrap())];
        let service = Service::start(&mut shimmed(serve(dir.path()), dir.path(), &settings));
        let mut told = prepare(&service.client().await).await;
        let load = Load::start(&service, "first", 16, 1).await;
        load.answered(500).await;
        service.says("no checkpoint: ").await;
        service.kill();
        told.add(load.end().await);
        come_back(dir.path(), told).await;
    }
}

/// E6, B1: the id index may fail: ids wait in memory, or what cannot be looked up is refused; once the disk works
/// again the service heals by itself, and each id has one effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_index_that_fails_does_no_harm() {
    for fault in ["write 28 /ids/", "write 5 /ids/", "sync 5 /ids/"] {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("fault");
        let settings = [("FAIL_WHILE", switch.to_str().unwrap())];
        let few = || serve_with(dir.path(), &["--checkpoint-every", "100", "--ids", "1000"]);
        let service = Service::start(&mut shimmed(few(), dir.path(), &settings));
        let client = service.client().await;
        let mut told = prepare(&client).await;
        fs::write(&switch, fault).unwrap();
        let load = Load::start(&service, "first", 16, 1).await;
        // Until its writers are refused, or there is enough.
        let _ = tokio::time::timeout(Duration::from_secs(3), load.answered(600)).await;
        fs::remove_file(&switch).unwrap();
        let until = std::time::Instant::now() + SOON;
        let probe = Order::create("probe", "probe", 0);
        while let Err(status) = probe.send(&client).await {
            assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable), "{fault}: {status:?}");
            assert!(std::time::Instant::now() < until, "{fault}: it does not heal: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service.kill();
        told.add(load.end().await);
        come_back(dir.path(), told).await;
    }
}
