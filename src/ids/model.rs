//! Random and PCT schedules of requests that share ids, while ids move to the index: B2. Each table
//! of claims has two slots here; the switch points are the kernel's atomics and the toy index.
//! `EQUIPOISE_SHUTTLE_ITERATIONS` schedules each (default 2,000).

use std::collections::{BTreeMap, BTreeSet};

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::probe::Probed;
use super::{Found, IdRecord, Ids, Index, IndexError, Indexed, Key, Seen};
use crate::account::{AccountId, Balance, Change, TransactionId};
use crate::kernel::cells::Watermark;
use crate::kernel::{Account, Consumer, Gate, Handle, Kernel, Leg, Owned, Plan, pin};
use crate::request::{Member, Operation, Request};

/// Of a window that nobody outlives here.
const WINDOW: u64 = 1_000;

fn check(body: impl Fn() + Copy + Send + Sync + 'static) {
    let iterations = std::env::var("EQUIPOISE_SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok());
    shuttle::check_random(body, iterations.unwrap_or(2_000));
    shuttle::check_pct(body, iterations.unwrap_or(2_000), 3);
}

/// An index in memory whose steps can be interrupted, and whose reads can fail.
struct Toy {
    published: Watermark,
    ingested: Watermark,
    ids: Mutex<BTreeMap<Key, Indexed>>,
    /// One read in so many fails; 0: none.
    failing: u32,
}

impl Index for Toy {
    fn published(&self) -> u64 {
        self.published.get()
    }

    fn key(&self, id: &TransactionId) -> Key {
        Key(id.as_str().bytes().fold(0, |key, byte| key << 8 | u128::from(byte)))
    }

    fn candidates(&self, keys: &[Key]) -> u64 {
        thread::yield_now();
        let ids = self.ids.lock().unwrap();
        keys.iter().zip(0..).fold(0, |all, (key, place)| all | u64::from(ids.contains_key(key)) << place)
    }

    fn find(&self, key: Key) -> Result<Option<Indexed>, IndexError> {
        thread::yield_now();
        if self.failing > 0 && thread_rng().gen_range(0..self.failing) == 0 {
            return Err(IndexError::Failed { path: "toy".into(), what: "as the model wants".to_owned() });
        }
        Ok(self.ids.lock().unwrap().get(&key).copied())
    }

    fn ingest(&self, run: &mut Vec<IdRecord>, through: u64) -> Result<(), IndexError> {
        for IdRecord { key, indexed } in run.drain(..) {
            thread::yield_now();
            self.ids.lock().unwrap().insert(key, indexed);
        }
        self.ingested.raise(through);
        Ok(())
    }

    fn publish(&self, through: u64) {
        assert!(through <= self.ingested.get(), "published before it is found");
        self.published.raise(through);
    }
}

/// A ledger as `core` makes it of its parts: one account, and a journal that the model reads.
struct World {
    ids: Ids<Toy>,
    // Before the account: its Drop may still release heads.
    kernel: Kernel<Balance>,
    account: Account<Balance>,
    consumer: Mutex<Consumer<Balance>>,
    journal: Mutex<Vec<Handle<Balance>>>,
}

fn id(name: &str) -> TransactionId {
    TransactionId::new(name).unwrap()
}

/// A request of one update a name, linked when there are several.
fn request(names: &[&str]) -> Request {
    let operation = || Operation::update(AccountId::new("a").unwrap(), 1);
    Request::chain(names.iter().map(|name| Member { id: Some(id(name)), operation: operation() }).collect()).unwrap()
}

/// The sequence at which the caller is told its id was used.
type Answer = Result<u64, IndexError>;

impl World {
    fn new(failing: u32) -> Arc<World> {
        let toy = Toy {
            published: Watermark::new(0),
            ingested: Watermark::new(0),
            ids: Mutex::new(BTreeMap::new()),
            failing,
        };
        // Nothing stays in the table that may go.
        World::over(Ids::with_index(0, toy, WINDOW))
    }

    /// Without an index, and with room for `capacity` ids.
    fn in_memory(capacity: usize) -> Arc<World> {
        World::over(Ids::in_memory(capacity))
    }

    fn over(ids: Ids<Toy>) -> Arc<World> {
        let (kernel, consumer) = Kernel::with_consumer(0, 0);
        Arc::new(World {
            ids,
            kernel,
            account: Account::new(AccountId::new("a").unwrap()),
            consumer: Mutex::new(consumer),
            journal: Mutex::new(Vec::new()),
        })
    }

    fn plan(&self, request: &Request) -> Handle<Balance> {
        let mut leg = Leg::new(&self.account);
        for place in 0..request.members().len() as u32 {
            leg.push(place, Change::Add { delta: 1, leg: 0 });
        }
        let legs = [leg].into_iter().collect();
        Owned::new(Plan { legs, refusal: None, as_of: 0, time: 1, request: request.clone() }).publish()
    }

    /// Either an answer, or what was seen before the claim: of the request alone, or as one of several.
    fn known(&self, request: &Request) -> Result<Result<u64, Probed>, IndexError> {
        if thread_rng().gen_range(0..2) == 0
            && let (1, probed) = self.ids.count_new(std::slice::from_ref(request), 1)
        {
            return Ok(Err(probed));
        }
        Ok(match self.ids.known(request, 1)? {
            Seen::Known(Found::Claimed(claim), _) => Ok(self.drive(&claim.handle)),
            Seen::Known(Found::Recorded(entry), _) => Ok(entry.sequence),
            Seen::Unknown(probed) => Err(probed),
        })
    }

    fn drive(&self, handle: &Handle<Balance>) -> u64 {
        assert_eq!(handle.gate(), Gate::Open, "driven before the gate is open");
        self.kernel.drive(handle, &pin()).expect("driven").sequence
    }

    fn submit(&self, request: &Request) -> Answer {
        loop {
            match self.known(request)? {
                Ok(sequence) => return Ok(sequence),
                Err(probed) => {
                    if let Some(sequence) = self.claim(request, probed)? {
                        return Ok(sequence);
                    }
                }
            }
        }
    }

    fn claim(&self, request: &Request, probed: Probed) -> Result<Option<u64>, IndexError> {
        let handle = self.plan(request);
        match self.ids.claim(&handle, probed, 1)? {
            Gate::Open => Ok(Some(self.drive(&handle))),
            _ => Ok(None),
        }
    }

    fn flush(&self) {
        let guard = pin();
        let through = self.kernel.begin_flush(&guard);
        if through == self.kernel.durable() {
            return;
        }
        let mut batch = Vec::new();
        self.consumer.lock().unwrap().take(&self.kernel, through, &mut batch, &guard);
        self.kernel.end_flush(through);
        self.ids.queue_durable(&batch, through);
        self.journal.lock().unwrap().extend(batch);
    }

    fn flush_and_sweep(&self) {
        self.flush();
        self.ids.sweep(true).unwrap();
    }

    /// No id is in two entries, every answer is an entry with an id of the request, and what is swept left memory.
    fn check(&self, answers: &[(Vec<&str>, Answer)]) {
        self.flush_and_sweep();
        let journal = self.journal.lock().unwrap();
        let mut used = BTreeSet::new();
        for entry in journal.iter() {
            for member in entry.request().members() {
                assert!(used.insert(member.id.clone().unwrap()), "{:?} was driven twice", member.id);
            }
        }
        for (names, answer) in answers {
            let Ok(sequence) = answer else { continue };
            let entry = &journal[*sequence as usize - 1];
            let carries = |name: &&str| entry.request().members().iter().any(|member| member.id == Some(id(name)));
            assert!(names.iter().any(carries), "{names:?} got the answer of another");
        }
        assert_eq!(self.ids.len(), 0, "what is published left the table");
    }
}

/// Callers of these requests, each in its own thread, beside a thread that flushes and sweeps.
fn race(failing: u32, requests: &'static [&'static [&'static str]], sweeps: usize) {
    let world = World::new(failing);
    let callers: Vec<_> = requests
        .iter()
        .map(|names| {
            let world = world.clone();
            thread::spawn(move || (names.to_vec(), world.submit(&request(names))))
        })
        .collect();
    for _ in 0..sweeps {
        world.flush_and_sweep();
        thread::yield_now();
    }
    let answers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    if failing == 0 {
        assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    }
    world.check(&answers);
}

/// B2: one id, many callers, while it moves to the index.
#[test]
fn one_id_is_driven_once_while_it_moves() {
    check(|| race(0, &[&["x"], &["x"], &["x"], &["x"]], 4));
}

/// B2: chains and single requests that share ids, in opposite orders.
#[test]
fn chains_that_share_ids_are_driven_once_while_they_move() {
    check(|| race(0, &[&["x", "y"], &["y", "x"], &["y"], &["x", "z"], &["z"]], 3));
}

/// B2: an index whose reads fail refuses, and never makes an id new.
#[test]
fn an_unreadable_index_makes_no_id_new() {
    check(|| race(4, &[&["x"], &["x", "y"], &["y"], &["x"]], 4));
}

/// B2: an owner sleeps between its look into the index and its claim, while its id is used, swept and forgotten; then
/// it goes on beside a duplicate.
#[test]
fn an_owner_that_slept_is_a_duplicate() {
    check(|| {
        let world = World::new(0);
        let wanted = request(&["x"]);
        let Ok(Err(probed)) = world.known(&wanted) else { panic!("nobody used it yet") };
        let first = world.submit(&wanted).unwrap();
        world.flush_and_sweep();
        assert_eq!(world.ids.len(), 0);
        let duplicate = world.clone();
        let duplicate = thread::spawn(move || duplicate.submit(&request(&["x"])).unwrap());
        let mine = match world.claim(&wanted, probed).unwrap() {
            Some(sequence) => sequence,
            None => world.submit(&wanted).unwrap(),
        };
        let other = duplicate.join().unwrap();
        world.check(&[]);
        assert_eq!((mine, other), (first, first));
    });
}

/// B2: callers come while the id that was used before leaves the table.
#[test]
fn a_swept_id_is_never_in_neither() {
    check(|| {
        let world = World::new(0);
        let first = world.submit(&request(&["x"])).unwrap();
        world.flush();
        let sweeper = world.clone();
        let sweeper = thread::spawn(move || sweeper.ids.sweep(true).unwrap());
        let duplicate = world.clone();
        let duplicate = thread::spawn(move || duplicate.submit(&request(&["x"])).unwrap());
        assert_eq!(world.submit(&request(&["x"])).unwrap(), first);
        assert_eq!(duplicate.join().unwrap(), first);
        sweeper.join().unwrap();
        world.check(&[]);
    });
}

/// B2: a duplicate that helped too late puts nothing back into the table that was swept out of it, and takes nothing
/// out that is not in the index yet.
#[test]
fn a_late_helper_leaves_no_claim() {
    check(|| {
        let world = World::new(0);
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || world.submit(&request(&["x"])).unwrap())
            })
            .collect();
        let sweeper = world.clone();
        let sweeper = thread::spawn(move || (0..3).for_each(|_| sweeper.flush_and_sweep()));
        let mine = world.submit(&request(&["x"])).unwrap();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), mine);
        }
        sweeper.join().unwrap();
        world.check(&[]);
    });
}

