//! Power cuts: what was written and not synced is gone, or half of it is.

use tonic::Code;

use crate::client::{Order, balance};
use crate::kills::survive;
use crate::service::{Service, serve};
use crate::shim::shimmed;

const ROUNDS: u64 = 4;

async fn cut(name: &str, settings: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let rounds = std::env::var("EQUIPOISE_KILLS").map_or(ROUNDS, |rounds| rounds.parse::<u64>().unwrap() / 4);
    survive(name, rounds, dir.path(), || shimmed(serve(dir.path()), dir.path(), settings)).await;
}

/// E6, C1: nothing that was not synced was ever shown to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_anybody_saw_was_synced() {
    cut("what_anybody_saw_was_synced", &[("DELAY", "3")]).await;
}

/// E6: a batch, a spare and a checkpoint of which only some sectors reached the disk are cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sectors_reach_the_disk_in_any_order() {
    cut("sectors_reach_the_disk_in_any_order", &[("TEAR", "1"), ("DELAY", "10")]).await;
}

/// E6: the id index is derived data: what it loses is built again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_index_is_cut_off_too() {
    cut("the_id_index_is_cut_off_too", &[("ALL", "1"), ("TEAR", "1")]).await;
}

/// The trials see it when a disk says yes and does nothing: otherwise they would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    Service::start(&mut serve(dir.path())).stop();
    let service = Service::start(&mut shimmed(serve(dir.path()), dir.path(), &[("LIE", "1")]));
    let client = service.client().await;
    Order::create("x", "a", 5).send(&client).await.unwrap();
    assert_eq!(balance(&client, "a").await.unwrap().balance, 5);
    service.kill();
    let service = Service::start(&mut serve(dir.path()));
    assert_eq!(balance(&service.client().await, "a").await.unwrap_err().code(), Code::NotFound);
}
