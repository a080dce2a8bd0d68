//! Walks over all accounts at one sequence: pages for ListAccounts, a stream for SnapshotBalances.
//!
//! A walk holds a snapshot between its messages. So walks are few, and each has a lease: a client that does not ask for
//! the next page in time loses its walk. [`Walks::sweep`] ends the walks whose lease is over.
//!
//! A walk that was read to its end holds no snapshot, and no longer counts. The last pages of the newest such walks are
//! kept for another lease: a client that lost that answer asks again with the same token.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;

use super::books::{Books, Pages, Told};
use super::convert;
use super::proto;
use super::pull::Step;
use super::status::Failure;
use crate::{AccountId, MAX_ID_BYTES};

/// Accounts in one message of a snapshot stream, and the most in one page: under 200 KB with the longest ids.
const MAX_PAGE: usize = 1_000;
/// Accounts in a page when the request does not say.
const DEFAULT_PAGE: usize = 100;

/// The walks under way.
pub(super) struct Walks {
    table: Mutex<HashMap<u64, Walk>>,
    /// As many as there may be walks.
    ended: Mutex<HashMap<u64, Arc<Ended>>>,
    lease: Duration,
    limit: usize,
}

struct Walk {
    snapshot: Pages,
    prefix: String,
    expires: Instant,
}

/// The last page of a walk.
struct Ended {
    prefix: String,
    sequence: u64,
    /// The account before it.
    after: AccountId,
    accounts: Vec<proto::Account>,
    expires: Instant,
}

impl Walks {
    pub(super) fn new(lease: Duration, limit: usize) -> Self {
        Walks { table: Mutex::default(), ended: Mutex::default(), lease, limit }
    }

    /// Ends the walks whose lease is over.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        // Dropped outside the lock.
        let expired: Vec<Walk> =
            self.table.lock().extract_if(|_, walk| walk.expires <= now).map(|(_, walk)| walk).collect();
        drop(expired);
        self.ended.lock().retain(|_, ended| ended.expires > now);
    }

    fn open(&self, snapshot: Pages, prefix: String) -> Result<u64, Failure> {
        let mut table = self.table.lock();
        if table.len() >= self.limit {
            return Err(Failure::Walks { limit: self.limit });
        }
        // Unlikely to be guessed, and never one of an earlier process.
        let mut walk = RandomState::new().hash_one(table.len());
        while table.contains_key(&walk) {
            walk = walk.wrapping_add(1);
        }
        table.insert(walk, Walk { snapshot, prefix, expires: self.expiry() });
        Ok(walk)
    }

    /// The walk's snapshot and prefix, and a new lease; None: it is over.
    fn renew(&self, walk: u64) -> Option<(Pages, String)> {
        let mut table = self.table.lock();
        let walk = table.get_mut(&walk)?;
        walk.expires = self.expiry();
        Some((walk.snapshot.clone(), walk.prefix.clone()))
    }

    fn close(&self, walk: u64) {
        let walk = self.table.lock().remove(&walk);
        drop(walk);
    }

    fn expiry(&self) -> Instant {
        Instant::now() + self.lease
    }

    /// Ends a walk whose last page was read.
    fn end(&self, walk: u64, last: Ended) {
        let mut ended = self.ended.lock();
        ended.insert(walk, Arc::new(last));
        if ended.len() > self.limit {
            let oldest = ended.iter().min_by_key(|(_, ended)| ended.expires).map(|(walk, _)| *walk);
            oldest.and_then(|walk| ended.remove(&walk));
        }
        drop(ended);
        // Not before: whoever asks meanwhile finds one or the other.
        self.close(walk);
    }

    /// One page of a walk.
    pub(super) async fn list(
        &self,
        books: &Books,
        request: &proto::ListAccountsRequest,
    ) -> Result<proto::ListAccountsResponse, Failure> {
        check_prefix(&request.prefix)?;
        let size = page_size(request.page_size)?;
        if request.page_token.is_empty() {
            let snapshot = books.snapshot(&request.prefix).await?;
            let (accounts, more) = page(&snapshot, None, size).await?;
            let sequence = snapshot.sequence();
            let walk = if more { Some(self.open(snapshot, request.prefix.clone())?) } else { None };
            return Ok(answer(accounts, walk, 0, sequence));
        }
        let token = Token::parse(&request.page_token).ok_or_else(|| page_token("is not one of this service's"))?;
        let Some((snapshot, prefix)) = self.renew(token.walk) else { return self.last_page(request, &token, size) };
        check_walk(&prefix, request)?;
        let (accounts, more) = page(&snapshot, Some(&token.told), size).await?;
        let sequence = snapshot.sequence();
        if !more {
            let expires = self.expiry();
            let last = Ended { prefix, sequence, after: token.told.last, accounts: accounts.clone(), expires };
            self.end(token.walk, last);
        }
        Ok(answer(accounts, more.then_some(token.walk), token.told.count, sequence))
    }

    /// The page of a walk that was read to its end, if it is the last one.
    fn last_page(
        &self,
        request: &proto::ListAccountsRequest,
        token: &Token,
        size: usize,
    ) -> Result<proto::ListAccountsResponse, Failure> {
        let ended = self.ended.lock().get(&token.walk).cloned();
        let ended = ended.filter(|ended| ended.after <= token.told.last);
        let ended = ended.ok_or_else(|| page_token("has expired; begin the walk again"))?;
        check_walk(&ended.prefix, request)?;
        let after = ended.accounts.partition_point(|account| account.account_id.as_str() <= token.told.last.as_str());
        let left = ended.accounts.get(after..).unwrap_or_default();
        let (accounts, more) = (left.iter().take(size).cloned().collect(), left.len() > size);
        Ok(answer(accounts, more.then_some(token.walk), token.told.count, ended.sequence))
    }
}

