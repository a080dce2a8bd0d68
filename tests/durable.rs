//! A ledger in a data directory: what was answered is there after the next start.

mod common;

use std::fs;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use common::directory::files;
use common::{SOON, account};
use equipoise::{
    AccountId, Durability, Event, Ledger, Member, OpenError, Operation, Request, SubmitError, TransactionId,
};

fn events() -> (Arc<Mutex<Vec<Event>>>, impl Fn(&Event) + Send + Sync + 'static) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = events.clone();
    (events, move |event: &Event| heard.lock().expect("no panic").push(event.clone()))
}

/// E6, C3: balances, versions and sequences survive a restart, and the journal tells the same.
#[test]
fn a_ledger_opened_again_is_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (account("a"), account("b"));
    let before = {
        let ledger = Ledger::open(dir.path()).expect("opens").with_durability(Durability::OnDisk);
        ledger.create(&a, 100).expect("new");
        ledger.create(&b, 7).expect("new");
        ledger.transfer(&a, &b, 30).expect("funds");
        ledger.transfer(&a, &b, 1_000).expect_err("no funds");
        let ids = [Some("x"), None].map(|id| id.map(|id| TransactionId::new(id).expect("an id")));
        let members = ids.map(|id| Member { id, operation: Operation::update(a.clone(), 5) }).to_vec();
        ledger.submit(Request::chain(members).expect("a chain")).expect("decided");
        (ledger.balance(&a), ledger.balance(&b), ledger.sequence(), format!("{:?}", ledger.history(0, 100)))
    };
    for _ in 0..3 {
        let ledger = Ledger::open(dir.path()).expect("opens again");
        let after =
            (ledger.balance(&a), ledger.balance(&b), ledger.sequence(), format!("{:?}", ledger.history(0, 100)));
        assert_eq!(before, after);
        assert_eq!(ledger.balance_durable(&a), before.0);
        assert_eq!(ledger.durable(), 5);
        assert_eq!(ledger.stats().accounts, 2);
        assert_eq!(ledger.snapshot_durable().expect("few are open").total(), 117);
    }
}

