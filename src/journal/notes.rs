//! The notes that wait for their entries, and what was noted.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, RwLock};

use super::source::{Advance, MAX_PARKED_BYTES, MAX_SOURCES, Note, NoteError, Parked, SourcePosition, weight};
use crate::foreign::wake;

/// About how many bytes a note takes besides the records it parks.
const NOTE_BYTES: u64 = 100;

/// One change of what is noted, as it is journalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A source's new position; `anew`: it moved back, on purpose.
    Position { source: Arc<str>, at: SourcePosition, anew: bool },
    /// A record was put aside.
    Parked(Parked),
    /// A parked record is no longer needed.
    Unparked(u64),
}

/// All that is noted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) sources: BTreeMap<Arc<str>, SourcePosition>,
    pub(crate) parked: BTreeMap<u64, Arc<[u8]>>,
    /// The highest number that a parked record ever had.
    pub(crate) last: u64,
    /// The total weight of the parked records.
    bytes: u64,
}

impl Noted {
    /// Whether nothing was ever noted.
    pub(crate) fn is_blank(&self) -> bool {
        self.sources.is_empty() && self.last == 0
    }

    /// Applies `record`, or returns why it contradicts the state.
    pub(crate) fn apply(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Position { source, at, anew } => {
                match (self.sources.get(&source).is_some_and(|before| before.next > at.next), anew) {
                    (true, false) => return Err("a source that goes back"),
                    (false, true) => return Err("a source that begins anew, and does not go back"),
                    _ => {}
                }
                self.sources.insert(source, at);
            }
            Record::Parked(Parked { number, payload }) => {
                if number != self.last + 1 {
                    return Err("parked records that are not numbered one after the other");
                }
                self.last = number;
                self.put(number, payload);
            }
            Record::Unparked(number) => {
                let payload = self.parked.remove(&number).ok_or("a record taken back that is not parked")?;
                self.bytes -= weight(&payload);
            }
        }
        Ok(())
    }

    /// Inserts a parked record under the number it already has.
    pub(crate) fn put(&mut self, number: u64, payload: Arc<[u8]>) {
        self.bytes += weight(&payload);
        if let Some(before) = self.parked.insert(number, payload) {
            self.bytes -= weight(&before);
        }
    }

    /// Applies `note` and appends its changes to `records`, or returns why it is not allowed.
    fn plan(&mut self, note: Note, records: &mut Vec<Record>) -> Result<(), NoteError> {
        let mut unknown = 0;
        for Advance { source, from, .. } in &note.advances {
            let held = self.sources.get(source.as_str()).map(|at| at.next);
            if held != *from {
                return Err(NoteError::Moved { source_name: source.clone(), held });
            }
            unknown += usize::from(held.is_none());
        }
        if self.sources.len() + unknown > MAX_SOURCES {
            return Err(NoteError::TooManySources);
        }
        let positions = note.advances.into_iter().map(|Advance { source, from, next, fingerprint, .. }| {
            let at = SourcePosition { next, fingerprint };
            Record::Position { source: source.into(), at, anew: from.is_some_and(|from| from > next) }
        });
        let parked = (self.last + 1..).zip(note.parked);
        let parked = parked.map(|(number, payload)| Record::Parked(Parked { number, payload: payload.into() }));
        let unparked = note.unparked.into_iter().map(Record::Unparked);
        for record in positions.chain(parked).chain(unparked) {
            // An unpark fails if the record was taken back before, which does no harm. No other change fails here.
            if self.apply(record.clone()).is_ok() {
                records.push(record);
            }
        }
        Ok(())
    }
}

/// The notes of a ledger.
pub(crate) struct Notes {
    queue: Mutex<Queue>,
    durable: RwLock<Noted>,
}

struct Queue {
    waiting: Vec<(Note, Arc<Slot>)>,
    /// Bytes that the notes in `waiting` will park.
    waiting_bytes: u64,
    /// The total weight of the notes taken so far.
    weighed: u64,
    /// The state once everything taken is durable.
    planned: Noted,
    /// The error for later notes, once closed.
    closed: Option<NoteError>,
}

/// Notes whose entries are about to be durable.
#[derive(Default)]
pub(crate) struct Due {
    pub(crate) records: Vec<Record>,
    answers: Answers,
}

impl Due {
    /// Whether it holds no note.
    pub(crate) fn is_empty(&self) -> bool {
        self.answers.0.is_empty()
    }
}

/// The answers for the waiters of the notes that were taken.
#[derive(Default)]
#[must_use]
pub(crate) struct Answers(Vec<(Arc<Slot>, Result<(), NoteError>)>);

impl Answers {
    /// Delivers the answers. The caller holds no lock: a waker may run any code.
    pub(crate) fn give(self) {
        self.0.into_iter().for_each(|(slot, answer)| slot.fill(answer));
    }
}

impl Notes {
    pub(crate) fn new(noted: Noted) -> Self {
        let planned = noted.clone();
        let queue = Queue { waiting: Vec::new(), waiting_bytes: 0, weighed: 0, planned, closed: None };
        Notes { queue: Mutex::new(queue), durable: RwLock::new(noted) }
    }

