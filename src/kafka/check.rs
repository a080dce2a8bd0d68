//! Compares stored offsets with the log: whether the records after them are still there, and whether it is the same
//! topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::inventory::Position;

use super::assignment::Step;
use super::fingerprint::{UNKNOWN, distance, fingerprint, fits};
use super::quiet::Silent;
use super::settings::{NeverConsumed, OnMismatch, Settings};

/// How long the log may take to answer, for all partitions together.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a single question may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The offsets that a partition of the log has: from the first up to, but not including, the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: i64,
    pub(super) end: i64,
}

/// Where each of these partitions can go on. Blocks for at most some [`PATIENCE`].
pub(super) fn check(settings: &Settings, positions: &[Position]) -> Vec<(i32, Step)> {
    let begun = Instant::now();
    let look = match Look::at(settings) {
        Ok(look) => look,
        Err(error) => return positions.iter().map(|it| (it.partition, again(*it, &error))).collect(),
    };
    let left = || PATIENCE.saturating_sub(begun.elapsed());
    let young = |partition| look.young(partition, settings.id_window, left().min(ANSWER));
    let mut steps = Vec::new();
    let mut to_compare = Vec::new();
    let mut unanswered = None;
    for position in positions {
        let extent = match &unanswered {
            // A broker that did not answer once would delay each of the other partitions as well.
            Some(error) => Err(KafkaError::clone(error)),
            None => look.extent(position.partition, left().min(ANSWER)),
        };
        match extent {
            Ok(extent) if is_comparable(*position, extent) => to_compare.push((*position, extent)),
            Ok(extent) => {
                steps.push((position.partition, placed(settings, *position, extent, || young(position.partition))));
            }
            Err(error) => {
                steps.push((position.partition, again(*position, &error)));
                unanswered = (begun.elapsed() > ANSWER).then_some(error);
            }
        }
    }
    let found = look.fingerprints(&to_compare, left().max(ANSWER));
    for (position, extent) in to_compare {
        let young = || young(position.partition);
        let step = match found.get(&position.partition) {
            Some(Found::Record(print)) if !fits(position.fingerprint, *print) => {
                another_topic(settings, position, extent, young)
            }
            Some(_) => placed(settings, position, extent, young),
            None => Step::Again(Some(position), "the log did not show the record before the offset in time".to_owned()),
        };
        steps.push((position.partition, step));
    }
    steps
}

/// The partitions that the topic has. Blocks for at most [`ANSWER`].
pub(super) fn partitions(settings: &Settings) -> KafkaResult<Vec<i32>> {
    Look::at(settings)?.partitions()
}

/// The extents of these partitions in the log; a partition without an answer is left out. Blocks for at most some
/// [`PATIENCE`].
pub(super) fn extents(settings: &Settings, partitions: &[i32]) -> Vec<(i32, Extent)> {
    let begun = Instant::now();
    let Ok(look) = Look::at(settings) else { return Vec::new() };
    let extent = |partition: &i32| {
        let patience = PATIENCE.checked_sub(begun.elapsed())?.min(ANSWER);
        Some((*partition, look.extent(*partition, patience).ok()?))
    };
    partitions.iter().filter_map(extent).collect()
}

fn again(position: Position, error: &KafkaError) -> Step {
    Step::Again(Some(position), error.to_string())
}

/// Whether the record before the offset can still be looked at.
fn is_comparable(position: Position, extent: Extent) -> bool {
    let in_log = |next: i64| record_before(position, next) >= extent.first && next <= extent.end;
    position.fingerprint != UNKNOWN && position.next.is_some_and(in_log)
}

/// The offset of the record that the fingerprint is of.
fn record_before(position: Position, next: i64) -> i64 {
    next - 1 - distance(position.fingerprint)
}

/// Where a partition goes on, going by what the log has. `young` finds the first record that may be consumed a second
/// time.
fn placed(
    settings: &Settings,
    position: Position,
    extent: Extent,
    young: impl FnOnce() -> KafkaResult<Option<i64>>,
) -> Step {
    let Extent { first, end } = extent;
    let ready = |start| Step::Ready { position, start };
    match position.next {
        None => match settings.never_consumed {
            NeverConsumed::Earliest => ready(first),
            NeverConsumed::Latest => ready(end),
            NeverConsumed::Stop => {
                Step::Stop(position, "it was never consumed, and KAFKA_AUTO_OFFSET_RESET is none".to_owned())
            }
        },
        Some(next) if next < first => {
            let what = format!(
                "records were lost: the log begins at {first}, and those from {next} on were never consumed \
                 (KAFKA_ON_LOST_RECORDS=earliest goes on without them)"
            );
            mismatch(settings.on_lost_records, position, first, what)
        }
        Some(next) if next > end => another_topic(settings, position, extent, young),
        Some(next) => ready(next),
    }
}

