//! Events a second through the PostgreSQL store, next to two references that check nothing: `cargo bench --bench inventory
//! --features postgres`, with the server's URL in `TEST_POSTGRES`.
//!
//! * **unchecked**: the same pipeline with the id check and the fencing taken out of what PostgreSQL does. Once with the primary key of
//!   `processed_events`, which the table has for whoever asks for an id, and once without it. What the engine does about ids stays
//!   in: it is done while PostgreSQL is at the batch before.
//! * **bare**: UNNEST inserts of the same rows on one connection, the next ones put together meanwhile; with that key and without.
//!
//! Each has a database of its own. A round measures all of them one after the other, since the disk is never the same for long, and each
//! round begins with another one. The ratios are those of a round, so their spread says how much to believe.

use std::time::{Duration, Instant};

use equipoise::postgres::Settings;
use tokio_postgres::{Client, NoTls};

mod bare;
mod events;
mod meter;
mod pipeline;

use bare::Bare;
use meter::{Meter, Round};
use pipeline::Pipeline;

/// The service's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);
const SIZES: [usize; 2] = [1_000, 5_000];

/// The id check in PostgreSQL: the key that refuses an id twice.
const NO_KEY: &str = "ALTER TABLE processed_events DROP CONSTRAINT processed_events_pkey";

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

fn main() {
    let Ok(server) = std::env::var("TEST_POSTGRES") else {
        // `cargo test --benches` comes by here as well.
        println!("TEST_POSTGRES is not set: nothing is measured");
        return;
    };
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for size in SIZES {
        runtime.block_on(measure(&server, size));
    }
}

async fn measure(server: &str, size: usize) {
    let admin = client(server).await;
    let name = |variant: Variant| format!("equipoise_bench_{}_{variant:?}", std::process::id()).to_lowercase();
    let mut measured = Vec::new();
    for variant in VARIANTS {
        measured.push(begin(server, &admin, &name(variant), variant).await);
    }
    let mut rounds = VARIANTS.map(|_| Vec::new());
    let mut numbers = 0;
    for round in 0..ROUNDS {
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
    println!("batches of {size}, {ROUNDS} rounds");
    for (variant, of) in VARIANTS.into_iter().zip(&rounds) {
        println!("  {:44} {}", variant.name(), Round::median(of));
    }
    for (variant, of) in VARIANTS.into_iter().zip(&rounds).skip(1) {
        println!("  the store / {:32} {}", variant.name(), meter::ratios(&rounds[0], of));
    }
    for (variant, measured) in VARIANTS.into_iter().zip(measured) {
        if let Measured::Pipeline(pipeline) = measured {
            pipeline.close().await;
        }
        admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", name(variant))).await.expect("dropped");
    }
}

/// A database of the variant's own, with the tables of the store, and the variant in it.
async fn begin(server: &str, admin: &Client, name: &str, variant: Variant) -> Measured {
    admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
    let at = server.rfind('/').expect("a URL with a database");
    let url = format!("{}/{name}", &server[..at]);
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

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}
