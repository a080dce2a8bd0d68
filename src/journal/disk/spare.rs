//! The next segment, allocated and zeroed before it is needed: what is written into it later finds its room.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::files::{File, Files, JOURNAL, write_all};
use crate::kernel::doorbell::Counter;
use crate::opening::Event;

const NAME: &str = "journal/spare";
const UNFINISHED: &str = "journal/spare.tmp";
/// How much is zeroed at once, in bytes.
const STRIDE: usize = 1 << 20;
/// How long after a failure it is tried again.
const REST: Duration = Duration::from_millis(250);

/// The place where the next segment waits.
pub(super) struct Spare {
    files: Arc<dyn Files>,
    /// How long a segment is, in bytes.
    pub(super) length: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// 1 while there is none and none can be made.
    short: Counter,
}

#[derive(Default)]
struct State {
    ready: Option<Ready>,
    closed: bool,
}

/// A zeroed file under the spare's name.
pub(super) struct Ready {
    pub(super) file: Box<dyn File>,
    pub(super) length: u64,
}

impl Spare {
    pub(super) fn new(files: Arc<dyn Files>, length: u64) -> Self {
        Spare { files, length, state: Mutex::default(), changed: Condvar::new(), short: Counter::new() }
    }

    /// Bytes that are needed and not to be had; None while all is well.
    pub(super) fn shortage(&self) -> Option<u64> {
        (self.short.get() != 0).then_some(self.length)
    }

    /// Makes one now, or finds the one that an earlier process left.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if self.state.lock().ready.is_some() {
            return Ok(());
        }
        let ready = match self.left_over() {
            Ok(ready) => ready,
            Err(_) => self.make().inspect_err(|_| self.remove_unfinished())?,
        };
        self.state.lock().ready = Some(ready);
        self.changed.notify_all();
        Ok(())
    }

    /// A spare is whole: it got its name when all of it was zeroed. An interrupted start of it as a segment left a header.
    fn left_over(&self) -> io::Result<Ready> {
        let file = self.files.open(NAME)?;
        let length = file.length()?;
        if length != self.length {
            return Err(io::ErrorKind::InvalidData.into());
        }
        write_all(&*file, &[0; super::segment::HEADER as usize], 0)?;
        file.sync()?;
        Ok(Ready { file, length })
    }

    fn make(&self) -> io::Result<Ready> {
        let file = self.files.create(UNFINISHED)?;
        let zeros = vec![0; STRIDE];
        let mut offset = 0;
        while offset < self.length {
            let stride = (self.length - offset).min(STRIDE as u64);
            write_all(&*file, &zeros[..stride as usize], offset)?;
            offset += stride;
        }
        file.sync()?;
        self.files.rename(UNFINISHED, NAME)?;
        self.files.sync_folder(JOURNAL)?;
        Ok(Ready { file, length: self.length })
    }

    fn remove_unfinished(&self) {
        // What cannot be removed now is overwritten by the next attempt.
        let _ = self.files.remove(UNFINISHED);
    }

    /// Gives the spare away under the name of a segment, with `header` in it. Waits for one; None when closed meanwhile.
    pub(super) fn take(&self, name: &str, header: impl FnOnce(u64) -> Vec<u8>) -> io::Result<Option<Box<dyn File>>> {
        let mut state = self.state.lock();
        let ready = loop {
            match state.ready.take() {
                Some(ready) => break ready,
                None if state.closed => return Ok(None),
                None => self.changed.wait(&mut state),
            }
        };
        drop(state);
        write_all(&*ready.file, &header(ready.length), 0)?;
        ready.file.sync()?;
        self.files.rename(NAME, name)?;
        self.files.sync_folder(JOURNAL)?;
        self.changed.notify_all();
        Ok(Some(ready.file))
    }

    /// Ends [`Spare::keep_ready`], and whoever waits for a spare that cannot be made.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// The thread that makes the next one as soon as the last was taken.
    pub(super) fn keep_ready(&self, tell: &dyn Fn(&Event)) {
        loop {
            let mut state = self.state.lock();
            while state.ready.is_some() && !state.closed {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            drop(state);
            match self.prepare() {
                Ok(()) => {
                    if self.short.get() != 0 {
                        self.short.add(-1);
                        tell(&Event::RoomAgain);
                    }
                }
                Err(error) => {
                    if self.short.get() == 0 {
                        self.short.add(1);
                        let (path, needed) = (self.files.path(JOURNAL), self.length);
                        tell(&Event::NoRoom { path, needed, error: error.to_string() });
                    }
                    let mut state = self.state.lock();
                    if !state.closed {
                        self.changed.wait_for(&mut state, REST);
                    }
                }
            }
        }
    }
}
