//! A request's body on its way to tonic.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

/// A message that is begun may be waited for as long again with every so many bytes of it.
const PROGRESS: usize = 64 * 1024;
/// What stands before each message: whether it is compressed, and its length.
const HEADER: u8 = 5;

/// The body as it comes in. tonic takes a stream that its client reset for one that has ended, and would begin with what came
/// until then: here a reset is an error. So is what follows the message of a call that has one. tonic makes room for all of a message
/// that is begun: so is one for which there is no [`Room`], and one of a stream that does not go on.
pub(super) struct Upload {
    body: Incoming,
    /// Its place among the streams of the connection, if it is one.
    place: Option<OwnedSemaphorePermit>,
    messages: Messages,
    room: Room,
    /// What the message under way has of it, and for how many messages some was taken.
    taken: Option<OwnedSemaphorePermit>,
    roomed: usize,
    /// How long a stream may wait for [`PROGRESS`] of a message, how much has come of that, and until when it waits.
    patience: Duration,
    came: usize,
    waits: bool,
    end: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// The request of a call, whose client sends many messages if it has a `place`.
    pub(super) fn new(body: Incoming, place: Option<OwnedSemaphorePermit>, room: Room, patience: Duration) -> Self {
        let messages = Messages::default();
        Upload { body, place, messages, room, taken: None, roomed: 0, patience, came: 0, waits: false, end: None }
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let before = self.messages.begun;
        self.messages.pass(bytes);
        if self.place.is_none() && self.messages.begun > 1 {
            // The code of tonic's own errors in a message.
            return Err(Status::internal("a unary call has one message"));
        }
        self.came += bytes.len();
        if self.messages.begun != before || self.came >= PROGRESS {
            (self.came, self.waits) = (0, false);
        }
        if self.messages.header != HEADER {
            self.taken = None;
        } else if self.roomed != self.messages.begun {
            self.taken = None;
            self.taken = self.room.take(self.messages.left)?;
            self.roomed = self.messages.begun;
        }
        Ok(())
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.place.is_none() || self.messages.header == 0 {
            return Poll::Pending;
        }
        let patience = self.patience;
        let end = self.end.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        if !std::mem::replace(&mut self.waits, true) {
            end.as_mut().reset(Instant::now() + patience);
        }
        end.as_mut()
            .poll(context)
            .map(|()| Some(Err(Status::deadline_exceeded("a message was begun and did not go on"))))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(next) = Pin::new(&mut this.body).poll_frame(context) else { return this.wait(context) };
        Poll::Ready(next.map(|frame| {
            // Any code but CANCELLED, which is what tonic looks for; nobody is there to read it.
            let frame = frame.map_err(|error| Status::unknown(error.to_string()))?;
            this.pass(frame.data_ref().map_or(&[], |data| data))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Room for what is to come of messages under way, over all connections. One that comes in one piece needs none.
#[derive(Clone)]
pub(super) struct Room {
    bytes: Arc<Semaphore>,
    longest: usize,
}

impl Room {
    /// Room for so many `bytes`, where tonic refuses messages past the `longest`.
    pub(super) fn new(bytes: usize, longest: usize) -> Self {
        Room { bytes: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))), longest }
    }

    fn take(&self, bytes: u32) -> Result<Option<OwnedSemaphorePermit>, Status> {
        if bytes as usize > self.longest {
            return Ok(None);
        }
        let taken = self.bytes.clone().try_acquire_many_owned(bytes);
        taken.map(Some).map_err(|_| Status::resource_exhausted("too many bytes of begun messages are awaited"))
    }
}

/// Where messages begin and end.
#[derive(Default)]
struct Messages {
    /// How many were begun.
    begun: usize,
    /// How much of the header of the one under way has come; 0 when none is.
    header: u8,
    /// What is left of it behind the header.
    left: u32,
}

impl Messages {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.header == HEADER {
                let taken = bytes.len().min(self.left as usize);
                self.left -= taken as u32;
                bytes = &bytes[taken..];
            } else {
                self.begun += usize::from(self.header == 0);
                self.header += 1;
                // The compression flag leaves with the fifth byte.
                self.left = self.left << 8 | u32::from(*first);
                bytes = rest;
            }
            if self.header == HEADER && self.left == 0 {
                self.header = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages are counted in whatever pieces they come.
    #[test]
    fn messages_are_counted_in_any_pieces() {
        let bytes = [&[0, 0, 0, 0, 2, 9, 9][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256], &[0, 0]].concat();
        for piece in 1..=bytes.len() {
            let mut messages = Messages::default();
            bytes.chunks(piece).for_each(|piece| messages.pass(piece));
            assert_eq!((messages.begun, messages.header), (4, 2), "{piece}");
        }
    }
}
