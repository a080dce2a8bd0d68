//! Idempotency, and what an id may look like.

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::*;

fn replayed(status: &Status) -> bool {
    let info = status.get_details_error_info().unwrap();
    info.metadata.get("replayed").is_some_and(|replayed| replayed == "true")
}

/// B1: the same id again returns the first response, marked, and applies nothing.
#[tokio::test]
async fn an_id_sent_again_gets_the_first_answer() {
    let service = Service::start().await;
    let client = service.client().await;
    let opened = create_with(&client, "a", 10, "c").await.unwrap();
    let again = create_with(&client, "a", 10, "c").await.unwrap();
    assert_eq!((opened.replayed, again.replayed, opened.account), (false, true, again.account));
    create(&client, "b", 0).await.unwrap();
    let first = update(&client, "a", 5, "u").await.unwrap();
    update(&client, "a", 100, "other").await.unwrap();
    let again = update(&client, "a", 5, "u").await.unwrap();
    assert!(again.replayed && !first.replayed);
    assert_eq!((again.new_balance, again.sequence, again.commit_time), (15, first.sequence, first.commit_time));
    let first = transfer(&client, "a", "b", 5, "t").await.unwrap();
    let again = transfer(&client, "a", "b", 5, "t").await.unwrap();
    assert!(again.replayed);
    assert_eq!((again.from_balance, again.to_balance), (first.from_balance, first.to_balance));
    assert_eq!(balance(&client, "a").await.unwrap().balance, 110);
}

/// B1, A04: refusals that depend on state are outcomes too, and a replayed one says that it is.
#[tokio::test]
async fn a_refusal_is_replayed_and_says_so() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    let first = update(&client, "a", -5, "r1").await.unwrap_err();
    let unknown = update(&client, "ghost", 1, "r2").await.unwrap_err();
    let exists = create_with(&client, "a", 0, "r4").await.unwrap_err();
    for fresh in [&first, &unknown, &exists] {
        assert!(!replayed(fresh));
    }
    update(&client, "a", 100, "d1").await.unwrap();
    create(&client, "ghost", 0).await.unwrap();
    let first = update(&client, "a", -5, "r1").await.unwrap_err();
    assert_eq!(first.message(), "Insufficient balance: current=0, delta=-5");
    let unknown = update(&client, "ghost", 1, "r2").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let exists = create_with(&client, "a", 0, "r4").await.unwrap_err();
    assert_eq!(exists.code(), Code::AlreadyExists);
    for again in [&first, &unknown, &exists] {
        assert!(replayed(again));
    }
}

/// B1: a malformed request does not use its id up.
#[tokio::test]
async fn a_malformed_request_leaves_its_id_unused() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 10).await.unwrap();
    create(&client, "b", 0).await.unwrap();
    for (from, to, amount) in [("a", "a", 1), ("a", "b", 0), ("a", "b", -1)] {
        assert_eq!(transfer(&client, from, to, amount, "r3").await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(!transfer(&client, "a", "b", 1, "r3").await.unwrap().replayed);
    assert!(create_with(&client, "neg", -1, "r5").await.is_err());
    assert!(!create_with(&client, "neg", 1, "r5").await.unwrap().replayed);
    names(update(&client, "a", 1, "").await, "transaction_id");
    names(transfer(&client, "a", "b", 1, "").await, "transaction_id");
}

/// B2: of 10 concurrent requests with one id exactly one executes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_ten_with_one_id_executes() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 0).await.unwrap();
    for round in 1..=20 {
        let mut calls = JoinSet::new();
        for _ in 0..10 {
            let client = client.clone();
            calls.spawn(async move { update(&client, "a", 1, &format!("x{round}")).await.unwrap() });
        }
        let answers = calls.join_all().await;
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert!(answers.iter().all(|answer| answer.new_balance == round));
    }
}

/// B3: the first field that differs, by its name and order in the contract.
#[tokio::test]
async fn an_id_with_other_parameters_names_the_first_that_differs() {
    let service = Service::start().await;
    let client = service.client().await;
    create_with(&client, "a", 10, "c").await.unwrap();
    create(&client, "b", 10).await.unwrap();
    update(&client, "a", 1, "u").await.unwrap();
    transfer(&client, "a", "b", 1, "t").await.unwrap();
    names(create_with(&client, "b", 11, "c").await, "account_id");
    names(create_with(&client, "a", 11, "c").await, "initial_balance");
    names(update(&client, "b", 2, "u").await, "account_id");
    names(update(&client, "a", 2, "u").await, "delta");
    names(transfer(&client, "b", "a", 2, "t").await, "from_account_id");
    names(transfer(&client, "a", "c", 2, "t").await, "to_account_id");
    names(transfer(&client, "a", "b", 2, "t").await, "amount");
    names(update(&client, "a", 1, "t").await, "operation");
    assert_eq!(balance(&client, "a").await.unwrap().balance, 10);
}

/// A14, A05: 1 to 128 bytes without control characters, else the field and the length are named, and nothing happens.
#[tokio::test]
async fn ids_out_of_bounds_are_named_with_their_length() {
    let service = Service::start().await;
    let client = service.client().await;
    for bytes in [0, 129, 255, 2_600, 65_536, 1 << 20] {
        let id = "a".repeat(bytes);
        for (result, field) in [
            (create(&client, &id, 1).await.map(drop), "account_id"),
            (balance(&client, &id).await.map(drop), "account_id"),
            (update(&client, "a", 1, &id).await.map(drop), "transaction_id"),
            (transfer(&client, "a", &id, 1, "t").await.map(drop), "to_account_id"),
            (transaction(&client, &id).await.map(drop), "transaction_id"),
        ] {
            let status = result.clone().unwrap_err();
            assert!(status.message().contains(&format!(" {bytes}")), "{status:?}");
            names(result, field);
        }
    }
    for id in ["a\0", "a\nb", "\t", "a\u{7f}", "\u{85}"] {
        names(create(&client, id, 1).await, "account_id");
        names(update(&client, "a", 1, id).await, "transaction_id");
    }
    assert_eq!(service.ledger.stats().sequence, 0);
}

/// A05, A09: ids are compared by bytes, and every text comes back as it went out.
#[tokio::test]
async fn look_alikes_are_different_accounts() {
    let service = Service::start().await;
    let client = service.client().await;
    let longest = "é".repeat(64);
    let ids = ["é", "e\u{301}", "ACC", "acc", "a", "a ", " a", "a\u{200b}", "\u{202e}", "%41", "%", "🎉", &longest];
    for id in ids {
        refused(balance(&client, id).await, Code::NotFound, &format!("Account {id} not found"));
        create(&client, id, 1).await.unwrap();
        refused(create(&client, id, 1).await, Code::AlreadyExists, &format!("Account {id} already exists"));
    }
    assert_eq!(service.ledger.stats().accounts, ids.len() as u64);
}
