//! Reading ahead: one thread reads and checks the files, the caller's applies what was found, in the same order.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::recovery::{Recovered, Recovery};
use crate::event::Event;
use crate::opening::{OpenError, Progress};

/// How many accounts and changes are handed over together: what fits into a processor's cache.
const TOGETHER: usize = 1 << 10;

/// How many messages may wait: a few megabytes, so that where others want the processors too neither side waits for the
/// other at once.
const WAITING: usize = 64;

enum Message {
    Recovered(Vec<Recovered>),
    Progress(Progress),
    Event(Event),
}

/// Runs `read` on a thread of its own and passes what it finds to `recovery` on this one, in the same order. The first
/// error in that order ends both, as on one thread. Both have ended when it returns.
pub(super) fn ahead<T: Send>(
    recovery: &mut Recovery<'_>,
    read: impl FnOnce(&mut Recovery<'_>) -> Result<T, OpenError> + Send,
) -> io::Result<Result<T, OpenError>> {
    let (sender, receiver) = sync_channel(WAITING);
    thread::scope(|scope| {
        let named = thread::Builder::new().name("equipoise-reader".to_owned());
        let reader = named.spawn_scoped(scope, || hand_over(sender, read))?;
        // Its end drops the receiver: then the reader's next message is its last.
        let applied = receiver.into_iter().try_for_each(|message| apply(recovery, message));
        let found = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(applied.and(found))
    })
}

fn apply(recovery: &mut Recovery<'_>, message: Message) -> Result<(), OpenError> {
    match message {
        Message::Recovered(batch) => batch.into_iter().try_for_each(&mut *recovery.install),
        Message::Progress(progress) => match (recovery.progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(OpenError::Cancelled),
        },
        Message::Event(event) => {
            (recovery.tell)(&event);
            Ok(())
        }
    }
}

/// The reader's thread.
fn hand_over<T>(
    sender: SyncSender<Message>,
    read: impl FnOnce(&mut Recovery<'_>) -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    let outbox = RefCell::new(Outbox { sender, batch: Vec::new() });
    let found = read(&mut Recovery {
        install: &mut |recovered| outbox.borrow_mut().push(recovered),
        progress: &mut |progress| match outbox.borrow_mut().send(Message::Progress(progress)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        },
        tell: &|event| {
            // If the receiver has ended, the next account or progress message ends the reader.
            let _ = outbox.borrow_mut().send(Message::Event(event.clone()));
        },
    });
    // Something found before an error may cause the first error.
    outbox.into_inner().flush()?;
    found
}

struct Outbox {
    sender: SyncSender<Message>,
    batch: Vec<Recovered>,
}

impl Outbox {
    fn push(&mut self, recovered: Recovered) -> Result<(), OpenError> {
        if self.batch.capacity() == 0 {
            self.batch.reserve_exact(TOGETHER);
        }
        self.batch.push(recovered);
        if self.batch.len() == TOGETHER { self.flush() } else { Ok(()) }
    }

    fn send(&mut self, message: Message) -> Result<(), OpenError> {
        self.flush()?;
        self.pass(message)
    }

    fn flush(&mut self) -> Result<(), OpenError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.pass(Message::Recovered(batch))
    }

    /// Fails when the other side has ended: it knows why.
    fn pass(&self, message: Message) -> Result<(), OpenError> {
        self.sender.send(message).map_err(|_| OpenError::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::account::{AccountId, Balance};
    use crate::journal::disk::recovery::Recorded;

    const FAR: u64 = 10 * TOGETHER as u64;

    fn change(sequence: u64) -> Recovered {
        let id = AccountId::new("a").expect("an id");
        Recovered::Changed(Recorded { id, state: Balance { amount: 0, version: sequence }, sequence })
    }

    fn progress(replayed: u64) -> Progress {
        Progress { replayed, bytes: 0, total_bytes: 0 }
    }

    /// A reader that finds entries for ever, and tells of its progress after every third of [`TOGETHER`].
    fn endless(recovery: &mut Recovery<'_>) -> Result<(), OpenError> {
        for sequence in 1.. {
            (recovery.install)(change(sequence))?;
            if sequence % (TOGETHER as u64 / 3) == 0 && (recovery.progress)(progress(sequence)).is_break() {
                return Err(OpenError::Cancelled);
            }
        }
        Ok(())
    }

    /// E6: what is found is applied in its order, and progress and events stand between what was found before and
    /// after.
    #[test]
    fn everything_is_applied_in_its_order() {
        let applied = Mutex::new(Vec::new());
        let mut recovery = Recovery {
            install: &mut |recovered| {
                let Recovered::Changed(Recorded { sequence, .. }) = recovered else { panic!("not found") };
                applied.lock().push(sequence);
                Ok(())
            },
            progress: &mut |progress| {
                applied.lock().push(progress.replayed);
                ControlFlow::Continue(())
            },
            tell: &|_| applied.lock().push(0),
        };
        let found = ahead(&mut recovery, |recovery| {
            for sequence in 1..=FAR {
                match sequence % 1_000 {
                    0 => (recovery.tell)(&Event::RoomAgain),
                    1 => assert!((recovery.progress)(progress(sequence)).is_continue()),
                    _ => (recovery.install)(change(sequence))?,
                }
            }
            Ok("all")
        });
        assert_eq!(found.expect("a thread").expect("good"), "all");
        let zero_for_events = |sequence: u64| if sequence.is_multiple_of(1_000) { 0 } else { sequence };
        assert!(applied.into_inner().into_iter().eq((1..=FAR).map(zero_for_events)));
    }

    /// E6: what was found before an error is applied, and an error of that comes first.
    #[test]
    fn the_first_error_in_order_counts() {
        for refused in [None, Some(1), Some(FAR)] {
            let mut applied = 0;
            let mut recovery = Recovery {
                install: &mut |_| {
                    applied += 1;
                    let error = OpenError::Setting { setting: "a", expected: "b".to_owned(), value: String::new() };
                    if Some(applied) == refused { Err(error) } else { Ok(()) }
                },
                progress: &mut |_| ControlFlow::Continue(()),
                tell: &|_| {},
            };
            let found = ahead(&mut recovery, |recovery| {
                (1..=FAR).try_for_each(|sequence| (recovery.install)(change(sequence)))?;
                Err::<(), _>(OpenError::Damaged { file: "f".into(), offset: 0, what: String::new() })
            });
            let error = found.expect("a thread").expect_err("one of them");
            assert_eq!(matches!(error, OpenError::Setting { .. }), refused.is_some(), "{error}");
            assert_eq!(applied, refused.unwrap_or(FAR));
        }
    }

    /// E6: a reader ends soon after the caller asked for an end.
    #[test]
    fn a_cancelled_reader_ends() {
        let mut told = 0;
        let mut recovery = Recovery {
            install: &mut |_| Ok(()),
            progress: &mut |_| {
                told += 1;
                if told == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
            tell: &|_| {},
        };
        let ended = ahead(&mut recovery, endless).expect("a thread");
        assert!(matches!(ended, Err(OpenError::Cancelled)), "{ended:?}");
        assert_eq!(told, 3);
    }
}
