//! `Ledger`: the embedded API. It owns the parts and delegates to them.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::account::{AccountId, AccountState, Balance, TransactionId};
use crate::builder::{Builder, Durability};
use crate::core::{Core, Next};
use crate::error::{Error, Exhausted, SubmitError};
use crate::handle::Account;
use crate::journal::{HistoryError, HistoryGone, Note, NoteError, Parked, SourcePosition};
use crate::kernel::{Guard, pin};
use crate::opening::OpenError;
use crate::outcome::Outcome;
use crate::request::{Operation, Posting, Request};
use crate::snapshot::Snapshot;
use crate::wait::{Closed, Ticket, block_on};

mod stats;
mod waiting;

use waiting::Endless;

pub use stats::Stats;

/// The accounts touched by an operation, after it, in the order of its fields.
pub type AccountStates = SmallVec<[AccountState; 2]>;

/// A ledger: accounts whose balances many threads change at once. Cheap to clone; all clones are one ledger.
#[derive(Clone)]
pub struct Ledger {
    front: Arc<Front>,
    durability: Durability,
}

/// What is shut down when the last clone of a ledger is dropped.
struct Front {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::new()
    }
}

impl Ledger {
    /// The ledger over its parts and the threads that work for it.
    pub(crate) fn over(core: Arc<Core>, threads: Vec<JoinHandle<()>>) -> Self {
        let front = Front { core, threads: Mutex::new(threads) };
        Ledger { front: Arc::new(front), durability: Durability::Applied }
    }

    /// A ledger in memory, without a history and without threads of its own. What is committed counts as durable at
    /// once.
    #[must_use]
    pub fn new() -> Self {
        Builder::default().build()
    }

