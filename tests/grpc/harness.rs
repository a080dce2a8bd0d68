//! A service of its own for each test, and short ways to call it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use equipoise::Ledger;
use equipoise::grpc::proto::account_service_client::AccountServiceClient;
use equipoise::grpc::proto::*;
use equipoise::grpc::{Error, Opening, Options, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long anything may take that should happen soon, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

pub type Client = AccountServiceClient<Channel>;

pub struct Service {
    pub address: SocketAddr,
    pub ledger: Ledger,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), Error>>,
}

impl Service {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        Self::over(Ledger::builder().history(100_000).build(), options).await
    }

    pub async fn over(ledger: Ledger, options: Options) -> Self {
        Self::behind(ledger.clone(), ledger.into(), options).await
    }

    /// A service whose ledger will be `ledger` once `opening` says so.
    pub async fn behind(ledger: Ledger, opening: Opening, options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, opening, options, async {
            let _ = stopped.await;
        }));
        Service { address, ledger, stop, serving }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::new(self.channel().await)
    }

    /// A client whose streams have small windows: what it does not read of one stays at the service, and its other calls go on.
    pub async fn narrow_client(&self) -> Client {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        let narrow = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(16 << 20);
        Client::new(narrow.connect().await.unwrap())
    }

    /// Waits until remote readers see what was done directly on the ledger.
    pub async fn settle(&self) {
        self.ledger.durable_at(self.ledger.sequence()).await.unwrap();
    }

    /// How the service ended by itself.
    pub async fn ended(self) -> Result<(), Error> {
        self.serving.await.unwrap()
    }

    /// Stops the service; how long that took.
    pub async fn stop(self) -> Duration {
        let began = Instant::now();
        self.stop.send(()).unwrap();
        self.serving.await.unwrap().unwrap();
        began.elapsed()
    }
}

pub async fn create(client: &Client, account: &str, balance: i64) -> Result<CreateAccountResponse, Status> {
    create_with(client, account, balance, "").await
}

pub async fn create_with(
    client: &Client,
    account: &str,
    initial_balance: i64,
    id: &str,
) -> Result<CreateAccountResponse, Status> {
    let request = CreateAccountRequest { account_id: account.into(), initial_balance, transaction_id: id.into() };
    client.clone().create_account(request).await.map(|response| response.into_inner())
}

pub async fn balance(client: &Client, account: &str) -> Result<GetBalanceResponse, Status> {
    let request = GetBalanceRequest { account_id: account.into() };
    client.clone().get_balance(request).await.map(|response| response.into_inner())
}

pub async fn update(client: &Client, account: &str, delta: i64, id: &str) -> Result<UpdateBalanceResponse, Status> {
    let request = UpdateBalanceRequest { account_id: account.into(), delta, transaction_id: id.into() };
    client.clone().update_balance(request).await.map(|response| response.into_inner())
}

pub async fn transfer(
    client: &Client,
    from: &str,
    to: &str,
    amount: i64,
    id: &str,
) -> Result<TransferFundsResponse, Status> {
    let request = TransferFundsRequest {
        from_account_id: from.into(),
        to_account_id: to.into(),
        amount,
        transaction_id: id.into(),
    };
    client.clone().transfer_funds(request).await.map(|response| response.into_inner())
}

pub async fn batch(client: &Client, operations: Vec<Operation>) -> Result<Vec<OperationResult>, Status> {
    client.clone().execute_batch(ExecuteBatchRequest { operations }).await.map(|response| response.into_inner().results)
}

pub async fn transaction(client: &Client, id: &str) -> Result<Transaction, Status> {
    let request = GetTransactionRequest { transaction_id: id.into() };
    client.clone().get_transaction(request).await.map(|response| response.into_inner().transaction.unwrap())
}

pub async fn page(client: &Client, page_size: i32, token: &str, prefix: &str) -> Result<ListAccountsResponse, Status> {
    let request = ListAccountsRequest { prefix: prefix.into(), page_size, page_token: token.into() };
    client.clone().list_accounts(request).await.map(|response| response.into_inner())
}

/// Asserts that a call failed with exactly this.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Asserts that a call failed as INVALID_ARGUMENT, naming `field`.
#[track_caller]
pub fn names<T: std::fmt::Debug>(result: Result<T, Status>, field: &str) {
    use tonic_types::StatusExt as _;
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, field, "{status:?}");
    assert!(status.message().contains(field), "{status:?}");
}
