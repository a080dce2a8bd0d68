//! What a service says of a run: its journal, from the oldest entry on, and the balances after it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Streaming};

use super::{Evidence, Found, Waiting};
use crate::cli::Common;
use crate::cli::client::{self, Client, Stub};
use crate::cli::exit::Failure;
use crate::config::Environment;
use crate::grpc::proto;
use crate::inventory::{Totals, Workload};

/// How long it must be quiet before everything counts as consumed: an event that is wrongly applied again comes late.
const QUIET: Duration = Duration::from_secs(2);

/// A service.
pub(in crate::cli) struct Server {
    common: Common,
    environment: Environment,
}

impl Server {
    /// Asks it something, so that a service that is not there is known at once.
    pub(super) fn connect(server: &str, environment: &Environment) -> Result<Self, Failure> {
        let common = Common { server: Some(server.to_owned()), timeout: None, json: false };
        client::run(&common, environment, async |client| {
            let request = proto::ListAccountsRequest { page_size: 1, ..proto::ListAccountsRequest::default() };
            let ask = |mut stub: Stub, request| async move { stub.list_accounts(request).await };
            client.call(request, ask).await.map(drop)
        })?;
        Ok(Server { common, environment: environment.clone() })
    }

    /// Waits until every event is in the journal and nothing more comes, and looks.
    pub(super) fn evidence(&self, seed: u64, totals: &Totals, waiting: &mut Waiting<'_>) -> Result<Evidence, Failure> {
        waiting.begin();
        let mut journal = Journal::new(seed, totals);
        client::run(&self.common, &self.environment, async |client| {
            let request = proto::WatchTransactionsRequest::default();
            let ask = |mut stub: Stub, request| async move { stub.watch_transactions(request).await };
            let mut stream = client.open(request, ask).await?;
            journal.read(&client, &mut stream, waiting).await?;
            journal.compare_balances(&client).await
        })?;
        Ok(Evidence { products: journal.products, differences: journal.differences })
    }
}

/// The journal as far as it was read.
struct Journal {
    first: String,
    end: String,
    events: u64,
    seen: HashSet<String>,
    /// By product; `unexplained` is what a stock jumped by between two entries.
    products: BTreeMap<String, Found>,
    /// The sequence of each product's newest change.
    sequences: BTreeMap<String, u64>,
    differences: Vec<String>,
}

impl Journal {
    fn new(seed: u64, totals: &Totals) -> Self {
        Journal {
            first: Workload::id(seed, 0),
            end: Workload::id(seed, totals.distinct),
            events: totals.distinct,
            seen: HashSet::new(),
            products: BTreeMap::new(),
            sequences: BTreeMap::new(),
            differences: Vec::new(),
        }
    }

    async fn read(
        &mut self,
        client: &Client,
        stream: &mut Streaming<proto::WatchTransactionsResponse>,
        waiting: &mut Waiting<'_>,
    ) -> Result<(), Failure> {
        loop {
            let complete = self.seen.len() as u64 == self.events;
            let message = match timeout(QUIET, client.wait(stream)).await {
                Ok(message) => message?,
                Err(_) if complete => return Ok(()),
                Err(_) => {
                    let seen = self.seen.len() as u64;
                    if waiting.goes_on(seen, self.events) {
                        continue;
                    }
                    return Err(waiting.too_late(format!("{seen} of {} events were decided", self.events)));
                }
            };
            // The service ends.
            let Some(message) = message else { return Ok(()) };
            message.transactions.iter().for_each(|transaction| self.take(transaction));
            waiting.goes_on(self.seen.len() as u64, self.events);
        }
    }

    fn take(&mut self, transaction: &proto::Transaction) {
        let id = &transaction.transaction_id;
        let ours = (self.first.as_str()..self.end.as_str()).contains(&id.as_str());
        if ours && !self.seen.insert(id.clone()) {
            self.differences.push(format!("{id} is in the journal twice"));
        }
        let accepted = Code::from(transaction.code) == Code::Ok;
        for leg in &transaction.legs {
            if accepted {
                let found = match self.products.entry(leg.account_id.clone()) {
                    Entry::Vacant(new) => {
                        new.insert(Found { lowest: leg.balance, stock: leg.balance, ..Found::default() })
                    }
                    Entry::Occupied(known) => {
                        let found = known.into_mut();
                        found.unexplained += i128::from(leg.balance) - i128::from(found.stock) - i128::from(leg.delta);
                        found.stock = leg.balance;
                        found.lowest = found.lowest.min(leg.balance);
                        found
                    }
                };
                found.accepted += u64::from(ours);
                self.sequences.insert(leg.account_id.clone(), transaction.sequence);
            }
            if ours {
                let found = self.products.entry(leg.account_id.clone()).or_default();
                found.events += 1;
                found.entries += u64::from(transaction.legs.len() == 1);
                found.sum += i128::from(leg.delta);
            }
        }
    }

    /// What is read is what the journal says; a balance that changed meanwhile is none of the run's.
    async fn compare_balances(&mut self, client: &Client) -> Result<(), Failure> {
        let ours: Vec<_> = self.products.iter().filter(|(_, found)| found.accepted > 0).collect();
        for (sku, found) in ours {
            let request = proto::GetBalanceRequest { account_id: sku.clone() };
            let ask = |mut stub: Stub, request| async move { stub.get_balance(request).await };
            let answer: proto::GetBalanceResponse = client.call(request, ask).await?;
            if self.sequences.get(sku) == Some(&answer.sequence) && answer.balance != found.stock {
                let text = format!("{sku}: the balance is {}, the journal says {}", answer.balance, found.stock);
                self.differences.push(text);
            }
        }
        Ok(())
    }
}
