//! What load balancers are told while the database is away and while the service ends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use equipoise::grpc::proto::GetBalanceRequest;
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

/// The first line and what else it says.
fn readyz(service: &Service) -> (String, String) {
    let line = service.wait_for("metrics on http://");
    let address = line.trim_start_matches("metrics on http://").trim_end_matches("/metrics");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

async fn health(service: &Service) -> i32 {
    let mut client = HealthClient::new(service.endpoint().connect().await.unwrap());
    let request = HealthCheckRequest { service: "equipoise.v1.AccountService".to_owned() };
    client.check(request).await.unwrap().into_inner().status
}

async fn becomes(service: &Service, ready: bool) {
    let until = Instant::now() + SOON;
    let (line, status) = if ready { ("200", 1) } else { ("503", 2) };
    while !readyz(service).0.contains(line) || health(service).await != status {
        assert!(Instant::now() < until, "{:?}", readyz(service));
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
    let (_, why) = readyz(&service);
    assert!(why.starts_with("ledger: PostgreSQL"), "{why}");
    let request = GetBalanceRequest { account_id: "a".to_owned() };
    let refused = service.client().await.get_balance(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{refused}");
    admin.batch_execute(&allow("true")).await.unwrap();
    becomes(&service, true).await;
    // A call that is not through keeps it from ending at once.
    let locker = connect(&url).await;
    locker.batch_execute("BEGIN; LOCK TABLE products").await.unwrap();
    let mut client = service.client().await;
    let held = tokio::spawn(async move { client.get_balance(GetBalanceRequest { account_id: "a".to_owned() }).await });
    sleep(Duration::from_millis(200)).await;
    service.signal("TERM");
    let until = Instant::now() + Duration::from_secs(2);
    while readyz(&service).1 != "service: it is shutting down\n" {
        assert!(Instant::now() < until, "{:?}", readyz(&service));
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
