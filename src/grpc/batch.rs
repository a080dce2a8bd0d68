//! Batches: operations in order, each with its own result; linked ones as one chain.

use std::vec;

use super::audit;
use super::books::{Begun, Books};
use super::convert;
use super::operations::{Operations, Spelled, Spelling};
use super::proto::{OperationResult, operation::Operation as Kind};
use super::results::Results;
use super::status::Failure;
use crate::{InvalidRequest, MAX_BATCH_OPERATIONS, MAX_LEGS, Member, Outcome, Refusal, Request};

/// The longest result: two accounts with ids of 128 bytes, in the protobuf encoding.
const RESULT_BYTES: usize = 360;

/// A batch on its way.
pub(super) struct Batch {
    spelling: Spelling,
    /// Of each group that is a request.
    begun: Begun,
    /// The groups that are none, in order.
    wrong: Vec<Wrong>,
}

/// A group that is no request.
struct Wrong {
    group: usize,
    /// Which member is at fault.
    culprit: usize,
    failure: Box<Failure>,
}

impl Batch {
    /// Decides every operation, in order and before those of a batch that is begun later.
    ///
    /// # Errors
    /// What is wrong with the batch as a whole: nothing was applied then.
    pub(super) async fn begin(books: &Books, operations: Operations, max_bytes: usize) -> Result<Self, Failure> {
        let Operations { members, spelling, count } = operations;
        check(&spelling.operations, count, max_bytes)?;
        let mut wrong = Vec::new();
        let requests = Requests {
            members: members.into_iter(),
            rest: &spelling.operations,
            spelling: &spelling,
            group: 0,
            wrong: &mut wrong,
        };
        let begun = books.begin(requests).await;
        Ok(Batch { spelling, begun, wrong })
    }

    /// How many operations it has.
    pub(super) fn operations(&self) -> usize {
        self.spelling.operations.len()
    }

    /// The results, when all outcomes are durable; once. May be dropped and called again before.
    ///
    /// # Errors
    /// That the accounts were closed before all of it was durable.
    pub(super) async fn finish(&mut self) -> Result<Results, Failure> {
        let mut decided = self.begun.finish().await?.into_iter();
        let mut wrong = std::mem::take(&mut self.wrong).into_iter().peekable();
        let mut results = Results::of(self.spelling.operations.len());
        for (index, group) in groups(&self.spelling.operations).enumerate() {
            if let Some(Wrong { culprit, failure, .. }) = wrong.next_if(|wrong| wrong.group == index) {
                undecided(&self.spelling, group, culprit, &failure, &mut results);
                continue;
            }
            match decided.next() {
                Some(Ok(outcome)) => self.decided(group, &outcome, &mut results),
                Some(Err(failure)) => {
                    let culprit = culprit(&failure, &self.spelling, group);
                    undecided(&self.spelling, group, culprit, &failure, &mut results);
                }
                None => return Err(Failure::Internal("a request without an outcome")),
            }
        }
        Ok(results)
    }

    /// What became of the members of a group.
    fn decided(&self, group: &[Spelled], outcome: &Outcome, results: &mut Results) {
        let (sequence, replayed) = (outcome.sequence(), outcome.replayed());
        let mut operations = group.iter();
        outcome.each_result(|result| match (operations.next(), result) {
            (Some(_), Ok(accounts)) => results.accepted(sequence, replayed, &accounts),
            (Some(operation), Err(refusal)) => {
                let failure = Failure::Refused { refusal, replayed };
                results.failed(&OperationResult { sequence, replayed, ..failed(&self.spelling, operation, &failure) });
            }
            (None, _) => {}
        });
    }
}

/// The culprit keeps its text, the others say that their group failed.
fn undecided(spelling: &Spelling, group: &[Spelled], culprit: usize, failure: &Failure, results: &mut Results) {
    let of_group = Failure::Refused { refusal: Refusal::Group { index: culprit }, replayed: false };
    // Everything else is true of all: shutting down, out of memory or disk, no answer from the store.
    let of_one = matches!(failure, Failure::Invalid(_) | Failure::Field { .. } | Failure::Refused { .. });
    for (index, operation) in group.iter().enumerate() {
        let failure = if !of_one || index == culprit { failure } else { &of_group };
        results.failed(&failed(spelling, operation, failure));
    }
}

fn failed(spelling: &Spelling, operation: &Spelled, failure: &Failure) -> OperationResult {
    let operation = spelling.of(operation);
    let (name, subject) = convert::subject(&operation);
    let (code, message) = (failure.code(), failure.to_string());
    audit::failed(name, subject, code, &message);
    OperationResult { code: code.into(), message, ..OperationResult::default() }
}

/// The requests of a batch, made as they are asked for.
struct Requests<'b> {
    members: vec::IntoIter<Result<Member, Box<Failure>>>,
    /// The operations whose group was not looked at yet.
    rest: &'b [Spelled],
    spelling: &'b Spelling,
    /// The number of the next group.
    group: usize,
    wrong: &'b mut Vec<Wrong>,
}

impl Iterator for Requests<'_> {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        loop {
            let last = self.rest.iter().position(|operation| !operation.linked)?;
            let (group, rest) = self.rest.split_at(last + 1);
            (self.rest, self.group) = (rest, self.group + 1);
            match self.request(group) {
                Ok(request) => return Some(request),
                Err((culprit, failure)) => self.wrong.push(Wrong { group: self.group - 1, culprit, failure }),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.rest.len()))
    }
}

