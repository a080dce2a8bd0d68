//! What waits for the committer, and the batch that is made of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::batch::{Changes, Committed, OffsetChange, OffsetFound};
use super::decide::{Ask, Decision, Verdict};
use super::error::PgError;
use super::locked::{Holder, Locked};
use crate::inventory::{Applied, Content, DeadLetter, Position, Run, StoreError, StoredDeadLetter};
use crate::outcome::{Outcome, Record};
use crate::{InvalidRequest, Operation, Request};

pub(super) type Answer<T> = oneshot::Sender<Result<T, PgError>>;

/// Something for the committer to do.
pub(super) enum Job {
    Batched(Work),
    TakeOver {
        topic: String,
        partitions: Vec<i32>,
        answer: Answer<Vec<Position>>,
    },
    DeadLetters {
        limit: usize,
        answer: Answer<Vec<StoredDeadLetter>>,
    },
    Published {
        numbers: Vec<i64>,
        answer: Answer<()>,
    },
    /// The end: nothing comes after it.
    End,
}

/// What is decided and kept together with what else waits.
pub(super) enum Work {
    Call { request: Request, answer: Answer<Outcome> },
    Apply { topic: String, runs: Vec<Run>, answer: oneshot::Sender<Result<Applied, StoreError>> },
}

impl Work {
    /// How much of a batch it takes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Work::Call { request, .. } => request.members().len(),
            Work::Apply { runs, .. } => runs.iter().map(|run| run.records.len()).sum::<usize>() + 1,
        }
    }

    pub(super) fn fail(self, error: PgError) {
        // Whoever does not wait any more does without.
        match self {
            Work::Call { answer, .. } => drop(answer.send(Err(error))),
            Work::Apply { answer, .. } => drop(answer.send(Err(error.into()))),
        }
    }
}

/// Where an ask comes from: the work, its run, and the run's record.
type Origin = (usize, usize, usize);

/// The work of one transaction.
#[derive(Default)]
pub(super) struct Batch {
    /// None: was answered.
    works: Vec<Option<Work>>,
    partitions: HashSet<(String, i32)>,
    weight: usize,
    /// Asks that the database refuses, and why.
    refused: HashMap<Origin, String>,
    /// Runs that an earlier commit kept whose answer was lost.
    through: HashSet<(usize, usize)>,
    /// Runs that wait: for rows that somebody else has locked, or for a person.
    held: HashSet<(usize, usize)>,
    /// How often it was decided again because of others.
    pub(super) redecided: u64,
}

/// The asks of a batch, in order, and where each comes from.
#[derive(Default)]
pub(super) struct Asks {
    pub(super) asks: Vec<Ask>,
    origins: Vec<Origin>,
}

impl Batch {
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn is_answered(&self) -> bool {
        self.works.iter().all(Option::is_none)
    }

    /// Adds the work, unless the batch has a run of one of its partitions already: a second run begins where the first
    /// one will end.
    pub(super) fn take(&mut self, work: Work) -> Result<(), Work> {
        if let Work::Apply { topic, runs, .. } = &work {
            let partitions: Vec<_> = runs.iter().map(|run| (topic.clone(), run.partition)).collect();
            if partitions.iter().any(|partition| self.partitions.contains(partition)) {
                return Err(work);
            }
            self.partitions.extend(partitions);
        }
        self.weight += work.weight();
        self.works.push(Some(work));
        Ok(())
    }

    pub(super) fn asks(&self) -> Asks {
        let mut asks = Asks::default();
        for (index, work) in self.works.iter().enumerate() {
            match work {
                Some(Work::Call { request, .. }) => {
                    asks.push(Ask { request: request.clone(), opens: false }, (index, 0, 0));
                }
                Some(Work::Apply { runs, .. }) => {
                    self.runs(index, runs).for_each(|(at, run)| asks.push_run(index, at, run));
                }
                None => {}
            }
        }
        asks
    }

