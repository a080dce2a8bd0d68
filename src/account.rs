//! Account and transaction ids, and what an account's state is.

#![warn(clippy::arithmetic_side_effects)]

use std::borrow::Borrow;
use std::fmt;

use compact_str::CompactString;

use crate::error::InvalidRequest;
use crate::kernel::State;
use crate::request::Request;

/// The longest id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 128;

/// Checks `text` against the rules for ids; `field` names it in the error.
fn parse_id(field: &'static str, text: &str) -> Result<CompactString, InvalidRequest> {
    if text.is_empty() || text.len() > MAX_ID_BYTES {
        return Err(InvalidRequest::IdLength { field, bytes: text.len() });
    }
    // Fast path: printable ASCII, checked without branches (hence `fold`, not `all`).
    if text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~')) {
        return Ok(CompactString::new(text));
    }
    match text.char_indices().find(|(_, character)| character.is_control()) {
        Some((position, _)) => Err(InvalidRequest::IdControl { field, bytes: text.len(), position }),
        None => Ok(CompactString::new(text)),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(CompactString);

        impl $name {
            /// Parses an id: 1 to [`MAX_ID_BYTES`] bytes without control characters, compared by bytes.
            ///
            /// # Errors
            /// [`InvalidRequest`] naming the field and the length.
            pub fn new(text: &str) -> Result<Self, InvalidRequest> {
                Self::parse($field, text)
            }

            /// Like [`Self::new`]; errors call the id `field`.
            ///
            /// # Errors
            /// [`InvalidRequest`] naming `field` and the length.
            pub fn parse(field: &'static str, text: &str) -> Result<Self, InvalidRequest> {
                parse_id(field, text).map($name)
            }

            /// How many bytes it has allocated on the heap.
            pub(crate) fn spilled_bytes(&self) -> usize {
                if self.0.is_heap_allocated() { self.0.capacity() } else { 0 }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidRequest;

            fn from_str(text: &str) -> Result<Self, InvalidRequest> {
                Self::new(text)
            }
        }
    };
}

id!(
    /// The name of an account.
    AccountId,
    "account_id"
);
id!(
    /// The name that a caller gives a request, so that sending it again has no second effect.
    TransactionId,
    "transaction_id"
);

/// An account's balance and how often it changed. `version` 0: nobody opened it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Smallest units (cents, pieces); never below 0.
    pub amount: i64,
    /// 1 when the account was opened, one more with every committed change.
    pub version: u64,
}

/// A change of one account. `leg` says which account of its operation it touches, for the order of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Open { initial: i64 },
    Add { delta: i64, leg: u16 },
}

impl Change {
    /// The position of its account among the operation's accounts.
    pub(crate) fn position(self) -> usize {
        match self {
            Change::Open { .. } => 0,
            Change::Add { leg, .. } => usize::from(leg),
        }
    }
}

/// Why one account refused a change. The field order gives the precedence: an unknown source comes before an unknown
/// destination, and both come before a lack of funds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reject {
    pub(crate) reason: Reason,
    pub(crate) leg: u16,
    pub(crate) current: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    AlreadyExists,
    NotFound,
    Insufficient,
    OutOfRange,
}

impl State for Balance {
    type Op = Change;
    type Reject = Reject;
    type Key = AccountId;
    type Request = Request;

    const ABSENT: Balance = Balance { amount: 0, version: 0 };

    fn spilled(request: &Request) -> usize {
        request.spilled_bytes()
    }

    fn apply(&self, change: &Change) -> Result<Balance, Reject> {
        match *change {
            Change::Open { initial } if self.version == 0 => Ok(Balance { amount: initial, version: 1 }),
            Change::Open { .. } => Err(self.reject(Reason::AlreadyExists, 0)),
            Change::Add { leg, .. } if self.version == 0 => Err(self.reject(Reason::NotFound, leg)),
            Change::Add { delta, leg } => match self.amount.checked_add(delta) {
                Some(amount) if amount >= 0 => Ok(Balance { amount, version: self.version.saturating_add(1) }),
                None if delta > 0 => Err(self.reject(Reason::OutOfRange, leg)),
                _ => Err(self.reject(Reason::Insufficient, leg)),
            },
        }
    }
}

impl Balance {
    fn reject(&self, reason: Reason, leg: u16) -> Reject {
        Reject { reason, leg, current: self.amount }
    }
}

/// An account at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// Its id.
    pub id: AccountId,
    /// Smallest units; never below 0.
    pub balance: i64,
    /// 1 when the account was opened, one more with every committed change.
    pub version: u64,
    /// The commit sequence of its last change.
    pub sequence: u64,
}
