//! Batches of transfers, by ExecuteBatch and by ExecuteStream, and the like on a ledger.

use std::collections::VecDeque;
use std::time::Instant;

use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Error;
use super::call::{self, Answer, is_refusal, is_undecided, submit};
use super::closed::{Plan, REST, Shared, UnderWay};
use super::names::Names;
use super::opened::Embedded;
use super::recorder::{Due, Series};
use super::tally::Effect;
use super::wire::{Encoded, Pattern, Results};
use crate::{Durability, Exhausted, Ledger, Operation, Request, SubmitError};

const BATCH: PathAndQuery = PathAndQuery::from_static("/equipoise.v1.AccountService/ExecuteBatch");
const STREAM: PathAndQuery = PathAndQuery::from_static("/equipoise.v1.AccountService/ExecuteStream");

/// How many operations of a batch had which result.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    refused: u32,
    /// Not decided: a limit of the service.
    failed: u32,
    /// May have been decided.
    unknown: u32,
}

impl Counts {
    /// Counts the results of a batch of `size` operations; those without a result are unknown.
    fn of(results: &Results, size: u32) -> Self {
        let told = u32::try_from(results.results.len()).unwrap_or(u32::MAX);
        let mut counts = Counts { unknown: size.saturating_sub(told), ..Counts::default() };
        for result in results.results.iter().filter(|result| result.code != 0) {
            match Code::from(result.code) {
                code if is_refusal(code) => counts.refused += 1,
                code if is_undecided(code) => counts.failed += 1,
                _ => counts.unknown += 1,
            }
        }
        counts
    }
}

impl Shared {
    fn begin_batch(&self, series: Series, size: u32) -> UnderWay<'_> {
        self.recorder.borrow_mut().tally.begun(Effect::TRANSFER, u64::from(size));
        self.begin(series, Instant::now(), Due::AtItsEnd)
    }
}

impl UnderWay<'_> {
    /// Records the answer to a batch of `size` operations; it is an answer even if some of them failed.
    fn batch_answered(self, size: u32, counts: Counts) {
        let Counts { refused, failed, unknown } = counts;
        let decided = size.saturating_sub(failed + unknown);
        if failed + unknown > 0 {
            self.in_part(&format!("{} of {size} operations failed", failed + unknown));
        }
        self.answered(Instant::now(), decided, refused, |tally| {
            tally.decided(Effect::TRANSFER, u64::from(decided), u64::from(refused));
            tally.not_decided(Effect::TRANSFER, u64::from(failed));
        });
    }

    /// Writes down that a batch failed as a whole.
    fn batch_failed(self, size: u32, status: &Status) {
        let (text, unknown) = match call::of_status(status) {
            Answer::Failed { text, unknown } => (text, unknown),
            // A batch as a whole is not refused for a balance.
            _ => (call::text(status), true),
        };
        self.failed(Effect::TRANSFER, u64::from(size), &text, unknown);
    }
}

/// One batch after the other by ExecuteBatch, until it is over.
pub(super) async fn batches(channel: Channel, shared: Shared, mut plan: Plan, size: u32) -> Result<(), Error> {
    let mut grpc = Grpc::new(channel);
    let pattern = Pattern::new(&shared.names)?;
    while !shared.over(Instant::now()) {
        let batch = pattern.batch(size, &shared.names, &mut plan.steps, &mut plan.ids);
        let under_way = shared.begin_batch(Series::Batch, size);
        let ready = grpc.ready().await.map_err(|error| Status::from_error(error.into()));
        let answer = match ready {
            Ok(()) => grpc.unary(tonic::Request::new(batch), BATCH, Encoded::<Results>::default()).await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(results) => under_way.batch_answered(size, Counts::of(results.get_ref(), size)),
            Err(status) => {
                under_way.batch_failed(size, &status);
                tokio::time::sleep(REST).await;
            }
        }
    }
    Ok(())
}

/// Batches on one ExecuteStream, `most` in flight, until it is over. A stream that breaks is opened again.
pub(super) async fn stream(
    channel: Channel,
    shared: Shared,
    mut plan: Plan,
    size: u32,
    most: usize,
) -> Result<(), Error> {
    let pattern = Pattern::new(&shared.names)?;
    while !shared.over(Instant::now()) {
        let mut under_way = VecDeque::with_capacity(most);
        let ended = one_stream(&channel, &shared, &mut plan, &pattern, size, most, &mut under_way).await;
        if let Err(status) = ended {
            if under_way.is_empty() {
                under_way.push_back(shared.begin(Series::Stream, Instant::now(), Due::AtItsEnd));
            }
            // They may have been done.
            under_way.into_iter().for_each(|batch| batch.failed(Effect::TRANSFER, 0, &call::text(&status), true));
            tokio::time::sleep(REST).await;
        }
    }
    Ok(())
}

