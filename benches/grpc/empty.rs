//! A tonic service that answers with constants: what HTTP/2, tonic and protobuf cost without accounts.

use equipoise::grpc::proto::account_service_server::AccountService;
use equipoise::grpc::proto::*;
use tonic::{Request, Response, Status, Streaming};

use crate::workload::INITIAL;

/// Answers with constants.
pub struct Empty;

type Stream<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl AccountService for Empty {
    type ExecuteStreamStream = Stream<ExecuteBatchResponse>;
    type SnapshotBalancesStream = Stream<SnapshotBalancesResponse>;
    type WatchTransactionsStream = Stream<WatchTransactionsResponse>;

    async fn get_balance(&self, _: Request<GetBalanceRequest>) -> Result<Response<GetBalanceResponse>, Status> {
        Ok(Response::new(GetBalanceResponse { balance: INITIAL, version: 1, sequence: 100_000 }))
    }

    async fn update_balance(
        &self,
        _: Request<UpdateBalanceRequest>,
    ) -> Result<Response<UpdateBalanceResponse>, Status> {
        Ok(Response::new(UpdateBalanceResponse {
            new_balance: INITIAL,
            version: 2,
            sequence: 100_000,
            replayed: false,
            commit_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 999_999_999 }),
        }))
    }

    async fn transfer_funds(
        &self,
        _: Request<TransferFundsRequest>,
    ) -> Result<Response<TransferFundsResponse>, Status> {
        Ok(Response::new(TransferFundsResponse {
            from_balance: INITIAL,
            to_balance: INITIAL,
            from_version: 2,
            to_version: 2,
            sequence: 100_000,
            replayed: false,
            commit_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 999_999_999 }),
        }))
    }

    async fn create_account(
        &self,
        _: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn execute_batch(&self, _: Request<ExecuteBatchRequest>) -> Result<Response<ExecuteBatchResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn execute_stream(
        &self,
        _: Request<Streaming<ExecuteBatchRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn snapshot_balances(
        &self,
        _: Request<SnapshotBalancesRequest>,
    ) -> Result<Response<Self::SnapshotBalancesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_accounts(&self, _: Request<ListAccountsRequest>) -> Result<Response<ListAccountsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_transaction(
        &self,
        _: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch_transactions(
        &self,
        _: Request<WatchTransactionsRequest>,
    ) -> Result<Response<Self::WatchTransactionsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
