//! Reads what a ledger holds of a run: its accounts at one sequence, and the journal up to there.

use axum::http::uri::PathAndQuery;
use prost::Message as _;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::call::Stub;
use super::check::{Checker, Expected, Leg, Shown, State};
use super::names::Names;
use super::opened::{Embedded, Reach, connect};
use super::patience::Patience;
use super::wire::{Encoded, Entries};
use super::{Check, Error};
use crate::grpc::proto;
use crate::{HistoryError, Ledger};

const WATCH: PathAndQuery = PathAndQuery::from_static("/equipoise.v1.AccountService/WatchTransactions");

/// Accounts, and entries, that are taken from an embedded ledger at a time.
const PAGE: usize = 1_000;

/// How much of the journal is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// The newest sequence before the run.
    pub(super) before: u64,
    /// The most entries that are read, the newest ones; 0 for none.
    pub(super) most: u64,
}

/// How many entries of how many were read.
pub(super) type Told<'a> = &'a mut dyn FnMut(u64, u64);

impl Reach {
    /// Checks a ledger that the run has left alone; others may go on in it.
    pub(super) async fn check(
        &self,
        names: &Names,
        expected: &Expected,
        extent: Extent,
        patience: &Patience,
        told: Told<'_>,
    ) -> Result<Check, Error> {
        match self {
            Reach::Service(endpoint) => {
                let channel = patience.wait(connect(endpoint)).await?;
                let shown = shown_by_service(channel.clone(), names, patience).await?;
                let mut reading = Reading::new(names, extent, shown.sequence);
                if reading.wanted() {
                    reading.watch(channel, patience, told).await?;
                }
                Ok(reading.finish(&shown, expected))
            }
            Reach::Ledger(Embedded { ledger, .. }) => {
                let shown = shown_by_ledger(ledger, names)?;
                let mut reading = Reading::new(names, extent, shown.sequence);
                if reading.wanted() {
                    reading.follow(ledger, patience, told)?;
                }
                Ok(reading.finish(&shown, expected))
            }
        }
    }
}

async fn shown_by_service(channel: Channel, names: &Names, patience: &Patience) -> Result<Shown, Error> {
    let request = proto::SnapshotBalancesRequest { prefix: names.prefix().to_owned() };
    let mut stub = Stub::new(channel);
    let mut pages = patience.wait(stub.snapshot_balances(request)).await?.into_inner();
    let mut shown = Shown::default();
    while let Some(page) = patience.wait(pages.message()).await? {
        shown.sequence = page.sequence;
        for account in page.accounts {
            if let Some(number) = names.number(account.account_id.as_bytes()) {
                shown.put(number, State { balance: account.balance, version: account.version });
            }
        }
    }
    Ok(shown)
}

fn shown_by_ledger(ledger: &Ledger, names: &Names) -> Result<Shown, Error> {
    ledger
        .wait_durable(ledger.sequence())
        .map_err(|_| Error::Other(format!("the ledger was closed: {}", ledger.failure().unwrap_or_default())))?;
    let snapshot = ledger.snapshot_durable().map_err(|error| Error::Other(error.to_string()))?;
    let mut shown = Shown { sequence: snapshot.sequence(), ..Shown::default() };
    let mut after = None;
    loop {
        let page = snapshot.page(names.prefix(), after.as_ref(), PAGE);
        for account in &page {
            if let Some(number) = names.number(account.id.as_str().as_bytes()) {
                shown.put(number, State { balance: account.balance, version: account.version });
            }
        }
        after = page.into_iter().last().map(|account| account.id);
        if after.is_none() {
            return Ok(shown);
        }
    }
}

/// A journal on its way through a checker.
struct Reading<'a> {
    names: &'a Names,
    checker: Checker<'a>,
    extent: Extent,
    /// The first sequence that is read, and the last.
    from: u64,
    end: u64,
    note: Option<String>,
}

