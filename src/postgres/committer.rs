//! The one task of an instance that changes the database, batch after batch.
//!
//! The work that waits while a batch is committed becomes the next batch; there is no timer. A batch is decided from
//! what the instance remembers and looks up, written in one transaction, and answered once that is committed. Nobody
//! sees anything of it before, so a batch that failed is simply decided again: from what the database holds by then,
//! with its rows locked, so that instances that write the same accounts take turns.

use std::future::{Future, poll_fn};
use std::mem::take;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;

use super::ahead::Ahead;
use super::batch::{Changes, Committed, Missed, Written};
use super::database::{Database, Fault};
use super::decide::{Decision, Known, decide};
use super::error::PgError;
use super::isolate::{Outdated, isolate};
use super::locked::Locked;
use super::remembered::Remembered;
use super::work::{Answer, Asks, Batch, Job, settle};
use crate::inventory::{Position, StoredDeadLetter};

/// How often a batch may miss although its accounts are locked and its ids looked up. Other instances can be meant by
/// that a few times, with accounts and ids that are new.
const IN_VAIN: u32 = 100;

/// How much one instance does at once, and how much it remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// About how many events and operations one transaction has.
    pub(super) batch: usize,
    /// A batch of this weight is decided while the one before is written; a smaller one waits for more work meanwhile.
    pub(super) ahead: usize,
    pub(super) accounts: usize,
    pub(super) ids: usize,
    /// The age from which a remembered id is looked up again.
    pub(super) id_age: Duration,
}

/// Decides batches and has the database keep them.
pub(super) struct Committer<D> {
    pub(super) database: D,
    queue: mpsc::Receiver<Job>,
    remembered: Remembered,
    pub(super) ahead: Ahead<D>,
    /// Rows that somebody else had locked at the last look.
    locked: Locked,
    /// A committed batch, to be remembered and answered as soon as the next batch is on its way.
    settling: Option<Settling>,
    /// The first sequence of the newest batch that decided something.
    newest: u64,
    bounds: Bounds,
}

/// A decided batch.
pub(super) struct Decided {
    asks: Asks,
    known: Known,
    decision: Decision,
    pub(super) changes: Changes,
}

impl Decided {
    pub(super) fn new(batch: &Batch, asks: Asks, known: Known) -> Result<Self, Fault> {
        let mut decision = decide(&asks.asks, &known, |index| batch.is_refused(&asks, index))?;
        let mut changes = batch.changes(&asks, &mut decision);
        changes.recalled.clone_from(&known.recalled);
        Ok(Decided { asks, known, decision, changes })
    }
}

struct Settling {
    batch: Batch,
    decided: Decided,
    committed: Committed,
}

/// What the next try of a batch does differently.
#[derive(Default)]
struct Retry {
    /// Locks the accounts' rows before it decides.
    lock: bool,
    /// Looks up the ids before it decides.
    ids: bool,
    /// How often the database was unavailable.
    faults: u32,
    /// How often the batch missed although both was done.
    in_vain: u32,
}

impl<D: Database> Committer<D> {
    /// Writes with the session `database`, and meanwhile looks up with `beside`.
    pub(super) fn new(database: D, beside: D, queue: mpsc::Receiver<Job>, bounds: Bounds) -> Self {
        Committer {
            database,
            queue,
            remembered: Remembered::new(bounds.accounts, bounds.ids, bounds.id_age),
            ahead: Ahead::new(beside),
            locked: Locked::default(),
            settling: None,
            newest: 0,
            bounds,
        }
    }

    /// Works until nobody can ask for anything any more.
    pub(super) async fn run(mut self) {
        loop {
            if !self.ahead.is_decided() {
                self.settle();
            }
            let used = self.settling.as_ref().map_or(&[][..], |settling| &settling.decided.changes.ids);
            let (batch, decided) = self.ahead.take(&mut self.remembered, used).await;
            if decided.is_none() {
                self.settle();
            }
            if !batch.is_answered() {
                self.carry_out(batch, decided).await;
                continue;
            }
            let job = match self.ahead.held.take() {
                Some(job) => Some(job),
                None => self.queue.recv().await,
            };
            match job {
                Some(job @ Job::Batched(_)) => {
                    self.ahead.push(job, self.bounds);
                    self.ahead.gather(&mut self.queue, self.bounds);
                }
                Some(Job::TakeOver { topic, partitions, answer }) => {
                    if let Some(result) = self.take_over(&topic, &partitions, &answer).await {
                        give(answer, result);
                    }
                }
                Some(Job::DeadLetters { limit, answer }) => give(answer, self.dead_letters(limit).await),
                Some(Job::Published { numbers, answer }) => give(answer, self.published(&numbers).await),
                Some(Job::End) | None => return,
            }
        }
    }

