//! Builds a directory from what recovery finds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;

use crate::account::{AccountId, Balance};
use crate::directory::Directory;
use crate::error::Exhausted;
use crate::journal::disk::recovery::{Recorded, Recovered};
use crate::kernel::slab::SlabIndex;

/// A directory that takes the state of an earlier process.
pub(crate) struct Restoration {
    directory: Directory,
    /// What the journal changed. Most accounts change often: only the last state goes into the directory, at the end.
    changed: HashMap<AccountId, Changed, RandomState>,
}

struct Changed {
    index: SlabIndex,
    state: Balance,
    sequence: u64,
}

impl Restoration {
    /// Of a directory as [`Directory::new`] makes it.
    pub(crate) fn new(cached: bool, capacity: usize) -> Self {
        Restoration { directory: Directory::new(cached, capacity), changed: HashMap::default() }
    }

    /// Takes what comes next.
    pub(crate) fn take(&mut self, recovered: Recovered) -> Result<(), Exhausted> {
        match recovered {
            Recovered::Loaded(accounts) => self.directory.load(accounts),
            Recovered::Changed(recorded) => self.change(recorded)?,
        }
        Ok(())
    }

    fn change(&mut self, Recorded { id, state, sequence }: Recorded) -> Result<(), Exhausted> {
        match self.changed.entry(id) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                (known.state, known.sequence) = (state, sequence);
            }
            Entry::Vacant(new) => {
                let index = self.directory.find_or_make_open(new.key())?;
                new.insert(Changed { index, state, sequence });
            }
        }
        Ok(())
    }

    /// The directory, once everything was taken.
    pub(crate) fn finish(self) -> Directory {
        let Restoration { mut directory, changed } = self;
        for Changed { index, state, sequence } in changed.into_values() {
            directory.restore(index, sequence, state);
        }
        directory
    }
}
