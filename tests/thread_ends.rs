//! A thread's last words: what a thread-local does with a ledger when its thread ends.

mod common;

use std::cell::RefCell;
use std::sync::mpsc::Sender;

use common::{account, open, with_accounts};
use equipoise::Ledger;

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

/// What a thread keeps for itself.
struct Session {
    ledger: Ledger,
    tell: Sender<(Option<i64>, bool, bool, Option<i64>)>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let known = self.ledger.balance(&account("a")).map(|state| state.balance);
        let stranger = self.ledger.balance(&account("nobody")).is_some();
        let created = self.ledger.create(&account("last words"), 3).is_ok();
        let moved = self.ledger.transfer(&account("last words"), &account("a"), 2).map(|after| after[0].balance);
        self.tell.send((known, stranger, created, moved.ok())).expect("heard");
    }
}

/// A4, E7: every method can be called from any thread, also from one that has no thread-locals any more.
#[test]
fn a_thread_that_ends_may_use_the_ledger() {
    let dir = tempfile::tempdir().expect("a folder");
    let on_disk = open(Ledger::open(dir.path()).expect("opens"), &[("a", 5)]);
    for ledger in [with_accounts(&[("a", 5)]), on_disk] {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // First here, so that it goes last.
                SESSION.set(Some(Session { ledger: ledger.clone(), tell }));
                assert!(ledger.balance(&account("not there")).is_none());
            });
        });
        assert_eq!(told.recv(), Ok((Some(5), false, true, Some(1))));
        let state = |name| ledger.balance(&account(name)).map(|state| state.balance);
        assert_eq!((state("a"), state("last words"), ledger.stats().accounts), (Some(7), Some(1), 2));
        assert_eq!(ledger.account(&account("last words")).map(|handle| handle.read().balance), Some(1));
    }
}
