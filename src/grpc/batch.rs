//! Batches: operations in order, each with its own result; linked ones as one chain.

use std::collections::VecDeque;
use std::vec;

use super::audit::{self, Unanswered};
use super::books::{Begun, Books, Decided};
use super::convert;
use super::operations::{Operations, Spelled, Spelling};
use super::proto::{self, OperationResult, operation::Operation as Kind};
use super::results::Results;
use super::status::{Failure, shortened_to};
use crate::{
    AnswerGone, InvalidRequest, MAX_BATCH_OPERATIONS, MAX_LEGS, Member, Outcome, Refusal, Request, TransactionId,
};

/// Requests decided before others get a turn on this thread.
const TURN: usize = 256;

/// The longest result: two accounts with ids of 128 bytes, in the protobuf encoding.
const RESULT_BYTES: usize = 360;
/// The longest text of an operation, in bytes: nothing but what the system spells, as a path, is longer.
const MAX_TEXT: usize = RESULT_BYTES - 40;

/// A batch on its way.
pub(super) struct Batch {
    spelling: Spelling,
    begun: Begun,
    /// Groups that are not valid requests, in order.
    wrong: VecDeque<Wrong>,
    /// The results so far, which cover this many operations and groups.
    results: Results,
    operations: usize,
    groups: usize,
    /// Whether the batch was answered, or its failure logged: dropping it then logs nothing.
    ended: bool,
}

/// A group that is not a valid request.
struct Wrong {
    group: usize,
    /// The member at fault, if it is one.
    culprit: Option<usize>,
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
        let mut requests = Requests { members: members.into_iter(), operations: 0, groups: 0 };
        let results = Results::of(count);
        let begun = Begun::nothing(books);
        let (wrong, ended) = (VecDeque::new(), false);
        let mut batch = Batch { spelling, begun, wrong, results, operations: 0, groups: 0, ended };
        loop {
            let Batch { spelling, wrong, begun, .. } = &mut batch;
            begun.add(std::iter::from_fn(|| requests.next(spelling, wrong)).take(TURN)).await;
            // Results are written while what they tell is in the processor's caches, not when it is durable.
            for decided in batch.begun.decided() {
                batch.tell(&decided);
            }
            if requests.operations == batch.spelling.operations.len() {
                return Ok(batch);
            }
            // Between requests only: nothing is ever half decided.
            tokio::task::yield_now().await;
        }
    }

    /// How many operations it has.
    pub(super) fn operations(&self) -> usize {
        self.spelling.operations.len()
    }

    /// How many bytes its message has.
    pub(super) fn bytes(&self) -> usize {
        self.spelling.bytes()
    }

    /// Returns the results once all outcomes are durable. Cancel safe; not to be called again once it has returned.
    ///
    /// # Errors
    /// The accounts were closed before everything was durable.
    pub(super) async fn finish(&mut self) -> Result<Results, Failure> {
        for decided in self.begun.finish().await? {
            self.tell(&decided);
        }
        self.tell_wrong();
        if self.operations != self.spelling.operations.len() {
            return Err(Failure::Internal("a request without an outcome"));
        }
        self.ended = true;
        Ok(std::mem::take(&mut self.results))
    }

    /// Logs that there will be no results.
    pub(super) fn fail(&mut self, unanswered: &mut Unanswered) {
        self.ended = true;
        self.spelling.failed(unanswered);
    }

    /// Writes the results of the next group that is a request, and of the invalid groups before it.
    fn tell(&mut self, decided: &Decided) {
        self.tell_wrong();
        let group = self.operations..next_group(&self.spelling.operations, self.operations);
        (self.operations, self.groups) = (group.end, self.groups + 1);
        let group = &self.spelling.operations[group];
        match decided {
            Ok(outcome) => self.spelling.decided(group, outcome, &mut self.results),
            Err(failure) => {
                let culprit = culprit(failure, &self.spelling, group);
                self.spelling.undecided(group, culprit, failure, &mut self.results);
            }
        }
    }

    /// Writes the results of the next groups, as long as they are invalid.
    fn tell_wrong(&mut self) {
        while self.wrong.front().is_some_and(|wrong| wrong.group == self.groups)
            && let Some(Wrong { culprit, failure, .. }) = self.wrong.pop_front()
        {
            let group = self.operations..next_group(&self.spelling.operations, self.operations);
            (self.operations, self.groups) = (group.end, self.groups + 1);
            self.spelling.undecided(&self.spelling.operations[group], culprit, &failure, &mut self.results);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.ended {
            audit::last_words(|unanswered| self.spelling.failed(unanswered));
        }
    }
}

