//! `equipoise produce`: load for a service that consumes inventory events, and the check that it did.

use std::io;
use std::num::NonZeroU32;
use std::process::exit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use parking_lot::Mutex;
use serde::Serialize;
use tonic::Status;

use super::check::{self, Check};
use super::exit::{Failure, say_within};
use super::interrupt::{self, INTERRUPTED};
use super::kafka::Kafka;
use super::note;
use super::output::{Output, Page, Record};
use super::progress::Bar;
use crate::config::Environment;
use crate::inventory::{Format, Sent, Totals, What, Workload, WorkloadOptions};
use crate::kafka::{Delivered, Producer};

/// How many records are sent between two looks at what became of others.
const BETWEEN_LOOKS: u64 = 256;
/// How long to wait for the last records while none arrives.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait after an interrupt, even while records arrive.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Send made-up inventory events to Kafka, and check what became of them
///
/// The events are drawn from a seed: the same seed sends the same events under the same ids, so sending them again must
/// change nothing. Some records repeat an earlier event, and some are no events at all, as asked for.
///
/// With --check or --check-server it waits until everything is consumed, and then checks that every event was decided
/// once and is in the journal as it was sent; that every product's stock is the sum of the journal's accepted changes,
/// and never fell below 0; and that the dead letters are exactly the records that are no events. Letters that are there
/// twice, as after a kill, are counted. Which events are accepted depends on the order in which partitions are
/// consumed; with --no-overselling all are, and the stock must be exactly what was sent. The exit code is 1 when
/// something is different.
///
/// The first interrupt (Ctrl-C) ends the sending, waits for what is on its way, and prints what arrived and the seed;
/// nothing is checked then, and the exit code is 130. What arrived and the seed are also printed if the sending fails.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise produce --brokers localhost:9092 --events 100000 --disorder --poison 0.001
  equipoise produce --rate 5000 --no-overselling --check postgres://localhost/stock
  equipoise produce --seed 7 --events 1000 --format protobuf --compression zstd"
)]
pub(super) struct Produce {
    /// Records to send, including repeated and invalid ones
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    events: u64,
    /// Records per second; 0 for as fast as possible
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// Products that the events are about
    #[arg(long, value_name = "N", default_value_t = NonZeroU32::MIN.saturating_add(99))]
    products: NonZeroU32,
    /// How uneven: 0 is even, with 1 the second product gets half of what the first gets (Zipf)
    #[arg(long, value_name = "EXPONENT", default_value_t = 1.0, value_parser = exponent)]
    skew: f64,
    /// Share of the records that repeat an earlier event
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = share)]
    duplicates: f64,
    /// Share of the records that are no events
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    poison: f64,
    /// Key the events at random, so that one product's events come on several partitions
    #[arg(long)]
    disorder: bool,
    /// Always provide enough stock: each product is stocked up first; with --disorder nothing is sold
    #[arg(long)]
    no_overselling: bool,
    /// The seed that the events are drawn from [default: a new one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How the events are written
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    format: FormatName,
    /// How batches are compressed
    #[arg(long, value_name = "CODEC", default_value = "none")]
    compression: Compression,
    /// Partitions of the topic, if it has to be made
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    #[command(flatten)]
    check: check::Options,
    /// Print one JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    /// A JSON object
    Json,
    /// A CloudEvent with its attributes in headers
    Cloudevents,
    /// A CloudEvent in an envelope
    CloudeventsStructured,
    /// equipoise.v1.InventoryEvent
    Protobuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Produce {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        let options = self.options()?;
        let seed = options.seed;
        let stage = Arc::<Stage>::default();
        listen(&stage, seed, self.json)?;
        let settings = self.kafka.settings(&[("compression.type", self.compression.name())])?;
        let topic = settings.topic.clone();
        let producer = Producer::connect(&settings, &topic, Some(self.partitions))?;
        let check = Check::begin(&self.check, environment, settings, &options)?;
        let mut workload = Workload::new(options);
        let begun = Instant::now();
        stage.begin_sending();
        let sent = self.send(&producer, &mut workload, &stage);
        let interrupted = stage.end_sending();
        let totals = workload.totals();
        let acknowledged = producer.delivered().acknowledged;
        let mut output = Output::new(self.json);
        let record = ProducedRecord::new(&topic, producer.partitions(), seed, acknowledged, totals, begun.elapsed());
        let told = output.record(&record).and_then(|()| output.flush());
        if interrupted {
            let text = format!("{acknowledged} of {} records arrived; {}", self.events, same_run(seed));
            return Err(Failure::Interrupted(format!("interrupted: {text}")));
        }
        // What was not sent is worse than what cannot be printed.
        let delivered = sent?;
        told?;
        drop(producer);
        let Some(check) = check else { return Ok(()) };
        let verdict = check.finish(totals, &delivered.next_offsets, self.json)?;
        output.record(&verdict)?;
        output.flush()?;
        verdict.result()
    }

    fn options(&self) -> Result<WorkloadOptions, Failure> {
        if self.duplicates + self.poison > 1.0 {
            return Err(Failure::Usage(
                "--duplicates and --poison are shares of all records: at most 1 together".to_owned(),
            ));
        }
        let seed = match self.seed {
            Some(seed) => seed,
            // Every reader of JSON keeps 53 bits.
            None => {
                getrandom::u64().map_err(|error| Failure::Other(format!("no random numbers to be had: {error}")))? >> 11
            }
        };
        Ok(WorkloadOptions {
            records: self.events,
            products: self.products.get(),
            skew: self.skew,
            duplicates: self.duplicates,
            poison: self.poison,
            disorder: self.disorder,
            no_overselling: self.no_overselling,
            seed,
        })
    }

    fn send(&self, producer: &Producer, workload: &mut Workload, stage: &Stage) -> Result<Delivered, Failure> {
        let bar = Bar::of_records(self.json);
        let sent = self.queue_all(producer, workload, stage, &bar);
        let mut goes_on = within(PATIENCE);
        let delivered = sent.and_then(|()| {
            let look = |delivered: &Delivered| {
                bar.show(delivered.acknowledged, self.events);
                goes_on(delivered) && stage.interrupted().is_none_or(|since| since.elapsed() < LAST_WAIT)
            };
            Ok(producer.finish(look)?)
        });
        bar.clear();
        delivered
    }

    fn queue_all(&self, producer: &Producer, workload: &mut Workload, stage: &Stage, bar: &Bar) -> Result<(), Failure> {
        let format = self.format.format();
        let begun = Instant::now();
        let goes_on = || stage.interrupted().is_none();
        for number in 0.. {
            if self.rate > 0 {
                let due = begun + Duration::from_secs_f64(number as f64 / f64::from(self.rate));
                while let Some(early) = due.checked_duration_since(Instant::now()).filter(|early| !early.is_zero()) {
                    producer.serve(early.min(Duration::from_millis(50)))?;
                    bar.show(number, self.events);
                    if !goes_on() {
                        return Ok(());
                    }
                }
            }
            if number % BETWEEN_LOOKS == 0 {
                producer.serve(Duration::ZERO)?;
                bar.show(number, self.events);
            }
            if !goes_on() {
                break;
            }
            let Some(sent) = workload.next() else { break };
            if !send_one(producer, goes_on, format, &sent)? {
                break;
            }
        }
        Ok(())
    }
}

