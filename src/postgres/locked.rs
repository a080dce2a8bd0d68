//! Rows that somebody else has locked: a person in `psql`, or an instance that is suspended.
//!
//! What needs one of them is told so, and the rest goes on without it. As long as a row was locked when it was looked last,
//! it is looked at again, without waiting, before anything that needs it is written.

use std::collections::HashSet;

use super::work::Batch;
use crate::inventory::{Content, Run};
use crate::{AccountId, Request};

/// No more are remembered: whoever locks so many may be waited for once more.
const MOST: usize = 10_000;

/// Rows of accounts and of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) accounts: HashSet<AccountId>,
    /// With their topics.
    pub(super) partitions: HashSet<(String, i32)>,
}

impl Locked {
    fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.partitions.is_empty()
    }

    /// Whether the batch needs one of them.
    pub(super) fn meets(&self, batch: &Batch) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut rows = batch.rows();
        rows.retain(self);
        !rows.is_empty()
    }

    /// Keeps those that are among `others`.
    pub(super) fn retain(&mut self, others: &Locked) {
        self.accounts.retain(|account| others.accounts.contains(account));
        self.partitions.retain(|partition| others.partitions.contains(partition));
    }

    /// Of `asked` just these are locked.
    pub(super) fn update(&mut self, asked: &Locked, locked: &Locked) {
        self.accounts.retain(|account| !asked.accounts.contains(account));
        self.partitions.retain(|partition| !asked.partitions.contains(partition));
        if self.accounts.len() + self.partitions.len() > MOST {
            *self = Locked::default();
        }
        self.accounts.extend(locked.accounts.iter().cloned());
        self.partitions.extend(locked.partitions.iter().cloned());
    }

    pub(super) fn why_not_call(&self, request: &Request) -> Option<String> {
        let mut accounts = request.members().iter().flat_map(|member| member.operation.accounts());
        accounts
            .find(|account| self.accounts.contains(*account))
            .map(|account| format!("somebody has locked the row of {account} in products"))
    }

    /// Whether a run needs one of them.
    pub(super) fn holds(&self, topic: &str, run: &Run) -> bool {
        let event = |content: &Content| matches!(content, Content::Event { event, .. } if self.accounts.contains(&event.product));
        self.partitions.iter().any(|(name, partition)| name == topic && *partition == run.partition)
            || run.records.iter().any(|record| event(&record.content))
    }
}
