//! Kafka with the data directory behind: exactly one effect without a database.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use equipoise::grpc::proto::ListAccountsRequest;

use crate::client::Client;
use crate::events::{Events, Load};
use crate::model::Model;
use crate::servers::shared_broker;
use crate::service::{SOON, Service, serve_with, verified};
use crate::topic::Topic;

async fn products(client: &Client) -> BTreeMap<String, (i64, u64)> {
    let request = ListAccountsRequest { page_size: 1_000, ..ListAccountsRequest::default() };
    let accounts = client.clone().list_accounts(request).await.unwrap().into_inner().accounts;
    accounts.into_iter().map(|account| (account.account_id, (account.balance, account.version))).collect()
}

/// D3, D4, C1: whenever the process is killed, the offsets are those of the outcomes that it kept; the directory is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_the_data_directory_behind() {
    let (brokers, dir) = (shared_broker(), tempfile::tempdir().unwrap());
    let topic = Topic::create(&brokers, "disk").await;
    let command = || -> Command {
        let mut command = serve_with(dir.path(), &["--checkpoint-every", "500"]);
        command.env("KAFKA_BROKERS", &brokers).env("KAFKA_TOPIC", &topic.name);
        command
    };
    let load = Load::start(topic.producer(), Events::new("disk", 30, 5), 1_000, true);
    for round in 0..6 {
        let service = Service::start(&mut command());
        tokio::time::sleep(Duration::from_millis(300 * round)).await;
        service.kill();
    }
    load.end();
    let service = Service::start(&mut command());
    let client = service.client().await;
    let model = Model::of(&topic);
    let (wanted, until) = (model.stocks(), Instant::now() + SOON);
    while products(&client).await != wanted || topic.read(&topic.dead_letters())[0].len() < model.dead() {
        assert!(Instant::now() < until, "{:?} instead of {wanted:?}", products(&client).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    service.stop();
    verified(dir.path());
}
