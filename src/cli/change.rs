//! The commands that change something: `create`, `update`, `transfer`.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use prost_types::Timestamp;

use super::Common;
use super::client::{self, Client};
use super::exit::Failure;
use super::interrupt::{self, Gate};
use super::output::Output;
use super::record::{ChangeRecord, CommitRecord, TransferRecord, rfc3339};
use crate::config::Environment;
use crate::grpc::proto;

/// Open an account
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise create alice --balance 100"
)]
pub(super) struct Create {
    /// The new account: 1 to 128 bytes without control characters; write -- before an id that begins with a dash
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Its first balance, in smallest units
    #[arg(long, value_name = "UNITS", default_value_t = 0)]
    balance: i64,
    #[command(flatten)]
    id: ChangeId,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Add to an account, or take away from it
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise update alice -30 --id order-4711"
)]
pub(super) struct Update {
    /// The account; write -- before an id that begins with a dash
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// What to add, in smallest units; negative takes away
    #[arg(value_name = "DELTA")]
    delta: i64,
    #[command(flatten)]
    id: ChangeId,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Move an amount from one account to another
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise transfer alice bob 30 --id order-4711"
)]
pub(super) struct Transfer {
    /// Where it comes from; write -- before an id that begins with a dash
    #[arg(value_name = "FROM")]
    from: String,
    /// Where it goes
    #[arg(value_name = "TO")]
    to: String,
    /// How much, in smallest units
    #[arg(value_name = "AMOUNT")]
    amount: i64,
    #[command(flatten)]
    id: ChangeId,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
struct ChangeId {
    /// The transaction id; sent again under it, the change has no second effect [default: a new UUID, printed]
    #[arg(long = "id", value_name = "ID", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    given: Option<String>,
}

impl ChangeId {
    /// Always an id: a call is retried while the service is not there, and must not be done twice (B1).
    fn get(&self) -> String {
        self.given.clone().unwrap_or_else(|| super::new_uuid().to_string())
    }

    /// Makes the change under its id. The id is printed whenever the outcome is unknown, also after an interrupt.
    fn run(
        &self,
        common: &Common,
        environment: &Environment,
        call: impl AsyncFnOnce(Client, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let id = self.get();
        let (unanswered, json) = (id.clone(), common.json);
        let gate = Gate::default();
        interrupt::end_after(&gate, move |signal| {
            Failure::Unanswered { id: unanswered, signal }.report_within(json);
        })?;
        let done = client::run(common, environment, |client| call(client, &id));
        // After a signal this does not return: the signal ends the process.
        let _passed = gate.pass();
        done.map_err(|failure| failure.of_change(&id, self.given.is_none()))
    }
}

impl Create {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        self.id.run(&self.common, environment, async |client, id| self.call(client, id).await)
    }

    async fn call(&self, client: Client, id: &str) -> Result<(), Failure> {
        let request = proto::CreateAccountRequest {
            account_id: self.account.clone(),
            initial_balance: self.balance,
            transaction_id: id.to_owned(),
        };
        let ask = |mut stub: client::Stub, request| async move { stub.create_account(request).await };
        let answer: proto::CreateAccountResponse = client.call(request, ask).await?;
        let account = answer.account.unwrap_or_default();
        print(
            &self.common,
            &ChangeRecord {
                account_id: account.account_id,
                balance: account.balance,
                version: account.version,
                commit: commit(account.sequence, id, answer.replayed, None),
            },
        )
    }
}

impl Update {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        self.id.run(&self.common, environment, async |client, id| self.call(client, id).await)
    }

    async fn call(&self, client: Client, id: &str) -> Result<(), Failure> {
        let request = proto::UpdateBalanceRequest {
            account_id: self.account.clone(),
            delta: self.delta,
            transaction_id: id.to_owned(),
        };
        let ask = |mut stub: client::Stub, request| async move { stub.update_balance(request).await };
        let answer: proto::UpdateBalanceResponse = client.call(request, ask).await?;
        print(
            &self.common,
            &ChangeRecord {
                account_id: self.account.clone(),
                balance: answer.new_balance,
                version: answer.version,
                commit: commit(answer.sequence, id, answer.replayed, answer.commit_time.as_ref()),
            },
        )
    }
}

impl Transfer {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        self.id.run(&self.common, environment, async |client, id| self.call(client, id).await)
    }

    async fn call(&self, client: Client, id: &str) -> Result<(), Failure> {
        let request = proto::TransferFundsRequest {
            from_account_id: self.from.clone(),
            to_account_id: self.to.clone(),
            amount: self.amount,
            transaction_id: id.to_owned(),
        };
        let ask = |mut stub: client::Stub, request| async move { stub.transfer_funds(request).await };
        let answer: proto::TransferFundsResponse = client.call(request, ask).await?;
        print(
            &self.common,
            &TransferRecord {
                from_account_id: self.from.clone(),
                from_balance: answer.from_balance,
                from_version: answer.from_version,
                to_account_id: self.to.clone(),
                to_balance: answer.to_balance,
                to_version: answer.to_version,
                commit: commit(answer.sequence, id, answer.replayed, answer.commit_time.as_ref()),
            },
        )
    }
}

fn commit(sequence: u64, id: &str, replayed: bool, time: Option<&Timestamp>) -> CommitRecord {
    CommitRecord { sequence, transaction_id: id.to_owned(), replayed, commit_time: time.map(rfc3339) }
}

fn print(common: &Common, record: &impl super::output::Record) -> Result<(), Failure> {
    let mut output = Output::new(common.json);
    output.record(record)?;
    Ok(output.flush()?)
}
