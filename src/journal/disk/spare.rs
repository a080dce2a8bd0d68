//! The next segment, allocated and zeroed in advance, so that later writes always find room.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::files::{File, Files, JOURNAL, PIECE, pieces, read_full, write_all, written_pieces};
use super::segment::{self, HEADER, Header};
use super::tail::Next;
use crate::error::Exhausted;
use crate::event::Event;
use crate::folder::is_out_of_room;
use crate::foreign::Observer;
use crate::kernel::cells::Flag;
use crate::opening::OpenError;

pub(super) const NAME: &str = "journal/spare";
const UNFINISHED: &str = "journal/spare.tmp";
/// The pause after a failure.
const REST: Duration = Duration::from_millis(250);

/// The time between two checks of the thread.
const LOOK: Duration = Duration::from_secs(1);

/// The place where the next segment waits.
pub(super) struct Spare {
    files: Arc<dyn Files>,
    /// How long a segment is, in bytes.
    pub(super) length: u64,
    state: Mutex<State>,
    changed: Condvar,
    observer: Observer,
    /// Whether there is no spare and none can be made, for the reason in `state.failure`; set under that lock.
    short: Flag,
}

#[derive(Default)]
struct State {
    /// A zeroed file under the spare's name.
    ready: Option<Box<dyn File>>,
    /// A thread is making a spare or giving one away; nobody else touches the spare's names.
    busy: bool,
    closed: bool,
    /// Why the last attempt to make or rename a spare failed.
    failure: Option<Event>,
    /// The `failure` that the observer was last told about.
    told: Option<Event>,
}

impl Spare {
    pub(super) fn new(files: Arc<dyn Files>, length: u64, observer: Observer) -> Self {
        Spare { files, length, state: Mutex::default(), changed: Condvar::new(), observer, short: Flag::new() }
    }

    /// Why there is no spare and none can be made; None while there is one or one can be made.
    pub(super) fn shortage(&self) -> Option<Exhausted> {
        if !self.short.is_set() {
            return None;
        }
        let path = self.files.path(JOURNAL).display().to_string();
        match &self.state.lock().failure {
            Some(Event::SegmentFailed { error, .. }) => Some(Exhausted::Segment { path, what: error.clone() }),
            _ => Some(Exhausted::Disk { path, needed: self.length }),
        }
    }

    /// Makes the first segment of a journal that nobody uses yet.
    pub(super) fn begin(&self, name: &str, header: &[u8]) -> io::Result<Box<dyn File>> {
        let begun = self.find_or_make().and_then(|file| {
            begin_with(&*file, header)?;
            self.files.rename(NAME, name)?;
            Ok(file)
        });
        let file = begun.inspect_err(|_| self.remove(NAME))?;
        self.files.sync_folder(JOURNAL)?;
        Ok(file)
    }

