//! The largest answers, as a client that was told nothing about limits reads them.

use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{
    CreateAccountRequest, ExecuteBatchRequest, ExecuteBatchResponse, Operation, TransferFundsRequest,
    UpdateBalanceRequest, WatchTransactionsRequest,
};
use equipoise::{MAX_BATCH_OPERATIONS, MAX_ID_BYTES, MAX_LEGS};
use prost::Message;
use tonic::Code;

use crate::harness::*;

/// What tonic and gRPC read of a message if nobody says otherwise, in bytes.
const READ_BY_DEFAULT: usize = 4 << 20;
/// "Well under": this much is left of it at the least.
const LEFT: usize = READ_BY_DEFAULT / 8;

/// As long as an id may be.
fn id(kind: &str, number: usize) -> String {
    format!("{kind}{number:0>width$}", width = MAX_ID_BYTES - kind.len())
}

fn transfer_of(number: usize, from: &str, to: &str, amount: i64) -> Operation {
    let (from_account_id, to_account_id) = (from.to_owned(), to.to_owned());
    let transfer = TransferFundsRequest { from_account_id, to_account_id, amount, transaction_id: id("t", number) };
    Operation { operation: Some(Kind::TransferFunds(transfer)), linked: false }
}

/// Sends a batch of `operations`: its answer, which leaves room, and at least `expected` bytes.
async fn answered(client: &Client, what: &str, operations: Vec<Operation>, expected: usize) -> ExecuteBatchResponse {
    let count = operations.len();
    let answer = client.clone().execute_batch(ExecuteBatchRequest { operations }).await;
    let answer = answer.unwrap_or_else(|status| panic!("{what}: {status:?}")).into_inner();
    assert_eq!(answer.results.len(), count, "{what}");
    let bytes = answer.encoded_len();
    println!("{what}: {bytes} bytes, {} below 4 MiB", READ_BY_DEFAULT.saturating_sub(bytes));
    assert!(bytes >= expected, "{what}: {bytes} bytes are less than the case is about");
    assert!(bytes + LEFT <= READ_BY_DEFAULT, "{what}: {bytes} bytes leave {LEFT} of {READ_BY_DEFAULT} no more");
    answer
}

fn all(answer: &ExecuteBatchResponse, code: Code, replayed: bool) -> bool {
    answer.results.iter().all(|result| result.code == i32::from(code) && result.replayed == replayed)
}

/// A14: the longest answers of a batch are read under gRPC's default limit: accepted, refused, replayed, in chains.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_answers_are_well_under_the_default_limit() {
    let service = Service::start().await;
    let client = service.client().await;
    let [rich, poor] = [id("rich", 1), id("poor", 2)];
    let most = MAX_BATCH_OPERATIONS;
    create(&client, &rich, i64::MAX).await.unwrap();
    create(&client, &poor, 0).await.unwrap();

    // Two accounts each, with balances of nine bytes.
    let transfers: Vec<_> = (0..most).map(|number| transfer_of(number, &rich, &poor, 1 << 40)).collect();
    let accepted = answered(&client, "accepted", transfers.clone(), most * 300).await;
    assert!(all(&accepted, Code::Ok, false));
    let again = answered(&client, "accepted, replayed", transfers, most * 300).await;
    assert!(all(&again, Code::Ok, true));

    let short = |number| transfer_of(most + number, &poor, &rich, i64::MAX);
    let refused = answered(&client, "short of funds", (0..most).map(short).collect(), most * 200).await;
    assert!(all(&refused, Code::FailedPrecondition, false), "{:?}", refused.results[0]);
    let again = answered(&client, "short of funds, replayed", (0..most).map(short).collect(), most * 200).await;
    assert!(all(&again, Code::FailedPrecondition, true));

    let other = |number| transfer_of(number, &rich, &id("other", 3), 1 << 40);
    let reused = answered(&client, "ids used before", (0..most).map(other).collect(), most * 160).await;
    assert!(all(&reused, Code::InvalidArgument, false), "{:?}", reused.results[0]);

    // Each its own group's culprit and companion by turns.
    let chained =
        |number| Operation { linked: number % 2 == 0, ..transfer_of(2 * most + number, &poor, &rich, i64::MAX) };
    let chains = answered(&client, "refused chains", (0..most).map(chained).collect(), most * 100).await;
    assert!(all(&chains, Code::FailedPrecondition, false), "{:?}", chains.results[1]);
}

/// A14: so is a message of the watch: the longest entries, one behind the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_messages_of_a_watch_are_well_under_the_default_limit() {
    let service = Service::start().await;
    let client = service.client().await;
    let account = id("a", 1);
    create(&client, &account, i64::MAX - 1_000_000).await.unwrap();
    const CHAINS: usize = 8;
    let update = |number: usize, linked| {
        let update = UpdateBalanceRequest { account_id: account.clone(), delta: 1, transaction_id: id("t", number) };
        Operation { operation: Some(Kind::UpdateBalance(update)), linked }
    };
    // The last one is refused for what every member of it tells.
    for chain in 0..CHAINS {
        let member = |at| update(chain * MAX_LEGS + at, at + 1 < MAX_LEGS);
        let results = batch(&client, (0..MAX_LEGS).map(member).collect()).await.unwrap();
        assert!(results.iter().all(|result| result.code == 0), "{:?}", results[0]);
    }
    let nobody = |at: usize| {
        let (account_id, transaction_id) = (id("a", at), id("c", at));
        let create = CreateAccountRequest { account_id, initial_balance: i64::MAX, transaction_id };
        Operation { operation: Some(Kind::CreateAccount(create)), linked: at + 1 < MAX_LEGS }
    };
    let results = batch(&client, (0..MAX_LEGS).map(nobody).collect()).await.unwrap();
    assert_eq!(Code::from(results[1].code), Code::AlreadyExists, "{:?}", results[1]);

    service.settle().await;
    let request = WatchTransactionsRequest { from_sequence: 1, account_id: String::new() };
    let mut stream = client.clone().watch_transactions(request).await.unwrap().into_inner();
    let (mut longest, mut seen) = (0, 0);
    while seen < CHAINS as u64 + 2 {
        let message = stream.message().await.unwrap().expect("it goes on");
        seen = message.transactions.last().unwrap().sequence;
        longest = longest.max(message.encoded_len());
    }
    println!("watch: {longest} bytes, {} below 4 MiB", READ_BY_DEFAULT.saturating_sub(longest));
    assert!(longest > 1 << 20, "{longest} bytes are less than a message is closed at");
    assert!(longest <= READ_BY_DEFAULT / 2, "{longest} bytes");
}
