//! The ledger as the store of inventory events: one process, whose data directory keeps stock, offsets and dead letters
//! together.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::letter;
use super::{Applied, Content, DeadLetter, Event, Position, Run, Store, StoreError, StoredDeadLetter};
use crate::{
    AccountId, Advance, Durability, HistoryError, Ledger, Note, NoteError, Operation, Outcome, Refusal, Request,
    SubmitError, TransactionId,
};

/// How many events are decided before others get a turn: each may read the disk.
const SLICE: usize = 32;

/// Keeps events in a [`Ledger`].
///
/// An event is an update of its product under its id. The first event of a product that nobody opened opens it with a
/// stock of 0. The process that has the ledger owns all partitions; which of its tasks owns one is told by an epoch,
/// counted from the start of the process.
#[derive(Debug)]
pub struct LedgerStore {
    ledger: Ledger,
    /// The newest ownership of each partition that was taken over, by its source's name.
    epochs: Mutex<HashMap<String, i64>>,
    /// What became of the events of each partition that are not noted yet, by its source's name.
    decided: Mutex<HashMap<String, Decided>>,
}

impl LedgerStore {
    /// A store in `ledger`.
    #[must_use]
    pub fn new(ledger: &Ledger) -> Self {
        // Outcomes become durable with the note that follows them.
        let ledger = ledger.with_durability(Durability::Applied);
        LedgerStore { ledger, epochs: Mutex::default(), decided: Mutex::default() }
    }

