//! A request's body on its way to tonic.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming};
use prost::bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tonic::Status;

/// How many bytes of a message restart the wait for the rest.
const PROGRESS: usize = 64 * 1024;
/// The length of the prefix before each message: whether it is compressed, and its length.
const HEADER: u8 = 5;

/// A message waits for room for at most `1 / WAITS` of the time that a call has.
const WAITS: u32 = 10;
/// The messages of one connection may have at most `1 / OF_CONNECTION` of the room.
const OF_CONNECTION: usize = 4;

/// How many calls of one connection wait for it.
pub(super) const WAITING: usize = 16;

/// A request's body as it comes in, checked for what tonic gets wrong. tonic takes a reset by the client for the end of
/// the body and would begin with what had come: here a reset is an error. So is anything after the message of a unary
/// call. tonic allocates room for all of a message once it has begun: here the message waits until there is [`Room`],
/// and is refused when that takes too long. A message of a stream that does not go on ends the stream.
pub(super) struct Upload {
    body: Incoming,
    /// The call's place among the connection's streams, if its client sends many messages.
    place: Option<OwnedSemaphorePermit>,
    messages: Messages,
    room: Room,
    /// The room that the current message has, or waits for.
    share: Option<Share>,
    /// What has come of that message, until there is room for it.
    held: Option<Frame<Bytes>>,
    /// How long a stream may wait for [`PROGRESS`] bytes of a message, how many have come, and until when it waits.
    patience: Duration,
    came: usize,
    waits: bool,
    end: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// The request body of a call; with a `place`, its client sends many messages.
    pub(super) fn new(body: Incoming, place: Option<OwnedSemaphorePermit>, room: Room, patience: Duration) -> Self {
        let messages = Messages::default();
        Upload { body, place, messages, room, share: None, held: None, patience, came: 0, waits: false, end: None }
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let before = self.messages.begun;
        let under = self.messages.pass(bytes);
        if self.place.is_none() && self.messages.begun > 1 {
            // The code of tonic's own errors in a message.
            return Err(Status::internal("a unary call has one message"));
        }
        self.came += bytes.len();
        let grew = self.messages.begun != before || self.came >= PROGRESS;
        if grew {
            (self.came, self.waits) = (0, false);
        }
        match (under, &self.share) {
            (None, _) => self.share = None,
            (Some(Under { new: true, left }), _) => self.share = self.room.take(left, self.patience),
            (_, Some(share)) if grew => share.grew.notify_one(),
            _ => {}
        }
        Ok(())
    }

    /// Whether the current message has its room. Room that lapsed while nobody polled the message is taken anew.
    fn has_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(share) = &mut self.share else { return Poll::Ready(Ok(())) };
        ready!(share.had(context))?;
        if share.keeper.is_finished() {
            // Once: a runtime that is shut down ends this one as well.
            self.share = self.room.take(self.messages.left, self.patience);
        }
        self.share.as_mut().map_or(Poll::Ready(Ok(())), |share| share.had(context))
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
        loop {
            ready!(this.has_room(context))?;
            if let Some(frame) = this.held.take() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let Poll::Ready(next) = Pin::new(&mut this.body).poll_frame(context) else { return this.wait(context) };
            // Any code but CANCELLED, which is what tonic looks for; nobody is there to read it.
            let next = next.transpose().map_err(|error| Status::unknown(error.to_string()))?;
            let Some(frame) = next else { return Poll::Ready(None) };
            this.pass(frame.data_ref().map_or(&[], |data| data))?;
            this.held = Some(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }
}

/// Room for what is to come of messages under way, over all connections and on each. One that comes in one piece needs
/// none.
#[derive(Clone)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    bytes: usize,
    connection: Arc<Semaphore>,
    /// How many more calls of the connection may wait for room. Their unread bytes take from the window of all its
    /// other calls.
    waiting: Arc<Semaphore>,
    longest: usize,
}

impl Room {
    /// Room for `bytes`, where tonic refuses messages longer than `longest`. One message of that length always has
    /// room.
    pub(super) fn new(bytes: usize, longest: usize) -> Self {
        let bytes = bytes.max(longest).min(Semaphore::MAX_PERMITS);
        let [connection, waiting] = [0, 0].map(|none| Arc::new(Semaphore::new(none)));
        Room { all: Arc::new(Semaphore::new(bytes)), bytes, connection, waiting, longest }
    }

