//! B1: an id whose entry was compacted away, by the crate, gRPC and the store of inventory events.

#![cfg(feature = "server")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::directory::{checkpoints, files};
use common::{SOON, account, chain, decide, id, named, named_chain, state, update};
use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{ExecuteBatchRequest, GetTransactionRequest, Operation, UpdateBalanceRequest};
use equipoise::grpc::serve;
use equipoise::inventory::{Content, DeadLetter, Event, LedgerStore, Record, Run, Store as _};
use equipoise::verify::{Options, verify};
use equipoise::{AnswerGone, CompactOptions, HistoryError, HistoryGone, Ledger, OpenError, SubmitError, compact};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A ledger of several segments and checkpoints, closed, whose account `a` was changed under the id `used` first.
fn segments() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let (checkpoints, observer) = checkpoints();
    let builder = Ledger::builder().segment_bytes(1 << 20).checkpoint_every(50).observer(observer);
    let ledger = builder.open(dir.path()).expect("opens");
    ledger.create(&account("a"), 0).expect("new");
    decide(&ledger, named(update("a", 7), "used"));
    for _ in 0..2 {
        for _ in 0..60 {
            decide(&ledger, chain((0..1_000).map(|_| update("a", 1))));
        }
        ledger.wait_durable(ledger.sequence()).expect("durable");
        checkpoints.recv_timeout(SOON).expect("a checkpoint");
    }
    dir
}

/// Compacts as far as it goes, whatever ids are honoured; where the journal begins then.
fn drop_old_entries(dir: &Path) -> u64 {
    let options = CompactOptions { id_window: Duration::ZERO, ..CompactOptions::default() };
    let kept = compact(dir, &options, &mut |_| std::ops::ControlFlow::Continue(())).expect("compacted");
    assert!(kept.oldest > 2, "{kept:?}");
    kept.oldest
}

/// As [`segments`], where `used` is honoured and its entry is gone, opened; where its journal begins.
fn compacted() -> (tempfile::TempDir, Ledger, u64) {
    let dir = segments();
    let oldest = drop_old_entries(dir.path());
    let ledger = Ledger::open(dir.path()).expect("opens");
    (dir, ledger, oldest)
}

/// C2: a start reads what it needs: damage before the checkpoint's segment, compacted or not, is left to `verify`.
#[test]
fn damage_in_a_superseded_segment_refuses_no_start() {
    for compacts in [false, true] {
        let dir = segments();
        if compacts {
            drop_old_entries(dir.path());
        }
        let journal = files(&dir.path().join("journal")).into_keys();
        let oldest =
            journal.filter(|path| path.extension().is_some_and(|it| it == "segment")).min().expect("a segment");
        let file = fs::File::options().write(true).open(oldest).expect("opens");
        file.write_all_at(b"damage", 4_200).expect("written");
        let ledger = Ledger::open(dir.path()).expect("opens");
        assert_eq!(state(&ledger, "a").balance, 7 + 2 * 60 * 1_000);
        drop(ledger);
        assert!(verify(dir.path(), &Options::default(), &mut |_, _| {}).is_err(), "it is there");
    }
}

/// B1: the crate says that the id was used, whatever the request says, and changes nothing.
#[test]
fn the_crate_says_that_the_answer_is_gone() {
    let (_dir, ledger, oldest) = compacted();
    let before = state(&ledger, "a");
    let gone = SubmitError::from(AnswerGone { id: id("used"), oldest });
    for request in [
        named(update("a", 7), "used"),
        named(update("b", 8), "used"),
        named_chain([(update("a", 1), "new"), (update("a", 7), "used")]),
    ] {
        assert_eq!(ledger.submit(request.clone()).expect_err("its answer is gone"), gone);
        let together = ledger.submit_all([request]).pop().expect("a result");
        assert_eq!(together.expect_err("its answer is gone"), gone);
    }
    let looked_up = ledger.transaction(&id("used")).expect_err("its answer is gone");
    assert_eq!(looked_up, HistoryError::Gone(HistoryGone { oldest }));
    assert_eq!(state(&ledger, "a"), before);
    assert!(!decide(&ledger, named(update("a", 1), "new")).replayed(), "the chain has not used it up");
}

/// Where the id index of `dir` has its ids of the oldest entries.
fn first_run(dir: &Path) -> PathBuf {
    let runs = files(&dir.join("ids")).into_keys();
    runs.min().expect("a run")
}

fn flip_last_byte(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).expect("opens");
    let (last, mut byte) = (file.metadata().expect("there").len() - 1, [0]);
    file.read_exact_at(&mut byte, last).expect("read");
    file.write_all_at(&[byte[0] ^ 1], last).expect("written");
}

