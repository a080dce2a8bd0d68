//! A13: what the log says of failed operations.

use std::io;
use std::sync::{Arc, Mutex, Once, PoisonError};

use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{Operation, UpdateBalanceRequest};
use serde_json::Value;

use crate::harness::*;

#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of the whole test process; tests look for their own ids in it.
pub fn log() -> Lines {
    static START: Once = Once::new();
    static LINES: Mutex<Option<Lines>> = Mutex::new(None);
    START.call_once(|| {
        let lines = Lines::default();
        let writer = lines.clone();
        *LINES.lock().unwrap() = Some(lines);
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(tracing::Level::ERROR);
        log.with_writer(move || writer.clone()).init();
    });
    LINES.lock().unwrap().clone().unwrap()
}

/// The lines that mention `what`.
pub fn about(log: &Lines, what: &str) -> Vec<Value> {
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    text.lines().filter(|line| line.contains(what)).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A13: one ERROR line for each failed operation, with time, operation, account ids and details.
#[tokio::test]
async fn every_failed_operation_is_logged_once() {
    let log = log();
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "log-a", 1).await.unwrap();
    transfer(&client, "log-a", "log-b", 5, "log-t").await.unwrap_err();
    let lines = about(&log, "log-t");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!((&line["level"], &line["operation"]), (&"ERROR".into(), &"TransferFunds".into()));
    assert_eq!((&line["account_ids"], &line["code"]), (&r#"["log-a","log-b"]"#.into(), &"NOT_FOUND".into()));
    assert_eq!(line["details"], "Account log-b not found");
    assert!(line["timestamp"].is_string());
    balance(&client, "log-a").await.unwrap();
    assert!(about(&log, "log-a").len() == 1, "successes are not logged");
}

/// A13: in a batch, each failed operation; malformed ones too.
#[tokio::test]
async fn failed_operations_of_a_batch_are_logged() {
    let log = log();
    let service = Service::start().await;
    let client = service.client().await;
    let operation = |id: &str| {
        let request = UpdateBalanceRequest { account_id: "log-batch".into(), delta: 1, transaction_id: id.into() };
        Operation { operation: Some(Kind::UpdateBalance(request)), linked: false }
    };
    batch(&client, vec![operation("1"), operation("")]).await.unwrap();
    let lines = about(&log, "log-batch");
    let codes: Vec<_> = lines.iter().map(|line| line["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["NOT_FOUND", "INVALID_ARGUMENT"]);
    assert!(lines.iter().all(|line| line["operation"] == "ExecuteBatch/UpdateBalance"));
}

/// A09: an id cannot forge a line, steer a terminal or fill the disk.
#[tokio::test]
async fn a_hostile_id_is_escaped_and_cut() {
    let log = log();
    let service = Service::start().await;
    let client = service.client().await;
    balance(&client, "log-hostile\n2026 ERROR \u{1b}[2J\u{202e}").await.unwrap_err();
    let lines = about(&log, "log-hostile");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["account_ids"], r#"["log-hostile\\n2026 ERROR \\u{1b}[2J\\u{202e}"]"#);
    balance(&client, &format!("log-long{}", "x".repeat(100_000))).await.unwrap_err();
    assert!(about(&log, "log-long")[0].to_string().len() < 2_000);
}
