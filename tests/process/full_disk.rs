//! Case A13: no room, while it runs and when it starts; and then there is room again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{ExecuteBatchRequest, Operation, OperationResult, UpdateBalanceRequest};
use tonic::Code;

use crate::audit::Audit;
use crate::client::{Client, Order, balance, snapshot};
use crate::ids_survive_a_restart;
use crate::service::{SOON, Service, run, serve_with, verified};
use crate::shim::shimmed;

/// A file system of 24 MiB with a ballast in it that can be thrown overboard; or, where nobody may mount one, a disk on
/// which the shim finds no room.
struct Volume {
    above: tempfile::TempDir,
    mounted: bool,
}

impl Volume {
    fn new(options: &str) -> Self {
        let above = tempfile::tempdir().unwrap();
        let at = above.path().to_str().unwrap();
        let mount = run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "equipoise-test", at]));
        if mount.0 != Some(0) {
            println!("a tmpfs cannot be mounted here ({}): the shim says that there is no room", mount.1.trim());
        }
        Volume { above, mounted: mount.0 == Some(0) }
    }

    fn dir(&self) -> PathBuf {
        self.above.path().join("data")
    }

    fn command(&self) -> Command {
        let _ = fs::create_dir_all(self.dir());
        match self.mounted {
            true => told(&self.dir()),
            false => {
                let switch = self.ballast();
                shimmed(told(&self.dir()), &self.dir(), &[("FAIL_WHILE", switch.to_str().unwrap())])
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.above.path().join("ballast")
    }

    /// Leaves room for so many bytes, or less if the service takes some meanwhile.
    fn fill(&self, but: u64) {
        if !self.mounted {
            return fs::write(self.ballast(), "write 28 /journal/spare").unwrap();
        }
        let free = run_df(self.above.path());
        let ballast = vec![1; usize::try_from(free.saturating_sub(but)).unwrap()];
        if let Err(error) = fs::write(self.ballast(), ballast) {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            let (code, said) = run(Command::new("umount").arg("-l").arg(self.above.path()));
            assert!(code == Some(0) || std::thread::panicking(), "{said}");
        }
    }
}

/// A service that tells operators how it is.
fn told(dir: &Path) -> Command {
    serve_with(dir, &["--checkpoint-every", "200", "--metrics-listen", "127.0.0.1:0"])
}

/// Bytes that are free.
fn run_df(path: &Path) -> u64 {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().nth(1).unwrap().trim().parse().unwrap()
}

/// Two hundred updates of `a`, one each, with long ids.
async fn batch(client: &Client, number: u64) -> Vec<OperationResult> {
    let update = |place| {
        let transaction_id = format!("fill-{number}-{place:0>110}");
        let update = UpdateBalanceRequest { account_id: "a".into(), delta: 1, transaction_id };
        Operation { operation: Some(Kind::UpdateBalance(update)), linked: false }
    };
    let request = ExecuteBatchRequest { operations: (0..200).map(update).collect() };
    client.clone().execute_batch(request).await.unwrap().into_inner().results
}

/// The metric that counts refusals.
const REFUSED: &str = "equipoise_refused_for_space_total";

/// The metric that says that the id index cannot be written.
const IDS_FAILING: &str = "equipoise_ids_index_failing";

/// What filling a disk came to.
struct Filled {
    accepted: i64,
    /// How many operations were refused.
    refusals: u64,
    refused: Vec<u64>,
    /// Which batches were sent in whole.
    sent: u64,
}

/// Writes until it is refused, and some more; the refusal names path and bytes.
async fn fill_up(client: &Client, volume: &Volume, from: u64) -> Filled {
    let mut filled = Filled { accepted: 0, refusals: 0, refused: Vec::new(), sent: from };
    while filled.refused.len() < 5 {
        let results = batch(client, filled.sent).await;
        for result in results.iter().filter(|result| result.code != 0) {
            let dir = volume.dir();
            // Whichever needs it first.
            let journal = format!("no room in {}/journal: 1048576 bytes are needed", dir.display());
            let ids = format!("no room in {}/ids: 8388608 bytes are needed", dir.display());
            let named = result.code == Code::ResourceExhausted as i32 && [journal, ids].contains(&result.message);
            assert!(named, "{result:?}");
        }
        filled.accepted += results.iter().filter(|result| result.code == 0).count() as i64;
        filled.refusals += results.iter().filter(|result| result.code != 0).count() as u64;
        if results.iter().any(|result| result.code != 0) {
            filled.refused.push(filled.sent);
        }
        filled.sent += 1;
        assert!(filled.sent < from + 500, "it is never full");
    }
    filled
}

async fn reads_go_on(client: &Client, expected: i64) {
    assert_eq!(balance(client, "a").await.unwrap().balance, expected);
    assert_eq!(snapshot(client).await.unwrap().1[0].balance, expected);
}

/// Waits until writes are taken again.
async fn heals(client: &Client, id: &str) {
    let until = Instant::now() + SOON;
    while let Err(status) = Order::update(id, "a", 1).send(client).await {
        assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable), "{status:?}");
        assert!(Instant::now() < until, "it does not heal: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn full_and_back(volume: Volume) {
    let service = Service::start(&mut volume.command());
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    volume.fill(1_500_000);
    let filled = fill_up(&client, &volume, 0).await;
    let mut expected = filled.accepted;
    reads_go_on(&client, expected).await;
    assert!(service.said().contains("no room for the journal's next segment"), "{}", service.said());
    service.stop();
    verified(&volume.dir());

    // Starts on the full disk, after a clean end and after kills: it serves reads, or says what it needs for its ids.
    for _ in 0..3 {
        let service = Service::begin(&mut volume.command());
        if let Err(said) = service.ready_or_ended() {
            let error = format!("error: no room in {}/ids: 8388608 bytes are needed", volume.dir().display());
            assert!(said.lines().last().unwrap().starts_with(&error), "{said}");
            continue;
        }
        reads_go_on(&service.client().await, expected).await;
        service.kill();
    }
    let service = Service::begin(&mut volume.command());
    let kept = service.ready_or_ended().is_ok();
    volume.free();
    let service = if kept { service } else { Service::start(&mut volume.command()) };
    let client = service.client().await;
    reads_go_on(&client, expected).await;
    heals(&client, "healed").await;
    expected += 1;
    for number in filled.refused {
        let mut audit = Audit::default();
        audit.read(&client).await;
        if ids_survive_a_restart() {
            let results = batch(&client, number).await;
            assert!(results.iter().all(|result| result.code == 0));
            expected += results.iter().filter(|result| !result.replayed).count() as i64;
            assert!(batch(&client, number).await.iter().all(|result| result.replayed));
        }
    }
    if ids_survive_a_restart() {
        assert_eq!(expected, 1 + 200 * filled.sent.cast_signed(), "each id once");
    }
    reads_go_on(&client, expected).await;
    service.kill();
    let service = Service::start(&mut volume.command());
    reads_go_on(&service.client().await, expected).await;
    service.stop();
    verified(&volume.dir());
}

/// E6: refused with path and bytes; reads, a clean end and a start work on a full disk; it heals by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_and_room_again() {
    full_and_back(Volume::new("size=24m")).await;
}

