//! The ledger as the store of inventory events.

#![cfg(feature = "server")]

mod common;

use std::sync::Arc;
use std::task::{Context, Waker};

use common::{account, balance, id};
use equipoise::inventory::{
    Applied, Content, DeadLetter, Event, LedgerStore, Position, Record, Run, Store, StoreError,
};
use equipoise::{Ledger, Note, Operation, Request};

const TOPIC: &str = "inventory-events";

/// Ledgers of every kind; the folder lives as long as they do.
fn ledgers() -> (tempfile::TempDir, Vec<Ledger>) {
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Ledger::open(dir.path()).expect("opens");
    (dir, vec![Ledger::new(), Ledger::builder().history(1_000).build(), on_disk])
}

fn letter(offset: i64, reason: &str) -> Arc<DeadLetter> {
    Arc::new(DeadLetter {
        topic: TOPIC.to_owned(),
        partition: 0,
        offset,
        timestamp: None,
        key: None,
        value: Some(format!("record {offset}").into_bytes()),
        headers: vec![("h".to_owned(), None)],
        reason: reason.to_owned(),
    })
}

fn event(offset: i64, name: &str, product: &str, quantity_change: i64) -> Record {
    let event = Event { id: id(name), product: account(product), quantity_change };
    Record { offset, content: Content::Event { event, original: letter(offset, "") } }
}

fn malformed(offset: i64) -> Record {
    Record { offset, content: Content::Malformed(letter(offset, "no JSON")) }
}

/// A run of `records` from `from` on, as whoever took the partition over at `position` gives it.
fn run(position: &Position, from: Option<i64>, records: Vec<Record>) -> Run {
    let next = records.last().expect("one").offset + 1;
    let Position { partition, epoch, .. } = *position;
    Run { partition, epoch, from, next, fingerprint: next * 3, records }
}

async fn own(store: &LedgerStore, partition: i32) -> Position {
    store.take_over(TOPIC, &[partition]).await.expect("taken over")[0]
}

async fn reasons(store: &LedgerStore) -> Vec<(i64, String)> {
    let letters = store.dead_letters(100).await.expect("readable");
    letters.into_iter().map(|stored| (stored.letter.offset, stored.letter.reason)).collect()
}

/// D1, D3, D6: what becomes of each kind of record; products are opened by their first event.
#[tokio::test]
async fn records_are_decided_and_offsets_kept_with_them() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let store = LedgerStore::new(&ledger);
        let position = own(&store, 0).await;
        assert_eq!((position.next, position.epoch), (None, 1));
        ledger.create(&account("old"), 5).expect("new");
        let by_grpc = Request::single(Operation::update(account("old"), 1), Some(id("e0")));
        ledger.submit(by_grpc).expect("decided");
        let records = vec![
            event(10, "e1", "new", 7),
            event(11, "e0", "old", 1),
            event(12, "e2", "old", -100),
            malformed(13),
            Record { offset: 14, content: Content::Tombstone },
            event(15, "e1", "new", 8),
            event(16, "e3", "new", -2),
        ];
        let applied = store.apply(TOPIC, &[run(&position, None, records)]).await.expect("applied");
        let expected = Applied { applied: 2, duplicates: 1, rejected: 1, dead_letters: 2, tombstones: 1, redecided: 0 };
        assert_eq!(applied, expected);
        assert_eq!((balance(&ledger, "new"), balance(&ledger, "old")), (5, 6));
        let reused = "transaction_id e1 was used with another delta".to_owned();
        assert_eq!(reasons(&store).await, [(13, "no JSON".to_owned()), (15, reused)]);
        let again = own(&store, 0).await;
        assert_eq!(again, Position { partition: 0, epoch: 2, next: Some(17), fingerprint: 51 });
        let letters = store.dead_letters(1).await.expect("readable");
        assert_eq!(letters[0].letter, *letter(13, "no JSON"));
        store.published(&[letters[0].number, 99, -1]).await.expect("kept");
        assert_eq!(reasons(&store).await.len(), 1);
    }
}

