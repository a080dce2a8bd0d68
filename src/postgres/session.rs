//! The committer's session with PostgreSQL.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::batch::{Changes, Committed, Found, Written};
use super::database::{Database, Fault};
use super::link::{Broken, Connector, Link, column};
use super::locked::{Holder, Locked};
use super::sql::{self, Statements};
use super::{rows, write};
use crate::account::{AccountId, Balance, TransactionId};
use crate::inventory::{DeadLetter, Position, StoredDeadLetter};

/// The block of batch numbers that one draw brings, as the sequence `ledger_batches` says.
const NUMBERS: i64 = 1024;

/// The most blocks that are drawn at once.
const BLOCKS: i64 = 1 << 16;

/// After a batch that did not find what it expected, this many are written in two round trips: while others interfere,
/// that is cheaper than writing twice.
const CAUTIOUS: u32 = 64;

/// About how many bytes of dead letters are read at once.
const LETTERS: i64 = 16 << 20;

/// How long letters are one publisher's to publish: see [`crate::inventory::Store::dead_letters`].
const LEASE: Duration = Duration::from_secs(45);

/// The first pause after a fault, and the longest one.
const PAUSES: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

/// What is said where there is no connection.
const GONE: &str = "there is no connection";

/// A session, with or without a connection.
pub(super) struct Session {
    connector: Connector,
    /// The connection, or why there is none.
    open: Result<Open, String>,
    numbers: Range<i64>,
    /// How many blocks of numbers are drawn next: twice as many after each block that turned out to be taken.
    blocks: i64,
    /// Whether [`Database::look_up`] has begun a transaction.
    begun: bool,
    /// How many more batches are written in two round trips.
    cautious: u32,
    /// Whether all other connections are replaced along with its own.
    leads: bool,
    /// The session's identity as a publisher of dead letters, whatever connection it has.
    holder: i64,
    /// The dead letters that it got last: number, topic, partition, offset and time.
    lent: Vec<(i64, String, i32, i64, Option<i64>)>,
    patience: Duration,
    /// When patience with the present piece of work is over.
    latest: Instant,
}

struct Open {
    link: Link,
    statements: Statements,
}

impl Session {
    /// The session that writes.
    pub(super) fn leading(connector: Connector, patience: Duration) -> Self {
        Session { leads: true, ..Session::beside(connector, patience) }
    }

    /// One that looks up beside it.
    pub(super) fn beside(connector: Connector, patience: Duration) -> Self {
        Session {
            connector,
            open: Err(GONE.to_owned()),
            numbers: 0..0,
            blocks: 1,
            begun: false,
            cautious: 0,
            leads: false,
            holder: RandomState::new().hash_one(()).cast_signed(),
            lent: Vec::new(),
            patience,
            latest: Instant::now(),
        }
    }

    pub(super) async fn connect(&mut self) -> Result<(), Fault> {
        self.begun = false;
        match Box::pin(self.make()).await {
            Ok(open) => self.open = Ok(open),
            Err(fault) => {
                self.open = Err(format!("{GONE}: {}", fault.what()));
                return Err(fault);
            }
        }
        Ok(())
    }

    async fn make(&self) -> Result<Open, Fault> {
        let link = self.connector.connect().await?;
        // Before the statements are prepared: a schema that is being restored lacks parts of itself.
        let standing = self.connector.look(&link).await?;
        standing.write()?;
        let prepared = link.timed(async {
            link.client.batch_execute(sql::SESSION).await?;
            Box::pin(Statements::prepare(&link.client, standing.ledger)).await
        });
        let statements = prepared.await.map_err(|broken| broken.fault)?;
        Ok(Open { link, statements })
    }

    fn open(&self) -> Result<&Open, Fault> {
        self.connector.standing().write()?;
        match &self.open {
            Ok(open) if !open.link.is_closed() => Ok(open),
            Ok(_) => Err(Fault::Unavailable(GONE.to_owned())),
            Err(why) => Err(Fault::Unavailable(why.clone())),
        }
    }

    /// The answer, or the fault. After a fault there is no transaction, and perhaps no connection.
    async fn clear<T>(&mut self, result: Result<T, Broken>) -> Result<T, Fault> {
        match result {
            Ok(answer) => Ok(answer),
            Err(Broken { fault, lost: true, .. }) => {
                self.open = Err(GONE.to_owned());
                self.begun = false;
                Err(fault)
            }
            Err(Broken { fault, lost: false, .. }) => {
                self.roll_back().await;
                if let Fault::Numbered(what) = &fault {
                    self.numbers = 0..0;
                    if self.blocks == BLOCKS {
                        return Err(Fault::Failed(format!("the sequence ledger_batches is far behind: {what}")));
                    }
                    self.blocks *= 2;
                }
                Err(fault)
            }
        }
    }

