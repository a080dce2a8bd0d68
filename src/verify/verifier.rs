//! The whole check, from the folder to the id index.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::batch::Batch;
use super::bytes::hex;
use super::chain::{self, Link, Visitor};
use super::checkpoint::{self, Expected, Stated};
use super::directory::{Access, Directory};
use super::frame::Entry;
use super::ids::{RecentIds, Used};
use super::index;
use super::problem::Problem;
use super::replay::Replay;
use super::segment::{self, Header};
use super::sources::{Sections, Sources};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The hash of the last batch at an earlier time: proves that nothing of the journal up to there is missing. What
    /// came since is a note.
    pub head: Option<[u8; 32]>,
    /// How long an id may not be used again.
    pub id_window: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { head: None, id_window: Duration::from_secs(24 * 60 * 60) }
    }
}

/// What a successful check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The ledger's id in hexadecimal digits; empty if the journal has not begun.
    pub ledger_id: String,
    /// Segments that have a part of the journal.
    pub segments: u64,
    /// Batches, including closing ones.
    pub batches: u64,
    /// Entries in the batches.
    pub entries: u64,
    /// The first sequence in the journal; 0 if there is none.
    pub first_sequence: u64,
    /// The last sequence; 0 if there is none.
    pub last_sequence: u64,
    /// The sequence of the checkpoint that the replay began with; 0 if it began with the first entry.
    pub replayed_from: u64,
    /// Accounts at the end.
    pub accounts: u64,
    /// The sum of their balances.
    pub total: i128,
    /// Sources with a known position at the end.
    pub sources: u64,
    /// Parked records at the end.
    pub parked: u64,
    /// When the last entry was committed, in nanoseconds since the Unix epoch; 0 if there is none.
    pub last_time: u64,
    /// The hash of the last batch in hexadecimal digits: a later check can take it as [`Options::head`].
    pub head: String,
    /// Checkpoints that were compared.
    pub checkpoints: u64,
    /// Entries' ids that were found in the id index; `None` if it was not checked.
    pub indexed_ids: Option<u64>,
    /// Observations that are no fault: a torn tail, a check that was skipped.
    pub notes: Vec<String>,
}

/// Checks the data directory `path`. `progress` gets the number of bytes checked, and of how many.
///
/// # Errors
/// The first bad place.
pub fn verify(path: &Path, options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, Problem> {
    let (access, ids) = (Access::take(path)?, path.join("ids"));
    // Opened before the journal is listed, so that the journal reaches as far as the index.
    let (index, furthest) = (index::open(&ids, access.is_live()), index::furthest(&ids));
    let directory = Directory::list(path, access)?;
    let bytes = directory.bytes_from(0);
    let passes = if matches!(index, Ok(Ok(_))) { 2 } else { 1 };
    let mut meter = Meter { done: 0, total: bytes * passes, progress };

    let mut verifier = Verifier::new(&directory, options, &mut meter);
    let end = chain::walk(&directory, 0, &mut verifier)?;
    let mut report = verifier.end(end.link.as_ref())?;
    // The spare of a running service is left alone: it may get its name meanwhile.
    if let (Some(link), false) = (&end.link, directory.live()) {
        segment::check_spare(&path.join("journal/spare"), end.segment, link)?;
    }
    if let Some(run) = furthest {
        run.is_within(end.link.as_ref().map(|link| &link.ledger), end.last_sequence())?;
    }
    report.notes = [&directory.notes[..], &report.notes, &end.notes].concat();
    if let Some(holder) = &directory.access.holder {
        let holder = if holder.is_empty() { "a process" } else { holder };
        report.notes.push(format!("{holder} has the directory: this is the journal up to now"));
    }
    if let Some(link) = &end.link {
        match index? {
            Err(note) => report.notes.push(note),
            Ok(index) => {
                let mut check = Metered { check: index.check(report.first_sequence.max(1), link)?, meter: &mut meter };
                chain::walk(&directory, 0, &mut check)?;
                report.indexed_ids = Some(check.check.end()?);
            }
        }
    }
    Ok(report)
}

struct Meter<'a> {
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Meter<'_> {
    fn passed(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(self.done, self.total);
    }
}

struct Metered<'a, 'm> {
    check: index::Check,
    meter: &'a mut Meter<'m>,
}

impl Visitor for Metered<'_, '_> {
    type Error = Problem;

