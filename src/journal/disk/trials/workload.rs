//! What is asked of a ledger in the trials, what it showed as durable, and whether the next one knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use equipoise::{AccountState, Builder, Durability, Event, Ledger, Member, OpenError, Outcome, Request, SubmitError};
use parking_lot::Mutex;

use super::common::model::{Answer, Entry, Model, answers, plain};
use super::common::{Random, account, alone, chain, create, id, post, transfer, update};
use super::disk::{Disk, End};
use crate::lock::Lock;

/// How many accounts the workload knows; some of them are never opened.
const ACCOUNTS: usize = 8;

/// What an operator was told.
pub(super) type Events = Arc<Mutex<Vec<Event>>>;

/// A ledger of the smallest segments on `disk`.
pub(super) fn open(disk: &Disk, checkpoint_every: u64) -> (Result<Ledger, OpenError>, Events) {
    let events = Events::default();
    let heard = events.clone();
    (observed(disk, checkpoint_every, move |event| heard.lock().push(event.clone())), events)
}

/// Like [`open`], with an observer of the caller's.
pub(super) fn observed(
    disk: &Disk,
    checkpoint_every: u64,
    observer: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<Ledger, OpenError> {
    let builder: Builder = Ledger::builder().segment_bytes(1 << 20).checkpoint_every(checkpoint_every);
    let files = disk.files();
    let lock = Lock::take(files.root()).map(Arc::new)?;
    builder.observer(observer).open_in(files, lock)
}

/// Opens what must open.
pub(super) fn reopen(disk: &Disk) -> Ledger {
    open(disk, 1_000).0.unwrap_or_else(|error| panic!("{error}\n{}", disk.last_calls()))
}

/// Waits until something is so; gives up only when no machine, however busy, takes so long.
pub(super) fn eventually(is_so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

/// Waits until the next segment is made and none of its calls is left: a power cut keeps its name only after the sync
/// of its folder.
pub(super) fn spare_is_made(disk: &Disk) -> bool {
    eventually(|| disk.after(End::WorstPowerCut).names().contains(&"journal/spare".to_owned()))
}

/// The sequence of the newest checkpoint that was told of.
pub(super) fn newest_checkpoint(events: &Events) -> u64 {
    let events = events.lock();
    let written = |event: &Event| match event {
        Event::CheckpointWritten { sequence, .. } => Some(*sequence),
        _ => None,
    };
    events.iter().filter_map(written).max().unwrap_or(0)
}

/// Has the ledger write a checkpoint at `least` or later, which must be due, and waits for it or for what goes wrong.
pub(super) fn checkpoint(ledger: &Ledger, events: &Events, disk: &Disk, least: u64) {
    ledger.core().checkpoint_bell.ring();
    let done = || newest_checkpoint(events) >= least || disk.has_failed() || ledger.failure().is_some();
    assert!(eventually(done), "a checkpoint");
}

/// What a ledger showed as durable.
#[derive(Clone, Default)]
pub(super) struct Shown {
    /// By sequence: what was asked, and the answers.
    outcomes: BTreeMap<u64, (Vec<String>, Vec<Answer>)>,
    balances: BTreeSet<(u64, String, i64, u64)>,
    /// By sequence: the total, and the accounts.
    snapshots: BTreeMap<u64, (i128, Vec<(String, Entry)>)>,
}

fn asked(members: &[Member]) -> Vec<String> {
    members.iter().map(|member| format!("{member:?}")).collect()
}

impl Shown {
    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        for outcome in if outcome.members().len() == 1 && outcome.replayed() { vec![] } else { vec![outcome] } {
            let told = (asked(outcome.members()), answers(outcome));
            let before = self.outcomes.insert(outcome.sequence(), told.clone());
            assert!(before.is_none_or(|before| before == told), "two answers at {}", outcome.sequence());
        }
    }

    fn balance(&mut self, AccountState { id, balance, version, sequence }: AccountState) {
        self.balances.insert((sequence, id.as_str().to_owned(), balance, version));
    }

    fn snapshot(&mut self, ledger: &Ledger) {
        let Ok(snapshot) = ledger.snapshot_durable() else { return };
        let pages = snapshot.iter().map(|state| plain(&state)).collect();
        self.snapshots.insert(snapshot.sequence(), (snapshot.total(), pages));
    }

    pub(super) fn merge(&mut self, other: Shown) {
        for (sequence, told) in other.outcomes {
            let before = self.outcomes.insert(sequence, told.clone());
            assert!(before.is_none_or(|before| before == told), "two answers at {sequence}");
        }
        self.balances.extend(other.balances);
        self.snapshots.extend(other.snapshots);
    }

    pub(super) fn newest(&self) -> u64 {
        let snapshots = self.snapshots.keys().next_back();
        let outcomes = self.outcomes.keys().next_back();
        let balances = self.balances.last().map(|balance| &balance.0);
        [snapshots, outcomes, balances].into_iter().flatten().copied().max().unwrap_or(0)
    }
}

/// A state of the ledger, and how it came about: replay goes on from here.
#[derive(Clone, Default)]
pub(super) struct Known {
    pub(super) sequence: u64,
    model: Model,
    used: BTreeSet<String>,
}

impl Known {
    /// Replays what `ledger` says from here on; its own accounts must be what that comes to, and all that was shown is
    /// in there.
    pub(super) fn check(&mut self, ledger: &Ledger, shown: &Shown) {
        let history = ledger.history(self.sequence + 1, usize::MAX).expect("a journal that can be read");
        assert!(self.sequence + history.len() as u64 >= shown.newest(), "what was shown as durable is lost");
        let mut balances = shown.balances.range((self.sequence + 1, String::new(), 0, 0)..).peekable();
        for outcome in &history {
            let sequence = outcome.sequence();
            assert_eq!(sequence, self.sequence + 1, "sequences are dense");
            self.sequence = sequence;
            self.model.replay(outcome);
            for used in outcome.members().iter().filter_map(|member| member.id.as_ref()) {
                assert!(self.used.insert(used.as_str().to_owned()), "{used} is applied twice");
            }
            assert!(self.model.accounts.values().all(|entry| entry.balance >= 0));
            if let Some((members, told)) = shown.outcomes.get(&sequence) {
                assert_eq!((members, told), (&asked(outcome.members()), &answers(outcome)), "at {sequence}");
            }
            if let Some((total, pages)) = shown.snapshots.get(&sequence) {
                assert_eq!((*total, pages), (self.model.total(), &self.model.states()), "the snapshot at {sequence}");
            }
            while let Some((_, name, balance, version)) = balances.next_if(|balance| balance.0 == sequence) {
                let entry = self.model.accounts.get(name).copied();
                let expected = Entry { balance: *balance, version: *version, sequence };
                assert_eq!(entry, Some(expected), "{name} at {sequence}");
            }
        }
        self.check_accounts(ledger);
    }

    /// The ledger is where the replay is.
    pub(super) fn check_accounts(&self, ledger: &Ledger) {
        assert_eq!((ledger.sequence(), ledger.durable()), (self.sequence, self.sequence));
        let snapshot = ledger.snapshot_durable().expect("few are open");
        let pages: Vec<_> = snapshot.iter().map(|state| plain(&state)).collect();
        assert_eq!(pages, self.model.states());
        assert_eq!(snapshot.total(), self.model.total());
        for state in ledger.snapshot().expect("few are open").iter() {
            assert_eq!(ledger.balance(&state.id).map(|state| plain(&state)), Some(plain(&state)));
        }
        assert_eq!(ledger.stats().accounts, self.model.accounts.len() as u64);
    }
}

/// One caller's calls.
pub(super) struct Caller {
    random: Random,
    name: String,
    calls: u64,
    pub(super) shown: Shown,
    /// Whether a call was not answered as the ledger was closed.
    pub(super) closed: bool,
}

impl Caller {
    pub(super) fn new(name: &str, seed: u64) -> Self {
        Caller { random: Random(seed), name: name.to_owned(), calls: 0, shown: Shown::default(), closed: false }
    }

    /// Makes so many calls, and looks around; stops when the ledger is closed.
    pub(super) fn run(&mut self, ledger: &Ledger, calls: usize) {
        for _ in 0..calls {
            let durability = if self.random.below(3) == 0 { Durability::Applied } else { Durability::OnDisk };
            let request = self.request();
            match ledger.with_durability(durability).submit(request.clone()) {
                Ok(outcome) if durability == Durability::OnDisk => {
                    assert!(ledger.durable() >= outcome.sequence());
                    self.shown.outcome(&outcome);
                    // Sent again, it is the same.
                    let again = ledger.with_durability(durability).submit(request);
                    if let Ok(again) = again
                        && again.replayed()
                    {
                        assert_eq!((again.sequence(), answers(&again)), (outcome.sequence(), answers(&outcome)));
                    }
                }
                Ok(_) => {}
                Err(SubmitError::Exhausted(_)) => {}
                Err(SubmitError::JournalFailed { .. } | SubmitError::Closed) => self.closed = true,
                Err(error) => panic!("{error}"),
            }
            self.look(ledger);
            if self.closed {
                return;
            }
        }
    }

    fn look(&mut self, ledger: &Ledger) {
        if let Some(state) = ledger.balance_durable(&account(&name(self.random.below(ACCOUNTS)))) {
            self.shown.balance(state);
        }
        if self.random.below(4) == 0 {
            self.shown.snapshot(ledger);
        }
        if self.random.below(4) == 0 {
            let from = ledger.durable().saturating_sub(3).max(1);
            // A dead disk cannot be read either.
            for outcome in ledger.history(from, 10).unwrap_or_default() {
                self.shown.outcome(&outcome);
            }
        }
    }

    fn request(&mut self) -> Request {
        self.calls += 1;
        let named = self.random.below(3) > 0;
        let members = if self.random.below(4) == 0 { 2 + self.random.below(3) } else { 1 };
        let operations: Vec<_> = (0..members).map(|_| self.operation()).collect();
        let numbered = format!("{}-{}", self.name, self.calls);
        if members == 1 {
            let operation = operations.into_iter().next().expect("one");
            return if named { Request::single(operation, Some(id(&numbered))) } else { alone(operation) };
        }
        if !named {
            return chain(operations);
        }
        let member = |(place, operation)| Member { id: Some(id(&format!("{numbered}-{place}"))), operation };
        Request::chain(operations.into_iter().enumerate().map(member).collect()).expect("a valid chain")
    }

    fn operation(&mut self) -> equipoise::Operation {
        let random = &mut self.random;
        let (one, other) = random.pair(ACCOUNTS);
        match random.below(8) {
            0 => create(&name(one), random.between(0, 1_000)),
            1 | 2 => update(&name(one), random.between(-300, 500)),
            3 => post(&[(&name(one), -7), (&name(other), 7)]),
            _ => transfer(&name(one), &name(other), random.between(1, 200)),
        }
    }
}

fn name(number: usize) -> String {
    format!("account-{number}")
}

/// Opens some accounts, on disk.
pub(super) fn begin(ledger: &Ledger) {
    let ledger = ledger.with_durability(Durability::OnDisk);
    for number in 0..ACCOUNTS / 2 {
        // An earlier attempt may have come as far.
        let _ = ledger.create(&account(&name(number)), 500);
    }
}

/// Fills the newest segment until less than `left` bytes are free in it.
pub(super) fn fill(ledger: &Ledger, segments: usize, left: usize) {
    let ledger = ledger.with_durability(Durability::OnDisk);
    let long = "x".repeat(equipoise::MAX_ID_BYTES);
    let _ = ledger.create(&account(&long), 1);
    let member = 1 + 1 + 1 + long.len() + 8 + 16;
    let mut free = segments * ((1 << 20) - 4096) - 4096 - left;
    while free > 2 * member {
        let members = (free / member).min(1_000);
        ledger.submit(chain((0..members).map(|_| update(&long, 1)))).expect("decided");
        free = free.saturating_sub(members * member + 150);
    }
}

/// So many entries of about 150 kB, without waiting for the disk.
pub(super) fn fill_applied(ledger: &Ledger, entries: usize) {
    let long = "x".repeat(equipoise::MAX_ID_BYTES);
    let _ = ledger.create(&account(&long), 1);
    for _ in 0..entries {
        ledger.submit(chain((0..1_000).map(|_| update(&long, 1)))).expect("decided");
    }
}

/// Begins the next segment of the journal; false when the disk fails.
pub(super) fn roll(ledger: &Ledger) -> bool {
    let disk = ledger.core().disk.as_ref().expect("on disk");
    disk.begin_segment(&mut disk.tail.lock()).is_ok()
}
