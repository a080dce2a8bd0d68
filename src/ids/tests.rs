//! The table, the index on disk and the sweep between them, one step at a time.

use std::path::Path;
use std::time::Duration;

use super::{DiskIndex, Found, IdRecord, Ids, Index, IndexError, Indexed, JournalSpan, Key, Seen};
use crate::account::{AccountId, Balance, Change, TransactionId};
use crate::folder::Folder;
use crate::kernel::cells::Latch;
use crate::kernel::{Account, Consumer, Gate, Handle, Kernel, Leg, Owned, Plan, pin};
use crate::request::{Member, Operation, Request};

const CAPACITY: usize = 100;
const WINDOW: u64 = 1_000;

/// An index whose disk is full or cannot be read, when it is told so.
struct Faulty {
    disk: DiskIndex,
    full: parking_lot::Mutex<bool>,
    unreadable: parking_lot::Mutex<bool>,
}

impl Index for Faulty {
    fn published(&self) -> u64 {
        self.disk.published()
    }

    fn key(&self, id: &TransactionId) -> Key {
        self.disk.key(id)
    }

    fn find(&self, key: Key) -> Result<Option<Indexed>, IndexError> {
        match *self.unreadable.lock() {
            true => Err(IndexError::Failed { path: "disk".into(), what: "no such device".to_owned() }),
            false => self.disk.find(key),
        }
    }

    fn candidates(&self, keys: &[Key]) -> u64 {
        self.disk.candidates(keys)
    }

    fn ingest(&self, run: &mut Vec<IdRecord>, through: u64) -> Result<(), IndexError> {
        match *self.full.lock() {
            true => Err(IndexError::NoSpace { path: "disk".into() }),
            false => self.disk.ingest(run, through),
        }
    }

    fn publish(&self, through: u64) {
        self.disk.publish(through);
    }
}

struct World {
    ids: Ids<Faulty>,
    // Before the account: its Drop may still release heads.
    kernel: Kernel<Balance>,
    account: Account<Balance>,
    consumer: Consumer<Balance>,
}

fn id(name: &str) -> TransactionId {
    TransactionId::new(name).expect("an id")
}

fn request(names: &[&str]) -> Request {
    let operation = || Operation::update(AccountId::new("a").expect("an id"), 1);
    let member = |name: &&str| Member { id: Some(id(name)), operation: operation() };
    Request::chain(names.iter().map(member).collect()).expect("a chain")
}

impl World {
    fn new(dir: &Path) -> World {
        let (kernel, consumer) = Kernel::with_consumer(0, 0);
        let disk = DiskIndex::open(
            Folder::open(dir).expect("a folder"),
            [1; 16],
            JournalSpan { oldest: 1, end: 0, honoured_before: false },
        )
        .expect("opens");
        let index = Faulty { disk, full: false.into(), unreadable: false.into() };
        let ids = Ids::with_index(CAPACITY, index, WINDOW);
        World { ids, kernel, consumer, account: Account::new(AccountId::new("a").expect("an id")) }
    }

    fn plan(&self, request: &Request, time: u64) -> Handle<Balance> {
        let mut leg = Leg::new(&self.account);
        leg.push(0, Change::Add { delta: 1, leg: 0 });
        let legs = [leg].into_iter().collect();
        Owned::new(Plan { legs, refusal: None, as_of: 0, time, request: request.clone() }).publish()
    }

    /// The sequence that answers, and whether it was decided only now.
    fn submit(&self, names: &[&str], time: u64) -> Result<(u64, bool), IndexError> {
        let request = request(names);
        loop {
            match self.ids.known(&request, time)? {
                Seen::Known(Found::Claimed(claim), _) => return Ok((self.drive(&claim.handle), false)),
                Seen::Known(Found::Recorded(entry), _) => return Ok((entry.sequence, false)),
                Seen::Unknown(probed) => {
                    let handle = self.plan(&request, time);
                    if self.ids.claim(&handle, probed, time)? == Gate::Open {
                        return Ok((self.drive(&handle), true));
                    }
                }
            }
        }
    }

    fn drive(&self, handle: &Handle<Balance>) -> u64 {
        self.kernel.drive(handle, &pin()).expect("driven").sequence
    }

    fn flush(&mut self) {
        let guard = pin();
        let through = self.kernel.begin_flush(&guard);
        let mut batch = Vec::new();
        self.consumer.take(&self.kernel, through, &mut batch, &guard);
        self.kernel.end_flush(through);
        self.ids.queue_durable(&batch, through);
    }

