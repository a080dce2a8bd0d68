//! `equipoise export`: the accounts of a data directory, or its journal's entries, for other programs.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::entry::{EntryRecord, Stop, not_there_yet};
use super::exit::Failure;
use super::exported::{ACCOUNTS, ENTRIES, ENTRIES_END, Header, VERSION};
use super::output::Output;
use super::progress::Bar;
use super::record::AccountRecord;
use crate::grpc::proto;
use crate::verify::{self, Accounts, Batch, Directory, Entry, Unavailable, Visitor, hex, walk};

/// Print all accounts of a data directory as of one sequence, or its journal's entries, as JSON lines
///
/// The first line is an object that says what follows: of which ledger, as of which sequence, how many accounts. Then
/// comes one object per account, in the order of the ids' bytes: what import reads. Entries have one object each, with
/// every change of every account; a last line counts them, and without it some are missing.
///
/// It reads the files; it neither asks nor disturbs a service. Beside a running service it shows the journal as it is
/// at that moment, when the newest entries may be written but not yet on disk. A torn tail, as a crash leaves it, is
/// left out. Every entry that is read is checked and replayed, by code that shares nothing with the service; that takes
/// memory for the accounts.
///
/// The positions of sources such as Kafka topics, and parked records, are not exported: a ledger made from an export
/// reads its topics from where its settings say.
///
/// Transaction ids are not exported either: in a ledger made from an export, a request that is sent again runs again.
/// To keep them, stop the service and copy the directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise export /var/lib/equipoise --output accounts.jsonl
  equipoise export /var/lib/equipoise --at 4711 | jq -c 'select(.balance > 1000)'
  equipoise export /var/lib/equipoise --entries --from 4711")]
pub(super) struct Export {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The sequence to show the accounts as of [default: the newest]
    #[arg(long, value_name = "SEQUENCE")]
    at: Option<u64>,
    /// Print the journal's entries instead of the accounts; with --at, up to that sequence
    #[arg(long)]
    entries: bool,
    /// The first entry wanted [default: the oldest there is]
    #[arg(long, value_name = "SEQUENCE", requires = "entries")]
    from: Option<u64>,
    /// Write to this file instead of stdout; once complete, it replaces the file that was there, and keeps its mode
    ///
    /// It is a new file: owner, group and other names of the old one are not kept.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let directory = Directory::beside(&self.directory).map_err(Failure::Damage)?;
        if let Some(output) = self.output.as_deref().filter(|path| *path != Path::new("-") && self.is_inside(path)) {
            return Err(Failure::Usage(format!("--output {} is in the data directory", output.display())));
        }
        if self.entries { self.entries(&directory) } else { self.accounts(&directory) }
    }

    fn is_inside(&self, path: &Path) -> bool {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A link counts as what it leads to, which would be replaced.
        let place = fs::canonicalize(path).or_else(|_| fs::canonicalize(folder));
        match (place, fs::canonicalize(&self.directory)) {
            (Ok(place), Ok(directory)) => place.starts_with(directory),
            // A missing path is reported elsewhere.
            _ => false,
        }
    }

    fn accounts(&self, directory: &Directory) -> Result<(), Failure> {
        let bar = Bar::of_bytes(false);
        let accounts = Accounts::read(directory, self.at, &mut |done, total| bar.show(done, total));
        bar.clear();
        let accounts = accounts.map_err(|why| self.unavailable(why))?;
        for note in &accounts.notes {
            super::note(note);
        }
        let mut output = Output::json_to(self.output.as_deref())?;
        output.object(&Header {
            kind: ACCOUNTS,
            version: VERSION,
            ledger: hex(&accounts.ledger),
            sequence: accounts.sequence,
            accounts: accounts.len(),
        })?;
        for (id, state, sequence) in accounts.in_order() {
            let (balance, version) = (state.balance, state.version);
            let account = proto::Account { account_id: id.to_owned(), balance, version, sequence };
            output.object(&AccountRecord::from(account))?;
        }
        Ok(output.finish()?)
    }

    fn unavailable(&self, why: Unavailable) -> Failure {
        let at = self.at.map_or(String::new(), |at| format!("--at {at}: "));
        match why {
            Unavailable::Problem(problem) => Failure::Damage(problem),
            Unavailable::Dropped { oldest } => Failure::Refused(format!(
                "{at}the entries before were dropped: the oldest sequence to be had is {oldest}"
            )),
            Unavailable::Ahead { last } => Failure::Refused(format!("{at}the journal ends at sequence {last}")),
        }
    }

    fn entries(&self, directory: &Directory) -> Result<(), Failure> {
        let (from, through) = (self.from.unwrap_or(0), self.at.unwrap_or(u64::MAX));
        if from > through {
            return Err(Failure::Usage(format!("--from {from} is after --at {through}")));
        }
        // Both would be on one screen.
        let to_stdout = self.output.as_deref().is_none_or(|path| path == Path::new("-"));
        let bar = Bar::of_bytes(to_stdout && io::stdout().is_terminal());
        let output = Output::json_to(self.output.as_deref())?;
        let total = directory.bytes();
        let mut printer = Printer {
            output,
            from,
            through,
            begun: false,
            header: None,
            end: EntriesEnd::default(),
            done: 0,
            total,
            bar,
        };
        let ended = walk(directory, directory.segment_of(from), &mut printer);
        printer.bar.clear();
        match ended {
            Ok(end) if from > end.last_sequence() => Err(not_there_yet(from, end.last_sequence())),
            Ok(_) | Err(Stop::Enough) => {
                printer.print_header()?;
                printer.output.object(&printer.end)?;
                Ok(printer.output.finish()?)
            }
            Err(Stop::Failed(failure)) => {
                // Entries before the bad place are printed before the error.
                printer.output.flush()?;
                Err(failure)
            }
        }
    }
}

