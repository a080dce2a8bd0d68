//! What is run of callers' own code, wakers and observers: no lock is held meanwhile, and what it does, a panic too, is its own affair.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use common::{SOON, account, alone, balance, create, decide, open, soon, update};
use equipoise::{Durability, Event, Ledger, Note};

/// Does something when it is woken.
struct Inline(Box<dyn Fn() + Send + Sync>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn inline(code: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Inline(Box::new(code))))
}

/// Polls once, with `waker` to be woken.
fn leave<F: Future + Unpin>(future: &mut F, waker: &Waker) {
    assert!(Pin::new(future).poll(&mut Context::from_waker(waker)).is_pending());
}

/// Runs `work` on a thread of its own; panics when it does not end.
fn ends<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = channel();
    std::thread::spawn(move || done.send(work()));
    is_done.recv_timeout(SOON).unwrap_or_else(|_| panic!("it does not end, or panicked: {what}"))
}

/// A ledger with a flusher whose sink is memory, and one on disk, each with an account.
fn flushed(dir: &Path) -> [Ledger; 2] {
    let on_disk = Ledger::builder().segment_bytes(1 << 20).open(dir).expect("opens");
    [Ledger::builder().history(1_000).build(), on_disk].map(|ledger| open(ledger, &[("a", 0)]))
}

/// C1, C3, E4: of those that a flush wakes one panics: the others are woken, everything is written once, and the ledger goes on.
#[test]
fn a_waker_that_panics_harms_nobody_else() {
    let dir = tempfile::tempdir().expect("a folder");
    for ledger in flushed(dir.path()) {
        let next = ledger.sequence() + 1;
        ledger.wait_durable(next - 1).expect("open");
        let bad = inline(|| panic!("a waker of its own"));
        let woken = Arc::new(AtomicUsize::new(0));
        let counts = woken.clone();
        let good = inline(move || {
            counts.fetch_add(1, Ordering::SeqCst);
        });
        let mut tickets = [ledger.durable_at(next), ledger.durable_at(next)];
        leave(&mut tickets[0], &bad);
        leave(&mut tickets[1], &good);
        let mut notes = [(); 2].map(|()| ledger.note(Note { after: next, ..Note::default() }));
        leave(&mut notes[0], &bad);
        leave(&mut notes[1], &good);
        // Where the sink is memory, who waits flushes.
        let _ = catch_unwind(AssertUnwindSafe(|| ledger.update(&account("a"), 1)));
        soon("the others are woken", || woken.load(Ordering::SeqCst) == 2);
        let careful = ledger.with_durability(Durability::OnDisk);
        ends("an update on disk", move || careful.update(&account("a"), 10)).expect("decided");
        let sequences: Vec<_> = ledger.history(0, 100).expect("kept").iter().map(|entry| entry.sequence()).collect();
        assert_eq!(sequences, (1..=next + 1).collect::<Vec<_>>(), "each once");
        drop((tickets, notes));
    }
    assert_eq!(balance(&Ledger::open(dir.path()).expect("opens again"), "a"), 11);
}

/// C1, E4: a waker may call the ledger, also to close it.
#[test]
fn a_waker_may_close_the_ledger() {
    let dir = tempfile::tempdir().expect("a folder");
    for ledger in flushed(dir.path()) {
        let next = ledger.sequence() + 1;
        ledger.wait_durable(next - 1).expect("open");
        let closed = Arc::new(AtomicBool::new(false));
        let (of, done) = (ledger.clone(), closed.clone());
        let closes = inline(move || {
            assert!(of.stats().durable >= next && !of.history(0, 10).expect("kept").is_empty());
            of.close();
            done.store(true, Ordering::SeqCst);
        });
        let mut ticket = ledger.durable_at(next);
        leave(&mut ticket, &closes);
        let writes = ledger.clone();
        ends("an update", move || writes.update(&account("a"), 1)).expect("decided");
        soon("it is closed", || closed.load(Ordering::SeqCst));
        assert_eq!((ledger.durable(), ledger.failure()), (next, None));
        drop(ticket);
    }
}

type Owned = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The waker of a task that owns a future.
struct Task(Mutex<Option<Owned>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

/// E4: the last reference to a task may be a waker that a ticket has, and the task own another ticket.
#[test]
fn a_waker_may_own_a_ticket() {
    let ledger = Ledger::builder().history(1_000).build();
    for replaced in [false, true] {
        let task = Arc::new(Task(Mutex::new(None)));
        let waker = Waker::from(task.clone());
        let [mut owned, mut outer] = [8, 9].map(|sequence| ledger.durable_at(sequence));
        leave(&mut owned, Waker::noop());
        *task.0.lock().expect("no panic") = Some(Box::pin(async move {
            let _ = owned.await;
        }));
        leave(&mut outer, &waker);
        drop((task, waker));
        ends("the last of a task goes", move || match replaced {
            true => leave(&mut outer, Waker::noop()),
            false => drop(outer),
        });
    }
}

/// E4, E6: an observer that panics loses what it was told then, and nothing else: the next checkpoint is written, and told of.
#[test]
fn an_observer_that_panics_ends_no_thread() {
    let dir = tempfile::tempdir().expect("a folder");
    let (told, hears) = channel();
    let observer = move |event: &Event| {
        let _ = told.send(event.clone());
        panic!("an observer of its own");
    };
    let ledger = Ledger::builder().checkpoint_every(1).observer(observer).open(dir.path()).expect("opens");
    for name in ["a", "b"] {
        decide(&ledger, alone(create(name, 1)));
        let heard = hears.recv_timeout(SOON).expect("a checkpoint");
        assert!(matches!(heard, Event::CheckpointWritten { .. }), "{heard}");
    }
    decide(&ledger, alone(update("a", 1)));
}

/// E4: to wait for the end keeps no ledger: with its last handle it is closed, and its directory is free.
#[test]
fn who_waits_for_the_end_keeps_no_ledger() {
    let dir = tempfile::tempdir().expect("a folder");
    let [in_memory, on_disk] = flushed(dir.path());
    for ledger in [on_disk, in_memory] {
        let ended = Arc::new(AtomicBool::new(false));
        let tells = ended.clone();
        let mut closed = ledger.closed();
        leave(&mut closed, &inline(move || tells.store(true, Ordering::SeqCst)));
        drop(ledger);
        assert!(ended.load(Ordering::SeqCst), "it was the last handle");
        Ledger::open(dir.path()).expect("nobody has it");
        assert!(Pin::new(&mut closed).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}
