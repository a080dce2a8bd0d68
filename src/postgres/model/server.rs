//! A model of the database: rows, row locks held until the end of a transaction, and everything that can go wrong on
//! the way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::executor::{Random, pause};
use crate::account::{AccountId, Balance, TransactionId};
use crate::inventory::{DeadLetter, Position, StoredDeadLetter};
use crate::outcome::Record;
use crate::postgres::batch::{AccountChange, Changes, Committed, Found, Missed, OffsetFound, Used, Written};
use crate::postgres::database::{Database, Fault};
use crate::postgres::locked::Locked;
use crate::request::Kind;

/// A rule of the real database that this one breaks, to see that the test minds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// A partition's epoch is not checked.
    Epoch,
    /// A partition's next offset is not checked.
    Offset,
    /// An account's version is not checked.
    Version,
    /// An account that was only met by a refusal is not checked.
    Met,
    /// An id that was used meanwhile is used again.
    Id,
    /// A commit that went through without an answer counts as one that did not.
    Fate,
    /// Asking for the fate of a batch does not keep it from going through later.
    LateCommit,
    /// The commit sequence is not drawn last, right before the commit.
    Sequence,
    /// A commit that never went through counts as one that did, so what was decided on top of it is written.
    Fancy,
    /// A commit that was sent right behind a failed check goes through.
    Surely,
    /// What was decided on top of a batch that failed is written nevertheless, and not compared.
    OnFailed,
    /// What was decided on top of a batch that failed is written nevertheless: no bug, as long as it is compared.
    NeverDoubts,
}

/// An event whose change is this number is refused by the database.
pub(super) const POISON: i64 = 13;

#[derive(Default)]
pub(super) struct Server {
    pub(super) rows: BTreeMap<AccountId, Balance>,
    pub(super) ids: HashMap<TransactionId, Used>,
    pub(super) sequence: u64,
    time: u64,
    /// In the order of the commits.
    pub(super) journal: Vec<Record>,
    /// Which instance made each entry of the journal.
    pub(super) authors: Vec<usize>,
    fates: HashMap<i64, Option<Committed>>,
    pub(super) offsets: BTreeMap<(String, i32), (i64, Option<i64>)>,
    pub(super) letters: Vec<DeadLetter>,
    locks: HashMap<String, u64>,
    /// Transactions whose client is gone.
    zombies: Vec<Zombie>,
    drawn: i64,
    /// Once in how many steps something goes wrong; 0: never.
    pub(super) trouble: u64,
    pub(super) lost_commits: u64,
    /// Writes for a partition under an ownership that was over.
    pub(super) fenced_writes: u64,
}

struct Zombie {
    instance: usize,
    transaction: u64,
    steps: u64,
    /// Goes through in the end, with the sequence drawn before, if there was one.
    commits: Option<Changes>,
}

impl Server {
    /// Who holds what, for whoever looks why nobody gets on.
    pub(super) fn stuck(&self) -> String {
        format!("{} entries, offsets {:?}, locks {:?}", self.journal.len(), self.offsets, self.locks)
    }

    fn holds(&self, recalled: &[(TransactionId, u64)]) -> bool {
        recalled.iter().all(|(id, sequence)| self.ids.get(id).is_some_and(|used| used.record.sequence == *sequence))
    }

    fn unlock(&mut self, transaction: u64) {
        self.locks.retain(|_, holder| *holder != transaction);
    }

    /// Time passes for the transactions whose client is gone.
    fn tick(&mut self) {
        let mut over = Vec::new();
        for zombie in &mut self.zombies {
            zombie.steps = zombie.steps.saturating_sub(1);
        }
        while let Some(at) = self.zombies.iter().position(|zombie| zombie.steps == 0) {
            over.push(self.zombies.swap_remove(at));
        }
        for zombie in over {
            if let Some(changes) = zombie.commits
                && !self.fates.contains_key(&changes.number)
            {
                self.commit(zombie.instance, &changes, None);
            }
            self.unlock(zombie.transaction);
        }
    }

    fn commit(&mut self, instance: usize, changes: &Changes, drawn: Option<u64>) -> Committed {
        let first = drawn.unwrap_or(self.sequence + 1);
        let committed = Committed { first_sequence: first, time_floor: self.time };
        self.sequence = self.sequence.max(first + changes.records.len() as u64 - 1);
        let mut records = changes.records.clone();
        for (place, record) in records.iter_mut().enumerate() {
            committed.settle(record, place);
            self.time = self.time.max(record.time);
        }
        for used in &changes.ids {
            let record = Arc::new(records[used.place].clone());
            self.ids.insert(used.id.clone(), Used { record, member: used.member });
        }
        self.authors.extend(records.iter().map(|_| instance));
        self.journal.extend(records);
        for change in &changes.accounts {
            self.rows.insert(change.id.clone(), change.after);
        }
        for offset in &changes.offsets {
            if let Some(row) = self.offsets.get_mut(&(offset.topic.clone(), offset.partition)) {
                self.fenced_writes += u64::from(row.0 != offset.epoch);
                row.1 = Some(offset.next);
            }
        }
        self.letters.extend(changes.letters.iter().cloned());
        self.fates.insert(changes.number, Some(committed));
        committed
    }
}

