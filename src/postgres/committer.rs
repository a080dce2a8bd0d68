//! The one task of an instance that changes the database: batch after batch.
//!
//! Whatever waits while a batch is committed becomes the next one; there is no timer. A batch is decided from what the
//! instance remembers and what it looks up, written as one transaction, and answered when that is committed. Nobody is shown
//! anything before, so a batch whose transaction did not go through is simply decided again: on what the database holds
//! by then, its rows locked, so that instances that write the same accounts take turns.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::batch::{AccountChange, Changes, Committed, Missed, Used, Written};
use super::database::{Database, Fault};
use super::decide::{Ask, Decision, Known, decide};
use super::error::PgError;
use super::memory::Memory;
use super::work::{Answer, Asks, Batch, Job, Work, settle};
use crate::account::{AccountId, Balance, TransactionId};
use crate::inventory::{Position, StoredDeadLetter};

/// How many batches look their ids up before they are written, after one that met a duplicate. The others find out when
/// they are written, which is cheaper while there are none.
const WARY: u32 = 64;

/// How much one instance does at once, and remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Events and operations in one transaction, about.
    pub(super) batch: usize,
    pub(super) accounts: usize,
    pub(super) ids: usize,
}

/// Decides batches and has the database keep them.
pub(super) struct Committer<D> {
    pub(super) database: D,
    queue: mpsc::Receiver<Job>,
    accounts: Memory<AccountId, Balance>,
    ids: Memory<TransactionId, Used>,
    bounds: Bounds,
    wary: u32,
}

/// What is different about the next try of a batch.
#[derive(Default)]
struct Retry {
    /// Take the accounts' rows before deciding.
    lock: bool,
    /// Look the ids up before deciding.
    ids: bool,
    /// How often the database was not there.
    faults: u32,
}

impl<D: Database> Committer<D> {
    pub(super) fn new(database: D, queue: mpsc::Receiver<Job>, bounds: Bounds) -> Self {
        Committer {
            database,
            queue,
            accounts: Memory::new(bounds.accounts),
            ids: Memory::new(bounds.ids),
            bounds,
            wary: WARY,
        }
    }

    /// Works until nobody can ask for anything any more.
    pub(super) async fn run(mut self) {
        let mut next = None;
        while let Some(job) = match next.take() {
            Some(job) => Some(job),
            None => self.queue.recv().await,
        } {
            match job {
                Job::Batched(work) => {
                    let (batch, held) = self.gather(work);
                    next = held;
                    self.carry_out(batch).await;
                }
                Job::TakeOver { topic, partitions, answer } => give(answer, self.take_over(&topic, &partitions).await),
                Job::DeadLetters { limit, answer } => give(answer, self.dead_letters(limit).await),
                Job::Published { numbers, answer } => give(answer, self.published(&numbers).await),
                Job::End => return,
            }
        }
    }

    /// A batch of what waits, and what came after it.
    fn gather(&mut self, first: Work) -> (Batch, Option<Job>) {
        let mut batch = Batch::default();
        let mut next = Job::Batched(first);
        loop {
            match next {
                Job::Batched(work) => {
                    if let Err(work) = batch.take(work) {
                        return (batch, Some(Job::Batched(work)));
                    }
                }
                other => return (batch, Some(other)),
            }
            if batch.weight() >= self.bounds.batch {
                return (batch, None);
            }
            next = match self.queue.try_recv() {
                Ok(job) => job,
                Err(_) => return (batch, None),
            };
        }
    }

