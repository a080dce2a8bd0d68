//! `equipoise dead-letters`: the records that could not become events, and sending them again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};

use super::exit::Failure;
use super::kafka::Kafka;
use super::output::Output;
use super::produce::{PATIENCE, within};
use crate::kafka::{Log, Offsets, Producer, Settings};

mod letter;

pub(super) use letter::Letter;
use letter::{ListedRecord, Place, WholeRecord};

/// Look through the records that could not become events, and send them again
///
/// They lie in a topic of their own, as they came, with headers that say where they came from and why they were
/// rejected. This needs no consumer group, and does not change that topic: a letter that was sent again stays there
/// until retention removes it. Sending a letter again is safe, since an event takes effect only once. If it still is no
/// event, it becomes a dead letter again, whose header equipoise-redriven names the first one.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise dead-letters list
  equipoise dead-letters show 0:42
  equipoise dead-letters redrive 0:42 1:7
  equipoise dead-letters redrive --all --reason product_id")]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print one line a letter: where it is, where it came from, and why it is here
    List {
        /// Only letters whose reason contains this text
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        kafka: Kafka,
    },
    /// Print one letter whole
    Show {
        /// Which one: its partition and offset in the topic of the dead letters, as list prints them
        #[arg(value_name = "PARTITION:OFFSET")]
        place: Place,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        kafka: Kafka,
    },
    /// Send letters to the topics that they came from, with their key, value and headers, and a header that marks them
    Redrive {
        /// Which ones, as list prints them
        #[arg(value_name = "PARTITION:OFFSET", required_unless_present = "all", conflicts_with = "all")]
        places: Vec<Place>,
        /// All of them, but for those that were sent before and came back as newer ones
        #[arg(long)]
        all: bool,
        /// Of all, only letters whose reason contains this text
        #[arg(long, value_name = "TEXT", requires = "all")]
        reason: Option<String>,
        /// Print what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        kafka: Kafka,
    },
}

impl DeadLetters {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.action {
            Action::List { reason, json, kafka } => list(kafka, reason.as_deref(), *json),
            Action::Show { place, json, kafka } => show(kafka, *place, *json),
            Action::Redrive { places, reason, dry_run, json, kafka, .. } => {
                let wanted = (!places.is_empty()).then(|| places.iter().copied().collect());
                redrive(kafka, wanted.as_ref(), reason.as_deref(), *dry_run, *json)
            }
        }
    }

    pub(super) fn json(&self) -> bool {
        match self.action {
            Action::List { json, .. } | Action::Show { json, .. } | Action::Redrive { json, .. } => json,
        }
    }
}

fn list(kafka: &Kafka, reason: Option<&str>, json: bool) -> Result<(), Failure> {
    let mut output = Output::new(json);
    // An error before there is anything to print needs no heading.
    let heading = |output: &mut Output| {
        output.heading(format_args!("{:<12} {:<30} {:<32} REASON", "LETTER", "RECORD'S TIME", "RECORD"))
    };
    let mut begun = false;
    read(kafka, None, |letter| {
        if !std::mem::replace(&mut begun, true) {
            heading(&mut output)?;
        }
        if letter.matches(reason) {
            output.record(&ListedRecord::from(&letter))?;
        }
        Ok(())
    })?;
    if !begun {
        heading(&mut output)?;
    }
    Ok(output.flush()?)
}

fn show(kafka: &Kafka, place: Place, json: bool) -> Result<(), Failure> {
    let mut output = Output::new(json);
    read(kafka, Some(&BTreeSet::from([place])), |letter| Ok(output.record(&WholeRecord::from(&letter))?))?;
    Ok(output.flush()?)
}

