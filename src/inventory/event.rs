//! The event: a change of a product's stock.

use crate::{AccountId, TransactionId};

/// A change of a product's stock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// An event takes effect once per id, however often it comes, and through whichever door.
    pub id: TransactionId,
    /// The product: an account.
    pub product: AccountId,
    /// What is added to its stock, in units; negative takes away.
    pub quantity_change: i64,
}
