//! Why a call failed, and the gRPC status that says so.

use std::collections::HashMap;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

#[cfg(feature = "postgres")]
use crate::postgres::PgError;
use crate::{AnswerGone, Exhausted, HistoryError, HistoryGone, InvalidRequest, Ledger, Progress, Refusal, SubmitError};

/// The `domain` of every ErrorInfo.
const DOMAIN: &str = "equipoise";

/// How much of a path, or of what the system said, goes into a status: escaped, it is there three times.
const MAX_SYSTEM_TEXT: usize = 512;

/// Every way in which a call, or one operation of a batch, fails.
#[derive(Clone, Debug, Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error("{text}")]
    Field { field: &'static str, reason: &'static str, text: String },
    #[error("{refusal}")]
    Refused { refusal: Refusal, replayed: bool },
    #[error(transparent)]
    Exhausted(Exhausted),
    #[error("too many account walks, the limit is {limit}")]
    Walks { limit: usize },
    #[error("too many streams of requests on one connection, the limit is {limit}")]
    Streams { limit: usize },
    #[error("{text}")]
    Begun { text: String },
    #[error("the stream was not read for {seconds} s and lost its snapshot")]
    Lease { seconds: u64 },
    #[error("Transaction {id} not found")]
    UnknownTransaction { id: String },
    #[error(transparent)]
    Gone(#[from] HistoryGone),
    #[error(transparent)]
    AnswerGone(#[from] AnswerGone),
    #[error("the journal cannot be read: {what}")]
    Unreadable { what: String },
    #[error("the ledger is being recovered: {entries} entries, {percent} %")]
    Recovering { entries: u64, percent: u64 },
    #[error("the journal failed: {what}")]
    JournalFailed { what: String },
    /// Whether an id was used cannot be found out now.
    #[error("the transaction id cannot be looked up: {what}")]
    IdsUnreadable { what: String },
    /// The accounts are in another process, which does not answer.
    #[cfg_attr(not(any(feature = "postgres", test)), expect(dead_code, reason = "only PostgreSQL is another process"))]
    #[error("{what}")]
    Unavailable { what: String },
    /// What was told of the accounts no longer holds.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only PostgreSQL can be put back"))]
    #[error("{what}")]
    PutBack { what: String },
    /// The other process gives an answer that it should not give.
    #[cfg_attr(not(any(feature = "postgres", test)), expect(dead_code, reason = "only PostgreSQL is another process"))]
    #[error("{what}")]
    Broken { what: String },
    #[error("the service is shutting down")]
    Closed,
    #[error("the deadline passed before the answer{}", if *changes { "; the same transaction_id tells what became of the request" } else { "" })]
    Deadline { changes: bool },
    #[error("{text}")]
    TooLong { text: String },
    #[error("the caller left")]
    Left,
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl From<Exhausted> for Failure {
    fn from(exhausted: Exhausted) -> Self {
        Failure::Exhausted(match exhausted {
            Exhausted::Disk { path, needed } => Exhausted::Disk { path: shortened(path), needed },
            Exhausted::Segment { path, what } => Exhausted::Segment { path: shortened(path), what: shortened(what) },
            Exhausted::Ids { ids, limit, why } => Exhausted::Ids { ids, limit, why: why.map(shortened) },
            other => other,
        })
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Gone(gone) => Failure::Gone(gone),
            HistoryError::Unreadable { what } => Failure::Unreadable { what: shortened(what) },
        }
    }
}

#[cfg(feature = "postgres")]
impl From<PgError> for Failure {
    fn from(error: PgError) -> Self {
        match error {
            PgError::Invalid(invalid) => Failure::Invalid(invalid),
            PgError::Refused { what } => {
                Failure::Field { field: "message", reason: "STORE_REFUSES", text: shortened(what) }
            }
            PgError::Listings { limit } => Failure::Walks { limit },
            PgError::Closed => Failure::Closed,
            PgError::Gone(gone) => Failure::Gone(gone),
            PgError::PutBack { .. } => Failure::PutBack { what: error.to_string() },
            PgError::Unavailable { .. } => Failure::Unavailable { what: shortened(error.to_string()) },
            error => Failure::Broken { what: shortened(error.to_string()) },
        }
    }
}

impl From<Progress> for Failure {
    fn from(progress: Progress) -> Self {
        let Progress { replayed, bytes, total_bytes } = progress;
        Failure::Recovering { entries: replayed, percent: percent(bytes, total_bytes) }
    }
}

/// Rounded down, so that 100 means all of it.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(percent.min(100)).unwrap_or(100)
}

