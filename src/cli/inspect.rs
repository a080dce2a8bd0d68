//! `equipoise inspect`: what is in a journal, for people.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::entry::{EntryRecord, Stop, not_there_yet};
use super::exit::Failure;
use super::output::{Output, Page, Record, escape};
use super::record::nanoseconds;
use crate::verify::{Batch, Change, Directory, Entry, Header, Sections, Visitor, hex, walk};

/// Print what is in a journal: its segments and batches, what they note about sources, and with --from or --limit their
/// entries
///
/// Reads the files; no service is asked. The chain is checked on the way, but not what the entries say: verify does
/// that. The last line, or with --json the last object, tells how the journal ends. If it is missing, not everything
/// was printed.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise inspect /var/lib/equipoise
  equipoise inspect /var/lib/equipoise --from 4711 --limit 1")]
pub(super) struct Inspect {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print entries, from this sequence on
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Print at most N entries
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    limit: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

impl Inspect {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let directory = Directory::open(&self.directory).map_err(Failure::Damage)?;
        let from = self.from.unwrap_or(0);
        let with_entries = self.from.is_some() || self.limit.is_some();
        let mut printer = Printer {
            output: Output::new(self.json),
            from,
            left: self.limit.unwrap_or(u64::MAX),
            with_entries,
            sections: Sections::default(),
            begun: false,
            first: true,
        };
        let end = match walk(&directory, directory.segment_of(from), &mut printer) {
            Ok(end) => end,
            Err(Stop::Enough) => return Ok(printer.output.flush()?),
            Err(Stop::Failed(failure)) => {
                // What was read before the bad place is printed before the complaint about it.
                printer.output.flush()?;
                return Err(failure);
            }
        };
        let (next_batch, next_sequence) = end.link.as_ref().map_or((1, 1), |link| (link.batch, link.sequence));
        let notes = [directory.notes(), &end.notes].concat();
        printer.output.record(&Line::End { next_batch, next_sequence, notes })?;
        printer.output.flush()?;
        match end.last_sequence() {
            last if from > last => Err(not_there_yet(from, last)),
            _ => Ok(()),
        }
    }
}

struct Printer {
    output: Output,
    from: u64,
    left: u64,
    with_entries: bool,
    sections: Sections,
    /// Whether a segment was seen.
    begun: bool,
    /// Whether no batch was shown yet.
    first: bool,
}

impl Visitor for Printer {
    type Error = Stop;

    fn segment(&mut self, file: &Path, header: &Header) -> Result<(), Stop> {
        let Header { number, first_batch, first_sequence, .. } = *header;
        if !std::mem::replace(&mut self.begun, true) && (1..first_sequence).contains(&self.from) {
            return Err(Stop::dropped("--from", self.from, first_sequence));
        }
        let file = file.display().to_string();
        let ledger_id = hex(&header.ledger);
        Ok(self.output.record(&Line::Segment { file, number, ledger_id, first_batch, first_sequence })?)
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Stop> {
        let Batch { offset, number, first_sequence, count, .. } = *batch;
        self.sections.take(batch, self.first)?;
        self.first &= !batch.section().is_empty();
        if first_sequence.saturating_add(u64::from(count)) <= self.from && self.with_entries {
            return Ok(());
        }
        let (bytes, time, hash) = (batch.bytes(), nanoseconds(batch.time), hex(&batch.hash));
        let (closing, notes) = (batch.closing(), batch.section().len());
        self.output.record(&Line::Batch {
            offset,
            number,
            first_sequence,
            count,
            bytes,
            time,
            hash,
            closing,
            notes,
        })?;
        let output = &mut self.output;
        self.sections.changes(batch, |change| Ok::<_, Stop>(Ok(output.record(&Line::of(change))?)))?;
        if !self.with_entries {
            return Ok(());
        }
        let mut entry = Entry::default();
        let mut frames = batch.frames();
        while frames.next(&mut entry)? {
            if entry.sequence >= self.from {
                self.output.record(&Line::Entry(EntryRecord::from(&entry)))?;
                self.left -= 1;
                if self.left == 0 {
                    return Err(Stop::Enough);
                }
            }
        }
        Ok(())
    }
}

/// What is printed, one a line in JSON.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Segment {
        file: String,
        number: u64,
        ledger_id: String,
        first_batch: u64,
        first_sequence: u64,
    },
    Batch {
        offset: usize,
        number: u64,
        first_sequence: u64,
        count: u32,
        bytes: usize,
        time: String,
        hash: String,
        closing: bool,
        /// Bytes of notes about sources.
        notes: usize,
    },
    Position {
        source: String,
        next: i64,
        fingerprint: i64,
        /// It went back, on purpose.
        anew: bool,
    },
    Parked {
        record: u64,
        bytes: usize,
    },
    Unparked {
        record: u64,
    },
    Entry(EntryRecord),
    End {
        next_batch: u64,
        next_sequence: u64,
        notes: Vec<String>,
    },
}

impl Line {
    fn of(change: Change<'_>) -> Self {
        match change {
            Change::Position { source, next, fingerprint, anew } => {
                Line::Position { source: source.to_owned(), next, fingerprint, anew }
            }
            Change::Parked { number, record } => Line::Parked { record: number, bytes: record.len() },
            Change::Unparked { number } => Line::Unparked { record: number },
        }
    }
}

impl Record for Line {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self {
            Line::Segment { file, number, ledger_id, first_batch, first_sequence } => page.line(format_args!(
                "segment {number}  ledger {ledger_id}  from batch {first_batch}, sequence {first_sequence}  {}",
                escape(file)
            )),
            Line::Batch { offset, number, first_sequence, count, bytes, time, hash, closing, notes } => {
                let entries = match (closing, count) {
                    (true, _) => "closing".to_owned(),
                    (false, count) => format!("{count} entries from sequence {first_sequence}"),
                };
                let notes = if *notes > 0 { format!("  {notes} bytes of notes") } else { String::new() };
                page.line(format_args!(
                    "batch {number}  offset {offset}  {bytes} bytes  {entries}{notes}  {time}  hash {hash}"
                ))
            }
            Line::Position { source, next, fingerprint, anew } => {
                let goes_on = if *anew { "begins anew" } else { "goes on" };
                page.line(format_args!("source {} {goes_on} at {next}, fingerprint {fingerprint}", escape(source)))
            }
            Line::Parked { record, bytes } => page.line(format_args!("record {record} parked, {bytes} bytes")),
            Line::Unparked { record } => page.line(format_args!("record {record} taken back")),
            Line::Entry(entry) => entry.write(page),
            Line::End { next_batch, next_sequence, notes } => {
                for note in notes {
                    page.line(format_args!("note: {}", escape(note)))?;
                }
                page.line(format_args!("end of the journal: batch {next_batch}, sequence {next_sequence} come next"))
            }
        }
    }
}