/// D5: whoever was overtaken changes no offset, and is told so; and so is whoever believes to be elsewhere.
#[tokio::test]
async fn an_owner_that_was_overtaken_is_fenced() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let store = LedgerStore::new(&ledger);
        let old = own(&store, 0).await;
        let other = own(&store, 1).await;
        let new = own(&store, 0).await;
        let fenced = StoreError::Fenced { partitions: vec![0] };
        let runs = |position: &Position| {
            vec![
                run(&other, None, vec![event(5, "x", "a", 1)]),
                run(position, None, vec![event(5, "y", "a", 1), malformed(6)]),
            ]
        };
        assert_eq!(store.apply(TOPIC, &runs(&old)).await, Err(fenced.clone()));
        assert_eq!(ledger.sources(), [], "nothing of the other partition either");
        assert_eq!(store.apply(TOPIC, &runs(&new)).await.expect("applied").applied, 2);
        let elsewhere = run(&new, Some(3), vec![event(4, "z", "a", 1)]);
        assert_eq!(store.apply(TOPIC, &[elsewhere]).await, Err(fenced.clone()));
        let unknown = Position { partition: 0, epoch: 0, next: None, fingerprint: 0 };
        assert_eq!(store.apply("other", &[run(&unknown, None, vec![malformed(0)])]).await, Err(fenced));
        assert_eq!((balance(&ledger, "a"), reasons(&store).await.len()), (2, 1));
    }
}

/// D3, D4: the same call again has its effect once, whether it was answered, given up midway, or nobody knows.
#[tokio::test]
async fn a_call_made_again_has_its_effect_once() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let store = LedgerStore::new(&ledger);
        let position = own(&store, 0).await;
        let mut from = None;
        for round in 0..20_i64 {
            let first = round * 100;
            let mut records: Vec<_> =
                (first..first + 99).map(|offset| event(offset, &format!("e{offset}"), "a", 1)).collect();
            records.push(malformed(first + 99));
            let runs = [run(&position, from, records)];
            // Polled so often, and dropped: some of it may be decided, and even be noted.
            let mut given_up = Box::pin(store.apply(TOPIC, &runs));
            for _ in 0..round % 6 {
                if given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    given_up = Box::pin(store.apply(TOPIC, &runs));
                }
            }
            drop(given_up);
            store.apply(TOPIC, &runs).await.expect("applied");
            store.apply(TOPIC, &runs).await.expect("done already");
            from = Some(first + 100);
            assert_eq!(own_next(&ledger), from);
            assert_eq!(balance(&ledger, "a"), (round + 1) * 99);
            assert_eq!(reasons(&store).await.len() as i64, round + 1);
        }
    }
}

/// D9: what becomes of an event is counted once, however often its note is tried.
#[tokio::test]
async fn a_note_tried_again_counts_nothing_twice() {
    let ledger = Ledger::new();
    let store = LedgerStore::new(&ledger);
    let mut position = own(&store, 0).await;
    ledger
        .submit(Request::single(Operation::create(account("b"), 9).expect("valid"), Some(id("used"))))
        .expect("decided");
    let full = Note { parked: vec![vec![0; 64 << 20]], ..Note::default() };
    ledger.note(full).await.expect("there is room for a last one");
    let number = ledger.parked(1)[0].number;
    let records = vec![
        event(0, "e0", "a", 5),
        event(1, "e1", "a", -9),
        event(2, "e0", "a", 5),
        malformed(3),
        event(4, "used", "b", 1),
    ];
    // Whoever takes over meanwhile may give more of it at once, or less.
    for given in [4, 5, 4] {
        let runs = [run(&position, None, records[..given].to_vec())];
        let refused = store.apply(TOPIC, &runs).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        position = own(&store, 0).await;
    }
    let runs = [run(&position, None, records)];
    ledger.note(Note { unparked: vec![number], ..Note::default() }).await.expect("noted");
    let expected = Applied { applied: 1, duplicates: 1, rejected: 1, dead_letters: 2, ..Applied::default() };
    assert_eq!(store.apply(TOPIC, &runs).await, Ok(expected));
    assert_eq!(store.apply(TOPIC, &runs).await, Ok(Applied::default()));
    let again = run(&position, Some(5), vec![event(5, "e0", "a", 5), event(6, "e1", "a", -9)]);
    let applied = store.apply(TOPIC, &[again]).await.expect("applied");
    assert_eq!((applied.duplicates, applied.applied), (2, 0));
}

fn own_next(ledger: &Ledger) -> Option<i64> {
    ledger.source(&format!("kafka/{TOPIC}/0")).map(|at| at.next)
}

