//! Driving a transaction to its decision: owner, duplicate and helper run the same steps.

use smallvec::SmallVec;

use super::contention::{Contended, Meter, Started};
use super::group::GROUP;
use super::seqlock::{Body, Chain, REFUSED, UNDECIDED, Version};
use super::snapshot::Kept;
use super::step::{Step, step};
use super::sync::{Guard, Mutant, boxed, count_kept, mutant, retire, spin};
use super::transaction::{ACTIVE, Decision, Gate, Handle, Leg, Transaction, cached_word};
use super::{Kernel, Refused, State, earlier};

/// How often a writer checks an undecided transaction in its way again before it helps.
const PATIENCE: usize = 64;

/// A version that a driver fills until one installation succeeds; null before the first attempt. Not a Box: moving a
/// Box asserts that nobody else has the pointer, and once the version is installed others have it.
struct Spare<S: State>(*mut Version<S>);

impl<S: State> Spare<S> {
    fn none() -> Self {
        Spare(std::ptr::null_mut())
    }

    fn fill(&mut self, body: Body<S>) -> *mut Version<S> {
        // Safety: owned by the spare, unless null.
        match unsafe { self.0.as_ref() } {
            // Safety: not published, since `installed` would have cleared the pointer.
            Some(version) => unsafe { version.rewrite(body) },
            None => self.0 = Box::into_raw(boxed(Version::new(UNDECIDED, body))),
        }
        self.0
    }

    fn installed(&mut self) {
        // I1: the account's cell owns it now.
        self.0 = std::ptr::null_mut();
    }
}

impl<S: State> Drop for Spare<S> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // Safety: made by `fill`, and never published.
            drop(unsafe { Box::from_raw(self.0) });
        }
    }
}

/// What a driver found out about one leg.
struct Installed<S: State> {
    before: S,
    refusal: Option<Refused<S::Reject>>,
}

/// What a driver found out about all legs, once they are installed.
pub(super) struct Ready<S: State> {
    pub(super) refusal: Option<Refused<S::Reject>>,
    pub(super) before: SmallVec<[S; 2]>,
}

/// The result of an attempt to install a version.
enum Try<S: State> {
    /// It is in the account.
    Installed(Installed<S>),
    /// The transaction is decided already.
    Decided,
    /// Another version was faster.
    Lost,
}

