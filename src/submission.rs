//! What happens between a request and its outcome: admission, ids, plan, drive.

use std::cell::Cell;

use smallvec::{SmallVec, smallvec};

use crate::account::{AccountId, Balance};
use crate::core::{Core, Next};
use crate::directory::Sought;
use crate::error::{AnswerGone, Exhausted, SubmitError};
use crate::ids::{Claim, Found, IndexError, Indexed, Seen};
use crate::journal::{HistoryError, HistoryGone};
use crate::kernel::slab::SlabIndex;
use crate::kernel::{Account, GROUP, Gate, Group, Guard, Handle, Owned, Plan, pin};
use crate::outcome::Outcome;
use crate::plan;
use crate::request::{Kind, Member, Request, SMALL};

/// Once the backlog is half full, one call in this many yields the processor to the flusher; once it is three quarters
/// full, every call does. Among hundreds of runnable threads the flusher runs as rarely as any caller, while all
/// callers add to its work. Without yielding they would fill the backlog and be refused for seconds, until all of it is
/// written.
const GIVES_WAY_ONCE_IN: u64 = 4;

/// How many ids' worth of memory a caller forgets when it is refused for garbage.
const STRETCH: usize = 64;

/// Bytes of large requests that may wait to become durable. Small ones are bounded by their number.
const LARGE_BACKLOG: u64 = 256 << 20;

/// Accounts that refused chains may have made, of some 350 bytes each: 350 MB.
const MOST_UNOPENED: u64 = if cfg!(test) { 10_000 } else { 1_000_000 };

impl Core {
    /// Decides a request.
    pub(crate) fn submit(&self, request: Request, next: Next) -> Result<Outcome, SubmitError> {
        let ahead = self.look_ahead(std::slice::from_ref(&request));
        self.submit_to(request, next, self.known_ahead(&ahead))
    }

