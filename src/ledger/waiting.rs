//! Conditions that a ledger's tickets wait for: its durable sequence, or its end.

use std::sync::Arc;

use super::Ledger;
use crate::wait::{Durable, Waiters};

impl Durable for Ledger {
    fn waiters(&self) -> &Waiters {
        &self.core().waiters
    }

    fn is_durable(&self, sequence: u64) -> bool {
        let core = self.core();
        let Some(flusher) = &core.flusher else { return true };
        if core.kernel.durable() >= sequence {
            return true;
        }
        core.flush_soon(flusher);
        core.kernel.durable() >= sequence
    }
}

/// A watermark that is never reached: a ticket for it waits for the ledger's end, without delaying that.
pub(super) struct Endless(pub(super) Arc<Waiters>);

impl Durable for Endless {
    fn waiters(&self) -> &Waiters {
        &self.0
    }

    fn is_durable(&self, _: u64) -> bool {
        false
    }
}