    /// Without a connection there is no transaction either.
    async fn roll_back(&mut self) {
        self.begun = false;
        let rolled_back = match &self.open {
            Ok(Open { link, .. }) => link.timed(link.client.batch_execute("ROLLBACK")).await.is_ok(),
            Err(_) => true,
        };
        if !rolled_back {
            self.open = Err(GONE.to_owned());
        }
    }

    async fn read(&mut self, accounts: &[AccountId], ids: &[TransactionId], lock: bool) -> Result<Found, Broken> {
        let Open { link, statements } = self.open.as_ref().map_err(|why| Broken::lost(why))?;
        let names: Vec<&str> = accounts.iter().map(AccountId::as_str).collect();
        let ids: Vec<&str> = ids.iter().map(TransactionId::as_str).collect();
        let client = &link.client;
        let begin = async { if lock { client.batch_execute(sql::BEGIN).await } else { Ok(()) } };
        // The sequence is read first: an account that is then not found did not exist at that sequence.
        let sequence = client.query_one(&statements.sequence, &[]);
        let by_name = if lock { &statements.accounts_locked } else { &statements.accounts };
        let accounts = async { if names.is_empty() { Ok(Vec::new()) } else { client.query(by_name, &[&names]).await } };
        let used = async { if ids.is_empty() { Ok(Vec::new()) } else { client.query(&statements.ids, &[&ids]).await } };
        let answers = async {
            let ((begun, sequence), (accounts, used)) = join(join(begin, sequence), join(accounts, used)).await;
            begun?;
            Ok((sequence?, accounts?, used?))
        };
        let (sequence, accounts, used) = link.timed(answers).await?;
        let mut found = Found { sequence: column::<i64>(&sequence, 0)?.cast_unsigned(), ..Found::default() };
        for row in &accounts {
            let (id, state) = account(row).map_err(Fault::Failed)?;
            found.accounts.insert(id, state);
        }
        found.ids = rows::ids(rows::records(&used).map_err(Fault::Failed)?);
        Ok(found)
    }

    async fn ask_locked(&mut self, rows: &Locked) -> Result<Locked, Broken> {
        let Open { link, .. } = self.open.as_ref().map_err(|why| Broken::lost(why))?;
        let names: Vec<&str> = rows.accounts.keys().map(AccountId::as_str).collect();
        let ids: Vec<&str> = rows.ids.keys().map(TransactionId::as_str).collect();
        let (topics, partitions): (Vec<_>, Vec<_>) = rows.partitions.keys().map(|(topic, it)| (topic, *it)).unzip();
        link.timed(link.client.batch_execute(sql::BEGIN)).await?;
        let accounts = link.timed(link.client.query(sql::LOCKED_ACCOUNTS, &[&names])).await?;
        let offsets = link.timed(link.client.query(sql::LOCKED_OFFSETS, &[&topics, &partitions])).await?;
        // What was free is not kept from others meanwhile.
        link.timed(link.client.batch_execute(&format!("ROLLBACK; {}; {}", sql::BEGIN, sql::DISPUTE))).await?;
        let disputed = link.timed(link.client.query_one(sql::IN_DISPUTE, &[&names, &ids])).await?;
        link.timed(link.client.batch_execute("ROLLBACK")).await?;
        let mut locked = Locked::default();
        for row in &accounts {
            locked.accounts.extend(AccountId::new(column::<&str>(row, 0)?).ok().zip(column(row, 1)?));
        }
        for row in &offsets {
            locked.partitions.insert((column(row, 0)?, column(row, 1)?), column(row, 2)?);
        }
        let new = column::<Vec<&str>>(&disputed, 0)?.into_iter().filter_map(|sku| AccountId::new(sku).ok());
        locked.accounts.extend(new.map(|account| (account, Holder::new())));
        let used = column::<Vec<&str>>(&disputed, 1)?.into_iter().filter_map(|id| TransactionId::new(id).ok());
        locked.ids.extend(used.map(|id| (id, Holder::new())));
        Ok(locked)
    }