    fn index(&self) -> &Faulty {
        self.ids.index().expect("it has one")
    }
}

/// B5, B2: past the capacity the ids in memory fall by half, and those that left it are still honoured.
#[test]
fn swept_ids_are_honoured() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    let names: Vec<_> = (0..CAPACITY + 1).map(|number| format!("x{number}")).collect();
    for (name, sequence) in names.iter().zip(1..) {
        assert_eq!(world.submit(&[name], 1), Ok((sequence, true)));
    }
    world.ids.sweep(true).expect("nothing is durable");
    assert_eq!(world.ids.len(), CAPACITY + 1, "what could be lost stays");
    world.flush();
    world.ids.sweep(false).expect("swept");
    assert!(world.ids.len() <= CAPACITY / 2, "{} ids in memory", world.ids.len());
    for (name, sequence) in names.iter().zip(1..) {
        assert_eq!(world.submit(&[name], 2), Ok((sequence, false)));
    }
    assert_eq!(world.submit(&["new", "x0"], 2), Ok((1, false)), "a chain that carries one of them is not new");
    assert!(matches!(world.ids.find(&id("x0")), Ok(Some(Found::Recorded(Indexed { sequence: 1, .. })))));
}

/// B2, B4: of several requests those before the first with an id in use are new, wherever that id is; one that cannot
/// be looked up is not.
#[test]
fn requests_before_the_first_used_id_are_new() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    for number in 0..CAPACITY {
        world.submit(&[&format!("x{number}")], 1).expect("decided");
    }
    world.flush();
    world.ids.sweep(true).expect("swept");
    world.submit(&["y"], 1).expect("decided");
    let many: Vec<_> = (0..150).map(|number| format!("m{number}")).collect();
    let mut chain: Vec<_> = many.iter().map(String::as_str).collect();
    let new = |requests: &[Request], time| world.ids.count_new(requests, time).0;
    for used in ["x0", "x99", "y"] {
        let requests = [request(&["a", "b"]), request(&["c"]), request(&["d", used]), request(&["e"])];
        assert_eq!(new(&requests, 1 + WINDOW), 2, "{used}");
        assert_eq!(new(&requests[..2], 1), 2);
        // What the table still has is told from what is in use when it is asked about by itself.
        let after = if used == "x0" { 4 } else { 2 };
        assert_eq!(new(&requests, 2 + WINDOW), after, "{used} after its window");
    }
    assert_eq!(new(&[request(&chain), request(&["x1"])], 1), 1);
    *chain.last_mut().expect("many") = "x1";
    assert_eq!(new(&[request(&["a"]), request(&chain)], 1), 1);
    *world.index().unreadable.lock() = true;
    assert_eq!(new(&[request(&["a"]), request(&["x1"]), request(&["b"])], 1), 1);
}

/// B4: after its window an id is new again, wherever it was kept; its newest use is the one that counts.
#[test]
fn an_id_is_new_after_its_window() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    assert_eq!(world.submit(&["x"], 1), Ok((1, true)));
    assert_eq!(world.submit(&["x"], 1 + WINDOW), Ok((1, false)), "the last moment of the window");
    assert_eq!(world.submit(&["x"], 2 + WINDOW), Ok((2, true)), "expired in memory");
    world.flush();
    world.ids.sweep(true).expect("swept");
    assert_eq!(
        world.index().find(world.index().key(&id("x"))).map(|found| found.map(|entry| entry.sequence)),
        Ok(Some(2))
    );
    for number in 0..CAPACITY {
        world.submit(&[&format!("y{number}")], 2 + WINDOW).expect("decided");
    }
    world.flush();
    world.ids.sweep(true).expect("swept");
    assert_eq!(world.submit(&["x"], 2 + 2 * WINDOW), Ok((2, false)));
    assert_eq!(world.submit(&["x"], 3 + 2 * WINDOW), Ok((103, true)), "expired on disk");
    world.flush();
    world.ids.sweep(true).expect("swept");
    assert_eq!(world.submit(&["x"], 4 + 2 * WINDOW), Ok((103, false)));
}

