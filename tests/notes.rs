//! Notes about sources: durable with the entries they stand for, never before, and compared with what is there.

mod common;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use common::{account, together};
use equipoise::{
    Advance, Durability, Ledger, MAX_PARKED_BYTES, MAX_SOURCE_BYTES, Note, NoteError, SourcePosition, SubmitError,
};

fn advance(source: &str, from: Option<i64>, next: i64) -> Advance {
    Advance { source: source.to_owned(), from, next, fingerprint: next + 1, anew: false }
}

fn note(advances: Vec<Advance>) -> Note {
    Note { advances, ..Note::default() }
}

/// Ledgers of every kind; the folder lives as long as they do.
fn ledgers() -> (tempfile::TempDir, Vec<Ledger>) {
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Ledger::open(dir.path()).expect("opens");
    (dir, vec![Ledger::new(), Ledger::builder().history(100).build(), on_disk])
}

fn is_pending(noting: &mut (impl Future<Output = Result<(), NoteError>> + Unpin)) -> bool {
    Pin::new(noting).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// D3: a note is all or nothing, and nobody moves a source that is elsewhere.
#[test]
fn a_note_is_kept_as_a_whole_or_not_at_all() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let both = vec![advance("a", None, 5), advance("b", None, 7)];
        ledger.wait_noted(Note { parked: vec![b"x".to_vec()], ..note(both) }).expect("kept");
        assert_eq!(ledger.source("a"), Some(SourcePosition { next: 5, fingerprint: 6 }));
        let half = Note {
            parked: vec![b"y".to_vec()],
            unparked: vec![1],
            ..note(vec![advance("b", Some(7), 8), advance("a", Some(4), 9)])
        };
        let moved = NoteError::Moved { source_name: "a".to_owned(), held: Some(5) };
        assert_eq!(ledger.wait_noted(half), Err(moved));
        let unknown = NoteError::Moved { source_name: "c".to_owned(), held: None };
        assert_eq!(ledger.wait_noted(note(vec![advance("c", Some(0), 1)])), Err(unknown));
        let names: Vec<_> = ledger.sources().into_iter().map(|(name, at)| (name, at.next)).collect();
        assert_eq!(names, [("a".to_owned(), 5), ("b".to_owned(), 7)]);
        let parked: Vec<_> = ledger.parked(9).iter().map(|parked| (parked.number, parked.payload.to_vec())).collect();
        assert_eq!(parked, [(1, b"x".to_vec())]);
        // Taken back twice, and never there: no harm.
        ledger.wait_noted(Note { unparked: vec![1, 1, 8], ..Note::default() }).expect("kept");
        ledger.wait_noted(Note { parked: vec![vec![], b"z".to_vec()], ..Note::default() }).expect("kept");
        let numbers: Vec<_> = ledger.parked(1).iter().map(|parked| parked.number).collect();
        assert_eq!(numbers, [2], "a number is not used again");
    }
}

#[test]
fn a_note_that_cannot_be_is_refused() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        for odd in [
            vec![advance("", None, 1)],
            vec![advance("a\0", None, 1)],
            vec![advance(&"x".repeat(MAX_SOURCE_BYTES + 1), None, 1)],
            vec![advance("a", Some(2), 1)],
            vec![advance("a", None, 1), advance("b", None, 1), advance("a", Some(1), 2)],
        ] {
            let refused = ledger.wait_noted(note(odd)).expect_err("odd");
            assert!(matches!(refused, NoteError::Invalid { .. }), "{refused}");
        }
        ledger.wait_noted(note(vec![advance(&"x".repeat(MAX_SOURCE_BYTES), None, i64::MIN)])).expect("kept");
    }
}

/// D4: a source goes back only on purpose, and that survives a restart.
#[test]
fn a_source_goes_back_on_purpose_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Ledger::open(dir.path()).expect("opens");
    ledger.wait_noted(note(vec![advance("s", None, 9)])).expect("kept");
    let back = Advance { anew: true, ..advance("s", Some(9), 2) };
    ledger.wait_noted(note(vec![back])).expect("kept");
    let on = Advance { anew: true, ..advance("s", Some(2), 3) };
    ledger.wait_noted(note(vec![on])).expect("kept");
    drop(ledger);
    assert_eq!(Ledger::open(dir.path()).expect("opens").source("s").map(|at| at.next), Some(3));
}