impl<'a> Reading<'a> {
    fn new(names: &'a Names, extent: Extent, end: u64) -> Self {
        let first = extent.before + 1;
        let from = first.max(end.saturating_add(1).saturating_sub(extent.most));
        let mut reading = Reading { names, checker: Checker::new(names, true), extent, from, end, note: None };
        if from > first {
            reading.begin_at(from, "asked for");
        }
        reading
    }

    fn wanted(&self) -> bool {
        self.from <= self.end
    }

    /// Notes that the journal is read from `from` on, later than the run's first entry.
    fn begin_at(&mut self, from: u64, why: &str) {
        let first = self.extent.before + 1;
        let [read, of] = [from, first].map(|from| self.end.saturating_add(1).saturating_sub(from));
        self.from = from;
        self.checker = Checker::new(self.names, from <= first);
        self.note = (from > first).then(|| match read {
            0 => format!("the journal was not read: no entry of this run's {of} is {why}"),
            _ => format!("of the journal's {of} entries since the run began the newest {read} were read, those {why}"),
        });
    }

    fn finish(self, shown: &Shown, expected: &Expected) -> Check {
        let read = self.from <= self.end;
        let mut check = self.checker.finish(shown, expected, read);
        check.notes.extend(self.note);
        check
    }

    async fn watch(&mut self, channel: Channel, patience: &Patience, told: Told<'_>) -> Result<(), Error> {
        let mut stream = match patience.wait(open(channel.clone(), self.from)).await {
            Err(Error::Status(status)) if status.code() == Code::FailedPrecondition => {
                patience.wait(open(channel, 0)).await?
            }
            opened => opened?,
        };
        let first = self.from;
        let mut begun = false;
        while let Some(message) = patience.wait(stream.message()).await? {
            for entry in message.transactions {
                if !begun && entry.sequence > first {
                    self.begin_at(entry.sequence, "kept");
                }
                begun = true;
                if entry.sequence > self.end {
                    return Ok(());
                }
                let legs = entry.legs.iter().map(|leg| Leg {
                    account: &leg.account,
                    delta: leg.delta,
                    after: State { balance: leg.balance, version: leg.version },
                });
                self.checker.entry(entry.sequence, entry.code == 0, legs);
                // The members of a chain come in one message.
                if entry.sequence == self.end {
                    return Ok(());
                }
                if entry.sequence % PAGE as u64 == 0 {
                    told(entry.sequence.saturating_sub(first), self.end - first);
                }
            }
        }
        Ok(())
    }

    fn follow(&mut self, ledger: &Ledger, patience: &Patience, told: Told<'_>) -> Result<(), Error> {
        let first = self.from;
        let mut next = self.from;
        while next <= self.end {
            patience.look()?;
            let page = match ledger.history(next, PAGE) {
                Ok(page) => page,
                Err(HistoryError::Gone(gone)) if next == self.from => {
                    next = gone.oldest;
                    self.begin_at(next, "kept");
                    continue;
                }
                Err(error) => return Err(Error::Other(error.to_string())),
            };
            let Some(last) = page.last() else { break };
            next = last.sequence() + 1;
            for outcome in page.iter().filter(|outcome| outcome.sequence() <= self.end) {
                let changes = outcome.changes();
                let legs = changes.iter().map(|change| Leg {
                    account: change.account.as_str().as_bytes(),
                    delta: change.delta,
                    after: State { balance: change.balance, version: change.version },
                });
                self.checker.entry(outcome.sequence(), outcome.result().is_ok(), legs);
            }
            told(next.saturating_sub(first).min(self.end - first), self.end - first);
        }
        Ok(())
    }
}

async fn open(channel: Channel, from_sequence: u64) -> Result<tonic::Streaming<Entries>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let request = proto::WatchTransactionsRequest { from_sequence, account_id: String::new() };
    let asked = tonic::Request::new(request.encode_to_vec().into());
    Ok(grpc.server_streaming(asked, WATCH, Encoded::<Entries>::default()).await?.into_inner())
}
