//! Writes a batch: in one round trip as long as nobody interferes, otherwise in two, for the rows and for the commit.

use std::collections::HashSet;

use futures_util::future::{BoxFuture, join_all, join3};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};

use super::batch::{AccountChange, Changes, Committed, Missed, OffsetFound};
use super::database::Fault;
use super::link::{Broken, Link, column};
use super::rows::{Entries, shorten};
use super::sql::{self, Statements, Writing};
use crate::account::TransactionId;
use crate::inventory::DeadLetter;

type Params<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// What a statement is about.
#[derive(Clone, Copy)]
enum Part {
    Recalled,
    Expected,
    Opened,
    Changed,
    Ids,
    Offsets,
    Drawn,
    Rest,
}

/// What a statement came to.
enum Done {
    Count(u64),
    Rows(Vec<Row>),
}

/// Statements that are sent together, in their order, and whose answers are awaited together.
struct Pipeline<'a> {
    link: &'a Link,
    parts: Vec<Part>,
    answers: Vec<BoxFuture<'a, Result<Done, Error>>>,
}

impl<'a> Pipeline<'a> {
    fn plain(&mut self, statement: &'static str) {
        let client = &self.link.client;
        self.parts.push(Part::Rest);
        self.answers.push(Box::pin(async { client.batch_execute(statement).await.map(|()| Done::Count(0)) }));
    }

    fn count(&mut self, part: Part, statement: &'a Statement, params: Params<'a>) {
        let client = &self.link.client;
        self.parts.push(part);
        self.answers.push(Box::pin(async move { client.execute(statement, &params).await.map(Done::Count) }));
    }

    fn rows(&mut self, part: Part, statement: &'a Statement, params: Params<'a>) {
        let client = &self.link.client;
        self.parts.push(part);
        self.answers.push(Box::pin(async move { client.query(statement, &params).await.map(Done::Rows) }));
    }

    /// Waits for the answers. If several statements failed, the first error counts.
    async fn answers(self) -> Result<Vec<(Part, Done)>, Broken> {
        // Polled in order; each is sent when it is polled first.
        let answers = async { join_all(self.answers).await.into_iter().collect::<Result<Vec<_>, _>>() };
        Ok(self.parts.into_iter().zip(self.link.timed(answers).await?).collect())
    }
}

/// The columns of accounts that are written.
#[derive(Default)]
struct Columns<'a> {
    id: Vec<&'a str>,
    stock: Vec<i64>,
    version: Vec<i64>,
    event: Vec<Option<&'a str>>,
    place: Vec<i32>,
    /// Before the change; nothing where there was no row.
    expected_stock: Vec<i64>,
    expected_version: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, change: &'a AccountChange) {
        self.id.push(change.id.as_str());
        self.stock.push(change.after.amount);
        self.version.push(change.after.version.cast_signed());
        self.event.push(change.event.as_ref().map(|event| event.as_str()));
        self.place.push(change.place as i32);
        if let Some(before) = change.before {
            self.expected_stock.push(before.amount);
            self.expected_version.push(before.version.cast_signed());
        }
    }

    fn params<'p>(&'p self, batch: &'p i64) -> Params<'p> {
        vec![&self.id, &self.stock, &self.version, &self.event, &self.place, batch]
    }
}

/// The columns of ids.
#[derive(Default)]
struct Ids<'a> {
    id: Vec<&'a str>,
    account: Vec<&'a str>,
    place: Vec<i32>,
    /// Left out at the end: the first.
    member: Vec<Option<i32>>,
}

/// The columns of ids that are remembered as used.
struct Recalled<'a> {
    id: Vec<&'a str>,
    sequence: Vec<i64>,
}

impl<'a> Recalled<'a> {
    fn new(recalled: &'a [(TransactionId, u64)]) -> Self {
        let (id, sequence) = recalled.iter().map(|(id, sequence)| (id.as_str(), sequence.cast_signed())).unzip();
        Recalled { id, sequence }
    }
}

/// The columns of offsets.
#[derive(Default)]
struct Offsets<'a> {
    topic: Vec<&'a str>,
    partition: Vec<i32>,
    epoch: Vec<i64>,
    from: Vec<Option<i64>>,
    next: Vec<i64>,
    fingerprint: Vec<i64>,
}

/// One dead letter's columns.
struct Letter<'a> {
    letter: &'a DeadLetter,
    names: Vec<&'a [u8]>,
    values: Vec<Option<&'a [u8]>>,
    reason: String,
}

