//! What happens between a request and its outcome: admission, ids, plan, drive, and what follows a commit.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapWeak;

use crate::account::{AccountId, Balance};
use crate::directory::Directory;
use crate::error::{Exhausted, InvalidRequest, SubmitError};
use crate::ids::Ids;
use crate::journal::disk::Disk;
use crate::journal::{Flushed, Flusher};
use crate::kernel::doorbell::{Counter, Doorbell, Latch};
use crate::kernel::{Account, Gate, Guard, Handle, Kernel, Owned, garbage};
use crate::lock::Lock;
use crate::opening::Event;
use crate::outcome::Outcome;
use crate::plan;
use crate::request::{Kind, Member, Request};
use crate::snapshot::Open;
use crate::wait::Waiters;

/// Transactions whose ids a caller forgets; more than one, so that the table shrinks back.
const FORGOTTEN_BY_A_CALLER: usize = 2;

/// The parts, in the order in which they must go: handles before the kernel, the kernel before the accounts.
pub(crate) struct Core {
    pub(crate) ids: Ids,
    pub(crate) flusher: Option<Flusher>,
    /// The flusher's sink, where that is a disk.
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) kernel: Kernel<Balance>,
    pub(crate) directory: Directory,
    pub(crate) waiters: Waiters,
    pub(crate) bell: Doorbell,
    /// Wakes the thread that writes checkpoints.
    pub(crate) checkpoint_bell: Doorbell,
    pub(crate) closed: Latch,
    pub(crate) opened: Counter,
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

impl Core {
    pub(crate) fn new(
        kernel: Kernel<Balance>,
        flusher: Option<Flusher>,
        disk: Option<(Arc<Disk>, Lock)>,
        directory: Directory,
        ids: Ids,
        clock: Clock,
        limits: Limits,
    ) -> Self {
        let (disk, lock) = disk.unzip();
        Core {
            ids,
            flusher,
            disk,
            kernel,
            directory,
            waiters: Waiters::default(),
            bell: Doorbell::new(),
            checkpoint_bell: Doorbell::new(),
            closed: Latch::new(),
            opened: Counter::new(),
            newest: ArcSwapWeak::default(),
            newest_durable: ArcSwapWeak::default(),
            clock,
            limits,
            _lock: lock,
        }
    }

    /// Plans, claims, drives. `known` finds the accounts.
    pub(crate) fn submit<'g>(
        &'g self,
        mut request: Request,
        guard: &'g Guard,
        known: impl Fn(&AccountId) -> Option<&'g Account<Balance>>,
    ) -> Result<Outcome, SubmitError> {
        self.admit(guard)?;
        loop {
            if let Some(answered) = self.answer_known(&request, guard)? {
                return Ok(answered);
            }
            let handle = self.plan(request, guard, &known)?;
            if self.claim(&handle) == Gate::Open {
                return Ok(self.decide(handle, guard));
            }
            // Somebody was faster with an id of it, and has the answer.
            request = handle.request().clone();
        }
    }

    fn plan<'g>(
        &'g self,
        request: Request,
        guard: &'g Guard,
        known: impl Fn(&AccountId) -> Option<&'g Account<Balance>>,
    ) -> Result<Handle<Balance>, SubmitError> {
        let mut opens = false;
        for member in request.members() {
            if let Kind::Create { account, .. } = member.operation.kind() {
                self.directory.find_or_make(account, guard)?;
                opens = true;
            }
        }
        let (time, now) = (self.clock.now(), || self.kernel.now(guard));
        let planned = if opens {
            plan::plan(request, time, now, |id| self.directory.find(id, guard))
        } else {
            plan::plan(request, time, now, known)
        };
        Ok(Owned::new(planned).publish())
    }

    /// Claims the ids of a planned transaction; it runs if its gate is open then.
    #[inline]
    fn claim(&self, handle: &Handle<Balance>) -> Gate {
        match handle.request().members() {
            [Member { id: None, .. }] => handle.settle(Gate::Open),
            [Member { id: Some(id), .. }] => self.ids.claim(id, handle),
            _ => self.ids.settle(handle),
        }
    }

    /// Drives a transaction whose gate is open, and sees to what follows a commit.
    #[inline]
    fn decide(&self, handle: Handle<Balance>, guard: &Guard) -> Outcome {
        let accepted = self.kernel.drive(&handle, guard).is_some_and(|decision| decision.refusal.is_none());
        let members = handle.request().members();
        if accepted {
            self.note_opened(members, guard);
        }
        if members.iter().any(|member| member.id.is_some()) {
            self.ids.note_claimed(&handle);
            // The flusher forgets, where there is one and it keeps up.
            if self.flusher.is_none() || self.ids.is_overfull() {
                self.ids.forget_excess(self.durable(), FORGOTTEN_BY_A_CALLER);
            }
        }
        if self.flusher.is_some() {
            self.bell.ring();
        }
        Outcome::new(handle, None, false)
    }

    /// Refuses before anything is claimed, when a limit is reached.
    #[inline]
    fn admit(&self, guard: &Guard) -> Result<(), SubmitError> {
        if self.closed.is_set() {
            return Err(self.why_closed());
        }
        let bytes = garbage::bytes();
        if bytes > self.limits.garbage {
            guard.flush();
            return Err(Exhausted::Garbage { bytes, cap: self.limits.garbage }.into());
        }
        if let Some(flusher) = &self.flusher {
            if let Some((path, needed)) = flusher.sink().shortage() {
                return Err(Exhausted::Disk { path, needed }.into());
            }
            let entries = self.kernel.now(guard).saturating_sub(self.kernel.durable());
            if entries > self.limits.backlog {
                self.bell.ring();
                return Err(Exhausted::Backlog { entries, limit: self.limits.backlog }.into());
            }
        }
        Ok(())
    }

    /// The answer to a request whose id was seen before.
    fn answer_known(&self, request: &Request, guard: &Guard) -> Result<Option<Outcome>, SubmitError> {
        for (index, member) in request.members().iter().enumerate() {
            let Some(id) = &member.id else { continue };
            while let Some(claim) = self.ids.find(id) {
                // A chain whose gate closes owned nothing: the id is free again.
                if self.ids.settle(&claim.handle) != Gate::Open {
                    continue;
                }
                let owner = claim.handle.request();
                let asked_alone = request.members().len() == 1;
                let differs = match owner.members().get(claim.member as usize) {
                    Some(known) if asked_alone => known
                        .operation
                        .first_difference(&member.operation)
                        .map(|field| InvalidRequest::IdReused { id: id.clone(), field }),
                    _ => owner.first_difference(request).map(|difference| match difference {
                        Some((id, field)) => InvalidRequest::IdReused { id, field },
                        None => InvalidRequest::IdOfAnother { id: id.clone(), index },
                    }),
                };
                if let Some(invalid) = differs {
                    return Err(invalid.into());
                }
                self.kernel.drive(&claim.handle, guard);
                let asked = asked_alone.then_some(claim.member);
                return Ok(Some(Outcome::new(claim.handle, asked, true)));
            }
        }
        Ok(None)
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
            flusher.flush(&self.kernel, &self.waiters, |_| {});
            self.note_failure(flusher);
        }
    }

    /// As [`Core::flush`], unless somebody is at it.
    pub(crate) fn try_flush(&self) -> Flushed {
        let Some(flusher) = &self.flusher else { return Flushed::Done };
        let flushed = flusher.try_flush(&self.kernel, &self.waiters, |_| {});
        self.note_failure(flusher);
        flushed
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
                // The next start does without it.
                let _ = flusher.sink().finish();
            }
        }
        self.waiters.close();
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
