//! The next batch, while one is written: gathered, looked up, and decided on top of the batch before.
//!
//! Like every batch, it is compared with what the database holds when it is written. So it does no harm if the batch
//! before is not kept: the work was in vain, and the batch is decided again.

use std::future::{Future, poll_fn};
use std::pin::Pin;

use tokio::sync::mpsc;

use super::batch::{Changes, Found, UsedId};
use super::committer::{Bounds, Decided};
use super::database::{Database, Fault};
use super::decide::Known;
use super::remembered::{Remembered, Wanted};
use super::work::{Asks, Batch, Job};

type LookUp<D> = Pin<Box<dyn Future<Output = (D, Result<Found, Fault>)> + Send>>;

/// The next batch, and what came after it.
pub(super) struct Ahead<D> {
    pub(super) batch: Batch,
    /// A job that cannot be part of it.
    pub(super) held: Option<Job>,
    /// The session that looks up, beside the one that writes; None while a look-up runs.
    session: Option<D>,
    stage: Stage<D>,
    /// A seeded bug of the model's.
    #[cfg(test)]
    pub(super) never_doubts: bool,
}

enum Stage<D> {
    Gathering,
    LookingUp { asks: Asks, known: Known, stale: bool, found: LookUp<D> },
    Decided(Box<Decided>),
}

impl<D: Database> Ahead<D> {
    pub(super) fn new(session: D) -> Self {
        Ahead {
            batch: Batch::default(),
            held: None,
            session: Some(session),
            stage: Stage::Gathering,
            #[cfg(test)]
            never_doubts: false,
        }
    }

    /// Takes a job, and says whether others may still be part of the same batch.
    pub(super) fn push(&mut self, job: Job, bounds: Bounds) -> bool {
        match job {
            Job::Batched(work) => self.held = self.batch.take(work).err().map(Job::Batched),
            other => self.held = Some(other),
        }
        self.held.is_none() && self.batch.weight() < bounds.batch
    }

    /// Takes what waits, as far as it may be part of the batch.
    pub(super) fn gather(&mut self, queue: &mut mpsc::Receiver<Job>, bounds: Bounds) {
        while self.held.is_none()
            && self.batch.weight() < bounds.batch
            && let Ok(job) = queue.try_recv()
        {
            self.push(job, bounds);
        }
    }

    /// Decides the next batch on top of `before`, once enough work waits. A smaller batch is decided when its turn
    /// comes, together with the work that arrives until then. Cancel safe.
    pub(super) async fn prepare(
        &mut self,
        queue: &mut mpsc::Receiver<Job>,
        remembered: &mut Remembered,
        before: &Changes,
        bounds: Bounds,
    ) {
        self.looked_up(remembered).await;
        if let Stage::Decided(_) = self.stage {
            return;
        }
        while self.batch.weight() < bounds.ahead {
            if self.held.is_some() {
                return;
            }
            let Some(job) = queue.recv().await else { return };
            self.push(job, bounds);
        }
        self.gather(queue, bounds);
        let asks = self.batch.asks();
        let (known, wanted) = remembered.know(&asks.asks, Some(before), false, remembered.is_wary());
        match (wanted.is_empty(), self.session.take()) {
            (true, session) => {
                self.session = session;
                self.decide(asks, known);
            }
            (false, Some(session)) => {
                self.stage = Stage::LookingUp { asks, known, stale: false, found: look_up(session, wanted) };
                self.looked_up(remembered).await;
            }
            (false, None) => {}
        }
    }

    /// Waits for what is looked up, and decides.
    async fn looked_up(&mut self, remembered: &mut Remembered) {
        let Stage::LookingUp { found, .. } = &mut self.stage else { return };
        let (session, found) = poll_fn(|context| found.as_mut().poll(context)).await;
        self.session = Some(session);
        if let Stage::LookingUp { asks, mut known, stale: false, .. } =
            std::mem::replace(&mut self.stage, Stage::Gathering)
            && let Ok(found) = found
        {
            remembered.learn(&mut known, found);
            // The batch before may have been kept meanwhile.
            remembered.recall(&mut known, &asks.asks);
            self.decide(asks, known);
        }
    }

    /// Decides the batch, or leaves that to its turn if it cannot be decided now.
    fn decide(&mut self, asks: Asks, known: Known) {
        if let Ok(decided) = Decided::new(&self.batch, asks, known) {
            self.stage = Stage::Decided(Box::new(decided));
        }
    }

    /// The batch before was not kept as it was decided.
    pub(super) fn doubt(&mut self) {
        #[cfg(test)]
        if self.never_doubts {
            return;
        }
        match &mut self.stage {
            Stage::LookingUp { stale, .. } => *stale = true,
            stage => *stage = Stage::Gathering,
        }
    }

    /// Whether the next batch needs nothing more to be written.
    pub(super) fn is_decided(&self) -> bool {
        matches!(self.stage, Stage::Decided(_))
    }

    /// Returns the next batch, and its decision if there is one. The batch before used `ids`, which are not remembered
    /// yet: a decision that uses one of them is dropped.
    pub(super) async fn take(&mut self, remembered: &mut Remembered, ids: &[UsedId]) -> (Batch, Option<Decided>) {
        self.looked_up(remembered).await;
        let decided = match std::mem::replace(&mut self.stage, Stage::Gathering) {
            Stage::Decided(decided) if !meet(&decided.changes.ids, ids) => Some(*decided),
            _ => None,
        };
        (std::mem::take(&mut self.batch), decided)
    }
}

fn look_up<D: Database>(mut session: D, wanted: Wanted) -> LookUp<D> {
    Box::pin(async move {
        let found = session.look_up(&wanted.accounts, &wanted.ids, false).await;
        if found.is_err() {
            // The session is to be ready when it is needed next.
            session.recover(0).await;
        }
        (session, found)
    })
}

/// Whether two sorted lists have an id in common.
fn meet(these: &[UsedId], those: &[UsedId]) -> bool {
    let mut those = those.iter().peekable();
    these.iter().any(|used| {
        while those.next_if(|other| other.id < used.id).is_some() {}
        those.peek().is_some_and(|other| other.id == used.id)
    })
}
