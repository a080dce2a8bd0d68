//! How much room a data directory takes, and for what.

use std::fs;
use std::path::Path;

use super::batch::Batch;
use super::chain::{Visitor, walk};
use super::checkpoint;
use super::directory::Directory;
use super::frame::Entry;
use super::index;
use super::problem::Problem;
use super::segment::{HEADER, Header};
use super::sources::{Sections, Sources};

/// What is there. Sizes are in bytes, times in nanoseconds since the Unix epoch.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) ledger: Option<[u8; 16]>,
    pub(crate) segments: u64,
    pub(crate) segment_bytes: u64,
    /// Headers and batches; the rest is room for more.
    pub(crate) used_bytes: u64,
    pub(crate) spare_bytes: u64,
    pub(crate) checkpoints: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) batches: u64,
    pub(crate) entries: u64,
    /// 0 when there is no entry.
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    /// The number of accounts in the newest checkpoint, and its sequence.
    pub(crate) accounts: Option<(u64, u64)>,
    /// The number of ids in the index, or why they are not counted.
    pub(crate) ids: Result<u64, String>,
    /// What the index takes in memory while it is in use, if its ids are counted.
    pub(crate) index_resident_bytes: u64,
    /// The number of known sources, and of parked records; None if that is unknown, because notes were dropped.
    pub(crate) sources: Option<(u64, u64)>,
    pub(crate) notes: Vec<String>,
}

impl Sizes {
    fn new() -> Self {
        Sizes {
            ledger: None,
            segments: 0,
            segment_bytes: 0,
            used_bytes: 0,
            spare_bytes: 0,
            checkpoints: 0,
            checkpoint_bytes: 0,
            index_bytes: 0,
            batches: 0,
            entries: 0,
            first_sequence: 0,
            last_sequence: 0,
            first_time: 0,
            last_time: 0,
            accounts: None,
            ids: Ok(0),
            index_resident_bytes: 0,
            sources: None,
            notes: Vec::new(),
        }
    }
}

/// Measures `directory`. `progress` is told how many bytes of how many were gone through.
pub(crate) fn measure(directory: &Directory, progress: &mut dyn FnMut(u64, u64)) -> Result<Sizes, Problem> {
    let total = directory.bytes_from(0);
    let sizes = Sizes { segment_bytes: total, notes: directory.notes.clone(), ..Sizes::new() };
    let said = directory.checkpoints.last().map(|(_, path, file)| checkpoint::says(path, file)).transpose();
    let base = match &said {
        Ok(Some((_, sequence, stated))) => Some((*sequence, stated.batch, stated.sources.clone())),
        _ => (directory.first_number == 1).then(Default::default),
    };
    let mut measuring = Measuring { sizes, base, sections: Sections::default(), done: 0, total, progress };
    let end = walk(directory, 0, &mut measuring)?;
    let mut sizes = measuring.sizes;
    sizes.sources = measuring.base.map(|(.., sources)| (sources.count(), sources.parked()));
    sizes.notes.extend(end.notes);
    sizes.segments = directory.segments.len() as u64;
    sizes.spare_bytes = fs::metadata(directory.path.join("journal/spare")).map_or(0, |file| file.len());
    sizes.checkpoints = directory.checkpoints.len() as u64;
    let lengths = directory.checkpoints.iter().filter_map(|(_, _, file)| file.metadata().ok());
    sizes.checkpoint_bytes = lengths.map(|file| file.len()).sum();
    match said {
        Ok(said) => sizes.accounts = said.map(|(accounts, sequence, _)| (accounts, sequence)),
        Err(problem) => sizes.notes.push(problem.to_string()),
    }
    let ids = directory.path.join("ids");
    sizes.index_bytes = bytes_under(&ids);
    sizes.ids = match index::open(&ids, directory.live()) {
        Ok(Ok(index)) => {
            sizes.index_resident_bytes = index.resident_bytes();
            Ok(index.count())
        }
        Ok(Err(why)) => Err(why),
        Err(problem) => Err(problem.to_string()),
    };
    Ok(sizes)
}

/// How long the files under `folder` are together; what goes away meanwhile counts nothing.
fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

struct Measuring<'a> {
    sizes: Sizes,
    /// What the newest checkpoint says, its sequence and its batch, and what the notes after it add.
    base: Option<(u64, u64, Sources)>,
    sections: Sections,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Visitor for Measuring<'_> {
    type Error = Problem;

    fn segment(&mut self, _file: &Path, header: &Header) -> Result<(), Problem> {
        self.sizes.ledger = Some(header.ledger);
        self.sizes.used_bytes += HEADER as u64;
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Problem> {
        let sizes = &mut self.sizes;
        sizes.batches += 1;
        sizes.used_bytes += batch.bytes() as u64;
        let sections = &mut self.sections;
        if let Some((sequence, of, sources)) = &mut self.base {
            let covered = if *of > 0 { batch.number <= *of } else { batch.first_sequence <= *sequence };
            sections.take(batch, covered)?;
            if !covered {
                sections.changes(batch, |change| Ok::<_, Problem>(sources.apply(change)))?;
            }
        }
        if batch.count == 0 {
            return Ok(());
        }
        if sizes.entries == 0 {
            let mut entry = Entry::default();
            batch.frames().next(&mut entry)?;
            (sizes.first_sequence, sizes.first_time) = (entry.sequence, entry.time);
        }
        sizes.entries += u64::from(batch.count);
        sizes.last_sequence = batch.first_sequence.saturating_add(u64::from(batch.count) - 1);
        sizes.last_time = batch.time;
        Ok(())
    }

    fn passed(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(self.done, self.total);
    }
}