    /// The runs still to be done, without those done before; an error if a run is neither.
    fn left_to_do<'r>(&self, topic: &str, runs: &'r [Run]) -> Result<Vec<&'r Run>, StoreError> {
        self.check_owner(&self.epochs.lock(), topic, runs)?;
        let (mut left, mut strange) = (Vec::new(), Vec::new());
        for run in runs {
            let held = self.ledger.source(&source(topic, run.partition)).map(|at| at.next);
            if held == run.from {
                left.push(run);
            } else if held != Some(run.next) {
                strange.push(run.partition);
            }
        }
        if strange.is_empty() { Ok(left) } else { Err(StoreError::Fenced { partitions: strange }) }
    }

    fn check_owner(&self, epochs: &HashMap<String, i64>, topic: &str, runs: &[Run]) -> Result<(), StoreError> {
        let owned = |run: &&Run| epochs.get(&source(topic, run.partition)) == Some(&run.epoch);
        let partitions: Vec<_> = runs.iter().filter(|run| !owned(run)).map(|run| run.partition).collect();
        if partitions.is_empty() { Ok(()) } else { Err(StoreError::Fenced { partitions }) }
    }

    /// Decides the events of `runs`, and puts together what is to be noted after them.
    async fn decide(
        &self,
        topic: &str,
        runs: &[&Run],
        deciding: &mut Deciding<'_>,
    ) -> Result<(Note, Applied), StoreError> {
        let (mut note, mut applied) = (Note::default(), Applied::default());
        let mut place = 0;
        for (run, (_, decided)) in runs.iter().zip(&mut deciding.runs) {
            for record in &run.records {
                match &record.content {
                    Content::Tombstone => applied.tombstones += 1,
                    Content::Malformed(letter) => note.parked.push(letter::encode(letter)),
                    Content::Event { event, original } => {
                        let fate = self.fate(event, original, &mut note)?;
                        count(&mut applied, decided.first(record.offset, fate));
                    }
                }
                place += 1;
                if place % SLICE == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        applied.dead_letters = note.parked.len() as u64;
        note.advances = runs.iter().map(|run| advance(topic, run)).collect();
        Ok((note, applied))
    }

    /// Decides an event. What the fate depends on becomes durable no later than `note`, which also takes a dead letter.
    fn fate(&self, event: &Event, original: &DeadLetter, note: &mut Note) -> Result<Fate, StoreError> {
        match self.event(event)? {
            Verdict::Outcome(outcome) => {
                note.after = note.after.max(outcome.sequence());
                Ok(Fate::of(&outcome))
            }
            // Durable since long ago.
            Verdict::Before => Ok(Fate::Duplicate),
            Verdict::Letter { reason } => {
                // The id's first use may not be durable yet.
                note.after = note.after.max(self.ledger.sequence());
                let letter = DeadLetter { reason, ..original.clone() };
                note.parked.push(letter::encode(&letter));
                Ok(Fate::Letter)
            }
        }
    }

    /// These runs, with the decisions of earlier calls that were not noted.
    fn resume(&self, topic: &str, runs: &[&Run]) -> Deciding<'_> {
        let mut decided = self.decided.lock();
        let runs = runs.iter().map(|run| {
            let source = source(topic, run.partition);
            let before = decided.remove(&source).filter(|it| it.from == run.from);
            (source, before.unwrap_or_else(|| Decided { from: run.from, fates: BTreeMap::new() }))
        });
        Deciding { store: self, runs: runs.collect() }
    }

    fn event(&self, event: &Event) -> Result<Verdict, StoreError> {
        let Event { id, product, quantity_change } = event;
        if self.ledger.balance(product).is_none() && !self.was_used(id)? {
            self.open(product)?;
        }
        let request = Request::single(Operation::update(product.clone(), *quantity_change), Some(id.clone()));
        match self.ledger.submit(request) {
            Ok(outcome) => Ok(Verdict::Outcome(outcome)),
            Err(SubmitError::Invalid(invalid)) => Ok(Verdict::Letter { reason: invalid.to_string() }),
            Err(SubmitError::AnswerGone(_)) => Ok(Verdict::Before),
            Err(error) => Err(undecided(error)),
        }
    }

    /// Whether the id has an outcome: then its event opens nothing.
    fn was_used(&self, id: &TransactionId) -> Result<bool, StoreError> {
        match self.ledger.transaction(id) {
            Ok(found) => Ok(found.is_some()),
            Err(HistoryError::Gone(_)) => Ok(true),
            Err(error) => Err(StoreError::Unavailable { what: error.to_string() }),
        }
    }

    fn open(&self, product: &AccountId) -> Result<(), StoreError> {
        let failed = |what: String| StoreError::Failed { what };
        let create = Operation::create(product.clone(), 0).map_err(|error| failed(error.to_string()))?;
        match self.ledger.submit(Request::single(create, None)).map_err(undecided)?.result() {
            Ok(_) | Err(Refusal::AlreadyExists { .. }) => Ok(()),
            Err(refusal) => Err(failed(refusal.to_string())),
        }
    }

    /// Waits until all earlier notes are durable.
    async fn settle(&self) -> Result<(), StoreError> {
        let barrier = Note { after: self.ledger.sequence(), ..Note::default() };
        self.ledger.note(barrier).await.map_err(not_noted)
    }
}

enum Verdict {
    Outcome(Outcome),
    /// By an entry that is no longer kept.
    Before,
    Letter {
        reason: String,
    },
}

/// The fates of a partition's events from offset `from` on, whichever call decided them: at most as many as the longest
/// run has.
#[derive(Debug)]
struct Decided {
    from: Option<i64>,
    fates: BTreeMap<i64, Fate>,
}

impl Decided {
    /// The fate that the event at `offset` met when it was first decided. A repeated call finds it decided by the call
    /// before, but that does not make it a duplicate.
    fn first(&mut self, offset: i64, now: Fate) -> Fate {
        *self.fates.entry(offset).or_insert(now)
    }
}

/// The runs of a call. Unless they are noted, their fates are kept for the next call.
struct Deciding<'a> {
    store: &'a LedgerStore,
    runs: Vec<(String, Decided)>,
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.store.decided.lock().extend(self.runs.drain(..));
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Applied,
    Rejected,
    Duplicate,
    /// Counted with the dead letters.
    Letter,
}

