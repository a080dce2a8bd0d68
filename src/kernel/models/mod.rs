//! The kernel's proofs: loom and shuttle models beside plain tests, over the smallest state there is.

use std::sync::Arc;

use super::group::Group;
use super::transaction::Gate;
use super::{Account, Handle, Kernel, Leg, Owned, Plan, State, pin};

#[cfg(equipoise_engine)]
mod block;
#[cfg(equipoise_engine)]
mod claims;
#[cfg(equipoise_loom)]
mod loom;
#[cfg(equipoise_shuttle)]
mod shuttle;
#[cfg(equipoise_engine)]
mod stale_reader;
#[cfg(equipoise_engine)]
mod suspend;

impl State for i64 {
    type Op = i64;
    type Reject = ();
    type Key = u64;
    type Request = u64;
    const ABSENT: i64 = 0;

    fn apply(&self, delta: &i64) -> Result<i64, ()> {
        self.checked_add(*delta).filter(|balance| *balance >= 0).ok_or(())
    }
}

/// A transaction that only claims, and asks for `request`.
pub(super) fn claimant(request: u64) -> Handle<i64> {
    let handle =
        Owned::new(Plan { legs: [].into_iter().collect(), refusal: None, as_of: 0, time: 0, request }).publish();
    // The list will never have it.
    handle.settle(Gate::Closed);
    handle
}

/// Two or more accounts and their kernel.
pub(super) struct World {
    // Before the accounts: its Drop may still release heads.
    pub(super) kernel: Kernel<i64>,
    pub(super) accounts: Vec<Account<i64>>,
}

impl World {
    pub(super) fn new(balances: &[i64]) -> Arc<World> {
        World::over(Kernel::new(0, 0), balances)
    }

    pub(super) fn over(kernel: Kernel<i64>, balances: &[i64]) -> Arc<World> {
        let accounts = (0..balances.len() as u64).map(Account::new).collect();
        let world = World { kernel, accounts };
        for (account, balance) in balances.iter().enumerate() {
            if *balance != 0 {
                world.apply(&[(account, *balance)]);
            }
        }
        Arc::new(world)
    }

    /// A transaction that adds each delta to its account, ready to be driven.
    pub(super) fn prepare(&self, deltas: &[(usize, i64)]) -> Handle<i64> {
        Owned::new(self.plan(deltas)).publish_open()
    }

    fn plan(&self, deltas: &[(usize, i64)]) -> Plan<i64> {
        let mut deltas = deltas.to_vec();
        deltas.sort_unstable();
        let legs = deltas.iter().map(|(account, delta)| {
            let mut leg = Leg::new(&self.accounts[*account]);
            leg.push(0, *delta);
            leg
        });
        Plan { legs: legs.collect(), refusal: None, as_of: 0, time: 0, request: 0 }
    }

    /// Transactions of one group, each ready to be driven.
    pub(super) fn prepare_group(&self, transactions: &[&[(usize, i64)]]) -> Group<'_, i64> {
        let mut group = Group::new(&self.kernel, transactions.len());
        transactions.iter().for_each(|deltas| group.push(self.plan(deltas)));
        for handle in group.handles() {
            assert_eq!(handle.settle(Gate::Open), Gate::Open);
        }
        group
    }

    pub(super) fn apply_group(&self, transactions: &[&[(usize, i64)]]) -> Vec<Outcome> {
        let group = self.prepare_group(transactions);
        let outcomes: Vec<_> = group.drive(&pin()).iter().map(|handle| self.drive(handle)).collect();
        let in_order = outcomes.is_sorted_by_key(|outcome| outcome.sequence);
        assert!(in_order, "a group is decided in its order: {outcomes:?}");
        outcomes
    }

    pub(super) fn apply(&self, deltas: &[(usize, i64)]) -> Outcome {
        self.drive(&self.prepare(deltas))
    }

    pub(super) fn drive(&self, handle: &Handle<i64>) -> Outcome {
        let guard = &pin();
        let decision = self.kernel.drive(handle, guard).expect("driven");
        assert_eq!(decision.before.len(), decision.legs.len(), "a result an account");
        Outcome { sequence: decision.sequence, accepted: decision.refusal.is_none() }
    }

    pub(super) fn balance(&self, account: usize) -> i64 {
        self.accounts[account].read(&pin()).1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) sequence: u64,
    pub(super) accepted: bool,
}
