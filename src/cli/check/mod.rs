//! What must have become of the events that `produce` sent, and whether it did.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::dead_letters::Letter;
use super::exit::Failure;
use super::output::{Page, Record, escape};
use super::produce::too_late;
use super::progress::Bar;
use crate::config::Environment;
use crate::inventory::{DeadLetter, Tally, Totals, Workload, WorkloadOptions};
use crate::kafka::{Log, Offsets, Settings};

#[cfg(feature = "postgres")]
mod database;
mod server;

/// How many differences are printed.
const MOST_PRINTED: usize = 20;
/// How often to look whether there is more.
const LOOK: Duration = Duration::from_millis(200);
/// How long to wait for duplicates among the letters.
const QUIET: Duration = Duration::from_secs(1);

/// Where to look.
#[derive(Debug, Args)]
#[command(next_help_heading = "Check")]
pub(super) struct Options {
    /// Wait until everything is consumed, and compare it with what this PostgreSQL holds
    #[cfg(feature = "postgres")]
    #[arg(long, value_name = "DATABASE_URL", conflicts_with = "check_server")]
    check: Option<String>,
    /// The same against a service: its journal, from the oldest entry on, and its balances
    #[arg(long, value_name = "URL")]
    check_server: Option<String>,
    /// How long to wait while nothing more is consumed, and for a service to make the tables, as in 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    check_patience: Duration,
}

/// A check that has begun: what was there before is known.
pub(super) struct Check {
    place: Place,
    settings: Settings,
    dead_letters_before: Offsets,
    seed: u64,
    no_overselling: bool,
    patience: Duration,
}

enum Place {
    #[cfg(feature = "postgres")]
    Database(Box<database::Database>),
    Server(server::Server),
}

/// What a place says about the events of one product, and about the product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// How many of its events were decided.
    events: u64,
    /// How many of them are in the journal, once, about this product.
    entries: u64,
    /// The sum of their changes.
    sum: i128,
    /// How many were accepted.
    accepted: u64,
    stock: i64,
    /// The lowest stock that it ever had.
    lowest: i64,
    /// The stock, minus the sum of the journal's accepted changes, and minus what that left unexplained before the run.
    unexplained: i128,
}

/// What a place answers once everything was consumed.
struct Evidence {
    /// By the products' names.
    products: BTreeMap<String, Found>,
    /// What is wrong beyond that.
    differences: Vec<String>,
}

impl Check {
    /// Looks at what is there before; None when no check was asked for.
    pub(super) fn begin(
        options: &Options,
        environment: &Environment,
        settings: Settings,
        workload: &WorkloadOptions,
    ) -> Result<Option<Self>, Failure> {
        let Some(place) = options.place(environment, &settings.topic, workload)? else { return Ok(None) };
        let (_, dead_letters_before) = Log::open(&settings, &settings.dead_letter_topic)?.ends()?;
        Ok(Some(Check {
            place,
            settings,
            dead_letters_before,
            seed: workload.seed,
            no_overselling: workload.no_overselling,
            patience: options.check_patience,
        }))
    }

    /// Waits until everything before `next_offsets` is consumed, and compares.
    pub(super) fn finish(self, totals: &Totals, next_offsets: &Offsets, hidden: bool) -> Result<Verdict, Failure> {
        let bar = Bar::of_records(hidden);
        let mut waiting = Waiting { bar: &bar, patience: self.patience, heard: (Instant::now(), 0) };
        let evidence = match &self.place {
            #[cfg(feature = "postgres")]
            Place::Database(database) => database.evidence(self.seed, totals, next_offsets, &mut waiting),
            Place::Server(server) => server.evidence(self.seed, totals, &mut waiting),
        };
        let evidence = evidence.inspect_err(|_| bar.clear())?;
        let dead_letters = self.dead_letters(totals.poison, &mut waiting);
        bar.clear();
        let dead_letters = dead_letters?;
        Ok(self.verdict(totals, evidence, &dead_letters))
    }

    fn dead_letters(&self, expected: u64, waiting: &mut Waiting<'_>) -> Result<DeadLetters, Failure> {
        let log = Log::open(&self.settings, &self.settings.dead_letter_topic)?;
        let mut letters = DeadLetters::new(self.seed);
        let mut from = self.dead_letters_before.clone();
        waiting.begin();
        let mut complete = expected == 0;
        loop {
            let (_, ends) = log.ends()?;
            log.read(&from, &ends, |record| {
                letters.take(&record);
                true
            })?;
            from = ends;
            let found = letters.poison.len() as u64;
            if complete || !waiting.goes_on(found, expected) {
                return Ok(letters);
            }
            complete = found >= expected;
            std::thread::sleep(if complete { QUIET } else { LOOK });
        }
    }

