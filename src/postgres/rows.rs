//! Between what was decided and the rows of the journal.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::batch::Used;
use crate::account::{AccountId, Balance, Reason, Reject, TransactionId};
use crate::kernel::Refused;
use crate::outcome::Record;
use crate::request::Kind;
use crate::{Member, Operation, Request};

/// The columns of `journal_entries`, one vector each, in the order of [`super::sql::INSERT_ENTRIES`]. Usual values are
/// left out at the end of a column: mostly that is the whole column.
#[derive(Default)]
pub(super) struct Entries<'a> {
    pub(super) place: Vec<i32>,
    pub(super) member: Vec<Option<i32>>,
    pub(super) transaction: Vec<Option<&'a str>>,
    pub(super) operation: Vec<Option<&'static str>>,
    pub(super) account: Vec<&'a str>,
    pub(super) counterparty: Vec<Option<&'a str>>,
    pub(super) amount: Vec<i64>,
    pub(super) balance: Vec<i64>,
    pub(super) version: Vec<i64>,
    pub(super) counterparty_balance: Vec<Option<i64>>,
    pub(super) counterparty_version: Vec<Option<i64>>,
    pub(super) status: Vec<Option<&'static str>>,
    pub(super) refused_account: Vec<Option<i16>>,
    pub(super) refused_current: Vec<Option<i64>>,
    pub(super) as_of: Vec<Option<i64>>,
    pub(super) time: Vec<i64>,
}

impl<'a> Entries<'a> {
    /// The rows of a batch. A posting has none: [`super::PgStore::submit`] refuses it.
    pub(super) fn new(records: &'a [Record]) -> Self {
        let mut entries = Entries::default();
        for (place, record) in records.iter().enumerate() {
            let mut states = record.states.iter();
            for (member, index) in record.request.members().iter().zip(0_u32..) {
                entries.push(place, index, member, record, &mut states);
            }
        }
        entries.leave_out();
        entries
    }

    fn leave_out(&mut self) {
        shorten(&mut self.member);
        shorten(&mut self.transaction);
        shorten(&mut self.operation);
        shorten(&mut self.counterparty);
        shorten(&mut self.counterparty_balance);
        shorten(&mut self.counterparty_version);
        shorten(&mut self.status);
        shorten(&mut self.refused_account);
        shorten(&mut self.refused_current);
        shorten(&mut self.as_of);
    }

    pub(super) fn params<'p>(&'p self, batch: &'p i64) -> Vec<&'p (dyn ToSql + Sync)> {
        vec![
            &self.place,
            &self.member,
            &self.transaction,
            &self.operation,
            &self.account,
            &self.counterparty,
            &self.amount,
            &self.balance,
            &self.version,
            &self.counterparty_balance,
            &self.counterparty_version,
            &self.status,
            &self.refused_account,
            &self.refused_current,
            &self.as_of,
            &self.time,
            batch,
        ]
    }

    fn push(
        &mut self,
        place: usize,
        index: u32,
        member: &'a Member,
        record: &Record,
        states: &mut std::slice::Iter<'_, Balance>,
    ) {
        let (account, counterparty, amount) = match member.operation.kind() {
            Kind::Create { account, initial_balance } => (account, None, *initial_balance),
            Kind::Update { account, delta } => (account, None, *delta),
            Kind::Transfer { from, to, amount } => (from, Some(to), *amount),
            Kind::Post { .. } => return,
        };
        let after = states.next().copied().unwrap_or(Balance { amount: 0, version: 0 });
        let other = counterparty.and_then(|_| states.next());
        let refused = record.refusal.filter(|refused| refused.place == index).map(|refused| refused.reject);
        self.place.push(place as i32);
        self.member.push((index > 0).then_some(index as i32));
        self.transaction.push(member.id.as_ref().map(TransactionId::as_str));
        self.operation.push(Some(member.operation.name()).filter(|name| *name != USUAL_OPERATION));
        self.account.push(account.as_str());
        self.counterparty.push(counterparty.map(AccountId::as_str));
        self.amount.push(amount);
        self.balance.push(after.amount);
        self.version.push(after.version.cast_signed());
        self.counterparty_balance.push(other.map(|state| state.amount));
        self.counterparty_version.push(other.map(|state| state.version.cast_signed()));
        self.status.push(Some(status(record, refused)).filter(|status| *status != USUAL_STATUS));
        self.refused_account.push(refused.map(|reject| reject.leg.cast_signed()));
        self.refused_current.push(refused.map(|reject| reject.current));
        self.as_of.push(record.as_of.map(u64::cast_signed));
        self.time.push(record.time.cast_signed());
    }
}

/// The operation that [`super::sql::INSERT_ENTRIES`] inserts where none is given.
const USUAL_OPERATION: &str = "update";
const USUAL_STATUS: &str = "applied";