impl Spelling {
    /// Writes the results of a decided group.
    fn decided(&self, group: &[Spelled], outcome: &Outcome, results: &mut Results) {
        let (sequence, replayed) = (outcome.sequence(), outcome.replayed());
        let mut operations = group.iter();
        outcome.each_result(|result| match (operations.next(), result) {
            (Some(_), Ok(accounts)) => results.accepted(sequence, replayed, &accounts),
            (Some(operation), Err(refusal)) => {
                let failure = Failure::Refused { refusal, replayed };
                results.failed(&OperationResult { sequence, replayed, ..self.refused(operation, &failure) });
            }
            (None, _) => {}
        });
    }

    /// Writes the results of an undecided group: the culprit gets the failure's text, the others only that their group
    /// failed. Without a culprit every member gets the text.
    fn undecided(&self, group: &[Spelled], culprit: Option<usize>, failure: &Failure, results: &mut Results) {
        let of_group = culprit.map(|index| Failure::Refused { refusal: Refusal::Group { index }, replayed: false });
        for (index, operation) in group.iter().enumerate() {
            let told = of_group.as_ref().filter(|_| culprit != Some(index)).unwrap_or(failure);
            results.failed(&self.refused(operation, told));
        }
    }

    fn refused(&self, operation: &Spelled, failure: &Failure) -> OperationResult {
        let operation = self.of(operation);
        let (name, subject) = convert::subject(&operation);
        let (code, message) = (failure.code(), failure.to_string());
        audit::failed(name, subject, code, &message);
        OperationResult { code: code.into(), message: shortened_to(MAX_TEXT, message), ..OperationResult::default() }
    }
}

/// The requests of a batch, made on demand.
struct Requests {
    members: vec::IntoIter<Result<Member, Box<Failure>>>,
    /// How many operations and groups were looked at.
    operations: usize,
    groups: usize,
}

impl Requests {
    /// The next request; the invalid groups before it go to `wrong`.
    fn next(&mut self, spelling: &Spelling, wrong: &mut VecDeque<Wrong>) -> Option<Request> {
        while self.operations < spelling.operations.len() {
            let group = self.operations..next_group(&spelling.operations, self.operations);
            (self.operations, self.groups) = (group.end, self.groups + 1);
            match self.request(&spelling.operations[group], spelling) {
                Ok(request) => return Some(request),
                Err((culprit, failure)) => wrong.push_back(Wrong { group: self.groups - 1, culprit, failure }),
            }
        }
        None
    }

    /// Makes one request of the whole group. An error comes with the member at fault.
    fn request(&mut self, group: &[Spelled], spelling: &Spelling) -> Result<Request, (Option<usize>, Box<Failure>)> {
        if group.len() == 1
            && let Some(member) = self.members.next()
        {
            let Member { id, operation } = member.map_err(|failure| (Some(0), failure))?;
            return Ok(Request::single(operation, id));
        }
        let (mut members, mut wrong) = (Vec::with_capacity(group.len()), None);
        for (index, member) in self.members.by_ref().take(group.len()).enumerate() {
            match member {
                Ok(member) => members.push(member),
                Err(failure) => wrong = wrong.or(Some((Some(index), failure))),
            }
        }
        match wrong {
            Some(wrong) => Err(wrong),
            None => Request::chain(members).map_err(|invalid| {
                let failure = Failure::from(invalid);
                (culprit(&failure, spelling, group), Box::new(failure))
            }),
        }
    }
}