impl Requests<'_> {
    /// One request of the whole group; an error comes with the member that is at fault.
    fn request(&mut self, group: &[Spelled]) -> Result<Request, (usize, Box<Failure>)> {
        if group.len() == 1
            && let Some(member) = self.members.next()
        {
            let Member { id, operation } = member.map_err(|failure| (0, failure))?;
            return Ok(Request::single(operation, id));
        }
        let (mut members, mut wrong) = (Vec::with_capacity(group.len()), None);
        for (index, member) in self.members.by_ref().take(group.len()).enumerate() {
            match member {
                Ok(member) => members.push(member),
                Err(failure) => wrong = wrong.or(Some((index, failure))),
            }
        }
        match wrong {
            Some(wrong) => Err(wrong),
            None => Request::chain(members).map_err(|invalid| {
                let failure = Failure::from(invalid);
                (culprit(&failure, self.spelling, group), Box::new(failure))
            }),
        }
    }
}

/// The operations in groups: linked ones together.
fn groups(operations: &[Spelled]) -> impl Iterator<Item = &[Spelled]> {
    operations.split_inclusive(|operation| !operation.linked)
}

/// What refuses the whole batch.
fn check(operations: &[Spelled], count: usize, max_bytes: usize) -> Result<(), Failure> {
    let wrong = |reason, text| Err(Failure::Field { field: "operations", reason, text });
    if count > MAX_BATCH_OPERATIONS {
        let text = format!("a batch has at most {MAX_BATCH_OPERATIONS} operations, got {count}");
        return wrong("BATCH_TOO_LONG", text);
    }
    if count * RESULT_BYTES > max_bytes {
        let text = format!("the answer to {count} operations could be longer than {max_bytes} bytes");
        return wrong("BATCH_TOO_LONG", text);
    }
    if operations.last().is_some_and(|last| last.linked) {
        return wrong("LINKED_TO_NOTHING", "the last operation of a batch must not be linked".to_owned());
    }
    Ok(())
}

/// Which member of `group` a failure of the whole group is about.
fn culprit(failure: &Failure, spelling: &Spelling, group: &[Spelled]) -> usize {
    let Failure::Invalid(invalid) = failure else { return 0 };
    let mut spelled = group.iter().map(|operation| spelling.of(operation));
    let found = match invalid {
        InvalidRequest::IdReused { id, .. } => {
            spelled.position(|operation| convert::subject(&operation).1.transaction == id.as_str())
        }
        InvalidRequest::IdTwiceInChain { id } => {
            let mut of_that_id = spelled.map(|operation| convert::subject(&operation).1.transaction == id.as_str());
            of_that_id.rposition(|same| same)
        }
        InvalidRequest::IdOfAnother { index, .. } => Some(*index),
        InvalidRequest::TooManyLegs { .. } => {
            let mut legs = 0;
            spelled.position(|operation| {
                legs += if let Some(Kind::TransferFunds(_)) = operation.operation { 2 } else { 1 };
                legs > MAX_LEGS
            })
        }
        _ => None,
    };
    found.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::grpc::proto;

    /// A14: the answer to the longest batch, all ids at their limit, stays under 4 MiB.
    #[test]
    fn the_longest_answer_fits() {
        let account =
            proto::Account { account_id: "x".repeat(128), balance: i64::MIN, version: u64::MAX, sequence: u64::MAX };
        let result = OperationResult {
            code: 0,
            message: String::new(),
            sequence: u64::MAX,
            replayed: true,
            accounts: vec![account.clone(), account],
        };
        let response = proto::ExecuteBatchResponse { results: vec![result; MAX_BATCH_OPERATIONS] };
        assert!(response.encoded_len() <= RESULT_BYTES * MAX_BATCH_OPERATIONS, "{}", response.encoded_len());
        const { assert!(RESULT_BYTES * MAX_BATCH_OPERATIONS < 4 * 1024 * 1024) };
    }

    /// A14: what keeps a whole group from being decided is told of each member; what is wrong with one of them, of that one.
    #[test]
    fn a_failure_of_the_whole_group_is_told_of_every_member() {
        let what = "somebody unplugged it".to_owned();
        let everybody = [
            Failure::Closed,
            Failure::Unavailable { what: what.clone() },
            Failure::Broken { what: what.clone() },
            Failure::JournalFailed { what: what.clone() },
            Failure::IdsUnreadable { what },
            Failure::Internal("a request without an outcome"),
        ];
        let member = |linked| proto::Operation { linked, ..Default::default() };
        let request = proto::ExecuteBatchRequest { operations: vec![member(true), member(false)] };
        let spelling = Operations::read(request.encode_to_vec().into()).expect("as prost writes it").spelling;
        let told = |culprit, failure: &Failure| {
            let mut results = Results::of(2);
            undecided(&spelling, &spelling.operations, culprit, failure, &mut results);
            proto::ExecuteBatchResponse::decode(results.bytes()).expect("a message").results
        };
        for failure in everybody {
            let text = failure.to_string();
            let expected = (i32::from(failure.code()), text.as_str());
            let told = told(0, &failure);
            assert_eq!(
                told.iter().map(|result| (result.code, result.message.as_str())).collect::<Vec<_>>(),
                [expected; 2]
            );
        }
        let told = told(1, &Failure::Field { field: "account_id", reason: "INVALID", text: "wrong".to_owned() });
        assert_ne!(told[0].message, "wrong");
        assert_eq!(told[1].message, "wrong");
    }
}
