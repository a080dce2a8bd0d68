//! A run: ids of a span of entries, sorted, in one file that never changes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::fences::Fences;
use super::filter::Filter;
use super::format::{FENCE, Header, PAGE, Span, records};
use super::{IdRecord, IndexError, Indexed, Key, damaged, unreadable};
use crate::folder::Folder;

/// An open run. It stays readable after its file was removed.
pub(super) struct Run {
    /// For people.
    path: PathBuf,
    pub(super) header: Header,
    file: File,
    fences: Fences,
    pub(super) filter: Filter,
}

impl Run {
    /// Reads everything but the records of a run of this ledger; of any, without one.
    pub(super) fn open(dir: &Folder, span: Span, ledger: Option<&[u8; 16]>) -> Result<Run, IndexError> {
        let path = dir.path_of(&span.name());
        let cannot = |error: io::Error| unreadable(&path, &error);
        let wrong = |what: &str| damaged(&path, what);
        let (file, header) = Self::open_header(dir, span, ledger)?;
        let (begin, length) = header.tail().ok_or_else(|| wrong("its header cannot be right"))?;
        // Checked before anything of that length is allocated.
        if begin.checked_add(length) != Some(file.metadata().map_err(cannot)?.len()) {
            return Err(wrong("it has not the length that its header says"));
        }
        let mut tail = vec![0; length as usize];
        file.read_exact_at(&mut tail, begin).map_err(cannot)?;
        if crc32c::crc32c(&tail) != header.checksum {
            return Err(wrong("the checksum of its fences and filter is wrong"));
        }
        let (fences, filter) = tail.split_at(header.pages() as usize * FENCE);
        let (fences, filter) = (Fences::of_bytes(fences), Filter::of_bytes(filter));
        Ok(Run { path, header, file, fences, filter })
    }

    /// As [`Run::open`], its header alone.
    pub(super) fn open_header(
        dir: &Folder,
        span: Span,
        ledger: Option<&[u8; 16]>,
    ) -> Result<(File, Header), IndexError> {
        let path = dir.path_of(&span.name());
        let cannot = |error: io::Error| unreadable(&path, &error);
        let wrong = |what: &str| damaged(&path, what);
        let file = dir.open_read(&span.name()).map_err(cannot)?;
        let mut page = [0; PAGE];
        file.read_exact_at(&mut page, 0).map_err(cannot)?;
        let header = Header::read(&page).map_err(wrong)?;
        if ledger.is_some_and(|ledger| header.ledger != *ledger) {
            return Err(wrong("it is another ledger's"));
        }
        if header.span != span {
            return Err(wrong("it has another run's name"));
        }
        Ok((file, header))
    }

    /// One that was just written to `file`.
    pub(super) fn written(path: PathBuf, header: Header, file: File, fences: Fences, filter: Filter) -> Run {
        Run { path, header, file, fences, filter }
    }

    pub(super) fn span(&self) -> Span {
        self.header.span
    }

    /// How many ids it has.
    pub(super) fn count(&self) -> u64 {
        self.header.records
    }

    /// Reads one page or two. The caller asks the filter first: it excludes most absent keys.
    pub(super) fn find(&self, key: Key) -> Result<Option<Indexed>, IndexError> {
        self.find_in(key, |page, number| self.read(page, number))
    }

    /// As [`Self::find`], without waiting for the disk; None: what is to be read is not in the system's cache.
    pub(super) fn find_cached(&self, key: Key) -> Option<Result<Option<Indexed>, IndexError>> {
        let read = |page: &mut [u8; PAGE], number| match self.read_cached(page, number) {
            true => Ok(()),
            false => Err(Unread::NotCached),
        };
        match self.find_in(key, read) {
            Ok(found) => Some(Ok(found)),
            Err(Unread::Wrong(error)) => Some(Err(error)),
            Err(Unread::NotCached) => None,
        }
    }