/// A session of one instance.
pub(super) struct Session {
    pub(super) server: Arc<Mutex<Server>>,
    pub(super) random: Random,
    pub(super) bug: Bug,
    instance: usize,
    transaction: u64,
    locked: bool,
    connected: bool,
    /// What the newest batch that was not kept would have made of the accounts.
    failed: Vec<AccountChange>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.abandon(None);
    }
}

impl Session {
    pub(super) fn new(server: Arc<Mutex<Server>>, random: Random, bug: Bug, instance: usize) -> Self {
        let transaction = random.below(u64::MAX);
        Session { server, random, bug, instance, transaction, locked: false, connected: true, failed: Vec::new() }
    }

    /// The client is gone; its transaction ends some time later.
    fn abandon(&mut self, commits: Option<Changes>) {
        let steps = 1 + self.random.below(40);
        self.server.lock().zombies.push(Zombie {
            instance: self.instance,
            transaction: self.transaction,
            steps,
            commits,
        });
        self.transaction = self.random.below(u64::MAX);
        self.locked = false;
        self.connected = false;
    }

    fn end(&mut self) {
        self.server.lock().unlock(self.transaction);
        self.transaction = self.random.below(u64::MAX);
        self.locked = false;
    }

    /// Others go on; the connection may break.
    async fn step(&mut self) -> Result<(), Fault> {
        pause().await;
        let trouble = {
            let mut server = self.server.lock();
            server.tick();
            server.trouble
        };
        if !self.connected {
            return Err(Fault::Unavailable("not connected".to_owned()));
        }
        if self.random.once_in(trouble) {
            self.abandon(None);
            return Err(Fault::Unavailable("the connection broke".to_owned()));
        }
        Ok(())
    }

    async fn take(&mut self, lock: String) -> Result<(), Fault> {
        loop {
            {
                let mut server = self.server.lock();
                match server.locks.get(&lock) {
                    Some(holder) if *holder != self.transaction => {}
                    _ => {
                        server.locks.insert(lock, self.transaction);
                        return Ok(());
                    }
                }
            }
            self.step().await?;
        }
    }

    /// Takes the row of an account, unless it is not there, or is although it should be new: that is seen without
    /// waiting for whoever has locked it.
    async fn take_account(&mut self, id: &AccountId, new: bool) -> Result<bool, Fault> {
        let lock = format!("account {id}");
        loop {
            if self.bug != Bug::Version && self.server.lock().rows.contains_key(id) == new {
                return Ok(false);
            }
            let free = {
                let server = self.server.lock();
                server.locks.get(&lock).is_none_or(|holder| *holder == self.transaction)
            };
            if free {
                self.take(lock).await?;
                return Ok(true);
            }
            self.step().await?;
        }
    }

    /// Whether an account is as only a batch left it that was not kept, and the bug lets that pass.
    fn is_on_failed(&self, change: &AccountChange) -> bool {
        let left = |failed: &AccountChange| failed.id == change.id && Some(failed.after) == change.before;
        self.bug == Bug::OnFailed && self.failed.iter().any(left)
    }

    /// Takes every row, in the order of the real statements, and compares.
    async fn check(&mut self, changes: &Changes) -> Result<Missed, Fault> {
        let recalled = !self.server.lock().holds(&changes.recalled);
        let mut missed = Missed { recalled, ..Missed::default() };
        for new in [false, true] {
            for change in changes.accounts.iter().filter(|change| change.before.is_none() == new) {
                if self.bug == Bug::Met && change.before == Some(change.after) || self.is_on_failed(change) {
                    continue;
                }
                if !self.take_account(&change.id, new).await? {
                    missed.accounts.push(change.id.to_string());
                    continue;
                }
                let found = self.server.lock().rows.get(&change.id).copied();
                if found != change.before && self.bug != Bug::Version {
                    missed.accounts.push(change.id.to_string());
                }
            }
            self.step().await?;
        }
        for used in &changes.ids {
            self.take(format!("id {}", used.id)).await?;
            missed.ids |= self.server.lock().ids.contains_key(&used.id) && self.bug != Bug::Id;
        }
        self.step().await?;
        for offset in &changes.offsets {
            let key = (offset.topic.clone(), offset.partition);
            self.take(format!("offset {} {}", offset.topic, offset.partition)).await?;
            let (epoch, next) = self.server.lock().offsets.get(&key).copied().unwrap_or((-1, None));
            let fenced = epoch != offset.epoch && self.bug != Bug::Epoch;
            if fenced || (next != offset.from && self.bug != Bug::Offset) {
                missed.offsets.push(OffsetFound { topic: key.0, partition: key.1, epoch, next });
            }
        }
        Ok(missed)
    }
}

fn is_poison(record: &Record) -> bool {
    record.request.members().iter().any(|member| match member.operation.kind() {
        Kind::Update { delta, .. } => *delta == POISON,
        _ => false,
    })
}

impl Database for Session {
    async fn number(&mut self) -> Result<i64, Fault> {
        let mut server = self.server.lock();
        server.drawn += 1;
        Ok(server.drawn)
    }