/// B5: the id of a large transaction counts for as many as take its room, so it leaves memory sooner, and is honoured.
#[test]
fn large_transactions_leave_memory_sooner() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    let mut members = Vec::from(request(&["large"]).members());
    let Member { operation, .. } = members[0].clone();
    members.extend((0..CAPACITY).map(|_| Member { id: None, operation: operation.clone() }));
    let large = Request::chain(members).expect("a chain");
    let Ok(Seen::Unknown(probed)) = world.ids.known(&large, 1) else { panic!("nobody used it") };
    let handle = world.plan(&large, 1);
    assert_eq!(world.ids.claim(&handle, probed, 1), Ok(Gate::Open));
    world.drive(&handle);
    world.submit(&["small"], 1).expect("decided");
    world.flush();
    world.ids.sweep(false).expect("one large one is reason enough");
    assert_eq!(world.ids.len(), 1, "the small one stays");
    assert!(matches!(world.ids.known(&large, 2), Ok(Seen::Known(Found::Recorded(_), _))));
    for number in 0..CAPACITY / 4 {
        world.submit(&[&format!("x{number}")], 1).expect("decided");
    }
    world.flush();
    world.ids.sweep(true).expect("swept");
    assert_eq!(world.ids.len(), 1 + CAPACITY / 4, "what is gone takes no room");
}

/// C6: ids that are used again after each window take the place of their older uses, in memory too.
#[test]
fn older_uses_of_an_id_do_not_pile_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    for window in 0..20 {
        for number in 0..CAPACITY / 4 {
            let time = 1 + window * (WINDOW + 1);
            assert!(world.submit(&[&format!("x{number}")], time).expect("decided").1, "new after its window");
        }
        world.flush();
        world.ids.sweep(true).expect("swept");
    }
    let kept = world.ids.table.noted();
    assert!(kept <= CAPACITY / 2, "{kept} uses of {} ids", CAPACITY / 4);
}

/// B2: an index that cannot be read refuses before anything is claimed; after the claim it closes the gate.
#[test]
fn an_unreadable_index_refuses() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    let wanted = request(&["x"]);
    let Ok(Seen::Unknown(probed)) = world.ids.known(&wanted, 1) else { panic!("nobody used it") };
    world.submit(&["y"], 1).expect("decided");
    world.flush();
    world.ids.sweep(true).expect("swept");
    *world.index().unreadable.lock() = true;
    assert!(world.submit(&["x"], 1).is_err());
    let handle = world.plan(&wanted, 1);
    assert!(world.ids.claim(&handle, probed, 1).is_err(), "something was published since it looked");
    assert_eq!(handle.gate(), Gate::Closed);
    assert_eq!(world.submit(&["y"], 1), Ok((1, false)), "what is in memory needs no index");
    *world.index().unreadable.lock() = false;
    assert_eq!(world.submit(&["x"], 1), Ok((2, true)), "the refused request used no id up");
}

/// B5: while the index cannot be written nothing leaves memory, requests are refused past twice the capacity, and it
/// heals.
#[test]
fn a_full_disk_is_pushed_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    *world.index().full.lock() = true;
    for number in 0..=2 * CAPACITY {
        assert_eq!(world.ids.admit(), Ok(()));
        world.submit(&[&format!("x{number}")], 1).expect("decided");
        world.flush();
        assert_eq!(world.ids.sweep(false).is_err(), number + 1 >= CAPACITY / 2);
    }
    assert!(world.ids.degraded().expect("degraded").contains("no space"));
    assert_eq!(world.ids.len(), 2 * CAPACITY + 1);
    let crowded = world.ids.admit().expect_err("refused");
    assert!(
        crowded.to_string().starts_with("201 transaction ids wait for the id index, the limit is 200: no space"),
        "{crowded}"
    );
    *world.index().full.lock() = false;
    world.ids.sweep(false).expect("swept");
    assert_eq!((world.ids.degraded(), world.ids.admit()), (None, Ok(())));
    assert!(world.ids.len() <= CAPACITY / 2);
    assert_eq!(world.submit(&["x0"], 1), Ok((1, false)));
}

/// B5, E4: the indexer's thread sweeps by itself, again after a full disk, and ends when the ledger is closed.
#[test]
fn the_indexer_sweeps_and_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    *world.index().full.lock() = true;
    for number in 0..CAPACITY {
        world.submit(&[&format!("x{number}")], 1).expect("decided");
    }
    world.flush();
    let closed = Latch::new();
    std::thread::scope(|scope| {
        scope.spawn(|| world.ids.sweep_until_closed(&closed, |_| {}));
        let until = |what: &dyn Fn() -> bool| {
            (0..6_000).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                what()
            })
        };
        assert!(until(&|| world.ids.degraded().is_some()), "it tries");
        *world.index().full.lock() = false;
        assert!(until(&|| world.ids.len() <= CAPACITY / 2), "it tries again");
        closed.set();
        world.ids.wake();
    });
    assert_eq!(world.submit(&["x0"], 1), Ok((1, false)));
}