impl<S: State> Kernel<S> {
    /// Drives `handle` to its decision. A no-op on a closed gate.
    ///
    /// Lock-free: whatever stands in the way is finished on the way. Must not be called while the gate is unsettled.
    #[inline]
    pub(crate) fn drive<'h>(&self, handle: &'h Handle<S>, guard: &Guard) -> Option<Decision<'h, S>> {
        if handle.gate() == Gate::Open || mutant(Mutant::DriveBeforeGate) {
            let mut meter = Meter::default();
            self.finish(handle, guard, &mut meter);
            handle.release(guard);
            self.contention.add(&meter);
        }
        handle.decision()
    }

    /// The protocol: what is to come before; then a version in every leg, ascending; then the verdict; then the list.
    pub(super) fn finish(&self, transaction: &Transaction<S>, guard: &Guard, meter: &mut Meter) {
        self.finish_earlier(transaction, guard, meter);
        if let Some(Ready { refusal, before }) = self.install_all(transaction, guard, meter) {
            step(Step::Append);
            self.append(transaction, refusal, before, guard, meter);
            step(Step::Appended);
        }
    }

    /// Finishes those of the transaction's group that come before it.
    #[inline]
    fn finish_earlier(&self, transaction: &Transaction<S>, guard: &Guard, meter: &mut Meter) {
        if transaction.is_grouped() && !mutant(Mutant::GroupOutOfOrder) {
            for earlier in undecided_before(transaction, guard).into_iter().rev() {
                if let Some(Ready { refusal, before }) = self.install_all(earlier, guard, meter) {
                    self.append(earlier, refusal, before, guard, meter);
                }
            }
        }
    }

    /// Installs a version in every leg, ascending; None when it is decided already.
    #[inline]
    pub(super) fn install_all(
        &self,
        transaction: &Transaction<S>,
        guard: &Guard,
        meter: &mut Meter,
    ) -> Option<Ready<S>> {
        let mut spare = Spare::none();
        let mut before = SmallVec::new();
        let mut refusal = transaction.plan.refusal;
        for leg in &transaction.plan.legs {
            if mutant(Mutant::VerdictBeforeInstall) {
                let base = leg.account().read(guard).1;
                if let Err(reject) = leg.fold(base) {
                    refusal = earlier(refusal, Some(reject));
                    before.push(base);
                    break;
                }
            }
            let installed = self.install(transaction, leg, &mut spare, guard, meter)?;
            step(Step::Installed);
            before.push(installed.before);
            let was_refused = refusal.is_some();
            refusal = earlier(refusal, installed.refusal);
            if mutant(Mutant::DecidedBeforeLastLeg) && !was_refused && refusal.is_some() {
                break;
            }
        }
        Some(Ready { refusal, before })
    }

    /// Installs the transaction's version in `leg`'s account, or finds it there; None when it is decided already.
    #[inline]
    fn install(
        &self,
        transaction: &Transaction<S>,
        leg: &Leg<S>,
        spare: &mut Spare<S>,
        guard: &Guard,
        meter: &mut Meter,
    ) -> Option<Installed<S>> {
        let mut started = Started::default();
        let installed = loop {
            match self.try_install(transaction, leg, spare, guard, meter) {
                Try::Lost => started = started.or(meter.lost()),
                Try::Installed(installed) => break Some(installed),
                Try::Decided => break None,
            }
        };
        meter.stop(started);
        installed
    }

    #[inline]
    fn try_install(
        &self,
        transaction: &Transaction<S>,
        leg: &Leg<S>,
        spare: &mut Spare<S>,
        guard: &Guard,
        meter: &mut Meter,
    ) -> Try<S> {
        let account = leg.account();
        if mutant(Mutant::StateBeforeHead) && transaction.state() != ACTIVE {
            return Try::Decided;
        }
        // (1) Load the head before anything else.
        let (head, version) = account.head(guard);
        step(Step::HeadLoaded);
        if mutant(Mutant::StateBeforeSequence) && transaction.state() != ACTIVE {
            return Try::Decided;
        }
        // (2) Then see whether it is ours already. Check its cached sequence first, since addresses are used again.
        if let Some(version) = version
            && version.cached() == UNDECIDED
            && std::ptr::eq(version.body().transaction, transaction)
        {
            let before = version.body().old;
            return Try::Installed(Installed { before, refusal: leg.fold(before).err() });
        }
        // (3) Load the state last: a transaction that is decided by now had all its legs installed before (1), or the
        // CAS below fails. This order is what prevents a second application.
        let late = mutant(Mutant::StateBeforeHead) || mutant(Mutant::StateBeforeSequence);
        if !late && transaction.state() != ACTIVE {
            return Try::Decided;
        }
        step(Step::StateLoaded);
        let early = mutant(Mutant::KeepBeforeResolve).then(|| self.keep(version, u64::MAX >> 2));
        let (base_sequence, base) =
            version.map_or_else(|| account.origin(), |version| self.resolve(version, guard, meter));
        step(Step::Resolved);
        let folded = leg.fold(base);
        let kept = early.unwrap_or_else(|| self.keep(version, base_sequence));
        let candidate = spare.fill(Body {
            transaction,
            new: folded.unwrap_or(base),
            old_sequence: base_sequence,
            old: base,
            prev: kept.chain,
        });
        if kept.chain.depth() > 0 {
            transaction.note_kept();
        }
        step(Step::Install);
        if account.install(head, candidate) {
            spare.installed();
            self.retire_replaced(head, &kept, guard);
            return Try::Installed(Installed { before: base, refusal: folded.err() });
        }
        if kept.rebuilt {
            free_chain(kept.chain);
        }
        Try::Lost
    }

    /// Decides the transaction of `version`, caches that, and returns what holds after it.
    #[inline]
    fn resolve(&self, version: &Version<S>, guard: &Guard, meter: &mut Meter) -> (u64, S) {
        let body = version.body();
        let mut decision = version.cached();
        if decision == UNDECIDED {
            // Safety: I2, undecided in the cache after the pin.
            let transaction = unsafe { &*body.transaction };
            if transaction.state() == ACTIVE {
                self.overcome(transaction, guard, meter);
            }
            decision = cached_word(transaction.state());
            if !mutant(Mutant::UncachedOnReplace) {
                version.cache(decision);
            }
        }
        if decision == REFUSED { (body.old_sequence, body.old) } else { (decision, body.new) }
    }

    /// Gives an undecided transaction in the way a moment, and finishes it if that was not enough.
    #[cold]
    fn overcome(&self, transaction: &Transaction<S>, guard: &Guard, meter: &mut Meter) {
        let started = meter.start();
        if !outwaited(transaction) {
            meter.helped();
            self.finish(transaction, guard, meter);
        }
        meter.stop(started);
    }

    /// Retires the versions that the installation removed from the chain.
    #[inline]
    fn retire_replaced(&self, head: *mut Version<S>, kept: &Kept<S>, guard: &Guard) {
        // Safety: I1, still protected by the guard.
        let Some(replaced) = (unsafe { head.as_ref() }) else { return };
        if std::ptr::eq(kept.chain.head(), head) {
            count_kept::<Version<S>>(1);
            return;
        }
        let below = replaced.body().prev;
        // Safety: I1, our CAS took the head out of the only chain it was in.
        unsafe { retire(guard, head) };
        if kept.rebuilt {
            count_kept::<Version<S>>(kept.chain.depth() as i64);
        }
        if kept.rebuilt || kept.chain.head().is_null() {
            retire_chain(below, guard);
        }
    }

    /// What contention has cost so far.
    pub(crate) fn contended(&self) -> Contended {
        self.contention.sum()
    }
}