/// E7: what is parked has a limit, and goes on when some of it was taken back.
#[test]
fn what_is_parked_is_bounded() {
    let ledger = Ledger::new();
    let large = vec![0; MAX_PARKED_BYTES as usize / 2];
    let park = || ledger.wait_noted(Note { parked: vec![large.clone()], ..Note::default() });
    park().expect("kept");
    park().expect("kept");
    assert!(matches!(park(), Err(NoteError::TooMuchParked { bytes }) if bytes >= MAX_PARKED_BYTES));
    ledger.wait_noted(note(vec![advance("a", None, 1)])).expect("nothing is parked by it");
    ledger.wait_noted(Note { unparked: vec![1], ..Note::default() }).expect("kept");
    park().expect("kept");
    assert_eq!(ledger.parked(9).iter().map(|parked| parked.number).collect::<Vec<_>>(), [2, 3]);
}

/// D3: a note waits for its entry, and notes that wait for the same one are kept in the order of the calls.
#[test]
fn a_note_waits_for_its_entry() {
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Ledger::open(dir.path()).expect("opens");
    for ledger in [Ledger::builder().history(100).build(), on_disk] {
        let create = |name: &str| {
            let durable = ledger.with_durability(Durability::OnDisk);
            durable.create(&account(name), 1).expect("new")[0].sequence
        };
        let sequence = create("a");
        let mut first = ledger.note(Note { after: sequence + 2, ..note(vec![advance("s", None, 1)]) });
        let second = ledger.note(Note { after: sequence + 2, ..note(vec![advance("s", Some(1), 2)]) });
        create("b");
        // Everything that may be written is.
        ledger.wait_noted(Note::default()).expect("kept");
        assert!(is_pending(&mut first));
        assert_eq!(ledger.source("s"), None);
        create("c");
        ledger.wait_noted(Note { after: sequence + 2, ..Note::default() }).expect("kept");
        for mut noting in [first, second] {
            let polled = Pin::new(&mut noting).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Ready(Ok(())));
        }
        assert_eq!(ledger.source("s").map(|at| at.next), Some(2));
        // What never comes is not kept, and whoever waits for it is told.
        let mut never = ledger.note(Note { after: sequence + 3, ..note(vec![advance("s", Some(2), 3)]) });
        assert!(is_pending(&mut never));
        ledger.close();
        let polled = Pin::new(&mut never).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(Err(NoteError::Closed(SubmitError::Closed))));
        assert_eq!(ledger.wait_noted(Note::default()), Err(NoteError::Closed(SubmitError::Closed)));
    }
}

/// D4: positions and parked records are there after a restart, with entries and without.
#[test]
fn notes_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut from = None;
    for round in 1..4_i64 {
        let ledger = Ledger::open(dir.path()).expect("opens");
        assert_eq!(ledger.source("s").map(|at| at.next), from);
        assert_eq!(ledger.parked(9).len() as i64, round - 1);
        let after = if round == 2 { ledger.create(&account("a"), 1).expect("new")[0].sequence } else { 0 };
        let note = note(vec![advance("s", from, round)]);
        ledger.wait_noted(Note { after, parked: vec![vec![0; 10]], ..note }).expect("kept");
        from = Some(round);
    }
}

/// D2, E1: many notes at once: each source is moved by one of those who would.
#[test]
fn of_those_who_move_a_source_at_once_one_does() {
    let (_dir, ledgers) = ledgers();
    for ledger in ledgers {
        let moved: usize = together(8, |thread| {
            let tries = (0..100_i64).map(|round| {
                let from = ledger.source("s").map(|at| at.next);
                let next = from.unwrap_or(0) + 1;
                let name = format!("{thread}-{round}");
                let after = ledger.create(&account(&name), 1).expect("new")[0].sequence;
                ledger.wait_noted(Note {
                    after,
                    parked: vec![name.into_bytes()],
                    ..note(vec![advance("s", from, next)])
                })
            });
            tries.filter(|noted| noted.is_ok()).count()
        })
        .into_iter()
        .sum();
        assert_eq!(ledger.source("s").map(|at| at.next), Some(moved as i64));
        assert_eq!(ledger.parked(usize::MAX).len(), moved);
    }
}
