//! The inventory door: events a second into PostgreSQL against references that check nothing, how soon an event is visible, and how soon
//! events flow again when an instance is killed.
//!
//! `cargo bench --bench inventory --features full -- [rates|latency|takeover|all]`, with the servers that `scripts/servers.sh start` starts, in the
//! variables that it sets: `KAFKA_BROKERS` and `DATABASE_URL`, a database that others may be made beside. By environment:
//! `INVENTORY_ROUNDS` of the rates (7), `INVENTORY_SECONDS` that the latency is measured for (20), `INVENTORY_KILLS` (3).

#![allow(missing_docs, reason = "a program, not a library")]

mod bare;
mod events;
mod latency;
mod meter;
mod pipeline;
mod rates;
mod servers;
mod take_over;
#[path = "../workload/mod.rs"]
mod workload;

use servers::Servers;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let Some(servers) = Servers::from_environment() else {
        // `cargo test --benches` comes by here as well.
        println!("KAFKA_BROKERS or DATABASE_URL is not set: nothing is measured");
        return;
    };
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let asked: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name| asked.is_empty() || asked.iter().any(|asked| *asked == name || *asked == "all");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if wanted("rates") {
            rates::against_references(&servers).await;
        }
        if wanted("latency") {
            latency::until_visible(&servers).await;
        }
        if wanted("takeover") {
            take_over::after_kills(&servers).await;
        }
    });
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number in the environment"))
}
