//! Calls of health and reflection, which do not notice by themselves that the service ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Frame;
use prost::bytes::Bytes;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;

use super::audit::{self, Subject};
use super::status::Failure;

/// A body that ends when the service does, after what it still has to send.
pub(super) struct Foreign {
    /// The service whose answer this is, which ends with a status; None for a request.
    answers: Option<&'static str>,
    body: Body,
    /// None once the end was reported.
    stopped: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Foreign {
    pub(super) fn new(answers: Option<&'static str>, body: Body, mut stopping: watch::Receiver<bool>) -> Self {
        let stopped = Box::pin(async move {
            // An error: the service is gone.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        });
        Foreign { answers, body, stopped: Some(stopped) }
    }
}

impl hyper::body::Body for Foreign {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(stopped) = &mut this.stopped else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if stopped.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        this.stopped = None;
        let Some(operation) = this.answers else { return Poll::Ready(None) };
        let mut trailers = HeaderMap::new();
        let status = audit::refused(operation, Subject::default(), &Failure::Closed);
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