/// Another topic, or the same one without its end: nothing tells the two apart. All records of the same topic were
/// applied, but that is known only as long as their ids are remembered.
fn another_topic(
    settings: &Settings,
    position: Position,
    Extent { first, end }: Extent,
    young: impl FnOnce() -> KafkaResult<Option<i64>>,
) -> Step {
    let next = position.next.unwrap_or_default();
    let what = format!(
        "the topic is another one, or lost its end: the record before offset {next} is not the one that was consumed, and \
         the log ends at {end} (KAFKA_ON_ANOTHER_TOPIC=earliest consumes it from the first record that is younger than the window of ids)"
    );
    let young = match settings.on_another_topic {
        OnMismatch::Stop => return Step::Stop(position, what),
        OnMismatch::Earliest => young(),
    };
    match young {
        Ok(young) => mismatch(OnMismatch::Earliest, position, young.unwrap_or(end).clamp(first, end), what),
        Err(error) => again(position, &error),
    }
}

fn mismatch(choice: OnMismatch, position: Position, from: i64, what: String) -> Step {
    match choice {
        OnMismatch::Stop => Step::Stop(position, what),
        OnMismatch::Earliest => {
            tracing::warn!(partition = position.partition, from, "going on with the oldest record that may be: {what}");
            Step::Ready { position, start: from }
        }
    }
}

/// What the log has where a fingerprint's record was.
enum Found {
    Record(i64),
    /// It was compacted away, or never was a record.
    Nothing,
}

/// A short-lived consumer of its own, so that questions to the log hold up nobody.
struct Look<'a> {
    consumer: BaseConsumer<Silent>,
    topic: &'a str,
}

impl<'a> Look<'a> {
    fn at(settings: &'a Settings) -> KafkaResult<Self> {
        let consumer = settings.for_look().create_with_context(Silent)?;
        Ok(Look { consumer, topic: &settings.topic })
    }

    fn partitions(&self) -> KafkaResult<Vec<i32>> {
        let metadata = self.consumer.fetch_metadata(Some(self.topic), ANSWER)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let Some(topic) = topic else { return Ok(Vec::new()) };
        if let Some(error) = topic.error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        Ok(topic.partitions().iter().map(|partition| partition.id()).collect())
    }

    fn extent(&self, partition: i32, patience: Duration) -> KafkaResult<Extent> {
        let (first, end) =
            self.consumer.fetch_watermarks(self.topic, partition, patience.max(Duration::from_millis(1)))?;
        Ok(Extent { first, end })
    }

