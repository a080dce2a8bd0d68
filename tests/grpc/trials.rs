//! Trials after failures that others reported, at the size that a test can afford.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use equipoise::grpc::proto::{SnapshotBalancesRequest, UpdateBalanceRequest};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use crate::harness::*;

/// A03, B1, B2: 2,000 updates with deadlines of 0 to 3 ms over 50 connections; each that failed is sent again at once, with
/// its id, over two other connections. Every id is applied once, and every retry is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impatient_callers_are_applied_once() {
    let service = Service::start().await;
    let mut connections = Vec::new();
    for _ in 0..50 {
        connections.push(service.client().await);
    }
    create(&connections[0], "a", 0).await.unwrap();
    let connections = Arc::new(connections);
    let mut calls = JoinSet::new();
    for call in 0..2_000 {
        let connections = connections.clone();
        calls.spawn(async move {
            let id = format!("u{call}");
            let at = |index: usize| &connections[index % connections.len()];
            let mut request =
                Request::new(UpdateBalanceRequest { account_id: "a".into(), delta: 1, transaction_id: id.clone() });
            request.set_timeout(Duration::from_micros(call as u64 * 7 % 3_000));
            let Err(status) = at(call).clone().update_balance(request).await else { return };
            let expected = [Code::DeadlineExceeded, Code::Cancelled];
            assert!(expected.contains(&status.code()), "{status:?}");
            let (one, other) = tokio::join!(update(at(call + 1), "a", 1, &id), update(at(call + 2), "a", 1, &id));
            let (one, other) = (one.unwrap(), other.unwrap());
            assert_eq!((one.sequence, one.version), (other.sequence, other.version));
            let entry = transaction(at(call + 3), &id).await.unwrap();
            assert_eq!((entry.sequence, entry.code), (one.sequence, 0));
        });
    }
    calls.join_all().await;
    assert_eq!(balance(&connections[0], "a").await.unwrap().balance, 2_000);
    assert_eq!(service.ledger.sequence(), 2_001, "one entry an id");
}

/// A07, A10, A11: every snapshot and every finished walk adds up and names one sequence, beside 8 writers, for seconds;
/// none is older than the last answer that this client got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_hold_beside_writers() {
    const ACCOUNTS: usize = 10;
    const TOTAL: i64 = 50_000;
    let service = Service::start().await;
    let client = service.client().await;
    for account in 0..ACCOUNTS {
        create(&client, &format!("a{account}"), TOTAL / ACCOUNTS as i64).await.unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..8_usize {
        let (client, done) = (service.client().await, done.clone());
        writers.spawn(async move {
            for round in 0_usize.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let (from, step) = ((writer + round) % ACCOUNTS, 1 + round % (ACCOUNTS - 1));
                let (from, to) = (format!("a{from}"), format!("a{}", (from + step) % ACCOUNTS));
                let amount = 1 + (round * 7 % 900) as i64;
                if let Err(status) = transfer(&client, &from, &to, amount, &format!("t{writer}-{round}")).await {
                    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
                }
            }
        });
    }
    let until = Instant::now() + Duration::from_secs(3);
    let mut last = 0;
    while Instant::now() < until {
        let request = SnapshotBalancesRequest { prefix: String::new() };
        let mut stream = client.clone().snapshot_balances(request).await.unwrap().into_inner();
        let mut total = 0;
        while let Some(message) = stream.message().await.unwrap() {
            assert!(message.sequence >= last, "a snapshot older than the last answer");
            last = message.sequence;
            total += message.accounts.iter().map(|account| account.balance).sum::<i64>();
        }
        assert_eq!(total, TOTAL);

        let (mut total, mut token, mut sequences) = (0, String::new(), Vec::new());
        loop {
            let answer = page(&client, 3, &token, "").await.unwrap();
            sequences.push(answer.sequence);
            total += answer.accounts.iter().map(|account| account.balance).sum::<i64>();
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(total, TOTAL);
        assert!(sequences[0] >= last && sequences.iter().all(|sequence| *sequence == sequences[0]));
        for account in 0..ACCOUNTS {
            assert!(balance(&client, &format!("a{account}")).await.unwrap().balance >= 0);
        }
    }
    done.store(true, Ordering::Relaxed);
    writers.join_all().await;
}
