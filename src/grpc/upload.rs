//! A request's body on its way to tonic.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, Incoming, SizeHint};
use prost::bytes::Bytes;
use tonic::Status;

/// The body as it comes in. tonic takes a stream that its client reset for one that has ended, and would begin with what came
/// until then: here a reset is an error.
pub(super) struct Upload(pub(super) Incoming);

impl Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Any code but CANCELLED, which is what tonic looks for; nobody is there to read it.
        Pin::new(&mut self.0).poll_frame(context).map_err(|error| Status::unknown(error.to_string()))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