/// D4: a topic that was made anew is consumed from its beginning when the consumer says so.
#[tokio::test]
async fn a_partition_goes_back_when_its_owner_says_so() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let store = LedgerStore::new(&ledger);
        let position = own(&store, 0).await;
        let first = run(&position, None, vec![event(99, "e1", "a", 1)]);
        store.apply(TOPIC, &[first]).await.expect("applied");
        let anew = run(&position, Some(100), vec![event(0, "e1", "a", 1), event(1, "e2", "a", 1)]);
        let applied = store.apply(TOPIC, &[anew]).await.expect("applied");
        assert_eq!((applied.applied, applied.duplicates), (1, 1));
        assert_eq!((own_next(&ledger), balance(&ledger, "a")), (Some(2), 2));
    }
}

/// D6: a partition moves on over what is no record, and its owner alone moves it.
#[tokio::test]
async fn a_run_without_records_moves_a_partition_on() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let store = LedgerStore::new(&ledger);
        let position = own(&store, 0).await;
        let passing = Run { next: 5, ..run(&position, Some(1), vec![event(4, "none", "a", 1)]) };
        let passing = [Run { records: Vec::new(), ..passing }];
        store.apply(TOPIC, &[run(&position, None, vec![event(0, "e0", "a", 1)])]).await.expect("applied");
        for _ in 0..2 {
            assert_eq!(store.apply(TOPIC, &passing).await, Ok(Applied::default()));
        }
        let again = own(&store, 0).await;
        assert_eq!((again.next, again.fingerprint), (Some(5), passing[0].fingerprint));
        let late = store.apply(TOPIC, &passing).await;
        assert_eq!(late, Err(StoreError::Fenced { partitions: vec![0] }));
    }
}

/// D4: after a restart everything goes on where it was, and what was decided beyond the offset is a duplicate.
#[tokio::test]
async fn a_ledger_opened_again_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..3_i64 {
        let ledger = Ledger::open(dir.path()).expect("opens");
        let store = LedgerStore::new(&ledger);
        let position = own(&store, 0).await;
        let held = (round > 0).then_some(round * 2);
        assert_eq!((position.next, position.epoch), (held, 1));
        let first = round * 2;
        if round > 0 {
            let request = Request::single(Operation::update(account("a"), 1), Some(id(&format!("e{first}"))));
            ledger.submit(request).expect("as a process did that died before it noted so");
        }
        let records = vec![event(first, &format!("e{first}"), "a", 1), malformed(first + 1)];
        let applied = store.apply(TOPIC, &[run(&position, held, records)]).await.expect("applied");
        assert_eq!((applied.applied, applied.duplicates), (u64::from(round == 0), u64::from(round > 0)));
        assert_eq!((balance(&ledger, "a"), reasons(&store).await.len() as i64), (round + 1, round + 1));
        ledger.close();
        let closed = store.apply(TOPIC, &[run(&position, Some(first + 2), vec![malformed(first + 2)])]).await;
        assert!(matches!(closed, Err(StoreError::Failed { .. })), "{closed:?}");
    }
    let report = equipoise::verify::verify(dir.path(), &Default::default(), &mut |_, _| {}).expect("right");
    assert_eq!((report.sources, report.parked), (1, 3));
}

/// D6: an event whose id is used up opens no product.
#[tokio::test]
async fn a_duplicate_opens_nothing() {
    let ledger = Ledger::new();
    let store = LedgerStore::new(&ledger);
    let position = own(&store, 0).await;
    let unknown = Request::single(Operation::update(account("nobody"), 1), Some(id("used")));
    ledger.submit(unknown).expect("decided").result().expect_err("unknown");
    let applied = store.apply(TOPIC, &[run(&position, None, vec![event(0, "used", "nobody", 1)])]).await;
    assert_eq!(applied.expect("applied").duplicates, 1);
    assert_eq!(ledger.balance(&account("nobody")), None);
}

/// D2, D7: many events of few products on several partitions at once, beside direct updates: exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitions_beside_each_other_are_exact() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let store = Arc::new(LedgerStore::new(&ledger));
        let mut tasks = Vec::new();
        for partition in 0..4 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let position = own(&store, partition).await;
                let mut from = None;
                for round in 0..10_i64 {
                    // Each event comes on two partitions.
                    let records = (round * 20..round * 20 + 20).map(|offset| {
                        event(offset, &format!("{}-{offset}", partition / 2), &format!("p{}", offset % 3), 2)
                    });
                    let runs = [run(&position, from, records.collect())];
                    store.apply(TOPIC, &runs).await.expect("applied");
                    from = Some(runs[0].next);
                }
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        let total: i64 = (0..3).map(|product| balance(&ledger, &format!("p{product}"))).sum();
        assert_eq!(total, 2 * 200 * 2);
        assert_eq!(ledger.sources().len(), 4);
    }
}