impl<'a> Letter<'a> {
    fn new(letter: &'a DeadLetter) -> Self {
        Letter {
            letter,
            names: letter.headers.iter().map(|(name, _)| name.as_bytes()).collect(),
            values: letter.headers.iter().map(|(_, value)| value.as_deref()).collect(),
            // No text of PostgreSQL may hold it.
            reason: letter.reason.replace('\0', "\u{fffd}"),
        }
    }
}

/// Runs one statement that writes, in a transaction of its own.
pub(super) async fn change(
    link: &Link,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Broken> {
    let client = &link.client;
    let answers = async {
        let (begin, commit) = (client.batch_execute(sql::BEGIN), client.batch_execute("COMMIT"));
        let (begun, rows, committed) = join3(begin, client.query(statement, params), commit).await;
        begun?;
        let rows = rows?;
        committed?;
        Ok(rows)
    };
    link.timed(answers).await
}

/// Whether these ids were used by these commit sequences.
pub(super) async fn holds(
    link: &Link,
    statements: &Statements,
    recalled: &[(TransactionId, u64)],
) -> Result<bool, Broken> {
    let Recalled { id, sequence } = Recalled::new(recalled);
    let rows = link.timed(link.client.query(&statements.asking.recalled, &[&id, &sequence])).await?;
    Ok(rows.len() == id.len())
}

/// Writes all rows of a batch, in a transaction that it begins if necessary and leaves open. Returns whether everything
/// was as expected.
pub(super) async fn write_rows(
    link: &Link,
    statements: &Statements,
    changes: &Changes,
    begun: bool,
) -> Result<Missed, Broken> {
    let columns = Batch::new(changes);
    let mut pipeline = Pipeline { link, parts: Vec::new(), answers: Vec::new() };
    if !begun {
        pipeline.plain(sql::BEGIN);
    }
    columns.queue(&mut pipeline, statements, &statements.asking, &changes.number, None);
    let answers = pipeline.answers().await?;
    Ok(columns.missed(answers)?)
}

/// Writes all rows of a batch and commits, in one round trip; None: all was rolled back, since something is not as
/// expected. What is sent here may be kept although no answer comes.
pub(super) async fn write_surely(
    link: &Link,
    statements: &Statements,
    changes: &Changes,
) -> Result<Option<Committed>, Broken> {
    let columns = Batch::new(changes);
    let expected = columns.expected();
    let drawing = Drawing::new(changes, statements);
    let mut pipeline = Pipeline { link, parts: Vec::new(), answers: Vec::new() };
    pipeline.plain(sql::BEGIN);
    columns.queue(&mut pipeline, statements, &statements.surely, &changes.number, Some(&expected));
    if let Some(lock) = drawing.lock(statements) {
        pipeline.rows(Part::Rest, lock, Params::new());
    }
    let (drawn, params) = drawing.statement(statements);
    pipeline.rows(Part::Drawn, drawn, params);
    pipeline.plain("COMMIT");
    let answers = match pipeline.answers().await {
        // Where a statement failed, COMMIT rolled back.
        Err(Broken { unexpected: true, .. }) => return Ok(None),
        answers => answers.map_err(unknown)?,
    };
    let drawn = answers.iter().find_map(|(part, done)| match (part, done) {
        (Part::Drawn, Done::Rows(rows)) => rows.first(),
        _ => None,
    });
    let drawn = drawn.ok_or_else(|| unknown(Broken::lost("it drew no sequence")))?;
    Ok(Some(committed(drawn)?))
}

/// A batch as columns.
struct Batch<'a> {
    expected_id: Vec<&'a str>,
    expected_stock: Vec<i64>,
    expected_version: Vec<i64>,
    opened: Columns<'a>,
    changed: Columns<'a>,
    ids: Ids<'a>,
    offsets: Offsets<'a>,
    entries: Entries<'a>,
    letters: Vec<Letter<'a>>,
    recalled: Recalled<'a>,
}