/// The beginning of a text whose length the system decides.
fn shortened(text: String) -> String {
    shortened_to(MAX_SYSTEM_TEXT, text)
}

/// The first `most` bytes of a text.
pub(super) fn shortened_to(most: usize, mut text: String) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

impl Failure {
    /// The deadline of a call of `operation` passed: where it changes something, its ids tell whether it did.
    pub(super) fn deadline(operation: &str) -> Self {
        let changing = ["CreateAccount", "UpdateBalance", "TransferFunds", "ExecuteBatch", "ExecuteStream"];
        Failure::Deadline { changes: changing.contains(&operation) }
    }

    /// A message that could not be read. `text` is prost's: it names a field whose text is not UTF-8.
    pub(super) fn malformed(text: String) -> Self {
        let texts = ["account_id", "transaction_id", "from_account_id", "to_account_id", "prefix", "page_token"];
        let field =
            texts.into_iter().find(|field| text.contains("invalid string") && text.contains(&format!(".{field}: ")));
        Failure::Field { field: field.unwrap_or("message"), reason: "MESSAGE_MALFORMED", text }
    }

    /// Why `ledger` takes no requests any more.
    pub(super) fn closed(ledger: &Ledger) -> Self {
        ledger.failure().map_or(Failure::Closed, |what| Failure::JournalFailed { what: shortened(what) })
    }

