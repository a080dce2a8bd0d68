//! The commands that read accounts: `balance`, `accounts`, `snapshot`.

use clap::Args;
use clap::builder::RangedU64ValueParser;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::Common;
use super::client::{self, Client};
use super::exit::Failure;
use super::output::Output;
use super::record::{AccountRecord, TotalRecord, accounts_heading};
use crate::config::Environment;
use crate::grpc::proto;

/// The most accounts in one page of `ListAccounts`.
const PAGE: u64 = 1000;

/// Show an account's balance
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise balance alice"
)]
pub(super) struct Balance {
    /// The account; write -- before an id that begins with a dash
    #[arg(value_name = "ACCOUNT")]
    account: String,
    #[command(flatten)]
    pub(super) common: Common,
}

/// List accounts in id order, all as of one commit sequence
///
/// The service ends the list, and the exit code is 3, when the reader of the output pauses for a minute, or the service
/// is restarted meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise accounts --prefix user: --limit 20")]
pub(super) struct Accounts {
    /// Only accounts whose id begins with PREFIX
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    prefix: String,
    /// The most accounts to list [default: all]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Print all balances as of one commit sequence, and their total, without stopping anybody
///
/// The last line, or with --json the last object, holds the total, the number of accounts and the sequence. Without it
/// the snapshot is not complete. The service ends it, and the exit code is 3, when the reader of the output pauses for
/// a minute.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise snapshot --json | jq -c 'select(.account_id)'")]
pub(super) struct Snapshot {
    /// Only accounts whose id begins with PREFIX
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    prefix: String,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Balance {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        client::run(&self.common, environment, |client| self.call(client))
    }

    async fn call(&self, client: Client) -> Result<(), Failure> {
        let request = proto::GetBalanceRequest { account_id: self.account.clone() };
        let ask = |mut stub: client::Stub, request| async move { stub.get_balance(request).await };
        let answer: proto::GetBalanceResponse = client.call(request, ask).await?;
        let proto::GetBalanceResponse { balance, version, sequence } = answer;
        let account = proto::Account { account_id: self.account.clone(), balance, version, sequence };
        let mut output = Output::new(self.common.json);
        output.heading(accounts_heading())?;
        output.record(&AccountRecord::from(account))?;
        Ok(output.flush()?)
    }
}

impl Accounts {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        client::run(&self.common, environment, |client| self.call(client))
    }

    async fn call(&self, client: Client) -> Result<(), Failure> {
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut page_token = String::new();
        let mut output = Output::new(self.common.json);
        output.heading(accounts_heading())?;
        loop {
            let page_size = i32::try_from(left.min(PAGE)).unwrap_or_default();
            let request = proto::ListAccountsRequest { prefix: self.prefix.clone(), page_size, page_token };
            let ask = |mut stub: client::Stub, request| async move { stub.list_accounts(request).await };
            let page: proto::ListAccountsResponse = client.call(request, ask).await.map_err(given_up)?;
            for account in page.accounts {
                output.record(&AccountRecord::from(account))?;
                left -= 1;
            }
            page_token = page.next_page_token;
            if left == 0 || page_token.is_empty() {
                return Ok(output.flush()?);
            }
        }
    }
}

/// Page tokens belong to the service: it refuses one that was issued too long ago, or before its start.
fn given_up(failure: Failure) -> Failure {
    match &failure {
        Failure::Call { status, .. } if failure.reason().as_deref() == Some("PAGE_TOKEN") => {
            let what = "the list was given up: too much time passed, or the service was restarted; begin again";
            Status::with_error_details(Code::ResourceExhausted, what, status.get_error_details()).into()
        }
        _ => failure,
    }
}

impl Snapshot {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        client::run(&self.common, environment, |client| self.call(client))
    }

    async fn call(&self, client: Client) -> Result<(), Failure> {
        let request = proto::SnapshotBalancesRequest { prefix: self.prefix.clone() };
        let ask = |mut stub: client::Stub, request| async move { stub.snapshot_balances(request).await };
        let mut stream = client.open(request, ask).await?;
        let mut output = Output::new(self.common.json);
        let mut end = TotalRecord { sequence: 0, accounts: 0, total: 0 };
        output.heading(accounts_heading())?;
        while let Some(message) = client.next(&mut stream).await? {
            end.sequence = message.sequence;
            for account in message.accounts {
                end.accounts += 1;
                end.total += i128::from(account.balance);
                output.record(&AccountRecord::from(account))?;
            }
        }
        output.record(&end)?;
        Ok(output.flush()?)
    }
}
