//! One call's future: the deadline, and a look at how it ended.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::codegen::http::{Response, StatusCode};
use tonic::{Code, Status};

use super::audit::{self, Subject};
use super::deadline::{self, Limits};
use super::status::Failure;

/// The longest text, in characters, of a status from another layer in a header.
const MAX_FOREIGN: usize = 200;
pub(super) const LEFT: &str = "the caller left before the answer";

/// A call until its answer begins. A unary answer is whole by then; a stream goes on under [`super::pull`].
pub(super) struct Call {
    method: Method,
    state: State,
    /// What the client allowed.
    deadline: Option<Instant>,
    /// What the service allows, from the first time that the call has to wait.
    cap: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// What is called.
#[derive(Clone, Copy)]
pub(super) struct Method {
    /// Its name in the log.
    pub(super) name: &'static str,
    /// Whether the request is a stream.
    pub(super) takes_many: bool,
    /// Whether the answer is a stream, which may last.
    pub(super) streams: bool,
}

enum State {
    New(BoxFuture<Response<Body>, Infallible>),
    Waiting(BoxFuture<Response<Body>, Infallible>),
    Refused(StatusCode, Failure),
    Ended,
}

impl Call {
    pub(super) fn new(
        method: Method,
        answer: BoxFuture<Response<Body>, Infallible>,
        timeout: Option<Duration>,
        cap: Duration,
    ) -> Self {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Call { method, state: State::New(answer), deadline, cap, sleep: None }
    }

    pub(super) fn refused(method: Method, failure: Failure) -> Self {
        Self::refused_over(StatusCode::OK, method, failure)
    }

    /// The same with a status of HTTP.
    pub(super) fn refused_over(http: StatusCode, method: Method, failure: Failure) -> Self {
        Call { method, state: State::Refused(http, failure), deadline: None, cap: Duration::ZERO, sleep: None }
    }

    fn refuse(&mut self, failure: &Failure) -> Response<Body> {
        self.state = State::Ended;
        audit::refused(self.method.name, Subject::default(), failure).into_http()
    }

    /// Ends what is under way, since its time is over.
    fn cut(&mut self) -> Response<Body> {
        let failure = Failure::deadline(self.method.name);
        let under_way = std::mem::replace(&mut self.state, State::Ended);
        if audit::end(under_way, failure.code(), failure.to_string()) {
            return failure.status().into_http();
        }
        self.refuse(&failure)
    }

    /// A caller that is gone gets nothing started.
    fn begin_late(
        &mut self,
        mut answer: BoxFuture<Response<Body>, Infallible>,
        context: &mut Context<'_>,
    ) -> Response<Body> {
        match deadline::begin_late(|| answer.as_mut().poll(context)) {
            Poll::Ready(Ok(response)) if is_failure(&response) => self.answered(response),
            _ => self.cut(),
        }
    }

    fn answered(&mut self, response: Response<Body>) -> Response<Body> {
        self.state = State::Ended;
        deadline::answered(Limits { deadline: self.deadline, longest: (!self.method.streams).then_some(self.cap) });
        if is_failure(&response) { self.failed(response) } else { response }
    }

    /// Our own statuses are logged already. Those of the layers below are logged here, and mapped to the contract's.
    fn failed(&self, response: Response<Body>) -> Response<Body> {
        let Some(status) = response.extensions().get::<Status>() else {
            audit::failed(self.method.name, Subject::default(), Code::Unimplemented, "no such method");
            return response;
        };
        if !status.details().is_empty() {
            return response;
        }
        let text: String = status.message().chars().take(MAX_FOREIGN).collect();
        match status.code() {
            // The contract's codes are fewer than tonic's.
            Code::OutOfRange => {
                audit::refused(self.method.name, Subject::default(), &Failure::TooLong { text }).into_http()
            }
            Code::Internal => {
                audit::refused(self.method.name, Subject::default(), &Failure::malformed(text)).into_http()
            }
            // From [`super::upload`], as is the next one.
            Code::ResourceExhausted => {
                audit::refused(self.method.name, Subject::default(), &Failure::Begun { text }).into_http()
            }
            Code::Unknown => {
                audit::failed(self.method.name, Subject::default(), Code::Cancelled, LEFT);
                response
            }
            code => {
                audit::failed(self.method.name, Subject::default(), code, &text);
                response
            }
        }
    }
}

impl Future for Call {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match std::mem::replace(&mut this.state, State::Ended) {
            State::New(answer) if this.deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Poll::Ready(Ok(this.begin_late(answer, context)));
            }
            State::New(mut answer) | State::Waiting(mut answer) => match answer.as_mut().poll(context) {
                Poll::Ready(Ok(response)) => return Poll::Ready(Ok(this.answered(response))),
                Poll::Pending => this.state = State::Waiting(answer),
            },
            State::Refused(http, failure) => {
                let mut response = this.refuse(&failure);
                *response.status_mut() = http;
                return Poll::Ready(Ok(response));
            }
            State::Ended => return Poll::Pending,
        }
        let (deadline, cap) = (this.deadline, this.cap);
        let sleep = this.sleep.get_or_insert_with(|| {
            let longest = Instant::now() + cap;
            Box::pin(sleep_until(deadline.map_or(longest, |deadline| deadline.min(longest))))
        });
        match sleep.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Ok(this.cut())),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn is_failure(response: &Response<Body>) -> bool {
    response.headers().contains_key("grpc-status")
}

impl Drop for Call {
    fn drop(&mut self) {
        if let State::Waiting(answer) = std::mem::replace(&mut self.state, State::Ended)
            && !audit::end(answer, Code::Cancelled, LEFT.to_owned())
        {
            audit::failed(self.method.name, Subject::default(), Code::Cancelled, LEFT);
        }
    }
}