impl<'a> Batch<'a> {
    fn new(changes: &'a Changes) -> Self {
        let (mut expected_id, mut expected_stock, mut expected_version) = (Vec::new(), Vec::new(), Vec::new());
        let (mut opened, mut changed) = (Columns::default(), Columns::default());
        for change in &changes.accounts {
            let Some(before) = change.before else {
                opened.push(change);
                continue;
            };
            expected_id.push(change.id.as_str());
            expected_stock.push(before.amount);
            expected_version.push(before.version.cast_signed());
            if before != change.after {
                changed.push(change);
            }
        }
        let mut ids = Ids::default();
        for used in &changes.ids {
            ids.id.push(used.id.as_str());
            ids.account.push(used.account.as_str());
            ids.place.push(used.place as i32);
            ids.member.push((used.member > 0).then_some(used.member as i32));
        }
        shorten(&mut ids.member);
        let mut offsets = Offsets::default();
        for offset in &changes.offsets {
            offsets.topic.push(&offset.topic);
            offsets.partition.push(offset.partition);
            offsets.epoch.push(offset.epoch);
            offsets.from.push(offset.from);
            offsets.next.push(offset.next);
            offsets.fingerprint.push(offset.fingerprint);
        }
        Batch {
            expected_id,
            expected_stock,
            expected_version,
            opened,
            changed,
            ids,
            offsets,
            entries: Entries::new(&changes.records),
            letters: changes.letters.iter().map(Letter::new).collect(),
            recalled: Recalled::new(&changes.recalled),
        }
    }

    /// How many rows the statements are to find: accounts met, opened and changed, partitions, and ids recalled.
    fn expected(&self) -> [i64; 5] {
        let rows = [&self.expected_id, &self.opened.id, &self.changed.id, &self.offsets.topic, &self.recalled.id];
        rows.map(|rows| rows.len() as i64)
    }

    fn queue<'p>(
        &'p self,
        pipeline: &mut Pipeline<'p>,
        statements: &'p Statements,
        writing: &'p Writing,
        number: &'p i64,
        expected: Option<&'p [i64; 5]>,
    ) {
        let expecting = |mut params: Params<'p>, which: usize| {
            params.extend(expected.map(|expected| &expected[which] as &(dyn ToSql + Sync)));
            params
        };
        if !self.recalled.id.is_empty() {
            let recalled: Params<'p> = vec![&self.recalled.id, &self.recalled.sequence];
            pipeline.rows(Part::Recalled, &writing.recalled, expecting(recalled, 4));
        }
        if self.expected_id.len() > self.changed.id.len() {
            let met: Params<'p> = vec![&self.expected_id, &self.expected_stock, &self.expected_version];
            pipeline.rows(Part::Expected, &writing.lock_accounts, expecting(met, 0));
        }
        if !self.changed.id.is_empty() {
            let mut changed = self.changed.params(number);
            changed.extend([&self.changed.expected_stock as &(dyn ToSql + Sync), &self.changed.expected_version]);
            pipeline.count(Part::Changed, &writing.update_accounts, expecting(changed, 2));
        }
        if !self.opened.id.is_empty() {
            pipeline.count(Part::Opened, &writing.insert_accounts, expecting(self.opened.params(number), 1));
        }
        if !self.ids.id.is_empty() {
            let Ids { id, account, place, member } = &self.ids;
            pipeline.count(Part::Ids, &writing.insert_ids, vec![id, account, place, member, number]);
        }
        if !self.offsets.topic.is_empty() {
            let Offsets { topic, partition, epoch, from, next, fingerprint } = &self.offsets;
            let consumed: Params<'p> = vec![topic, partition, epoch, from, next, fingerprint];
            pipeline.rows(Part::Offsets, &writing.update_offsets, expecting(consumed, 3));
        }
        if !self.entries.place.is_empty() {
            pipeline.count(Part::Rest, &statements.insert_entries, self.entries.params(number));
        }
        for Letter { letter, names, values, reason } in &self.letters {
            let DeadLetter { topic, partition, offset, timestamp, key, value, .. } = letter;
            let letter: Params<'p> = vec![topic, partition, offset, timestamp, key, value, names, values, reason];
            pipeline.count(Part::Rest, &statements.insert_letter, letter);
        }
    }

    /// What was not as expected. The rows of partitions are not read yet.
    fn missed(&self, answers: Vec<(Part, Done)>) -> Result<Missed, Fault> {
        let mut missed = Missed::default();
        for (part, done) in &answers {
            match (part, done) {
                (Part::Expected, Done::Rows(rows)) if rows.len() < self.expected_id.len() => {
                    let found = rows.iter().map(|row| column(row, 0)).collect::<Result<HashSet<&str>, _>>()?;
                    let gone = self.expected_id.iter().filter(|id| !found.contains(**id));
                    missed.accounts.extend(gone.map(|id| (*id).to_owned()));
                }
                (Part::Opened, Done::Count(count)) if *count < self.opened.id.len() as u64 => {
                    missed.accounts.extend(self.opened.id.iter().map(|id| (*id).to_owned()));
                }
                (Part::Changed, Done::Count(count)) if *count < self.changed.id.len() as u64 => {
                    missed.accounts.extend(self.changed.id.iter().map(|id| (*id).to_owned()));
                }
                (Part::Recalled, Done::Rows(rows)) => missed.recalled = rows.len() < self.recalled.id.len(),
                (Part::Ids, Done::Count(count)) => missed.ids = *count < self.ids.id.len() as u64,
                (Part::Offsets, Done::Rows(rows)) if rows.len() < self.offsets.topic.len() => {
                    let stepped = rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?)));
                    let stepped = stepped.collect::<Result<HashSet<(&str, i32)>, Fault>>()?;
                    let asked = self.offsets.topic.iter().zip(&self.offsets.partition);
                    for (topic, partition) in
                        asked.filter(|(topic, partition)| !stepped.contains(&(*topic, **partition)))
                    {
                        let (topic, partition) = ((*topic).to_owned(), *partition);
                        missed.offsets.push(OffsetFound { topic, partition, epoch: -1, next: None });
                    }
                }
                _ => {}
            }
        }
        Ok(missed)
    }
}