/// C6: checkpoints come as often as they should, however busy the journal is and whoever waits for what never comes.
#[test]
fn checkpoints_are_written_under_load() {
    let dir = tempfile::tempdir().expect("a directory");
    let (events, observer) = events();
    let ledger = Ledger::builder().checkpoint_every(2_000).observer(observer).open(dir.path()).expect("opens");
    let a = account("a");
    ledger.create(&a, 0).expect("new");
    let mut never = std::pin::pin!(ledger.durable_at(1 << 60));
    assert!(never.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let written = || {
        let events = events.lock().expect("no panic");
        events.iter().filter(|event| matches!(event, Event::CheckpointWritten { .. })).count()
    };
    let durable = ledger.with_durability(Durability::OnDisk);
    let until = Instant::now() + SOON;
    std::thread::scope(|scope| {
        let threads = (0..16).map(|_| {
            scope.spawn(|| {
                while written() < 2 && Instant::now() < until {
                    durable.update(&a, 1).expect("decided");
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    let (checkpoints, entries) = (written(), ledger.durable());
    assert!(checkpoints >= 2, "{checkpoints} checkpoints beside {entries} entries");
}

/// Case A14: one process at a time, and one ledger in a process.
#[test]
fn a_directory_in_use_is_refused_and_says_by_whom() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(dir.path()).expect("opens");
    let refused = Ledger::open(dir.path()).expect_err("in use");
    assert!(
        matches!(&refused, OpenError::Held { holder: Some(holder), .. } if *holder == std::process::id().to_string())
    );
    std::fs::remove_file(dir.path().join("LOCK")).expect("there");
    let refused = Ledger::open(dir.path()).expect_err("in use, whatever somebody believed");
    assert!(matches!(refused, OpenError::Held { .. }), "{refused}");
    drop(ledger);
    Ledger::open(dir.path()).expect("free again");
}

/// B1, B4: an index of another past of this ledger, whose entries have other ids at the same places, answers for nobody.
#[test]
fn an_index_that_leads_to_another_id_is_made_again() {
    let place = tempfile::tempdir().expect("a directory");
    let [one, other] = ["one", "other"].map(|name| place.path().join(name));
    let a = account("a");
    let add = |id: &str| {
        let id = TransactionId::new(id).expect("an id");
        Request::single(Operation::update(a.clone(), 5), Some(id))
    };
    Ledger::open(&one).expect("opens").create(&a, 0).expect("new");
    let copied = std::process::Command::new("cp").arg("-r").args([&one, &other]).status().expect("copies");
    assert!(copied.success());
    for (dir, id) in [(&one, "x"), (&other, "y")] {
        Ledger::open(dir).expect("opens").submit(add(id)).expect("decided");
    }
    std::fs::remove_dir_all(one.join("ids")).expect("removed");
    std::fs::rename(other.join("ids"), one.join("ids")).expect("moved");
    let unreadable = Ledger::open(&one).expect("opens").submit(add("y")).expect_err("x is where y is said to be");
    assert!(matches!(&unreadable, SubmitError::IdsUnreadable { what } if what.contains("another id")), "{unreadable}");
    let ledger = Ledger::open(&one).expect("opens");
    assert!(ledger.submit(add("x")).expect("decided").replayed());
    assert!(!ledger.submit(add("y")).expect("decided").replayed());
    assert_eq!(ledger.balance(&a).map(|state| state.balance), Some(10));
}

/// C1, B4: an id index that goes beyond the journal's end proves that acknowledged entries are missing: nothing is begun on what is
/// left, nothing is changed, and whoever has the journal puts it back.
#[test]
fn entries_that_the_id_index_knows_and_the_journal_does_not_are_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let segment = dir.path().join("journal/0000000001.segment");
    let create = |ledger: &Ledger, number: usize| {
        let id = TransactionId::new(&format!("id-{number}")).expect("an id");
        let create = Operation::create(account(&format!("account-{number}")), 10).expect("a balance");
        ledger.submit(Request::single(create, Some(id))).expect("decided")
    };
    let ledger = Ledger::builder().segment_bytes(1 << 20).open(dir.path()).expect("opens");
    (0..5).for_each(|number| drop(create(&ledger, number)));
    drop(ledger);
    let whole = files(dir.path());
    let cut =
        |length| fs::File::options().write(true).open(&segment).and_then(|file| file.set_len(length)).expect("cut");
    let zeroed = |from: usize| {
        let mut bytes = whole[&segment].clone();
        bytes[from..].fill(0);
        fs::write(&segment, bytes).expect("written");
    };
    let losses: [(&str, &dyn Fn()); 8] = [
        ("no bytes", &|| cut(0)),
        ("no header", &|| cut(100)),
        ("only a header", &|| cut(4_096)),
        ("a torn batch", &|| cut(4_400)),
        ("the last batches zeroed", &|| zeroed(4_400)),
        ("all zeroed", &|| zeroed(0)),
        ("no segment", &|| fs::remove_file(&segment).expect("removed")),
        ("no journal", &|| fs::remove_dir_all(dir.path().join("journal")).expect("removed")),
    ];
    for (what, lose) in losses {
        lose();
        let before = files(dir.path());
        let (heard, observer) = events();
        let refused = Ledger::builder().observer(observer).open(dir.path()).expect_err(what);
        assert_eq!(*heard.lock().expect("no panic"), [], "{what}: nothing was cut, nor built again");
        let OpenError::Damaged { file, what: said, .. } = &refused else { panic!("{what}: {refused}") };
        assert!(file.starts_with(dir.path().join("ids")), "{what}: {refused}");
        assert!(said.contains("up to sequence 5") && said.contains("remove the folder ids"), "{what}: {refused}");
        assert!(files(dir.path()) == before, "{what}: something was changed");
        for (path, bytes) in &whole {
            fs::create_dir_all(path.parent().expect("a folder")).expect("put back");
            fs::write(path, bytes).expect("put back");
        }
    }
    let ledger = Ledger::open(dir.path()).expect("all is there again");
    assert!(create(&ledger, 3).replayed());
    drop(ledger);
    cut(0);
    fs::remove_dir_all(dir.path().join("ids")).expect("removed");
    let ledger = Ledger::open(dir.path()).expect("begins anew, on purpose");
    assert!(!create(&ledger, 3).replayed());
}

/// C6: a checkpoint is written beside the traffic, and the next start begins there.
#[test]
fn a_start_applies_only_what_came_after_the_checkpoint() {
    let dir = tempfile::tempdir().expect("a directory");
    let a = account("a");
    let (heard, observer) = events();
    {
        let ledger = Ledger::builder().checkpoint_every(50).observer(observer).open(dir.path()).expect("opens");
        ledger.create(&a, 0).expect("new");
        for _ in 0..60 {
            ledger.update(&a, 1).expect("room");
        }
        let written =
            || heard.lock().expect("no panic").iter().any(|event| matches!(event, Event::CheckpointWritten { .. }));
        while !written() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        ledger.update(&a, 1).expect("room");
    }
    let replayed = Arc::new(Mutex::new(0));
    let told = replayed.clone();
    let ledger = Ledger::builder()
        .progress(move |progress| {
            *told.lock().expect("no panic") = progress.replayed;
            std::ops::ControlFlow::Continue(())
        })
        .open(dir.path())
        .expect("opens again");
    assert_eq!(ledger.balance(&a).expect("open").balance, 61);
    assert!(*replayed.lock().expect("no panic") <= 11);
    let kept = ledger.history(1, 1_000).expect("all of it is kept");
    assert_eq!(kept.len(), 62);
}

/// E6, A10: the accounts of a checkpoint, those that the journal made after it and those made since are one order, with the cache and without.
#[test]
fn accounts_of_a_checkpoint_and_later_ones_are_one_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let name = |number: usize| account(&format!("{}-{number:03}", if number.is_multiple_of(3) { "x" } else { "y" }));
    let balances = |ledger: &Ledger, numbers: &[usize]| {
        for number in numbers {
            assert_eq!(ledger.balance(&name(*number)).expect("open").balance, *number as i64);
        }
        let stranger = account("x-0005");
        assert!(ledger.balance(&stranger).is_none());
        let mut all: Vec<_> = numbers.iter().map(|number| name(*number)).collect();
        all.sort();
        let snapshot = ledger.snapshot().expect("room");
        let page = |prefix: &str, after: Option<&AccountId>, limit: usize| {
            snapshot.page(prefix, after, limit).into_iter().map(|state| state.id).collect::<Vec<_>>()
        };
        assert!(snapshot.iter().map(|state| state.id).eq(all.iter().cloned()));
        for (place, id) in all.iter().enumerate() {
            assert_eq!(page("", Some(id), 3), all[place + 1..].iter().take(3).cloned().collect::<Vec<_>>());
        }
        for prefix in ["w", "x", "x-0", "x-00", "x-01", "y-1", "y-200", "z"] {
            let of_prefix: Vec<_> = all.iter().filter(|id| id.as_str().starts_with(prefix)).cloned().collect();
            assert_eq!(page(prefix, None, 1_000), of_prefix, "{prefix}");
        }
        assert_eq!(ledger.stats().accounts, numbers.len() as u64);
    };
    let make = |ledger: &Ledger, numbers: &[usize]| {
        for number in numbers {
            ledger.create(&name(*number), *number as i64).expect("new");
        }
    };
    let of_rest = |rest: &[usize]| (0..200).filter(|number| rest.contains(&(number % 5))).collect::<Vec<_>>();
    {
        let (heard, observer) = events();
        let ledger = Ledger::builder().checkpoint_every(80).observer(observer).open(dir.path()).expect("opens");
        make(&ledger, &of_rest(&[0, 3]));
        let written =
            || heard.lock().expect("no panic").iter().any(|event| matches!(event, Event::CheckpointWritten { .. }));
        while !written() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        make(&ledger, &of_rest(&[1]));
    }
    for (cached, before, new) in [(true, vec![0, 1, 3], 2), (false, vec![0, 1, 2, 3], 4)] {
        let ledger =
            Ledger::builder().checkpoint_every(1 << 40).look_up_cache(cached).open(dir.path()).expect("opens again");
        balances(&ledger, &of_rest(&before));
        make(&ledger, &of_rest(&[new]));
        balances(&ledger, &of_rest(&[before.as_slice(), &[new]].concat()));
        for number in of_rest(&before) {
            assert!(ledger.create(&name(number), 1).is_err(), "{number} is there");
        }
    }
}

/// B1, B4: an id is honoured after a restart, also by what it may not be used for; refusals keep their answer.
#[test]
fn ids_are_honoured_across_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let a = account("a");
    let id = |name: &str| Some(TransactionId::new(name).expect("an id"));
    let add = |delta, name| Request::single(Operation::update(a.clone(), delta), id(name));
    let chain = || {
        let members = ["p", "q"].map(|name| Member { id: id(name), operation: Operation::update(a.clone(), 1) });
        Request::chain(members.to_vec()).expect("a chain")
    };
    let first = {
        let ledger = Ledger::open(dir.path()).expect("opens").with_durability(Durability::OnDisk);
        ledger.create(&a, 0).expect("new");
        [add(-5, "r"), add(100, "d"), chain()].map(|request| ledger.submit(request).expect("decided"))
    };
    for _ in 0..2 {
        let ledger = Ledger::open(dir.path()).expect("opens again");
        for (request, first) in [add(-5, "r"), add(100, "d"), chain()].into_iter().zip(&first) {
            let again = ledger.submit(request).expect("replayed");
            assert!(again.replayed());
            assert_eq!((again.sequence(), again.results()), (first.sequence(), first.results()));
        }
        let alone = ledger.submit(add(1, "q")).expect("a member's id sent alone");
        assert_eq!((alone.replayed(), alone.sequence()), (true, 4));
        let reused = ledger.submit(add(-6, "r")).expect_err("another delta").to_string();
        assert_eq!(reused, "transaction_id r was used with another delta");
        let found = ledger.transaction(&id("r").expect("some")).expect("readable").expect("known");
        assert_eq!(found.result().expect_err("refused").to_string(), "Insufficient balance: current=0, delta=-5");
        assert_eq!((ledger.balance(&a).expect("open").balance, ledger.sequence()), (102, 4));
    }
}

/// B4, B5: ids leave memory past the bound and are honoured all the same; after the window they are new again.
#[test]
fn ids_beyond_memory_are_honoured_for_their_window() {
    let dir = tempfile::tempdir().expect("a directory");
    let a = account("a");
    let window = std::time::Duration::from_secs(4);
    let ledger = Ledger::builder().id_capacity(1_000).id_window(window).open(dir.path()).expect("opens");
    ledger.create(&a, 0).expect("new");
    let started = std::time::Instant::now();
    let add = |number: usize| {
        let id = TransactionId::new(&format!("id-{number}")).expect("an id");
        ledger.submit(Request::single(Operation::update(a.clone(), 1), Some(id))).expect("decided")
    };
    let first: Vec<_> = (0..5_000).map(add).collect();
    ledger.wait_durable(ledger.sequence()).expect("durable");
    while ledger.stats().ids > 1_000 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for number in (0..5_000).step_by(7) {
        let again = add(number);
        if started.elapsed() < window {
            assert!(again.replayed(), "id-{number}");
            assert_eq!(again.sequence(), first[number].sequence());
        }
    }
    std::thread::sleep(window.saturating_sub(started.elapsed()) + window);
    assert!(!add(0).replayed(), "its window is over");
}