async fn one_stream<'a>(
    channel: &Channel,
    shared: &'a Shared,
    plan: &mut Plan,
    pattern: &Pattern,
    size: u32,
    most: usize,
    under_way: &mut VecDeque<UnderWay<'a>>,
) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let (requests, receiver) = tokio::sync::mpsc::channel::<Bytes>(most);
    let asked = tonic::Request::new(ReceiverStream::new(receiver));
    let answer = grpc.streaming(asked, STREAM, Encoded::<Results>::default()).await?;
    let mut results = answer.into_inner();
    let mut requests = Some(requests);
    loop {
        while let Some(to) = requests.as_ref().filter(|_| under_way.len() < most) {
            if shared.over(Instant::now()) {
                // The service answers what is under way, and ends the stream.
                requests = None;
                break;
            }
            let batch = pattern.batch(size, &shared.names, &mut plan.steps, &mut plan.ids);
            under_way.push_back(shared.begin_batch(Series::Stream, size));
            if to.send(batch).await.is_err() {
                requests = None;
            }
        }
        let Some(message) = results.message().await? else { break };
        let Some(batch) = under_way.pop_front() else {
            return Err(Status::internal("more results than batches"));
        };
        batch.batch_answered(size, Counts::of(&message, size));
    }
    if under_way.is_empty() { Ok(()) } else { Err(Status::unknown("the stream ended before its results")) }
}

/// The same on a ledger: up to `most` batches wait for the disk; with 1, each is awaited before the next begins.
pub(super) async fn on_ledger(
    embedded: Embedded,
    series: Series,
    shared: Shared,
    mut plan: Plan,
    size: u32,
    most: usize,
) -> Result<(), Error> {
    // Each batch is waited for as a whole.
    let ledger = embedded.ledger.with_durability(Durability::Applied);
    let mut under_way: VecDeque<(UnderWay<'_>, u64, Counts)> = VecDeque::with_capacity(most);
    loop {
        let durable = if embedded.durable { ledger.durable() } else { u64::MAX };
        while under_way.front().is_some_and(|(_, sequence, _)| *sequence <= durable)
            && let Some((batch, _, counts)) = under_way.pop_front()
        {
            batch.batch_answered(size, counts);
        }
        let over = shared.over(Instant::now());
        match under_way.front() {
            Some((_, sequence, _)) if over || under_way.len() == most => {
                let closed = |_| Error::Other("the ledger was closed".to_owned());
                ledger.wait_durable(*sequence).map_err(closed)?;
            }
            None if over => return Ok(()),
            _ => {
                let requests = requests(&mut plan, size, &shared.names)?;
                let batch = shared.begin_batch(series, size);
                let (sequence, counts) = decide(&ledger, requests);
                under_way.push_back((batch, sequence, counts));
            }
        }
    }
}

fn requests(plan: &mut Plan, size: u32, names: &Names) -> Result<Vec<Request>, Error> {
    let request = |_| {
        let step = plan.steps.next();
        let (from, to) = (names.account(step.account).clone(), names.account(step.to).clone());
        Ok(Request::single(Operation::transfer(from, to, 1)?, Some(plan.ids.next_id()?)))
    };
    (0..size).map(request).collect()
}

/// Decides them all: the last sequence, and how it went.
fn decide(ledger: &Ledger, requests: Vec<Request>) -> (u64, Counts) {
    let (mut last, mut counts) = (0, Counts::default());
    let decided = ledger.submit_all(requests.iter().cloned());
    for (request, decided) in requests.into_iter().zip(decided) {
        let decided = match decided {
            // By itself, when there is room.
            Err(SubmitError::Exhausted(Exhausted::Backlog { .. })) => submit(ledger, request),
            decided => decided,
        };
        match decided {
            Ok(outcome) => {
                last = outcome.sequence();
                counts.refused += u32::from(outcome.result().is_err());
            }
            Err(_) => counts.failed += 1,
        }
    }
    (last, counts)
}
