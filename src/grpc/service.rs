//! The account service: one short function a call.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::audit::{self, Asked, Subject, Unanswered};
use super::batch::Batch;
use super::books::Books;
use super::convert;
use super::operations::Operations;
use super::proto::{
    CreateAccountRequest, CreateAccountResponse, GetBalanceRequest, GetBalanceResponse, GetTransactionRequest,
    GetTransactionResponse, ListAccountsRequest, ListAccountsResponse, SnapshotBalancesRequest,
    SnapshotBalancesResponse, TransferFundsRequest, TransferFundsResponse, UpdateBalanceRequest, UpdateBalanceResponse,
    WatchTransactionsRequest, WatchTransactionsResponse,
};
use super::pull::{BoxStream, Ends, pull};
use super::results::Results;
use super::server_side::account_service_server::AccountService;
use super::status::Failure;
use super::stream::Batches;
use super::walk::{Place, Walks};
use super::watch::Watch;
use crate::{AccountId, AccountState, Member, Outcome, Refusal, TransactionId};

/// What the calls need.
pub(super) struct Accounts {
    pub(super) books: Books,
    pub(super) walks: Arc<Walks>,
    /// True once shutdown began.
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) max_message_bytes: usize,
}

#[tonic::async_trait]
impl AccountService for Accounts {
    type ExecuteStreamStream = BoxStream<Results>;
    type SnapshotBalancesStream = BoxStream<SnapshotBalancesResponse>;
    type WatchTransactionsStream = BoxStream<WatchTransactionsResponse>;

    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        let asked = Asked::new("CreateAccount", request)?;
        let created = self.create(&asked).await;
        asked.answer(created)
    }

    async fn get_balance(&self, request: Request<GetBalanceRequest>) -> Result<Response<GetBalanceResponse>, Status> {
        let asked = Asked::new("GetBalance", request)?;
        let balance = self.balance(&asked).await;
        asked.answer(balance)
    }

    async fn update_balance(
        &self,
        request: Request<UpdateBalanceRequest>,
    ) -> Result<Response<UpdateBalanceResponse>, Status> {
        let asked = Asked::new("UpdateBalance", request)?;
        let updated = self.update(&asked).await;
        asked.answer(updated)
    }

    async fn transfer_funds(
        &self,
        request: Request<TransferFundsRequest>,
    ) -> Result<Response<TransferFundsResponse>, Status> {
        let asked = Asked::new("TransferFunds", request)?;
        let transferred = self.transfer(&asked).await;
        asked.answer(transferred)
    }

    async fn execute_batch(&self, request: Request<Operations>) -> Result<Response<Results>, Status> {
        // From here on the batch knows what was asked.
        let operations = Asked::new("ExecuteBatch", request)?.into_inner();
        let results = self.batch(operations).await;
        results.map(Response::new).map_err(|failure| audit::refused("ExecuteBatch", Subject::default(), &failure))
    }

    async fn execute_stream(
        &self,
        request: Request<Streaming<Operations>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let ends = Ends::new("ExecuteStream", "", request.metadata(), self);
        let batches = Batches::new(self.books.clone(), request.into_inner(), self.max_message_bytes);
        Ok(Response::new(pull(batches, ends, Batches::step)))
    }

    async fn snapshot_balances(
        &self,
        request: Request<SnapshotBalancesRequest>,
    ) -> Result<Response<Self::SnapshotBalancesStream>, Status> {
        let ends = Ends::new("SnapshotBalances", "", request.metadata(), self);
        let asked = Asked::new("SnapshotBalances", request)?;
        let place = Place::first(&self.walks, &self.books, asked.prefix.clone()).await;
        asked.answer(place.map(|place| pull(place, ends, Place::step)))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let asked = Asked::new("ListAccounts", request)?;
        let page = self.walks.list(&self.books, &asked).await;
        asked.answer(page)
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        let asked = Asked::new("GetTransaction", request)?;
        let transaction = self.transaction(&asked.transaction_id).await;
        asked.answer(transaction)
    }

    async fn watch_transactions(
        &self,
        request: Request<WatchTransactionsRequest>,
    ) -> Result<Response<Self::WatchTransactionsStream>, Status> {
        let ends = Ends::new("WatchTransactions", &request.get_ref().account_id, request.metadata(), self);
        let asked = Asked::new("WatchTransactions", request)?;
        let watch = Watch::new(self.books.clone(), &asked).await;
        asked.answer(watch.map(|watch| pull(watch, ends, Watch::step)))
    }
}