    async fn look_up(&mut self, accounts: &[AccountId], ids: &[TransactionId], lock: bool) -> Result<Found, Fault> {
        self.step().await?;
        let sequence = self.server.lock().sequence;
        if lock {
            self.locked = true;
            for account in accounts {
                if self.server.lock().rows.contains_key(account) {
                    self.take(format!("account {account}")).await?;
                }
            }
        }
        self.step().await?;
        let mut found = Found { sequence, ..Found::default() };
        for account in accounts {
            let server = self.server.lock();
            // A row that came in after the locking is not seen: the real statement locks and reads at once.
            let mine = !lock || server.locks.get(&format!("account {account}")) == Some(&self.transaction);
            if let Some(row) = server.rows.get(account).filter(|_| mine) {
                found.accounts.insert(account.clone(), *row);
            }
        }
        self.step().await?;
        for id in ids {
            if let Some(used) = self.server.lock().ids.get(id) {
                found.ids.push((id.clone(), used.clone()));
            }
        }
        Ok(found)
    }

    async fn locked(&mut self, _: &Locked) -> Result<Locked, Fault> {
        Ok(Locked::default())
    }

    async fn holds(&mut self, recalled: &[(TransactionId, u64)]) -> Result<bool, Fault> {
        self.step().await?;
        Ok(self.server.lock().holds(recalled))
    }

    async fn release(&mut self) -> Result<(), Fault> {
        self.end();
        Ok(())
    }

    async fn write(&mut self, changes: &Changes, trial: bool) -> Result<Written, Fault> {
        let written = self.keep(changes, trial).await;
        self.failed = match written {
            Ok(Written::Committed(_)) => Vec::new(),
            _ => changes.accounts.clone(),
        };
        written
    }

    async fn fate(&mut self, changes: &Changes) -> Result<Option<Committed>, Fault> {
        self.step().await?;
        let number = changes.number;
        let mut server = self.server.lock();
        if self.bug == Bug::LateCommit {
            return Ok(server.fates.get(&number).copied().flatten());
        }
        let fate = *server.fates.entry(number).or_insert(None);
        let next = Committed { first_sequence: server.sequence + 1, time_floor: 0 };
        Ok(match self.bug {
            Bug::Fate => None,
            Bug::Fancy => fate.or(Some(next)),
            _ => fate,
        })
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    async fn recover(&mut self, faults: u32) -> bool {
        pause().await;
        if !self.random.once_in(3) {
            self.connected = true;
        }
        u64::from(faults) < 3 + self.random.below(6)
    }

    async fn take_over(&mut self, topic: &str, partitions: &[i32]) -> Result<Vec<Position>, Fault> {
        self.step().await?;
        let mut positions = Vec::new();
        for partition in partitions.iter().copied().collect::<BTreeSet<_>>() {
            self.take(format!("offset {topic} {partition}")).await?;
        }
        {
            let mut server = self.server.lock();
            for partition in partitions {
                let row = server.offsets.entry((topic.to_owned(), *partition)).or_insert((0, None));
                row.0 += 1;
                positions.push(Position { partition: *partition, epoch: row.0, next: row.1, fingerprint: 0 });
            }
        }
        self.end();
        Ok(positions)
    }

    async fn dead_letters(&mut self, _: usize) -> Result<Vec<StoredDeadLetter>, Fault> {
        Ok(Vec::new())
    }

    async fn published(&mut self, _: &[i64]) -> Result<(), Fault> {
        Ok(())
    }
}

impl Session {
    async fn keep(&mut self, changes: &Changes, trial: bool) -> Result<Written, Fault> {
        self.step().await?;
        if changes.records.iter().any(is_poison) {
            self.end();
            return Err(Fault::Refused("poison".to_owned()));
        }
        let missed = self.check(changes).await?;
        if !missed.accounts.is_empty() || missed.ids || missed.recalled || !missed.offsets.is_empty() {
            if self.bug == Bug::Surely && !self.locked && !trial {
                self.server.lock().commit(self.instance, changes, None);
            }
            self.end();
            return Ok(Written::Missed(missed));
        }
        if trial {
            self.end();
            return Ok(Written::Tried);
        }
        let drawn = self.server.lock().sequence + 1;
        self.step().await?;
        self.take("sequence".to_owned()).await?;
        let trouble = self.server.lock().trouble;
        if self.random.once_in(trouble.div_ceil(4)) {
            self.server.lock().lost_commits += 1;
            match self.random.below(3) {
                0 => drop(self.server.lock().commit(self.instance, changes, None)),
                1 => return Err(self.lose(Some(changes.clone()))),
                _ => {}
            }
            return Err(self.lose(None));
        }
        let drawn = (self.bug == Bug::Sequence).then_some(drawn);
        let committed = self.server.lock().commit(self.instance, changes, drawn);
        self.end();
        Ok(Written::Committed(committed))
    }

    fn lose(&mut self, commits: Option<Changes>) -> Fault {
        self.abandon(commits);
        Fault::Unknown("the answer to a commit was lost".to_owned())
    }
}
