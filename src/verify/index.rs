//! The id index against the journal: the database is opened, and every id of every entry looked up.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use super::batch::Batch;
use super::bytes::{Bytes, Wrong, hex};
use super::chain::{Link, Visitor};
use super::frame::Entry;
use super::ids::key;
use super::problem::Problem;
use super::segment::Header;

/// The index, open. Opening it may make the database tidy its own files.
pub(super) struct Index {
    path: PathBuf,
    ids: Keyspace,
    /// Every id of every entry up to this sequence is in it.
    published: u64,
    /// How many ids were ever put in.
    put: u64,
    _database: Database,
}

/// Where the index says that an id was used.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    sequence: u64,
    time: u64,
    member: u32,
}

/// Opens the index in `path`, or says why it is left out: it is derived data, and the next start makes it anew.
pub(super) fn open(path: &Path, end: &Link) -> Result<Result<Index, String>, Problem> {
    let skipped = |why: String| Ok(Err(format!("the id index was not checked: {why}")));
    // Without this file the database would be made, not opened.
    match path.join("version").metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return skipped("there is none".to_owned()),
        Err(error) => return Err(Problem::unreadable(path, &error)),
        Ok(_) => {}
    }
    let metadata = path.metadata().map_err(|error| Problem::unreadable(path, &error))?;
    if metadata.permissions().readonly() {
        return skipped("its directory is read-only".to_owned());
    }
    // One keyspace is looked up, none is written: small caches and few threads do.
    let database = match Database::builder(path).cache_size(64 << 20).worker_threads(1).open() {
        Ok(database) => database,
        Err(error) => return skipped(format!("it cannot be opened: {error}")),
    };
    if !database.keyspace_exists("ids") || !database.keyspace_exists("meta") {
        return skipped("it was never filled".to_owned());
    }
    let keyspace = |name: &str| database.keyspace(name, KeyspaceCreateOptions::default);
    let opened = keyspace("ids").and_then(|ids| Ok((ids, keyspace("meta")?.get("published")?)));
    let (ids, meta) = match opened {
        Ok(opened) => opened,
        Err(error) => return skipped(format!("it cannot be read: {error}")),
    };
    let Some(meta) = meta else { return skipped("it was never filled".to_owned()) };
    let (published, put) = published(&meta, end).map_err(|wrong| Problem::new(path, wrong.what))?;
    Ok(Ok(Index { path: path.to_owned(), ids, published, put, _database: database }))
}

/// Up to which sequence it is filled, and how many ids were put in.
fn published(meta: &[u8], end: &Link) -> Result<(u64, u64), Wrong> {
    let mut bytes = Bytes::new(meta);
    let (published, ledger, put) = (bytes.u64()?, bytes.array::<16>()?, bytes.u64()?);
    if !bytes.is_empty() {
        return Err(bytes.wrong("`published` is longer than it should be"));
    }
    if ledger != end.ledger {
        let (ledger, expected) = (hex(&ledger), hex(&end.ledger));
        return Err(bytes.wrong(format!("the id index is of ledger {ledger}, the journal of {expected}")));
    }
    let last = end.sequence - 1;
    if published > last {
        return Err(bytes.wrong(format!("published up to sequence {published}; the journal ends at {last}")));
    }
    Ok((published, put))
}

impl Index {
    /// How many ids were ever put in; one that was used again after the window counts twice.
    pub(super) fn count(&self) -> u64 {
        self.put
    }

    /// Looks up every id that `walk` shows.
    pub(super) fn check(self) -> Check {
        Check { index: self, found: 0, reused: HashMap::new() }
    }

    fn get(&self, id: &str) -> Result<Option<Place>, String> {
        let value = self.ids.get(id).map_err(|error| format!("the id index cannot be read: {error}"))?;
        let Some(value) = value else { return Ok(None) };
        let mut bytes = Bytes::new(&value);
        let mut place = || Ok(Place { sequence: bytes.u64()?, time: bytes.u64()?, member: bytes.u32()? });
        let place = place().map_err(|wrong: Wrong| format!("in the id index, id {id}: {}", wrong.what))?;
        match bytes.is_empty() {
            true => Ok(Some(place)),
            false => Err(format!("in the id index, id {id}: more than 20 bytes")),
        }
    }
}

/// The comparison under way.
pub(super) struct Check {
    index: Index,
    found: u64,
    /// Ids that the index knows from a later entry than the one that was looked at: used again after the window.
    reused: HashMap<u128, (String, Place)>,
}

impl Check {
    /// How many ids were found, when all were shown.
    pub(super) fn end(self) -> Result<u64, Problem> {
        match self.reused.into_values().min_by_key(|(_, place)| place.sequence) {
            None => Ok(self.found),
            Some((id, place)) => {
                let what = format!("id {id} is said to be used by sequence {}, which does not", place.sequence);
                Err(Problem { sequence: Some(place.sequence), ..Problem::new(&self.index.path, what) })
            }
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        for (place, member, _) in entry.parts() {
            let Some(id) = member.id else { continue };
            let expected = Place { sequence: entry.sequence, time: entry.time, member: place };
            match self.index.get(id)? {
                Some(place) if place == expected => {
                    self.found += 1;
                    self.reused.remove(&key(id));
                }
                Some(place) if place.sequence > entry.sequence => {
                    self.reused.insert(key(id), (id.to_owned(), place));
                }
                _ if entry.sequence > self.index.published => {}
                Some(place) => {
                    let Place { sequence, time, member } = place;
                    return Err(format!(
                        "the id index has id {id} at sequence {sequence}, time {time}, member {member}; \
                         the journal at sequence {}, time {}, member {}",
                        expected.sequence, expected.time, expected.member,
                    ));
                }
                None => return Err(format!("id {id} is missing in the id index")),
            }
        }
        Ok(())
    }
}

impl Visitor for Check {
    type Error = Problem;

    fn segment(&mut self, _file: &Path, _header: &Header) -> Result<(), Problem> {
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Problem> {
        let mut entry = Entry::default();
        let mut frames = batch.frames();
        while frames.next(&mut entry)? {
            self.entry(&entry).map_err(|what| batch.problem(entry.at, entry.sequence, what))?;
        }
        Ok(())
    }
}
