//! What a block keeps, and for how long: its transactions carry a mark whose copies can be counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::group::Group;
use super::super::transaction::Gate;
use super::{Account, Kernel, Leg, Owned, Plan, State, pin};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marked(i64);

impl State for Marked {
    type Op = i64;
    type Reject = ();
    type Key = u64;
    type Request = Arc<()>;
    const ABSENT: Marked = Marked(0);

    fn apply(&self, delta: &i64) -> Result<Marked, ()> {
        Ok(Marked(self.0 + delta))
    }
}

fn plan(account: &Account<Marked>, mark: &Arc<()>) -> Plan<Marked> {
    let mut leg = Leg::new(account);
    leg.push(0, 1);
    Plan { legs: [leg].into_iter().collect(), refusal: None, as_of: 0, time: 0, request: mark.clone() }
}

/// Has what was retired freed, until only `left` marks are there or that takes longer than `patience`.
fn collect(mark: &Arc<()>, left: usize, patience: Duration) {
    let began = Instant::now();
    while Arc::strong_count(mark) > left && began.elapsed() < patience {
        pin().flush();
        std::thread::yield_now();
    }
}

/// I9: whichever transaction of a group is referenced longest, the memory of all stays until that goes, and goes then.
#[test]
fn a_block_goes_with_the_last_of_its_transactions() {
    for longest in 0..3 {
        let kernel = Kernel::new(0, 0);
        let account = Account::new(0);
        let mark = Arc::new(());
        // One slot stays empty.
        let mut group = Group::new(&kernel, 4);
        (0..3).for_each(|_| group.push(plan(&account, &mark)));
        group.handles().iter().for_each(|handle| assert_eq!(handle.settle(Gate::Open), Gate::Open));
        let kept = group.drive(&pin())[longest].clone();
        // The next entry takes the list's references away.
        let next = Owned::new(plan(&account, &mark)).publish_open();
        kernel.drive(&next, &pin());
        collect(&mark, 1, Duration::from_millis(100));
        assert_eq!(Arc::strong_count(&mark), 5, "ours, three in the block, and the next one's");
        assert!(Arc::ptr_eq(kept.request(), &mark) && kept.decision().is_some());
        drop(kept);
        // Other tests pin too, and may sleep meanwhile.
        collect(&mark, 2, Duration::from_secs(30));
        assert_eq!(Arc::strong_count(&mark), 2, "the block is gone");
        assert_eq!(account.read(&pin()).1, Marked(4));
    }
}
