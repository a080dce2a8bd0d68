//! Why a call failed, and the gRPC status that says so.

use std::collections::HashMap;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{Closed, Exhausted, HistoryGone, InvalidRequest, Refusal, SubmitError};

/// The `domain` of every ErrorInfo.
const DOMAIN: &str = "equipoise";

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
    Exhausted(#[from] Exhausted),
    #[error("too many account walks, the limit is {limit}")]
    Walks { limit: usize },
    #[error("the stream was not read for {seconds} s and lost its snapshot")]
    Lease { seconds: u64 },
    #[error("Transaction {id} not found")]
    UnknownTransaction { id: String },
    #[error(transparent)]
    Gone(#[from] HistoryGone),
    #[error("the service is shutting down")]
    Closed,
    #[error("the deadline passed before the answer; the same transaction_id tells what became of the request")]
    Deadline,
    #[error("{text}")]
    TooLong { text: String },
    #[error("ExecuteStream is not served yet; ExecuteBatch takes the same messages")]
    Unimplemented,
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(invalid) => Failure::Invalid(invalid),
            SubmitError::Exhausted(exhausted) => Failure::Exhausted(exhausted),
            SubmitError::IdsUnreadable { .. } => Failure::Internal("the transaction id cannot be looked up"),
            SubmitError::Closed => Failure::Closed,
        }
    }
}

impl From<Closed> for Failure {
    fn from(Closed: Closed) -> Self {
        Failure::Closed
    }
}

impl Failure {
    pub(super) fn code(&self) -> Code {
        match self {
            Failure::Invalid(_) | Failure::Field { .. } => Code::InvalidArgument,
            Failure::Refused { refusal, .. } => match refusal {
                Refusal::NotFound { .. } => Code::NotFound,
                Refusal::AlreadyExists { .. } => Code::AlreadyExists,
                _ => Code::FailedPrecondition,
            },
            Failure::Exhausted(_) | Failure::Walks { .. } | Failure::Lease { .. } | Failure::TooLong { .. } => {
                Code::ResourceExhausted
            }
            Failure::UnknownTransaction { .. } => Code::NotFound,
            Failure::Gone(_) => Code::OutOfRange,
            Failure::Closed => Code::Unavailable,
            Failure::Deadline => Code::DeadlineExceeded,
            Failure::Unimplemented => Code::Unimplemented,
            Failure::Internal(_) => Code::Internal,
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
                Exhausted::Backlog { .. } => "BACKLOG",
                Exhausted::Snapshots { .. } => "TOO_MANY_SNAPSHOTS",
                Exhausted::Accounts => "TOO_MANY_ACCOUNTS",
            },
            Failure::Walks { .. } => "TOO_MANY_WALKS",
            Failure::Lease { .. } => "STREAM_NOT_READ",
            Failure::UnknownTransaction { .. } => "TRANSACTION_NOT_FOUND",
            Failure::Gone(_) => "HISTORY_GONE",
            Failure::Closed => "SHUTTING_DOWN",
            Failure::Deadline => "DEADLINE_EXCEEDED",
            Failure::TooLong { .. } => "MESSAGE_TOO_LONG",
            Failure::Unimplemented => "NOT_SERVED",
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
            _ => None,
        }
    }

    /// When trying the same again may help.
    fn retry_delay(&self) -> Option<Duration> {
        match self {
            Failure::Exhausted(Exhausted::Backlog { .. }) => Some(Duration::from_millis(100)),
            Failure::Exhausted(_) | Failure::Walks { .. } | Failure::Lease { .. } | Failure::Closed => {
                Some(Duration::from_secs(1))
            }
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
            Failure::Invalid(InvalidRequest::IdOfAnother { id, index: 9_999 }),
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

    #[test]
    fn a_wrong_field_is_named_in_the_bad_request() {
        let failure = Failure::Invalid(TransactionId::new("").unwrap_err());
        let status = failure.status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "transaction_id");
        assert!(status.message().contains("transaction_id"));
    }
}
