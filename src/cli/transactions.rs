//! The commands that read the journal: `transaction`, `watch`.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::Common;
use super::client::{self, Client};
use super::exit::Failure;
use super::output::Output;
use super::record::TransactionRecord;
use crate::config::Environment;
use crate::grpc::proto;

/// Show how a transaction ended
///
/// The command succeeds also when that transaction was refused: its code and message are part of what is shown.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Example:
  equipoise transaction order-4711"
)]
pub(super) struct Transaction {
    /// The transaction id; write -- before one that begins with a dash
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Print transactions as they are committed, in order and without a gap, until it is interrupted
///
/// It waits for its reader and for the next transaction without a limit. When the service ends it, the error says where
/// to continue.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  equipoise watch --from 1 --account alice")]
pub(super) struct Watch {
    /// The first sequence wanted; 0 for the oldest that is kept
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    from: u64,
    /// Only transactions that touch it
    #[arg(long, value_name = "ACCOUNT", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    account: Option<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Transaction {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        client::run(&self.common, environment, |client| self.call(client))
    }

    async fn call(&self, client: Client) -> Result<(), Failure> {
        let request = proto::GetTransactionRequest { transaction_id: self.id.clone() };
        let ask = |mut stub: client::Stub, request| async move { stub.get_transaction(request).await };
        let answer: proto::GetTransactionResponse = client.call(request, ask).await?;
        let mut output = Output::new(self.common.json);
        output.record(&TransactionRecord::from(answer.transaction.unwrap_or_default()))?;
        Ok(output.flush()?)
    }
}

impl Watch {
    pub(super) fn run(&self, environment: &Environment) -> Result<(), Failure> {
        client::run(&self.common, environment, |client| self.call(client))
    }

    async fn call(&self, client: Client) -> Result<(), Failure> {
        tokio::select! {
            failure = client::reader_gone() => Err(failure.into()),
            result = self.follow(&client) => result,
        }
    }

    async fn follow(&self, client: &Client) -> Result<(), Failure> {
        let mut next = self.from;
        let account_id = self.account.clone().unwrap_or_default();
        let request = proto::WatchTransactionsRequest { from_sequence: self.from, account_id };
        let ask = |mut stub: client::Stub, request| async move { stub.watch_transactions(request).await };
        let mut stream = client.open(request, ask).await?;
        let mut output = Output::new(self.common.json);
        loop {
            let Some(message) = client.wait(&mut stream).await.map_err(|failure| advised(failure, next))? else {
                return Ok(());
            };
            for transaction in message.transactions {
                next = transaction.sequence.saturating_add(1);
                output.record(&TransactionRecord::from(transaction))?;
            }
            output.flush()?;
        }
    }
}

/// Adds how to go on, if one can, for a reader that was told everything before `next`.
fn advised(failure: Failure, next: u64) -> Failure {
    match failure.reason().as_deref() {
        // It would be refused again.
        Some("HISTORY_GONE") => failure,
        // What comes after it is not what would have followed.
        Some("HISTORY_PUT_BACK") => failure.with_note("begin anew: some of what was printed is taken back".to_owned()),
        _ if next == 0 => failure,
        _ => failure.with_note(format!("go on with --from {next}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    /// C3: nobody is advised to go on where he would be refused again, or would pass over entries.
    #[test]
    fn a_watch_that_cannot_go_on_is_not_told_to() {
        let note = |reason: &str, next| {
            let details = ErrorDetails::with_error_info(reason, "equipoise", HashMap::new());
            let status = Status::with_error_details(Code::FailedPrecondition, "", details);
            match advised(status.into(), next) {
                Failure::Call { note, .. } => note.unwrap_or_default(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(note("HISTORY_GONE", 4), "");
        assert!(note("HISTORY_PUT_BACK", 11).starts_with("begin anew"));
        assert_eq!(note("SHUTTING_DOWN", 4), "go on with --from 4");
        assert_eq!(note("SHUTTING_DOWN", 0), "");
    }
}
