//! The next segment, allocated and zeroed before it is needed: what is written into it later finds its room.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::files::{File, Files, JOURNAL, PIECE, pieces, write_all, written_pieces};
use crate::error::Exhausted;
use crate::kernel::doorbell::Counter;
use crate::opening::Event;

const NAME: &str = "journal/spare";
const UNFINISHED: &str = "journal/spare.tmp";
/// How long after a failure it is tried again.
const REST: Duration = Duration::from_millis(250);

/// The place where the next segment waits.
pub(super) struct Spare {
    files: Arc<dyn Files>,
    /// How long a segment is, in bytes.
    pub(super) length: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// 1 while there is none and none can be made: a look at it takes no lock.
    short: Counter,
}

#[derive(Default)]
struct State {
    ready: Option<Ready>,
    /// Somebody makes one, or gives one away: the names of the spare are theirs.
    busy: bool,
    closed: bool,
    /// Why none could be made the last time.
    failure: Option<Event>,
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

    /// Why there is none and none can be made; None while all is well.
    pub(super) fn shortage(&self) -> Option<Exhausted> {
        if self.short.get() == 0 {
            return None;
        }
        let path = self.files.path(JOURNAL).display().to_string();
        match &self.state.lock().failure {
            Some(Event::SegmentFailed { error, .. }) => Some(Exhausted::Segment { path, what: error.clone() }),
            _ => Some(Exhausted::Disk { path, needed: self.length }),
        }
    }

    /// Makes one now, or finds the one that an earlier process left.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        while state.busy {
            self.changed.wait(&mut state);
        }
        if state.ready.is_some() {
            return Ok(());
        }
        state.busy = true;
        drop(state);
        let found = self.find_or_make();
        let mut state = self.state.lock();
        state.busy = false;
        self.changed.notify_all();
        state.ready = Some(found?);
        Ok(())
    }

    fn find_or_make(&self) -> io::Result<Ready> {
        self.left_over().or_else(|_| self.make().inspect_err(|_| self.remove(UNFINISHED)))
    }

    /// A spare is whole: it got its name when all of it was zeroed. An interrupted start of it as a segment left a header.
    fn left_over(&self) -> io::Result<Ready> {
        let file = self.files.open(NAME)?;
        let length = file.length()?;
        let header = super::segment::HEADER;
        // Made for other segments, or by somebody else. Gone, it leaves its room to the next.
        if length != self.length || written_pieces(&*file, header, length, |_| Ok(()))? > 0 {
            self.remove(NAME);
            return Err(io::ErrorKind::InvalidData.into());
        }
        write_all(&*file, &[0; super::segment::HEADER as usize], 0)?;
        file.sync()?;
        Ok(Ready { file, length })
    }

    fn make(&self) -> io::Result<Ready> {
        let file = self.files.create(UNFINISHED)?;
        let zeros = vec![0; PIECE];
        for piece in pieces(0, self.length) {
            write_all(&*file, &zeros[..(piece.end - piece.start) as usize], piece.start)?;
        }
        file.sync()?;
        self.files.rename(UNFINISHED, NAME)?;
        self.files.sync_folder(JOURNAL)?;
        Ok(Ready { file, length: self.length })
    }

    fn remove(&self, name: &str) {
        // What cannot be removed now is overwritten by the next attempt.
        let _ = self.files.remove(name);
    }

    /// Gives the spare away under the name of a segment, with `header` in it. Waits for one; once closed, makes it.
    pub(super) fn take(&self, name: &str, header: impl FnOnce(u64) -> Vec<u8>) -> io::Result<Box<dyn File>> {
        let mut state = self.state.lock();
        while state.busy || (state.ready.is_none() && !state.closed) {
            self.changed.wait(&mut state);
        }
        let ready = state.ready.take();
        state.busy = true;
        drop(state);
        let given = ready.map_or_else(|| self.find_or_make(), Ok).and_then(|ready| self.give(ready, name, header));
        self.state.lock().busy = false;
        self.changed.notify_all();
        given
    }

    fn give(&self, ready: Ready, name: &str, header: impl FnOnce(u64) -> Vec<u8>) -> io::Result<Box<dyn File>> {
        write_all(&*ready.file, &header(ready.length), 0)?;
        ready.file.sync()?;
        self.files.rename(NAME, name)?;
        self.files.sync_folder(JOURNAL)?;
        Ok(ready.file)
    }

    /// Ends [`Spare::keep_ready`]; nobody waits for a spare any more that cannot be made.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// The thread that makes the next one as soon as the last was taken.
    pub(super) fn keep_ready(&self, tell: &dyn Fn(&Event)) {
        loop {
            let mut state = self.state.lock();
            while !state.closed && (state.busy || state.ready.is_some()) {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            drop(state);
            match self.prepare() {
                Ok(()) => {
                    if self.state.lock().failure.take().is_some() {
                        self.short.add(-1);
                        tell(&Event::RoomAgain);
                    }
                }
                Err(error) => self.rest_after(self.failed(&error), tell),
            }
        }
    }

    /// Notes why none could be made, tells of it unless it is the same as before, and waits until it is time for another try.
    fn rest_after(&self, failure: Event, tell: &dyn Fn(&Event)) {
        let before = self.state.lock().failure.replace(failure.clone());
        if before.is_none() {
            self.short.add(1);
        }
        if before.as_ref() != Some(&failure) {
            tell(&failure);
        }
        let mut state = self.state.lock();
        if !state.closed {
            self.changed.wait_for(&mut state, REST);
        }
    }

    fn failed(&self, error: &io::Error) -> Event {
        let (path, needed, what) = (self.files.path(JOURNAL), self.length, error.to_string());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Event::NoRoom { path, needed, error: what },
            _ => Event::SegmentFailed { path, error: what },
        }
    }
}
