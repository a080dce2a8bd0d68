//! Realistic events: few products, sales and receipts, duplicates, and now and then something that is none.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::servers::PARTITIONS;
use crate::topic::Producer;

/// What is wrong with those that are none.
const POISON: [&str; 5] = [
    "",
    "not json",
    r#"["e","p",1]"#,
    r#"{"event_id":"e","product_id":"p","quantity_change":1.5}"#,
    r#"{"event_id":"a\u0000b","product_id":"p","quantity_change":1}"#,
];

/// Makes events; the same seed makes the same.
pub struct Events {
    state: u64,
    name: &'static str,
    products: u64,
    made: u64,
    /// To be sent again.
    recent: Vec<(String, String)>,
}

impl Events {
    pub fn new(name: &'static str, products: u64, seed: u64) -> Self {
        println!("{name}: events of seed {seed}");
        Events { state: seed, name, products, made: 0, recent: Vec::new() }
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % below
    }

    /// The product, which is the key, and the value.
    pub fn next(&mut self) -> (String, String) {
        let chance = self.roll(1_000);
        if chance < 5 {
            let which = self.roll(POISON.len() as u64);
            return ("p0".to_owned(), POISON[usize::try_from(which).unwrap()].to_owned());
        }
        if chance < 105 && !self.recent.is_empty() {
            let which = self.roll(self.recent.len() as u64);
            return self.recent[usize::try_from(which).unwrap()].clone();
        }
        let product = format!("p{}", self.roll(self.products));
        // As much out as in, so that many sales find nothing left.
        let quantity = i64::try_from(self.roll(41)).unwrap() - 20;
        let event = format!(
            r#"{{"event_id":"{}-{}","product_id":"{product}","quantity_change":{quantity}}}"#,
            self.name, self.made
        );
        self.made += 1;
        if self.recent.len() == 1_000 {
            let which = self.roll(1_000);
            self.recent.swap_remove(usize::try_from(which).unwrap());
        }
        self.recent.push((product.clone(), event.clone()));
        (product, event)
    }
}

/// Sends events at a rate until it is told to end: by their product, or to any partition.
pub struct Load {
    end: mpsc::Sender<()>,
    sending: thread::JoinHandle<u64>,
}

impl Load {
    pub fn start(producer: Producer, mut events: Events, per_second: u32, keyed: bool) -> Self {
        let (end, ended) = mpsc::channel();
        let sending = thread::spawn(move || {
            let (mut sent, mut next) = (0, Instant::now());
            while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let (key, value) = events.next();
                let partition = (!keyed).then(|| i32::try_from(events.roll(PARTITIONS.unsigned_abs().into())).unwrap());
                producer.send(partition, &key, value.as_bytes());
                sent += 1;
                next += Duration::from_secs(1) / per_second;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            producer.flush();
            sent
        });
        Load { end, sending }
    }

    pub fn end(self) -> u64 {
        self.end.send(()).expect("it sends");
        self.sending.join().expect("it sends")
    }
}
