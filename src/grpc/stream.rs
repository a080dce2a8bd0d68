//! ExecuteStream: batches in, results out in the same order, many in flight.
//!
//! While one batch waits to become durable the next ones are read and decided. A client that does not read its results stops
//! being read from itself: [`pull`](super::pull) asks for a message only when the client has room for it.

use std::collections::VecDeque;

use tonic::{Code, Streaming};

use super::batch::Batch;
use super::books::Books;
use super::operations::Operations;
use super::pull::Step;
use super::results::Results;
use super::status::Failure;

/// The most batches whose results were not taken yet.
const IN_FLIGHT: usize = 16;

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
            let Batches { requests, begun, ended, .. } = &mut self;
            let (reading, waiting) = (!*ended && begun.len() < IN_FLIGHT, !begun.is_empty());
            tokio::select! {
                biased;
                request = requests.message(), if reading => {
                    let begun = self.begin(request).await;
                    self.begun.extend(begun);
                }
                results = finish(begun.front_mut()), if waiting => {
                    let results = results?;
                    self.begun.pop_front();
                    return Ok(Some((results, self)));
                }
                else => return Ok(None),
            }
        }
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
        Code::Cancelled | Code::Unavailable | Code::Unknown => Failure::Left,
        _ => Failure::Field { field: "message", reason: "MESSAGE_MALFORMED", text },
    }
}