    /// Takes over the partitions whose rows nobody else has locked. None, without doing any more, once the caller has
    /// given up: the partitions may rightly be another instance's by now.
    async fn take_over(
        &mut self,
        topic: &str,
        partitions: &[i32],
        answer: &Answer<Vec<Position>>,
    ) -> Option<Result<Vec<Position>, Fault>> {
        let (mut faults, mut free) = (0, partitions.to_vec());
        while !answer.is_closed() {
            match self.take_over_free(topic, &mut free).await {
                // If the first try went through after all, the epoch is raised twice, which does no harm.
                Err(fault) if self.is_over(&fault, &mut faults).await => {}
                result => return Some(result),
            }
        }
        None
    }

    async fn take_over_free(&mut self, topic: &str, free: &mut Vec<i32>) -> Result<Vec<Position>, Fault> {
        self.locked.leave_out(topic, free, &mut self.database, false).await?;
        while !free.is_empty() {
            match self.database.take_over(topic, free).await {
                Err(Fault::Locked(what)) => {
                    if !self.locked.leave_out(topic, free, &mut self.database, true).await? {
                        return Err(Fault::Locked(what));
                    }
                }
                result => return result,
            }
        }
        Ok(Vec::new())
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

    /// Waits until a fault is over. False if it is not a temporary one, or does not pass in time.
    async fn is_over(&mut self, fault: &Fault, faults: &mut u32) -> bool {
        if let Fault::Numbered(_) = fault {
            // The next number may be free.
            self.forget();
            return true;
        }
        matches!(fault, Fault::Unavailable(_) | Fault::Unknown(_)) && self.recover(faults).await
    }

    async fn recover(&mut self, faults: &mut u32) -> bool {
        self.forget();
        let recovered = self.database.recover(*faults).await;
        *faults = faults.saturating_add(1);
        recovered
    }

    /// The database may be back at an earlier state.
    fn forget(&mut self) {
        self.remembered.forget_all();
        self.ahead.doubt();
    }

    async fn carry_out(&mut self, mut batch: Batch, mut decided: Option<Decided>) {
        let mut retry = Retry { ids: self.remembered.is_wary(), ..Retry::default() };
        self.remembered.count();
        while !batch.is_answered() {
            if self.locked.meets(&batch) {
                decided = None;
                self.settle();
                // If the database cannot be asked, the attempt finds that out.
                if self.locked.set_aside(&mut batch, &mut self.database, false).await.is_ok_and(|_| batch.is_answered())
                {
                    return;
                }
            }
            let mut fault = match self.attempt(&mut batch, decided.take(), &mut retry).await {
                Ok(()) => continue,
                Err(fault) => fault,
            };
            self.ahead.doubt();
            self.settle();
            if let Fault::Locked(what) = fault {
                fault = match self.locked.set_aside(&mut batch, &mut self.database, true).await {
                    Ok(true) => continue,
                    // It was a row that nobody sees yet, or a table; or its holder was slow, and is done now.
                    Ok(false) | Err(Fault::Locked(_)) => Fault::Unavailable(what),
                    Err(fault) => fault,
                };
            }
            // Its fate could not be found out in time.
            if matches!(fault, Fault::Unknown(_)) || !self.is_over(&fault, &mut retry.faults).await {
                return batch.fail(&fault.into());
            }
        }
    }

    /// Tries a batch once. It was answered, or is to be tried again.
    async fn attempt(&mut self, batch: &mut Batch, decided: Option<Decided>, retry: &mut Retry) -> Result<(), Fault> {
        // Before anything is locked: it may take a transaction of its own.
        let number = self.database.number().await?;
        let mut decided = match decided {
            Some(decided) => decided,
            None => self.decide(batch, retry).await?,
        };
        if decided.changes.is_empty() {
            return self.answer_unchanged(batch, &decided, retry).await;
        }
        decided.changes.number = number;
        match self.write(&decided.changes).await {
            Ok(Written::Committed(committed)) => {
                self.committed(batch, decided, committed);
                return Ok(());
            }
            Ok(Written::Missed(missed)) => self.missed(batch, &decided.changes, missed, retry)?,
            Ok(Written::Tried) => return Err(Fault::Failed("a trial that nobody asked for".to_owned())),
            Err(Fault::Unknown(what)) => {
                if let Some(committed) = self.find_out(&decided.changes, what, retry).await? {
                    self.committed(batch, decided, committed);
                    return Ok(());
                }
            }
            Err(fault @ (Fault::Refused(_) | Fault::Unfilled(_))) => {
                let Decided { asks, known, .. } = &decided;
                if let Some(Outdated(changes, missed)) = isolate(&mut self.database, batch, asks, known, fault).await? {
                    self.missed(batch, &changes, missed, retry)?;
                }
            }
            Err(fault) => return Err(fault),
        }
        self.ahead.doubt();
        Ok(())
    }

    /// Like [`Self::attempt`], for a batch of replays alone, which changes nothing.
    async fn answer_unchanged(&mut self, batch: &mut Batch, decided: &Decided, retry: &mut Retry) -> Result<(), Fault> {
        if retry.lock {
            self.database.release().await?;
        }
        // Remembered answers may come from a database that was, or is being, put back to an earlier state.
        let recalled = &decided.changes.recalled;
        if !recalled.is_empty() && !self.database.holds(recalled).await? {
            self.missed(batch, &decided.changes, Missed { recalled: true, ..Missed::default() }, retry)?;
            self.ahead.doubt();
            return Ok(());
        }
        if !self.database.is_connected() {
            return Err(Fault::Unavailable("there is no connection".to_owned()));
        }
        self.settle();
        batch.answer(&decided.asks, &decided.decision, &[]);
        Ok(())
    }

    /// Decides a batch from what is remembered, and what is looked up.
    async fn decide(&mut self, batch: &Batch, retry: &Retry) -> Result<Decided, Fault> {
        let asks = batch.asks();
        let (mut known, wanted) = self.remembered.know(&asks.asks, None, retry.lock, retry.ids);
        if !wanted.is_empty() || retry.lock {
            let found = self.database.look_up(&wanted.accounts, &wanted.ids, retry.lock).await?;
            self.remembered.learn(&mut known, found);
        }
        let decided = Decided::new(batch, asks, known);
        if decided.is_err() && retry.lock {
            self.database.release().await?;
        }
        decided
    }

    /// Writes a batch. Meanwhile the one before is answered, and the next one is decided.
    async fn write(&mut self, changes: &Changes) -> Result<Written, Fault> {
        let Committer { database, queue, remembered, ahead, settling, bounds, .. } = self;
        let mut writing = pin!(database.write(changes, false));
        // It has been sent once it was polled.
        let mut written = begun(writing.as_mut()).await;
        if let Some(settling) = settling.take() {
            settling.settle(remembered);
        }
        let mut preparing = pin!(ahead.prepare(queue, remembered, changes, *bounds));
        let mut prepared = false;
        poll_fn(|context| {
            if let Some(written) = written.take() {
                return Poll::Ready(written);
            }
            if let Poll::Ready(written) = writing.as_mut().poll(context) {
                return Poll::Ready(written);
            }
            if !prepared {
                prepared = preparing.as_mut().poll(context).is_ready();
            }
            Poll::Pending
        })
        .await
    }

    /// Remembers what was committed, and answers.
    fn settle(&mut self) {
        if let Some(settling) = self.settling.take() {
            settling.settle(&mut self.remembered);
        }
    }

    fn committed(&mut self, batch: &mut Batch, decided: Decided, committed: Committed) {
        if !decided.changes.records.is_empty() {
            if committed.first_sequence <= self.newest {
                // The database was put back without breaking a connection.
                self.forget();
            }
            self.newest = committed.first_sequence;
        }
        self.settling = Some(Settling { batch: take(batch), decided, committed });
    }

    fn missed(&mut self, batch: &mut Batch, changes: &Changes, missed: Missed, retry: &mut Retry) -> Result<(), Fault> {
        if batch.offsets_missed(&missed.offsets) || missed.recalled {
            self.remembered.forget_all();
        }
        retry.ids |= missed.recalled;
        if (retry.ids && missed.ids) || (retry.lock && !missed.accounts.is_empty()) {
            retry.in_vain += 1;
            if retry.in_vain == IN_VAIN {
                return Err(Fault::Failed(in_vain(&missed)));
            }
        }
        if missed.ids {
            self.remembered.be_wary();
            retry.ids = true;
        }
        if !missed.accounts.is_empty() {
            retry.lock = true;
            self.remembered.forget(&changes.accounts);
        }
        if missed.ids || !missed.accounts.is_empty() {
            batch.redecided += 1;
        }
        Ok(())
    }

    /// What became of a commit that was not answered.
    async fn find_out(
        &mut self,
        changes: &Changes,
        mut what: String,
        retry: &mut Retry,
    ) -> Result<Option<Committed>, Fault> {
        loop {
            if !self.recover(&mut retry.faults).await {
                return Err(Fault::Unknown(what));
            }
            match self.database.fate(changes).await {
                Err(Fault::Unavailable(again) | Fault::Locked(again) | Fault::Unknown(again)) => what = again,
                known => return known,
            }
        }
    }
}

impl Settling {
    fn settle(mut self, remembered: &mut Remembered) {
        let Changes { records, accounts, ids, .. } = self.decided.changes;
        let records = settle(records, self.committed);
        remembered.keep(accounts, ids, &records);
        self.batch.answer(&self.decided.asks, &self.decided.decision, &records);
    }
}

/// What is wrong where a batch misses again and again.
fn in_vain(missed: &Missed) -> String {
    match missed.accounts.first() {
        Some(account) => format!("the row of {account} in products is never what a statement just found there"),
        None => "an id is in processed_events, but the journal does not show for what it was used".to_owned(),
    }
}

/// Begins something; its result, if there is one at once.
async fn begun<F: Future>(mut doing: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match doing.as_mut().poll(context) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    })
    .await
}

fn give<T>(answer: Answer<T>, result: Result<T, Fault>) {
    // Whoever does not wait any more does without.
    let _ = answer.send(result.map_err(PgError::from));
}