    /// Makes one now, or finds the one that an earlier process left.
    fn prepare(&self) -> io::Result<()> {
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

    fn find_or_make(&self) -> io::Result<Box<dyn File>> {
        self.left_over().or_else(|_| self.make().inspect_err(|_| self.remove(UNFINISHED)))
    }

    /// A spare is complete: it is renamed only once all of it is zeroed. Only a header can be left, from an interrupted
    /// take.
    fn left_over(&self) -> io::Result<Box<dyn File>> {
        let file = self.files.open(NAME)?;
        // It has another length, or contents: it was made for other segments, or by somebody else. Removing it makes
        // room.
        if file.length()? != self.length || written_pieces(&*file, HEADER, self.length, |_| Ok(()))? > 0 {
            self.remove(NAME);
            return Err(io::ErrorKind::InvalidData.into());
        }
        begin_with(&*file, &[0; HEADER as usize])?;
        Ok(file)
    }

    fn make(&self) -> io::Result<Box<dyn File>> {
        let file = self.files.create(UNFINISHED)?;
        let zeros = vec![0; PIECE];
        for piece in pieces(0, self.length) {
            write_all(&*file, &zeros[..(piece.end - piece.start) as usize], piece.start)?;
        }
        file.sync()?;
        self.files.rename(UNFINISHED, NAME)?;
        self.files.sync_folder(JOURNAL)?;
        Ok(file)
    }

    fn remove(&self, name: &str) {
        // What cannot be removed now is overwritten by the next attempt.
        let _ = self.files.remove(name);
    }

    /// Renames the spare to a segment's name, with `header` in it. Waits for a spare and until the rename succeeds;
    /// once closed, makes the spare itself.
    pub(super) fn take(&self, name: &str, header: &[u8]) -> io::Result<Box<dyn File>> {
        let mut state = self.state.lock();
        while state.busy || (state.ready.is_none() && !state.closed) {
            self.changed.wait(&mut state);
        }
        let ready = state.ready.take();
        state.busy = true;
        drop(state);
        let given = ready.map_or_else(|| self.find_or_make(), Ok).and_then(|file| self.give(file, name, header));
        self.state.lock().busy = false;
        self.changed.notify_all();
        given
    }

    fn give(&self, mut file: Box<dyn File>, name: &str, header: &[u8]) -> io::Result<Box<dyn File>> {
        begin_with(&*file, header)?;
        // A failed rename has changed nothing, so it can be repeated until it succeeds.
        while let Err(error) = self.files.rename(NAME, name) {
            if self.state.lock().closed {
                return Err(error);
            }
            self.note(&error);
            self.rest();
            if error.kind() == io::ErrorKind::NotFound
                && let Ok(another) = self.find_or_make()
            {
                begin_with(&*another, header)?;
                file = another;
            }
        }
        self.recovered();
        self.files.sync_folder(JOURNAL)?;
        Ok(file)
    }

    /// Ends [`Spare::keep_ready`] and every wait for a spare that cannot be made.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// The thread that makes the next spare once the last was taken, and tells the observer. Calls `look` once a second
    /// or more often.
    pub(super) fn keep_ready(&self, look: impl Fn()) {
        loop {
            look();
            self.tell();
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            if state.failure != state.told {
                continue;
            }
            if state.busy || state.ready.is_some() {
                self.changed.wait_for(&mut state, LOOK);
                continue;
            }
            drop(state);
            match self.prepare() {
                Ok(()) => self.recovered(),
                Err(error) => {
                    self.note(&error);
                    self.tell();
                    self.rest();
                }
            }
        }
    }

    /// A spare exists again, or its rename has succeeded.
    fn recovered(&self) {
        let mut state = self.state.lock();
        state.failure = None;
        self.short.set_to(false);
        drop(state);
        self.changed.notify_all();
    }

    /// Records a failure.
    fn note(&self, error: &io::Error) {
        let failure = self.failed(error);
        let mut state = self.state.lock();
        state.failure = Some(failure);
        self.short.set_to(true);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits before the next attempt.
    fn rest(&self) {
        let mut state = self.state.lock();
        if !state.closed {
            self.changed.wait_for(&mut state, REST);
        }
    }

    /// Reports a change of `failure` to the observer. Only [`Self::keep_ready`] does that: a thread that takes a spare
    /// holds the journal's end meanwhile.
    fn tell(&self) {
        let mut state = self.state.lock();
        if state.failure == state.told {
            return;
        }
        state.told = state.failure.clone();
        let event = state.told.clone().unwrap_or(Event::RoomAgain);
        drop(state);
        self.observer.tell(&event);
    }

    fn failed(&self, error: &io::Error) -> Event {
        let (path, needed, what) = (self.files.path(JOURNAL), self.length, error.to_string());
        match is_out_of_room(error) {
            true => Event::NoRoom { path, needed, error: what },
            false => Event::SegmentFailed { path, error: what },
        }
    }
}

/// Makes `header` durable at the beginning of `file`.
fn begin_with(file: &dyn File, header: &[u8]) -> io::Result<()> {
    write_all(file, header, 0)?;
    file.sync()
}

/// Fails if the spare is really a segment that lost its name: it continues the journal's end and holds entries.
pub(super) fn check(files: &dyn Files, last: &Header, end: &Next) -> Result<(), OpenError> {
    let cannot = |error| OpenError::Io { path: files.path(NAME), what: "read", error };
    let mut bytes = vec![0; HEADER as usize];
    let file = match files.open(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(cannot)?,
    };
    let read = read_full(&*file, &mut bytes, 0).map_err(cannot)?;
    let follows = |header: &Header| {
        let (batch, first, before) = (header.batch, header.first, header.before);
        header.follow(last).is_ok() && (batch, first, before) == (end.batch, end.sequence, end.before)
    };
    let Some(header) = Header::read(&bytes[..read]).ok().filter(follows) else { return Ok(()) };
    let length = file.length().map_err(cannot)?;
    if written_pieces(&*file, HEADER, length, |_| Ok(())).map_err(cannot)? == 0 {
        return Ok(());
    }
    let (file, name) = (files.path(NAME), files.path(&segment::name(header.number)));
    let what = format!("it is the segment that belongs to {}, with something in it", name.display());
    Err(OpenError::Damaged { file, offset: HEADER, what })
}
