//! SnapshotBalances and ListAccounts: everything at one sequence.

use std::time::Duration;

use equipoise::grpc::Options;
use equipoise::grpc::proto::{ListAccountsResponse, SnapshotBalancesRequest, SnapshotBalancesResponse};
use tonic::{Code, Status};

use crate::harness::*;

async fn walk(client: &Client, size: i32, prefix: &str) -> Vec<ListAccountsResponse> {
    let mut pages = vec![page(client, size, "", prefix).await.unwrap()];
    while let Some(token) = pages.last().map(|page| page.next_page_token.clone()).filter(|token| !token.is_empty()) {
        pages.push(page(client, size, &token, prefix).await.unwrap());
    }
    pages
}

async fn snapshot(client: &Client, prefix: &str) -> Result<Vec<SnapshotBalancesResponse>, Status> {
    let request = SnapshotBalancesRequest { prefix: prefix.into() };
    let mut stream = client.clone().snapshot_balances(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

async fn filled(options: Options, accounts: usize) -> (Service, Client) {
    let service = Service::with(options).await;
    for account in 0..accounts {
        service.ledger.create(&format!("acc-{account:05}").parse().unwrap(), 1_000).unwrap();
    }
    service.settle().await;
    let client = service.client().await;
    (service, client)
}

/// Waits until no walk holds a snapshot.
async fn nothing_is_held(service: &Service) {
    let held = async {
        while service.ledger.stats().open_snapshots > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, held).await.expect("nothing is held");
}

/// A10: whatever writers do meanwhile, every page of a walk and every message of a stream is of one sequence, and the
/// total is constant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_is_read_at_one_sequence() {
    let (service, client) = filled(Options::default(), 2_500).await;
    let writer = {
        let ledger = service.ledger.clone();
        std::thread::spawn(move || {
            for round in 0..100_000_u64 {
                let id = |n: u64| format!("acc-{:05}", n % 2_500).parse().unwrap();
                let _ = ledger.transfer(&id(round * 7), &id(round * 13 + 1), 1);
            }
        })
    };
    let mut rounds = 0;
    while !writer.is_finished() || rounds == 0 {
        let pages = walk(&client, 700, "").await;
        assert_eq!(pages.len(), 4);
        assert!(pages.iter().all(|page| page.sequence == pages[0].sequence));
        let accounts: Vec<_> = pages.into_iter().flat_map(|page| page.accounts).collect();
        assert!(accounts.is_sorted_by(|a, b| a.account_id < b.account_id));
        assert_eq!(accounts.iter().map(|account| account.balance).sum::<i64>(), 2_500_000);
        let messages = snapshot(&client, "").await.unwrap();
        assert!(messages.iter().all(|message| message.sequence == messages[0].sequence));
        let total: i64 = messages.iter().flat_map(|message| &message.accounts).map(|account| account.balance).sum();
        assert_eq!(total, 2_500_000);
        rounds += 1;
    }
    writer.join().unwrap();
    nothing_is_held(&service).await;
}

/// Page sizes and prefixes as the contract says.
#[tokio::test]
async fn pages_have_their_size_and_prefix() {
    let (_service, client) = filled(Options::default(), 1_200).await;
    assert_eq!(page(&client, 0, "", "").await.unwrap().accounts.len(), 100);
    assert_eq!(page(&client, 5_000, "", "").await.unwrap().accounts.len(), 1_000);
    names(page(&client, -1, "", "").await, "page_size");
    names(page(&client, 1, "", &"x".repeat(129)).await, "prefix");
    let pages = walk(&client, 7, "acc-0001").await;
    assert_eq!(pages.iter().map(|page| page.accounts.len()).collect::<Vec<_>>(), [7, 3]);
    assert!(page(&client, 7, "", "nobody").await.unwrap().accounts.is_empty());
    let messages = snapshot(&client, "nobody").await.unwrap();
    assert_eq!((messages.len(), messages[0].sequence), (1, 1_200));
    assert_eq!(snapshot(&client, "acc-011").await.unwrap()[0].accounts.len(), 100);
}

/// Tokens that are not ours, of another walk, or too old.
#[tokio::test]
async fn a_wrong_page_token_is_named() {
    let options = Options { walk_lease: Duration::from_secs(2), ..Options::default() };
    let (service, client) = filled(options, 10).await;
    names(page(&client, 3, "garbled!", "").await, "page_token");
    names(page(&client, 3, "AAAAAAAAAAAAAAAA", "").await, "page_token");
    let token = page(&client, 3, "", "acc").await.unwrap().next_page_token;
    names(page(&client, 3, &token, "").await, "page_token");
    let again = page(&client, 3, &token, "acc").await.unwrap();
    assert_eq!(again.accounts, page(&client, 3, &token, "acc").await.unwrap().accounts);
    nothing_is_held(&service).await;
    names(page(&client, 3, &token, "acc").await, "page_token");
}

/// A10: an answer may be lost, that of the last page too: asked again within the lease it is the same, and holds no snapshot.
#[tokio::test]
async fn the_last_page_can_be_read_again() {
    let lease = Duration::from_secs(4);
    let options = Options { walk_lease: lease, max_walks: 2, ..Options::default() };
    let (service, client) = filled(options, 10).await;
    let first = page(&client, 4, "", "acc").await.unwrap().next_page_token;
    let second = page(&client, 4, &first, "acc").await.unwrap().next_page_token;
    let last = page(&client, 4, &second, "acc").await.unwrap();
    assert_eq!((last.accounts.len(), last.next_page_token.as_str()), (2, ""));
    assert_eq!(service.ledger.stats().open_snapshots, 0);
    service.ledger.update(&"acc-00009".parse().unwrap(), 1).unwrap();
    service.settle().await;
    assert_eq!(page(&client, 4, &second, "acc").await.unwrap(), last);
    names(page(&client, 4, &second, "").await, "page_token");
    // In smaller pages, too, as any other.
    let half = page(&client, 1, &second, "acc").await.unwrap();
    let rest = page(&client, 1, &half.next_page_token, "acc").await.unwrap();
    assert_eq!([half.accounts, rest.accounts].concat(), last.accounts);
    assert_eq!((half.sequence, rest.next_page_token.as_str()), (last.sequence, ""));
    // Nobody who is through stands in another's way, and as many answers are kept as there may be walks.
    for _ in 0..3 {
        assert_eq!(walk(&client, 4, "acc").await.len(), 3);
    }
    names(page(&client, 4, &second, "acc").await, "page_token");
    let pages = walk(&client, 4, "acc").await;
    let token = &pages[1].next_page_token;
    assert_eq!(page(&client, 4, token, "acc").await.unwrap(), pages[2]);
    // Each try may be another lease.
    let given_up = async {
        loop {
            tokio::time::sleep(lease + Duration::from_millis(1_500)).await;
            let again = page(&client, 4, token, "acc").await;
            if again.is_err() {
                break again;
            }
        }
    };
    names(tokio::time::timeout(SOON, given_up).await.expect("an end of it"), "page_token");
}

/// A10: too many at once: RESOURCE_EXHAUSTED, nobody waits; whoever leaves makes room.
#[tokio::test]
async fn too_many_walks_are_refused() {
    let options = Options { max_walks: 2, ..Options::default() };
    let (service, client) = filled(options, 60_000).await;
    page(&client, 3, "", "").await.unwrap();
    let mut narrow = service.narrow_client().await;
    let stream = narrow.snapshot_balances(SnapshotBalancesRequest::default()).await.unwrap();
    let status = page(&client, 3, "", "").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
    assert_eq!(snapshot(&client, "").await.unwrap_err().code(), Code::ResourceExhausted);
    drop(stream);
    tokio::time::timeout(SOON, async {
        while page(&client, 3, "", "").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a client that left makes room");
}

/// A08: a stream that nobody reads loses its snapshot after the lease, and says so when it is read again.
#[tokio::test]
async fn a_stream_that_is_not_read_ends_with_an_error() {
    let options = Options { walk_lease: Duration::from_secs(1), ..Options::default() };
    let (service, _) = filled(options, 60_000).await;
    let mut client = service.narrow_client().await;
    let mut stream = client.snapshot_balances(SnapshotBalancesRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    nothing_is_held(&service).await;
    let mut end = Ok(());
    while end.is_ok() {
        end = match stream.message().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => panic!("cut short without an error"),
            Err(status) => Err(status.code()),
        };
    }
    assert_eq!(end, Err(Code::ResourceExhausted));
}