    fn find_in<E: From<IndexError>>(
        &self,
        key: Key,
        read: impl Fn(&mut [u8; PAGE], u64) -> Result<(), E>,
    ) -> Result<Option<Indexed>, E> {
        let Some(pages) = self.fences.pages_of(key) else { return Ok(None) };
        let mut page = [0; PAGE];
        for number in pages.rev() {
            let number = number as u64;
            read(&mut page, number)?;
            let records = records(&page, number, &self.header).map_err(|what| damaged(&self.path, what))?;
            match records.binary_search_by(|record| record[..16].cmp(&key.0.to_be_bytes()[..])) {
                Ok(place) => return Ok(Some(IdRecord::read(&records[place]).indexed)),
                // Before the first: it may be in the page before.
                Err(0) => {}
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    fn read(&self, pages: &mut [u8], number: u64) -> Result<(), IndexError> {
        self.file.read_exact_at(pages, (number + 1) * PAGE as u64).map_err(|error| unreadable(&self.path, &error))
    }

    /// Whether the page was in the system's cache, where the system can tell.
    fn read_cached(&self, page: &mut [u8; PAGE], number: u64) -> bool {
        #[cfg(target_os = "linux")]
        {
            use rustix::io::{ReadWriteFlags, preadv2};
            let into = &mut [io::IoSliceMut::new(page)];
            preadv2(&self.file, into, (number + 1) * PAGE as u64, ReadWriteFlags::NOWAIT) == Ok(PAGE)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (page, number);
            false
        }
    }

    /// All its records, in order.
    pub(super) fn records(&self) -> Records<'_> {
        Records { run: self, number: 0, pages: Vec::new(), page: 0, place: 0 }
    }

    /// Removes its file from `dir`.
    pub(super) fn remove(&self, dir: &Folder) -> Result<(), IndexError> {
        match dir.remove(&self.span().name()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(super::unwritable(&self.path, &error)),
            _ => Ok(()),
        }
    }
}

/// Why a look into the system's cache finds neither a record nor that there is none.
enum Unread {
    NotCached,
    Wrong(IndexError),
}

impl From<IndexError> for Unread {
    fn from(error: IndexError) -> Self {
        Unread::Wrong(error)
    }
}

/// Pages that are read at once when all are.
const PAGES_AT_ONCE: u64 = 16;

/// A walk through a run, with a few pages of it in memory.
pub(super) struct Records<'a> {
    run: &'a Run,
    /// Of the first page in `pages`.
    number: u64,
    pages: Vec<u8>,
    page: usize,
    place: usize,
}

impl Records<'_> {
    pub(super) fn next(&mut self) -> Result<Option<IdRecord>, IndexError> {
        let header = &self.run.header;
        let at_end = self.pages.is_empty() || self.place == header.records_in(self.number + self.page as u64);
        if at_end && !self.turn()? {
            return Ok(None);
        }
        let page = &self.pages[self.page * PAGE..][..PAGE];
        let (records, _) = page.as_chunks();
        let record = IdRecord::read(&records[self.place]);
        self.place += 1;
        Ok(Some(record))
    }

    /// Goes to the next page; whether there is one.
    fn turn(&mut self) -> Result<bool, IndexError> {
        let held = (self.pages.len() / PAGE) as u64;
        self.place = 0;
        if held > 0 && self.page as u64 + 1 < held {
            self.page += 1;
        } else {
            self.number += held;
            self.page = 0;
            let left = (self.run.header.pages() - self.number).min(PAGES_AT_ONCE);
            self.pages.resize(left as usize * PAGE, 0);
            if left == 0 {
                return Ok(false);
            }
            self.run.read(&mut self.pages, self.number)?;
        }
        let (number, page) = (self.number + self.page as u64, &self.pages[self.page * PAGE..][..PAGE]);
        records(page, number, &self.run.header).map_err(|what| damaged(&self.run.path, what))?;
        Ok(true)
    }
}
