//! Short ways to call a service, and one form for every answer.

use std::future::poll_fn;
use std::task::Poll;

use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::*;
use tokio::task::JoinHandle;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

pub type Client = AccountServiceClient<Channel>;

#[derive(Clone, Debug)]
pub enum Step {
    Create { account: String, initial: i64 },
    Update { account: String, delta: i64 },
    Transfer { from: String, to: String, amount: i64 },
}

/// One call: a step, or several that are linked. Each with its id.
#[derive(Clone, Debug)]
pub struct Order {
    pub steps: Vec<(String, Step)>,
}

/// What was answered to one step: OK or a refusal that the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: i32,
    pub message: String,
    /// Of an accepted one.
    pub sequence: Option<u64>,
    pub replayed: bool,
    /// Account, balance, version.
    pub accounts: Vec<(String, i64, u64)>,
}

impl Order {
    pub fn update(id: &str, account: &str, delta: i64) -> Self {
        Order { steps: vec![(id.into(), Step::Update { account: account.into(), delta })] }
    }

    pub fn create(id: &str, account: &str, initial: i64) -> Self {
        Order { steps: vec![(id.into(), Step::Create { account: account.into(), initial })] }
    }

    pub fn transfer(id: &str, from: &str, to: &str, amount: i64) -> Self {
        Order { steps: vec![(id.into(), Step::Transfer { from: from.into(), to: to.into(), amount })] }
    }

    /// Sends it: what was answered to each step, or why nothing was decided, or nobody knows.
    pub async fn send(&self, client: &Client) -> Result<Vec<Answer>, Status> {
        match self.steps.as_slice() {
            [(id, step)] => match send_one(client, operation(id, step)).await {
                Ok(answer) => Ok(vec![answer]),
                Err(status) => refusal(status).map(|answer| vec![answer]),
            },
            _ => self.send_chain(client).await,
        }
    }

    async fn send_chain(&self, client: &Client) -> Result<Vec<Answer>, Status> {
        let last = self.steps.len() - 1;
        let linked = |(at, (id, step)): (usize, &(String, Step))| Operation {
            operation: Some(operation(id, step)),
            linked: at < last,
        };
        let request = ExecuteBatchRequest { operations: self.steps.iter().enumerate().map(linked).collect() };
        let results = client.clone().execute_batch(request).await?.into_inner().results;
        assert_eq!(results.len(), self.steps.len());
        let answer = |result: OperationResult| {
            let OperationResult { code, message, sequence, replayed, accounts } = result;
            let accounts = accounts.into_iter().map(|account| (account.account_id, account.balance, account.version));
            match decided(Code::from(code)) {
                true => {
                    let sequence = (code == 0).then_some(sequence);
                    Ok(Answer { code, message, sequence, replayed, accounts: accounts.collect() })
                }
                false => Err(Status::new(Code::from(code), message)),
            }
        };
        results.into_iter().map(answer).collect()
    }
}

fn operation(id: &str, step: &Step) -> Kind {
    let transaction_id = id.to_owned();
    match step.clone() {
        Step::Create { account: account_id, initial: initial_balance } => {
            Kind::CreateAccount(CreateAccountRequest { account_id, initial_balance, transaction_id })
        }
        Step::Update { account: account_id, delta } => {
            Kind::UpdateBalance(UpdateBalanceRequest { account_id, delta, transaction_id })
        }
        Step::Transfer { from: from_account_id, to: to_account_id, amount } => {
            Kind::TransferFunds(TransferFundsRequest { from_account_id, to_account_id, amount, transaction_id })
        }
    }
}

