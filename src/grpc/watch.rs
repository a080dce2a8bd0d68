//! WatchTransactions: history first, then live, without a gap.

use prost::Message as _;

use super::books::Books;
use super::convert;
use super::proto;
use super::pull::Step;
use super::status::Failure;
use crate::{AccountId, Member, Outcome};

/// The most entries taken from the history at a time.
const PAGE: usize = 500;
/// A message is closed when it is this long; the entry that closes it adds at most 600 KB.
const MESSAGE_BYTES: usize = 1 << 20;

/// Where a watcher stands.
pub(super) struct Watch {
    books: Books,
    next: u64,
    /// The time of the entry before, if the client was told that entry.
    told: Option<u64>,
    account: Option<AccountId>,
}

impl Watch {
    pub(super) async fn new(books: Books, request: &proto::WatchTransactionsRequest) -> Result<Self, Failure> {
        let account = match request.account_id.as_str() {
            "" => None,
            text => Some(AccountId::new(text)?),
        };
        // A client hears at once, not in its first message, that what it wants is gone.
        let next = match request.from_sequence {
            0 => books.oldest().await?,
            from => {
                books.history(from, 1).await?;
                from
            }
        };
        Ok(Watch { books, next, told: None, account })
    }

    /// The next message; waits when there is nothing new.
    pub(super) async fn step(mut self) -> Step<Watch, proto::WatchTransactionsResponse> {
        loop {
            let entries = self.books.follow(self.next, self.told, PAGE).await?;
            let transactions = self.collect(entries);
            if !transactions.is_empty() {
                return Ok(Some((proto::WatchTransactionsResponse { transactions }, self)));
            }
            // A long history of other accounts: let others run.
            tokio::task::yield_now().await;
        }
    }

    /// The transactions in `entries`, the next ones, that touch the watched account: of a chain, only the operations
    /// that do. An entry is never split over two messages.
    fn collect(&mut self, entries: Vec<Outcome>) -> Vec<proto::Transaction> {
        let mut transactions = Vec::new();
        let mut bytes = 0;
        for outcome in entries {
            (self.next, self.told) = (outcome.sequence() + 1, Some(outcome.time()));
            let account = self.account.as_ref();
            if account.is_none_or(|account| outcome.concerns(account)) {
                let concerns = |member: &Member| account.is_none_or(|account| member.operation.concerns(account));
                let entry = convert::transactions(&outcome).into_iter().zip(outcome.members());
                let entry = entry.filter(|(_, member)| concerns(member)).map(|(transaction, _)| transaction);
                transactions.extend(entry.inspect(|transaction| bytes += transaction.encoded_len() + 8));
            }
            if bytes >= MESSAGE_BYTES {
                break;
            }
        }
        transactions
    }
}
