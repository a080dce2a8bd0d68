//! kill -9 at any moment, and start again.

use std::time::{Duration, Instant};

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
    let mut dice = Dice::of_today("killed_under_load");
    let mut audit = Audit::default();
    let mut told = Told::default();
    for round in 0..rounds() {
        // Now and then one that has just begun, which leaves its own kind of half-made things.
        for _ in 0..dice.roll(3) {
            let fresh = Service::spawn(&mut serve(dir.path()));
            tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
            fresh.kill();
        }
        let service = Service::start(&mut serve(dir.path()));
        let client = service.client().await;
        if round == 0 {
            told.add(prepare(&client).await);
        }
        audit.read(&client).await;
        audit.check(&told);
        audit.resend(&client, &mut told).await;
        audit.compare(&client, &told).await;
        // The older ones were compared, and the audit holds them to what they were.
        let mut recent = Told::default();
        recent.answered = told.answered.split_off(told.answered.len().saturating_sub(200));
        told = recent;
        let load = Load::start(&service, &format!("r{round}"), 5, dice.roll(u64::MAX >> 12)).await;
        let until = Instant::now() + Duration::from_millis(dice.roll(700));
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        service.kill();
        told.add(load.end().await);
    }
    let service = Service::start(&mut serve(dir.path()));
    let client = service.client().await;
    audit.read(&client).await;
    audit.check(&told);
    audit.resend(&client, &mut told).await;
    audit.compare(&client, &told).await;
    println!("{} entries", audit.entries());
    // The whole journal once more, by somebody who remembers nothing.
    let mut again = Audit::default();
    again.read(&client).await;
    assert_eq!(again.total(), audit.total());
    service.stop();
    let report = verified(dir.path());
    assert_eq!(report.total, audit.total());
}
