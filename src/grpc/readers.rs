//! Reads of the journal's files, on few threads.
//!
//! tokio starts a thread for a blocking task whenever none is idle at that moment. Watchers ask for thousands of short
//! reads a second: with a task for each, there are soon more threads than watchers, and every thread keeps memory that
//! it has used.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// Runs reads in the order in which they are asked for, so many at once.
pub(super) struct Readers {
    threads: Semaphore,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    /// How many were asked for.
    tickets: u64,
    reads: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
}

/// A caller's place among those who wait, which is given up when it leaves.
struct Place {
    readers: &'static Readers,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.readers.waiting.lock().reads.remove(&self.ticket);
        // Outside the lock: it may hold a ledger.
        drop(left);
    }
}

impl Readers {
    pub(super) const fn new(threads: usize) -> Self {
        let waiting = Waiting { tickets: 0, reads: BTreeMap::new() };
        Readers { threads: Semaphore::const_new(threads), waiting: Mutex::new(waiting) }
    }

    /// What `read` returns; None if it panicked. It is not begun if the caller has left by then.
    pub(super) async fn run<T: Send + 'static>(&'static self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (tell, told) = oneshot::channel();
        // The caller may leave while it is read.
        let _place = self.wait(Box::new(move || drop(tell.send(read()))));
        if let Some(reader) = self.reader() {
            // A runtime that is ending drops it unrun.
            tokio::task::spawn_blocking(move || drop(reader));
        }
        told.await.ok()
    }

    fn wait(&'static self, read: Box<dyn FnOnce() + Send>) -> Place {
        let mut waiting = self.waiting.lock();
        waiting.tickets += 1;
        let ticket = waiting.tickets;
        waiting.reads.insert(ticket, read);
        Place { readers: self, ticket }
    }

    /// One more thread's place, if there is one.
    fn reader(&'static self) -> Option<Reader> {
        let place = self.threads.try_acquire().ok();
        place.is_some().then_some(Reader { readers: self, place })
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        self.waiting.lock().reads.pop_first().map(|(_, read)| read)
    }
}

/// A thread that reads. Dropping it reads what waits, wherever that happens: nobody else may come for it.
struct Reader {
    readers: &'static Readers,
    place: Option<SemaphorePermit<'static>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        while let Some(place) = self.place.take() {
            while let Some(read) = self.readers.next() {
                // Its caller hears of a panic.
                let _ = catch_unwind(AssertUnwindSafe(read));
            }
            drop(place);
            // One may have come too late to be seen, and too early to find this place free.
            if !self.readers.waiting.lock().reads.is_empty() {
                self.place = self.readers.threads.try_acquire().ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// A08: all are read, never more at once than there may be, and a panic or a caller that left keeps up nobody.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_reads_share_few_threads() {
        static READERS: Readers = Readers::new(3);
        let now = Arc::new(Mutex::new((0, 0)));
        let mut reads = tokio::task::JoinSet::new();
        for number in 0..200 {
            let now = now.clone();
            let read = move || {
                {
                    let mut now = now.lock();
                    now.0 += 1;
                    now.1 = now.0.max(now.1);
                }
                std::thread::sleep(Duration::from_micros(200));
                now.lock().0 -= 1;
                assert!(number % 50 != 0, "a panic");
                number
            };
            reads.spawn(async move { (number, READERS.run(read).await) });
            if number % 7 == 0 {
                drop(tokio::time::timeout(Duration::ZERO, READERS.run(|| ())).await);
            }
        }
        while let Some(read) = reads.join_next().await {
            let (number, answer) = read.expect("an answer");
            assert_eq!(answer, (number % 50 != 0).then_some(number));
        }
        let most = now.lock().1;
        assert!((1..=3).contains(&most), "{most} at once");
    }

    /// E7: those who leave keep nothing waiting, while nobody reads.
    #[tokio::test]
    async fn who_leaves_gives_up_the_place() {
        static READERS: Readers = Readers::new(1);
        let busy = READERS.reader().expect("a place");
        let held = Arc::new(());
        for _ in 0..10 {
            let held = held.clone();
            let left = tokio::time::timeout(Duration::ZERO, READERS.run(move || drop(held))).await;
            assert!(left.is_err(), "nobody reads");
        }
        assert_eq!((READERS.waiting.lock().reads.len(), Arc::strong_count(&held)), (0, 1));
        drop(busy);
    }

    /// E4: a runtime that ends before it reads strands no caller on another one.
    #[test]
    fn a_reader_that_is_dropped_unrun_reads() {
        static READERS: Readers = Readers::new(1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let reader = READERS.reader().expect("a place");
        let told = runtime.spawn(READERS.run(|| 7));
        runtime.block_on(tokio::task::yield_now());
        assert!(READERS.reader().is_none());
        drop(reader);
        assert_eq!(runtime.block_on(told).expect("an answer"), Some(7));
        assert!(READERS.reader().is_some());
    }
}
