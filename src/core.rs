//! What happens between a request and its outcome: admission, ids, plan, drive, and what follows a commit.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapWeak;
use smallvec::SmallVec;

use crate::account::{AccountId, Balance, TransactionId};
use crate::directory::Directory;
use crate::error::{Exhausted, InvalidRequest, SubmitError};
use crate::ids::{Claim, Ids, IndexError, Indexed, Probed, Seen};
use crate::journal::disk::Disk;
use crate::journal::{Flushed, Flusher, HistoryError, Note, NoteError, Noted, Notes, Noting};
use crate::kernel::doorbell::{Counter, Doorbell, Latch};
use crate::kernel::{Account, GROUP, Gate, Group, Guard, Handle, Kernel, Owned, garbage, pin};
use crate::lock::Lock;
use crate::opening::Event;
use crate::outcome::{Outcome, Record};
use crate::plan;
use crate::request::{Kind, Member, Request};
use crate::snapshot::Open;
use crate::wait::Waiters;

/// Transactions whose ids a caller forgets; more than one, so that the table shrinks back.
const FORGOTTEN_BY_A_CALLER: usize = 2;

/// Bytes of large requests that may wait to become durable. Small ones are bounded by their number.
const LARGE_BACKLOG: u64 = 256 << 20;

/// A request is small up to so many members.
const SMALL: usize = 8;

/// What a leg of a large request takes in memory, about, in bytes.
const LEG_BYTES: usize = 512;

/// The parts, in the order in which they must go: handles before the kernel, the kernel before the accounts.
pub(crate) struct Core {
    pub(crate) ids: Ids,
    pub(crate) flusher: Option<Flusher>,
    /// The flusher's sink, where that is a disk.
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) kernel: Kernel<Balance>,
    pub(crate) directory: Directory,
    pub(crate) waiters: Waiters,
    pub(crate) notes: Notes,
    pub(crate) bell: Doorbell,
    /// Wakes the thread that writes checkpoints.
    pub(crate) checkpoint_bell: Doorbell,
    pub(crate) closed: Latch,
    pub(crate) opened: Counter,
    /// Bytes of the large requests that were decided and are not durable.
    large: Counter,
    pub(crate) newest: ArcSwapWeak<Open>,
    pub(crate) newest_durable: ArcSwapWeak<Open>,
    clock: Clock,
    pub(crate) limits: Limits,
    /// Held as long as anything may touch the data directory.
    _lock: Option<Lock>,
}

/// What protects the process.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that only old readers need, before writes are refused.
    pub(crate) garbage: u64,
    /// Decided entries that are not durable, before writes are refused.
    pub(crate) backlog: u64,
    /// Entries between checkpoints.
    pub(crate) checkpoint_every: u64,
}

/// What a caller does when its request was decided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It returns: the flusher is told.
    Returns,
    /// It waits until that is durable, and sees to it itself.
    Waits,
}

impl Core {
    pub(crate) fn new(
        kernel: Kernel<Balance>,
        flusher: Option<Flusher>,
        disk: Option<(Arc<Disk>, Lock, Noted)>,
        directory: Directory,
        ids: Ids,
        clock: Clock,
        limits: Limits,
    ) -> Self {
        let (disk, lock, noted) = match disk {
            Some((disk, lock, noted)) => (Some(disk), Some(lock), noted),
            None => (None, None, Noted::default()),
        };
        Core {
            ids,
            flusher,
            disk,
            kernel,
            directory,
            waiters: Waiters::default(),
            notes: Notes::new(noted),
            bell: Doorbell::new(),
            checkpoint_bell: Doorbell::new(),
            closed: Latch::new(),
            opened: Counter::new(),
            large: Counter::new(),
            newest: ArcSwapWeak::default(),
            newest_durable: ArcSwapWeak::default(),
            clock,
            limits,
            _lock: lock,
        }
    }