/// E6: as above, within one life, where the ids are in memory: what was refused is sent again and done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_for_want_of_room_and_sent_again() {
    let volume = Volume::new("size=24m");
    let service = Service::start(&mut volume.command());
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    let mut sent = 0;
    for _ in 0..2 {
        volume.fill(500_000);
        let refused_before = service.metric(REFUSED);
        let filled = fill_up(&client, &volume, sent).await;
        sent = filled.sent;
        // The only one that has these accounts: whoever balances load must go on sending it reads.
        assert_eq!(service.told("/readyz").0, "HTTP/1.1 200 OK");
        assert_eq!(service.metric("equipoise_journal_short_of_space"), 1);
        assert_eq!(service.metric(REFUSED) - refused_before, filled.refusals);
        volume.free();
        heals(&client, &format!("healed-{sent}")).await;
        assert_eq!(service.metric("equipoise_journal_short_of_space"), 0);
        for number in filled.refused {
            assert!(batch(&client, number).await.iter().all(|result| result.code == 0));
            assert!(batch(&client, number).await.iter().all(|result| result.replayed));
        }
    }
    reads_go_on(&client, 200 * sent.cast_signed() + 2).await;
    service.stop();
    verified(&volume.dir());
}

/// E6, D9: no room for the id index alone: what carries an id is refused and counted, the index is told of, and it heals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_for_ids() {
    let dir = tempfile::tempdir().unwrap();
    let switch = dir.path().join("fault");
    let command = serve_with(dir.path(), &["--ids", "1000", "--metrics-listen", "127.0.0.1:0"]);
    let service = Service::start(&mut shimmed(command, dir.path(), &[("FAIL_WHILE", switch.to_str().unwrap())]));
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    assert_eq!(service.metric(IDS_FAILING), 0);
    fs::write(&switch, "write 28 /ids/").unwrap();
    let mut refusals = 0;
    for number in 0..50 {
        for result in batch(&client, number).await.iter().filter(|result| result.code != 0) {
            assert_eq!(result.code, Code::ResourceExhausted as i32, "{result:?}");
            refusals += 1;
        }
    }
    assert!(refusals > 0, "it is never full");
    assert_eq!(service.metric(REFUSED), refusals);
    assert_eq!(service.metric(IDS_FAILING), 1);
    assert_eq!(service.metric("equipoise_journal_short_of_space"), 0);
    fs::remove_file(&switch).unwrap();
    heals(&client, "healed").await;
    assert_eq!(service.metric(IDS_FAILING), 0);
    service.stop();
    verified(dir.path());
}

/// E6: a disk that is too full to begin: exit code 4, path and bytes; and a start when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_full_to_begin() {
    let volume = Volume::new("size=24m");
    fs::create_dir_all(volume.dir()).unwrap();
    volume.fill(500_000);
    let (code, said) = run(&mut volume.command());
    assert_eq!(code, Some(4), "{said}");
    let expected = format!("error: no room in {}/journal: 2097152 bytes are needed", volume.dir().display());
    assert!(said.lines().last().unwrap().starts_with(&expected), "{said}");
    volume.free();
    Service::start(&mut volume.command()).stop();
    verified(&volume.dir());
}

/// E6: no inode for the next segment is no room either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_inodes() {
    let volume = Volume::new("size=24m,nr_inodes=60");
    let service = Service::start(&mut volume.command());
    let client = service.client().await;
    Order::create("open", "a", 0).send(&client).await.unwrap();
    volume.fill(20_000_000);
    let mut files = Vec::new();
    for number in 0.. {
        let file = volume.above.path().join(format!("file-{number}"));
        match volume.mounted.then(|| fs::File::create(&file)) {
            Some(Ok(_)) => files.push(file),
            _ => break,
        }
    }
    let filled = fill_up(&client, &volume, 0).await;
    reads_go_on(&client, filled.accepted).await;
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    volume.free();
    heals(&client, "healed").await;
    service.stop();
    verified(&volume.dir());
}