    /// The durable state.
    pub(crate) fn durable(&self) -> Noted {
        self.durable.read().clone()
    }

    pub(crate) fn source(&self, name: &str) -> Option<SourcePosition> {
        self.durable.read().sources.get(name).copied()
    }

    pub(crate) fn sources(&self) -> Vec<(String, SourcePosition)> {
        self.durable.read().sources.iter().map(|(name, at)| (name.to_string(), *at)).collect()
    }

    pub(crate) fn parked(&self, limit: usize) -> Vec<Parked> {
        let noted = self.durable.read();
        let oldest = noted.parked.iter().take(limit);
        oldest.map(|(number, payload)| Parked { number: *number, payload: payload.clone() }).collect()
    }

    /// Takes a note; it waits for its entries.
    pub(crate) fn add(&self, note: Note) -> Noting {
        if let Err(error) = note.check() {
            return Noting::refused(error);
        }
        let mut queue = self.queue.lock();
        if let Some(closed) = &queue.closed {
            return Noting::refused(closed.clone());
        }
        let bytes = queue.planned.bytes + queue.waiting_bytes;
        if bytes >= MAX_PARKED_BYTES && !note.parked.is_empty() {
            return Noting::refused(NoteError::TooMuchParked { bytes });
        }
        queue.waiting_bytes += note.parked_bytes();
        let slot = Arc::new(Slot::default());
        queue.waiting.push((note, slot.clone()));
        Noting(slot)
    }

    /// Whether a note's entries are all durable, up to `durable`, so that it only has to be written.
    pub(crate) fn is_due(&self, durable: u64) -> bool {
        self.queue.lock().waiting.iter().any(|(note, _)| note.after <= durable)
    }

    /// How many bytes were noted since the start, about.
    pub(crate) fn weighed(&self) -> u64 {
        self.queue.lock().weighed
    }

    /// The notes that may be written with the entries up to `through`, in the order in which they came.
    pub(crate) fn take(&self, through: u64) -> Due {
        self.queue.lock().take(through)
    }

    /// Called when the notes taken are durable.
    pub(crate) fn kept(&self, due: Due) -> Answers {
        if !due.records.is_empty() {
            self.durable.write().follow(due.records);
        }
        due.answers
    }

    /// Notes everything that waits; for a ledger without a flusher.
    pub(crate) fn keep_all(&self) {
        let mut queue = self.queue.lock();
        let due = queue.take(u64::MAX);
        // Under the queue's lock, so that changes keep their order.
        self.durable.write().follow(due.records);
        drop(queue);
        due.answers.give();
    }

    /// Accepts no further notes. Waiters, including those of `due`, get the error `why`. The caller holds no lock.
    pub(crate) fn close(&self, due: Due, why: &NoteError) {
        let mut queue = self.queue.lock();
        queue.closed.get_or_insert_with(|| why.clone());
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        let taken = due.answers.0.into_iter().map(|(slot, answer)| (slot, answer.and(Err(why.clone()))));
        let left = waiting.into_iter().map(|(_, slot)| (slot, Err(why.clone())));
        Answers(taken.chain(left).collect()).give();
    }
}

impl Noted {
    fn follow(&mut self, records: Vec<Record>) {
        for record in records {
            let followed = self.apply(record);
            debug_assert_eq!(followed, Ok(()), "planned on the same state");
        }
    }
}

impl Queue {
    fn take(&mut self, through: u64) -> Due {
        let mut due = Due::default();
        if self.waiting.is_empty() {
            return due;
        }
        let (ripe, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(note, _)| note.after <= through);
        self.waiting = waiting;
        let ripe: Vec<(Note, Arc<Slot>)> = ripe;
        for (note, slot) in ripe {
            self.waiting_bytes -= note.parked_bytes();
            self.weighed += note.parked_bytes() + NOTE_BYTES;
            let answer = self.planned.plan(note, &mut due.records);
            due.answers.0.push((slot, answer));
        }
        due
    }
}

/// Holds the answer for the waiter of a note.
#[derive(Default)]
struct Slot(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    answer: Option<Result<(), NoteError>>,
    waker: Option<Waker>,
}

impl Slot {
    fn fill(&self, answer: Result<(), NoteError>) {
        let mut waiting = self.0.lock();
        waiting.answer = Some(answer);
        let waker = waiting.waker.take();
        drop(waiting);
        waker.into_iter().for_each(wake);
    }
}

/// Resolves when a note is durable or never will be. Dropping it does not withdraw the note.
pub(crate) struct Noting(Arc<Slot>);

impl Noting {
    pub(crate) fn refused(error: NoteError) -> Self {
        let slot = Slot::default();
        slot.fill(Err(error));
        Noting(Arc::new(slot))
    }
}

impl Future for Noting {
    type Output = Result<(), NoteError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Cloned and dropped outside the lock: a waker may run any code.
        let waker = context.waker().clone();
        let mut waiting = self.0.0.lock();
        if let Some(answer) = &waiting.answer {
            return Poll::Ready(answer.clone());
        }
        let replaced = waiting.waker.replace(waker);
        drop(waiting);
        drop(replaced);
        Poll::Pending
    }
}