    /// Plans, claims, drives. `known` finds the accounts.
    pub(crate) fn submit<'s>(
        &'s self,
        mut request: Request,
        next: Next,
        known: impl Fn(&AccountId, &Guard) -> Option<&'s Account<Balance>>,
    ) -> Result<Outcome, SubmitError> {
        self.admit(&request)?;
        self.prefetch_places(std::slice::from_ref(&request));
        loop {
            let time = self.clock.now();
            // Not pinned: it may read the disk.
            let probed = match self.ids.known(&request, time).map_err(unknowable)? {
                Seen::Claimed { claim, member } => return self.answer_claimed(&request, claim, member),
                Seen::Recorded { entry, member } => return self.answer_recorded(&request, entry, member),
                Seen::Unknown(probed) => probed,
            };
            let guard = &pin();
            let opens = self.make_accounts(&request, guard)?;
            let handle = self.plan(request, time, guard, opens, |id| known(id, guard)).publish();
            if self.ids.claim(&handle, probed, time).map_err(unknowable)? == Gate::Open {
                self.kernel.drive(&handle, guard);
                return Ok(self.decided(handle, next, guard));
            }
            // Somebody was faster with an id of it, and has the answer.
            request = handle.request().clone();
        }
    }

    /// Decides each request for itself, in their order. Those that touch different accounts are linked together.
    pub(crate) fn submit_all(
        &self,
        requests: impl IntoIterator<Item = Request>,
        next: Next,
    ) -> Vec<Result<Outcome, SubmitError>> {
        let mut requests = requests.into_iter().peekable();
        let mut results = Vec::with_capacity(requests.size_hint().0);
        while requests.peek().is_some() {
            let alone = self.submit_group(&mut requests, next, &mut results);
            for request in alone {
                results.push(self.submit(request, next, |id, guard| self.directory.find(id, guard)));
            }
        }
        results
    }

    /// Decides the first of `requests` together, and returns those that are to follow one by one: with ids that are in use, or that
    /// somebody was faster with.
    fn submit_group(
        &self,
        requests: &mut impl Iterator<Item = Request>,
        next: Next,
        results: &mut Vec<Result<Outcome, SubmitError>>,
    ) -> SmallVec<[Request; 1]> {
        let time = self.clock.now();
        let requests: SmallVec<[Request; GROUP]> = requests.take(GROUP).collect();
        // What a step needs of all of them comes from memory while the step before it is at work.
        self.prefetch_places(&requests);
        // Not pinned: it may read the disk.
        let probes: SmallVec<[Probed; GROUP]> =
            requests.iter().map_while(|request| self.probe(request, time)).collect();
        let guard = &pin();
        accounts_of(&requests[..probes.len()]).for_each(|id| self.directory.prefetch(id, guard));
        let mut group = Group::new(&self.kernel);
        let mut requests = requests.into_iter();
        let mut following = SmallVec::new();
        for request in requests.by_ref().take(probes.len()) {
            let Ok(opens) = self.make_accounts(&request, guard) else {
                following.push(request);
                break;
            };
            group.push(self.plan(request, time, guard, opens, |id| self.directory.find(id, guard)));
        }
        following.extend(requests);
        self.kernel.prefetch(&group, guard);
        // In their order, and none after one that is not to be driven.
        let open = group.handles().iter().zip(probes);
        let open =
            open.take_while(|(handle, probed)| matches!(self.ids.claim(handle, *probed, time), Ok(Gate::Open))).count();
        for (place, handle) in group.drive(guard).into_iter().enumerate() {
            if place < open {
                results.push(Ok(self.decided(handle, next, guard)));
            } else {
                following.insert(place - open, handle.request().clone());
            }
        }
        following
    }

    /// Has what tells where the accounts of `requests` lie come from memory.
    #[inline]
    fn prefetch_places(&self, requests: &[Request]) {
        let guard = &pin();
        accounts_of(requests).for_each(|id| self.directory.prefetch_place(id, guard));
    }

    /// What [`Ids::claim`] is to be told, unless something is in the way of `request`: when it is its turn it hears that again.
    fn probe(&self, request: &Request, time: u64) -> Option<Probed> {
        self.admit(request).ok()?;
        match self.ids.known(request, time) {
            Ok(Seen::Unknown(probed)) => Some(probed),
            _ => None,
        }
    }

    /// Makes the accounts that `request` opens, if it opens any.
    fn make_accounts(&self, request: &Request, guard: &Guard) -> Result<bool, Exhausted> {
        let mut opens = false;
        for member in request.members() {
            if let Kind::Create { account, .. } = member.operation.kind() {
                self.directory.find_or_make(account, guard)?;
                opens = true;
            }
        }
        Ok(opens)
    }

    /// Plans `request`, whose accounts were made where it opens some.
    #[inline]
    fn plan<'s>(
        &'s self,
        request: Request,
        time: u64,
        guard: &Guard,
        opens: bool,
        known: impl Fn(&AccountId) -> Option<&'s Account<Balance>>,
    ) -> Owned<Balance> {
        let now = || self.kernel.now(guard);
        Owned::new(if opens {
            plan::plan(request, time, now, |id| self.directory.find(id, guard))
        } else {
            plan::plan(request, time, now, known)
        })
    }

    /// Sees to what follows a decision.
    #[inline]
    fn decided(&self, handle: Handle<Balance>, next: Next, guard: &Guard) -> Outcome {
        let accepted = handle.decision().is_some_and(|decision| decision.refusal.is_none());
        let members = handle.request().members();
        if accepted {
            self.note_opened(members, guard);
        }
        if members.iter().any(|member| member.id.is_some()) {
            // The flusher does both, where there is one and it keeps up.
            if self.flusher.is_none() {
                self.ids.note_claimed(&handle);
            }
            if self.flusher.is_none() || self.ids.is_overfull() {
                self.ids.forget_excess(self.durable(), FORGOTTEN_BY_A_CALLER);
            }
        }
        if self.flusher.is_some() {
            if let Some(bytes) = weight(handle.request()) {
                self.large.add(bytes);
            }
            if next == Next::Returns {
                self.bell.ring();
            }
        }
        Outcome::new(handle, None, false)
    }

    /// Refuses before anything is claimed, when a limit is reached.
    #[inline]
    fn admit(&self, request: &Request) -> Result<(), SubmitError> {
        if self.closed.is_set() {
            return Err(self.why_closed());
        }
        let bytes = garbage::bytes();
        if bytes > self.limits.garbage {
            pin().flush();
            return Err(Exhausted::Garbage { bytes, cap: self.limits.garbage }.into());
        }
        if let Some(flusher) = &self.flusher {
            if let Some((path, needed)) = flusher.sink().shortage() {
                return Err(Exhausted::Disk { path, needed }.into());
            }
            let entries = self.kernel.now(&pin()).saturating_sub(self.kernel.durable());
            if entries > self.limits.backlog {
                self.bell.ring();
                return Err(Exhausted::Backlog { entries, limit: self.limits.backlog }.into());
            }
            // A flush may take off what its caller has not added yet.
            let bytes = u64::try_from(self.large.get().cast_signed()).unwrap_or(0);
            if bytes > LARGE_BACKLOG {
                self.bell.ring();
                return Err(Exhausted::BacklogBytes { bytes, limit: LARGE_BACKLOG }.into());
            }
            if self.disk.is_some() && request.members().iter().any(|member| member.id.is_some()) {
                self.ids.admit()?;
            }
        }
        Ok(())
    }

    /// The answer to a request whose member `index` carries an id that is in memory.
    fn answer_claimed(&self, request: &Request, claim: Claim, index: usize) -> Result<Outcome, SubmitError> {
        check_replay(claim.handle.request(), claim.member as usize, request, index)?;
        self.kernel.drive(&claim.handle, &pin());
        let asked = (request.members().len() == 1).then_some(claim.member);
        Ok(Outcome::new(claim.handle, asked, true))
    }

    /// The answer to a request whose member `index` carries an id that `entry` of the journal used.
    fn answer_recorded(&self, request: &Request, entry: Indexed, index: usize) -> Result<Outcome, SubmitError> {
        let unreadable = |error: HistoryError| SubmitError::IdsUnreadable { what: error.to_string() };
        let record = self.recorded(entry).map_err(unreadable)?;
        check_replay(&record.request, entry.member as usize, request, index)?;
        let asked = (request.members().len() == 1).then_some(entry.member);
        Ok(Outcome::recorded(record, asked, true))
    }

    fn recorded(&self, entry: Indexed) -> Result<Record, HistoryError> {
        match &self.disk {
            Some(disk) => disk.record(entry.sequence),
            None => Err(HistoryError::Unreadable { what: "an id index without a journal".to_owned() }),
        }
    }

    /// What was decided for `id`, if anything was.
    pub(crate) fn transaction(&self, id: &TransactionId) -> Result<Option<Outcome>, HistoryError> {
        let found = self.ids.find(id).map_err(|error| HistoryError::Unreadable { what: error.to_string() })?;
        match found {
            None => Ok(None),
            Some(Seen::Recorded { entry, .. }) => {
                Ok(Some(Outcome::recorded(self.recorded(entry)?, Some(entry.member), false)))
            }
            Some(Seen::Claimed { claim, .. }) => {
                let decided = claim.handle.decision().is_some();
                Ok(decided.then(|| Outcome::new(claim.handle, Some(claim.member), false)))
            }
            Some(Seen::Unknown(_)) => Ok(None),
        }
    }

    /// Puts the accounts that a transaction opened into the look-up cache.
    fn note_opened(&self, members: &[Member], guard: &Guard) {
        for member in members {
            if let Kind::Create { account, .. } = member.operation.kind() {
                self.opened.add(1);
                self.directory.cache(account, guard);
            }
        }
    }

    /// The durable sequence; without a flusher, any.
    fn durable(&self) -> u64 {
        if self.flusher.is_some() { self.kernel.durable() } else { u64::MAX }
    }

    /// Makes everything committed durable, and sees to what follows that.
    pub(crate) fn flush(&self) {
        if let Some(flusher) = &self.flusher {
            let became_durable = |batch: &[_], through| self.became_durable(batch, through);
            flusher.flush(&self.kernel, &self.waiters, &self.notes, became_durable);
            self.note_failure(flusher);
        }
    }

    /// As [`Core::flush`], unless somebody is at it.
    pub(crate) fn try_flush(&self) -> Flushed {
        let Some(flusher) = &self.flusher else { return Flushed::Done };
        let became_durable = |batch: &[_], through| self.became_durable(batch, through);
        let flushed = flusher.try_flush(&self.kernel, &self.waiters, &self.notes, became_durable);
        self.note_failure(flusher);
        flushed
    }

    /// Takes a note, and sees to it that it is written with its entries, or without any.
    pub(crate) fn note(&self, note: Note) -> Noting {
        if self.closed.is_set() {
            return Noting::refused(NoteError::Closed(self.why_closed()));
        }
        let Some(flusher) = &self.flusher else {
            let noting = self.notes.add(note);
            self.notes.keep_all();
            return noting;
        };
        if let Some((path, needed)) = flusher.sink().shortage() {
            return Noting::refused(Exhausted::Disk { path, needed }.into());
        }
        let noting = self.notes.add(note);
        self.flush_soon(flusher);
        noting
    }

    /// Sees to it that what is committed becomes durable, without waiting for a device.
    pub(crate) fn flush_soon(&self, flusher: &Flusher) {
        // Where the sink is memory, to flush costs less than to wait for the flusher's thread.
        if flusher.sink().waits() || self.try_flush() == Flushed::Busy {
            self.bell.ring();
        }
    }

    /// Makes everything committed durable on a thread that would otherwise sleep until `sequence` is, if nobody else waits and nobody is at it: handing
    /// that to the flusher and being woken by it takes as long as the disk. Where others wait, they and this one share the flusher's next batch.
    pub(crate) fn flush_alone(&self, sequence: u64) {
        let Some(flusher) = &self.flusher else { return };
        if self.kernel.durable() >= sequence || self.waiters.is_awaited() {
            return;
        }
        let flushed = flusher.try_flush_once(&self.kernel, &self.waiters, &self.notes, |batch, through| {
            self.became_durable(batch, through)
        });
        self.note_failure(flusher);
        if flushed == Flushed::More {
            self.bell.ring();
        }
    }

    /// What follows a flush of `batch`, which ends with sequence `through`.
    fn became_durable(&self, batch: &[Handle<Balance>], through: u64) {
        self.large.add(-batch.iter().filter_map(|entry| weight(entry.request())).sum::<i64>());
        self.ids.durable(batch, through);
    }

    /// A ledger whose journal failed is closed.
    fn note_failure(&self, flusher: &Flusher) {
        if let Some(failure) = flusher.failure()
            && !self.closed.is_set()
        {
            self.closed.set();
            if let Some(disk) = &self.disk {
                disk.tell(&Event::JournalFailed { what: failure.what.clone() });
            }
        }
    }

    /// What a closed ledger says to a request.
    pub(crate) fn why_closed(&self) -> SubmitError {
        match self.failure() {
            Some(what) => SubmitError::JournalFailed { what },
            None => SubmitError::Closed,
        }
    }

    /// Why the journal failed, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        Some(self.flusher.as_ref()?.failure()?.what.clone())
    }

    /// Refuses what comes from now on, makes durable what was committed, and wakes whoever waits for more. Idempotent.
    pub(crate) fn close(&self) {
        let first = !self.closed.is_set();
        self.closed.set();
        if let Some(flusher) = &self.flusher {
            flusher.sink().close();
            self.flush();
            if first && flusher.failure().is_none() {
                // The next start does without either.
                let _ = flusher.sink().finish();
                let _ = self.ids.sweep(true);
            }
            self.ids.wake();
            if let Some(index) = self.ids.index() {
                index.wake();
            }
        }
        self.waiters.close();
        self.notes.close(Default::default(), &NoteError::Closed(self.why_closed()));
        self.bell.ring();
        self.checkpoint_bell.ring();
    }
}

