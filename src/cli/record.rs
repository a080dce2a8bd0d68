//! What the client commands print. The names in JSON are those of the contract.

use std::fmt::Display;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use prost_types::Timestamp;
use serde::Serialize;
use tonic::Code;

use super::output::{Page, Record, escape};
use crate::grpc::{code_name, proto};

/// The line above accounts. The id comes last: it is as wide as it likes.
pub(super) fn accounts_heading() -> impl Display {
    format!("{:>20} {:>10} {:>12}  ACCOUNT", "BALANCE", "VERSION", "SEQUENCE")
}

/// One account.
#[derive(Serialize)]
pub(super) struct AccountRecord {
    account_id: String,
    balance: i64,
    version: u64,
    sequence: u64,
}

impl From<proto::Account> for AccountRecord {
    fn from(account: proto::Account) -> Self {
        let proto::Account { account_id, balance, version, sequence } = account;
        AccountRecord { account_id, balance, version, sequence }
    }
}

impl Record for AccountRecord {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let AccountRecord { account_id, balance, version, sequence } = self;
        page.line(format_args!("{balance:>20} {version:>10} {sequence:>12}  {}", escape(account_id)))
    }
}

/// The end of a snapshot. The total may need more than 64 bits.
#[derive(Serialize)]
pub(super) struct TotalRecord {
    pub(super) sequence: u64,
    pub(super) accounts: u64,
    pub(super) total: i128,
}

impl Record for TotalRecord {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let TotalRecord { sequence, accounts, total } = self;
        page.line(format_args!("{total:>20} {:>10} {sequence:>12}  total of {accounts} accounts", ""))
    }
}

/// An account that was opened or changed.
#[derive(Serialize)]
pub(super) struct ChangeRecord {
    pub(super) account_id: String,
    pub(super) balance: i64,
    pub(super) version: u64,
    #[serde(flatten)]
    pub(super) commit: CommitRecord,
}

impl Record for ChangeRecord {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.field("account", escape(&self.account_id))?;
        page.field("balance", self.balance)?;
        page.field("version", self.version)?;
        self.commit.write(page)
    }
}

/// A transfer that was made.
#[derive(Serialize)]
pub(super) struct TransferRecord {
    pub(super) from_account_id: String,
    pub(super) from_balance: i64,
    pub(super) from_version: u64,
    pub(super) to_account_id: String,
    pub(super) to_balance: i64,
    pub(super) to_version: u64,
    #[serde(flatten)]
    pub(super) commit: CommitRecord,
}

impl Record for TransferRecord {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.field("from", escape(&self.from_account_id))?;
        page.field("  balance", self.from_balance)?;
        page.field("  version", self.from_version)?;
        page.field("to", escape(&self.to_account_id))?;
        page.field("  balance", self.to_balance)?;
        page.field("  version", self.to_version)?;
        self.commit.write(page)
    }
}

/// Where and when a change was committed.
#[derive(Serialize)]
pub(super) struct CommitRecord {
    pub(super) sequence: u64,
    pub(super) transaction_id: String,
    pub(super) replayed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit_time: Option<String>,
}

impl CommitRecord {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        page.field("sequence", self.sequence)?;
        page.field("transaction", escape(&self.transaction_id))?;
        if let Some(time) = &self.commit_time {
            page.field("committed", time)?;
        }
        if self.replayed {
            page.field("replayed", "yes: this is the answer of the first time")?;
        }
        Ok(())
    }
}

/// A journal entry on one line.
#[derive(Serialize)]
pub(super) struct TransactionRecord {
    sequence: u64,
    transaction_id: String,
    commit_time: Option<String>,
    operation: String,
    code: &'static str,
    message: String,
    legs: Vec<LegRecord>,
}

#[derive(Serialize)]
pub(super) struct LegRecord {
    pub(super) account_id: String,
    pub(super) delta: i64,
    pub(super) balance: i64,
    pub(super) version: u64,
}

impl From<proto::Transaction> for TransactionRecord {
    fn from(transaction: proto::Transaction) -> Self {
        let leg = |leg: proto::Leg| {
            let proto::Leg { account_id, delta, balance, version } = leg;
            LegRecord { account_id, delta, balance, version }
        };
        TransactionRecord {
            sequence: transaction.sequence,
            transaction_id: transaction.transaction_id,
            commit_time: transaction.commit_time.as_ref().map(rfc3339),
            operation: transaction.operation,
            code: code_name(Code::from(transaction.code)),
            message: transaction.message,
            legs: transaction.legs.into_iter().map(leg).collect(),
        }
    }
}

impl Record for TransactionRecord {
    fn write(&self, page: &mut Page<'_>) -> io::Result<()> {
        let time = self.commit_time.as_deref().unwrap_or("-");
        let id = if self.transaction_id.is_empty() { "-" } else { &self.transaction_id };
        let (sequence, operation) = (self.sequence, escape(&self.operation));
        page.line(format_args!("{sequence:>12}  {time}  {operation}  {}", escape(id)))?;
        let accepted = self.code == code_name(Code::Ok);
        if !accepted {
            let style = page.refusal();
            page.line(format_args!("{:>12}  {style}{}{style:#}  {}", "", self.code, escape(&self.message)))?;
        }
        for LegRecord { account_id, delta, balance, version } in &self.legs {
            let verb = if accepted { "->" } else { "refused, still" };
            page.line(format_args!("{delta:>+33} {verb} {balance} (version {version})  {}", escape(account_id)))?;
        }
        Ok(())
    }
}

/// A journal's time, nanoseconds since the Unix epoch, as [`rfc3339`].
pub(super) fn nanoseconds(time: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    rfc3339(&Timestamp { seconds: (time / SECOND) as i64, nanos: (time % SECOND) as i32 })
}

/// A time as RFC 3339 with all nine digits, or in seconds where the calendar ends.
pub(super) fn rfc3339(time: &Timestamp) -> String {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = u64::try_from(time.seconds).ok().filter(|seconds| *seconds < YEAR_10000);
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => {
            humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::new(seconds, nanos)).to_string()
        }
        _ => format!("{}s {}ns", time.seconds, time.nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_digits_and_odd_ones_do_no_harm() {
        let text = |seconds, nanos| rfc3339(&Timestamp { seconds, nanos });
        assert_eq!(text(0, 1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(text(253_402_300_799, 999_999_999), "9999-12-31T23:59:59.999999999Z");
        assert_eq!(text(253_402_300_800, 0), "253402300800s 0ns");
        assert_eq!(text(-1, 0), "-1s 0ns");
        assert_eq!(text(0, -1), "0s -1ns");
    }

    /// Case A06: a total of more than 64 bits is printed whole.
    #[test]
    fn a06_a_total_may_pass_64_bits() {
        let total = TotalRecord { sequence: 2, accounts: 2, total: i128::from(i64::MAX) * 2 };
        let json = serde_json::to_string(&total).expect("JSON");
        assert_eq!(json, r#"{"sequence":2,"accounts":2,"total":18446744073709551614}"#);
    }
}