    fn verdict(self, totals: &Totals, evidence: Evidence, letters: &DeadLetters) -> Verdict {
        let Evidence { mut products, mut differences } = evidence;
        let (mut events, mut accepted) = (0, 0);
        for (number, tally) in totals.products.iter().enumerate().filter(|(_, tally)| tally.events > 0) {
            let sku = Workload::product(number);
            let found = products.remove(&sku).unwrap_or_default();
            compare(&sku, tally, &found, self.no_overselling, &mut differences);
            events += found.events;
            accepted += found.accepted;
        }
        let strangers = products.iter().filter(|(_, found)| found.events > 0);
        differences
            .extend(strangers.map(|(sku, found)| format!("{sku}: has {} events that nobody sent it", found.events)));
        let poison = letters.poison.len() as u64;
        if poison != totals.poison {
            differences.push(format!(
                "{poison} of {} poisoned records are in {}",
                totals.poison, self.settings.dead_letter_topic
            ));
        }
        if letters.events > 0 {
            differences.push(format!("{} good events are in {}", letters.events, self.settings.dead_letter_topic));
        }
        let refused = events.saturating_sub(accepted);
        Verdict {
            check: differences.is_empty(),
            events,
            accepted,
            refused,
            dead_letters: poison,
            double_dead_letters: letters.double,
            differences,
        }
    }
}

/// Adds what is different about one product.
fn compare(sku: &str, sent: &Tally, found: &Found, no_overselling: bool, differences: &mut Vec<String>) {
    let mut add = |text: String| differences.push(format!("{sku}: {text}"));
    if found.events != sent.events {
        add(format!("{} of {} events were decided", found.events, sent.events));
    }
    if found.entries != found.events {
        add(format!("{} of {} decided events are in the journal once, and about it", found.entries, found.events));
    }
    if found.sum != sent.sum {
        add(format!("the changes in the journal add up to {}, those that were sent to {}", found.sum, sent.sum));
    }
    if found.unexplained != 0 {
        add(format!("the stock {} is off by {} from what the journal adds up to", found.stock, found.unexplained));
    }
    if found.stock < 0 || found.lowest < 0 {
        add(format!("the stock is {} and was {}", found.stock, found.lowest));
    }
    if no_overselling && found.accepted != found.events {
        add(format!("{} of {} events were accepted, though stock was enough", found.accepted, found.events));
    }
}

/// Which of the records that were sent came back as dead letters.
struct DeadLetters {
    seed: u64,
    /// The keys.
    poison: BTreeSet<Vec<u8>>,
    /// Good events.
    events: u64,
    /// Those that there are.
    identities: HashSet<String>,
    /// How many there are beyond one a record.
    double: u64,
}

impl DeadLetters {
    fn new(seed: u64) -> Self {
        DeadLetters { seed, poison: BTreeSet::new(), events: 0, identities: HashSet::new(), double: 0 }
    }

    fn take(&mut self, record: &DeadLetter) {
        let key = record.key.as_deref().unwrap_or_default();
        if key.starts_with(Workload::poison_key(self.seed).as_bytes()) {
            self.poison.insert(key.to_vec());
            return self.count(record);
        }
        let first = Workload::id(self.seed, 0);
        let ours = first.trim_end_matches('0').as_bytes();
        let says = |bytes: &[u8]| bytes.windows(ours.len()).any(|part| part == ours);
        let headers = record.headers.iter().filter_map(|(_, value)| value.as_deref());
        if headers.chain(record.value.as_deref()).any(says) {
            self.events += 1;
            self.count(record);
        }
    }

    fn count(&mut self, record: &DeadLetter) {
        self.double += u64::from(!self.identities.insert(Letter::new(record.clone()).identity()));
    }
}

/// How long to go on while nothing is consumed.
pub(super) struct Waiting<'a> {
    bar: &'a Bar,
    patience: Duration,
    /// When there was progress last, and how far it was.
    heard: (Instant, u64),
}

impl Waiting<'_> {
    fn begin(&mut self) {
        self.heard = (Instant::now(), 0);
    }

    /// Whether it is still worth waiting for.
    fn goes_on(&mut self, done: u64, of: u64) -> bool {
        self.bar.show(done, of);
        if done > self.heard.1 {
            self.heard = (Instant::now(), done);
        }
        self.heard.0.elapsed() < self.patience
    }

    fn too_late(&self, what: String) -> Failure {
        too_late(format!("{what}, and no more within {}", humantime::format_duration(self.patience)))
    }
}

/// What the check found.
#[derive(Serialize)]
pub(super) struct Verdict {
    /// Whether everything is as it must be.
    check: bool,
    events: u64,
    accepted: u64,
    refused: u64,
    dead_letters: u64,
    /// Letters of records that have one already: none, unless an instance was killed, or the brokers were away.
    double_dead_letters: u64,
    differences: Vec<String>,
}