/// The journal's time: the wall clock at the start and monotonic time since, so that no jump of a clock shows.
pub(crate) struct Clock {
    started: Instant,
    origin: u64,
}

impl Clock {
    /// A clock that is never before `newest`, the time of the newest entry.
    pub(crate) fn start(newest: u64) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), origin: nanoseconds(since_epoch).max(newest) }
    }

    /// Nanoseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.origin.saturating_add(nanoseconds(self.started.elapsed()))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The accounts of small requests.
fn accounts_of(requests: &[Request]) -> impl Iterator<Item = &AccountId> {
    let members = requests.iter().flat_map(|request| request.members().iter().take(SMALL));
    members.flat_map(|member| (0..2).map_while(|position| member.operation.account(position)))
}

/// About how many bytes a large request takes until it is durable; None for a small one.
#[inline]
fn weight(request: &Request) -> Option<i64> {
    let legs = match request.members() {
        [Member { operation, .. }] => match operation.kind() {
            Kind::Post { legs } if legs.len() > SMALL => legs.len(),
            _ => return None,
        },
        members if members.len() > SMALL => members.iter().map(|member| member.operation.accounts().len()).sum(),
        _ => return None,
    };
    i64::try_from(legs * LEG_BYTES).ok()
}

fn unknowable(error: IndexError) -> SubmitError {
    match error {
        IndexError::NoSpace { path } => {
            Exhausted::Disk { path: path.display().to_string(), needed: IndexError::ROOM }.into()
        }
        error => SubmitError::IdsUnreadable { what: error.to_string() },
    }
}

/// Whether `request`, whose member `index` carries an id of `owner`'s member `place`, says the same as it.
pub(crate) fn check_replay(
    owner: &Request,
    place: usize,
    request: &Request,
    index: usize,
) -> Result<(), InvalidRequest> {
    let Some(Member { id: Some(id), operation }) = request.members().get(index) else { return Ok(()) };
    let differs = match owner.members().get(place) {
        Some(known) if request.members().len() == 1 => {
            known.operation.first_difference(operation).map(|field| InvalidRequest::IdReused { id: id.clone(), field })
        }
        _ => owner.first_difference(request).map(|difference| match difference {
            Some((id, field)) => InvalidRequest::IdReused { id, field },
            None => InvalidRequest::IdOfAnother { id: id.clone(), index },
        }),
    };
    differs.map_or(Ok(()), Err)
}
