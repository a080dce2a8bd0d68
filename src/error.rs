//! All errors of requests, with the texts that callers see. The texts live nowhere else.

use thiserror::Error;

use crate::account::{AccountId, MAX_ID_BYTES, TransactionId};
use crate::request::MAX_LEGS;

/// A request that is wrong in itself, whatever the accounts hold. It changes nothing and uses no id up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// An id that is empty or too long.
    #[error("{field} must be 1 to {MAX_ID_BYTES} bytes long, got {bytes}")]
    IdLength {
        /// Which id, by its name in the contract.
        field: &'static str,
        /// How long it was.
        bytes: usize,
    },
    /// An id with a control character in it.
    #[error("{field} ({bytes} bytes) must not contain control characters, found one at byte {position}")]
    IdControl {
        /// Which id, by its name in the contract.
        field: &'static str,
        /// How long it was.
        bytes: usize,
        /// Where the first one stands, in bytes.
        position: usize,
    },
    /// An account cannot be opened with less than nothing.
    #[error("Initial balance cannot be negative")]
    NegativeInitialBalance,
    /// Source and destination of a transfer are one account.
    #[error("Cannot transfer to the same account")]
    SameAccount,
    /// The amount of a transfer is zero or negative.
    #[error("Transfer amount must be positive")]
    AmountNotPositive,
    /// A chain without operations.
    #[error("a linked group needs at least one operation")]
    EmptyChain,
    /// More accounts than one transaction may touch.
    #[error("a transaction has at most {MAX_LEGS} legs, got {legs}")]
    TooManyLegs {
        /// How many there were.
        legs: usize,
    },
    /// One id on two members of a chain.
    #[error("transaction_id {id} appears twice in one linked group")]
    IdTwiceInChain {
        /// The id.
        id: TransactionId,
    },
    /// A posting without legs.
    #[error("a posting needs at least one leg")]
    EmptyPosting,
    /// One account in two legs of a posting.
    #[error("account {account} appears twice in one posting")]
    PostingTwice {
        /// The account.
        account: AccountId,
    },
    /// The deltas of a posting do not add up to 0.
    #[error("the legs of a posting must add up to 0, got {sum}")]
    PostingUnbalanced {
        /// Their sum, in smallest units.
        sum: i128,
    },
    /// The id belongs to a request that said something else.
    #[error("transaction_id {id} was used with {} {field}", if *field == "legs" { "other" } else { "another" })]
    IdReused {
        /// The id.
        id: TransactionId,
        /// The first field that differs, by its name and order in the contract; `operation` when the kind does.
        field: &'static str,
    },
    /// A member of a chain carries an id that is already another transaction's.
    #[error("transaction_id {id} of operation {index} belongs to another transaction")]
    IdOfAnother {
        /// The id.
        id: TransactionId,
        /// Which member carries it, from 0.
        index: usize,
    },
}

impl InvalidRequest {
    /// Whether it says something of an earlier request, which may not be durable yet.
    pub(crate) fn rests_on_earlier_use(&self) -> bool {
        matches!(self, InvalidRequest::IdReused { .. } | InvalidRequest::IdOfAnother { .. })
    }
}

/// An operation that was decided, journaled and refused: it changed nothing, and its id keeps this answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody opened the account.
    #[error("Account {account} not found")]
    NotFound {
        /// The account.
        account: AccountId,
    },
    /// Somebody opened the account before.
    #[error("Account {account} already exists")]
    AlreadyExists {
        /// The account.
        account: AccountId,
    },
    /// An update would make the balance negative.
    #[error("Insufficient balance: current={current}, delta={delta}")]
    Insufficient {
        /// The account's balance.
        current: i64,
        /// What was to be added.
        delta: i64,
    },
    /// A transfer or posting of more than the account holds.
    #[error("Insufficient balance in account {account}: current={current}, required={required}")]
    InsufficientIn {
        /// The account.
        account: AccountId,
        /// Its balance.
        current: i64,
        /// The amount to be taken from it.
        required: i128,
    },
    /// An update would exceed `i64::MAX`.
    #[error("Balance out of range: current={current}, delta={delta}")]
    OutOfRange {
        /// The account's balance.
        current: i64,
        /// What was to be added.
        delta: i64,
    },
    /// A transfer or posting that the receiving account cannot hold.
    #[error("Balance out of range in account {account}: current={current}, amount={amount}")]
    OutOfRangeIn {
        /// The account.
        account: AccountId,
        /// Its balance.
        current: i64,
        /// The amount to be added to it.
        amount: i64,
    },
    /// Another member of the chain was refused.
    #[error("Linked group failed at operation {index}")]
    Group {
        /// Which member, from 0.
        index: usize,
    },
}