/// The end of the group that begins with operation `first`: linked operations form one group.
fn next_group(operations: &[Spelled], first: usize) -> usize {
    operations[first..].iter().position(|operation| !operation.linked).map_or(operations.len(), |last| first + last + 1)
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

/// The member of `group` that a failure is about. None if it concerns all of them: shutdown, no memory or disk left, no
/// answer from the store, or a store that refuses the chain without naming the row.
fn culprit(failure: &Failure, spelling: &Spelling, group: &[Spelled]) -> Option<usize> {
    let mut spelled = group.iter().map(|operation| spelling.of(operation));
    let invalid = match failure {
        Failure::AnswerGone(AnswerGone { id, .. }) => return spelled.position(|operation| carries(&operation, id)),
        Failure::Invalid(invalid) => invalid,
        _ => return None,
    };
    let found = match invalid {
        InvalidRequest::IdReused { id, .. } => spelled.position(|operation| carries(&operation, id)),
        InvalidRequest::IdTwiceInChain { id } => {
            let mut of_that_id = spelled.map(|operation| carries(&operation, id));
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
    found.or(Some(0))
}

fn carries(operation: &proto::Operation, id: &TransactionId) -> bool {
    convert::subject(operation).1.transaction == id.as_str()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// A14: the answer to the longest batch stays under 4 MiB, which clients read by default, by an eighth of that:
    /// accepted, with all ids and numbers at their limits, or refused with the longest text.
    #[test]
    fn the_longest_answer_fits() {
        const LEFT: usize = 4 * 1024 * 1024 - RESULT_BYTES * MAX_BATCH_OPERATIONS;
        const { assert!(LEFT >= 512 * 1024) };
        let account =
            proto::Account { account_id: "x".repeat(128), balance: i64::MIN, version: u64::MAX, sequence: u64::MAX };
        let told = OperationResult { sequence: u64::MAX, replayed: true, ..OperationResult::default() };
        let accepted = OperationResult { accounts: vec![account.clone(), account], ..told.clone() };
        let message = shortened_to(MAX_TEXT, "é".repeat(MAX_TEXT));
        let refused = OperationResult { code: i32::from(tonic::Code::Unauthenticated), message, ..told };
        for result in [accepted, refused] {
            let response = proto::ExecuteBatchResponse { results: vec![result; MAX_BATCH_OPERATIONS] };
            let bytes = response.encoded_len();
            assert!(bytes <= RESULT_BYTES * MAX_BATCH_OPERATIONS, "{bytes} bytes leave less than {LEFT} of 4 MiB");
        }
    }

    /// A14: nor is it longer when each operation fails for a reason that the system spells.
    #[test]
    fn the_longest_texts_fit() {
        let message = [0x0a, 0].repeat(MAX_BATCH_OPERATIONS);
        let spelling = Operations::read(message.into()).expect("a batch").spelling;
        let disk = crate::Exhausted::Disk { path: "é".repeat(250), needed: u64::MAX };
        let mut results = Results::of(0);
        for group in 0..MAX_BATCH_OPERATIONS {
            spelling.undecided(&spelling.operations[group..=group], None, &disk.clone().into(), &mut results);
        }
        assert!(results.bytes().len() <= RESULT_BYTES * MAX_BATCH_OPERATIONS, "{}", results.bytes().len());
        let told = proto::ExecuteBatchResponse::decode(results.bytes()).expect("a message").results;
        assert!(told.iter().all(|result| result.message.starts_with("no room in éé")), "{:?}", told[0]);
    }

    /// A14: what keeps a whole group from being decided is told of each member; what is wrong with one of them, of that
    /// one.
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
            // The store does not say which member it is.
            Failure::Field { field: "message", reason: "STORE_REFUSES", text: "PostgreSQL refuses it".to_owned() },
        ];
        let member = |linked| proto::Operation { linked, ..Default::default() };
        let request = proto::ExecuteBatchRequest { operations: vec![member(true), member(false)] };
        let spelling = Operations::read(request.encode_to_vec().into()).expect("as prost writes it").spelling;
        let told = |failure: &Failure, culprit: Option<usize>| {
            let mut results = Results::of(2);
            spelling.undecided(&spelling.operations, culprit, failure, &mut results);
            proto::ExecuteBatchResponse::decode(results.bytes()).expect("a message").results
        };
        for failure in everybody {
            let text = failure.to_string();
            let expected = (i32::from(failure.code()), text.as_str());
            let told = told(&failure, culprit(&failure, &spelling, &spelling.operations));
            assert_eq!(
                told.iter().map(|result| (result.code, result.message.as_str())).collect::<Vec<_>>(),
                [expected; 2]
            );
        }
        let wrong = Failure::Field { field: "account_id", reason: "INVALID", text: "wrong".to_owned() };
        let told = told(&wrong, Some(1));
        assert_ne!(told[0].message, "wrong");
        assert_eq!(told[1].message, "wrong");
    }
}