    /// As [`Self::submit`], where `known` finds the accounts.
    pub(crate) fn submit_to<'s>(
        &'s self,
        request: Request,
        next: Next,
        known: impl Fn(&AccountId, &Guard) -> Option<&'s Account<Balance>>,
    ) -> Result<Outcome, SubmitError> {
        let no_room = |error: &SubmitError| {
            if let SubmitError::Exhausted(
                Exhausted::Disk { .. } | Exhausted::Segment { .. } | Exhausted::Ids { why: Some(_), .. },
            ) = error
            {
                self.refused_for_space.add(1);
            }
        };
        self.try_submit(request, next, known).inspect_err(no_room)
    }

    /// Plans, claims, drives.
    #[inline]
    fn try_submit<'s>(
        &'s self,
        mut request: Request,
        next: Next,
        known: impl Fn(&AccountId, &Guard) -> Option<&'s Account<Balance>>,
    ) -> Result<Outcome, SubmitError> {
        self.admit_all(std::slice::from_ref(&request)).map_err(|(_, refusal)| refusal)?;
        loop {
            let time = self.clock.now();
            // Not pinned: it may read the disk.
            let probed = match self.ids.known(&request, time).map_err(lookup_failed)? {
                Seen::Known(Found::Claimed(claim), member) => return self.answer_claimed(&request, claim, member),
                Seen::Known(Found::Recorded(entry), member) => return self.answer_recorded(&request, entry, member),
                Seen::Unknown(probed) => probed,
            };
            let handle = {
                let guard = &pin();
                let opens = self.make_accounts(&request, guard)?;
                let known = |id: &AccountId| if opens { self.directory.find(id, guard) } else { known(id, guard) };
                Owned::new(self.plan(request, time, guard, known)).publish()
            };
            // Not pinned, again.
            if self.ids.claim(&handle, probed, time).map_err(lookup_failed)? == Gate::Open {
                let guard = &pin();
                self.kernel.drive(&handle, guard);
                return Ok(self.decided(handle, next, guard));
            }
            // Another caller has claimed one of its ids, and has the answer.
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
                results.push(self.submit(request, next));
            }
        }
        results
    }

    /// Decides up to [`GROUP`] requests together. Returns the rest, to be submitted singly: one of their ids is in use,
    /// or another claimant got it.
    fn submit_group(
        &self,
        requests: &mut impl Iterator<Item = Request>,
        next: Next,
        results: &mut Vec<Result<Outcome, SubmitError>>,
    ) -> SmallVec<[Request; 1]> {
        let time = self.clock.now();
        let requests: SmallVec<[Request; GROUP]> = requests.take(GROUP).collect();
        let admitted = self.admit_all(&requests).map_or_else(|(admitted, _)| admitted, |()| requests.len());
        // A block is freed as a whole: neither should a large request stay in memory for its group, nor the group for
        // it.
        let admitted = requests[..admitted].iter().position(|request| request.weight().is_some()).unwrap_or(admitted);
        let ahead = self.look_ahead(&requests[..admitted]);
        // Not pinned: it may read the disk.
        let (new, probed) = self.ids.count_new(&requests[..admitted], time);
        let mut requests = requests.into_iter();
        let mut group = Group::new(&self.kernel, new);
        let mut following = self.plan_group(&mut group, requests.by_ref().take(new), ahead, time);
        following.extend(requests);
        // In order, up to the first that must not be driven. Unpinned again: a claim may read the disk.
        let is_open = |handle: &&Handle<Balance>| matches!(self.ids.claim(handle, probed, time), Ok(Gate::Open));
        let open = group.handles().iter().take_while(is_open).count();
        let guard = &pin();
        for (place, handle) in group.drive(guard).into_iter().enumerate() {
            if place < open {
                results.push(Ok(self.decided(handle, next, guard)));
            } else {
                following.insert(place - open, handle.request().clone());
            }
        }
        following
    }

    /// Plans `requests`, up to the first whose accounts cannot be made, which is returned.
    fn plan_group(
        &self,
        group: &mut Group<'_, Balance>,
        requests: impl Iterator<Item = Request>,
        ahead: SmallVec<[SlabIndex; 2 * GROUP]>,
        time: u64,
    ) -> SmallVec<[Request; 1]> {
        let guard = &pin();
        let known = self.known_ahead(&ahead);
        for request in requests {
            if self.make_accounts(&request, guard).is_err() {
                return smallvec![request];
            }
            group.push(self.plan(request, time, guard, |id| known(id, guard)));
        }
        SmallVec::new()
    }

    /// Admits `requests`. An error says how many of the first ones are admitted, and why the next is not.
    #[inline]
    fn admit_all(&self, requests: &[Request]) -> Result<(), (usize, SubmitError)> {
        let behind = self.admit().map_err(|refusal| (0, refusal))?;
        let has_id = |request: &Request| request.members().iter().any(|member| member.id.is_some());
        if self.disk.is_some()
            && let Some(first) = requests.iter().position(has_id)
        {
            self.ids.admit().map_err(|refusal| (first, refusal.into()))?;
        }
        if gives_way(behind, self.limits.backlog) {
            // Nothing is held here, and no particular thread is waited for.
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Where the accounts of `requests` probably lie according to the hints, in the order in which the plans will ask
    /// for them. Prefetches them while the ids are looked up.
    fn look_ahead(&self, requests: &[Request]) -> SmallVec<[SlabIndex; 2 * GROUP]> {
        let Some(ahead) = self.directory.ahead() else { return SmallVec::new() };
        let mut sought = SmallVec::<[Sought; 2 * GROUP]>::new();
        first_accounts(requests, |id| sought.push(ahead.seek(id)));
        sought.into_iter().filter_map(|sought| ahead.find(sought)).collect()
    }

    /// Finds accounts that are asked for in the order of `ahead`, which some may be missing in.
    fn known_ahead<'s>(&'s self, ahead: &[SlabIndex]) -> impl Fn(&AccountId, &Guard) -> Option<&'s Account<Balance>> {
        let passed = Cell::new(0);
        move |id, guard| {
            let next = ahead.get(passed.get()).and_then(|index| self.directory.at(*index));
            match next.filter(|account| account.key() == id) {
                Some(account) => {
                    passed.set(passed.get() + 1);
                    Some(account)
                }
                None => self.directory.find(id, guard),
            }
        }
    }

    /// Creates the accounts that `request` opens, and returns whether it opens any. The accounts of a refused chain
    /// stay, so past a limit no chain may create more.
    fn make_accounts(&self, request: &Request, guard: &Guard) -> Result<bool, Exhausted> {
        let mut opens = false;
        let accounts = if request.members().len() > 1 { self.directory.unopened() } else { 0 };
        for member in request.members() {
            if let Kind::Create { account, .. } = member.operation.kind() {
                if accounts > MOST_UNOPENED && self.directory.find(account, guard).is_none() {
                    return Err(Exhausted::Unopened { accounts, limit: MOST_UNOPENED });
                }
                self.directory.find_or_make(account, guard)?;
                opens = true;
            }
        }
        Ok(opens)
    }

    /// Plans `request`; accounts that it opens were created before.
    #[inline]
    fn plan<'s>(
        &'s self,
        request: Request,
        time: u64,
        guard: &Guard,
        known: impl FnMut(&AccountId) -> Option<&'s Account<Balance>>,
    ) -> Plan<Balance> {
        plan::plan(request, time, || self.kernel.now(guard), known)
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
                self.ids.forget_for(self.durable(), &handle);
            }
        }
        if self.flusher.is_some() {
            if let Some(bytes) = handle.request().weight() {
                self.large.add(bytes);
            }
            if next == Next::Returns {
                self.bell.ring();
            }
        }
        Outcome::new(handle, None, false)
    }

    /// Refuses any request when a process-wide limit is reached, before anything is claimed. Returns how many decided
    /// requests wait to become durable.
    #[inline]
    fn admit(&self) -> Result<u64, SubmitError> {
        let guard = &pin();
        if self.closed.is_set() {
            return Err(self.why_closed());
        }
        let bytes = self.garbage_bytes();
        if bytes > self.limits.garbage {
            self.ids.forget_excess(self.durable(), STRETCH);
            // Some of it may be versions kept for snapshots that are closed by now. Writes would free those, but none
            // get through.
            for account in self.directory.some(self.trimmed.add(1)) {
                self.kernel.trim(account, guard);
            }
            guard.flush();
            return Err(Exhausted::Garbage { bytes, cap: self.limits.garbage }.into());
        }
        let Some(flusher) = &self.flusher else { return Ok(0) };
        if let Some(shortage) = flusher.sink().shortage() {
            return Err(shortage.into());
        }
        let entries = self.kernel.now(guard).saturating_sub(self.kernel.durable());
        if entries > self.limits.backlog {
            self.bell.ring();
            return Err(Exhausted::Backlog { entries, limit: self.limits.backlog }.into());
        }
        let bytes = self.large.get();
        if bytes > LARGE_BACKLOG {
            self.bell.ring();
            return Err(Exhausted::BacklogBytes { bytes, limit: LARGE_BACKLOG }.into());
        }
        Ok(entries)
    }

    /// The answer to a request whose member `index` carries an id that is in memory.
    fn answer_claimed(&self, request: &Request, claim: Claim, index: usize) -> Result<Outcome, SubmitError> {
        // The answer relies on its decision. If it were still undecided, a crash would lose it and make its id new
        // again.
        self.kernel.drive(&claim.handle, &pin());
        request.check_replay(index, claim.handle.request(), claim.member as usize)?;
        let asked = (request.members().len() == 1).then_some(claim.member);
        Ok(Outcome::new(claim.handle, asked, true))
    }

    /// The answer to a request whose member `index` carries an id that `entry` of the journal used.
    fn answer_recorded(&self, request: &Request, entry: Indexed, index: usize) -> Result<Outcome, SubmitError> {
        let asked = request.members().get(index).and_then(|member| member.id.clone());
        let record = self.recorded(entry).map_err(|error| match (error, asked) {
            (HistoryError::Gone(HistoryGone { oldest }), Some(id)) => AnswerGone { id, oldest }.into(),
            (error, _) => SubmitError::IdsUnreadable { what: error.to_string() },
        })?;
        let members = (record.request.members().get(entry.member as usize), request.members().get(index));
        if members.0.map(|it| &it.id) != members.1.map(|it| &it.id) {
            let what = format!("it leads to entry {} of the journal, which has another id", entry.sequence);
            return Err(match self.ids.index() {
                Some(index) => lookup_failed(index.distrust(what)),
                None => SubmitError::IdsUnreadable { what },
            });
        }
        request.check_replay(index, &record.request, entry.member as usize)?;
        let asked = (request.members().len() == 1).then_some(entry.member);
        Ok(Outcome::recorded(record, asked, true))
    }

    /// Counts the accounts that a transaction opened, and puts them into the look-up cache.
    fn note_opened(&self, members: &[Member], guard: &Guard) {
        for member in members {
            if let Kind::Create { account, .. } = member.operation.kind() {
                self.opened.add(1);
                self.directory.opened(account, guard);
            }
        }
    }
}

