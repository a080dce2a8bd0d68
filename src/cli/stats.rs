//! `equipoise stats`: how much room a data directory takes, and for what.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::exit::Failure;
use super::output::{Output, Page, Record, escape};
use super::progress::Bar;
use super::record::nanoseconds;
use crate::config::Config;
use crate::verify::{Directory, Sizes, hex, measure};

/// What an id takes in memory, in bytes: the crate's page says so, and its example `memory` measures it.
const MEMORY_BYTES_PER_ID: u64 = 470;
/// The same of a transfer whose id and accounts have the longest ids.
const MEMORY_BYTES_PER_LONGEST_ID: u64 = 900;

/// Print how much room a data directory takes, for what, and what an entry and a transaction id cost
///
/// Reads the whole journal, and checks its chain on the way. Beside a running service it shows the journal as it is at
/// that moment; otherwise no service can start on the directory meanwhile. It changes nothing. Sizes are in bytes. The
/// bytes per id on disk mean little if there are few ids: the index is stored in whole pages.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise stats /var/lib/equipoise
  equipoise stats /var/lib/equipoise --json | jq .bytes_per_entry")]
pub(super) struct Stats {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl Stats {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let directory = Directory::open(&self.directory).map_err(Failure::Damage)?;
        let bar = Bar::of_bytes(self.json);
        let sizes = measure(&directory, &mut |done, total| bar.show(done, total));
        bar.clear();
        let sizes = sizes.map_err(Failure::Damage)?;
        let mut output = Output::new(self.json);
        output.record(&StatsRecord::from(&sizes))?;
        Ok(output.flush()?)
    }
}

#[derive(Serialize)]
struct StatsRecord<'a> {
    ledger_id: Option<String>,
    segments: u64,
    segment_bytes: u64,
    used_bytes: u64,
    spare_bytes: u64,
    checkpoints: u64,
    checkpoint_bytes: u64,
    index_bytes: u64,
    total_bytes: u64,
    batches: u64,
    entries: u64,
    first_sequence: u64,
    last_sequence: u64,
    first_time: Option<String>,
    last_time: Option<String>,
    bytes_per_entry: Option<f64>,
    /// As of the newest checkpoint.
    accounts: Option<u64>,
    accounts_sequence: Option<u64>,
    sources: Option<u64>,
    parked_records: Option<u64>,
    /// Absent: not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    ids_in_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids_not_counted: Option<&'a str>,
    index_bytes_per_id: Option<f64>,
    /// Of a service that uses the index.
    index_memory_bytes: u64,
    index_memory_bytes_per_id: Option<f64>,
    memory_bytes_per_id: u64,
    memory_bytes_per_longest_id: u64,
    /// How many a service keeps in memory if it is not told otherwise, and what they take.
    default_ids_in_memory: u64,
    default_memory_bytes_of_ids: u64,
    notes: &'a [String],
}