    /// The first record of which the id is remembered if it was consumed before; None when there is none. An eighth of
    /// the window is left for clocks that differ, and for the time that it takes.
    fn young(&self, partition: i32, window: Duration, patience: Duration) -> KafkaResult<Option<i64>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(window - window / 8).as_millis();
        let mut list = TopicPartitionList::new();
        let since = Offset::Offset(i64::try_from(since).unwrap_or(i64::MAX));
        list.add_partition_offset(self.topic, partition, since)?;
        let found = self.consumer.offsets_for_times(list, patience)?;
        let Some(found) = found.find_partition(self.topic, partition) else { return Ok(None) };
        found.error()?;
        Ok(found.offset().to_raw().filter(|offset| *offset >= 0))
    }

    /// What is where the record of each position's fingerprint was, as far as the log says so in time.
    fn fingerprints(&self, positions: &[(Position, Extent)], patience: Duration) -> BTreeMap<i32, Found> {
        let mut found = BTreeMap::new();
        let mut list = TopicPartitionList::with_capacity(positions.len());
        let at = |position: Position| record_before(position, position.next.unwrap_or_default());
        let wanted: BTreeMap<_, _> = positions.iter().map(|(it, _)| (it.partition, at(*it))).collect();
        for (partition, offset) in &wanted {
            if list.add_partition_offset(self.topic, *partition, Offset::Offset(*offset)).is_err() {
                found.insert(*partition, Found::Nothing);
            }
        }
        if positions.is_empty() || self.consumer.assign(&list).is_err() {
            return found;
        }
        let until = Instant::now() + patience;
        while found.len() < positions.len() && Instant::now() < until {
            let (partition, what) = match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if wanted.get(&message.partition()) == Some(&message.offset()) => {
                    let print = fingerprint(message.timestamp().to_millis(), message.key(), message.payload());
                    (message.partition(), Found::Record(print))
                }
                Some(Ok(message)) => (message.partition(), Found::Nothing),
                Some(Err(KafkaError::PartitionEOF(partition))) => (partition, Found::Nothing),
                Some(Err(_)) | None => continue,
            };
            found.entry(partition).or_insert(what);
        }
        // What librdkafka holds for a partition must be gone before the consumer is.
        drop(self.consumer.unassign());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::farther;
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let brokers = [("KAFKA_BROKERS", "nowhere:1")];
        let variables = brokers.iter().chain(variables).map(|(name, value)| (name.to_string(), value.to_string()));
        Settings::from_variables(variables).expect("good settings")
    }

    fn at(next: Option<i64>) -> Position {
        Position { partition: 0, epoch: 1, next, fingerprint: 5 }
    }

    const LOG: Extent = Extent { first: 10, end: 20 };

    fn placed(settings: &Settings, position: Position, extent: Extent) -> Step {
        super::placed(settings, position, extent, || Ok(Some(3)))
    }

    /// D6: records that are gone are not passed over in silence.
    #[test]
    fn an_offset_before_the_log_stops_the_partition() {
        let step = placed(&settings(&[]), at(Some(9)), LOG);
        assert!(matches!(&step, Step::Stop(_, why) if why.contains("the log begins at 10")), "{step:?}");
        let go_on = settings(&[("KAFKA_ON_LOST_RECORDS", "earliest")]);
        assert_eq!(placed(&go_on, at(Some(9)), LOG), Step::Ready { position: at(Some(9)), start: 10 });
    }

    #[test]
    fn an_offset_after_the_log_stops_the_partition() {
        let step = placed(&settings(&[]), at(Some(21)), LOG);
        assert!(matches!(&step, Step::Stop(_, why) if why.contains("another one")), "{step:?}");
        let go_on = settings(&[("KAFKA_ON_ANOTHER_TOPIC", "earliest")]);
        assert_eq!(placed(&go_on, at(Some(21)), LOG), Step::Ready { position: at(Some(21)), start: 10 });
    }

    /// D6: where ids may be forgotten already nothing is consumed a second time.
    #[test]
    fn going_back_ends_where_ids_are_forgotten() {
        let go_on = settings(&[("KAFKA_ON_ANOTHER_TOPIC", "earliest")]);
        for (young, start) in [(Some(3), 10), (Some(15), 15), (None, 20)] {
            let ready = Step::Ready { position: at(Some(21)), start };
            assert_eq!(super::placed(&go_on, at(Some(21)), LOG, || Ok(young)), ready);
            assert_eq!(
                super::another_topic(&go_on, at(Some(15)), LOG, || Ok(young)),
                Step::Ready { position: at(Some(15)), start }
            );
        }
        let step = super::placed(&go_on, at(Some(21)), LOG, || Err(KafkaError::Canceled));
        assert!(matches!(step, Step::Again(Some(_), _)), "{step:?}");
    }

    #[test]
    fn an_offset_in_the_log_is_where_it_goes_on() {
        for next in [10, 15, 20] {
            assert_eq!(
                placed(&settings(&[]), at(Some(next)), LOG),
                Step::Ready { position: at(Some(next)), start: next }
            );
        }
        assert!(
            !is_comparable(at(Some(10)), LOG) && is_comparable(at(Some(11)), LOG) && is_comparable(at(Some(20)), LOG)
        );
        assert!(!is_comparable(Position { fingerprint: UNKNOWN, ..at(Some(15)) }, LOG));
        let moved = |next| Position { fingerprint: farther(5, 3), ..at(Some(next)) };
        assert!(!is_comparable(moved(13), LOG) && is_comparable(moved(14), LOG), "its record is still there");
    }

    #[test]
    fn a_partition_never_consumed_begins_where_the_operator_says() {
        let cases = [("earliest", Some(10)), ("latest", Some(20)), ("none", None)];
        for (reset, expected) in cases {
            let step = placed(&settings(&[("KAFKA_AUTO_OFFSET_RESET", reset)]), at(None), LOG);
            let start = if let Step::Ready { start, .. } = step { Some(start) } else { None };
            assert_eq!(start, expected, "{reset}");
        }
    }
}