    /// The runs of a work that are neither through nor held.
    fn runs<'a>(&'a self, work: usize, runs: &'a [Run]) -> impl Iterator<Item = (usize, &'a Run)> {
        let out = move |at: usize| self.through.contains(&(work, at)) || self.held.contains(&(work, at));
        runs.iter().enumerate().filter(move |(at, _)| !out(*at))
    }

    /// The rows that it needs.
    pub(super) fn rows(&self) -> Locked {
        let asks = self.asks().asks;
        let members = || asks.iter().flat_map(|ask| ask.request.members());
        let accounts = members().flat_map(|member| member.operation.accounts()).cloned();
        let ids = members().filter_map(|member| member.id.clone());
        Locked::new(
            accounts.map(|account| (account, Holder::new())),
            ids.map(|id| (id, Holder::new())),
            self.partitions.iter().cloned().map(|partition| (partition, Holder::new())),
        )
    }

    /// Sets aside what needs one of these rows: calls are answered, of an apply the runs concerned are held. Returns
    /// whether there was any.
    pub(super) fn set_aside(&mut self, locked: &Locked) -> bool {
        let mut any = false;
        for index in 0..self.works.len() {
            let why = match &self.works[index] {
                Some(Work::Call { request, .. }) => locked.why_not_call(request),
                Some(Work::Apply { topic, runs, .. }) => {
                    let open = self.runs(index, runs).filter(|(_, run)| locked.holds(topic, run));
                    let held: Vec<_> = open.map(|(at, _)| (index, at)).collect();
                    any |= !held.is_empty();
                    self.held.extend(held);
                    None
                }
                None => None,
            };
            if let Some(what) = why
                && let Some(work) = self.works[index].take()
            {
                any = true;
                work.fail(PgError::Unavailable { what });
            }
        }
        any
    }

    pub(super) fn is_refused(&self, asks: &Asks, index: usize) -> bool {
        asks.origins
            .get(index)
            .is_some_and(|origin| self.refused.contains_key(origin) || self.works[origin.0].is_none())
    }

    /// Sets aside an ask that somebody has to see to: a call is answered; a run is held, with all its asks. Returns
    /// whether a run was held.
    pub(super) fn set_aside_ask(&mut self, asks: &Asks, index: usize, what: &str) -> bool {
        let Some((work, at, _)) = asks.origins.get(index).copied() else { return false };
        if let Some(Work::Apply { topic, runs, .. }) = &self.works[work] {
            say_held(topic, runs[at].partition, what);
            return self.held.insert((work, at));
        }
        if let Some(work) = self.works[work].take() {
            work.fail(PgError::Failed { what: what.to_owned() });
        }
        false
    }

    /// Holds the run of a partition whose offset or dead letters somebody has to see to. Returns whether it was held.
    pub(super) fn set_aside_run(&mut self, topic: &str, partition: i32, what: &str) -> bool {
        for (index, work) in self.works.iter().enumerate() {
            if let Some(Work::Apply { topic: its, runs, .. }) = work
                && its == topic
                && let Some(at) = runs.iter().position(|run| run.partition == partition)
            {
                say_held(topic, partition, what);
                return self.held.insert((index, at));
            }
        }
        false
    }

    /// The database refuses an ask.
    pub(super) fn refuse(&mut self, asks: &Asks, index: usize, what: String) {
        if let Some(origin) = asks.origins.get(index) {
            self.refused.insert(*origin, what);
        }
    }

    /// What the database is to keep of a decided batch; moved out of the decision where possible.
    pub(super) fn changes(&self, asks: &Asks, decision: &mut Decision) -> Changes {
        let mut changes = Changes {
            accounts: std::mem::take(&mut decision.accounts),
            ids: std::mem::take(&mut decision.ids),
            records: std::mem::take(&mut decision.records),
            ..Changes::default()
        };
        let mut verdicts = asks.origins.iter().zip(&decision.verdicts).peekable();
        for (index, work) in self.works.iter().enumerate() {
            let Some(Work::Apply { topic, runs, .. }) = work else { continue };
            for (at, run) in self.runs(index, runs) {
                changes.offsets.push(OffsetChange {
                    topic: topic.clone(),
                    partition: run.partition,
                    epoch: run.epoch,
                    from: run.from,
                    next: run.next,
                    fingerprint: run.fingerprint,
                });
                for (record, content) in run.records.iter().map(|record| &record.content).enumerate() {
                    let origin = (index, at, record);
                    while verdicts.next_if(|(of, _)| **of < origin).is_some() {}
                    let verdict = verdicts.next_if(|(of, _)| **of == origin).map(|(_, verdict)| verdict);
                    changes.letters.extend(self.letter(origin, content, verdict));
                }
            }
        }
        changes.offsets.sort_unstable();
        changes
    }

    fn letter(&self, origin: Origin, content: &Content, verdict: Option<&Verdict>) -> Option<DeadLetter> {
        match (content, verdict) {
            (Content::Malformed(letter), _) => Some((**letter).clone()),
            (Content::Event { original, .. }, Some(Verdict::Invalid(invalid))) => {
                Some(DeadLetter { reason: reason(invalid), ..(**original).clone() })
            }
            (Content::Event { original, .. }, Some(Verdict::Skipped)) => {
                let what = self.refused.get(&origin).cloned().unwrap_or_default();
                let reason = PgError::Refused { what }.to_string();
                Some(DeadLetter { reason, ..(**original).clone() })
            }
            _ => None,
        }
    }

    /// Handles partitions whose rows are not as their runs expected: because of an earlier commit of ours, or another
    /// owner. Answers the fenced work. True if no owner can have left a row like that: the database was put back to an
    /// earlier state.
    pub(super) fn offsets_missed(&mut self, found: &[OffsetFound]) -> bool {
        let mut put_back = false;
        for (index, slot) in self.works.iter_mut().enumerate() {
            let Some(Work::Apply { topic, runs, .. }) = slot else { continue };
            let mut fenced = Vec::new();
            for (at, run) in runs.iter().enumerate() {
                let Some(row) = found.iter().find(|row| row.topic == *topic && row.partition == run.partition) else {
                    continue;
                };
                // An offset past the run's end also means that the run was kept: the call after it was.
                let past = row.next > Some(run.next) && run.from <= Some(run.next);
                if row.epoch == run.epoch && (past || row.next == Some(run.next)) {
                    self.through.insert((index, at));
                } else if row.epoch != run.epoch || row.next != run.from {
                    put_back |= row.epoch <= run.epoch;
                    fenced.push(run.partition);
                }
            }
            if !fenced.is_empty()
                && let Some(Work::Apply { answer, .. }) = slot.take()
            {
                let _ = answer.send(Err(StoreError::Fenced { partitions: fenced }));
            }
        }
        put_back
    }

    /// Answers everybody from what was committed.
    pub(super) fn answer(&mut self, asks: &Asks, decision: &Decision, records: &[Arc<Record>]) {
        let mut verdicts = asks.origins.iter().zip(&decision.verdicts).peekable();
        for index in 0..self.works.len() {
            let Some(work) = self.works[index].take() else { continue };
            let next = || verdicts.next_if(|((of, ..), _)| *of == index).map(|(_, verdict)| verdict);
            let mut own = std::iter::from_fn(next);
            match work {
                Work::Call { answer, .. } => {
                    let _ = answer.send(self.outcome(index, own.next(), records));
                }
                Work::Apply { runs, answer, .. } => {
                    let _ = answer.send(self.applied(index, &runs, own, records));
                }
            }
        }
    }

    /// The result for the runs of a work, from the verdicts on their events.
    fn applied<'v>(
        &self,
        work: usize,
        runs: &[Run],
        verdicts: impl Iterator<Item = &'v Verdict>,
        records: &[Arc<Record>],
    ) -> Result<Applied, StoreError> {
        let mut applied = Applied { redecided: self.redecided, ..Applied::default() };
        for record in self.runs(work, runs).flat_map(|(_, run)| &run.records) {
            match record.content {
                Content::Malformed(_) => applied.dead_letters += 1,
                Content::Tombstone => applied.tombstones += 1,
                Content::Event { .. } => {}
            }
        }
        verdicts.for_each(|verdict| count(&mut applied, verdict, records));
        let held = runs.iter().enumerate().filter(|(at, _)| self.held.contains(&(work, *at)));
        let partitions: Vec<_> = held.map(|(_, run)| run.partition).collect();
        if partitions.is_empty() { Ok(applied) } else { Err(StoreError::Held { partitions, applied }) }
    }

    fn outcome(&self, work: usize, verdict: Option<&Verdict>, records: &[Arc<Record>]) -> Result<Outcome, PgError> {
        let lost = || PgError::Failed { what: "a verdict without its record".to_owned() };
        match verdict.ok_or_else(lost)? {
            Verdict::Decided { place, member, replayed } => {
                Ok(Outcome::recorded(records.get(*place).ok_or_else(lost)?.clone(), *member, *replayed))
            }
            Verdict::Recorded { record, member } => Ok(Outcome::recorded(record.clone(), *member, true)),
            Verdict::Invalid(invalid) => Err(invalid.clone().into()),
            Verdict::Skipped => {
                Err(PgError::Refused { what: self.refused.get(&(work, 0, 0)).cloned().unwrap_or_default() })
            }
        }
    }

    /// Answers the remaining work with `error`.
    pub(super) fn fail(&mut self, error: &PgError) {
        for work in self.works.iter_mut().filter_map(Option::take) {
            work.fail(error.clone());
        }
    }
}

