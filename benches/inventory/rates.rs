//! Events a second through the PostgreSQL store, next to two references that check nothing.
//!
//! * **unchecked**: the same pipeline with the id check and the fencing taken out of what PostgreSQL does. Once with the primary key of
//!   `processed_events`, which the table has for whoever asks for an id, and once without it. The key is the id check, so the pipeline
//!   without it is the bar. What the engine does about ids stays in: it is done while PostgreSQL is at the batch before.
//! * **bare**: UNNEST inserts of the same rows on one connection, the next ones put together meanwhile; into the tables as they are,
//!   which is the bar, and without that key.
//!
//! Each has a database of its own. A round measures all of them one after the other, since the disk is never the same for long, and each
//! round begins with another one. The ratios are those of a round, so their spread says how much to believe.

use std::time::{Duration, Instant};

use equipoise::postgres::Settings;

use crate::bare::Bare;
use crate::meter::{Meter, Ratios, Round};
use crate::pipeline::{self, Pipeline};
use crate::servers::{Servers, client};
use crate::workload::at_least;

const ROUND: Duration = Duration::from_secs(2);
const SIZES: [usize; 2] = [1_000, 5_000];

/// The id check in PostgreSQL: the key that refuses an id twice. An index that never holds a row takes its name, since the store works
/// on no table without it.
const NO_KEY: &str = "ALTER TABLE processed_events DROP CONSTRAINT processed_events_pkey;
    CREATE UNIQUE INDEX processed_events_pkey ON processed_events (event_id) WHERE false";

/// The fencing in PostgreSQL: what ends a transaction that did not find the rows, versions and epochs that it expected.
const NO_FENCING: &str = "CREATE OR REPLACE FUNCTION expect_rows(seen bigint, expected bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE AS 'SELECT true'";

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    Store,
    UncheckedKeyed,
    Unchecked,
    BareKeyed,
    Bare,
}

const VARIANTS: [Variant; 5] =
    [Variant::Store, Variant::UncheckedKeyed, Variant::Unchecked, Variant::BareKeyed, Variant::Bare];

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Store => "the store",
            Variant::UncheckedKeyed => "the pipeline unchecked, ids with their key",
            Variant::Unchecked => "the pipeline unchecked, no key",
            Variant::BareKeyed => "bare inserts, ids with their key",
            Variant::Bare => "bare inserts, no key",
        }
    }

    /// What is asked of the store's rate by that of this one, if it is a bar.
    fn judged(self, ratio: f64) -> String {
        match self {
            Variant::Unchecked => format!("; the bar: {}, of D10 {}", at_least(ratio, 0.9), at_least(ratio, 0.95)),
            Variant::BareKeyed => format!("; the bar: {}", at_least(ratio, 0.7)),
            Variant::Store | Variant::UncheckedKeyed | Variant::Bare => String::new(),
        }
    }

    /// What is taken out of its database.
    fn taken_out(self) -> &'static [&'static str] {
        match self {
            Variant::Store | Variant::BareKeyed => &[],
            Variant::UncheckedKeyed => &[NO_FENCING],
            Variant::Unchecked => &[NO_FENCING, NO_KEY],
            Variant::Bare => &[NO_KEY],
        }
    }
}

/// One of them, at work.
enum Measured {
    Pipeline(Box<Pipeline>),
    Bare(Box<Bare>),
}

pub async fn against_references(servers: &Servers) {
    for size in SIZES {
        measure(servers, size).await;
    }
}

async fn measure(servers: &Servers, size: usize) {
    let admin = servers.admin().await;
    let name = |variant: Variant| format!("equipoise_bench_{}_{variant:?}", std::process::id()).to_lowercase();
    let mut measured = Vec::new();
    for variant in VARIANTS {
        measured.push(begin(servers, &name(variant), variant).await);
    }
    let mut rounds = VARIANTS.map(|_| Vec::new());
    let mut numbers = 0;
    let count = crate::number("INVENTORY_ROUNDS", 7) as usize;
    for round in 0..count {
        for turn in 0..VARIANTS.len() {
            let at = (round + turn) % VARIANTS.len();
            let mut meter = Meter::new(&admin, &name(VARIANTS[at])).await;
            let until = Instant::now() + ROUND;
            while Instant::now() < until {
                match &mut measured[at] {
                    Measured::Pipeline(pipeline) => pipeline.apply(size, &mut numbers).await,
                    Measured::Bare(bare) => bare.write(size, &mut numbers).await,
                }
                meter.events += size;
            }
            match &mut measured[at] {
                Measured::Pipeline(pipeline) => pipeline.settle().await,
                Measured::Bare(bare) => bare.settle().await,
            }
            rounds[at].push(meter.read(&admin, &name(VARIANTS[at])).await);
        }
    }
    println!("batches of {size}, {count} rounds");
    for (variant, of) in VARIANTS.into_iter().zip(&rounds) {
        println!("  {:44} {}", variant.name(), Round::median(of));
    }
    for (variant, of) in VARIANTS.into_iter().zip(&rounds).skip(1) {
        let ratios = Ratios::of(&rounds[0], of);
        println!("  the store / {:44} {ratios}{}", variant.name(), variant.judged(ratios.rate()));
    }
    for (variant, measured) in VARIANTS.into_iter().zip(measured) {
        if let Measured::Pipeline(pipeline) = measured {
            pipeline.close().await;
        }
        servers.drop_database(&name(variant)).await;
    }
}

/// A database of the variant's own, with the tables of the store, and the variant in it.
async fn begin(servers: &Servers, name: &str, variant: Variant) -> Measured {
    let url = servers.create_database(name).await;
    let mut settings = Settings::new(&url);
    settings.batch = 10_000;
    // The tables; then it begins anew, without what is taken out.
    pipeline::connect(&settings).await.close().await;
    for statement in variant.taken_out() {
        client(&url).await.batch_execute(statement).await.expect("taken out");
    }
    match variant {
        Variant::BareKeyed | Variant::Bare => Measured::Bare(Box::new(Bare::new(&url).await)),
        _ => Measured::Pipeline(Box::new(Pipeline::new(pipeline::connect(&settings).await).await)),
    }
}
