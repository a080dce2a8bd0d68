//! Listings: the accounts at one commit sequence, page by page.
//!
//! When a listing begins, PostgreSQL copies its accounts (a cursor WITH HOLD; beyond a few MB in temporary files), in
//! about a microsecond per account. After that no snapshot and no lock is held, however slow the reader is: vacuum is
//! not held back, and a change to the table neither waits for readers nor takes their rows away. One session holds many
//! listings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::database::Fault;
use super::error::PgError;
use super::link::{Broken, Connector, Link};
use super::session::sku;
use super::shared::Made;
use super::sql::{SEQUENCE, SESSION};
use crate::account::AccountState;

/// The most listings at once. A listing that ended counts until PostgreSQL has closed it.
const LISTINGS: usize = 64;

/// How many sessions hold listings: pages wait while their session copies for another listing.
const SESSIONS: usize = 2;

/// How long a copy may take.
const COPYING: Duration = Duration::from_secs(30);

/// All statements that are sent as one see one snapshot.
const SNAPSHOTS: &str = "SET default_transaction_isolation = 'repeatable read'";

/// The listings of a store.
pub(super) struct Listings {
    connector: Connector,
    sessions: [Made<Session>; SESSIONS],
    /// How many of them may begin.
    room: Arc<Semaphore>,
}

/// A session that holds listings. If it is lost, its listings are lost, too, and a new session takes its place.
struct Session {
    link: Arc<Link>,
    /// Takes cursors that nobody needs any more.
    ended: mpsc::UnboundedSender<(usize, OwnedSemaphorePermit)>,
    next: parking_lot::Mutex<usize>,
    /// One copy at a time: so pages wait for one at most, and a caller that leaves while it waits asks for none.
    copying: Mutex<()>,
}

/// A copy under way, which is cancelled on drop. PostgreSQL's own timeout does not cover it, since it is made at the
/// end of its transaction.
struct Copying(Option<Arc<Link>>);

impl Drop for Copying {
    fn drop(&mut self) {
        if let Some(link) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { link.cancel().await });
        }
    }
}

impl Session {
    async fn new(connector: &Connector) -> Result<Self, Fault> {
        let link = connector.connect().await?.patient(COPYING + Duration::from_secs(1));
        connector.look(&link).await?.read()?;
        let settings = format!("{SESSION}; {SNAPSHOTS}; SET statement_timeout = {}", COPYING.as_millis());
        link.timed(link.client.batch_execute(&settings)).await.map_err(|broken| broken.fault)?;
        let (link, (ended, mut cursors)) = (Arc::new(link), mpsc::unbounded_channel());
        let closing = link.clone();
        tokio::spawn(async move {
            while let Some((number, room)) = cursors.recv().await {
                // With the session its cursors are gone, too.
                let _ = closing.timed(closing.client.batch_execute(&format!("CLOSE listing_{number}"))).await;
                drop(room);
            }
        });
        Ok(Session { link, ended, next: parking_lot::Mutex::default(), copying: Mutex::default() })
    }

    async fn query(&self, statements: &str) -> Result<Vec<SimpleQueryRow>, Broken> {
        let messages = self.link.timed(self.link.client.simple_query(statements)).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }
}

impl Listings {
    pub(super) fn new(connector: Connector) -> Self {
        Listings { connector, sessions: Default::default(), room: Arc::new(Semaphore::new(LISTINGS)) }
    }

    /// Begins a listing of the accounts whose ids begin with `prefix`. Asks once more when its session turns out to be
    /// gone, and not when it takes too long.
    pub(super) async fn begin(&self, prefix: &str) -> Result<Listing, PgError> {
        let began = Instant::now();
        match self.try_begin(prefix).await? {
            Err(broken) if broken.lost && began.elapsed() < COPYING => {
                self.try_begin(prefix).await?.map_err(|broken| broken.fault.into())
            }
            begun => begun.map_err(|broken| broken.fault.into()),
        }
    }