    async fn take_over(&mut self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, Fault> {
        let mut faults = 0;
        loop {
            match self.database.take_over(topic, partitions).await {
                // If the first one was heard after all, the epoch is raised twice: nobody minds.
                Err(fault) if self.is_over(&fault, &mut faults).await => {}
                result => return result,
            }
        }
    }

    async fn dead_letters(&mut self, limit: usize) -> Result<Vec<StoredDeadLetter>, Fault> {
        let mut faults = 0;
        loop {
            match self.database.dead_letters(limit).await {
                Err(fault) if self.is_over(&fault, &mut faults).await => {}
                result => return result,
            }
        }
    }

    async fn published(&mut self, numbers: &[i64]) -> Result<(), Fault> {
        let mut faults = 0;
        loop {
            match self.database.published(numbers).await {
                Err(fault) if self.is_over(&fault, &mut faults).await => {}
                result => return result,
            }
        }
    }

    /// Waits until a fault is over; false when it is not one that passes, or does not pass in time.
    async fn is_over(&mut self, fault: &Fault, faults: &mut u32) -> bool {
        let passes = matches!(fault, Fault::Unavailable(_) | Fault::Unknown(_));
        let over = passes && self.database.recover(*faults).await;
        *faults = faults.saturating_add(1);
        over
    }

    async fn carry_out(&mut self, mut batch: Batch) {
        let mut retry = Retry { ids: self.wary > 0, ..Retry::default() };
        self.wary = self.wary.saturating_sub(1);
        while !batch.is_answered() {
            match self.attempt(&mut batch, &mut retry).await {
                Ok(()) => {}
                // What became of it could not be found out in time.
                Err(fault @ Fault::Unknown(_)) => return batch.fail(&fault.into()),
                Err(fault) => {
                    if !self.is_over(&fault, &mut retry.faults).await {
                        return batch.fail(&fault.into());
                    }
                }
            }
        }
    }

    /// Tries a batch once. It was answered, or is to be tried again.
    async fn attempt(&mut self, batch: &mut Batch, retry: &mut Retry) -> Result<(), Fault> {
        let asks = batch.asks();
        let known = self.know(&asks.asks, retry).await?;
        let decided = decide(&asks.asks, &known, |index| batch.is_refused(&asks, index));
        if decided.is_err() && retry.lock {
            self.database.release().await?;
        }
        let mut decision = decided?;
        let number = self.database.number().await?;
        let changes = batch.changes(&asks, &mut decision, number);
        if changes.is_empty() {
            if retry.lock {
                self.database.release().await?;
            }
            batch.answer(&asks, &decision, &[]);
            return Ok(());
        }
        match self.database.write(&changes, false).await {
            Ok(Written::Committed(committed)) => self.finish(batch, &asks, &decision, changes, committed),
            Ok(Written::Missed(missed)) => self.missed(batch, &changes, missed, retry),
            Ok(Written::Tried) => return Err(Fault::Failed("a trial that nobody asked for".to_owned())),
            Err(Fault::Unknown(what)) => {
                if let Some(committed) = self.find_out(number, what, retry).await? {
                    self.finish(batch, &asks, &decision, changes, committed);
                }
            }
            Err(Fault::Refused(what)) => self.isolate(batch, &asks, &known, what, retry).await?,
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// What the asks are to be decided from: what is remembered, and what is looked up.
    async fn know(&mut self, asks: &[Ask], retry: &Retry) -> Result<Known, Fault> {
        let mut known = Known::default();
        let (mut ids, mut accounts) = (Vec::new(), HashSet::new());
        for member in asks.iter().flat_map(|ask| ask.request.members()) {
            if let Some(id) = &member.id {
                if let Some(used) = self.ids.get(id) {
                    known.ids.insert(id.clone(), used);
                    continue;
                }
                if retry.ids {
                    ids.push(id.clone());
                }
            }
            for account in member.operation.accounts() {
                if known.accounts.contains_key(account) || accounts.contains(account) {
                    continue;
                }
                match self.accounts.get(account).filter(|_| !retry.lock) {
                    Some(state) => drop(known.accounts.insert(account.clone(), state)),
                    None => drop(accounts.insert(account.clone())),
                }
            }
        }
        if ids.is_empty() && accounts.is_empty() && !retry.lock {
            return Ok(known);
        }
        ids.sort_unstable();
        ids.dedup();
        let mut accounts: Vec<_> = accounts.into_iter().collect();
        accounts.sort_unstable();
        let found = self.database.look_up(&accounts, &ids, retry.lock).await?;
        known.sequence = found.sequence;
        for (account, state) in found.accounts {
            self.accounts.insert(account.clone(), state);
            known.accounts.insert(account, state);
        }
        for (id, used) in found.ids {
            self.wary = WARY;
            self.ids.insert(id.clone(), used.clone());
            known.ids.insert(id, used);
        }
        Ok(known)
    }

    fn missed(&mut self, batch: &mut Batch, changes: &Changes, missed: Missed, retry: &mut Retry) {
        batch.offsets_missed(&missed.offsets);
        if missed.ids {
            self.wary = WARY;
            retry.ids = true;
        }
        if !missed.accounts.is_empty() {
            retry.lock = true;
            for AccountChange { id, .. } in &changes.accounts {
                self.accounts.remove(id);
            }
        }
        if missed.ids || !missed.accounts.is_empty() {
            batch.redecided += 1;
        }
    }

    /// What became of a commit that was not answered.
    async fn find_out(&mut self, number: i64, mut what: String, retry: &mut Retry) -> Result<Option<Committed>, Fault> {
        loop {
            if !self.database.recover(retry.faults).await {
                return Err(Fault::Unknown(what));
            }
            retry.faults = retry.faults.saturating_add(1);
            match self.database.fate(number).await {
                Err(Fault::Unavailable(again) | Fault::Unknown(again)) => what = again,
                known => return known,
            }
        }
    }

    /// Remembers what was committed, and answers.
    fn finish(&mut self, batch: &mut Batch, asks: &Asks, decision: &Decision, changes: Changes, committed: Committed) {
        let records = settle(changes.records, committed);
        for AccountChange { id, after, .. } in changes.accounts {
            self.accounts.insert(id, after);
        }
        for used in changes.ids {
            if let Some(record) = records.get(used.place) {
                self.ids.insert(used.id, Used { record: Arc::clone(record), member: used.member });
            }
        }
        batch.answer(asks, decision, &records);
    }

    /// Finds the asks that the database refuses, by trials of all asks up to one, which keep nothing: whether an ask is refused
    /// may depend on what those before it made of an account.
    async fn isolate(
        &mut self,
        batch: &mut Batch,
        asks: &Asks,
        known: &Known,
        what: String,
        retry: &mut Retry,
    ) -> Result<(), Fault> {
        let (all, mut why) = (asks.asks.len(), what);
        let mut culprits = 0;
        // The database keeps the first `good` asks, now that those it refuses are left out.
        let mut good = 0;
        while good < all {
            let (mut stride, mut bad) = (1, None);
            while good < bad.map_or(all, |bad: usize| bad - 1) {
                let length = match bad {
                    Some(bad) => good + (bad - good) / 2,
                    None => (good + stride).min(all),
                };
                match self.is_kept(batch, asks, known, length).await? {
                    Trial::Kept => (good, stride) = (length, stride * 2),
                    Trial::Refused(what) => (bad, why) = (Some(length), what),
                    Trial::Missed(changes, missed) => {
                        self.missed(batch, &changes, missed, retry);
                        return Ok(());
                    }
                }
            }
            if bad.is_some() {
                batch.refuse(asks, good, why.clone());
                culprits += 1;
                good += 1;
            }
        }
        // Not an ask, then, but what goes with them.
        if culprits == 0 { Err(Fault::Failed(why)) } else { Ok(()) }
    }

    /// Whether the database would keep the first `length` asks.
    async fn is_kept(&mut self, batch: &Batch, asks: &Asks, known: &Known, length: usize) -> Result<Trial, Fault> {
        let decision = decide(&asks.asks, known, |index| index >= length || batch.is_refused(asks, index))?;
        let number = self.database.number().await?;
        let Decision { records, accounts, ids, .. } = decision;
        let changes = Changes { number, records, accounts, ids, ..Changes::default() };
        match self.database.write(&changes, true).await {
            Ok(Written::Missed(missed)) => Ok(Trial::Missed(Box::new(changes), missed)),
            Ok(_) => Ok(Trial::Kept),
            Err(Fault::Refused(what)) => Ok(Trial::Refused(what)),
            Err(fault) => Err(fault),
        }
    }
}

enum Trial {
    Kept,
    Refused(String),
    /// Others changed what it was decided from.
    Missed(Box<Changes>, Missed),
}

fn give<T>(answer: Answer<T>, result: Result<T, Fault>) {
    // Whoever does not wait any more does without.
    let _ = answer.send(result.map_err(PgError::from));
}