impl Asks {
    /// Appends the events of the run at `at` of `work`.
    fn push_run(&mut self, work: usize, at: usize, run: &Run) {
        for (place, record) in run.records.iter().enumerate() {
            if let Content::Event { event, .. } = &record.content {
                let operation = Operation::update(event.product.clone(), event.quantity_change);
                let request = Request::single(operation, Some(event.id.clone()));
                self.push(Ask { request, opens: true }, (work, at, place));
            }
        }
    }

    fn push(&mut self, ask: Ask, origin: Origin) {
        self.asks.push(ask);
        self.origins.push(origin);
    }
}

/// The answer names the partition, and not why.
fn say_held(topic: &str, partition: i32, what: &str) {
    tracing::error!(topic, partition, "PostgreSQL cannot keep a run of events, its partition waits: {what}");
}

fn count(applied: &mut Applied, verdict: &Verdict, records: &[Arc<Record>]) {
    match verdict {
        Verdict::Decided { replayed: true, .. } | Verdict::Recorded { .. } => applied.duplicates += 1,
        Verdict::Decided { place, .. } => {
            let refused = records.get(*place).is_some_and(|record| record.refusal.is_some());
            if refused {
                applied.rejected += 1;
            } else {
                applied.applied += 1;
            }
        }
        Verdict::Invalid(_) | Verdict::Skipped => applied.dead_letters += 1,
    }
}

/// What is wrong with an event, in the words of its topic.
fn reason(invalid: &InvalidRequest) -> String {
    match invalid {
        InvalidRequest::IdReused { id, field } => {
            let field = match *field {
                "account_id" => "product_id",
                "delta" => "quantity_change",
                other => other,
            };
            format!("event_id {id} was used with another {field}")
        }
        other => other.to_string(),
    }
}

/// What a batch that was committed looks like to everybody else.
pub(super) fn settle(records: Vec<Record>, committed: Committed) -> Vec<Arc<Record>> {
    let settled = records.into_iter().enumerate().map(|(place, mut record)| {
        committed.settle(&mut record, place);
        Arc::new(record)
    });
    settled.collect()
}
