//! One call after the other, to a service or to a ledger.

use tonic::transport::Channel;
use tonic::{Code, Status};

use super::choice::Step;
use super::names::Names;
use super::opened::Embedded;
use super::tally::Effect;
use super::workload::Kind;

use crate::grpc::code_name;
use crate::grpc::proto::account_service_client::AccountServiceClient;
use crate::grpc::proto::{CreateAccountRequest, GetBalanceRequest, TransferFundsRequest, UpdateBalanceRequest};
use crate::{AccountId, Exhausted, Ledger, Operation, Outcome, Request, SubmitError, TransactionId};

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    /// Decided, without changing anything.
    Refused,
    Failed {
        text: String,
        /// The change may have been made.
        unknown: bool,
    },
}

/// A target that can be called.
pub(super) trait Caller: Clone + 'static {
    /// Does `step` under the transaction id `id`; a new account gets the number `new`.
    fn call(&mut self, step: Step, id: &str, new: u32, names: &Names) -> impl Future<Output = Answer>;
}

/// A connection to a service.
pub(super) type Stub = AccountServiceClient<Channel>;

impl Step {
    /// What it changes, if it is accepted.
    #[inline]
    pub(super) fn effect(self) -> Effect {
        match self.kind {
            Kind::Read => Effect::NONE,
            Kind::Transfer => Effect::TRANSFER,
            Kind::Update => Effect { changes: 1, opened: false, delta: i64::from(self.amount) },
            Kind::Create => Effect { changes: 1, opened: true, delta: i64::from(self.amount) },
        }
    }
}

impl Caller for Stub {
    async fn call(&mut self, step: Step, id: &str, new: u32, names: &Names) -> Answer {
        let amount = i64::from(step.amount);
        let account = |number| names.account(number).as_str().to_owned();
        let transaction_id = id.to_owned();
        let answer = match step.kind {
            Kind::Read => self.get_balance(GetBalanceRequest { account_id: account(step.account) }).await.map(drop),
            Kind::Update => {
                let account_id = account(step.account);
                self.update_balance(UpdateBalanceRequest { account_id, delta: amount, transaction_id }).await.map(drop)
            }
            Kind::Transfer => {
                let (from_account_id, to_account_id) = (account(step.account), account(step.to));
                let request = TransferFundsRequest { from_account_id, to_account_id, amount, transaction_id };
                self.transfer_funds(request).await.map(drop)
            }
            Kind::Create => match names.account_id(new) {
                Ok(account) => {
                    let account_id = account.as_str().to_owned();
                    let request = CreateAccountRequest { account_id, initial_balance: amount, transaction_id };
                    self.create_account(request).await.map(drop)
                }
                Err(error) => Err(Status::internal(error.to_string())),
            },
        };
        match answer {
            Ok(()) => Answer::Accepted,
            Err(status) => of_status(&status),
        }
    }
}

/// What a status of the contract means.
pub(super) fn of_status(status: &Status) -> Answer {
    if is_refusal(status.code()) {
        return Answer::Refused;
    }
    Answer::Failed { text: text(status), unknown: !is_undecided(status.code()) }
}

/// As people read it.
pub(super) fn text(status: &Status) -> String {
    format!("{}: {}", code_name(status.code()), status.message())
}

/// Whether it says that nothing was decided.
pub(super) fn is_undecided(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::ResourceExhausted)
}

/// Whether it says that the accounts did not allow it, which is decided and kept.
pub(super) fn is_refusal(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::NotFound | Code::AlreadyExists)
}

impl Caller for Embedded {
    async fn call(&mut self, step: Step, id: &str, new: u32, names: &Names) -> Answer {
        let operation = match operation(step, new, names) {
            Ok(Some(operation)) => operation,
            Ok(None) => {
                let account = names.account(step.account);
                let found =
                    if self.durable { self.ledger.balance_durable(account) } else { self.ledger.balance(account) };
                return if found.is_some() { Answer::Accepted } else { Answer::Refused };
            }
            Err(text) => return Answer::Failed { text, unknown: false },
        };
        let id = match TransactionId::new(id) {
            Ok(id) => id,
            Err(error) => return Answer::Failed { text: error.to_string(), unknown: false },
        };
        match submit(&self.ledger, Request::single(operation, Some(id))) {
            Ok(outcome) if outcome.result().is_ok() => Answer::Accepted,
            Ok(_) => Answer::Refused,
            Err(error) => {
                let unknown = !matches!(error, SubmitError::Invalid(_) | SubmitError::Exhausted(_));
                Answer::Failed { text: error.to_string(), unknown }
            }
        }
    }
}

/// The change that `step` asks for; None for a read.
fn operation(step: Step, new: u32, names: &Names) -> Result<Option<Operation>, String> {
    let amount = i64::from(step.amount);
    let account = |number| -> AccountId { names.account(number).clone() };
    let operation = match step.kind {
        Kind::Read => return Ok(None),
        Kind::Update => Ok(Operation::update(account(step.account), amount)),
        Kind::Transfer => Operation::transfer(account(step.account), account(step.to), amount),
        Kind::Create => {
            let account = names.account_id(new).map_err(|error| error.to_string())?;
            Operation::create(account, amount)
        }
    };
    operation.map(Some).map_err(|error| error.to_string())
}

/// Submits, and if the journal lags as far as it may, waits for it first: as any caller would have to.
pub(super) fn submit(ledger: &Ledger, request: Request) -> Result<Outcome, SubmitError> {
    loop {
        match ledger.submit(request.clone()) {
            Err(SubmitError::Exhausted(Exhausted::Backlog { .. }))
                if ledger.wait_durable(ledger.sequence()).is_ok() => {}
            decided => return decided,
        }
    }
}