    /// The same for one more connection.
    pub(super) fn of_connection(&self) -> Self {
        let bytes = (self.bytes / OF_CONNECTION).max(self.longest).min(self.bytes);
        let [connection, waiting] = [bytes, WAITING].map(|room| Arc::new(Semaphore::new(room)));
        Room { connection, waiting, ..self.clone() }
    }

    /// Takes room for a message with `bytes` to come. The room lapses if the message does not grow within `patience`.
    fn take(&self, bytes: u32, patience: Duration) -> Option<Share> {
        if bytes as usize > self.longest {
            return None;
        }
        let (room, grew, (has, had)) = (self.clone(), Arc::new(Notify::new()), oneshot::channel());
        let (taken, grows) = (room.try_acquire(bytes), grew.clone());
        let place = taken.is_none().then(|| self.waiting.clone().try_acquire_owned().ok()).flatten();
        let had = taken.is_none().then_some(had);
        let keeper = tokio::spawn(async move {
            let taken = match (taken, place) {
                (None, Some(_place)) => timeout(patience / WAITS, room.acquire(bytes)).await.ok().flatten(),
                (taken, _) => taken,
            };
            if taken.is_some() {
                // Its stream does not wait, or is gone and ends this task.
                let _ = has.send(());
                while timeout(patience, grows.notified()).await.is_ok() {}
            }
        });
        Some(Share { had, grew, keeper })
    }

    fn try_acquire(&self, bytes: u32) -> Option<[OwnedSemaphorePermit; 2]> {
        let connection = self.connection.clone().try_acquire_many_owned(bytes).ok()?;
        Some([connection, self.all.clone().try_acquire_many_owned(bytes).ok()?])
    }

    /// Waits in turn. The connection's room comes first: so no connection queues for more than its part of the whole.
    async fn acquire(&self, bytes: u32) -> Option<[OwnedSemaphorePermit; 2]> {
        let connection = self.connection.clone().acquire_many_owned(bytes).await.ok()?;
        Some([connection, self.all.clone().acquire_many_owned(bytes).await.ok()?])
    }
}

/// A message's share of the room. A task waits for it and holds it: nobody polls the body of a stream whose client does
/// not read its results, and a share, or a turn in the queue, that the body held would be lost to everybody else.
struct Share {
    /// None once it was there.
    had: Option<oneshot::Receiver<()>>,
    grew: Arc<Notify>,
    keeper: JoinHandle<()>,
}

impl Share {
    fn had(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if let Some(had) = &mut self.had {
            let had = ready!(Pin::new(had).poll(context));
            self.had = None;
            had.map_err(|_| Status::resource_exhausted("too many bytes of begun messages are awaited"))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// The message that has begun behind the last whole one.
struct Under {
    /// Whether its header ended in the piece that was passed last.
    new: bool,
    /// How many of its bytes are still to come.
    left: u32,
}

/// Where messages begin and end.
#[derive(Default)]
struct Messages {
    /// How many messages have begun.
    begun: usize,
    /// How many bytes of the current message's header have come; 0 if there is no such message.
    header: u8,
    /// How many bytes of it are still to come after the header.
    left: u32,
}

impl Messages {
    /// Passes a piece. None if it ends with a whole message, or within a header.
    fn pass(&mut self, mut bytes: &[u8]) -> Option<Under> {
        let mut new = false;
        while let Some((first, rest)) = bytes.split_first() {
            if self.header == HEADER {
                let taken = bytes.len().min(self.left as usize);
                self.left -= taken as u32;
                bytes = &bytes[taken..];
            } else {
                self.begun += usize::from(self.header == 0);
                self.header += 1;
                new = self.header == HEADER;
                // The compression flag leaves with the fifth byte.
                self.left = self.left << 8 | u32::from(*first);
                bytes = rest;
            }
            if self.header == HEADER && self.left == 0 {
                self.header = 0;
            }
        }
        (self.header == HEADER).then_some(Under { new, left: self.left })
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
            bytes.chunks(piece).for_each(|piece| _ = messages.pass(piece));
            assert_eq!((messages.begun, messages.header), (4, 2), "{piece}");
        }
    }
}