impl Accounts {
    async fn create(&self, message: &CreateAccountRequest) -> Result<CreateAccountResponse, Failure> {
        let member = convert::create(&message.account_id, message.initial_balance, &message.transaction_id)?;
        let (outcome, [account]) = self.decide(member).await?;
        Ok(CreateAccountResponse { account: Some(convert::account(account)), replayed: outcome.replayed() })
    }

    /// Never waits: the balance at the durable sequence.
    async fn balance(&self, message: &GetBalanceRequest) -> Result<GetBalanceResponse, Failure> {
        let account = AccountId::parse("account_id", &message.account_id)?;
        match self.books.balance(&account).await? {
            Some(AccountState { balance, version, sequence, .. }) => {
                Ok(GetBalanceResponse { balance, version, sequence })
            }
            None => Err(Failure::Refused { refusal: Refusal::NotFound { account }, replayed: false }),
        }
    }

    async fn update(&self, message: &UpdateBalanceRequest) -> Result<UpdateBalanceResponse, Failure> {
        let member = convert::update(&message.account_id, message.delta, &message.transaction_id)?;
        let (outcome, [account]) = self.decide(member).await?;
        Ok(UpdateBalanceResponse {
            new_balance: account.balance,
            version: account.version,
            sequence: outcome.sequence(),
            replayed: outcome.replayed(),
            commit_time: Some(convert::timestamp(outcome.time())),
        })
    }

    async fn transfer(&self, message: &TransferFundsRequest) -> Result<TransferFundsResponse, Failure> {
        let TransferFundsRequest { from_account_id, to_account_id, amount, transaction_id } = message;
        let member = convert::transfer(from_account_id, to_account_id, *amount, transaction_id)?;
        let (outcome, [from, to]) = self.decide(member).await?;
        Ok(TransferFundsResponse {
            from_balance: from.balance,
            to_balance: to.balance,
            from_version: from.version,
            to_version: to.version,
            sequence: outcome.sequence(),
            replayed: outcome.replayed(),
            commit_time: Some(convert::timestamp(outcome.time())),
        })
    }

    async fn batch(&self, operations: Operations) -> Result<Results, Failure> {
        let mut batch = Batch::begin(&self.books, operations, self.max_message_bytes).await?;
        batch.finish().await.inspect_err(|failure| batch.fail(&mut Unanswered::of(failure)))
    }

    async fn transaction(&self, id: &str) -> Result<GetTransactionResponse, Failure> {
        let id = TransactionId::new(id)?;
        let Some(outcome) = self.books.transaction(&id).await? else {
            return Err(Failure::UnknownTransaction { id: id.to_string() });
        };
        Ok(GetTransactionResponse { transaction: convert::transactions(&outcome).into_iter().next() })
    }

    /// Decides one operation; its outcome and the accounts after it.
    async fn decide<const N: usize>(&self, member: Member) -> Result<(Outcome, [AccountState; N]), Failure> {
        let outcome = self.books.decide(crate::Request::single(member.operation, member.id)).await?;
        let accounts =
            outcome.result().map_err(|refusal| Failure::Refused { refusal, replayed: outcome.replayed() })?;
        let accounts = <[AccountState; N]>::try_from(accounts.into_vec());
        Ok((outcome, accounts.map_err(|_| Failure::Internal("an outcome without its accounts"))?))
    }
}