/// Reads the rows of partitions that were missed. One without a row was never taken over by anybody.
pub(super) async fn read_offsets(
    link: &Link,
    statements: &Statements,
    missed: &mut [OffsetFound],
) -> Result<(), Broken> {
    let topics: Vec<&str> = missed.iter().map(|found| found.topic.as_str()).collect();
    let partitions: Vec<i32> = missed.iter().map(|found| found.partition).collect();
    let rows = link.timed(link.client.query(&statements.offsets, &[&topics, &partitions])).await?;
    for row in &rows {
        let (topic, partition): (&str, i32) = (column(row, 0)?, column(row, 1)?);
        if let Some(found) = missed.iter_mut().find(|found| found.topic == topic && found.partition == partition) {
            (found.epoch, found.next) = (column(row, 2)?, column(row, 3)?);
        }
    }
    Ok(())
}

/// Commits what was written. What is sent here may be kept although no answer comes.
pub(super) async fn commit(link: &Link, statements: &Statements, changes: &Changes) -> Result<Committed, Broken> {
    let drawing = Drawing::new(changes, statements);
    let (statement, params) = drawing.statement(statements);
    let answers = async {
        let lock = async {
            match drawing.lock(statements) {
                Some(lock) => link.client.query(lock, &[]).await.map(drop),
                None => Ok(()),
            }
        };
        let drawn = link.client.query_one(statement, &params);
        let (locked, drawn, committed) = join3(lock, drawn, link.client.batch_execute("COMMIT")).await;
        // If an earlier statement failed, the last one rolled back, and reports success.
        locked?;
        let drawn = drawn?;
        committed?;
        Ok(drawn)
    };
    match link.timed(answers).await {
        // All rows were as expected: so it is the table itself that is another one.
        Err(Broken { unexpected: true, .. }) => Err(Broken::lost("its tables are others than they were")),
        drawn => Ok(committed(&drawn.map_err(unknown)?)?),
    }
}

/// What the commit sequence is drawn with.
struct Drawing {
    number: i64,
    count: i64,
    newest: i64,
    /// The table that it is drawn from.
    ledger: i64,
}

impl Drawing {
    fn new(changes: &Changes, statements: &Statements) -> Self {
        let newest = changes.records.iter().map(|record| record.time).max().unwrap_or(0).cast_signed();
        Drawing { number: changes.number, count: changes.records.len() as i64, newest, ledger: statements.ledger }
    }

    /// What comes before [`Self::statement`].
    fn lock<'a>(&self, statements: &'a Statements) -> Option<&'a Statement> {
        (self.count > 0).then_some(&statements.lock_sequence)
    }

    fn statement<'a>(&'a self, statements: &'a Statements) -> (&'a Statement, Params<'a>) {
        if self.count == 0 {
            (&statements.commit_nothing, vec![&self.number, &self.ledger])
        } else {
            (&statements.commit_entries, vec![&self.number, &self.count, &self.newest, &self.ledger])
        }
    }
}

/// A commit was on its way.
fn unknown(broken: Broken) -> Broken {
    match broken.fault {
        Fault::Unavailable(what) => Broken { fault: Fault::Unknown(what), ..broken },
        _ => broken,
    }
}

/// The row of a commit.
pub(super) fn committed(row: &Row) -> Result<Committed, Fault> {
    let [first_sequence, time_floor] = [column::<i64>(row, 0)?, column::<i64>(row, 1)?].map(i64::cast_unsigned);
    Ok(Committed { first_sequence, time_floor })
}
