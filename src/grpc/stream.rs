//! ExecuteStream: batches in, results out in the same order, many in flight.
//!
//! While one batch waits to become durable the next ones are read and decided. A client that does not read its results
//! stops being read from itself: [`pull`](super::pull) asks for a message only when the client has room for it.

use std::collections::VecDeque;

use tonic::{Code, Streaming};

use super::audit::Unanswered;
use super::batch::Batch;
use super::books::Books;
use super::operations::Operations;
use super::pull::Step;
use super::results::Results;
use super::status::Failure;

/// The most batches whose results were not taken yet.
const BATCHES: usize = 64;
/// No batch is read while this many operations wait for their results to be taken. More would not hide the disk any
/// better: they would only leave the processor's caches before they are written and answered.
const OPERATIONS: usize = 10_000;
/// Nor while batches of this many bytes wait: their messages are kept, to report what fails.
const BYTES: usize = 4 * 1024 * 1024;

/// A stream's place.
pub(super) struct Batches {
    books: Books,
    requests: Streaming<Operations>,
    max_bytes: usize,
    /// Oldest first. An error is the last one: it ends the stream when it is its turn.
    begun: VecDeque<Result<Batch, Failure>>,
    /// The client has sent its last batch, or one that ends the stream.
    ended: bool,
}

impl Batches {
    pub(super) fn new(books: Books, requests: Streaming<Operations>, max_bytes: usize) -> Self {
        Batches { books, requests, max_bytes, begun: VecDeque::new(), ended: false }
    }

    /// The next batch's results.
    pub(super) async fn step(mut self) -> Step<Batches, Results> {
        loop {
            let (reading, waiting) = (!self.ended && self.has_room(), !self.begun.is_empty());
            let Batches { requests, begun, .. } = &mut self;
            tokio::select! {
                biased;
                request = requests.message(), if reading => {
                    let begun = self.begin(request).await;
                    self.begun.extend(begun);
                }
                results = finish(begun.front_mut()), if waiting => {
                    let results = results.inspect_err(|failure| self.fail(failure))?;
                    self.begun.pop_front();
                    return Ok(Some((results, self)));
                }
                else => return Ok(None),
            }
        }
    }

    /// Whether to read another batch before the results of the oldest are taken.
    fn has_room(&self) -> bool {
        let begun = || self.begun.iter().flatten();
        self.begun.len() < BATCHES
            && begun().map(Batch::operations).sum::<usize>() < OPERATIONS
            && begun().map(Batch::bytes).sum::<usize>() < BYTES
    }

    /// Logs that the batches under way will have no results.
    fn fail(&mut self, failure: &Failure) {
        let mut unanswered = Unanswered::of(failure);
        self.begun.iter_mut().flatten().for_each(|batch| batch.fail(&mut unanswered));
    }

    /// Decides what came, unless it is the end.
    async fn begin(&mut self, request: Result<Option<Operations>, tonic::Status>) -> Option<Result<Batch, Failure>> {
        let batch = match request {
            Ok(Some(operations)) => Some(Batch::begin(&self.books, operations, self.max_bytes).await),
            Ok(None) => None,
            Err(status) => Some(Err(unreadable(&status))),
        };
        self.ended = !matches!(batch, Some(Ok(_)));
        batch
    }
}

/// The results of the oldest batch.
async fn finish(oldest: Option<&mut Result<Batch, Failure>>) -> Result<Results, Failure> {
    match oldest {
        Some(Ok(batch)) => batch.finish().await,
        Some(Err(failure)) => Err(failure.clone()),
        None => std::future::pending().await,
    }
}

/// What tonic made of a message that it could not read, in the contract's codes.
fn unreadable(status: &tonic::Status) -> Failure {
    let text = status.message().to_owned();
    match status.code() {
        Code::OutOfRange => Failure::TooLong { text },
        Code::ResourceExhausted => Failure::Begun { text },
        Code::DeadlineExceeded => Failure::deadline("ExecuteStream"),
        Code::Cancelled | Code::Unavailable | Code::Unknown => Failure::Left,
        _ => Failure::malformed(text),
    }
}