async fn send_one(client: &Client, operation: Kind) -> Result<Answer, Status> {
    let mut client = client.clone();
    let ok = |sequence, replayed, accounts| Answer {
        code: 0,
        message: String::new(),
        sequence: Some(sequence),
        replayed,
        accounts,
    };
    Ok(match operation {
        Kind::CreateAccount(request) => {
            let CreateAccountResponse { account, replayed } = client.create_account(request).await?.into_inner();
            let Account { account_id, balance, version, sequence } = account.unwrap();
            ok(sequence, replayed, vec![(account_id, balance, version)])
        }
        Kind::UpdateBalance(request) => {
            let account = request.account_id.clone();
            let answer = client.update_balance(request).await?.into_inner();
            ok(answer.sequence, answer.replayed, vec![(account, answer.new_balance, answer.version)])
        }
        Kind::TransferFunds(request) => {
            let (from, to) = (request.from_account_id.clone(), request.to_account_id.clone());
            let answer = client.transfer_funds(request).await?.into_inner();
            let from = (from, answer.from_balance, answer.from_version);
            ok(answer.sequence, answer.replayed, vec![from, (to, answer.to_balance, answer.to_version)])
        }
    })
}

fn decided(code: Code) -> bool {
    matches!(code, Code::Ok | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition)
}

fn refusal(status: Status) -> Result<Answer, Status> {
    if !decided(status.code()) {
        return Err(status);
    }
    let info = status.get_details_error_info();
    let replayed = info.is_some_and(|info| info.metadata.get("replayed").is_some_and(|value| value == "true"));
    let (code, message) = (status.code() as i32, status.message().to_owned());
    Ok(Answer { code, message, sequence: None, replayed, accounts: Vec::new() })
}

/// A call whose request does not end, as long as the task lives: the service can only cut its connection.
pub async fn half_sent(channel: Channel) -> JoinHandle<()> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut call = Box::pin(async move {
        let path = PathAndQuery::from_static("/equipoise.v1.AccountService/GetBalance");
        let codec = tonic_prost::ProstCodec::<GetBalanceRequest, GetBalanceResponse>::default();
        // However it ends.
        let _ = grpc.client_streaming(Request::new(tokio_stream::pending()), path, codec).await;
    });
    // Begun before the next call, it is there when that is answered.
    let begun = poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await;
    assert!(begun, "its request does not end");
    let _ = balance(&Client::new(channel), "nobody").await;
    tokio::spawn(call)
}

pub async fn balance(client: &Client, account: &str) -> Result<GetBalanceResponse, Status> {
    let request = GetBalanceRequest { account_id: account.into() };
    client.clone().get_balance(request).await.map(|response| response.into_inner())
}

pub async fn transaction(client: &Client, id: &str) -> Result<Transaction, Status> {
    let request = GetTransactionRequest { transaction_id: id.into() };
    client.clone().get_transaction(request).await.map(|response| response.into_inner().transaction.unwrap())
}

/// All accounts, and the sequence that they are at.
pub async fn snapshot(client: &Client) -> Result<(u64, Vec<Account>), Status> {
    let request = SnapshotBalancesRequest { prefix: String::new() };
    let mut stream = client.clone().snapshot_balances(request).await?.into_inner();
    let (mut sequence, mut accounts) = (0, Vec::new());
    while let Some(message) = stream.message().await? {
        assert!(sequence == 0 || sequence == message.sequence, "one snapshot, one sequence");
        sequence = message.sequence;
        accounts.extend(message.accounts);
    }
    Ok((sequence, accounts))
}

/// Journal entries from `from` to `through`, which must exist.
pub async fn watch(client: &Client, from: u64, through: u64) -> Result<Vec<Transaction>, Status> {
    let request = WatchTransactionsRequest { from_sequence: from, account_id: String::new() };
    let mut stream = client.clone().watch_transactions(request).await?.into_inner();
    let mut found = Vec::new();
    if from > through {
        return Ok(found);
    }
    loop {
        let message = stream.message().await?.expect("it goes on for ever");
        let newest = message.transactions.last().map_or(0, |transaction| transaction.sequence);
        found.extend(message.transactions);
        if newest >= through {
            break;
        }
    }
    // An entry's transactions are in one message.
    found.retain(|transaction| transaction.sequence <= through);
    Ok(found)
}

/// A request with this deadline.
pub fn within<T>(message: T, limit: std::time::Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
