//! Waiting for the durable watermark: tickets that any runtime, or a plain thread, can wait on.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use parking_lot::Mutex;
use thiserror::Error;

use crate::foreign::wake;

/// The ledger was closed before the sequence became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the ledger was closed")]
pub struct Closed;

/// Who waits for which sequence. Off the hot path: only callers that must wait come here.
#[derive(Default)]
pub(crate) struct Waiters {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    closed: bool,
    tickets: u64,
    waiting: BTreeMap<(u64, u64), Waker>,
}

impl Waiters {
    /// Wakes those who wait for a sequence up to `durable`. The caller holds no lock: a waker may run any code.
    pub(crate) fn reached(&self, durable: u64) {
        let mut queue = self.queue.lock();
        let later = queue.waiting.split_off(&(durable.saturating_add(1), 0));
        let woken = std::mem::replace(&mut queue.waiting, later);
        drop(queue);
        woken.into_values().for_each(wake);
    }

    /// Whether somebody waits for a sequence up to `newest`. Later sequences do not count: nothing can make them
    /// durable yet.
    pub(crate) fn is_awaited(&self, newest: u64) -> bool {
        self.queue.lock().waiting.first_key_value().is_some_and(|((sequence, _), _)| *sequence <= newest)
    }

    /// Wakes everybody, as [`Self::reached`] does. From now on, waiting for a sequence that is not durable fails.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let woken = std::mem::take(&mut queue.waiting);
        drop(queue);
        woken.into_values().for_each(wake);
    }

    /// Registers `waker` under `ticket`, which the first call draws; Err when closed.
    fn register(&self, sequence: u64, ticket: &mut Option<u64>, waker: &Waker) -> Result<(), Closed> {
        // Cloned and dropped outside the lock: a waker may run any code.
        let waker = waker.clone();
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(Closed);
        }
        let number = *ticket.get_or_insert_with(|| {
            queue.tickets = queue.tickets.wrapping_add(1);
            queue.tickets
        });
        let replaced = queue.waiting.insert((sequence, number), waker);
        drop(queue);
        drop(replaced);
        Ok(())
    }

    fn leave(&self, sequence: u64, ticket: u64) {
        let left = self.queue.lock().waiting.remove(&(sequence, ticket));
        drop(left);
    }
}

/// What a ticket waits on.
pub(crate) trait Durable {
    fn waiters(&self) -> &Waiters;
    /// Whether `sequence` is durable; may do the flusher's work where that is cheap.
    fn is_durable(&self, sequence: u64) -> bool;
}

/// Resolves when a sequence is durable.
pub(crate) struct Ticket<W: Durable> {
    watermark: W,
    sequence: u64,
    number: Option<u64>,
}

impl<W: Durable> Ticket<W> {
    pub(crate) fn new(watermark: W, sequence: u64) -> Self {
        Ticket { watermark, sequence, number: None }
    }
}

impl<W: Durable + Unpin> Future for Ticket<W> {
    type Output = Result<(), Closed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.watermark.is_durable(this.sequence) {
            return Poll::Ready(Ok(()));
        }
        let registered = this.watermark.waiters().register(this.sequence, &mut this.number, context.waker());
        // Checked again: a flush that ends from here on wakes us, but an earlier one may not have.
        match (this.watermark.is_durable(this.sequence), registered) {
            (true, _) => Poll::Ready(Ok(())),
            (false, Ok(())) => Poll::Pending,
            (false, Err(closed)) => Poll::Ready(Err(closed)),
        }
    }
}

impl<W: Durable> Drop for Ticket<W> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.watermark.waiters().leave(self.sequence, number);
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the calling thread until `future` is ready.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
