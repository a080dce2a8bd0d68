//! Answers in many messages, made one at a time when the client's flow control asks for the next: a client that does
//! not read costs one message of memory, whatever happens meanwhile.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::audit::{self, Subject};
use super::call::LEFT;
use super::deadline;
use super::service::Accounts;
use super::status::Failure;

/// What a step makes: a message and what the next step needs, or None at the end.
pub(super) type Step<S, T> = Result<Option<(T, S)>, Failure>;

/// What ends a stream early.
pub(super) struct Ends {
    operation: &'static str,
    /// The account that the stream is about, if there is one.
    account: String,
    deadline: Option<Pin<Box<Sleep>>>,
    stopped: Pin<Box<dyn Future<Output = Failure> + Send>>,
}

impl Ends {
    /// The deadline in the call's `metadata`, and the end of the service.
    pub(super) fn new(operation: &'static str, account: &str, metadata: &MetadataMap, accounts: &Accounts) -> Self {
        let timeout: Option<Duration> =
            metadata.get("grpc-timeout").and_then(|value| deadline::parse(value.as_bytes()).ok());
        let (mut stopping, books) = (accounts.stopping.clone(), accounts.books.clone());
        let stopped = Box::pin(async move {
            // An error: the service is gone.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            books.why_closed()
        });
        let deadline = timeout.map(|timeout| Box::pin(sleep(timeout)));
        Ends { operation, account: account.to_owned(), deadline, stopped }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Failure::deadline(self.operation));
        }
        self.stopped.as_mut().poll(context)
    }
}

/// The stream; ends after the first error.
pub(super) struct Pull<S, T, F> {
    step: F,
    next: Next<S, T>,
    ends: Ends,
}

impl<S, T, F> Drop for Pull<S, T, F> {
    /// If the client leaves the stream, whatever has no answer yet is logged as failed.
    fn drop(&mut self) {
        let next = std::mem::replace(&mut self.next, Next::Ended);
        audit::end(next, Code::Cancelled, LEFT.to_owned());
    }
}

enum Next<S, T> {
    Ask(S),
    Wait(Pin<Box<dyn Future<Output = Step<S, T>> + Send>>),
    Ended,
}

/// A stream of what `step` makes, beginning with `first`.
pub(super) fn pull<S, T, F, Made>(first: S, ends: Ends, mut step: F) -> BoxStream<T>
where
    S: Send + Unpin + 'static,
    T: Send + 'static,
    F: FnMut(S) -> Made + Send + Unpin + 'static,
    Made: Future<Output = Step<S, T>> + Send + 'static,
{
    let step = move |state| -> Pin<Box<dyn Future<Output = Step<S, T>> + Send>> { Box::pin(step(state)) };
    Box::pin(Pull { step, next: Next::Ask(first), ends })
}

/// What tonic sends.
pub(super) type BoxStream<T> = tonic::codegen::BoxStream<T>;

impl<S, T, F> Stream for Pull<S, T, F>
where
    S: Unpin,
    F: FnMut(S) -> Pin<Box<dyn Future<Output = Step<S, T>> + Send>> + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut made = match std::mem::replace(&mut this.next, Next::Ended) {
            Next::Ended => return Poll::Ready(None),
            Next::Ask(state) => (this.step)(state),
            Next::Wait(made) => made,
        };
        let step = match this.ends.poll(context) {
            Poll::Ready(failure) => {
                audit::end(made, failure.code(), failure.to_string());
                Err(failure)
            }
            Poll::Pending => match made.as_mut().poll(context) {
                Poll::Ready(step) => step,
                Poll::Pending => {
                    this.next = Next::Wait(made);
                    return Poll::Pending;
                }
            },
        };
        Poll::Ready(match step {
            Ok(None) => None,
            Ok(Some((message, next))) => {
                this.next = Next::Ask(next);
                Some(Ok(message))
            }
            Err(failure) => {
                let subject = Subject::account(&this.ends.account, "");
                Some(Err(audit::refused(this.ends.operation, subject, &failure)))
            }
        })
    }
}
