//! kill -9 at any moment, and start again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::audit::{Audit, Told};
use crate::load::{Dice, Load, prepare};
use crate::service::{Service, serve, verified};

fn rounds() -> u64 {
    std::env::var("EQUIPOISE_KILLS").map_or(12, |rounds| rounds.parse().expect("a number"))
}

/// E6, C1, B1: whatever was answered is there after a kill -9, what was not is there once after it was sent again, and
/// no reader ever saw what is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load() {
    let dir = tempfile::tempdir().unwrap();
    survive("killed_under_load", rounds(), dir.path(), || serve(dir.path())).await;
}

/// Rounds of load, kill and audit on `dir`.
pub async fn survive(name: &str, rounds: u64, dir: &Path, command: impl Fn() -> Command) {
    let mut dice = Dice::of_today(name);
    let (mut audit, mut told) = (Audit::default(), Told::default());
    for round in 0..rounds {
        // Now and then one that has just begun, which leaves its own kind of half-made things.
        for _ in 0..dice.roll(3) {
            let fresh = Service::spawn(&mut command());
            tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
            fresh.kill();
        }
        let service = Service::start(&mut command());
        let client = service.client().await;
        if round == 0 {
            told.add(prepare(&client).await);
        }
        told = audited(&mut audit, &client, told).await;
        let load = Load::start(&service, &format!("r{round}"), 16, dice.roll(u64::MAX >> 12)).await;
        let enough = load.answered(dice.roll(800));
        // Whichever is sooner: a busy machine answers slowly.
        let _ = tokio::time::timeout(Duration::from_secs(1), enough).await;
        service.kill();
        told.add(load.end().await);
    }
    let service = Service::start(&mut command());
    let client = service.client().await;
    audited(&mut audit, &client, told).await;
    println!("{name}: {} entries", audit.entries());
    // The whole journal once more, by somebody who remembers nothing.
    let mut again = Audit::default();
    again.read(&client).await;
    assert_eq!(again.total(), audit.total());
    service.stop();
    assert_eq!(verified(dir).total, audit.total());
}

/// Audits what was told, sends again what nobody knows the end of; what the next round is to ask about.
async fn audited(audit: &mut Audit, client: &crate::client::Client, mut told: Told) -> Told {
    audit.read(client).await;
    audit.check(&told);
    audit.resend(client, &mut told).await;
    audit.compare(client, &told).await;
    // The audit holds older entries to what they were, and the last one reads all of them again.
    let recent = told.answered.len().saturating_sub(200);
    Told { answered: told.answered.split_off(recent), ..Told::default() }
}
