//! Rows that somebody else holds, a person in `psql` or a suspended instance: locked rows, and rows that were inserted
//! and not committed.
//!
//! Work that needs such a row is told so, and the rest of its batch goes on. As long as a row was held at the last
//! look, it is looked at again, without waiting, before anything that needs it is written.

use std::collections::HashMap;
use std::hash::Hash;
use std::iter;
use std::time::Duration;

use tokio::time::Instant;

use super::database::{Database, Fault};
use super::work::Batch;
use crate::inventory::{Content, Run};
use crate::{AccountId, Request, TransactionId};

/// No more rows are remembered: work that needs the others may wait for them once more.
const MOST: usize = 10_000;

/// How long rows are remembered without being looked at again.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Whoever holds a row for this long, after the lock timeout, is no instance taking its turn.
const A_MOMENT: Duration = Duration::from_secs(1);

/// The number of the transaction that holds a row; empty for a row that is only asked about, or that nobody sees yet.
pub(super) type Holder = String;

/// Rows of accounts, ids and partitions, and their holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) accounts: HashMap<AccountId, Holder>,
    pub(super) ids: HashMap<TransactionId, Holder>,
    /// With their topics.
    pub(super) partitions: HashMap<(String, i32), Holder>,
    updated: Option<Instant>,
}

impl Locked {
    pub(super) fn new(
        accounts: impl Iterator<Item = (AccountId, Holder)>,
        ids: impl Iterator<Item = (TransactionId, Holder)>,
        partitions: impl Iterator<Item = ((String, i32), Holder)>,
    ) -> Self {
        Locked { accounts: accounts.collect(), ids: ids.collect(), partitions: partitions.collect(), updated: None }
    }

    fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.ids.is_empty() && self.partitions.is_empty()
    }

    /// Whether the batch needs one of them.
    pub(super) fn meets(&mut self, batch: &Batch) -> bool {
        if self.updated.is_some_and(|updated| updated.elapsed() > REMEMBERED) {
            *self = Locked::default();
        }
        if self.is_empty() {
            return false;
        }
        let mut rows = batch.rows();
        rows.retain(self);
        !rows.is_empty()
    }

    /// Answers the work in a batch that needs rows which somebody else holds for more than a moment. Looks at `all` of
    /// the batch's rows, or only at those that were held before. Returns whether there was such work.
    pub(super) async fn set_aside<D: Database>(
        &mut self,
        batch: &mut Batch,
        database: &mut D,
        all: bool,
    ) -> Result<bool, Fault> {
        let mut rows = batch.rows();
        let before = match all {
            false => {
                rows.retain(self);
                self.clone()
            }
            true => {
                rows = database.locked(&rows).await?;
                if rows.is_empty() {
                    return Ok(false);
                }
                tokio::time::sleep(A_MOMENT).await;
                rows.clone()
            }
        };
        let locked = database.locked(&rows).await?.since(&before);
        self.update(&rows, &locked);
        Ok(batch.set_aside(&locked))
    }

    /// Removes the partitions whose rows somebody else holds now. Looks at `all` of them, or only at those whose rows
    /// were held before. Returns whether there were any.
    pub(super) async fn leave_out<D: Database>(
        &mut self,
        topic: &str,
        partitions: &mut Vec<i32>,
        database: &mut D,
        all: bool,
    ) -> Result<bool, Fault> {
        let named = |partition: &i32| (topic.to_owned(), *partition);
        let mut rows =
            Locked::new(iter::empty(), iter::empty(), partitions.iter().map(|it| (named(it), Holder::new())));
        if !all {
            rows.retain(self);
        }
        if rows.is_empty() {
            return Ok(false);
        }
        let locked = database.locked(&rows).await?;
        self.update(&rows, &locked);
        partitions.retain(|partition| !locked.partitions.contains_key(&named(partition)));
        Ok(!locked.is_empty())
    }

    /// Keeps those that are among `others`.
    fn retain(&mut self, others: &Locked) {
        self.accounts.retain(|account, _| others.accounts.contains_key(account));
        self.ids.retain(|id, _| others.ids.contains_key(id));
        self.partitions.retain(|partition, _| others.partitions.contains_key(partition));
    }

    /// Keeps the rows whose holder is the same as `before`: other holders were instances taking turns.
    fn since(mut self, before: &Locked) -> Self {
        fn same<K: Eq + Hash>(before: &HashMap<K, Holder>) -> impl FnMut(&K, &mut Holder) -> bool {
            |row, holder| before.get(row) == Some(holder)
        }
        self.accounts.retain(same(&before.accounts));
        self.ids.retain(same(&before.ids));
        self.partitions.retain(same(&before.partitions));
        self
    }

    /// Of the rows in `asked`, exactly those in `locked` are held.
    fn update(&mut self, asked: &Locked, locked: &Locked) {
        self.accounts.retain(|account, _| !asked.accounts.contains_key(account));
        self.ids.retain(|id, _| !asked.ids.contains_key(id));
        self.partitions.retain(|partition, _| !asked.partitions.contains_key(partition));
        if self.accounts.len() + self.ids.len() + self.partitions.len() > MOST {
            *self = Locked::default();
        }
        self.accounts.extend(locked.accounts.clone());
        self.ids.extend(locked.ids.clone());
        self.partitions.extend(locked.partitions.clone());
        self.updated = Some(Instant::now());
    }

    pub(super) fn why_not_call(&self, request: &Request) -> Option<String> {
        let mut accounts = request.members().iter().flat_map(|member| member.operation.accounts());
        let mut ids = request.members().iter().filter_map(|member| member.id.as_ref());
        let account = accounts.find(|account| self.accounts.contains_key(*account));
        let mut id = || ids.find(|id| self.ids.contains_key(*id));
        account
            .map(|account| format!("somebody has locked the row of {account} in products"))
            .or_else(|| id().map(|id| format!("somebody has locked the row of {id} in processed_events")))
    }

    /// Whether a run needs one of them.
    pub(super) fn holds(&self, topic: &str, run: &Run) -> bool {
        let event = |content: &Content| {
            matches!(content, Content::Event { event, .. }
                if self.accounts.contains_key(&event.product) || self.ids.contains_key(&event.id))
        };
        self.partitions.keys().any(|(name, partition)| name == topic && *partition == run.partition)
            || run.records.iter().any(|record| event(&record.content))
    }
}
