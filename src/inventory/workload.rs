//! Made-up events, for trials and for load: the same seed makes the same ones.

use super::Event;
use super::decode::Header;
use crate::{AccountId, TransactionId};

/// What kind of events, and how many.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// The records, of all kinds.
    pub records: u64,
    /// The number of products that they are spread over.
    pub products: u32,
    /// How unevenly: the exponent of Zipf's law. With 0 evenly; with 1 the second product gets half as many as the
    /// first.
    pub skew: f64,
    /// The share of records that repeat an earlier event.
    pub duplicates: f64,
    /// The share of records that are no events.
    pub poison: f64,
    /// Keys are random, so that the events of one product come on several partitions, in any order.
    pub disorder: bool,
    /// Stock always suffices: in whatever order the partitions are consumed, each event is accepted.
    pub no_overselling: bool,
    /// The seed that everything is drawn from; different seeds give different ids.
    pub seed: u64,
}

/// One record of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its key: the product, or at random.
    pub key: String,
    /// What it says.
    pub what: What,
}

/// What a record of a workload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An event, for the first time.
    New(Event),
    /// An earlier event, again.
    Again(Event),
    /// No event at all.
    Poison(Poison),
}

/// A value, and headers, that are no event.
pub type Poison = (&'static [u8], &'static [Header<'static>]);

/// What all events of one product come to, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many there are.
    pub events: u64,
    /// The sum of their changes.
    pub sum: i128,
}

/// What was made so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events, each counted once.
    pub distinct: u64,
    /// Records that said an event again.
    pub duplicates: u64,
    /// Records that were no events.
    pub poison: u64,
    /// The tally of each product, by its number, from 0 on.
    pub products: Vec<Tally>,
}

/// The records, in their order.
#[derive(Clone, Debug)]
pub struct Workload {
    options: WorkloadOptions,
    /// The share of the products up to each.
    shares: Vec<f64>,
    made: u64,
    totals: Totals,
}

