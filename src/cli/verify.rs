//! `equipoise verify`: checks a data directory, with code that shares nothing with the engine.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::exit::Failure;
use super::output::{Output, Page, Record, escape};
use super::progress::Bar;
use super::record::nanoseconds;
use crate::config::Environment;
use crate::verify::{self, Options, Report};

/// Check that a data directory is intact, by replaying every entry of its journal
///
/// Checks the chain of the journal; that every change, refusal and balance follows from the entries before; that no
/// transaction id was used twice; that no source goes back; and that checkpoints and id index agree. The code that does
/// it shares nothing with the service. It needs memory for the accounts, and 40 to 80 bytes for each id of the last two
/// --id-window.
///
/// It stops at the first bad place, names it, and exits with 4. A torn tail, as a crash leaves it, is not a bad place:
/// it is noted, and the next start cuts it. Beside a running service it checks the journal and the id index up to now;
/// otherwise no service can start on the directory meanwhile. It changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise verify /var/lib/equipoise
  equipoise verify /var/lib/equipoise --head \"$(cat head-of-last-night)\"")]
pub(super) struct Verify {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The head from an earlier run, or from another place: proves that nothing up to there is missing. What was added
    /// since is noted
    #[arg(long, value_name = "HASH", value_parser = hash)]
    head: Option<Hash>,
    /// How long the service knows a transaction id, which may not be used twice within that time
    /// [env: EQUIPOISE_ID_WINDOW] [default: as equipoise serve, 24h]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    id_window: Option<Duration>,
    /// The service's configuration file, for its --id-window [env: EQUIPOISE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// A hash that was given on the command line.
#[derive(Clone, Copy, Debug)]
struct Hash([u8; 32]);

fn hash(text: &str) -> Result<Hash, String> {
    let wrong = || "64 hexadecimal digits are expected".to_owned();
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(Hash(hash))
}

impl Verify {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        let id_window = super::id_window(self.id_window, self.config.as_deref(), environment)?;
        let options = Options { head: self.head.map(|hash| hash.0), id_window };
        let bar = Bar::of_bytes(self.json);
        let report = verify::verify(&self.directory, &options, &mut |done, total| bar.show(done, total));
        bar.clear();
        let report = report.map_err(Failure::Damage)?;
        let mut output = Output::new(self.json);
        output.record(&ReportRecord::from(&report))?;
        Ok(output.flush()?)
    }
}

#[derive(Serialize)]
struct ReportRecord<'a> {
    ledger_id: &'a str,
    segments: u64,
    batches: u64,
    entries: u64,
    first_sequence: u64,
    last_sequence: u64,
    replayed_from: u64,
    accounts: u64,
    total: i128,
    sources: u64,
    parked_records: u64,
    last_time: Option<String>,
    head: &'a str,
    checkpoints: u64,
    /// Absent: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    indexed_ids: Option<u64>,
    notes: &'a [String],
}

impl<'a> From<&'a Report> for ReportRecord<'a> {
    fn from(report: &'a Report) -> Self {
        ReportRecord {
            ledger_id: &report.ledger_id,
            segments: report.segments,
            batches: report.batches,
            entries: report.entries,
            first_sequence: report.first_sequence,
            last_sequence: report.last_sequence,
            replayed_from: report.replayed_from,
            accounts: report.accounts,
            total: report.total,
            sources: report.sources,
            parked_records: report.parked,
            last_time: (report.last_time > 0).then(|| nanoseconds(report.last_time)),
            head: &report.head,
            checkpoints: report.checkpoints,
            indexed_ids: report.indexed_ids,
            notes: &report.notes,
        }
    }
}

impl Record for ReportRecord<'_> {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.field("ledger", if self.ledger_id.is_empty() { "not begun" } else { self.ledger_id })?;
        page.field("segments", self.segments)?;
        page.field("batches", self.batches)?;
        page.field("entries", self.entries)?;
        page.field("sequences", format_args!("{} to {}", self.first_sequence, self.last_sequence))?;
        page.field("accounts", self.accounts)?;
        page.field("total", self.total)?;
        page.field("sources", format_args!("{}, {} records parked", self.sources, self.parked_records))?;
        page.field("last time", self.last_time.as_deref().unwrap_or("-"))?;
        page.field("head", self.head)?;
        page.field("checkpoints", self.checkpoints)?;
        match self.indexed_ids {
            Some(ids) => page.field("ids in index", ids)?,
            None => page.field("ids in index", "not checked")?,
        }
        self.notes.iter().try_for_each(|note| page.field("note", escape(note)))
    }
}