    async fn try_begin(&self, prefix: &str) -> Result<Result<Listing, Broken>, PgError> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| PgError::Listings { limit: LISTINGS })?;
        // The second session is for listings that begin while others exist.
        let session = self.session((self.room.available_permits() + 1) % SESSIONS).await?;
        let number = {
            let mut next = session.next.lock();
            *next += 1;
            *next
        };
        // Made before the query: a caller that leaves meanwhile leaves no cursor behind.
        let cursor = Cursor { session, number, room: Some(room) };
        let begun = {
            let _one = cursor.session.copying.lock().await;
            let mut copying = Copying(Some(cursor.session.link.clone()));
            let begun = cursor.session.query(&declare(number, prefix)).await;
            if begun.is_ok() {
                copying.0 = None;
            }
            begun
        };
        Ok(begun.map(|rows| {
            let sequence = rows.first().and_then(|row| row.get(0)?.parse().ok()).unwrap_or(0);
            Listing { cursor, sequence }
        }))
    }

    async fn session(&self, which: usize) -> Result<Arc<Session>, PgError> {
        self.connector.standing().read()?;
        let connector = self.connector.clone();
        let is_of_use = |session: &Session| !session.link.is_closed();
        self.sessions[which].get(is_of_use, async move { Ok(Session::new(&connector).await?) }).await
    }
}

/// Accounts at one commit sequence, page by page: a copy that PostgreSQL keeps until this is dropped.
pub struct Listing {
    cursor: Cursor,
    sequence: u64,
}

struct Cursor {
    session: Arc<Session>,
    number: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            // The receiver is gone with the runtime, and so is the session.
            let _ = self.session.ended.send((self.number, room));
        }
    }
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Listing {
    /// The commit sequence that it shows.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Up to `limit` accounts in the order of their ids, after the first `skipped` ones.
    ///
    /// # Errors
    /// [`PgError`]: the listing is over.
    pub async fn page(&self, skipped: u64, limit: usize) -> Result<Vec<AccountState>, PgError> {
        if limit == 0 {
            // PostgreSQL would return the last row again.
            return Ok(Vec::new());
        }
        let Cursor { session, number, .. } = &self.cursor;
        // PostgreSQL counts rows of a cursor in 32 bits.
        let (skipped, limit) = (skipped.min(i32::MAX as u64), limit.min(i32::MAX as usize));
        let statements =
            format!("MOVE ABSOLUTE {skipped} IN listing_{number}; FETCH FORWARD {limit} FROM listing_{number}");
        let rows = session.query(&statements).await.map_err(|broken| broken.fault)?;
        rows.iter().map(|row| state(row).map_err(|what| PgError::Failed { what })).collect()
    }
}

/// Tells the sequence and copies the accounts of the same snapshot.
fn declare(number: usize, prefix: &str) -> String {
    let before = past(prefix).map(|past| format!("AND p.sku < {}", literal(&past))).unwrap_or_default();
    format!(
        "{SEQUENCE};
        DECLARE listing_{number} SCROLL CURSOR WITH HOLD FOR
            SELECT p.sku, p.current_stock, p.version, c.first_sequence + p.place
            FROM products p LEFT JOIN commits c ON c.batch = p.batch
            WHERE p.sku >= {} {before} ORDER BY p.sku",
        literal(prefix)
    )
}

/// A text in SQL, whatever is in it and however the server reads backslashes.
fn literal(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("convert_from(decode('{hex}', 'hex'), 'UTF8')")
}

/// The least text that is greater than all that begin with `prefix`, in order of bytes; None: there is none.
fn past(prefix: &str) -> Option<String> {
    let (at, next) = prefix.char_indices().rev().find_map(|(at, last)| Some((at, (last..=char::MAX).nth(1)?)))?;
    Some(format!("{}{next}", &prefix[..at]))
}

fn state(row: &SimpleQueryRow) -> Result<AccountState, String> {
    let id = sku(row.get(0).unwrap_or_default())?;
    let number = |column: usize| match row.get(column).map(str::parse::<i64>) {
        Some(number) => number.map_err(|error| error.to_string()),
        // A row written by hand has no place in the journal.
        None => Ok(0),
    };
    let (version, sequence) = (number(2)?.cast_unsigned(), number(3)?.cast_unsigned());
    Ok(AccountState { id, balance: number(1)?, version, sequence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_prefix() {
        let cases = [
            ("", None),
            ("a", Some("b")),
            ("a\u{d7ff}", Some("a\u{e000}")),
            ("a\u{10ffff}\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
            ("é'\\", Some("é']")),
        ];
        for (prefix, after) in cases {
            assert_eq!(past(prefix).as_deref(), after, "{prefix:?}");
        }
        assert_eq!(literal("é'"), "convert_from(decode('c3a927', 'hex'), 'UTF8')");
    }
}