/// Whether `transaction` is decided after a moment. No spinning under a model checker, which explores both outcomes.
fn outwaited<S: State>(transaction: &Transaction<S>) -> bool {
    cfg!(equipoise_engine)
        && (0..PATIENCE).any(|_| {
            spin();
            transaction.state() != ACTIVE
        })
}

/// Those before `transaction` in its group that may be driven and are not decided, the nearest first.
#[cold]
fn undecided_before<'g, S: State>(
    transaction: &'g Transaction<S>,
    guard: &'g Guard,
) -> SmallVec<[&'g Transaction<S>; GROUP]> {
    let mut undecided = SmallVec::new();
    let mut later = transaction;
    // State first: only an undecided transaction still has a valid predecessor (I8). A closed one is never decided.
    while later.state() == ACTIVE
        && let Some(earlier) = later.before(guard)
    {
        if earlier.gate() == Gate::Open && earlier.state() == ACTIVE {
            undecided.push(earlier);
        }
        later = earlier;
    }
    undecided
}

/// Retires every version of a chain that a CAS of ours took out.
pub(super) fn retire_chain<S: State>(chain: Chain<S>, guard: &Guard) {
    let mut version = chain.head();
    while !version.is_null() {
        // Safety: I1, still protected by the guard.
        let next = unsafe { &*version }.body().prev.head();
        // Safety: I1, unreachable since the caller's CAS.
        unsafe { retire(guard, version) };
        count_kept::<Version<S>>(-1);
        version = next;
    }
}

/// Frees a chain of copies that were never published, or one that nobody is left to read; says how many it had.
pub(super) fn free_chain<S: State>(chain: Chain<S>) -> i64 {
    let mut freed = 0;
    let mut version = chain.head();
    while !version.is_null() {
        // Safety: never published, or the last reader is gone: the caller's claim.
        let owned = unsafe { Box::from_raw(version) };
        version = owned.body().prev.head();
        freed += 1;
    }
    freed
}
