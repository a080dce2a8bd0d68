//! Between the contract's messages and the domain. Ids are parsed here, once.

use super::audit::{About, Subject};
use super::proto;
use super::proto::operation::Operation as Kind;
use super::status::Failure;
use crate::{AccountId, AccountState, InvalidRequest, Member, MemberResult, Operation, Outcome, TransactionId};

/// Opens an account. Fields in contract order, then what needs no account.
pub(super) fn create(account: &str, initial_balance: i64, id: &str) -> Result<Member, InvalidRequest> {
    let account = AccountId::parse("account_id", account)?;
    let id = match id {
        "" => None,
        text => Some(TransactionId::parse("transaction_id", text)?),
    };
    Ok(Member { id, operation: Operation::create(account, initial_balance)? })
}

pub(super) fn update(account: &str, delta: i64, id: &str) -> Result<Member, InvalidRequest> {
    let account = AccountId::parse("account_id", account)?;
    let id = TransactionId::parse("transaction_id", id)?;
    Ok(Member { id: Some(id), operation: Operation::update(account, delta) })
}

pub(super) fn transfer(from: &str, to: &str, amount: i64, id: &str) -> Result<Member, InvalidRequest> {
    let from = AccountId::parse("from_account_id", from)?;
    let to = AccountId::parse("to_account_id", to)?;
    let id = TransactionId::parse("transaction_id", id)?;
    Ok(Member { id: Some(id), operation: Operation::transfer(from, to, amount)? })
}

/// One operation of a batch.
pub(super) fn operation(operation: &proto::Operation) -> Result<Member, Failure> {
    let member = match &operation.operation {
        Some(Kind::CreateAccount(proto::CreateAccountRequest { account_id, initial_balance, transaction_id })) => {
            create(account_id, *initial_balance, transaction_id)
        }
        Some(Kind::UpdateBalance(proto::UpdateBalanceRequest { account_id, delta, transaction_id })) => {
            update(account_id, *delta, transaction_id)
        }
        Some(Kind::TransferFunds(message)) => {
            transfer(&message.from_account_id, &message.to_account_id, message.amount, &message.transaction_id)
        }
        None => return Err(missing()),
    };
    Ok(member?)
}

/// What is wrong with an operation that is none.
pub(super) fn missing() -> Failure {
    Failure::Field { field: "operation", reason: "OPERATION_MISSING", text: "operation must be set".to_owned() }
}

/// The name, in the log, of one operation of a batch, and what it is about.
pub(super) fn subject(operation: &proto::Operation) -> (&'static str, Subject<'_>) {
    match &operation.operation {
        Some(Kind::CreateAccount(message)) => ("ExecuteBatch/CreateAccount", message.subject()),
        Some(Kind::UpdateBalance(message)) => ("ExecuteBatch/UpdateBalance", message.subject()),
        Some(Kind::TransferFunds(message)) => ("ExecuteBatch/TransferFunds", message.subject()),
        None => ("ExecuteBatch", Subject::default()),
    }
}

impl About for proto::CreateAccountRequest {
    fn subject(&self) -> Subject<'_> {
        Subject::account(&self.account_id, &self.transaction_id)
    }
}

impl About for proto::GetBalanceRequest {
    fn subject(&self) -> Subject<'_> {
        Subject::account(&self.account_id, "")
    }
}

impl About for proto::UpdateBalanceRequest {
    fn subject(&self) -> Subject<'_> {
        Subject::account(&self.account_id, &self.transaction_id)
    }
}

impl About for proto::TransferFundsRequest {
    fn subject(&self) -> Subject<'_> {
        Subject { accounts: [&self.from_account_id, &self.to_account_id], transaction: &self.transaction_id }
    }
}

impl About for proto::GetTransactionRequest {
    fn subject(&self) -> Subject<'_> {
        Subject { transaction: &self.transaction_id, ..Subject::default() }
    }
}

impl About for proto::WatchTransactionsRequest {
    fn subject(&self) -> Subject<'_> {
        Subject::account(&self.account_id, "")
    }
}

impl About for proto::ListAccountsRequest {}

impl About for proto::SnapshotBalancesRequest {}

pub(super) fn account(state: AccountState) -> proto::Account {
    proto::Account {
        account_id: state.id.as_str().to_owned(),
        balance: state.balance,
        version: state.version,
        sequence: state.sequence,
    }
}

pub(super) fn accounts(states: impl IntoIterator<Item = AccountState>) -> Vec<proto::Account> {
    states.into_iter().map(account).collect()
}

/// `nanos` since the Unix epoch.
pub(super) fn timestamp(nanos: u64) -> prost_types::Timestamp {
    const SECOND: u64 = 1_000_000_000;
    prost_types::Timestamp {
        seconds: i64::try_from(nanos / SECOND).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos % SECOND).unwrap_or(0),
    }
}

/// The journal's entry as the contract spells it: one message for each operation, all with the entry's sequence.
pub(super) fn transactions(outcome: &Outcome) -> Vec<proto::Transaction> {
    let mut legs = outcome.changes().into_iter().map(|change| proto::Leg {
        account_id: change.account.as_str().to_owned(),
        delta: change.delta,
        balance: change.balance,
        version: change.version,
    });
    let transaction = |(member, result): (&Member, MemberResult)| {
        let (code, message) = match result {
            Ok(_) => (0, String::new()),
            Err(refusal) => {
                let failure = Failure::Refused { refusal, replayed: false };
                (i32::from(failure.code()), failure.to_string())
            }
        };
        proto::Transaction {
            sequence: outcome.sequence(),
            transaction_id: member.id.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
            commit_time: Some(timestamp(outcome.time())),
            operation: member.operation.name().to_owned(),
            legs: legs.by_ref().take(member.operation.leg_count()).collect(),
            code,
            message,
        }
    };
    outcome.members().iter().zip(outcome.results()).map(transaction).collect()
}
