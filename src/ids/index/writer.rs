//! Writing a run: under another name until it is complete and durable.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::fences::Fences;
use super::filter::Filter;
use super::format::{Header, PAGE, PER_PAGE, RECORD, Span, seal};
use super::run::Run;
use super::{IdRecord, IndexError, Key, unwritable};
use crate::folder::Folder;

/// Written at once.
const BUFFER: usize = 1 << 20;

/// A long run is made durable piece by piece: other files' fsyncs need not wait for all of it.
const SYNCED_AT_ONCE: usize = 16 << 20;

/// A run that is being written. Abandoned, it leaves nothing.
pub(super) struct Writer<'a> {
    dir: &'a Folder,
    file: File,
    header: Header,
    buffer: Vec<u8>,
    /// Records in the page at the end of the buffer.
    in_page: usize,
    not_synced: usize,
    /// The first key of each page.
    first_keys: Vec<Key>,
    filter: Filter,
    finished: bool,
}

impl<'a> Writer<'a> {
    /// Begins the run of `span`, of at most `ids` ids, in an index of `ledger` that begins with sequence `begin`.
    pub(super) fn new(
        dir: &'a Folder,
        ledger: [u8; 16],
        begin: u64,
        span: Span,
        ids: u64,
    ) -> Result<Writer<'a>, IndexError> {
        let unfinished = span.unfinished_name();
        let file = dir.create(&unfinished).map_err(|error| unwritable(&dir.path_of(&unfinished), &error))?;
        let filter = Filter::for_ids(ids);
        // Reserved at once: a growing Vec leaves freed blocks that the allocator cannot use again.
        let mut buffer = Vec::with_capacity(BUFFER);
        // The header's place, until all of it is known.
        buffer.resize(PAGE, 0);
        Ok(Writer {
            dir,
            file,
            header: Header { ledger, span, records: 0, blocks: filter.blocks(), checksum: 0, begin },
            buffer,
            in_page: 0,
            not_synced: 0,
            first_keys: Vec::with_capacity(ids.div_ceil(PER_PAGE as u64) as usize),
            filter,
            finished: false,
        })
    }

    /// Adds a record; their keys ascend.
    pub(super) fn push(&mut self, record: &IdRecord) -> Result<(), IndexError> {
        if self.in_page == 0 {
            self.first_keys.push(record.key);
        }
        self.filter.insert(record.key);
        self.buffer.extend_from_slice(&record.bytes());
        self.header.records += 1;
        self.in_page += 1;
        if self.in_page == PER_PAGE {
            self.end_page()?;
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), IndexError> {
        let begin = self.buffer.len() - self.in_page * RECORD;
        self.buffer.resize(begin + PAGE, 0);
        seal(&mut self.buffer[begin..], self.first_keys.len() as u64 - 1, self.header.span);
        self.in_page = 0;
        if self.buffer.len() >= BUFFER {
            let unfinished = |writer: &Self| writer.dir.path_of(&writer.header.span.unfinished_name());
            self.write().map_err(|error| unwritable(&unfinished(self), &error))?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.not_synced += self.buffer.len();
        self.buffer.clear();
        if self.not_synced >= SYNCED_AT_ONCE {
            self.file.sync_data()?;
            self.not_synced = 0;
        }
        Ok(())
    }

    fn write_tail(&mut self) -> io::Result<()> {
        self.write()?;
        let mut checksum = 0;
        let first_keys = std::mem::take(&mut self.first_keys);
        first_keys.iter().try_for_each(|key| self.write_checked(&key.0.to_be_bytes(), &mut checksum))?;
        self.first_keys = first_keys;
        let filter = std::mem::replace(&mut self.filter, Filter::for_ids(0));
        filter.bytes().try_for_each(|block| self.write_checked(&block, &mut checksum))?;
        self.filter = filter;
        self.header.checksum = crc32c::crc32c_append(checksum, &self.buffer);
        self.write()?;
        self.file.write_all_at(&self.header.page(), 0)?;
        self.file.sync_all()
    }

    /// Writes a piece of the tail, and adds to `checksum` what has left the buffer.
    fn write_checked(&mut self, piece: &[u8], checksum: &mut u32) -> io::Result<()> {
        if self.buffer.len() + piece.len() > BUFFER {
            *checksum = crc32c::crc32c_append(*checksum, &self.buffer);
            self.write()?;
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// Completes it, makes it durable, and gives it its name.
    pub(super) fn finish(mut self) -> Result<Run, IndexError> {
        if self.in_page > 0 {
            self.end_page()?;
        }
        let path = self.dir.path_of(&self.header.span.name());
        let named = |writer: &mut Self| {
            writer.write_tail()?;
            let file = writer.file.try_clone()?;
            let span = writer.header.span;
            writer.dir.rename(&span.unfinished_name(), &span.name())?;
            writer.finished = true;
            writer.dir.sync()?;
            Ok(file)
        };
        let file = named(&mut self).map_err(|error: io::Error| unwritable(&path, &error))?;
        let fences = Fences::new(self.first_keys.iter().copied());
        let filter = std::mem::replace(&mut self.filter, Filter::for_ids(0));
        Ok(Run::written(path, self.header, file, fences, filter))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Otherwise the next start removes it.
            let _ = self.dir.remove(&self.header.span.unfinished_name());
        }
    }
}
