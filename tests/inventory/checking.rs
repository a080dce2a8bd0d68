//! `equipoise produce --check` beside an instance that consumes into PostgreSQL.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use crate::instance::serve;
use crate::servers::{fresh_database, shared_broker};
use crate::service::{SOON, Service, equipoise};
use crate::state::connect;
use crate::topic::Topic;

/// Few products and much poison, so that few events are enough for each to be sold out.
const RUN: [&str; 8] = [
    "produce",
    "--events=3000",
    "--products=20",
    "--duplicates=0.1",
    "--poison=0.01",
    "--seed=7",
    "--check-patience=10m",
    "--check",
];

/// An instance, and what `produce` is told of it.
struct Trial {
    _service: Service,
    brokers: String,
    topic: Topic,
    url: String,
    database: Client,
}

impl Trial {
    async fn new(name: &str) -> Self {
        let (brokers, url) = (shared_broker(), fresh_database(name).await);
        let topic = Topic::create(&brokers, name).await;
        let service = Service::start(&mut serve(&brokers, &topic, &url));
        let database = connect(&url).await;
        Trial { _service: service, brokers, topic, url, database }
    }

    /// Its exit code, stdout and stderr.
    fn check(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let place = [self.url.as_str(), "--brokers", &self.brokers, "--topic", &self.topic.name];
        let output = equipoise(&[&RUN[..], &place, more].concat()).stdout(Stdio::piped()).output().unwrap();
        let [told, said] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), told, said)
    }

    async fn count(&self, query: &str) -> u64 {
        self.database.query_one(query, &[]).await.unwrap().get::<_, i64>(0).cast_unsigned()
    }
}

fn objects(told: &str) -> Vec<Value> {
    told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// D2, D3, D6: README's demonstration in small: events, duplicates, overselling and poison, and all is as it must be; the same
/// run again is nothing but duplicates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_consumed_and_found_right() {
    let trial = Trial::new("found_right").await;
    let (code, told, said) = trial.check(&["--json"]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{told}");
    let [sent, verdict] = &objects(&told)[..] else { panic!("{told}") };
    let number = |object: &Value, name: &str| object[name].as_u64().unwrap_or_else(|| panic!("no {name}: {object}"));
    let [events, duplicates, poison] = ["events", "duplicates", "poison"].map(|name| number(sent, name));
    assert!(duplicates > 0 && poison > 0 && events + duplicates + poison == 3_000, "{sent}");
    let [accepted, refused] = ["accepted", "refused"].map(|name| number(verdict, name));
    assert!(accepted > 0 && refused > 0 && accepted + refused == events, "{verdict}");
    assert_eq!((&verdict["check"], number(verdict, "events")), (&Value::from(true), events), "{verdict}");
    assert_eq!(
        (number(verdict, "dead_letters"), &verdict["differences"]),
        (poison, &Value::Array(vec![])),
        "{verdict}"
    );
    assert_eq!(trial.count("SELECT count(*) FROM processed_events").await, events);
    assert_eq!(
        trial.count("SELECT count(*) FROM journal WHERE status = 'applied' AND operation = 'update'").await,
        accepted
    );

    let changes = "SELECT sum(version)::bigint FROM products";
    let before = trial.count(changes).await;
    let (code, told, said) = trial.check(&[]);
    assert_eq!(code, Some(0), "{told} {said}");
    for line in [
        "acknowledged 3000".to_owned(),
        format!("decided      {events} events, {accepted} accepted, {refused} refused"),
        format!("dead letters {poison}"),
        "check        everything is as it must be".to_owned(),
    ] {
        assert!(told.lines().any(|it| it == line), "{line:?} is not in {told}");
    }
    assert_eq!(trial.count(changes).await, before);
}

/// D2: a stock that is not what the journal adds up to is found, and named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_falsified_stock_is_named() {
    let trial = Trial::new("found_wrong").await;
    let falsify = "CREATE FUNCTION falsify() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.current_stock := NEW.current_stock + 1; RETURN NEW; END';
        CREATE TRIGGER falsify BEFORE INSERT ON products FOR EACH ROW
            WHEN (NEW.sku = 'sku-000004') EXECUTE FUNCTION falsify()";
    trial.database.batch_execute(falsify).await.unwrap();
    let (code, told, said) = trial.check(&["--json"]);
    assert_eq!(code, Some(1), "{told} {said}");
    let differences = objects(&told).pop().unwrap()["differences"].take();
    let [difference] = &differences.as_array().unwrap()[..] else { panic!("{told}") };
    let difference = difference.as_str().unwrap();
    assert!(difference.starts_with("sku-000004: the stock ") && difference.contains(" is off by 1 "), "{difference}");
    let error = &objects(&said)[0]["error"];
    assert_eq!(error["message"], format!("the check failed: {difference}"), "{said}");
}

/// D8: README starts the service and the check at once: the check waits until the tables are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_waits_for_a_service_that_begins() {
    let (brokers, url) = (shared_broker(), fresh_database("begins").await);
    let topic = Topic::create(&brokers, "begins").await;
    let place = [url.as_str(), "--brokers", &brokers, "--topic", &topic.name];
    let mut command = equipoise(&[&RUN[..], &place].concat());
    let check = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let database = connect(&url).await;
    let asks =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%FROM journal%'
        AND application_name = 'equipoise produce')";
    let until = tokio::time::Instant::now() + SOON;
    while !database.query_one(asks, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(tokio::time::Instant::now() < until, "it does not ask");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let service = Service::start(&mut serve(&brokers, &topic, &url));
    let output = check.wait_with_output().unwrap();
    let [told, said] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success() && said.contains("no tables yet"), "{told} {said}");
    assert!(told.contains("everything is as it must be"), "{told}");
    service.stop();
}