    /// Writes and, if all is as expected, commits.
    async fn keep(&mut self, changes: &Changes, trial: bool) -> Result<Written, Broken> {
        let Open { link, statements } = self.open.as_ref().map_err(|why| Broken::lost(why))?;
        self.cautious = self.cautious.saturating_sub(1);
        if self.cautious == 0 && !self.begun && !trial {
            if let Some(committed) = write::write_surely(link, statements, changes).await? {
                return Ok(Written::Committed(committed));
            }
            // COMMIT did, if nobody cancelled that.
            link.timed(link.client.batch_execute("ROLLBACK")).await?;
            self.cautious = CAUTIOUS;
        }
        let mut missed = write::write_rows(link, statements, changes, self.begun).await?;
        let as_expected = missed.accounts.is_empty() && !missed.ids && !missed.recalled && missed.offsets.is_empty();
        if as_expected && !trial {
            return Ok(Written::Committed(write::commit(link, statements, changes).await?));
        }
        link.timed(link.client.batch_execute("ROLLBACK")).await?;
        if as_expected {
            return Ok(Written::Tried);
        }
        if !missed.offsets.is_empty() {
            write::read_offsets(link, statements, &mut missed.offsets).await?;
        }
        Ok(Written::Missed(missed))
    }

    async fn ask_fate(&mut self, changes: &Changes) -> Result<Option<Committed>, Broken> {
        let number = changes.number;
        let Open { link, statements } = self.open.as_ref().map_err(|why| Broken::lost(why))?;
        let given_up = write::change(link, &statements.give_up, &[&number]).await?;
        if !given_up.is_empty() {
            return Ok(None);
        }
        let count = changes.records.len() as i64;
        let time = changes.records.first().map_or(0, |record| record.time).cast_signed();
        let row = link.timed(link.client.query_opt(&statements.fate, &[&number, &count, &time])).await?;
        Ok(row.as_ref().map(write::committed).transpose()?)
    }

    /// Names a dead letter that is left, if nobody can read it.
    async fn say_unreadable(&mut self) -> Result<(), Fault> {
        let Open { link, .. } = self.open()?;
        let found = link.timed(link.client.query_opt(sql::UNREADABLE, &[])).await;
        match self.clear(found).await? {
            Some(row) => {
                let number: i64 = column(&row, 0)?;
                let what = format!("the header_names of the letter {number} in dead_letters have a null");
                Err(Fault::Failed(what))
            }
            None => Ok(()),
        }
    }

    /// Runs one statement that writes, in a transaction of its own.
    async fn change(
        &mut self,
        statement: impl Fn(&Statements) -> &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        debug_assert!(!self.begun, "its COMMIT would end what was begun");
        let Open { link, statements } = self.open()?;
        let changed = write::change(link, statement(statements), params).await;
        self.clear(changed).await
    }
}

impl Database for Session {
    async fn number(&mut self) -> Result<i64, Fault> {
        if self.numbers.is_empty() {
            let blocks = self.blocks;
            let rows = self.change(|statements| &statements.numbers, &[&blocks]).await?;
            let first: i64 = rows.first().map_or(Ok(0), |row| column(row, 0))?;
            self.numbers = first..first.saturating_add(NUMBERS);
        }
        let number = self.numbers.start;
        self.numbers.start += 1;
        Ok(number)
    }

    async fn look_up(&mut self, accounts: &[AccountId], ids: &[TransactionId], lock: bool) -> Result<Found, Fault> {
        self.open()?;
        let found = self.read(accounts, ids, lock).await;
        self.begun = lock;
        self.clear(found).await
    }

    async fn locked(&mut self, rows: &Locked) -> Result<Locked, Fault> {
        self.open()?;
        let locked = self.ask_locked(rows).await;
        self.clear(locked).await
    }

    async fn holds(&mut self, recalled: &[(TransactionId, u64)]) -> Result<bool, Fault> {
        let Open { link, statements } = self.open()?;
        let held = write::holds(link, statements, recalled).await;
        self.clear(held).await
    }

    async fn release(&mut self) -> Result<(), Fault> {
        self.roll_back().await;
        Ok(())
    }

    async fn write(&mut self, changes: &Changes, trial: bool) -> Result<Written, Fault> {
        self.open()?;
        let written = self.keep(changes, trial).await;
        self.begun = false;
        if written.is_ok() {
            self.blocks = 1;
        }
        self.clear(written).await
    }

    async fn fate(&mut self, changes: &Changes) -> Result<Option<Committed>, Fault> {
        self.open()?;
        let fate = self.ask_fate(changes).await;
        self.clear(fate).await
    }

    fn is_connected(&self) -> bool {
        self.open().is_ok()
    }

