//! What load balancers are told while the database is away and while the service ends.

use std::time::Duration;

use equipoise::grpc::proto::{GetBalanceRequest, UpdateBalanceRequest};
use tokio::time::{Instant, sleep};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::servers::fresh_database;
use crate::service::{SOON, Service, equipoise, run};
use crate::state::connect;

fn serve(url: &str) -> std::process::Command {
    let mut command = equipoise(&["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    command.env("DATABASE_URL", url);
    command
}

async fn health(service: &Service) -> i32 {
    let mut client = HealthClient::new(service.endpoint().connect().await.unwrap());
    let request = HealthCheckRequest { service: "equipoise.v1.AccountService".to_owned() };
    client.check(request).await.unwrap().into_inner().status
}

async fn becomes(service: &Service, ready: bool) {
    let until = Instant::now() + SOON;
    let (line, status) = if ready { ("200", 1) } else { ("503", 2) };
    while !service.told("/readyz").0.contains(line) || health(service).await != status {
        assert!(Instant::now() < until, "{:?}", service.told("/readyz"));
        sleep(Duration::from_millis(100)).await;
    }
}

/// D6: without Kafka too the service says that it is not ready while its database is away, and callers when to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_told() {
    let url = fresh_database("away").await;
    let service = Service::start(&mut serve(&url));
    becomes(&service, true).await;
    let (server, name) = url.rsplit_once('/').unwrap();
    let admin = connect(&format!("{server}/postgres")).await;
    let allow = |allowed: &str| format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}");
    admin.batch_execute(&allow("false")).await.unwrap();
    admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", &[&name]).await.unwrap();
    becomes(&service, false).await;
    let (_, why) = service.told("/readyz");
    assert!(why.starts_with("ledger: PostgreSQL"), "{why}");
    let request = GetBalanceRequest { account_id: "a".to_owned() };
    let refused = service.client().await.get_balance(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{refused}");
    admin.batch_execute(&allow("true")).await.unwrap();
    becomes(&service, true).await;
    // A change waits for a locked table longer than a service that ends waits for it. A read would be refused after a second.
    let locker = connect(&url).await;
    locker.batch_execute("BEGIN; LOCK TABLE products").await.unwrap();
    let mut client = service.client().await;
    let held = tokio::spawn(async move {
        let request = UpdateBalanceRequest { account_id: "a".to_owned(), delta: 1, transaction_id: "held".to_owned() };
        client.update_balance(request).await
    });
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'products'::regclass)";
    let until = Instant::now() + SOON;
    while !locker.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until && !held.is_finished(), "it does not wait");
        sleep(Duration::from_millis(10)).await;
    }
    service.signal("TERM");
    while service.told("/readyz").1 != "service: it is shutting down\n" {
        assert!(!held.is_finished(), "{:?}", service.told("/readyz"));
    }
    held.abort();
}

/// D8: settings that cannot be used are refused at once, by name.
#[test]
fn a_url_that_is_none_is_refused() {
    let (code, said) = run(&mut serve("bogus"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("DATABASE_URL"), "{said}");
}
