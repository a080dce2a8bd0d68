//! Case A15: the wall clock moves while the service runs, and between its lives. The monotonic clock stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::audit::{Audit, Told};
use crate::client::{Client, Order};
use crate::ids_survive_a_restart;
use crate::load::{Load, prepare};
use crate::service::{Service, equipoise, run, serve, serve_with, verified};
use crate::shim::shimmed;

const HOUR: i64 = 3_600;

/// A directory with a clock of its own.
struct Moving {
    dir: tempfile::TempDir,
    clock: PathBuf,
}

impl Moving {
    fn new(offset: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let moving = Moving { clock: dir.path().join("clock"), dir };
        moving.set(offset);
        moving
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How many seconds the wall clock is ahead, from now on.
    fn set(&self, offset: i64) {
        use std::os::unix::fs::FileExt as _;
        // In place: a running process has it mapped.
        let file = fs::File::options().write(true).create(true).truncate(false).open(&self.clock).unwrap();
        file.write_all_at(&offset.to_ne_bytes(), 0).unwrap();
    }

    fn start(&self) -> Service {
        let settings = [("CLOCK", self.clock.to_str().unwrap())];
        Service::start(&mut shimmed(serve(self.dir()), self.dir(), &settings))
    }
}

/// Seconds that make it 1969.
fn back_to_1969() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    -now.cast_signed() - 1_000_000
}

/// Adds 1 to `a` under these ids, for the first time.
async fn first(client: &Client, told: &mut Told, ids: &[&str]) {
    for id in ids {
        let order = Order::update(id, "a", 1);
        let answers = order.send(client).await.unwrap();
        assert!(answers[0].code == 0 && !answers[0].replayed, "{answers:?}");
        told.answered.push((order, answers));
    }
}

/// Sends everything again: each gets its first answer.
async fn again(client: &Client, told: &Told) {
    for (order, answers) in &told.answered {
        let again = order.send(client).await.unwrap();
        assert!(again[0].replayed && again[0].sequence == answers[0].sequence, "{again:?}, first {answers:?}");
    }
}

/// B1, E6: an id that was used a moment ago is known after every step while the process lives, sequences grow and
/// times do not fall (the audit sees to both), and a restart behind the newest entry changes nothing of that.
#[tokio::test]
async fn the_clock_steps_back_and_forth() {
    let moving = Moving::new(0);
    let service = moving.start();
    let client = service.client().await;
    let mut told = Told::default();
    let create = Order::create("open", "a", 0);
    told.answered.push((create.clone(), create.send(&client).await.unwrap()));
    first(&client, &mut told, &["x1", "x2"]).await;
    for (step, offset) in [-HOUR, 25 * HOUR, -2 * HOUR, back_to_1969(), 1, 0, 400 * 24 * HOUR].into_iter().enumerate() {
        moving.set(offset);
        again(&client, &told).await;
        first(&client, &mut told, &[&format!("y{step}"), &format!("z{step}")]).await;
    }
    let mut audit = Audit::default();
    audit.read(&client).await;
    audit.check(&told);
    service.kill();
    for (restart, offset) in [-2 * HOUR, -2 * HOUR, 0].into_iter().enumerate() {
        moving.set(offset);
        let service = moving.start();
        let client = service.client().await;
        if ids_survive_a_restart() {
            again(&client, &told).await;
        }
        first(&client, &mut told, &[&format!("r{restart}")]).await;
        audit.read(&client).await;
        audit.check(&told);
        audit.compare(&client, &told).await;
        service.kill();
    }
    verified(moving.dir());
}

/// E6: after a restart more than the window later, as the wall clock has it, nothing is lost but ids; and a clock that
/// was wrong when it said so does not take the directory with it.
#[tokio::test]
async fn a_restart_far_in_the_future() {
    let moving = Moving::new(0);
    let mut told = Told::default();
    let mut audit = Audit::default();
    for (life, offset) in [0, 25 * HOUR, 20 * 365 * 24 * HOUR, 0].into_iter().enumerate() {
        moving.set(offset);
        let service = moving.start();
        let client = service.client().await;
        if life == 0 {
            let create = Order::create("open", "a", 0);
            told.answered.push((create.clone(), create.send(&client).await.unwrap()));
        }
        first(&client, &mut told, &[&format!("x{life}")]).await;
        audit.read(&client).await;
        audit.check(&told);
        audit.compare(&client, &Told::default()).await;
        service.kill();
        verified(moving.dir());
    }
}

/// E6: a wall clock before 1970 stops nothing: neither the id index beside the traffic nor a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_is_at_1969() {
    let moving = Moving::new(0);
    let few = || {
        let serve = serve_with(moving.dir(), &["--checkpoint-every", "100", "--ids", "1000"]);
        shimmed(serve, moving.dir(), &[("CLOCK", moving.clock.to_str().unwrap())])
    };
    let service = Service::start(&mut few());
    let client = service.client().await;
    let mut told = prepare(&client).await;
    moving.set(back_to_1969());
    // A client there makes new ids all the same.
    let opens = equipoise(&["create", "opened in 1969", "--server", &service.address]);
    let (code, said) = run(&mut shimmed(opens, moving.dir(), &[("CLOCK", moving.clock.to_str().unwrap())]));
    assert_eq!(code, Some(0), "{said}");
    let load = Load::start(&service, "1969", 16, 1).await;
    load.answered(600).await;
    moving.set(0);
    load.answered(900).await;
    moving.set(back_to_1969());
    service.kill();
    told.add(load.end().await);
    for offset in [back_to_1969(), 0] {
        moving.set(offset);
        let service = Service::start(&mut few());
        let client = service.client().await;
        let mut audit = Audit::default();
        audit.read(&client).await;
        audit.check(&told);
        audit.resend(&client, &mut told).await;
        audit.compare(&client, &told).await;
        service.stop();
        assert_eq!(verified(moving.dir()).total, audit.total());
    }
}
