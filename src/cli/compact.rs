//! `equipoise compact`: drops the journal's oldest segments.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::exit::Failure;
use super::output::{Output, Page, Record, escape};
use super::progress::Bar;
use crate::config::Environment;
use crate::{CompactOptions, Compacted, compact};

/// Drop the oldest segments of a journal that no start and no transaction id needs any more
///
/// No service may be using the directory. Whole segments are dropped, from the oldest on: those that lie entirely
/// before the older of the two newest checkpoints (both are read and checked first), and whose newest entry is older
/// than --id-window by the journal's own time. The segment where the journal ends always stays. A journal that is
/// damaged anywhere is left as it is.
///
/// Balances and the newest transactions stay. Transactions in dropped segments can no longer be shown or watched, and
/// verify then begins at a checkpoint. If the command is interrupted, the journal still has no gap.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise compact /var/lib/equipoise --dry-run
  equipoise compact /var/lib/equipoise --keep-entries 1000000")]
pub(super) struct Compact {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Keep at least so many of the newest entries
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_entries: u64,
    /// How long the service honours a transaction id [env: EQUIPOISE_ID_WINDOW] [default: as equipoise serve, 24h]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    id_window: Option<Duration>,
    /// The service's configuration file, for its --id-window [env: EQUIPOISE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what would be dropped, and drop nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

impl Compact {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        let Compact { keep_entries, id_window, dry_run, .. } = *self;
        let id_window = super::id_window(id_window, self.config.as_deref(), environment)?;
        super::warn_of_owner(&self.directory);
        let bar = Bar::of_bytes(self.json);
        let options = CompactOptions { keep_entries, id_window, dry_run };
        let compacted = compact(&self.directory, &options, &mut |progress| bar.follow(progress));
        bar.clear();
        let compacted = compacted?;
        let mut output = Output::new(self.json);
        for segment in &compacted.dropped {
            let file = segment.file.display().to_string();
            let (first_sequence, last_sequence, bytes) = (segment.first, segment.last, segment.bytes);
            output.record(&Line::Dropped { file, first_sequence, last_sequence, bytes, dry_run })?;
        }
        output.record(&Line::kept(&compacted, dry_run))?;
        Ok(output.flush()?)
    }
}

/// What is printed; in JSON one object per line.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Dropped { file: String, first_sequence: u64, last_sequence: u64, bytes: u64, dry_run: bool },
    Kept { segments: u64, bytes: u64, oldest_sequence: u64, because: String, freed_bytes: u64, dry_run: bool },
}

impl Line {
    fn kept(compacted: &Compacted, dry_run: bool) -> Self {
        Line::Kept {
            segments: compacted.kept,
            bytes: compacted.kept_bytes,
            oldest_sequence: compacted.oldest,
            because: compacted.because.to_string(),
            freed_bytes: compacted.freed(),
            dry_run,
        }
    }
}

impl Record for Line {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        match self {
            Line::Dropped { file, first_sequence, last_sequence, bytes, dry_run } => {
                let verb = if *dry_run { "would drop" } else { "dropped" };
                let file = escape(file);
                page.line(format_args!("{verb} {file}: sequences {first_sequence} to {last_sequence}, {bytes} bytes"))
            }
            Line::Kept { segments, bytes, oldest_sequence, because, freed_bytes, dry_run } => {
                let verb = if *dry_run { "would free" } else { "freed" };
                page.line(format_args!("{verb} {freed_bytes} bytes"))?;
                let because = escape(because);
                page.line(format_args!(
                    "kept {segments} segments, {bytes} bytes, from sequence {oldest_sequence} on: {because}"
                ))
            }
        }
    }
}
