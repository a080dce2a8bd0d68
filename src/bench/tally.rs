//! What a ledger must hold after a run, as its callers know it.

use std::ops::{AddAssign, SubAssign};

/// Sums over the answers. What has no answer may or may not have been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Operations that were decided, refusals included: each has an entry in the journal.
    pub(super) decided: u64,
    /// Changes of an account: one for an account that was opened or updated, two for a transfer.
    pub(super) changes: u64,
    /// Accounts that were opened.
    pub(super) opened: u64,
    /// What all accepted operations added to the total.
    pub(super) added: i128,
    /// What may have been done as well.
    pub(super) unknown: Unknown,
}

/// Operations whose outcome is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) operations: u64,
    pub(super) changes: u64,
    pub(super) opened: u64,
    /// The sum of what they would take away, and of what they would add.
    pub(super) less: i128,
    pub(super) more: i128,
}

/// What one operation changes, if it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) changes: u8,
    pub(super) opened: bool,
    pub(super) delta: i64,
}

impl Effect {
    pub(super) const NONE: Effect = Effect { changes: 0, opened: false, delta: 0 };
    pub(super) const TRANSFER: Effect = Effect { changes: 2, opened: false, delta: 0 };
}

impl Tally {
    /// Begins `count` operations; they are unknown until they are decided.
    #[inline]
    pub(super) fn begun(&mut self, effect: Effect, count: u64) {
        if effect.changes > 0 {
            self.unknown += Unknown::of(effect, count);
        }
    }

    /// Of the operations begun, `count` were decided, and `refused` of these refused.
    #[inline]
    pub(super) fn decided(&mut self, effect: Effect, count: u64, refused: u64) {
        if effect.changes == 0 {
            return;
        }
        self.unknown -= Unknown::of(effect, count);
        let accepted = count - refused;
        self.decided += count;
        self.changes += accepted * u64::from(effect.changes);
        self.opened += if effect.opened { accepted } else { 0 };
        self.added += i128::from(effect.delta) * i128::from(accepted);
    }

    /// Of the operations begun, `count` were certainly not decided.
    pub(super) fn not_decided(&mut self, effect: Effect, count: u64) {
        if effect.changes > 0 {
            self.unknown -= Unknown::of(effect, count);
        }
    }

    pub(super) fn add(&mut self, other: &Tally) {
        self.decided += other.decided;
        self.changes += other.changes;
        self.opened += other.opened;
        self.added += other.added;
        self.unknown += other.unknown;
    }
}

impl Unknown {
    #[inline]
    fn of(effect: Effect, count: u64) -> Self {
        let delta = i128::from(effect.delta) * i128::from(count);
        Unknown {
            operations: count,
            changes: u64::from(effect.changes) * count,
            opened: if effect.opened { count } else { 0 },
            less: delta.min(0),
            more: delta.max(0),
        }
    }
}

impl AddAssign for Unknown {
    #[inline]
    fn add_assign(&mut self, other: Unknown) {
        self.operations += other.operations;
        self.changes += other.changes;
        self.opened += other.opened;
        self.less += other.less;
        self.more += other.more;
    }
}

impl SubAssign for Unknown {
    #[inline]
    fn sub_assign(&mut self, other: Unknown) {
        self.operations -= other.operations;
        self.changes -= other.changes;
        self.opened -= other.opened;
        self.less -= other.less;
        self.more -= other.more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A12: a refusal adds nothing; what nobody answered may have been done or not.
    #[test]
    fn answers_are_added_up() {
        let take = Effect { changes: 1, opened: false, delta: -5 };
        let open = Effect { changes: 1, opened: true, delta: 7 };
        let mut tally = Tally::default();
        for (effect, count) in [(take, 4), (open, 1), (Effect::TRANSFER, 100), (Effect::NONE, 9)] {
            tally.begun(effect, count);
        }
        tally.decided(take, 2, 1);
        tally.decided(open, 1, 0);
        tally.decided(Effect::TRANSFER, 100, 10);
        tally.not_decided(take, 1);
        tally.decided(Effect::NONE, 9, 0);
        assert_eq!((tally.decided, tally.changes, tally.opened, tally.added), (103, 1 + 1 + 180, 1, -5 + 7));
        let unknown = Unknown { operations: 1, changes: 1, opened: 0, less: -5, more: 0 };
        assert_eq!(tally.unknown, unknown);
        let mut sum = tally;
        sum.add(&tally);
        assert_eq!((sum.decided, sum.added, sum.unknown.less), (206, 4, -10));
    }
}