impl<'a> From<&'a Sizes> for StatsRecord<'a> {
    fn from(sizes: &'a Sizes) -> Self {
        let ids = Config::default().ids as u64;
        let any = |time: u64| (sizes.entries > 0).then(|| nanoseconds(time));
        let ids_in_index = sizes.ids.as_ref().ok().copied();
        let journal_bytes = sizes.segment_bytes + sizes.spare_bytes;
        StatsRecord {
            ledger_id: sizes.ledger.map(|ledger| hex(&ledger)),
            segments: sizes.segments,
            segment_bytes: sizes.segment_bytes,
            used_bytes: sizes.used_bytes,
            spare_bytes: sizes.spare_bytes,
            checkpoints: sizes.checkpoints,
            checkpoint_bytes: sizes.checkpoint_bytes,
            index_bytes: sizes.index_bytes,
            total_bytes: journal_bytes + sizes.checkpoint_bytes + sizes.index_bytes,
            batches: sizes.batches,
            entries: sizes.entries,
            first_sequence: sizes.first_sequence,
            last_sequence: sizes.last_sequence,
            first_time: any(sizes.first_time),
            last_time: any(sizes.last_time),
            bytes_per_entry: each(sizes.used_bytes, sizes.entries),
            accounts: sizes.accounts.map(|(accounts, _)| accounts),
            accounts_sequence: sizes.accounts.map(|(_, sequence)| sequence),
            sources: sizes.sources.map(|(sources, _)| sources),
            parked_records: sizes.sources.map(|(_, parked)| parked),
            ids_in_index,
            ids_not_counted: sizes.ids.as_ref().err().map(String::as_str),
            index_bytes_per_id: each(sizes.index_bytes, ids_in_index.unwrap_or(0)),
            index_memory_bytes: sizes.index_resident_bytes,
            index_memory_bytes_per_id: each(sizes.index_resident_bytes, ids_in_index.unwrap_or(0)),
            memory_bytes_per_id: MEMORY_BYTES_PER_ID,
            memory_bytes_per_longest_id: MEMORY_BYTES_PER_LONGEST_ID,
            default_ids_in_memory: ids,
            default_memory_bytes_of_ids: ids * MEMORY_BYTES_PER_ID,
            notes: &sizes.notes,
        }
    }
}

/// More digits than a tenth of a byte make no sense.
fn each(bytes: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| (bytes as f64 * 10.0 / count as f64).round() / 10.0)
}

impl Record for StatsRecord<'_> {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let or_none = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let (segments, room, used) = (self.segments, self.segment_bytes, self.used_bytes);
        page.field("ledger", self.ledger_id.as_deref().unwrap_or("not begun"))?;
        page.field("journal", format_args!("{room} bytes in {segments} segments, {used} of them used"))?;
        page.field("spare", format_args!("{} bytes", self.spare_bytes))?;
        page.field("checkpoints", format_args!("{} bytes in {} files", self.checkpoint_bytes, self.checkpoints))?;
        page.field("id index", format_args!("{} bytes", self.index_bytes))?;
        page.field("all", format_args!("{} bytes", self.total_bytes))?;
        page.field("entries", format_args!("{} in {} batches", self.entries, self.batches))?;
        page.field("sequences", format_args!("{} to {}", self.first_sequence, self.last_sequence))?;
        page.field("first time", self.first_time.as_deref().unwrap_or("-"))?;
        page.field("last time", self.last_time.as_deref().unwrap_or("-"))?;
        page.field("per entry", format_args!("{} bytes of the journal", or_none(self.bytes_per_entry)))?;
        match self.accounts.zip(self.accounts_sequence) {
            Some((accounts, sequence)) => {
                page.field("accounts", format_args!("{accounts} in the checkpoint at sequence {sequence}"))?;
            }
            None => page.field("accounts", "no checkpoint yet")?,
        }
        match self.sources.zip(self.parked_records) {
            Some((sources, parked)) => page.field("sources", format_args!("{sources}, {parked} records parked"))?,
            None => page.field("sources", "not counted: notes were dropped, and no checkpoint has them")?,
        }
        match (self.ids_in_index, self.ids_not_counted) {
            (Some(ids), _) => page.field("ids in index", ids)?,
            (None, why) => {
                page.field("ids in index", format_args!("{}: not counted", escape(why.unwrap_or_default())))?
            }
        }
        page.field(
            "per id",
            format_args!(
                "{} bytes of the index on disk, {} of its memory",
                or_none(self.index_bytes_per_id),
                or_none(self.index_memory_bytes_per_id)
            ),
        )?;
        page.field(
            "",
            format_args!(
                "{} bytes while in memory ({} with ids of 128 bytes), {} for the {} ids that serve --ids keeps by default",
                self.memory_bytes_per_id,
                self.memory_bytes_per_longest_id,
                self.default_memory_bytes_of_ids, self.default_ids_in_memory
            ),
        )?;
        self.notes.iter().try_for_each(|note| page.field("note", escape(note)))
    }
}
