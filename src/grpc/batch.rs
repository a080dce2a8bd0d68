//! Batches: operations in order, each with its own result; linked ones as one chain.

use super::audit;
use super::books::{Begun, Books};
use super::convert;
use super::proto::{self, OperationResult, operation::Operation as Kind};
use super::status::Failure;
use crate::{InvalidRequest, MAX_BATCH_OPERATIONS, MAX_LEGS, Member, MemberResult, Outcome, Refusal, Request};

/// The longest result: two accounts with ids of 128 bytes, in the protobuf encoding.
const RESULT_BYTES: usize = 360;

/// A batch on its way.
pub(super) struct Batch {
    operations: Vec<proto::Operation>,
    /// Of each group that is a request.
    begun: Begun,
    /// The groups that are none: which, the member that is at fault, and why.
    wrong: Vec<(usize, (usize, Failure))>,
}

impl Batch {
    /// Decides every operation, in order and before those of a batch that is begun later.
    ///
    /// # Errors
    /// What is wrong with the batch as a whole: nothing was applied then.
    pub(super) async fn begin(
        books: &Books,
        operations: Vec<proto::Operation>,
        max_bytes: usize,
    ) -> Result<Self, Failure> {
        check(&operations, max_bytes)?;
        let (mut requests, mut wrong) = (Vec::with_capacity(operations.len()), Vec::new());
        for (index, group) in groups(&operations).enumerate() {
            match request(group) {
                Ok(request) => requests.push(request),
                Err(failed) => wrong.push((index, failed)),
            }
        }
        let begun = books.begin(requests).await;
        Ok(Batch { operations, begun, wrong })
    }

    /// The results, when all outcomes are durable; once. May be dropped and called again before.
    ///
    /// # Errors
    /// That the accounts were closed before all of it was durable.
    pub(super) async fn finish(&mut self) -> Result<Vec<OperationResult>, Failure> {
        let mut decided = self.begun.finish().await?.into_iter();
        let mut wrong = std::mem::take(&mut self.wrong).into_iter().peekable();
        let mut results = Vec::with_capacity(self.operations.len());
        for (index, group) in groups(&self.operations).enumerate() {
            let outcome = match wrong.next_if(|(at, _)| *at == index) {
                Some((_, failed)) => Err(failed),
                None => match decided.next() {
                    Some(outcome) => outcome.map_err(|failure| (culprit(&failure, group), failure)),
                    None => return Err(Failure::Internal("a request without an outcome")),
                },
            };
            match outcome {
                Ok(outcome) => {
                    let told = group.iter().zip(outcome.results());
                    results.extend(told.map(|(operation, result)| self::decided(&outcome, operation, result)));
                }
                Err((culprit, failure)) => undecided(&mut results, culprit, &failure, group),
            }
        }
        Ok(results)
    }
}

/// The operations in groups: linked ones together.
fn groups(operations: &[proto::Operation]) -> impl Iterator<Item = &[proto::Operation]> {
    operations.split_inclusive(|operation| !operation.linked)
}

/// What refuses the whole batch.
fn check(operations: &[proto::Operation], max_bytes: usize) -> Result<(), Failure> {
    let wrong = |reason, text| Err(Failure::Field { field: "operations", reason, text });
    let count = operations.len();
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

/// One request of the whole group; an error comes with the member that is at fault.
fn request(group: &[proto::Operation]) -> Result<Request, (usize, Failure)> {
    let mut members = Vec::with_capacity(group.len());
    for (index, operation) in group.iter().enumerate() {
        members.push(convert::operation(operation).map_err(|failure| (index, failure))?);
    }
    match <[Member; 1]>::try_from(members) {
        Ok([member]) => Ok(Request::single(member.operation, member.id)),
        Err(members) => Request::chain(members).map_err(|invalid| {
            let failure = Failure::from(invalid);
            (culprit(&failure, group), failure)
        }),
    }
}

/// The culprit keeps its text, the others say that their group failed.
fn undecided(results: &mut Vec<OperationResult>, culprit: usize, failure: &Failure, group: &[proto::Operation]) {
    let of_group = Failure::Refused { refusal: Refusal::Group { index: culprit }, replayed: false };
    // Everything else is true of all: shutting down, out of memory or disk, no answer from the store.
    let of_one = matches!(failure, Failure::Invalid(_) | Failure::Field { .. } | Failure::Refused { .. });
    results.extend(
        group
            .iter()
            .enumerate()
            .map(|(index, operation)| failed(operation, if !of_one || index == culprit { failure } else { &of_group })),
    );
}

/// What became of one member of a decided group.
fn decided(outcome: &Outcome, operation: &proto::Operation, result: MemberResult) -> OperationResult {
    let (sequence, replayed) = (outcome.sequence(), outcome.replayed());
    match result {
        Ok(accounts) => OperationResult {
            code: 0,
            message: String::new(),
            sequence,
            replayed,
            accounts: convert::accounts(accounts),
        },
        Err(refusal) => {
            let failure = Failure::Refused { refusal, replayed };
            OperationResult { sequence, replayed, ..failed(operation, &failure) }
        }
    }
}

fn failed(operation: &proto::Operation, failure: &Failure) -> OperationResult {
    let (name, subject) = convert::subject(operation);
    let (code, message) = (failure.code(), failure.to_string());
    audit::failed(name, subject, code, &message);
    OperationResult { code: code.into(), message, ..OperationResult::default() }
}

/// Which member of `group` a failure of the whole group is about.
fn culprit(failure: &Failure, group: &[proto::Operation]) -> usize {
    let Failure::Invalid(invalid) = failure else { return 0 };
    let id_of = |operation: &proto::Operation| convert::subject(operation).1.transaction.to_owned();
    let found = match invalid {
        InvalidRequest::IdReused { id, .. } => group.iter().position(|operation| id_of(operation) == id.as_str()),
        InvalidRequest::IdTwiceInChain { id } => group.iter().rposition(|operation| id_of(operation) == id.as_str()),
        InvalidRequest::IdOfAnother { index, .. } => Some(*index),
        InvalidRequest::TooManyLegs { .. } => {
            let mut legs = 0;
            group.iter().position(|operation| {
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
        let group = [proto::Operation { linked: true, ..Default::default() }, proto::Operation::default()];
        for failure in everybody {
            let mut results = Vec::new();
            undecided(&mut results, 0, &failure, &group);
            let told: Vec<_> = results.iter().map(|result| (result.code, result.message.as_str())).collect();
            let text = failure.to_string();
            assert_eq!(told, [(failure.code().into(), text.as_str()); 2]);
        }
        let mut results = Vec::new();
        let wrong = Failure::Field { field: "account_id", reason: "INVALID", text: "wrong".to_owned() };
        undecided(&mut results, 1, &wrong, &group);
        assert_ne!(results[0].message, "wrong");
        assert_eq!(results[1].message, "wrong");
    }
}
