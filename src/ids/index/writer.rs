//! Writing a run: under another name until it is complete and durable.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::filter::Filter;
use super::format::{Header, PAGE, PER_PAGE, RECORD, Span, seal};
use super::run::Run;
use super::{IndexError, Key, Record, unwritable};

/// Written at once.
const BUFFER: usize = 1 << 20;

/// A long run is made durable piece by piece: other files' fsyncs need not wait for all of it.
const SYNCED_AT_ONCE: usize = 16 << 20;

/// A run that is being written. Abandoned, it leaves nothing.
pub(super) struct Writer<'a> {
    dir: &'a Path,
    unfinished: PathBuf,
    file: File,
    header: Header,
    buffer: Vec<u8>,
    /// Records in the page at the end of the buffer.
    in_page: usize,
    not_synced: usize,
    fences: Vec<Key>,
    filter: Filter,
    finished: bool,
}

impl<'a> Writer<'a> {
    /// Begins the run of `span`, of at most `ids` ids.
    pub(super) fn begin(dir: &'a Path, ledger: [u8; 16], span: Span, ids: u64) -> Result<Writer<'a>, IndexError> {
        let unfinished = dir.join(span.unfinished_name());
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&unfinished);
        let file = file.map_err(|error| unwritable(&unfinished, &error))?;
        let filter = Filter::for_ids(ids);
        Ok(Writer {
            dir,
            unfinished,
            file,
            header: Header { ledger, span, records: 0, blocks: filter.blocks(), checksum: 0 },
            // The header's place, until all of it is known.
            buffer: vec![0; PAGE],
            in_page: 0,
            not_synced: 0,
            fences: Vec::new(),
            filter,
            finished: false,
        })
    }

    /// Adds a record; their keys ascend.
    pub(super) fn push(&mut self, record: &Record) -> Result<(), IndexError> {
        if self.in_page == 0 {
            self.fences.push(record.key);
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
        seal(&mut self.buffer[begin..], self.fences.len() as u64 - 1, self.header.span);
        self.in_page = 0;
        if self.buffer.len() >= BUFFER {
            self.write().map_err(|error| unwritable(&self.unfinished, &error))?;
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
        let tail = self.buffer.len();
        let fences = std::mem::take(&mut self.fences);
        self.buffer.extend(fences.iter().flat_map(|fence| fence.0.to_be_bytes()));
        self.fences = fences;
        let mut checksum = crc32c::crc32c(&self.buffer[tail..]);
        self.write()?;
        let filter = std::mem::replace(&mut self.filter, Filter::for_ids(0));
        for block in filter.bytes() {
            self.buffer.extend_from_slice(&block);
            if self.buffer.len() >= BUFFER {
                checksum = crc32c::crc32c_append(checksum, &self.buffer);
                self.write()?;
            }
        }
        checksum = crc32c::crc32c_append(checksum, &self.buffer);
        self.write()?;
        self.filter = filter;
        self.header.checksum = checksum;
        self.file.write_all_at(&self.header.page(), 0)?;
        self.file.sync_all()
    }

    /// Completes it, makes it durable, and gives it its name.
    pub(super) fn finish(mut self) -> Result<Run, IndexError> {
        if self.in_page > 0 {
            self.end_page()?;
        }
        let path = self.dir.join(self.header.span.name());
        let named = |writer: &mut Self| {
            writer.write_tail()?;
            let file = writer.file.try_clone()?;
            fs::rename(&writer.unfinished, &path)?;
            writer.finished = true;
            File::open(writer.dir)?.sync_all()?;
            Ok(file)
        };
        let file = named(&mut self).map_err(|error: io::Error| unwritable(&path, &error))?;
        let (fences, filter) =
            (std::mem::take(&mut self.fences), std::mem::replace(&mut self.filter, Filter::for_ids(0)));
        Ok(Run::written(path, self.header, file, fences, filter))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Otherwise the next start removes it.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}