struct Printer {
    output: Output,
    from: u64,
    through: u64,
    /// Whether a segment was seen.
    begun: bool,
    /// The first line, until it is printed.
    header: Option<EntriesHeader>,
    end: EntriesEnd,
    done: u64,
    total: u64,
    bar: Bar,
}

impl Printer {
    fn print_header(&mut self) -> io::Result<()> {
        self.header.take().map_or(Ok(()), |header| self.output.object(&header))
    }
}

impl Visitor for Printer {
    type Error = Stop;

    fn segment(&mut self, _file: &Path, header: &verify::Header) -> Result<(), Stop> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        let oldest = header.first_sequence;
        match (self.from, self.through) {
            (from @ 1.., _) if from < oldest => return Err(Stop::dropped("--from", from, oldest)),
            (_, at) if at < oldest && oldest > 1 => return Err(Stop::dropped("--at", at, oldest)),
            _ => {}
        }
        let from = self.from.max(oldest);
        self.header = Some(EntriesHeader { kind: ENTRIES, version: VERSION, ledger: hex(&header.ledger), from });
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Stop> {
        if batch.first_sequence > self.through {
            return Err(Stop::Enough);
        }
        if batch.first_sequence.saturating_add(u64::from(batch.count)) <= self.from {
            return Ok(());
        }
        let mut entry = Entry::default();
        let mut frames = batch.frames();
        while frames.next(&mut entry)? {
            if entry.sequence > self.through {
                return Err(Stop::Enough);
            }
            if entry.sequence >= self.from {
                self.print_header()?;
                self.output.object(&EntryRecord::from(&entry))?;
                self.end.entries += 1;
                self.end.last_sequence = Some(entry.sequence);
            }
        }
        Ok(())
    }

    fn passed(&mut self, bytes: u64) {
        self.done += bytes;
        self.bar.show(self.done, self.total);
    }
}

#[derive(Serialize)]
struct EntriesHeader {
    kind: &'static str,
    version: u32,
    ledger: String,
    from: u64,
}

/// The last line of exported entries.
#[derive(Serialize)]
struct EntriesEnd {
    kind: &'static str,
    entries: u64,
    /// None if there is no entry.
    last_sequence: Option<u64>,
}

impl Default for EntriesEnd {
    fn default() -> Self {
        EntriesEnd { kind: ENTRIES_END, entries: 0, last_sequence: None }
    }
}
