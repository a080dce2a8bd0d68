//! The account service until its accounts are there: refuses every call, once it has read what the call is about.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::audit::{self, About, Asked, Subject};
use super::opening::Recovery;
use super::operations::Operations;
use super::proto::{
    CreateAccountRequest, CreateAccountResponse, GetBalanceRequest, GetBalanceResponse, GetTransactionRequest,
    GetTransactionResponse, ListAccountsRequest, ListAccountsResponse, SnapshotBalancesRequest,
    SnapshotBalancesResponse, TransferFundsRequest, TransferFundsResponse, UpdateBalanceRequest, UpdateBalanceResponse,
    WatchTransactionsRequest, WatchTransactionsResponse,
};
use super::pull::BoxStream;
use super::results::Results;
use super::server_side::account_service_server::AccountService;
use super::status::Failure;

/// Decides nothing: it has no accounts.
pub(super) struct Unready {
    pub(super) recovery: Arc<Recovery>,
}

impl Unready {
    fn failure(&self) -> Failure {
        self.recovery.progress().into()
    }

    fn refuse<M: About, T>(&self, operation: &'static str, request: Request<M>) -> Result<Response<T>, Status> {
        Err(Asked::new(operation, request)?.refuse(&self.failure()))
    }
}

#[tonic::async_trait]
impl AccountService for Unready {
    type ExecuteStreamStream = BoxStream<Results>;
    type SnapshotBalancesStream = BoxStream<SnapshotBalancesResponse>;
    type WatchTransactionsStream = BoxStream<WatchTransactionsResponse>;

    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        self.refuse("CreateAccount", request)
    }

    async fn get_balance(&self, request: Request<GetBalanceRequest>) -> Result<Response<GetBalanceResponse>, Status> {
        self.refuse("GetBalance", request)
    }

    async fn update_balance(
        &self,
        request: Request<UpdateBalanceRequest>,
    ) -> Result<Response<UpdateBalanceResponse>, Status> {
        self.refuse("UpdateBalance", request)
    }

    async fn transfer_funds(
        &self,
        request: Request<TransferFundsRequest>,
    ) -> Result<Response<TransferFundsResponse>, Status> {
        self.refuse("TransferFunds", request)
    }

    async fn execute_batch(&self, request: Request<Operations>) -> Result<Response<Results>, Status> {
        self.refuse("ExecuteBatch", request)
    }

    /// At once: the client may wait for this before it sends a batch.
    async fn execute_stream(
        &self,
        _: Request<Streaming<Operations>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        Err(audit::refused("ExecuteStream", Subject::default(), &self.failure()))
    }

    async fn snapshot_balances(
        &self,
        request: Request<SnapshotBalancesRequest>,
    ) -> Result<Response<Self::SnapshotBalancesStream>, Status> {
        self.refuse("SnapshotBalances", request)
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        self.refuse("ListAccounts", request)
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        self.refuse("GetTransaction", request)
    }

    async fn watch_transactions(
        &self,
        request: Request<WatchTransactionsRequest>,
    ) -> Result<Response<Self::WatchTransactionsStream>, Status> {
        self.refuse("WatchTransactions", request)
    }
}