impl Verdict {
    pub(super) fn result(&self) -> Result<(), Failure> {
        match self.differences.first() {
            None => Ok(()),
            Some(first) => {
                let more = match self.differences.len() {
                    1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                Err(Failure::Refused(format!("the check failed: {first}{more}")))
            }
        }
    }
}

impl Record for Verdict {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.field(
            "decided",
            format_args!("{} events, {} accepted, {} refused", self.events, self.accepted, self.refused),
        )?;
        match self.double_dead_letters {
            0 => page.field("dead letters", self.dead_letters)?,
            double => {
                page.field("dead letters", format_args!("{}, and {double} more that are double", self.dead_letters))?
            }
        }
        if self.check {
            return page.field("check", "everything is as it must be");
        }
        for difference in self.differences.iter().take(MOST_PRINTED) {
            let style = page.refusal();
            page.field("difference", format_args!("{style}{}{style:#}", escape(difference)))?;
        }
        match self.differences.len().checked_sub(MOST_PRINTED) {
            None | Some(0) => Ok(()),
            Some(more) => page.field("", format_args!("and {more} more")),
        }
    }
}

impl Options {
    fn place(
        &self,
        environment: &Environment,
        topic: &str,
        workload: &WorkloadOptions,
    ) -> Result<Option<Place>, Failure> {
        if let Some(server) = &self.check_server {
            return Ok(Some(Place::Server(server::Server::connect(server, environment)?)));
        }
        #[cfg(feature = "postgres")]
        if let Some(url) = &self.check {
            let products = (0..workload.products as usize).map(Workload::product).collect();
            let (until, mut told) = (Instant::now() + self.check_patience, false);
            let waits = || {
                if !std::mem::replace(&mut told, true) {
                    super::note("the database has no tables yet: waiting for a service to make them");
                }
                Instant::now() < until
            };
            let database = database::Database::connect(url, topic.to_owned(), products, waits)?;
            return Ok(Some(Place::Database(Box::new(database))));
        }
        let _ = (topic, workload);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(sent: Tally, found: Found, no_overselling: bool) -> Vec<String> {
        let mut differences = Vec::new();
        compare("sku", &sent, &found, no_overselling, &mut differences);
        differences
    }

    /// D2, D3: a lost event, one that was applied twice, and a stock that is not what was accepted are found.
    #[test]
    fn what_went_wrong_is_found() {
        let sent = Tally { events: 3, sum: -4 };
        let right = Found { events: 3, entries: 3, sum: -4, accepted: 2, stock: 5, lowest: 0, unexplained: 0 };
        assert_eq!(differences(sent, right.clone(), false), [""; 0]);
        let cases = [
            (Found { events: 2, entries: 2, sum: -3, ..right.clone() }, "2 of 3 events were decided"),
            (Found { entries: 2, ..right.clone() }, "2 of 3 decided events are in the journal"),
            (Found { sum: -5, ..right.clone() }, "add up to -5, those that were sent to -4"),
            (Found { unexplained: -1, ..right.clone() }, "off by -1"),
            (Found { lowest: -1, ..right.clone() }, "the stock is 5 and was -1"),
            (Found::default(), "0 of 3 events were decided"),
        ];
        for (found, text) in cases {
            let differences = differences(sent, found, false);
            assert!(differences[0].contains(text), "{text}: {differences:?}");
        }
        assert!(differences(sent, right, true)[0].contains("2 of 3 events were accepted"));
    }

    /// D6, case A16: poison is known by its key, and counted once; a good event among the dead letters is noticed, and
    /// so is a letter that is there twice.
    #[test]
    fn dead_letters_are_told_apart() {
        let origin = |offset: u64| {
            let headers = ["equipoise-reason", "equipoise-topic", "equipoise-partition", "equipoise-offset"];
            headers.map(|name| (name.to_owned(), Some(format!("{offset}").into_bytes())))
        };
        let letter = |offset: u64, key: &str, value: &str, header: Option<&str>| DeadLetter {
            topic: "inventory-events-dead-letters".to_owned(),
            reason: String::new(),
            partition: 0,
            offset: 0,
            timestamp: None,
            key: Some(key.as_bytes().to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers: header
                .map(|value| ("ce_id".to_owned(), Some(value.as_bytes().to_vec())))
                .into_iter()
                .chain(origin(offset))
                .collect(),
        };
        let mut letters = DeadLetters::new(7);
        let poison = format!("{}000000000001", Workload::poison_key(7));
        letters.take(&letter(0, &poison, "null", None));
        assert_eq!(letters.double, 0);
        letters.take(&letter(0, &poison, "null", None));
        letters.take(&letter(0, "poison-of-another", "null", None));
        letters.take(&letter(0, "sku", &Workload::id(8, 123), None));
        assert_eq!((letters.poison.len(), letters.events, letters.double), (1, 0, 1));
        letters.take(&letter(1, "sku", &format!("{{\"event_id\":\"{}\"}}", Workload::id(7, 123)), None));
        letters.take(&letter(2, "sku", "{}", Some(&Workload::id(7, 124))));
        assert_eq!((letters.poison.len(), letters.events, letters.double), (1, 2, 1));
    }
}