/// A request was not decided. With [`Durability::OnDisk`](crate::Durability::OnDisk), [`SubmitError::JournalFailed`]
/// and [`SubmitError::Closed`] may also mean that it was decided, and is perhaps not on disk.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// It is wrong in itself, or its id was used for something else.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// Nothing was decided; the same request may succeed later.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// Whether its id was used cannot be found out now; the same request may succeed later.
    #[error("the transaction id cannot be looked up: {what}")]
    IdsUnreadable {
        /// What failed.
        what: String,
    },
    /// Its id was used, and what was answered then is no longer kept. Final.
    #[error(transparent)]
    AnswerGone(#[from] AnswerGone),
    /// The ledger was shut down. A decided request that was waiting for the disk at that moment gets this error too.
    #[error("the ledger is shutting down")]
    Closed,
    /// The journal could not be written, so the ledger was closed. Requests that were decided but not answered may or
    /// may not be there after a restart; their ids tell.
    #[error("the journal failed: {what}")]
    JournalFailed {
        /// What went wrong.
        what: String,
    },
}

/// The id was used by a transaction that the journal no longer holds: [`compact`](crate::compact) dropped it under a
/// shorter window than the ledger was opened with. The request is not executed, whether or not it equals the earlier
/// one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "transaction_id {id} was used before sequence {oldest}, where the journal begins now: its answer is gone, and it is not executed again"
)]
pub struct AnswerGone {
    /// The id.
    pub id: TransactionId,
    /// The oldest sequence kept.
    pub oldest: u64,
}

/// A limit that protects the process. Nothing changed; trying again later helps.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Exhausted {
    /// Too much memory waits for a suspended thread (requirement E7); reads go on.
    #[error("{bytes} bytes wait for a suspended thread, the cap is {cap}")]
    Garbage {
        /// Bytes waiting.
        bytes: u64,
        /// The configured cap.
        cap: u64,
    },
    /// Too many decided transactions wait to become durable.
    #[error("{entries} transactions wait to become durable, the limit is {limit}")]
    Backlog {
        /// How many wait.
        entries: u64,
        /// How many may.
        limit: u64,
    },
    /// Large requests that wait to become durable take too many bytes.
    #[error("{bytes} bytes of large requests wait to become durable, the limit is {limit}")]
    BacklogBytes {
        /// How many bytes wait.
        bytes: u64,
        /// How many may.
        limit: u64,
    },
    /// Too many snapshots are open.
    #[error("too many open snapshots, the limit is {limit}")]
    Snapshots {
        /// How many may be open.
        limit: u32,
    },
    /// There is no room for the journal's next segment, or for the id index. Heals by itself once there is.
    #[error("no room in {path}: {needed} bytes are needed")]
    Disk {
        /// The directory.
        path: String,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// The journal's next segment cannot be made, and not for want of room. Heals by itself once it can.
    #[error("cannot make the journal's next segment in {path}: {what}")]
    Segment {
        /// The directory.
        path: String,
        /// What the system said.
        what: String,
    },
    /// Too many ids wait for the id index; requests without ids go on. Heals by itself once the disk keeps up.
    #[error("{ids} transaction ids wait for the id index, the limit is {limit}{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Ids {
        /// How many wait.
        ids: u64,
        /// How many may.
        limit: u64,
        /// Why the index cannot be written, if it cannot.
        why: Option<String>,
    },
    /// Refused linked groups have created too many accounts that nobody opened. Single operations, and groups that
    /// create none, go on. Others succeed again once those accounts are opened, or after a restart.
    #[error(
        "refused linked groups made {accounts} accounts that nobody opened, the limit is {limit}: open accounts by single operations"
    )]
    Unopened {
        /// How many there are.
        accounts: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The slab of accounts is full.
    #[error("no room for another account")]
    Accounts,
}

/// The error of a ledger's convenience methods: the request was not decided, or was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// Decided and refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not decided, or decided and perhaps not on disk: see [`SubmitError`].
    #[error(transparent)]
    NotDecided(#[from] SubmitError),
}

impl From<InvalidRequest> for Error {
    fn from(invalid: InvalidRequest) -> Self {
        Error::NotDecided(SubmitError::Invalid(invalid))
    }
}