/// Whether it was queued: not if `goes_on` no longer held while there was no room.
fn send_one(producer: &Producer, goes_on: impl Fn() -> bool, format: Format, sent: &Sent) -> Result<bool, Failure> {
    let key = Some(sent.key.as_bytes());
    Ok(match &sent.what {
        What::Poison((value, headers)) => producer.send_while(goes_on, key, Some(value), headers)?,
        What::New(event) | What::Again(event) => {
            let encoded = format.encode(event);
            let headers: Vec<_> = encoded.headers.iter().map(|(name, value)| (*name, Some(&value[..]))).collect();
            producer.send_while(goes_on, key, Some(&encoded.value), &headers)?
        }
    })
}

/// How far a run is, for whoever interrupts it.
#[derive(Default)]
struct Stage(Mutex<Stages>);

#[derive(Default)]
enum Stages {
    #[default]
    Before,
    Sending,
    /// Since then nothing more is sent.
    Interrupted(Instant),
    After,
}

impl Stage {
    fn begin_sending(&self) {
        *self.0.lock() = Stages::Sending;
    }

    /// Whether it was interrupted; from now on an interrupt is the end.
    fn end_sending(&self) -> bool {
        matches!(std::mem::replace(&mut *self.0.lock(), Stages::After), Stages::Interrupted(_))
    }

