//! A data directory that is copied file by file while its service works.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use equipoise::verify::{Options, Report, verify};

use crate::audit::{Audit, Told};
use crate::client::{Client, Order, snapshot};
use crate::load::{Load, prepare};
use crate::service::{SOON, Service, equipoise, run, serve_with, verified};

const CHECKPOINT_EVERY: u64 = 300;

/// Segments, checkpoints and runs of the id index come and go while a copy is made.
fn busy(dir: &Path) -> Command {
    serve_with(dir, &["--checkpoint-every", &CHECKPOINT_EVERY.to_string(), "--ids", "1000"])
}

/// What was made of a copy.
enum Copied {
    /// It is a ledger, whose journal ends with this.
    Opens(Report),
    /// The start was refused, and said this.
    Refused(String),
}

/// E6: what is answered before the copy begins is in a copy that starts; nothing in it is not so; and one that does not
/// start names the file.
async fn look_at(copy: &Path, told: &Told) -> Copied {
    let checked = verify(copy, &Options::default(), &mut |_, _| {});
    let mut service = Service::spawn(&mut busy(copy));
    if let Err(said) = service.ready_or_ended() {
        let (status, _) = service.ended_within(SOON);
        assert_eq!(status.code(), Some(4), "{said}");
        let error = said.lines().last().unwrap_or_default().to_owned();
        let named = error.strip_prefix("error: ").and_then(|error| error.split(' ').next()).unwrap_or_default();
        assert!(Path::new(named).starts_with(copy) && Path::new(named).is_file(), "it names no file: {said}");
        let problem = checked.expect_err(&format!("verify found nothing wrong, and the start: {error}"));
        assert!(problem.file.starts_with(copy), "{problem}");
        return Copied::Refused(error);
    }
    let report = checked.unwrap_or_else(|problem| panic!("it starts, but verify says {problem}"));
    service.wait_for("listening on ")["listening on ".len()..].clone_into(&mut service.address);
    let client = service.client().await;
    let mut audit = Audit::default();
    audit.read(&client).await;
    // The journal, and the marker that this audit wrote.
    assert_eq!(audit.entries(), report.last_sequence + 1);
    audit.check(told);
    audit.compare(&client, told).await;
    service.stop();
    assert_eq!(verified(copy).total, audit.total());
    Copied::Opens(report)
}

/// Orders that are answered before the next copy begins.
async fn answered(client: &Client, told: &mut Told, round: usize) {
    for number in 0..20 {
        let order = Order::create(&format!("before.{round}.{number}"), &format!("before.{round}.{number}"), 7);
        let answers = order.send(client).await.unwrap();
        told.answered.push((order, answers));
    }
}

/// Copies file by file. Returns false if a file went meanwhile, as a checkpoint does that newer ones replace.
fn copy(from: &Path, to: &Path) -> bool {
    let (code, said) = run(Command::new("cp").arg("-r").args([from, to]));
    let went = said.contains("No such file") || said.contains("replaced while being copied");
    assert!(code == Some(0) || went, "{said}");
    code == Some(0)
}

/// Waits until there is a checkpoint of `dir` beyond all that is there now.
async fn later(dir: &Path, client: &Client) {
    let (now, _) = snapshot(client).await.unwrap();
    let newest = || {
        let names = fs::read_dir(dir.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
        let sequence = |name: OsString| name.to_str()?.strip_suffix(".checkpoint")?.parse::<u64>().ok();
        names.filter_map(sequence).max()
    };
    while newest() <= Some(now) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is copied with a pause behind it; the rest comes afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Everything in one go.
    All,
    Journal,
    AllButTheJournal,
}

impl First {
    /// Copies until no file went meanwhile.
    async fn copy(self, from: &Path, to: &Path, client: &Client) {
        while !self.try_copy(from, to, client).await {
            fs::remove_dir_all(to).unwrap();
        }
    }

    async fn try_copy(self, from: &Path, to: &Path, client: &Client) -> bool {
        if self == First::All {
            return copy(from, to);
        }
        fs::create_dir(to).unwrap();
        let names = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name());
        let (journal, others): (Vec<_>, Vec<_>) = names.partition(|name| name == "journal");
        let [before, after] = if self == First::Journal { [journal, others] } else { [others, journal] };
        let copy_all = |names: &[OsString]| names.iter().all(|name| copy(&from.join(name), &to.join(name)));
        if !copy_all(&before) {
            return false;
        }
        later(from, client).await;
        copy_all(&after)
    }
}

/// E6, C3: a copy made beside writers is the beginning of the journal, with all that was answered before, or it is
/// refused by the name of the file that does not fit; it is never wrong and silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_under_load_is_a_prefix_or_refused() {
    use First::{All, AllButTheJournal, Journal};
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("data");
    let service = Service::start(&mut busy(&dir));
    let client = service.client().await;
    let mut told = prepare(&client).await;
    let load = Load::start(&service, "load", 8, 1).await;
    load.answered(500).await;
    let mut heads = Vec::new();
    for (round, first) in [All, Journal, AllButTheJournal, All, All].into_iter().enumerate() {
        answered(&client, &mut told, round).await;
        let copy = above.path().join(format!("copy-{round}"));
        first.copy(&dir, &copy, &client).await;
        match look_at(&copy, &told).await {
            Copied::Opens(report) => {
                println!("{first:?}: opens at {}", report.last_sequence);
                assert_ne!(first, Journal, "its checkpoints and its index are ahead of it");
                heads.push(report.head);
            }
            Copied::Refused(why) => {
                println!("{first:?}: {why}");
                assert_ne!(first, AllButTheJournal, "nothing is ahead of its journal: {why}");
            }
        }
    }
    service.kill();
    told.add(load.end().await);
    let service = Service::start(&mut busy(&dir));
    let mut audit = Audit::default();
    audit.read(&service.client().await).await;
    audit.check(&told);
    service.stop();
    // A head proves that nothing up to there is different.
    for head in heads {
        let verified = run(&mut equipoise(&["verify", dir.to_str().unwrap(), "--head", &head]));
        assert_eq!(verified, (Some(0), String::new()));
    }
}