impl Fate {
    fn of(outcome: &Outcome) -> Self {
        match (outcome.replayed(), outcome.result()) {
            (true, _) => Fate::Duplicate,
            (false, Ok(_)) => Fate::Applied,
            (false, Err(_)) => Fate::Rejected,
        }
    }
}

fn count(applied: &mut Applied, fate: Fate) {
    match fate {
        Fate::Applied => applied.applied += 1,
        Fate::Rejected => applied.rejected += 1,
        Fate::Duplicate => applied.duplicates += 1,
        Fate::Letter => {}
    }
}

fn source(topic: &str, partition: i32) -> String {
    format!("kafka/{topic}/{partition}")
}

fn advance(topic: &str, run: &Run) -> Advance {
    let Run { partition, from, next, fingerprint, .. } = *run;
    // Going back is the consumer's decision: its settings say what another topic of the same name means.
    let anew = from.is_some_and(|from| from > next);
    Advance { source: source(topic, partition), from, next, fingerprint, anew }
}

fn undecided(error: SubmitError) -> StoreError {
    let what = error.to_string();
    match error {
        SubmitError::Exhausted(_) | SubmitError::IdsUnreadable { .. } => StoreError::Unavailable { what },
        _ => StoreError::Failed { what },
    }
}

fn not_noted(error: NoteError) -> StoreError {
    let what = error.to_string();
    match error {
        NoteError::TooMuchParked { .. } | NoteError::Exhausted(_) => StoreError::Unavailable { what },
        _ => StoreError::Failed { what },
    }
}

#[tonic::async_trait]
impl Store for LedgerStore {
    async fn take_over(&self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, StoreError> {
        let mut positions = Vec::with_capacity(partitions.len());
        {
            let mut epochs = self.epochs.lock();
            for partition in partitions {
                let epoch = epochs.entry(source(topic, *partition)).or_default();
                *epoch += 1;
                positions.push(Position { partition: *partition, epoch: *epoch, next: None, fingerprint: 0 });
            }
        }
        // The owner before cannot note any more; what it noted counts.
        self.settle().await?;
        let mut decided = self.decided.lock();
        for position in &mut positions {
            let source = source(topic, position.partition);
            if let Some(at) = self.ledger.source(&source) {
                (position.next, position.fingerprint) = (Some(at.next), at.fingerprint);
            }
            if decided.get(&source).is_some_and(|it| it.from != position.next) {
                decided.remove(&source);
            }
        }
        Ok(positions)
    }

    async fn apply(&self, topic: &str, runs: &[Run]) -> Result<Applied, StoreError> {
        loop {
            let left = self.left_to_do(topic, runs)?;
            let mut deciding = self.resume(topic, &left);
            let (note, applied) = self.decide(topic, &left, &mut deciding).await?;
            let noting = {
                // Whoever takes over from here on waits for this note.
                let epochs = self.epochs.lock();
                self.check_owner(&epochs, topic, runs)?;
                self.ledger.note(note)
            };
            match noting.await {
                Ok(()) => {
                    deciding.runs.clear();
                    return Ok(applied);
                }
                // Meanwhile an earlier call of ours, given up before its answer, was kept.
                Err(NoteError::Moved { .. }) => {}
                Err(error) => return Err(not_noted(error)),
            }
        }
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        let stored = self.ledger.parked(limit).into_iter().map(|parked| {
            let letter = letter::decode(&parked.payload);
            let number = i64::try_from(parked.number).ok();
            let unknown = || StoreError::Failed { what: format!("parked record {} is no dead letter", parked.number) };
            let (number, letter) = number.zip(letter).ok_or_else(unknown)?;
            Ok(StoredDeadLetter { number, letter })
        });
        stored.collect()
    }

    async fn published(&self, numbers: &[i64]) -> Result<(), StoreError> {
        if numbers.is_empty() {
            return Ok(());
        }
        let unparked = numbers.iter().filter_map(|number| u64::try_from(*number).ok()).collect();
        self.ledger.note(Note { unparked, ..Note::default() }).await.map_err(not_noted)
    }
}