/// `unnest` fills the shorter arrays with nulls.
pub(super) fn shorten<T>(column: &mut Vec<Option<T>>) {
    let length = column.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    column.truncate(length);
}

fn status(record: &Record, refused: Option<Reject>) -> &'static str {
    match (record.refusal, refused.map(|reject| reject.reason)) {
        (None, _) => "applied",
        (Some(_), None) => "group",
        (_, Some(Reason::NotFound)) => "not_found",
        (_, Some(Reason::AlreadyExists)) => "already_exists",
        (_, Some(Reason::Insufficient)) => "insufficient",
        (_, Some(Reason::OutOfRange)) => "out_of_range",
    }
}

/// Puts records together again from the journal's rows, as [`super::sql`] selects them.
///
/// # Errors
/// What is wrong with the rows: somebody else wrote here.
pub(super) fn records(rows: &[Row]) -> Result<Vec<Arc<Record>>, String> {
    let mut records = Vec::new();
    for rows in rows.chunk_by(|a, b| a.try_get::<_, i64>("sequence").ok() == b.try_get::<_, i64>("sequence").ok()) {
        records.push(Arc::new(record(rows)?));
    }
    Ok(records)
}

fn record(rows: &[Row]) -> Result<Record, String> {
    let read = |error: Error| super::link::text(&error);
    let (mut members, mut states, mut refusal) = (Vec::new(), SmallVec::new(), None);
    for (row, index) in rows.iter().zip(0_u32..) {
        let number = |column: &str| row.try_get::<_, Option<i64>>(column).map_err(read);
        let text = |column: &str| row.try_get::<_, Option<&str>>(column).map_err(read);
        let id = text("transaction_id")?.map(TransactionId::new).transpose().map_err(|error| error.to_string())?;
        members.push(Member { id, operation: operation(row)? });
        let mut state = |balance: &str, version: &str| {
            if let (Some(amount), Some(version)) = (number(balance)?, number(version)?) {
                states.push(Balance { amount, version: version.cast_unsigned() });
            }
            Ok::<(), String>(())
        };
        state("balance_after", "version_after")?;
        state("counterparty_balance_after", "counterparty_version_after")?;
        let reason = match text("status")?.unwrap_or_default() {
            "applied" | "group" => None,
            "not_found" => Some(Reason::NotFound),
            "already_exists" => Some(Reason::AlreadyExists),
            "insufficient" => Some(Reason::Insufficient),
            "out_of_range" => Some(Reason::OutOfRange),
            other => return Err(format!("the journal has an unknown status, {other}")),
        };
        if let Some(reason) = reason {
            let leg: Option<i16> = row.try_get("refused_account").map_err(read)?;
            let leg = leg.unwrap_or_default().cast_unsigned();
            if members.last().is_none_or(|member| usize::from(leg) >= member.operation.leg_count()) {
                return Err("the journal has a refusal by an account that is not there".to_owned());
            }
            let reject = Reject { reason, leg, current: number("refused_current")?.unwrap_or_default() };
            refusal = Some(Refused { place: index, reject });
        }
    }
    let first = rows.first().ok_or("an entry without rows")?;
    let number = |column: &str| first.try_get::<_, Option<i64>>(column).map_err(read);
    let request = Request::of_members(members).map_err(|error| error.to_string())?;
    Ok(Record {
        request,
        sequence: number("sequence")?.unwrap_or_default().cast_unsigned(),
        time: number("time_ns")?.unwrap_or_default().cast_unsigned(),
        refusal,
        as_of: number("as_of")?.map(i64::cast_unsigned),
        states,
    })
}

fn operation(row: &Row) -> Result<Operation, String> {
    let read = |error: Error| super::link::text(&error);
    let account = |column: &str| {
        let id: Option<&str> = row.try_get(column).map_err(read)?;
        AccountId::new(id.unwrap_or_default()).map_err(|error| error.to_string())
    };
    let amount: i64 = row.try_get("amount").map_err(read)?;
    let operation = match row.try_get::<_, &str>("operation").map_err(read)? {
        "create" => Operation::create(account("account_id")?, amount),
        "update" => Ok(Operation::update(account("account_id")?, amount)),
        "transfer" => Operation::transfer(account("account_id")?, account("counterparty_id")?, amount),
        other => return Err(format!("the journal has an unknown operation, {other}")),
    };
    operation.map_err(|error| error.to_string())
}

/// Every id of these records.
pub(super) fn ids(records: Vec<Arc<Record>>) -> Vec<(TransactionId, Used)> {
    let mut ids = Vec::with_capacity(records.len());
    for record in records {
        for (member, index) in record.request.members().iter().zip(0_u32..) {
            if let Some(id) = &member.id {
                ids.push((id.clone(), Used { record: record.clone(), member: index }));
            }
        }
    }
    ids
}