    /// Why `ledger` did not decide a request.
    pub(super) fn undecided(error: SubmitError, ledger: &Ledger) -> Self {
        match error {
            SubmitError::Invalid(invalid) => Failure::Invalid(invalid),
            SubmitError::Exhausted(exhausted) => exhausted.into(),
            SubmitError::AnswerGone(gone) => Failure::AnswerGone(gone),
            SubmitError::Closed => Failure::closed(ledger),
            SubmitError::JournalFailed { what } => Failure::JournalFailed { what: shortened(what) },
            SubmitError::IdsUnreadable { what } => Failure::IdsUnreadable { what: shortened(what) },
        }
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Failure::Invalid(_) | Failure::Field { .. } => Code::InvalidArgument,
            Failure::Refused { refusal, .. } => match refusal {
                Refusal::NotFound { .. } => Code::NotFound,
                Refusal::AlreadyExists { .. } => Code::AlreadyExists,
                _ => Code::FailedPrecondition,
            },
            Failure::Gone(_) | Failure::AnswerGone(_) | Failure::PutBack { .. } => Code::FailedPrecondition,
            Failure::Exhausted(_)
            | Failure::Walks { .. }
            | Failure::Streams { .. }
            | Failure::Begun { .. }
            | Failure::Lease { .. }
            | Failure::TooLong { .. } => Code::ResourceExhausted,
            Failure::UnknownTransaction { .. } => Code::NotFound,
            Failure::Recovering { .. }
            | Failure::JournalFailed { .. }
            | Failure::IdsUnreadable { .. }
            | Failure::Unavailable { .. }
            | Failure::Closed => Code::Unavailable,
            Failure::Deadline { .. } => Code::DeadlineExceeded,
            Failure::Left => Code::Cancelled,
            // Damage that a disk did: the contract's code for what never happens in correct operation.
            Failure::Unreadable { .. } | Failure::Broken { .. } | Failure::Internal(_) => Code::Internal,
        }
    }

    /// The status with its google.rpc details. Everything in it is bounded: ids are, and so are the texts.
    pub(super) fn status(&self) -> Status {
        let text = self.to_string();
        let mut details = ErrorDetails::with_error_info(self.reason(), DOMAIN, self.metadata());
        if let Some(field) = self.field() {
            details.add_bad_request_violation(field, text.as_str());
        }
        if let Some(delay) = self.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(self.code(), text, details)
    }

    /// Stable, for programs.
    fn reason(&self) -> &'static str {
        match self {
            Failure::Invalid(invalid) => match invalid {
                InvalidRequest::IdLength { .. } => "ID_LENGTH",
                InvalidRequest::IdControl { .. } => "ID_CONTROL_CHARACTER",
                InvalidRequest::NegativeInitialBalance => "NEGATIVE_INITIAL_BALANCE",
                InvalidRequest::SameAccount => "SAME_ACCOUNT",
                InvalidRequest::AmountNotPositive => "AMOUNT_NOT_POSITIVE",
                InvalidRequest::IdReused { .. } => "TRANSACTION_ID_REUSED",
                InvalidRequest::IdOfAnother { .. } => "TRANSACTION_ID_OF_ANOTHER",
                InvalidRequest::IdTwiceInChain { .. } => "TRANSACTION_ID_TWICE",
                InvalidRequest::TooManyLegs { .. } => "TOO_MANY_LEGS",
                _ => "INVALID_REQUEST",
            },
            Failure::Field { reason, .. } => reason,
            Failure::Refused { refusal, .. } => match refusal {
                Refusal::NotFound { .. } => "ACCOUNT_NOT_FOUND",
                Refusal::AlreadyExists { .. } => "ACCOUNT_ALREADY_EXISTS",
                Refusal::Insufficient { .. } | Refusal::InsufficientIn { .. } => "INSUFFICIENT_BALANCE",
                Refusal::OutOfRange { .. } | Refusal::OutOfRangeIn { .. } => "BALANCE_OUT_OF_RANGE",
                Refusal::Group { .. } => "LINKED_GROUP_FAILED",
            },
            Failure::Exhausted(exhausted) => match exhausted {
                Exhausted::Garbage { .. } => "MEMORY_CAP",
                Exhausted::Backlog { .. } | Exhausted::BacklogBytes { .. } => "BACKLOG",
                Exhausted::Snapshots { .. } => "TOO_MANY_SNAPSHOTS",
                Exhausted::Disk { .. } => "DISK_FULL",
                Exhausted::Segment { .. } => "DISK_FAILED",
                Exhausted::Ids { .. } => "IDS_WAIT_FOR_DISK",
                Exhausted::Unopened { .. } => "TOO_MANY_UNOPENED",
                Exhausted::Accounts => "TOO_MANY_ACCOUNTS",
            },
            Failure::Walks { .. } => "TOO_MANY_WALKS",
            Failure::Streams { .. } => "TOO_MANY_STREAMS",
            Failure::Begun { .. } => "TOO_MUCH_UNDER_WAY",
            Failure::Lease { .. } => "STREAM_NOT_READ",
            Failure::UnknownTransaction { .. } => "TRANSACTION_NOT_FOUND",
            Failure::Gone(_) => "HISTORY_GONE",
            Failure::PutBack { .. } => "HISTORY_PUT_BACK",
            Failure::AnswerGone(_) => "ANSWER_GONE",
            Failure::Unreadable { .. } => "JOURNAL_UNREADABLE",
            Failure::Recovering { .. } => "RECOVERING",
            Failure::JournalFailed { .. } => "JOURNAL_FAILED",
            Failure::IdsUnreadable { .. } => "IDS_UNREADABLE",
            Failure::Unavailable { .. } => "STORE_UNAVAILABLE",
            Failure::Broken { .. } => "STORE_FAILED",
            Failure::Closed => "SHUTTING_DOWN",
            Failure::Deadline { .. } => "DEADLINE_EXCEEDED",
            Failure::TooLong { .. } => "MESSAGE_TOO_LONG",
            Failure::Left => "CALLER_LEFT",
            Failure::Internal(_) => "INTERNAL",
        }
    }

    /// What the text says, for programs; numbers in decimal.
    fn metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::new();
        let mut put = |key: &str, value: &dyn ToString| {
            metadata.insert(key.to_owned(), value.to_string());
        };
        match self {
            Failure::Refused { refusal, replayed } => {
                match refusal {
                    Refusal::NotFound { account } | Refusal::AlreadyExists { account } => put("account_id", account),
                    Refusal::Insufficient { current, delta } | Refusal::OutOfRange { current, delta } => {
                        put("current", current);
                        put("delta", delta);
                    }
                    Refusal::InsufficientIn { account, current, required } => {
                        put("account_id", account);
                        put("current", current);
                        put("required", required);
                    }
                    Refusal::OutOfRangeIn { account, current, amount } => {
                        put("account_id", account);
                        put("current", current);
                        put("amount", amount);
                    }
                    Refusal::Group { index } => put("failed_operation", index),
                }
                if *replayed {
                    put("replayed", &true);
                }
            }
            Failure::Gone(HistoryGone { oldest }) => put("oldest_sequence", oldest),
            Failure::AnswerGone(AnswerGone { id, oldest }) => {
                put("transaction_id", id);
                put("oldest_sequence", oldest);
            }
            Failure::Exhausted(Exhausted::Disk { path, needed }) => {
                put("path", path);
                put("needed_bytes", needed);
            }
            Failure::Exhausted(Exhausted::Segment { path, .. }) => put("path", path),
            Failure::Recovering { entries, percent } => {
                put("recovered_entries", entries);
                put("percent", percent);
            }
            Failure::UnknownTransaction { id } => put("transaction_id", id),
            Failure::Invalid(InvalidRequest::IdReused { id, field }) => {
                put("transaction_id", id);
                put("field", field);
            }
            _ => {}
        }
        metadata
    }

    /// The field of the request that is at fault, by its name in the contract.
    fn field(&self) -> Option<&'static str> {
        match self {
            Failure::Invalid(invalid) => Some(match invalid {
                InvalidRequest::IdLength { field, .. }
                | InvalidRequest::IdControl { field, .. }
                | InvalidRequest::IdReused { field, .. } => field,
                InvalidRequest::NegativeInitialBalance => "initial_balance",
                InvalidRequest::SameAccount => "to_account_id",
                InvalidRequest::AmountNotPositive => "amount",
                InvalidRequest::IdTwiceInChain { .. } | InvalidRequest::IdOfAnother { .. } => "transaction_id",
                _ => "operations",
            }),
            Failure::Field { field, .. } => Some(field),
            Failure::Gone(_) => Some("from_sequence"),
            Failure::AnswerGone(_) => Some("transaction_id"),
            _ => None,
        }
    }

    /// When trying the same again may help.
    fn retry_delay(&self) -> Option<Duration> {
        match self {
            Failure::Exhausted(Exhausted::Backlog { .. } | Exhausted::BacklogBytes { .. }) => {
                Some(Duration::from_millis(100))
            }
            // Only accounts that are opened help, or a restart.
            Failure::Exhausted(Exhausted::Unopened { .. }) => None,
            Failure::Exhausted(_)
            | Failure::Walks { .. }
            | Failure::Streams { .. }
            | Failure::Begun { .. }
            | Failure::Lease { .. }
            | Failure::Recovering { .. }
            | Failure::JournalFailed { .. }
            | Failure::IdsUnreadable { .. }
            | Failure::Unavailable { .. }
            | Failure::Closed => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccountId, TransactionId};

    fn trailer_bytes(failure: &Failure) -> usize {
        let response = failure.status().into_http::<tonic::body::Body>();
        response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    /// A09: with ids at the limit, every byte percent-encoded, the trailers stay under 8 KB.
    #[test]
    fn the_longest_texts_fit_into_the_trailers() {
        let account = AccountId::new(&"é".repeat(64)).unwrap();
        let id = TransactionId::new(&"é".repeat(64)).unwrap();
        let longest = [
            Failure::Refused {
                refusal: Refusal::InsufficientIn { account, current: i64::MIN, required: i128::from(i64::MIN) },
                replayed: true,
            },
            Failure::Invalid(InvalidRequest::IdReused { id: id.clone(), field: "from_account_id" }),
            Failure::AnswerGone(AnswerGone { id: id.clone(), oldest: u64::MAX }),
            Failure::Invalid(InvalidRequest::IdOfAnother { id, index: 9_999 }),
            Exhausted::Disk { path: "é".repeat(2_000), needed: u64::MAX }.into(),
            Exhausted::Segment { path: "é".repeat(2_000), what: "é".repeat(2_000) }.into(),
            HistoryError::Unreadable { what: "é".repeat(2_000) }.into(),
            Failure::undecided(SubmitError::JournalFailed { what: "é".repeat(2_000) }, &Ledger::new()),
        ];
        for failure in longest {
            assert!(trailer_bytes(&failure) < 8_000, "{failure}: {}", trailer_bytes(&failure));
        }
    }

    /// B1: a replayed refusal is told by its ErrorInfo.
    #[test]
    fn only_replayed_refusals_say_so() {
        for replayed in [false, true] {
            let refusal = Refusal::Insufficient { current: 0, delta: -5 };
            let status = Failure::Refused { refusal, replayed }.status();
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.metadata.contains_key("replayed"), replayed);
            assert_eq!(info.reason, "INSUFFICIENT_BALANCE");
            assert_eq!(status.message(), "Insufficient balance: current=0, delta=-5");
        }
    }

    /// A10, A13: what is temporary says for how long, and what a program may want to know.
    #[test]
    fn what_may_pass_says_so() {
        let progress = Progress { replayed: 1_200_000, bytes: 459, total_bytes: 1_000 };
        let disk = Exhausted::Disk { path: "/var/lib/equipoise".to_owned(), needed: 16_777_216 };
        let segment = Exhausted::Segment { path: "/var/lib/equipoise".to_owned(), what: "EIO".to_owned() };
        let journal = SubmitError::JournalFailed { what: "disk on fire".to_owned() };
        let cases = [
            (
                Failure::from(progress),
                (Code::Unavailable, "RECOVERING", "the ledger is being recovered: 1200000 entries, 45 %"),
            ),
            (
                disk.into(),
                (Code::ResourceExhausted, "DISK_FULL", "no room in /var/lib/equipoise: 16777216 bytes are needed"),
            ),
            (
                segment.into(),
                (
                    Code::ResourceExhausted,
                    "DISK_FAILED",
                    "cannot make the journal's next segment in /var/lib/equipoise: EIO",
                ),
            ),
            (
                Failure::undecided(journal, &Ledger::new()),
                (Code::Unavailable, "JOURNAL_FAILED", "the journal failed: disk on fire"),
            ),
        ];
        for (failure, (code, reason, text)) in cases {
            let status = failure.status();
            assert_eq!((status.code(), status.message()), (code, text));
            assert_eq!(status.get_details_error_info().unwrap().reason, reason);
            assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
        }
    }

    #[test]
    fn all_of_it_is_a_hundred_per_cent_and_nothing_else() {
        assert_eq!([percent(0, 0), percent(0, 7), percent(999, 1_000), percent(7, 7)], [0, 0, 99, 100]);
        assert_eq!([percent(9, 7), percent(u64::MAX, u64::MAX)], [100, 100]);
    }

    /// A14: the field that is not UTF-8 is named, in whatever it is.
    #[test]
    fn a_field_that_is_no_text_is_named() {
        use crate::grpc::proto::{ExecuteBatchRequest, TransferFundsRequest};
        use prost::Message as _;

        let transfer = TransferFundsRequest::decode(&[0x12, 1, 0xff][..]).unwrap_err().to_string();
        let batch = ExecuteBatchRequest::decode(&[0x0a, 5, 0x12, 3, 0x1a, 1, 0xff][..]).unwrap_err().to_string();
        let none = TransferFundsRequest::decode(&[0x12, 9][..]).unwrap_err().to_string();
        for (text, field) in [(transfer, "to_account_id"), (batch, "transaction_id"), (none, "message")] {
            assert_eq!(Failure::malformed(text.clone()).field(), Some(field), "{text}");
        }
    }

    /// Only of what changes something can its id tell more.
    #[test]
    fn a_deadline_gives_advice_where_there_is_some() {
        let advice = "; the same transaction_id tells what became of the request";
        for (operation, expected) in [("TransferFunds", advice), ("GetBalance", ""), ("WatchTransactions", "")] {
            let text = Failure::deadline(operation).to_string();
            assert_eq!(text, format!("the deadline passed before the answer{expected}"));
        }
    }

    #[test]
    fn a_wrong_field_is_named_in_the_bad_request() {
        let failure = Failure::Invalid(TransactionId::new("").unwrap_err());
        let status = failure.status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "transaction_id");
        assert!(status.message().contains("transaction_id"));
    }
}
