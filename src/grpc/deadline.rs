//! How long a call may take: the `grpc-timeout` header, and the end of what outlives it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long after its deadline a call is cut off whose client does not read the answer.
const OVERTIME: Duration = Duration::from_secs(1);

/// The header's value is not 1 to 8 digits and a unit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a `grpc-timeout`: at most 8 digits, then H, M, S, m, u or n. Zero is allowed: it has passed.
pub(super) fn parse(value: &[u8]) -> Result<Duration, Malformed> {
    let (unit, digits) = value.split_last().ok_or(Malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let number = digits.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(number * 3_600)),
        b'M' => Ok(Duration::from_secs(number * 60)),
        b'S' => Ok(Duration::from_secs(number)),
        b'm' => Ok(Duration::from_millis(number)),
        b'u' => Ok(Duration::from_micros(number)),
        b'n' => Ok(Duration::from_nanos(number)),
        _ => Err(Malformed),
    }
}

thread_local! {
    /// Whether the deadline of the call that begins on this thread has passed.
    static LATE: Cell<bool> = const { Cell::new(false) };
    /// The limits of the call whose answer began during the current poll on this thread.
    static ANSWERED: Cell<Limits> = const { Cell::new(Limits { deadline: None, longest: None }) };
}

/// Begins a call whose deadline has passed, only to find out and log what it was about.
pub(super) fn begin_late<T>(begin: impl FnOnce() -> T) -> T {
    /// Clears [`LATE`], also after a panic: the thread goes on to other calls.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            LATE.set(false);
        }
    }
    LATE.set(true);
    let _reset = Reset;
    begin()
}

/// Whether the call that begins now must end at once.
pub(super) fn late() -> bool {
    LATE.get()
}

/// When to cut off an answer that its client does not read: soon after the earlier of the two limits.
#[derive(Clone, Copy, Default)]
pub(super) struct Limits {
    /// The client's deadline.
    pub(super) deadline: Option<Instant>,
    /// The service's limit, counted from when the answer could not be sent at once.
    pub(super) longest: Option<Duration>,
}

impl Limits {
    fn end(self) -> Option<Instant> {
        let longest = self.longest.and_then(|longest| Instant::now().checked_add(longest));
        let end = self.deadline.into_iter().chain(longest).min()?;
        end.checked_add(OVERTIME)
    }
}

/// Tells the [`Tasks`] task that runs this call that sending the answer is limited.
pub(super) fn answered(limits: Limits) {
    ANSWERED.set(limits);
}

/// Spawns one task per call, as hyper asks. Through HTTP/2 flow control, a client that does not read can hold such a
/// task for ever while nothing inside it is polled. So the task itself ends after the answer's limits, which resets the
/// stream.
#[derive(Clone)]
pub(super) struct Tasks;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        tokio::spawn(bounded(task));
    }
}

async fn bounded(task: impl Future<Output = ()>) {
    let mut task = pin!(task);
    let mut end: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        ANSWERED.set(Limits::default());
        if task.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if let Some(at) = ANSWERED.take().end() {
            end = Some(Box::pin(sleep_until(at)));
        }
        end.as_mut().map_or(Poll::Pending, |end| end.as_mut().poll(context))
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A03: odd values are honoured or refused, and the longest does not wrap.
    #[test]
    fn every_timeout_is_honoured_or_refused() {
        assert_eq!(parse(b"1n"), Ok(Duration::from_nanos(1)));
        assert_eq!(parse(b"0m"), Ok(Duration::ZERO));
        assert_eq!(parse(b"99999999H"), Ok(Duration::from_secs(99_999_999 * 3_600)));
        for malformed in ["", "5", "S", "5x", "-1S", "+1S", "1 S", "123456789S", "1.5S", "é"] {
            assert_eq!(parse(malformed.as_bytes()), Err(Malformed), "{malformed}");
        }
    }

    /// E1: a late call that panics makes no later one late.
    #[test]
    fn a_panic_makes_no_later_call_late() {
        std::panic::catch_unwind(|| begin_late(|| panic!("in the first poll"))).expect_err("a panic");
        assert!(!late());
    }

    /// E4: a task that is not done a second after its call's deadline ends.
    #[tokio::test]
    async fn a_task_ends_after_its_deadline() {
        let (held, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
        let began = Instant::now();
        let stuck = async move {
            answered(Limits { deadline: Some(began), longest: None });
            std::future::pending::<()>().await;
            drop(held);
        };
        hyper::rt::Executor::execute(&Tasks, stuck);
        assert!(dropped.recv().await.is_none());
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
}
