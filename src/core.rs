//! What happens between a request and its outcome: admission, ids, plan, drive, and what follows a commit.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapWeak;

use crate::account::{AccountId, Balance};
use crate::directory::Directory;
use crate::error::{Exhausted, InvalidRequest, SubmitError};
use crate::ids::{Claim, Ids, IndexError, Indexed, Seen};
use crate::journal::Flusher;
use crate::kernel::doorbell::{Counter, Doorbell, Latch};
use crate::kernel::{Account, Gate, Guard, Handle, Kernel, Owned, garbage, pin};
use crate::outcome::Outcome;
use crate::plan;
use crate::request::{Kind, Member, Request};
use crate::snapshot::Open;
use crate::wait::Waiters;

/// How long the flusher collects before it looks again, while nobody waits for it.
const BREATHER: Duration = Duration::from_millis(1);

/// Transactions whose ids a caller forgets; more than one, so that the table shrinks back.
const FORGOTTEN_BY_A_CALLER: usize = 2;

/// The parts, in the order in which they must go: handles before the kernel, the kernel before the accounts.
pub(crate) struct Core {
    pub(crate) ids: Ids,
    pub(crate) flusher: Option<Flusher>,
    pub(crate) kernel: Kernel<Balance>,
    pub(crate) directory: Directory,
    pub(crate) waiters: Waiters,
    pub(crate) bell: Doorbell,
    pub(crate) closed: Latch,
    pub(crate) opened: Counter,
    pub(crate) newest: ArcSwapWeak<Open>,
    pub(crate) newest_durable: ArcSwapWeak<Open>,
    clock: Clock,
    limits: Limits,
}

/// What protects the process.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that only old readers need, before writes are refused.
    pub(crate) garbage: u64,
    /// Decided entries that are not durable, before writes are refused.
    pub(crate) backlog: u64,
}

impl Core {
    pub(crate) fn new(
        kernel: Kernel<Balance>,
        flusher: Option<Flusher>,
        directory: Directory,
        ids: Ids,
        clock: Clock,
        limits: Limits,
    ) -> Self {
        Core {
            ids,
            flusher,
            kernel,
            directory,
            waiters: Waiters::default(),
            bell: Doorbell::new(),
            closed: Latch::new(),
            opened: Counter::new(),
            newest: ArcSwapWeak::default(),
            newest_durable: ArcSwapWeak::default(),
            clock,
            limits,
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
            let time = self.clock.now();
            let probed = match self.ids.known(&request, time).map_err(unknowable)? {
                Seen::Claimed { claim, member } => return self.answer_claimed(&request, claim, member, guard),
                Seen::Recorded { entry, member } => return self.answer_recorded(&request, entry, member),
                Seen::Unknown(probed) => probed,
            };
            let handle = self.plan(request, time, guard, &known)?;
            if self.ids.claim(&handle, probed, time).map_err(unknowable)? == Gate::Open {
                return Ok(self.decide(handle, guard));
            }
            // Somebody was faster with an id of it, and has the answer.
            request = handle.request().clone();
        }
    }

    fn plan<'g>(
        &'g self,
        request: Request,
        time: u64,
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
        let now = || self.kernel.now(guard);
        let planned = if opens {
            plan::plan(request, time, now, |id| self.directory.find(id, guard))
        } else {
            plan::plan(request, time, now, known)
        };
        Ok(Owned::new(planned).publish())
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
            return Err(SubmitError::Closed);
        }
        let bytes = garbage::bytes();
        if bytes > self.limits.garbage {
            guard.flush();
            return Err(Exhausted::Garbage { bytes, cap: self.limits.garbage }.into());
        }
        if self.flusher.is_some() {
            let entries = self.kernel.now(guard).saturating_sub(self.kernel.durable());
            if entries > self.limits.backlog {
                self.bell.ring();
                return Err(Exhausted::Backlog { entries, limit: self.limits.backlog }.into());
            }
        }
        Ok(())
    }

    /// The answer to a request whose member `index` carries an id that is in memory.
    fn answer_claimed(
        &self,
        request: &Request,
        claim: Claim,
        index: usize,
        guard: &Guard,
    ) -> Result<Outcome, SubmitError> {
        check_replay(claim.handle.request(), claim.member as usize, request, index)?;
        self.kernel.drive(&claim.handle, guard);
        let asked = (request.members().len() == 1).then_some(claim.member);
        Ok(Outcome::new(claim.handle, asked, true))
    }

    /// The answer to a request whose member `index` carries an id that `entry` of the journal used.
    fn answer_recorded(&self, _request: &Request, entry: Indexed, _index: usize) -> Result<Outcome, SubmitError> {
        // A ledger in memory has no index; one on disk reads the entry.
        Err(SubmitError::IdsUnreadable { what: format!("entry {} is not kept", entry.sequence) })
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

    /// The flusher's thread.
    pub(crate) fn flush_until_closed(&self) {
        let Some(flusher) = &self.flusher else { return };
        while !self.closed.is_set() {
            self.bell.listen(|| self.closed.is_set() || self.kernel.now(&pin()) > self.kernel.durable());
            flusher.flush(&self.kernel, &self.waiters);
            self.ids.forget_excess(self.kernel.durable(), usize::MAX);
            if !self.closed.is_set() {
                std::thread::sleep(BREATHER);
            }
        }
    }
}

/// The journal's time: the wall clock at the start and monotonic time since, so that no jump of a clock shows.
pub(crate) struct Clock {
    started: Instant,
    origin: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), origin: nanoseconds(since_epoch) }
    }

    /// Nanoseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        self.origin.saturating_add(nanoseconds(self.started.elapsed()))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn unknowable(error: IndexError) -> SubmitError {
    SubmitError::IdsUnreadable { what: error.to_string() }
}

/// Whether `request`, whose member `index` carries an id of `owner`'s member `place`, says the same as it.
fn check_replay(owner: &Request, place: usize, request: &Request, index: usize) -> Result<(), InvalidRequest> {
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