/// C6: in a ledger without an index, too, a duplicate that helped too late leaves no claim of what was forgotten.
#[test]
fn a_late_helper_leaves_no_claim_in_memory() {
    check(|| {
        let world = World::in_memory(0);
        let requests: [&[&str]; 3] =
            if thread_rng().gen_range(0..2) == 0 { [&["x"]; 3] } else { [&["x", "y"], &["x"], &["y"]] };
        let callers: Vec<_> = requests
            .into_iter()
            .map(|names| {
                let world = world.clone();
                thread::spawn(move || {
                    let request = request(names);
                    let forget = || world.ids.forget_excess(u64::MAX, usize::MAX);
                    loop {
                        let handle = match world.ids.known(&request, 1).unwrap() {
                            Seen::Known(Found::Claimed(claim), _) => claim.handle,
                            Seen::Known(Found::Recorded(_), _) => unreachable!("there is no index"),
                            Seen::Unknown(probed) => {
                                let handle = world.plan(&request);
                                if world.ids.claim(&handle, probed, 1).unwrap() != Gate::Open {
                                    continue;
                                }
                                world.drive(&handle);
                                world.ids.note_claimed(&handle);
                                handle
                            }
                        };
                        world.drive(&handle);
                        forget();
                        return;
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        world.ids.forget_excess(u64::MAX, usize::MAX);
        assert_eq!(world.ids.len(), 0);
    });
}

/// B2: a duplicate that helped too late takes nothing out of the table that was not forgotten: of a chain the first id
/// was.
#[test]
fn a_late_helper_forgets_nothing_early() {
    check(|| {
        let world = World::in_memory(1);
        let owner = world.clone();
        let owner = thread::spawn(move || {
            let chain = request(&["x", "y"]);
            let Seen::Unknown(probed) = owner.ids.known(&chain, 1).unwrap() else { panic!("nobody used it yet") };
            let handle = owner.plan(&chain);
            assert_eq!(owner.ids.claim(&handle, probed, 1).unwrap(), Gate::Open);
            owner.drive(&handle);
            owner.ids.note_claimed(&handle);
            owner.ids.forget_excess(u64::MAX, 1);
            handle
        });
        let helper = world.clone();
        let helper = thread::spawn(move || {
            if let Seen::Known(Found::Claimed(claim), _) = helper.ids.known(&request(&["y"]), 1).unwrap() {
                helper.drive(&claim.handle);
            }
        });
        let handle = owner.join().unwrap();
        helper.join().unwrap();
        let kept = world.ids.find(&id("y")).unwrap();
        assert!(matches!(kept, Some(Found::Claimed(claim)) if claim.handle.same(&handle)), "the newest was forgotten");
        assert_eq!(world.ids.len(), 1);
    });
}
