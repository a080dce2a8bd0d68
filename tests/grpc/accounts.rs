//! The four calls of the mission, with their exact texts.

use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::*;

/// A1: of concurrent creates of one id exactly one is OK, the others hear that the account exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_opened_once() {
    let service = Service::start().await;
    let client = service.client().await;
    let mut calls = JoinSet::new();
    for call in 0..200 {
        let client = client.clone();
        calls.spawn(async move { create(&client, &format!("account-{}", call / 2), 7).await });
    }
    let results = calls.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 100);
    for status in results.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::AlreadyExists);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "ACCOUNT_ALREADY_EXISTS");
        assert_eq!(status.message(), format!("Account {} already exists", info.metadata["account_id"]));
    }
}

/// A2: an account cannot be opened with less than nothing.
#[tokio::test]
async fn a_negative_initial_balance_is_refused() {
    let service = Service::start().await;
    let client = service.client().await;
    refused(create(&client, "a", -1).await, Code::InvalidArgument, "Initial balance cannot be negative");
    refused(balance(&client, "a").await, Code::NotFound, "Account a not found");
}

/// A3: the newest committed balance and version.
#[tokio::test]
async fn a_balance_comes_with_its_version_and_sequence() {
    let service = Service::start().await;
    let client = service.client().await;
    let opened = create(&client, "a", 5).await.unwrap().account.unwrap();
    assert_eq!((opened.account_id.as_str(), opened.balance, opened.version, opened.sequence), ("a", 5, 1, 1));
    let updated = update(&client, "a", 37, "u").await.unwrap();
    assert_eq!((updated.new_balance, updated.version, updated.sequence, updated.replayed), (42, 2, 2, false));
    let read = balance(&client, "a").await.unwrap();
    assert_eq!((read.balance, read.version, read.sequence), (42, 2, 2));
    refused(balance(&client, "nobody").await, Code::NotFound, "Account nobody not found");
    let commit = updated.commit_time.unwrap();
    let age =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64 - commit.seconds;
    assert!((0..60).contains(&age), "{commit:?}");
}

/// A4: 1,000 concurrent reads of one account, and of 1,000 accounts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reads_at_once_are_answered() {
    let service = Service::start().await;
    let client = service.client().await;
    for account in 0..1_000 {
        service.ledger.create(&format!("a{account}").parse().unwrap(), account).unwrap();
    }
    service.settle().await;
    let mut reads = JoinSet::new();
    for account in (0..1_000).chain(std::iter::repeat_n(7, 1_000)) {
        let client = client.clone();
        reads.spawn(async move { balance(&client, &format!("a{account}")).await.unwrap().balance == account });
    }
    assert!(reads.join_all().await.into_iter().all(|right| right));
}

/// A5: 100 concurrent +10 on 1,000 give exactly 2,000, each with a version of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_updates_are_all_counted() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 1_000).await.unwrap();
    let mut calls = JoinSet::new();
    for call in 0..100 {
        let client = client.clone();
        calls.spawn(async move { update(&client, "a", 10, &format!("u{call}")).await.unwrap().version });
    }
    let mut versions = calls.join_all().await;
    versions.sort_unstable();
    assert_eq!(versions, (2..=101).collect::<Vec<_>>());
    assert_eq!(balance(&client, "a").await.unwrap().balance, 2_000);
}

/// A6, A12: an update below the floor changes nothing.
#[tokio::test]
async fn an_update_below_the_floor_is_refused() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 3).await.unwrap();
    let text = "Insufficient balance: current=3, delta=-5";
    refused(update(&client, "a", -5, "u").await, Code::FailedPrecondition, text);
    refused(update(&client, "b", 1, "v").await, Code::NotFound, "Account b not found");
    let read = balance(&client, "a").await.unwrap();
    assert_eq!((read.balance, read.version), (3, 1));
}

/// A7: both sides, exactly.
#[tokio::test]
async fn a_transfer_moves_the_amount() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "A", 100).await.unwrap();
    create(&client, "B", 200).await.unwrap();
    let moved = transfer(&client, "A", "B", 50, "t").await.unwrap();
    assert_eq!((moved.from_balance, moved.to_balance), (50, 250));
    assert_eq!((moved.from_version, moved.to_version, moved.sequence, moved.replayed), (2, 2, 3, false));
    assert_eq!(balance(&client, "B").await.unwrap().balance, 250);
}

/// A7: the order of the checks: fields, same account, amount, accounts known (source first), funds.
#[tokio::test]
async fn a_transfer_is_checked_in_the_order_of_the_contract() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 1).await.unwrap();
    create(&client, "b", 0).await.unwrap();
    names(transfer(&client, "", "", -1, "").await, "from_account_id");
    names(transfer(&client, "a", "", -1, "").await, "to_account_id");
    names(transfer(&client, "a", "a", -1, "").await, "transaction_id");
    let same = "Cannot transfer to the same account";
    refused(transfer(&client, "a", "a", -1, "1").await, Code::InvalidArgument, same);
    let amount = "Transfer amount must be positive";
    refused(transfer(&client, "x", "y", 0, "1").await, Code::InvalidArgument, amount);
    refused(transfer(&client, "x", "y", 9, "2").await, Code::NotFound, "Account x not found");
    refused(transfer(&client, "a", "y", 9, "3").await, Code::NotFound, "Account y not found");
    let funds = "Insufficient balance in account a: current=1, required=9";
    refused(transfer(&client, "a", "b", 9, "4").await, Code::FailedPrecondition, funds);
}

/// A13: refusals carry a stable reason and what their text says, for programs.
#[tokio::test]
async fn a_refusal_carries_its_details() {
    let service = Service::start().await;
    let client = service.client().await;
    create(&client, "a", 1).await.unwrap();
    let status = update(&client, "a", -2, "u").await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INSUFFICIENT_BALANCE", "equipoise"));
    assert_eq!((info.metadata["current"].as_str(), info.metadata["delta"].as_str()), ("1", "-2"));
    assert!(status.get_details_bad_request().is_none());
}