    async fn recover(&mut self, faults: u32) -> bool {
        if faults == 0 {
            self.latest = Instant::now() + self.patience;
        }
        let mut tries = faults;
        loop {
            let pause = pause(tries);
            if Instant::now() + pause > self.latest {
                return false;
            }
            sleep(pause).await;
            if self.is_connected() {
                return true;
            }
            if self.leads {
                // An older connection may lead to a server that is no longer the primary.
                self.connector.renew();
            }
            if self.connect().await.is_ok() {
                return true;
            }
            tries = tries.saturating_add(1);
        }
    }

    async fn take_over(&mut self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, Fault> {
        let rows = self.change(|statements| &statements.take_over, &[&topic, &partitions]).await?;
        let position = |row: &Row| {
            let (partition, epoch) = (column(row, 0)?, column(row, 1)?);
            Ok(Position { partition, epoch, next: column(row, 2)?, fingerprint: column(row, 3)? })
        };
        rows.iter().map(position).collect()
    }

    async fn dead_letters(&mut self, limit: usize) -> Result<Vec<StoredDeadLetter>, Fault> {
        let (limit, holder) = (i64::try_from(limit).unwrap_or(i64::MAX), self.holder);
        // Read after the claim, so none of them was removed by the former publisher.
        if self.change(|statements| &statements.publish, &[&holder, &LEASE.as_secs_f64()]).await?.is_empty() {
            return Ok(Vec::new());
        }
        let Open { link, statements } = self.open()?;
        let rows = link.timed(link.client.query(&statements.letters, &[&limit, &LETTERS])).await;
        let rows = self.clear(rows).await?;
        if rows.is_empty() {
            self.say_unreadable().await?;
        }
        let letters = rows.iter().map(letter).collect::<Result<Vec<_>, _>>()?;
        let place = |stored: &StoredDeadLetter| {
            let DeadLetter { topic, partition, offset, timestamp, .. } = &stored.letter;
            (stored.number, topic.clone(), *partition, *offset, *timestamp)
        };
        self.lent = letters.iter().map(place).collect();
        Ok(letters)
    }

    async fn published(&mut self, numbers: &[i64]) -> Result<(), Fault> {
        let holder = self.holder;
        let sent: Vec<_> = self.lent.iter().filter(|(number, ..)| numbers.contains(number)).collect();
        let number: Vec<_> = sent.iter().map(|it| it.0).collect();
        let topic: Vec<_> = sent.iter().map(|it| it.1.clone()).collect();
        let partition: Vec<_> = sent.iter().map(|it| it.2).collect();
        let offset: Vec<_> = sent.iter().map(|it| it.3).collect();
        let time: Vec<_> = sent.iter().map(|it| it.4).collect();
        let columns: [&(dyn ToSql + Sync); 6] = [&number, &topic, &partition, &offset, &time, &holder];
        self.change(|statements| &statements.published, &columns).await.map(drop)
    }
}

/// Twice as long with every try, give or take a quarter.
fn pause(tries: u32) -> Duration {
    let pause = PAUSES.start.saturating_mul(1 << tries.min(10)).min(PAUSES.end);
    let jitter = RandomState::new().hash_one(tries) % 512;
    pause.mul_f64(0.75 + jitter as f64 / 1024.0)
}

/// The key of a row of `products`.
pub(super) fn sku(text: &str) -> Result<AccountId, String> {
    AccountId::new(text).map_err(|error| format!("the row of {text:?} in products: {error}"))
}

/// A row of `products`.
pub(super) fn account(row: &Row) -> Result<(AccountId, Balance), String> {
    let id = sku(row.try_get("sku").map_err(|error| error.to_string())?)?;
    let number = |column: &str| row.try_get::<_, i64>(column).map_err(|error| error.to_string());
    Ok((id, Balance { amount: number("current_stock")?, version: number("version")?.cast_unsigned() }))
}

fn letter(row: &Row) -> Result<StoredDeadLetter, Fault> {
    let names: Vec<Vec<u8>> = column(row, "header_names")?;
    let values: Vec<Option<Vec<u8>>> = column(row, "header_values")?;
    let names = names.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned());
    let letter = DeadLetter {
        topic: column(row, "topic")?,
        partition: column(row, "partition")?,
        offset: column(row, "kafka_offset")?,
        timestamp: column(row, "record_time")?,
        key: column(row, "key")?,
        value: column(row, "value")?,
        headers: names.zip(values).collect(),
        reason: column(row, "reason")?,
    };
    Ok(StoredDeadLetter { number: column(row, "number")?, letter })
}
