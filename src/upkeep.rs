//! What a ledger's own threads do: flushing, and for a ledger on disk, segments, ids and checkpoints.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::core::Core;
use crate::event::Event;
use crate::ids::IndexError;
use crate::journal::disk::Disk;
use crate::journal::disk::checkpoint::Moment;
use crate::kernel::pin;

/// How long the flusher of a sink in memory collects before it looks again, while nobody waits for it.
const BREATHER: Duration = Duration::from_millis(1);

/// How many accounts a checkpoint copies under one epoch pin.
const STRIDE: usize = 64;

/// Bytes of notes after which a checkpoint is written, however few entries have come: about how many are read again at
/// a start.
const CHECKPOINT_NOTES: u64 = 64 << 20;

/// The first and the longest pause after a checkpoint that failed: a full disk is full a while.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What starts a thread of this name.
pub(crate) type Spawn = dyn FnMut(&str, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

/// Starts a thread of the operating system.
pub(crate) fn spawn(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("equipoise-{name}")).spawn(work)
}

/// Starts the threads that `core` needs; after an error, returns those started before it. They end when `core` is
/// closed.
pub(crate) fn start(core: &Arc<Core>, checkpoint: u64, spawn: &mut Spawn) -> (Vec<JoinHandle<()>>, io::Result<()>) {
    let mut threads = Vec::new();
    let started = tasks(core, checkpoint).into_iter().try_for_each(|(name, work)| {
        let core = core.clone();
        threads.push(spawn(name, Box::new(move || work(&core)))?);
        Ok(())
    });
    (threads, started)
}

type Task = (&'static str, Box<dyn FnOnce(&Core) + Send>);

fn tasks(core: &Core, checkpoint: u64) -> Vec<Task> {
    let mut tasks = Vec::<Task>::new();
    if core.flusher.is_some() {
        tasks.push(("flusher", Box::new(flush_until_closed)));
    }
    if core.disk.is_some() {
        tasks.push(("segments", Box::new(make_segments_until_closed)));
        tasks.push(("ids", Box::new(index_until_closed)));
        tasks.push(("merge", Box::new(merge_until_closed)));
        tasks.push(("checkpoint", Box::new(move |core| checkpoint_until_closed(core, checkpoint))));
        if core.directory.recovered() > 0 {
            tasks.push(("directory", Box::new(|core| core.directory.settle(|| core.closed.is_set()))));
        }
    }
    tasks
}

fn make_segments_until_closed(core: &Core) {
    let Some(disk) = &core.disk else { return };
    disk.keep_spare_ready(|removed| core.give_up(removed));
}

fn flush_until_closed(core: &Core) {
    let Some(flusher) = &core.flusher else { return };
    while !core.closed.is_set() {
        core.bell.listen(|| {
            let durable = core.kernel.durable();
            core.closed.is_set() || core.kernel.now(&pin()) > durable || core.notes.is_due(durable)
        });
        core.flush();
        core.ids.forget_excess(core.kernel.durable(), usize::MAX);
        if !flusher.sink().blocks() && !core.closed.is_set() {
            std::thread::sleep(BREATHER);
        }
    }
}

fn index_until_closed(core: &Core) {
    let Some(disk) = &core.disk else { return };
    let failed = |error: &IndexError| disk.tell(&Event::IndexFailed { what: error.to_string() });
    core.ids.sweep_until_closed(&core.closed, failed);
}

fn merge_until_closed(core: &Core) {
    let (Some(disk), Some(index)) = (&core.disk, core.ids.index()) else { return };
    let failed = |error: &IndexError| disk.tell(&Event::IndexFailed { what: format!("merging: {error}") });
    index.merge_until_closed(&core.closed, failed);
}

/// Writes a checkpoint whenever enough entries, or notes, have come since the one at `last`.
fn checkpoint_until_closed(core: &Core, mut last: u64) {
    let Some(disk) = &core.disk else { return };
    let (mut noted, mut pause) = (0, FIRST_PAUSE);
    // Rung at the end only: otherwise a look every second is soon enough.
    let due = |last: u64, noted: u64| {
        let durable = core.kernel.durable();
        durable.saturating_sub(last) >= core.limits.checkpoint_every
            || (durable > 0 && core.notes.weighed() - noted >= CHECKPOINT_NOTES)
    };
    while !core.closed.is_set() {
        core.checkpoint_bell.listen(|| core.closed.is_set() || due(last, noted));
        if core.closed.is_set() || !due(last, noted) {
            continue;
        }
        let weighed = core.notes.weighed();
        match write_checkpoint(core, disk) {
            Ok(sequence) => (last, noted, pause) = (sequence, weighed, FIRST_PAUSE),
            Err(error) => {
                disk.tell(&Event::CheckpointFailed { what: error.to_string() });
                let again = Instant::now() + pause;
                while Instant::now() < again && !core.closed.is_set() {
                    core.checkpoint_bell.listen(|| core.closed.is_set());
                }
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Writes a checkpoint at the durable sequence beside whoever reads and writes; returns that sequence.
fn write_checkpoint(core: &Core, disk: &Disk) -> io::Result<u64> {
    let Some(flusher) = &core.flusher else { return Ok(0) };
    // So that the next start need not go further back for ids; if it fails, it does.
    let _ = core.ids.sweep(true);
    let moment = flusher.paused(|| (core.kernel.open_durable_snapshot(), core.notes.durable(), disk.newest()));
    let (registered, noted, (batch, time)) = moment.ok_or_else(|| io::Error::other("the journal failed"))?;
    let registered = registered.ok_or_else(|| io::Error::other("too many snapshots are open"))?;
    let sequence = registered.sequence;
    let written = disk.write_checkpoint(&Moment { sequence, time, batch, noted }, |push| {
        let mut after = None;
        let mut copied = Vec::with_capacity(STRIDE);
        while !core.closed.is_set() {
            let guard = &pin();
            for account in core.directory.walk("", after.as_ref().map(crate::AccountId::as_str), STRIDE, guard) {
                core.kernel.trim(account, guard);
                copied.push((account.key().clone(), account.read_at(sequence, guard)));
            }
            let Some((last, _)) = copied.last() else { return Ok(true) };
            after = Some(last.clone());
            for (id, found) in copied.drain(..) {
                let (changed, state) = found.map_err(|_| io::Error::other("a registered snapshot was trimmed"))?;
                if state.version > 0 {
                    push(&id, state, changed)?;
                }
            }
        }
        Ok(false)
    });
    core.kernel.close_snapshot(registered);
    written.map(|()| sequence)
}

#[cfg(all(test, equipoise_engine))]
mod tests {
    use super::*;
    use crate::journal::disk::files::OnDisk;
    use crate::opening::OpenError;
    use crate::site::Site;
    use crate::{AccountId, Ledger};

    /// E4: an opening that cannot start all its threads ends those that it started, and lets go of the directory.
    #[test]
    fn a_thread_that_does_not_start_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let account = AccountId::new("a").expect("an id");
        Ledger::open(dir.path()).expect("opens").create(&account, 1).expect("new");
        for started in 0..6 {
            let mut left = started;
            let mut few = move |name: &str, work| {
                if left == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                left -= 1;
                spawn(name, work)
            };
            let refused = Site::look(dir.path(), &[]).occupy(|root, lock| {
                let files = Arc::new(OnDisk::within(root).expect("opens"));
                Ledger::builder().open_by(files, lock, &mut few)
            });
            assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
            let ledger = Ledger::open(dir.path()).expect("nobody has it");
            assert_eq!(ledger.balance(&account).expect("known").balance, 1);
        }
    }
}