    fn interrupted(&self) -> Option<Instant> {
        match *self.0.lock() {
            Stages::Interrupted(since) => Some(since),
            _ => None,
        }
    }

    /// Ends the sending; where nothing is sent, the process, with what `end` says.
    fn interrupt(&self, end: impl FnOnce(&'static str)) {
        let mut stage = self.0.lock();
        match *stage {
            Stages::Sending => *stage = Stages::Interrupted(Instant::now()),
            Stages::Interrupted(_) => {}
            Stages::Before => end("nothing was sent"),
            Stages::After => end("everything was sent, and is not checked"),
        }
    }
}

fn listen(stage: &Arc<Stage>, seed: u64, json: bool) -> Result<(), Failure> {
    let stage = stage.clone();
    let say = move |what: &str| {
        Failure::Interrupted(format!("interrupted: {what}; {}", same_run(seed))).report_within(json);
    };
    let first = move |_| {
        stage.interrupt(|what| {
            say(what);
            exit(i32::from(INTERRUPTED));
        });
        // One object a line is all that programs expect.
        if !json {
            say_within(|| note("ending early; once more to end at once"));
        }
    };
    interrupt::listen(first, move || say("what was on its way was not waited for"))
}

fn same_run(seed: u64) -> String {
    format!("--seed {seed} with the same options is the same run")
}

impl FormatName {
    fn format(self) -> Format {
        match self {
            FormatName::Json => Format::Json,
            FormatName::Cloudevents => Format::CloudEvents,
            FormatName::CloudeventsStructured => Format::CloudEventsStructured,
            FormatName::Protobuf => Format::Protobuf,
        }
    }
}

impl Compression {
    /// librdkafka's name for it.
    fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 1.0).ok_or_else(|| "expected a share from 0 to 1".to_owned())
}

fn exponent(text: &str) -> Result<f64, String> {
    number(text, 10.0).ok_or_else(|| "expected a number from 0 to 10".to_owned())
}

fn number(text: &str, most: f64) -> Option<f64> {
    text.parse().ok().filter(|number| (0.0..=most).contains(number))
}

/// What was sent.
#[derive(Serialize)]
struct ProducedRecord<'a> {
    topic: &'a str,
    partitions: i32,
    seed: u64,
    /// How many of the records the brokers have.
    acknowledged: u64,
    records: u64,
    events: u64,
    duplicates: u64,
    poison: u64,
    seconds: f64,
    records_per_second: u64,
}

impl<'a> ProducedRecord<'a> {
    fn new(topic: &'a str, partitions: i32, seed: u64, acknowledged: u64, totals: &Totals, took: Duration) -> Self {
        let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        let records_per_second = (acknowledged as f64 / took.as_secs_f64().max(1e-9)) as u64;
        let Totals { distinct, duplicates, poison, .. } = *totals;
        let records = distinct + duplicates + poison;
        ProducedRecord {
            topic,
            partitions,
            seed,
            acknowledged,
            records,
            events: distinct,
            duplicates,
            poison,
            seconds,
            records_per_second,
        }
    }
}

impl Record for ProducedRecord<'_> {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.field("topic", format_args!("{} ({} partitions)", super::output::escape(self.topic), self.partitions))?;
        page.field("seed", self.seed)?;
        page.field(
            "sent",
            format_args!("{} records in {} s, {} a second", self.records, self.seconds, self.records_per_second),
        )?;
        page.field("acknowledged", self.acknowledged)?;
        page.field("events", self.events)?;
        page.field("duplicates", self.duplicates)?;
        page.field("poison", self.poison)
    }
}

/// Goes on as long as records arrive, and for `patience` without any.
pub(super) fn within(patience: Duration) -> impl FnMut(&Delivered) -> bool {
    let mut heard = (Instant::now(), 0);
    move |delivered| {
        if delivered.acknowledged > heard.1 {
            heard = (Instant::now(), delivered.acknowledged);
        }
        heard.0.elapsed() < patience
    }
}

/// What did not happen in time.
pub(super) fn too_late(what: String) -> Failure {
    Status::deadline_exceeded(what).into()
}