/// Whether a caller lets others run first, when `behind` decided requests wait to become durable of the `limit` that
/// may.
#[inline]
fn gives_way(behind: u64, limit: u64) -> bool {
    behind > limit / 2 && (behind > limit - limit / 4 || behind.is_multiple_of(GIVES_WAY_ONCE_IN))
}

/// Visits the accounts that requests name first. Plain loops: iterator chains cost more than the prefetch saves.
#[inline]
fn first_accounts(requests: &[Request], mut visit: impl FnMut(&AccountId)) {
    for request in requests {
        for member in request.members().iter().take(SMALL) {
            match member.operation.kind() {
                Kind::Create { account, .. } | Kind::Update { account, .. } => visit(account),
                Kind::Transfer { from, to, .. } => {
                    visit(from);
                    visit(to);
                }
                Kind::Post { legs } => legs.iter().take(SMALL).for_each(|leg| visit(&leg.account)),
            }
        }
    }
}

fn lookup_failed(error: IndexError) -> SubmitError {
    match error {
        IndexError::NoSpace { path } => {
            Exhausted::Disk { path: path.display().to_string(), needed: IndexError::ROOM }.into()
        }
        error => SubmitError::IdsUnreadable { what: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::error::InvalidRequest;
    use crate::kernel::garbage;
    use crate::ledger::Ledger;
    use crate::request::{MAX_LEGS, Operation};

    /// B3, E6: what is told of an earlier use rests on its decision, though its owner stopped between claim and drive:
    /// otherwise the id would be new again after a crash.
    #[test]
    fn an_id_is_called_used_once_its_use_is_decided() {
        let (ledger, account) = (Ledger::new(), AccountId::new("a").unwrap());
        let core = ledger.core();
        let request = |initial| {
            let operation = Operation::create(account.clone(), initial).unwrap();
            Request::single(operation, Some("x".parse().unwrap()))
        };
        let Ok(Seen::Unknown(probed)) = core.ids.known(&request(1), 1) else { panic!("an id that was used") };
        let guard = &pin();
        core.make_accounts(&request(1), guard).unwrap();
        let known = |id: &AccountId| core.directory.find(id, guard);
        let handle = Owned::new(core.plan(request(1), 1, guard, known)).publish();
        assert_eq!(core.ids.claim(&handle, probed, 1).unwrap(), Gate::Open);
        let refused = core.submit(request(2), Next::Returns).unwrap_err();
        assert!(matches!(refused, SubmitError::Invalid(InvalidRequest::IdReused { .. })), "{refused:?}");
        assert_eq!(handle.decision().map(|decision| decision.sequence), Some(ledger.sequence()));
    }

    /// C6: what refused chains would have opened takes bounded memory: chains that would make more accounts are refused
    /// past a limit, while single operations and other chains go on.
    #[test]
    fn refused_chains_make_a_bounded_number_of_accounts() {
        let ledger = Ledger::new();
        let create = |name: &str| Operation::create(AccountId::new(name).unwrap(), 0).unwrap();
        let ghost = || Operation::update(AccountId::new("ghost").unwrap(), -1);
        let chain = |operations: Vec<Operation>| {
            let members = operations.into_iter().map(|operation| Member { id: None, operation });
            ledger.submit(Request::chain(members.collect()).unwrap())
        };
        let opening =
            |number: u64| chain((1..MAX_LEGS).map(|at| create(&format!("{number}-{at}"))).chain([ghost()]).collect());
        let tried = (0..20).map(opening).find_map(Result::err);
        assert!(matches!(tried, Some(SubmitError::Exhausted(Exhausted::Unopened { .. }))), "{tried:?}");
        let unopened = ledger.stats().unopened_accounts;
        assert!(unopened < MOST_UNOPENED + 2 * MAX_LEGS as u64, "{unopened}");
        opening(0).expect("it makes no more");
        for name in ["a", "0-1"] {
            ledger.submit(Request::single(create(name), None)).unwrap().result().unwrap();
        }
        assert_eq!(ledger.stats().unopened_accounts, unopened - 1);
        let update = |name| Operation::update(AccountId::new(name).unwrap(), 1);
        chain(vec![update("a"), update("0-1")]).unwrap().result().unwrap();
        chain(vec![create("0-2"), update("a")]).unwrap().result().unwrap();
        assert_eq!(ledger.stats().unopened_accounts, unopened - 2);
    }

    /// E7: while a thread that forgets ids is suspended, ids take memory up to the cap, and statistics show it. Then
    /// writes are refused; they go on by themselves once it continues.
    #[test]
    fn ids_that_nobody_forgets_count_as_garbage() {
        let cap = garbage::bytes() + (16 << 20);
        let ledger = Ledger::builder().id_capacity(10).garbage_cap(cap).build();
        let account = AccountId::new("a").unwrap();
        ledger.create(&account, 0).unwrap();
        let update = |number: u64| {
            let id = Some(number.to_string().parse().unwrap());
            ledger.submit(Request::single(Operation::update(account.clone(), 1), id))
        };
        ledger.core().ids.while_forgetting(|| {
            // Other tests of this process count towards the cap while they have garbage: go on until these ids do.
            let overdue = || ledger.core().ids.overdue_bytes();
            let began = Instant::now();
            let refused = (0..).find_map(|number| {
                assert!(began.elapsed() < Duration::from_secs(60), "never refused: {:?}", ledger.stats());
                update(number).err().filter(|_| overdue() > 1 << 20)
            });
            assert!(matches!(refused, Some(SubmitError::Exhausted(Exhausted::Garbage { .. }))), "{refused:?}");
            let (stats, overdue) = (ledger.stats(), overdue());
            assert!(stats.garbage_bytes >= overdue && stats.ids > 1_000, "{stats:?}");
        });
        let before = ledger.stats().ids;
        let (mut written, healing) = (0, Instant::now());
        while written < before * 2 / 3 {
            assert!(healing.elapsed() < Duration::from_secs(60), "{:?}", ledger.stats());
            written += u64::from(update(u64::from(u32::MAX) + written).is_ok());
        }
        assert!(ledger.stats().ids < before / 2, "writers that go on forget: {:?}", ledger.stats());
    }

    /// E1: callers give way before they are refused, but not while the flusher keeps up.
    #[test]
    fn callers_give_way_to_a_flusher_that_has_fallen_behind() {
        for limit in [1, 10, 100_000, 1_000_000] {
            let given = |from, to| (from..=to).filter(|behind| gives_way(*behind, limit)).count() as u64;
            assert_eq!(given(0, limit / 2), 0, "{limit}");
            let nearly_full = limit - limit / 4;
            let seldom = given(limit / 2 + 1, nearly_full);
            assert!(seldom.abs_diff((nearly_full - limit / 2) / GIVES_WAY_ONCE_IN) <= 1, "{limit}: {seldom}");
            assert_eq!(given(nearly_full + 1, limit), limit / 4, "{limit}");
        }
    }
}
