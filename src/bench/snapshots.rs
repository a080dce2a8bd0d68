//! Readers of whole snapshots, beside whoever writes.

use std::time::Instant;

use axum::http::uri::PathAndQuery;
use prost::Message as _;
use tonic::Status;
use tonic::client::Grpc;
use tonic::transport::Channel;

use super::Error;
use super::call::text;
use super::closed::{REST, Shared, UnderWay};
use super::opened::Embedded;
use super::recorder::{Due, Series};
use super::tally::Effect;
use super::wire::{Encoded, Page};
use crate::grpc::proto;

const PATH: PathAndQuery = PathAndQuery::from_static("/equipoise.v1.AccountService/SnapshotBalances");

/// How many accounts are taken from an embedded snapshot at a time.
const PAGE: usize = 1_000;

/// What a snapshot showed of a run's accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shown {
    sequence: u64,
    accounts: usize,
    total: i128,
}

impl Shared {
    fn snapshot(&self) -> UnderWay<'_> {
        self.begin(Series::Snapshot, Instant::now(), Due::AtItsEnd)
    }

    fn shown(&self, shown: Shown, under_way: UnderWay<'_>, expected: i128) {
        under_way.answered(Instant::now(), 1, 0, |_| ());
        let mut recorder = self.recorder.borrow_mut();
        if (shown.accounts, shown.total) != (self.names.accounts().len(), expected) {
            let Shown { sequence, accounts, total } = shown;
            recorder.faults.push(format!(
                "a snapshot at sequence {sequence} beside the writers had {accounts} accounts and {total} units, expected {} and {expected}",
                self.names.accounts().len()
            ));
        }
    }
}

/// Reads one snapshot after the other from a service; each must add up to `expected`.
pub(super) async fn from_service(channel: Channel, shared: Shared, expected: i128) -> Result<(), Error> {
    while !shared.over(Instant::now()) {
        let under_way = shared.snapshot();
        match snapshot(&channel, shared.names.prefix()).await {
            Ok(shown) => shared.shown(shown, under_way, expected),
            Err(status) => {
                under_way.failed(Effect::NONE, 1, &text(&status), false);
                tokio::time::sleep(REST).await;
            }
        }
    }
    Ok(())
}

async fn snapshot(channel: &Channel, prefix: &str) -> Result<Shown, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let request = proto::SnapshotBalancesRequest { prefix: prefix.to_owned() }.encode_to_vec();
    let asked = tonic::Request::new(request.into());
    let mut pages = grpc.server_streaming(asked, PATH, Encoded::<Page>::default()).await?.into_inner();
    let mut shown = Shown::default();
    while let Some(page) = pages.message().await? {
        shown.sequence = page.sequence;
        shown.accounts += page.accounts.len();
        shown.total += page.accounts.iter().map(|account| i128::from(account.balance)).sum::<i128>();
    }
    Ok(shown)
}

/// The same from a ledger.
pub(super) async fn from_ledger(embedded: Embedded, shared: Shared, expected: i128) -> Result<(), Error> {
    while !shared.over(Instant::now()) {
        let under_way = shared.snapshot();
        let ledger = &embedded.ledger;
        let snapshot = match if embedded.durable { ledger.snapshot_durable() } else { ledger.snapshot() } {
            Ok(snapshot) => snapshot,
            Err(error) => {
                under_way.failed(Effect::NONE, 1, &error.to_string(), false);
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let mut shown = Shown { sequence: snapshot.sequence(), ..Shown::default() };
        let mut after = None;
        loop {
            let page = snapshot.page(shared.names.prefix(), after.as_ref(), PAGE);
            shown.accounts += page.len();
            shown.total += page.iter().map(|account| i128::from(account.balance)).sum::<i128>();
            after = page.into_iter().last().map(|account| account.id);
            if after.is_none() {
                break;
            }
        }
        shared.shown(shown, under_way, expected);
    }
    Ok(())
}