/// What never is an event, one of each kind.
const POISON: [Poison; 14] = [
    (b"", &[]),
    (b"null", &[]),
    (b"{\"event_id\":\"poison\",\"product_id\":\"poison\",\"quantity_change\":", &[]),
    (br#"["poison","poison",1]"#, &[]),
    (br#"{"event_id":"poison","product_id":"poison","quantity_change":1,"quantity_change":-1}"#, &[]),
    (br#"{"event_id":"poison","product_id":"poison","quantity_change":"5"}"#, &[]),
    (br#"{"event_id":"poison","product_id":"poison","quantity_change":1.5}"#, &[]),
    (br#"{"event_id":"poison","product_id":"poison","quantity_change":9223372036854775808}"#, &[]),
    (br#"{"product_id":"poison","quantity_change":1}"#, &[]),
    (br#"{"event_id":"a\u0000b","product_id":"poison","quantity_change":1}"#, &[]),
    (b"\xef\xbb\xbf{\"event_id\":\"poison\",\"product_id\":\"poison\",\"quantity_change\":1}", &[]),
    (b"{\"event_id\":\"poison\",\"product_id\":\"\xff\",\"quantity_change\":1}", &[]),
    (b"\x12\x06poison\x18", &[("content-type", Some(b"application/protobuf"))]),
    (br#"{"specversion":"1.0","id":"poison"}"#, &[("content-type", Some(b"application/cloudevents+json"))]),
];

/// What a draw is for; each purpose has random numbers of its own.
#[derive(Clone, Copy)]
enum Purpose {
    Record = 1,
    Event = 2,
}

impl Workload {
    /// Begins at the first record.
    #[must_use]
    pub fn new(options: WorkloadOptions) -> Self {
        let products = options.products.max(1);
        let mut shares: Vec<f64> = (1..=products).map(|rank| f64::from(rank).powf(-options.skew)).collect();
        let mut sum = 0.0;
        for share in &mut shares {
            sum += *share;
            *share = sum;
        }
        shares.iter_mut().for_each(|share| *share /= sum);
        let totals = Totals { products: vec![Tally::default(); shares.len()], ..Totals::default() };
        Workload { options, shares, made: 0, totals }
    }

    /// What was made so far.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The id of the event with this number: the ids of one seed are in the order of their numbers.
    #[must_use]
    pub fn id(seed: u64, number: u64) -> String {
        format!("event-{seed:016x}-{number:012}")
    }

    /// The product with this number.
    #[must_use]
    pub fn product(number: usize) -> String {
        format!("sku-{number:06}")
    }

    /// What the keys of a seed's poison begin with.
    #[must_use]
    pub fn poison_key(seed: u64) -> String {
        format!("poison-{seed:016x}-")
    }

    /// The event with this number. It is drawn independently of the others, so that it can be repeated without being
    /// kept.
    fn event(&self, number: u64) -> (usize, Option<Event>) {
        let mut random = Random::new(self.options.seed, Purpose::Event, number);
        let enough = self.options.no_overselling;
        let (product, change) = match usize::try_from(number) {
            // What is sold later, and more.
            Ok(first) if enough && !self.options.disorder && first < self.shares.len() => {
                (first, i64::try_from(self.options.records.saturating_mul(3)).unwrap_or(i64::MAX / 2).max(1000))
            }
            _ => {
                let share = random.share();
                let product = self.shares.partition_point(|upto| *upto <= share).min(self.shares.len() - 1);
                let restock = (enough && self.options.disorder) || random.below(10) == 0;
                let units = i64::try_from(random.below(if restock { 21 } else { 3 })).unwrap_or_default();
                (product, if restock { 10 + units } else { -1 - units })
            }
        };
        let id = TransactionId::new(&Workload::id(self.options.seed, number)).ok();
        let sku = AccountId::new(&Workload::product(product)).ok();
        (product, id.zip(sku).map(|(id, sku)| Event { id, product: sku, quantity_change: change }))
    }
}

impl Iterator for Workload {
    type Item = Sent;

    fn next(&mut self) -> Option<Sent> {
        if self.made >= self.options.records {
            return None;
        }
        let mut random = Random::new(self.options.seed, Purpose::Record, self.made);
        self.made += 1;
        let share = random.share();
        if share < self.options.poison {
            let key = format!("{}{:012}", Workload::poison_key(self.options.seed), self.totals.poison);
            self.totals.poison += 1;
            let at = usize::try_from(random.below(POISON.len() as u64)).unwrap_or_default();
            return Some(Sent { key, what: What::Poison(POISON[at]) });
        }
        let known = self.totals.distinct;
        let again = known > 0 && share < self.options.poison + self.options.duplicates;
        let number = match again {
            // A redelivery mostly comes soon, and sometimes late.
            true if random.below(2) == 0 => known - 1 - random.below(known.min(100)),
            true => random.below(known),
            false => known,
        };
        let (product, event) = self.event(number);
        let event = event?;
        let key = match self.options.disorder {
            true => format!("{:016x}", random.next()),
            false => event.product.to_string(),
        };
        if again {
            self.totals.duplicates += 1;
            return Some(Sent { key, what: What::Again(event) });
        }
        self.totals.distinct += 1;
        let tally = &mut self.totals.products[product];
        tally.events += 1;
        tally.sum += i128::from(event.quantity_change);
        Some(Sent { key, what: What::New(event) })
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): good enough to spread things, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64, purpose: Purpose, number: u64) -> Self {
        let mut random = Random(seed);
        let mut random = Random(random.next() ^ (purpose as u64));
        Random(random.next() ^ number)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, and not, `end`.
    fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(end);
        (wide >> 64) as u64
    }

    /// From 0 up to, and not, 1.
    fn share(&mut self) -> f64 {
        const BITS: u32 = 53;
        (self.next() >> (64 - BITS)) as f64 / (1_u64 << BITS) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::inventory::{Message, decode};

    fn options() -> WorkloadOptions {
        WorkloadOptions {
            records: 20_000,
            products: 50,
            skew: 1.0,
            duplicates: 0.1,
            poison: 0.05,
            disorder: false,
            no_overselling: false,
            seed: 7,
        }
    }

    #[test]
    fn a_seed_makes_the_same_events() {
        let made = |seed| Workload::new(WorkloadOptions { seed, ..options() }).collect::<Vec<_>>();
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
    }

    /// The totals are those of the records, and the shares what was asked for.
    #[test]
    fn totals_count_what_was_made() {
        let mut workload = Workload::new(options());
        let (mut seen, mut products, mut again, mut poison) = (HashSet::new(), HashMap::new(), 0, 0);
        for sent in workload.by_ref() {
            match sent.what {
                What::New(event) => {
                    assert_eq!(sent.key, event.product.as_str());
                    assert_eq!(event.id.as_str(), Workload::id(7, seen.len() as u64));
                    let tally: &mut Tally = products.entry(event.product.to_string()).or_default();
                    tally.events += 1;
                    tally.sum += i128::from(event.quantity_change);
                    seen.insert((event.id, event.quantity_change));
                }
                What::Again(event) => {
                    assert!(seen.contains(&(event.id, event.quantity_change)));
                    again += 1;
                }
                What::Poison(_) => poison += 1,
            }
        }
        let totals = workload.totals();
        assert_eq!((totals.distinct, totals.duplicates, totals.poison), (seen.len() as u64, again, poison));
        for (number, tally) in totals.products.iter().enumerate() {
            assert_eq!(products.get(&Workload::product(number)).copied().unwrap_or_default(), *tally);
        }
        assert!((1_800..2_200).contains(&again) && (850..1_150).contains(&poison), "{again} {poison}");
        // Zipf: the first of 50 gets 1 / (1 + 1/2 + … + 1/50), which is 22 %.
        let first = totals.products[0].events as f64 / totals.distinct as f64;
        assert!((0.20..0.25).contains(&first), "{first}");
        assert!(totals.products.iter().any(|tally| tally.sum < 0), "something is oversold");
    }

    /// D1: poison is malformed, whatever kind.
    #[test]
    fn poison_is_no_event() {
        for (value, headers) in POISON {
            let message = Message { key: None, value: Some(value), headers };
            assert!(decode(&message).is_err(), "{}", String::from_utf8_lossy(value));
        }
    }

    /// Without overselling, stock is enough in the order of the keys' partitions; with disorder, in every order.
    #[test]
    fn stock_is_always_enough_when_asked_for() {
        let workload = |disorder| Workload::new(WorkloadOptions { no_overselling: true, disorder, ..options() });
        let mut stocks: HashMap<String, i64> = HashMap::new();
        let mut sold = 0;
        for sent in workload(false) {
            if let What::New(event) = sent.what {
                let stock = stocks.entry(event.product.to_string()).or_default();
                *stock += event.quantity_change;
                assert!(*stock >= 0, "{event:?}");
                sold += u64::from(event.quantity_change < 0);
            }
        }
        assert!(sold > 10_000, "{sold}");
        for sent in workload(true) {
            if let What::New(event) = sent.what {
                assert!(event.quantity_change > 0 && sent.key != event.product.as_str());
            }
        }
    }
}