    /// Opens the ledger in the data directory `dir`, with the defaults of [`Builder`]; see [`Builder::open`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Ledger, OpenError> {
        Builder::default().open(dir)
    }

    /// A handle on the same ledger whose changes return when `durability` is reached.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Ledger {
        Ledger { durability, ..self.clone() }
    }

    /// A builder with the default settings, for another ledger.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Decides `request`, or returns the outcome that was decided for its id before. Never waits for another thread, so
    /// it can be called from async code: the calling thread finishes an undecided transaction in its way.
    ///
    /// # Errors
    /// [`SubmitError`]: nothing was decided, and no id was used up. With [`Durability::OnDisk`] there are two
    /// exceptions: [`SubmitError::JournalFailed`] and [`SubmitError::Closed`] may also mean that the request was
    /// decided, and is perhaps not on disk.
    /// A refusal by an account is no error here but the [`Outcome::result`]: it was decided, and its id keeps it.
    pub fn submit(&self, request: Request) -> Result<Outcome, SubmitError> {
        let decided = self.core().submit(request, self.next());
        self.answer(decided)
    }

    /// Like [`Ledger::submit`], for a caller that waits for [`Ledger::durable_at`] next, which starts the flush.
    #[cfg(feature = "grpc")]
    pub(crate) fn submit_awaited(&self, request: Request) -> Result<Outcome, SubmitError> {
        self.core().submit(request, Next::Waits)
    }

    /// Submits each request by itself and in order, like [`Ledger::submit`]: a later one sees the earlier ones and,
    /// unless it is replayed, has a higher sequence. Faster than separate calls: requests that touch different accounts
    /// share one CAS on the commit list, and their cache misses overlap. With [`Durability::OnDisk`] the call waits for
    /// all of them; if the ledger is closed meanwhile, those not on disk yet get an error, as with [`Ledger::submit`].
    ///
    /// ```
    /// # use equipoise::{AccountId, Ledger, Operation, Request};
    /// # let ledger = Ledger::new();
    /// # let [a, b] = [AccountId::new("a")?, AccountId::new("b")?];
    /// let requests = [
    ///     Operation::create(a.clone(), 10)?,
    ///     Operation::create(b.clone(), 0)?,
    ///     Operation::transfer(a, b.clone(), 20)?,
    ///     Operation::update(b, 1),
    /// ];
    /// let decided = ledger.submit_all(requests.map(|operation| Request::single(operation, None)));
    /// let refused: Vec<_> = decided.iter().map(|outcome| Ok(outcome.as_ref()?.result().is_err())).collect();
    /// assert_eq!(refused, [false, false, true, false].map(Ok::<_, &equipoise::SubmitError>));
    /// # Ok::<(), equipoise::InvalidRequest>(())
    /// ```
    pub fn submit_all(&self, requests: impl IntoIterator<Item = Request>) -> Vec<Result<Outcome, SubmitError>> {
        let core = self.core();
        let mut results = core.submit_all(requests, self.next());
        if self.durability == Durability::OnDisk {
            let observed = results.iter().map(|result| self.observed(result)).max().unwrap_or(0);
            if let Err(Closed) = self.wait_durable(observed) {
                let durable = self.durable();
                let lost = results.iter_mut().filter(|result| self.observed(result) > durable);
                lost.for_each(|result| *result = Err(core.why_closed()));
            }
        }
        results
    }

    /// Opens `account` with `initial` units.
    ///
    /// # Errors
    /// [`Error::Refused`]: an account that exists. [`Error::NotDecided`]: a negative `initial`, and as for
    /// [`Ledger::submit`].
    pub fn create(&self, account: &AccountId, initial: i64) -> Result<AccountStates, Error> {
        self.execute(Operation::create(account.clone(), initial)?)
    }

    /// Adds `delta` to `account`.
    ///
    /// # Errors
    /// [`Error::Refused`]: an unknown account, or one whose balance would leave `0..=i64::MAX`.
    /// [`Error::NotDecided`] as for [`Ledger::submit`].
    pub fn update(&self, account: &AccountId, delta: i64) -> Result<AccountStates, Error> {
        self.execute(Operation::update(account.clone(), delta))
    }

    /// Moves `amount` from one account to another.
    ///
    /// # Errors
    /// [`Error::NotDecided`], in this order: equal accounts, an amount that is not positive, the errors of
    /// [`Ledger::submit`]. [`Error::Refused`], in this order: an unknown source, an unknown destination, a lack of
    /// funds, a balance past `i64::MAX`.
    pub fn transfer(&self, from: &AccountId, to: &AccountId, amount: i64) -> Result<AccountStates, Error> {
        self.execute(Operation::transfer(from.clone(), to.clone(), amount)?)
    }

    /// Adds each delta to its account; the deltas add up to 0.
    ///
    /// # Errors
    /// [`Error::NotDecided`]: the errors of [`Operation::post`], then those of [`Ledger::submit`]. [`Error::Refused`]
    /// as for [`Ledger::transfer`].
    pub fn post(&self, legs: Vec<Posting>) -> Result<AccountStates, Error> {
        self.execute(Operation::post(legs)?)
    }

    /// As [`Ledger::transfer`], without the look-up.
    ///
    /// # Errors
    /// As for [`Ledger::transfer`]; accounts of another ledger are unknown here.
    pub fn transfer_between(&self, from: &Account, to: &Account, amount: i64) -> Result<AccountStates, Error> {
        let operation = Operation::transfer(from.id().clone(), to.id().clone(), amount)?;
        let core = self.core();
        let found = [from, to].map(|account| account.of(core).map(|found| (account.id(), found)));
        let known =
            |id: &AccountId, _: &Guard| found.iter().flatten().find(|(of, _)| *of == id).map(|(_, found)| *found);
        let decided = core.submit_to(Request::single(operation, None), self.next(), known);
        Ok(self.answer(decided)?.result()?)
    }

    fn execute(&self, operation: Operation) -> Result<AccountStates, Error> {
        Ok(self.submit(Request::single(operation, None))?.result()?)
    }

    /// The newest committed state of `account`; None when nobody opened it. Never waits for another thread.
    #[must_use]
    pub fn balance(&self, account: &AccountId) -> Option<AccountState> {
        let guard = &pin();
        let found = self.core().directory.find(account, guard)?;
        state_of(account, found.read(guard))
    }

    /// The state of `account` at the durable sequence: the newest that can no longer be lost. Never waits either.
    #[must_use]
    pub fn balance_durable(&self, account: &AccountId) -> Option<AccountState> {
        let core = self.core();
        if core.flusher.is_none() {
            return self.balance(account);
        }
        let guard = &pin();
        let found = core.directory.find(account, guard)?;
        state_of(account, core.kernel.read_durable(found, guard))
    }

    /// A handle on `account` that skips the look-up from now on; None when nobody opened it.
    #[must_use]
    pub fn account(&self, account: &AccountId) -> Option<Account> {
        let core = self.core();
        let guard = &pin();
        let index = core.directory.index(account, guard)?;
        let opened = core.directory.at(index)?.read(guard).1.version > 0;
        opened.then(|| Account::new(self.clone(), account.clone(), index))
    }

    /// Every account at the newest commit sequence, without stopping anybody.
    ///
    /// # Errors
    /// [`Exhausted::Snapshots`].
    pub fn snapshot(&self) -> Result<Snapshot, Exhausted> {
        let core = self.core();
        Snapshot::open(self, &core.newest, core.kernel.now(&pin()), || core.kernel.open_snapshot(&pin()))
    }

    /// Every account at the durable sequence.
    ///
    /// # Errors
    /// [`Exhausted::Snapshots`].
    pub fn snapshot_durable(&self) -> Result<Snapshot, Exhausted> {
        let core = self.core();
        if core.flusher.is_none() {
            return self.snapshot();
        }
        Snapshot::open(self, &core.newest_durable, core.kernel.durable(), || core.kernel.open_durable_snapshot())
    }

    /// The outcome for the request with this id; None when the id was never seen, is forgotten, or is still undecided.
    ///
    /// # Errors
    /// [`HistoryError::Gone`] when the outcome is no longer kept, [`HistoryError::Unreadable`] when the disk cannot be
    /// read.
    pub fn transaction(&self, id: &TransactionId) -> Result<Option<Outcome>, HistoryError> {
        self.core().transaction(id)
    }

    /// Up to `limit` durable journal entries from sequence `from` on (0: from the oldest kept). Reads the disk; in
    /// memory it waits while the flusher adds a batch.
    ///
    /// # Errors
    /// [`HistoryError::Gone`] when `from` is no longer kept. A ledger in memory without [`Builder::history`] always
    /// returns it, except for sequences still to come.
    pub fn history(&self, from: u64, limit: usize) -> Result<Vec<Outcome>, HistoryError> {
        self.history_within(from, limit, usize::MAX)
    }

    /// Like [`Ledger::history`], but stops after the entry with which `bytes` have been read from disk.
    pub(crate) fn history_within(&self, from: u64, limit: usize, bytes: usize) -> Result<Vec<Outcome>, HistoryError> {
        match &self.core().flusher {
            Some(flusher) => flusher.sink().read(from, self.durable(), limit, bytes),
            None => {
                let oldest = self.sequence().saturating_add(1);
                if from < oldest { Err(HistoryGone { oldest }.into()) } else { Ok(Vec::new()) }
            }
        }
    }

    /// Whether reading the history may wait for a disk.
    #[cfg(feature = "grpc")]
    pub(crate) fn history_blocks(&self) -> bool {
        self.core().flusher.as_ref().is_some_and(|flusher| flusher.sink().blocks())
    }

    /// The newest commit sequence.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.core().kernel.now(&pin())
    }

    /// The durable sequence: nothing up to it can be lost any more (in memory: until the process ends). Without a
    /// history it is the newest one.
    #[must_use]
    pub fn durable(&self) -> u64 {
        let core = self.core();
        if core.flusher.is_some() { core.kernel.durable() } else { self.sequence() }
    }

    /// Blocks the thread until `sequence` is durable; without a history, returns at once.
    ///
    /// # Errors
    /// [`Closed`] when the ledger was closed before.
    pub fn wait_durable(&self, sequence: u64) -> Result<(), Closed> {
        self.core().flush_alone(sequence);
        block_on(self.durable_at(sequence))
    }

    /// Resolves when `sequence` is durable, under any async runtime; without a history, at once. Keeps the ledger open.
    ///
    /// The waker is called, and dropped, by the thread that makes the sequence durable, the ledger's own or another
    /// caller's. No lock is held, so the waker may call the ledger. It should not wait for the disk, since other
    /// waiters are woken after it. A panic in it is caught.
    pub fn durable_at(&self, sequence: u64) -> impl Future<Output = Result<(), Closed>> + Send + Unpin + use<> {
        Ticket::new(self.clone(), sequence)
    }

    /// Notes how far the sources of requests were read, and which of their records were put aside or taken back. The
    /// note becomes durable with the entry at [`Note::after`] or later, never before it; if that entry is already
    /// durable, at once. Notes that wait for the same entry keep the order of the calls. The future resolves when the
    /// note is durable, under any async runtime; dropping it does not withdraw the note. Without a history the note is
    /// kept in memory, at once. An empty note resolves after the notes before it. For wakers see
    /// [`Ledger::durable_at`].
    ///
    /// ```
    /// # use equipoise::{AccountId, Advance, Ledger, Note, NoteError};
    /// # let ledger = Ledger::new();
    /// # let alice = AccountId::new("alice")?;
    /// let after = ledger.create(&alice, 100)?[0].sequence;
    /// let read = Advance { source: "orders/0".to_owned(), from: None, next: 17, fingerprint: 0, anew: false };
    /// let note = Note { after, advances: vec![read], ..Note::default() };
    /// ledger.wait_noted(note.clone())?;
    /// assert_eq!(ledger.source("orders/0").map(|at| at.next), Some(17));
    /// // A note that expects another position changes nothing.
    /// assert!(matches!(ledger.wait_noted(note), Err(NoteError::Moved { held: Some(17), .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NoteError`]: nothing of it was noted.
    pub fn note(&self, note: Note) -> impl Future<Output = Result<(), NoteError>> + Send + Unpin + use<> {
        self.core().note(note)
    }

    /// As [`Ledger::note`], and blocks the thread until it is durable.
    ///
    /// # Errors
    /// [`NoteError`]: nothing of it was noted.
    pub fn wait_noted(&self, note: Note) -> Result<(), NoteError> {
        block_on(self.note(note))
    }

    /// How far `source` was read, durably; None when nothing was ever noted about it. Like [`Ledger::sources`] and
    /// [`Ledger::parked`], it waits while the flusher stores notes.
    #[must_use]
    pub fn source(&self, source: &str) -> Option<SourcePosition> {
        self.core().notes.source(source)
    }

    /// All sources, by name, and how far each was read, durably.
    #[must_use]
    pub fn sources(&self) -> Vec<(String, SourcePosition)> {
        self.core().notes.sources()
    }

    /// Up to `limit` records that were put aside and not taken back, oldest first; durable ones.
    #[must_use]
    pub fn parked(&self, limit: usize) -> Vec<Parked> {
        self.core().notes.parked(limit)
    }

    /// Why the journal failed, if it did: then the ledger is closed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.core().failure()
    }

    /// Resolves when the ledger is closed or its journal has failed, and when its last handle is dropped: the future
    /// holds none. For wakers see [`Ledger::durable_at`].
    pub fn closed(&self) -> impl Future<Output = ()> + Send + Unpin + use<> {
        let mut ticket = Ticket::new(Endless(self.core().waiters.clone()), u64::MAX);
        std::future::poll_fn(move |context| std::pin::Pin::new(&mut ticket).poll(context).map(|_| ()))
    }

    /// Refuses new requests, makes what was committed durable (this waits for the disk), and wakes everybody who waits
    /// for more. Reads go on. Idempotent. Dropping the last handle does this, and also waits for the ledger's threads.
    pub fn close(&self) {
        self.core().close();
    }

    /// Ends a call that changes something: waits until its result can no longer be lost, if this handle asks for that.
    pub(crate) fn answer(&self, result: Result<Outcome, SubmitError>) -> Result<Outcome, SubmitError> {
        if self.durability == Durability::OnDisk {
            self.wait_durable(self.observed(&result)).map_err(|Closed| self.core().why_closed())?;
        }
        result
    }

    /// The highest sequence that `result` depends on.
    fn observed(&self, result: &Result<Outcome, SubmitError>) -> u64 {
        match result {
            Ok(outcome) => outcome.sequence(),
            Err(SubmitError::Invalid(invalid)) if invalid.rests_on_earlier_use() => self.sequence(),
            Err(_) => 0,
        }
    }

    /// What a call of this handle does after it decided; see [`Ledger::answer`].
    pub(crate) fn next(&self) -> Next {
        match self.durability {
            Durability::Applied => Next::Returns,
            Durability::OnDisk => Next::Waits,
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.front.core
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ledger").field(&self.stats()).finish()
    }
}

/// What a read found, unless nobody had opened the account.
pub(crate) fn state_of(id: &AccountId, (sequence, state): (u64, Balance)) -> Option<AccountState> {
    (state.version > 0).then(|| AccountState {
        id: id.clone(),
        balance: state.amount,
        version: state.version,
        sequence,
    })
}

impl Drop for Front {
    fn drop(&mut self) {
        let (core, threads) = (self.core.clone(), std::mem::take(self.threads.get_mut()));
        let own = std::thread::current().id();
        if threads.iter().all(|thread| thread.thread().id() != own) {
            return close(&core, threads);
        }
        // One of the ledger's own threads dropped the last handle in the middle of its task. Closing here would wait
        // for itself, so another thread closes.
        let closing = std::thread::Builder::new().name("equipoise-close".to_owned());
        if closing.spawn(move || close(&core, threads)).is_err() {
            self.core.closed.set();
            self.core.waiters.close();
        }
    }
}

fn close(core: &Core, threads: Vec<JoinHandle<()>>) {
    core.close();
    for thread in threads {
        // None of them panics, since foreign code is caught; if one did, the panic hook has reported it.
        let _ = thread.join();
    }
}
