//! WatchTransactions: history first, then live, without a gap.

use prost::Message as _;

use super::convert;
use super::proto;
use super::pull::Step;
use super::status::Failure;
use crate::{AccountId, Closed, HistoryError, HistoryGone, Ledger};

/// Entries taken from the history at a time.
const PAGE: usize = 500;
/// A message is closed when it is this long; the entry that closes it adds at most 600 KB.
const MESSAGE_BYTES: usize = 1 << 20;

/// Where a watcher stands.
pub(super) struct Watch {
    ledger: Ledger,
    next: u64,
    account: Option<AccountId>,
}

impl Watch {
    pub(super) fn new(ledger: Ledger, request: &proto::WatchTransactionsRequest) -> Result<Self, Failure> {
        let account = match request.account_id.as_str() {
            "" => None,
            text => Some(AccountId::new(text)?),
        };
        // A client hears at once, not in its first message, that what it wants is gone.
        let next = match request.from_sequence {
            0 => match ledger.history(0, 1) {
                Ok(oldest) => oldest.first().map_or_else(|| ledger.durable() + 1, crate::Outcome::sequence),
                Err(HistoryError::Gone(HistoryGone { oldest })) => oldest,
                Err(error) => return Err(error.into()),
            },
            from => {
                ledger.history(from, 1)?;
                from
            }
        };
        Ok(Watch { ledger, next, account })
    }

    /// The next message; waits when there is nothing new.
    pub(super) async fn step(mut self) -> Step<Watch, proto::WatchTransactionsResponse> {
        loop {
            let transactions;
            (self, transactions) = self.page().await?;
            if !transactions.is_empty() {
                return Ok(Some((proto::WatchTransactionsResponse { transactions }, self)));
            }
            if self.ledger.durable() < self.next {
                self.ledger.durable_at(self.next).await.map_err(|Closed| Failure::closed(&self.ledger))?;
            } else {
                // A long history of other accounts: let others run.
                tokio::task::yield_now().await;
            }
        }
    }

    /// The next page. Where the watcher is far behind it may be on disk: then it is read where waiting stops nobody.
    async fn page(mut self) -> Result<(Self, Vec<proto::Transaction>), Failure> {
        let near = self.ledger.durable().saturating_sub(self.next) < PAGE as u64;
        let read = move || self.collect().map(|transactions| (self, transactions));
        if near {
            return read();
        }
        let reading = tokio::task::spawn_blocking(read).await;
        reading.unwrap_or(Err(Failure::Internal("the journal's reader ended")))
    }

    /// What of the next page concerns the watched account. An entry is never split over two messages.
    fn collect(&mut self) -> Result<Vec<proto::Transaction>, Failure> {
        let mut transactions = Vec::new();
        let mut bytes = 0;
        for outcome in self.ledger.history(self.next, PAGE)? {
            self.next = outcome.sequence() + 1;
            if self.account.as_ref().is_none_or(|account| outcome.concerns(account)) {
                let entry = convert::transactions(&outcome);
                bytes += entry.iter().map(|transaction| transaction.encoded_len() + 8).sum::<usize>();
                transactions.extend(entry);
            }
            if bytes >= MESSAGE_BYTES {
                break;
            }
        }
        Ok(transactions)
    }
}