    fn segment(&mut self, file: &Path, header: &Header) -> Result<(), Problem> {
        self.check.segment(file, header)
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Problem> {
        self.check.batch(batch)
    }

    fn passed(&mut self, bytes: u64) {
        self.meter.passed(bytes);
    }
}

/// Everything but the id index, batch by batch.
struct Verifier<'a, 'm> {
    options: &'a Options,
    meter: &'a mut Meter<'m>,
    /// The checkpoints still to come, by sequence.
    checkpoints: std::iter::Peekable<std::slice::Iter<'a, (u64, PathBuf, File)>>,
    replay: Replay,
    sources: Sources,
    sections: Sections,
    /// What checkpoints say about the sources, until their batches come.
    stated: VecDeque<(PathBuf, u64, Stated)>,
    ids: RecentIds,
    ledger: [u8; 16],
    report: Report,
    /// The time of the entry at the checkpoint that the replay began with.
    base_time: Option<u64>,
    /// The batch as of which that checkpoint has the sources; 0 if nothing had been noted.
    base_batch: u64,
    /// That checkpoint.
    base: PathBuf,
    /// The place of the last batch.
    file: PathBuf,
    offset: usize,
    /// The batch with the hash in [`Options::head`], and its last sequence.
    head: Option<(u64, u64)>,
}

impl<'a, 'm> Verifier<'a, 'm> {
    fn new(directory: &'a Directory, options: &'a Options, meter: &'a mut Meter<'m>) -> Self {
        Verifier {
            options,
            meter,
            checkpoints: directory.checkpoints.iter().peekable(),
            replay: Replay::default(),
            sources: Sources::default(),
            sections: Sections::default(),
            stated: VecDeque::new(),
            ids: RecentIds::new(u64::try_from(options.id_window.as_nanos()).unwrap_or(u64::MAX)),
            ledger: [0; 16],
            report: Report::default(),
            base_time: None,
            base_batch: 0,
            base: PathBuf::new(),
            file: directory.path.join("journal"),
            offset: 0,
            head: None,
        }
    }

    /// Finds what the replay begins with: nothing, or the oldest checkpoint that the journal reaches back to.
    fn begin(&mut self, file: &Path, header: &Header) -> Result<(), Problem> {
        let before = header.first_sequence - 1;
        self.ledger = header.ledger;
        self.report.ledger_id = hex(&header.ledger);
        self.report.last_sequence = before;
        if before == 0 {
            return self.due(0, None);
        }
        for (sequence, path, file) in self.checkpoints.by_ref() {
            let expected =
                Expected { sequence: *sequence, time: None, ledger: self.ledger, replay: &Replay::default() };
            let mut base = Replay::default();
            let (time, stated) = checkpoint::adopt(path, file, &expected, &mut base)?;
            self.report.checkpoints += 1;
            if *sequence < before {
                let note = format!("{} is older than the journal: checked in itself only", path.display());
                self.report.notes.push(note);
                continue;
            }
            if *sequence == before {
                self.report.last_time = time;
            }
            if stated.batch > 0 && stated.batch.saturating_add(1) < header.first_batch {
                let Stated { batch, .. } = stated;
                let what =
                    format!("the journal begins with batch {}; the sources are as of {batch}", header.first_batch);
                return Err(Problem::at(path, 72, what));
            }
            (self.replay, self.base_time) = (base, Some(time));
            (self.sources, self.base_batch) = (stated.sources, stated.batch);
            self.base.clone_from(path);
            self.report.replayed_from = *sequence;
            self.report.notes.push(format!(
                "the journal begins with sequence {}: replayed from {}",
                before + 1,
                path.display()
            ));
            return Ok(());
        }
        let what = format!("the journal begins with sequence {}, and no checkpoint holds what was before", before + 1);
        Err(Problem::at(file, 32, what))
    }

    /// Compares the checkpoint that was made at `sequence`, if one was.
    fn due(&mut self, sequence: u64, time: Option<u64>) -> Result<(), Problem> {
        while let Some((_, path, file)) = self.checkpoints.next_if(|(at, ..)| *at == sequence) {
            let expected = Expected { sequence, time, ledger: self.ledger, replay: &self.replay };
            let stated = checkpoint::compare(path, file, &expected)?;
            self.report.checkpoints += 1;
            self.stated.push_back((path.clone(), sequence, stated));
        }
        Ok(())
    }