/// The accounts of one page, and whether there is another.
async fn page(snapshot: &Pages, told: Option<&Told>, size: usize) -> Result<(Vec<proto::Account>, bool), Failure> {
    // One more than asked for tells.
    let mut page = snapshot.page(told, size + 1).await?;
    let more = page.len() > size;
    page.truncate(size);
    Ok((convert::accounts(page), more))
}

/// A page behind `told` accounts, and the token of the next one if the walk goes on.
fn answer(accounts: Vec<proto::Account>, walk: Option<u64>, told: u64, sequence: u64) -> proto::ListAccountsResponse {
    let told = told.saturating_add(accounts.len() as u64);
    let next = walk.zip(accounts.last()).map(|(walk, last)| Token::text(walk, told, &last.account_id));
    proto::ListAccountsResponse { accounts, next_page_token: next.unwrap_or_default(), sequence }
}

/// A snapshot stream's place. Dropping it ends its walk.
pub(super) struct Place {
    walks: Arc<Walks>,
    walk: u64,
    told: Option<Told>,
    ended: bool,
}

impl Place {
    pub(super) async fn first(walks: &Arc<Walks>, books: &Books, prefix: String) -> Result<Self, Failure> {
        check_prefix(&prefix)?;
        let walk = walks.open(books.snapshot(&prefix).await?, prefix)?;
        Ok(Place { walks: walks.clone(), walk, told: None, ended: false })
    }

    /// The next message. There is always one, so that the sequence is told also when there is no account.
    pub(super) async fn step(mut self) -> Step<Place, proto::SnapshotBalancesResponse> {
        if self.ended {
            return Ok(None);
        }
        let Some((snapshot, _)) = self.walks.renew(self.walk) else {
            return Err(Failure::Lease { seconds: self.walks.lease.as_secs() });
        };
        let page = snapshot.page(self.told.as_ref(), MAX_PAGE).await?;
        self.ended = page.len() < MAX_PAGE;
        self.told = Told::and(self.told.as_ref(), &page);
        let message =
            proto::SnapshotBalancesResponse { sequence: snapshot.sequence(), accounts: convert::accounts(page) };
        Ok(Some((message, self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.walks.close(self.walk);
    }
}

/// Which walk, and what it told. Opaque to clients.
#[derive(Debug, PartialEq)]
struct Token {
    walk: u64,
    told: Told,
}

impl Token {
    fn text(walk: u64, told: u64, last: &str) -> String {
        let mut bytes = walk.to_be_bytes().to_vec();
        bytes.extend_from_slice(&told.to_be_bytes());
        bytes.extend_from_slice(last.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() > 2 * (2 * size_of::<u64>() + MAX_ID_BYTES) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (walk, told) = bytes.split_first_chunk()?;
        let (count, last) = told.split_first_chunk()?;
        let last = AccountId::new(std::str::from_utf8(last).ok()?).ok()?;
        let told = Told { count: u64::from_be_bytes(*count), last };
        Some(Token { walk: u64::from_be_bytes(*walk), told })
    }
}

fn check_walk(prefix: &str, request: &proto::ListAccountsRequest) -> Result<(), Failure> {
    if prefix == request.prefix { Ok(()) } else { Err(page_token("belongs to a walk with another prefix")) }
}

fn page_token(what: &str) -> Failure {
    Failure::Field { field: "page_token", reason: "PAGE_TOKEN", text: format!("page_token {what}") }
}

fn page_size(asked: i32) -> Result<usize, Failure> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_PAGE),
        Ok(size) => Ok(size.min(MAX_PAGE)),
        Err(_) => {
            let text = format!("page_size must not be negative, got {asked}");
            Err(Failure::Field { field: "page_size", reason: "PAGE_SIZE", text })
        }
    }
}

fn check_prefix(prefix: &str) -> Result<(), Failure> {
    if prefix.len() <= MAX_ID_BYTES {
        return Ok(());
    }
    let text = format!("prefix must be at most {MAX_ID_BYTES} bytes long, got {}", prefix.len());
    Err(Failure::Field { field: "prefix", reason: "PREFIX", text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ledger;

    #[test]
    fn a_token_survives_its_text_and_nothing_else_passes() {
        let token = Token { walk: u64::MAX, told: Told { count: 7, last: AccountId::new("é/ 🎉").unwrap() } };
        assert_eq!(Token::parse(&Token::text(token.walk, 7, token.told.last.as_str())), Some(token));
        for garbled in ["AAAA", "!!!", "AAAAAAAAAAA", "//////////////", &"A".repeat(10_000)] {
            assert_eq!(Token::parse(garbled), None, "{garbled}");
        }
    }

    /// A10: a walk that nobody goes on with gives its snapshot back.
    #[test]
    fn an_expired_walk_is_swept() {
        let ledger = Ledger::new();
        let walks = Walks::new(Duration::ZERO, 2);
        let open =
            || walks.open(Pages::Ledger { snapshot: ledger.snapshot().unwrap(), prefix: String::new() }, String::new());
        let walk = open().unwrap();
        open().unwrap();
        assert!(matches!(open(), Err(Failure::Walks { limit: 2 })));
        walks.sweep();
        assert!(walks.renew(walk).is_none());
        assert_eq!(ledger.stats().open_snapshots, 0);
    }
}
