//! The data directory is the one that was locked, moved under a running service, with a copy in its place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tonic::{Code, Status};

use crate::audit::{Audit, Told};
use crate::client::{Client, Order, Step};
use crate::failing_disk::gone;
use crate::load::{Load, prepare};
use crate::service::{SOON, Service, run, serve_with, verified};
use crate::two_processes::refused;

/// Ids leave memory soon: the index is written, too.
fn few_ids(dir: &Path) -> Command {
    serve_with(dir, &["--checkpoint-every", "200", "--ids", "1000"])
}

/// How many segments the journal in `dir` has.
pub fn segments(dir: &Path) -> usize {
    let names =
        fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".segment")).count()
}

/// Chains of long ids, enough for so many segments; what was answered.
pub async fn fill(client: &Client, name: &str, segments: usize) -> Told {
    let (told, refused) = fill_up(client, name, segments).await;
    assert!(refused.is_none(), "{refused:?}");
    told
}

/// As [`fill`], until one is refused.
pub async fn fill_up(client: &Client, name: &str, segments: usize) -> (Told, Option<Status>) {
    let mut told = Told::default();
    let step = |number, at| (format!("{name}.{number}.{at:0>100}"), Step::Update { account: filled(name), delta: 1 });
    let chain = |number| Order { steps: (0..100).map(|at| step(number, at)).collect() };
    let opened = Order::create(&format!("{name}.open"), &filled(name), 0);
    for order in std::iter::once(opened).chain((0..segments * 45).map(chain)) {
        match order.send(client).await {
            Ok(answers) => told.answered.push((order, answers)),
            Err(refused) => return (told, Some(refused)),
        }
    }
    (told, None)
}

fn filled(name: &str) -> String {
    format!("{name:0>100}")
}

/// Every file below: its inode, and what it holds.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.clone(), (path.metadata().unwrap().ino(), fs::read(&path).unwrap()))),
            }
        }
    }
    found
}

/// A service at work, whose directory was moved to `moved`; in its place is a copy.
struct Moved {
    above: tempfile::TempDir,
    service: Service,
    load: Load,
    told: Told,
}

impl Moved {
    async fn under_load() -> Self {
        let above = tempfile::tempdir().unwrap();
        let service = Service::start(&mut few_ids(&above.path().join("data")));
        let client = service.client().await;
        let mut moved =
            Moved { told: prepare(&client).await, load: Load::start(&service, "early", 4, 1).await, service, above };
        moved.told.add(fill(&client, "before", 1).await);
        // So that the copy is of one moment.
        moved.service.signal("STOP");
        fs::rename(moved.place(), moved.dir()).unwrap();
        let copied = run(Command::new("cp").arg("-a").args([moved.dir(), moved.place()]));
        moved.service.signal("CONT");
        assert_eq!(copied, (Some(0), String::new()));
        moved
    }

    /// Where the directory was, and the copy is.
    fn place(&self) -> PathBuf {
        self.above.path().join("data")
    }

    /// Where the directory is.
    fn dir(&self) -> PathBuf {
        self.above.path().join("data.old")
    }

    /// Goes on for some segments, is killed, and starts where the directory is: everything is there.
    async fn goes_on(mut self) -> (tempfile::TempDir, Told) {
        let dir = self.dir();
        refused(&dir, self.service.process());
        self.told.add(fill(&self.service.client().await, "after", 3).await);
        self.service.kill();
        self.told.add(self.load.end().await);
        let service = Service::start(&mut few_ids(&dir));
        let client = service.client().await;
        let mut audit = Audit::default();
        audit.read(&client).await;
        audit.check(&self.told);
        audit.resend(&client, &mut self.told).await;
        audit.compare(&client, &self.told).await;
        service.stop();
        assert_eq!(verified(&dir).total, audit.total());
        (self.above, self.told)
    }
}

/// C1, C2, E6: what is answered after the directory was moved is in there; the copy in its place is not touched, and is a ledger of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_in_the_place_of_a_moved_directory_is_left_alone() {
    let moved = Moved::under_load().await;
    let place = moved.place();
    let copy = tree(&place);
    let (_above, told) = moved.goes_on().await;
    assert!(tree(&place) == copy, "somebody wrote to the copy");
    let service = Service::start(&mut few_ids(&place));
    let mut audit = Audit::default();
    audit.read(&service.client().await).await;
    service.stop();
    assert_eq!(verified(&place).total, audit.total());
    holds_nothing_of(&audit, &told);
}

/// C1, C2, E6: as above, with a second service at work on the copy meanwhile: neither knows of what the other did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_on_a_moved_directory_and_its_copy_are_apart() {
    let moved = Moved::under_load().await;
    let place = moved.place();
    let second = Service::start(&mut few_ids(&place));
    let client = second.client().await;
    let load = Load::start(&second, "second", 4, 2).await;
    let mut of_second = fill(&client, "second.filled", 1).await;
    let (_above, told) = moved.goes_on().await;
    of_second.add(fill(&client, "second.later", 1).await);
    second.kill();
    of_second.add(load.end().await);
    let second = Service::start(&mut few_ids(&place));
    let client = second.client().await;
    let mut audit = Audit::default();
    audit.read(&client).await;
    audit.check(&of_second);
    audit.resend(&client, &mut of_second).await;
    audit.compare(&client, &of_second).await;
    second.stop();
    assert_eq!(verified(&place).total, audit.total());
    holds_nothing_of(&audit, &told);
}

/// The journal of the copy knows no id of what was done after it.
fn holds_nothing_of(copy: &Audit, told: &Told) {
    let ids = || told.answered.iter().flat_map(|(order, _)| order.steps.iter().map(|(id, _)| id));
    assert!(copy.knows("before.open") && ids().any(|id| id.starts_with("after.")));
    let strange: Vec<_> = ids().filter(|id| id.starts_with("after.") && copy.knows(id)).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

/// Opens accounts until one is refused, and not only for want of a segment: the removal is noticed within a second, and
/// a next segment that cannot be made may be noticed before.
async fn refused_at_last(client: &Client) -> Status {
    for number in 0.. {
        let order = Order::create(&format!("after.{number}"), &filled(&format!("after.{number}")), 0);
        match order.send(client).await {
            Err(refused) if refused.code() != Code::ResourceExhausted => return refused,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    unreachable!("numbers do not end")
}

/// E6, A14: nothing is acknowledged into files that somebody removed: the service ends and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_directory_ends_the_service() {
    for what in ["data", "data/journal"] {
        let above = tempfile::tempdir().unwrap();
        let service = Service::start(&mut few_ids(&above.path().join("data")));
        let client = service.client().await;
        fill(&client, "before", 1).await;
        let until = Instant::now() + SOON;
        // The service makes files meanwhile.
        while let (code, said) = run(Command::new("rm").arg("-rf").arg(above.path().join(what)))
            && code != Some(0)
        {
            assert!(Instant::now() < until, "{said}");
        }
        let refused = tokio::time::timeout(SOON, refused_at_last(&client)).await.expect("nothing can be kept");
        assert!(gone(&refused), "{refused:?}");
        let (status, said) = service.ended_within(SOON);
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(status.code(), Some(4), "{said}");
        assert!(last.contains(".segment was removed"), "{last}");
    }
}
