//! The journal as watchers read it: those that want the same page share one query.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::WeakShared;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::error::PgError;
use super::link::Connector;
use super::read::Reader;
use super::shared::{Answer, Answering, asked};
use crate::HistoryGone;
use crate::outcome::Record;

/// How often the journal's end is polled, for all watchers together.
const LOOK_EVERY: Duration = Duration::from_millis(100);

type Page = Arc<[Arc<Record>]>;
/// By the first sequence and the most entries.
type UnderWay = HashMap<(u64, usize), WeakShared<Answering<Page>>>;

/// The journal, on a connection of its own: nobody's balance waits behind a page of it.
pub(super) struct History {
    reader: Arc<Reader>,
    pages: Mutex<UnderWay>,
    newest: Mutex<Option<(Instant, Answer<u64>)>>,
}

impl History {
    pub(super) fn new(connector: Connector) -> Self {
        History { reader: Arc::new(Reader::new(connector)), pages: Mutex::default(), newest: Mutex::default() }
    }

    /// Up to `limit` journal entries without a gap, from sequence `from` on (0: the first). Entries committed a moment
    /// ago may be missing.
    pub(super) async fn read(&self, from: u64, limit: usize) -> Result<Vec<Arc<Record>>, PgError> {
        let page = self.page(from, limit).await?;
        let first = page.first().filter(|_| from == 0).map_or(from, |first| first.sequence);
        Ok(dense(&page, first)?.iter().take(limit).cloned().collect())
    }

    /// As [`Reader::history`].
    async fn page(&self, from: u64, limit: usize) -> Result<Page, PgError> {
        let page = {
            let mut pages = self.pages.lock();
            pages.retain(|_, page| page.upgrade().is_some_and(|page| page.peek().is_none()));
            let under_way = pages.get(&(from, limit)).and_then(WeakShared::upgrade);
            under_way.unwrap_or_else(|| {
                let reader = self.reader.clone();
                let page = asked(async move { reader.history(from, limit).await.map(Page::from) });
                pages.extend(page.downgrade().map(|page| ((from, limit), page)));
                page
            })
        };
        page.await
    }

    /// Up to `limit` entries without a gap, from `next` on; waits for the first. `told` is the time of the entry
    /// before, if the caller was told that entry.
    pub(super) async fn follow(&self, next: u64, told: Option<u64>, limit: usize) -> Result<Vec<Arc<Record>>, PgError> {
        let before = told.map(|time| (next.saturating_sub(1), time));
        loop {
            let page = match before {
                None => self.page(next, limit).await?,
                Some((sequence, _)) => self.page(sequence, limit.saturating_add(1)).await?,
            };
            let mut entries = &page[..];
            if let Some((sequence, time)) = before {
                match entries.split_first() {
                    Some((last, rest)) if (last.sequence, last.time) == (sequence, time) => entries = rest,
                    _ => return Err(PgError::PutBack { sequence }),
                }
            }
            let dense = dense(entries, next)?;
            if !dense.is_empty() {
                return Ok(dense.iter().take(limit).cloned().collect());
            }
            // Wait before reading another page, too: the newest sequence may lie past entries that somebody removed or
            // skipped.
            loop {
                sleep(LOOK_EVERY).await;
                let newest = self.newest().await?;
                // If the journal now ends before what was told, it was put back: reading the page reports that.
                if newest >= next || before.is_some_and(|(told, _)| newest < told) {
                    break;
                }
            }
        }
    }

    /// The newest sequence, as it was a moment ago.
    fn newest(&self) -> Answer<u64> {
        let mut newest = self.newest.lock();
        match &*newest {
            Some((since, answer)) if since.elapsed() < LOOK_EVERY => answer.clone(),
            _ => {
                let reader = self.reader.clone();
                let answer = asked(async move { reader.sequence().await });
                newest.insert((Instant::now(), answer)).1.clone()
            }
        }
    }
}

/// The leading entries that have consecutive sequences, from `next` on.
fn dense(entries: &[Arc<Record>], next: u64) -> Result<&[Arc<Record>], HistoryGone> {
    let dense = entries.iter().zip(next..).take_while(|(record, sequence)| record.sequence == *sequence).count();
    match entries.first() {
        Some(first) if dense == 0 => Err(HistoryGone { oldest: first.sequence }),
        _ => Ok(&entries[..dense]),
    }
}