fn redrive(
    kafka: &Kafka,
    wanted: Option<&BTreeSet<Place>>,
    reason: Option<&str>,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    let settings = kafka.settings(&[])?;
    let mut redrive = Redrive { settings, dry_run, output: Output::new(json), producers: BTreeMap::new(), kept: 0 };
    match wanted {
        // Nothing is sent before each of them was found.
        Some(_) => {
            let mut letters = Vec::new();
            read(kafka, wanted, |letter| {
                letters.push(letter);
                Ok(())
            })?;
            letters.iter().try_for_each(|letter| redrive.send(letter))?;
        }
        None => {
            let mut came_back = BTreeSet::new();
            read(kafka, None, |letter| {
                came_back.extend(letter.former());
                Ok(())
            })?;
            read(kafka, None, |letter| match letter.matches(reason) && !came_back.contains(&letter.identity()) {
                true => redrive.send(&letter),
                false => Ok(()),
            })?;
        }
    }
    redrive.finish()
}

/// Letters on their way back.
struct Redrive {
    settings: Settings,
    dry_run: bool,
    output: Output,
    /// By topic.
    producers: BTreeMap<String, Producer>,
    /// How many cannot be sent.
    kept: u64,
}

impl Redrive {
    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        let topic = match &letter.topic {
            Some(topic) if !letter.cut => topic,
            topic => {
                self.kept += 1;
                let why = if topic.is_some() { "it is not whole" } else { "it does not say where it came from" };
                super::note(&format!("{} is not sent: {why}", letter.place));
                return Ok(());
            }
        };
        if !self.dry_run {
            let producer = match self.producers.entry(topic.clone()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(Producer::connect(&self.settings, topic, None)?),
            };
            let (record, identity) = (&letter.record, letter.identity());
            producer.send(record.key.as_deref(), record.value.as_deref(), &letter.headers_again(&identity))?;
        }
        Ok(self.output.record(&ListedRecord::from(letter))?)
    }

    /// Waits until all have arrived.
    fn finish(mut self) -> Result<(), Failure> {
        for producer in self.producers.values() {
            producer.finish(within(PATIENCE))?;
        }
        self.output.flush()?;
        match self.kept {
            0 => Ok(()),
            kept => Err(Failure::Refused(format!("{kept} of the letters cannot be sent again"))),
        }
    }
}

/// Passes the letters that are there now to a callback: all, or only the wanted ones, each of which must be there.
fn read(
    kafka: &Kafka,
    wanted: Option<&BTreeSet<Place>>,
    mut take: impl FnMut(Letter) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let settings = kafka.settings(&[])?;
    let topic = &settings.dead_letter_topic;
    let log = Log::open(&settings, topic)?;
    let (oldest, ends) = log.ends()?;
    let (mut from, mut until) = (oldest, ends);
    let mut missing = wanted.cloned().unwrap_or_default();
    if let Some(wanted) = wanted {
        // From the first that is wanted to the last, in each partition.
        let bounds = |partition: i32| {
            let offsets = wanted.iter().filter(move |place| place.partition == partition).map(|place| place.offset);
            (offsets.clone().min(), offsets.max())
        };
        until.retain(|partition, _| bounds(*partition).0.is_some());
        narrow(&mut from, |partition, oldest| bounds(partition).0.map_or(oldest, |first| first.max(oldest)));
        narrow(&mut until, |partition, end| bounds(partition).1.map_or(end, |last| end.min(last.saturating_add(1))));
    }
    let mut result = Ok(());
    log.read(&from, &until, |record| {
        let letter = Letter::new(record);
        if wanted.is_none_or(|wanted| wanted.contains(&letter.place)) {
            missing.remove(&letter.place);
            result = take(letter);
        }
        result.is_ok()
    })?;
    result?;
    match missing.first() {
        None => Ok(()),
        Some(place) => Err(Failure::Refused(format!("there is no letter {place} in {topic}"))),
    }
}

fn narrow(offsets: &mut Offsets, bound: impl Fn(i32, i64) -> i64) {
    for (partition, offset) in offsets.iter_mut() {
        *offset = bound(*partition, *offset);
    }
}