    /// Does what the batch says about sources, and compares what the checkpoints say that were made after it.
    fn sources(&mut self, batch: &Batch<'_>) -> Result<(), Problem> {
        let base = self.report.replayed_from;
        let covered = match self.base_batch {
            0 => batch.first_sequence <= base,
            of => batch.number <= of,
        };
        self.sections.take(batch, covered)?;
        if !covered {
            let sources = &mut self.sources;
            self.sections.changes(batch, |change| Ok::<_, Problem>(sources.apply(change)))?;
        }
        while let Some((path, sequence, stated)) =
            self.stated.front().filter(|(.., stated)| stated.batch <= batch.number)
        {
            let wrong = |at, what| Err(Problem { sequence: Some(*sequence), ..Problem::at(path, at, what) });
            if stated.batch != batch.number && stated.batch > 0 {
                return wrong(72, format!("sources as of batch {}; its entry is in {}", stated.batch, batch.number));
            }
            if let Some(what) = self.sources.difference(&stated.sources) {
                return wrong(128, what);
            }
            self.stated.pop_front();
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let (sequence, time) = (entry.sequence, entry.time);
        if time < self.report.last_time {
            return Err(format!("time {time} is before that of the entry before, {}", self.report.last_time));
        }
        for id in entry.members.iter().filter_map(|member| member.id) {
            if let Some(before) = self.ids.used(id, Used { sequence, time }) {
                let window = self.options.id_window;
                return Err(format!(
                    "transaction id {id} was used already, by sequence {}, within an id window of {window:?}; if the window was shorter \
                     when this was written, --id-window says so",
                    before.sequence
                ));
            }
        }
        if sequence == self.report.replayed_from && self.base_time.is_some_and(|base| base != time) {
            return Err(format!("time {time}; its checkpoint says {}", self.base_time.unwrap_or_default()));
        }
        if sequence > self.report.replayed_from {
            self.replay.apply(entry)?;
        }
        self.report.entries += 1;
        (self.report.last_sequence, self.report.last_time) = (sequence, time);
        Ok(())
    }

    /// What was found, when all batches were shown.
    fn end(mut self, end: Option<&Link>) -> Result<Report, Problem> {
        let Report { replayed_from, last_sequence, .. } = self.report;
        let beyond = self.checkpoints.by_ref().last().map(|(sequence, path, _)| (*sequence, path));
        let base = Some((replayed_from, &self.base)).filter(|_| replayed_from > last_sequence);
        if let Some((sequence, path)) = beyond.or(base) {
            let what = format!("a checkpoint at sequence {sequence}; the journal ends at {last_sequence}");
            return Err(Problem::at(path, 16, what));
        }
        let last = end.map_or(0, |link| link.batch - 1);
        if self.base_batch > last {
            let what =
                format!("the checkpoint has the sources as of batch {}; the journal ends at {last}", self.base_batch);
            return Err(Problem::at(&self.base, 72, what));
        }
        if let Some((path, _, Stated { batch, .. })) = self.stated.pop_front() {
            return Err(Problem::at(&path, 72, format!("sources as of batch {batch}; the journal ends at {last}")));
        }
        (self.report.sources, self.report.parked) = (self.sources.count(), self.sources.parked());
        let hash = end.map_or([0; 32], |link| link.hash);
        self.report.head = hex(&hash);
        match (self.options.head, self.head) {
            (Some(head), _) if head == hash => {}
            (Some(_), Some((batch, sequence))) => {
                let more = last - batch;
                self.report.notes.push(format!(
                    "the head that was given is that of batch {batch} (sequence {sequence}): {more} more follow"
                ));
            }
            (Some(head), None) => return Err(self.other_head(end, &head)),
            (None, _) => {}
        }
        self.report.accounts = self.replay.accounts();
        self.report.total = self.replay.total();
        Ok(self.report)
    }

    fn other_head(&self, end: Option<&Link>, wanted: &[u8; 32]) -> Problem {
        let Report { head, last_sequence, .. } = &self.report;
        let what = format!(
            "the journal ends at hash {head} (sequence {last_sequence}), not {}, which no batch has: a tail is missing, or it is \
             another journal",
            hex(wanted)
        );
        let problem = Problem::at(&self.file, self.offset, what);
        match end {
            Some(link) if self.report.batches > 0 => problem.in_batch(link.batch - 1, *last_sequence),
            _ => problem,
        }
    }
}

impl Visitor for Verifier<'_, '_> {
    type Error = Problem;

    fn segment(&mut self, file: &Path, header: &Header) -> Result<(), Problem> {
        if self.report.segments == 0 {
            self.begin(file, header)?;
            if self.options.head == Some(header.hash) {
                self.head = Some((header.first_batch - 1, self.report.last_sequence));
            }
        }
        self.report.segments += 1;
        (self.file, self.offset) = (file.to_owned(), 0);
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Problem> {
        let mut entry = Entry::default();
        let mut frames = batch.frames();
        while frames.next(&mut entry)? {
            self.entry(&entry).map_err(|what| batch.problem(entry.at, entry.sequence, what))?;
            self.due(entry.sequence, Some(entry.time))?;
        }
        self.sources(batch)?;
        let last = self.report.last_time;
        if batch.time < last || (batch.count > 0 && batch.time != last) {
            let what = format!("the batch's time is {}, that of the last entry {last}", batch.time);
            return Err(batch.problem(40, batch.first_sequence, what));
        }
        if self.report.first_sequence == 0 && batch.count > 0 {
            self.report.first_sequence = batch.first_sequence;
        }
        if self.options.head == Some(batch.hash) {
            self.head = Some((batch.number, self.report.last_sequence));
        }
        self.report.batches += 1;
        self.offset = batch.offset;
        Ok(())
    }

    fn passed(&mut self, bytes: u64) {
        self.meter.passed(bytes);
    }
}