/// B1, B4: ids that are honoured and that the journal cannot tell any more are not new because their index is damaged: the start is
/// refused, names the file and changes nothing, until somebody removes the index.
#[test]
fn an_index_that_cannot_be_made_again_refuses_the_start() {
    type Damage = fn(&Path) -> PathBuf;
    let a_bad_run: Damage = |ids| {
        let run = first_run(ids.parent().expect("a folder"));
        flip_last_byte(&run);
        run
    };
    let a_missing_run: Damage = |ids| {
        fs::remove_file(first_run(ids.parent().expect("a folder"))).expect("removed");
        first_run(ids.parent().expect("a folder"))
    };
    let a_mark: Damage = |ids| {
        fs::write(ids.join("damaged"), "a page cannot be read").expect("written");
        ids.join("damaged")
    };
    for damage in [a_bad_run, a_missing_run, a_mark] {
        let (dir, ledger, oldest) = compacted();
        drop(ledger);
        let ids = dir.path().join("ids");
        let named_file = damage(&ids);
        let before = files(&ids);
        let refused = Ledger::open(dir.path()).expect_err("the id would be new");
        let OpenError::Damaged { file, what, .. } = &refused else { panic!("{refused}") };
        assert_eq!(file, &named_file, "{what}");
        assert!(what.contains("remove the folder ids"), "{what}");
        assert_eq!(files(&ids), before);
        match verify(dir.path(), &Options::default(), &mut |_, _| {}) {
            Ok(report) => assert!(report.notes.iter().any(|note| note.contains("marked as damaged")), "{report:?}"),
            Err(problem) => assert_eq!(problem.file, named_file, "{problem}"),
        }

        fs::remove_dir_all(&ids).expect("removed");
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = told.clone();
        let builder = Ledger::builder().observer(move |event| events.lock().expect("whole").push(event.to_string()));
        let ledger = builder.open(dir.path()).expect("opens");
        let told = told.lock().expect("whole").join("\n");
        assert!(told.contains(&format!("ids of entries before sequence {oldest}")), "{told}");
        assert!(!decide(&ledger, named(update("a", 7), "used")).replayed(), "on purpose");
    }
}

/// B4: ids past their window may be lost: what is left of their index is made again.
#[test]
fn an_index_of_expired_ids_is_made_again() {
    let (dir, ledger, _) = compacted();
    drop(ledger);
    flip_last_byte(&first_run(dir.path()));
    let open = || Ledger::builder().id_window(Duration::ZERO).open(dir.path()).expect("opens");
    drop(open());
    let again = open();
    assert!(!decide(&again, named(update("a", 7), "new")).replayed());
    drop(again);
    verify(dir.path(), &Options::default(), &mut |_, _| {}).expect("nothing is wrong");
}

/// B1, A13: over gRPC it is FAILED_PRECONDITION, which no client tries again, with the details that failures have.
#[tokio::test]
async fn grpc_says_that_the_answer_is_gone() {
    let (_dir, ledger, oldest) = compacted();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, ledger.clone(), equipoise::grpc::Options::default(), std::future::pending()));
    let mut client = AccountServiceClient::connect(format!("http://{address}")).await.expect("connects");
    let update = |id: &str| UpdateBalanceRequest { account_id: "a".into(), delta: 7, transaction_id: id.into() };
    let text = format!(
        "transaction_id used was used before sequence {oldest}, where the journal begins now: its answer is gone, and it is not executed again"
    );
    let told = |status: Status| {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, text.as_str()));
        let info = status.get_details_error_info().expect("details");
        assert_eq!(info.reason, "ANSWER_GONE");
        assert_eq!(
            (&*info.metadata["transaction_id"], &*info.metadata["oldest_sequence"]),
            ("used", &*oldest.to_string())
        );
        assert_eq!(status.get_details_bad_request().expect("a field").field_violations[0].field, "transaction_id");
        assert!(status.get_details_retry_info().is_none());
    };
    told(client.update_balance(update("used")).await.expect_err("gone"));
    told(client.get_transaction(GetTransactionRequest { transaction_id: "used".into() }).await.expect_err("gone"));

    let operation = |id, linked| Operation { operation: Some(Kind::UpdateBalance(update(id))), linked };
    let operations = vec![operation("used", false), operation("new", true), operation("used", false)];
    let results = client.execute_batch(ExecuteBatchRequest { operations }).await.expect("results").into_inner().results;
    let told: Vec<_> = results.iter().map(|result| (Code::from(result.code), result.message.as_str())).collect();
    let refused = |text| (Code::FailedPrecondition, text);
    assert_eq!(told, [refused(&*text), refused("Linked group failed at operation 1"), refused(&*text)]);
}

/// D3: an event of that id is a duplicate; it stops no partition, and opens no product.
#[tokio::test]
async fn an_event_of_that_id_is_a_duplicate() {
    let (_dir, ledger, _) = compacted();
    let before = state(&ledger, "a");
    let store = LedgerStore::new(&ledger);
    let epoch = store.take_over("events", &[0]).await.expect("taken over")[0].epoch;
    let letter = Arc::new(DeadLetter {
        topic: "events".to_owned(),
        partition: 0,
        offset: 0,
        timestamp: None,
        key: None,
        value: None,
        headers: Vec::new(),
        reason: String::new(),
    });
    let event = |offset, product| Record {
        offset,
        content: Content::Event {
            event: Event { id: id("used"), product: account(product), quantity_change: 7 },
            original: letter.clone(),
        },
    };
    let records = vec![event(0, "a"), event(1, "nobody")];
    let run = Run { partition: 0, epoch, from: None, next: 2, fingerprint: 0, records };
    let applied = store.apply("events", &[run]).await.expect("applied");
    assert_eq!((applied.duplicates, applied.applied, applied.dead_letters), (2, 0, 0));
    assert_eq!((state(&ledger, "a"), ledger.balance(&account("nobody"))), (before, None));
}
