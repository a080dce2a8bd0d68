//! From a checkpoint to accounts in memory: one thread reads, checks and decodes its blocks, another stores the
//! accounts in their final places. Nothing is allocated just because a file claims a count.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use super::checkpoint::{Accounts, Blocks, Header};
use super::files::File;
use crate::account::Balance;
use crate::journal::Noted;
use crate::kernel::Account;
use crate::kernel::slab::Loaded;

/// How many blocks' accounts may wait: they stay in a processor's cache.
const WAITING: usize = 4;

/// A checkpoint in memory.
pub(super) struct Checkpoint {
    pub(super) header: Header,
    pub(super) noted: Noted,
    /// In ascending order of their ids.
    pub(super) accounts: Loaded<Account<Balance>>,
}

/// The accounts of a block.
type Decoded = Vec<Account<Balance>>;

/// Loads a checkpoint, or returns what is wrong with it. Fails if no second thread can be started.
pub(super) fn load(file: &dyn File) -> io::Result<Result<Checkpoint, String>> {
    let (blocks, noted) = match Blocks::open(file) {
        Ok(opened) => opened,
        Err(what) => return Ok(Err(what)),
    };
    let (full, filled) = sync_channel(WAITING);
    let (empty, emptied) = channel();
    thread::scope(|scope| {
        let named = thread::Builder::new().name("equipoise-blocks".to_owned());
        let reader = named.spawn_scoped(scope, move || decode_all(blocks, &full, &emptied))?;
        let mut accounts = Loaded::new();
        // When this ends it drops the receiver, and the reader stops at its next block.
        let taken = filled.into_iter().try_for_each(|mut decoded: Decoded| {
            let mut each = decoded.drain(..);
            each.try_for_each(|account| accounts.push(account))
                .map_err(|_| "it has more accounts than there can be".to_owned())?;
            drop(each);
            // The reader may have come to the end.
            let _ = empty.send(decoded);
            Ok(())
        });
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(taken.and(read).map(|header| Checkpoint { header, noted, accounts }))
    })
}

/// The reader's thread. Returns the header, if what it says is there.
fn decode_all(
    mut blocks: Blocks<'_>,
    full: &SyncSender<Decoded>,
    emptied: &Receiver<Decoded>,
) -> Result<Header, String> {
    let mut found = Accounts::of(blocks.header);
    let mut block = Vec::new();
    while let Some(at) = blocks.next(&mut block)? {
        let mut decoded = emptied.try_recv().unwrap_or_default();
        found.take(&block, at, |id, state, sequence| {
            let mut account = Account::new(id);
            account.restore(sequence, state);
            decoded.push(account);
        })?;
        if full.send(decoded).is_err() {
            return Err("nobody takes its accounts".to_owned());
        }
    }
    found.finish()
}
