//! Batches as bytes. All ids of a run have the same length, so one encoded operation is the pattern of all: a batch
//! consists of copies with other ids written in. Answers are decoded only as far as they are counted.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::Error;
use super::choice::Steps;
use super::names::{Names, TRANSACTION_BYTES, Transactions};
use crate::grpc::proto;
use crate::grpc::proto::operation::Operation as OneOf;

/// One encoded transfer as part of a batch, and the places of its ids.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
    id: usize,
}

impl Pattern {
    /// For the transfers of a run with these names.
    pub(super) fn new(names: &Names) -> Result<Self, Error> {
        let length = names.account(0).as_str().len();
        let [from, to, id] = [("<", length), (">", length), ("#", TRANSACTION_BYTES)].map(|(text, n)| text.repeat(n));
        let message = proto::TransferFundsRequest {
            from_account_id: from.clone(),
            to_account_id: to.clone(),
            amount: 1,
            transaction_id: id.clone(),
        };
        let operation = proto::Operation { operation: Some(OneOf::TransferFunds(message)), linked: false };
        let bytes = proto::ExecuteBatchRequest { operations: vec![operation] }.encode_to_vec();
        let place = |text: &str| {
            let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
            found.ok_or_else(|| Error::Other("an encoded transfer does not hold its ids".to_owned()))
        };
        Ok(Pattern { from: place(&from)?, to: place(&to)?, id: place(&id)?, bytes })
    }

    /// A batch of `count` transfers.
    pub(super) fn batch(&self, count: u32, names: &Names, steps: &mut Steps, ids: &mut Transactions) -> Bytes {
        let size = self.bytes.len();
        let mut batch = self.bytes.repeat(count as usize);
        for operation in batch.chunks_exact_mut(size) {
            let step = steps.next();
            let mut put = |at: usize, text: &[u8]| operation[at..at + text.len()].copy_from_slice(text);
            put(self.from, names.account(step.account).as_str().as_bytes());
            put(self.to, names.account(step.to).as_str().as_bytes());
            put(self.id, ids.next_bytes());
        }
        batch.into()
    }
}

/// Sends bytes as they are, and reads an answer as `T`.
#[derive(Debug)]
pub(super) struct Encoded<T>(PhantomData<T>);

impl<T> Default for Encoded<T> {
    fn default() -> Self {
        Encoded(PhantomData)
    }
}

impl<T: Message + Default + Send + 'static> Codec for Encoded<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Encoded::default()
    }

    fn decoder(&mut self) -> Self {
        Encoded::default()
    }
}

impl<T> Encoder for Encoded<T> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl<T: Message + Default> Decoder for Encoded<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let item = T::decode(buffer).map_err(|error| Status::internal(format!("an answer cannot be read: {error}")))?;
        Ok(Some(item))
    }
}

/// `ExecuteBatchResponse`, as far as it is counted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Results {
    #[prost(message, repeated, tag = "1")]
    pub(super) results: Vec<Code>,
}

/// `OperationResult`, as far as it is counted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Code {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
}

/// `SnapshotBalancesResponse`, as far as it is added up.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Page {
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) accounts: Vec<Balance>,
}

/// An account, as far as it is added up.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Balance {
    #[prost(int64, tag = "2")]
    pub(super) balance: i64,
}

/// `WatchTransactionsResponse`, as far as it is checked; ids as bytes, which need no copy.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entries {
    #[prost(message, repeated, tag = "1")]
    pub(super) transactions: Vec<Entry>,
}

/// `Transaction`, as far as it is checked.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(message, repeated, tag = "5")]
    pub(super) legs: Vec<Leg>,
    #[prost(int32, tag = "6")]
    pub(super) code: i32,
}

/// `Leg`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Leg {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) account: Bytes,
    #[prost(int64, tag = "2")]
    pub(super) delta: i64,
    #[prost(int64, tag = "3")]
    pub(super) balance: i64,
    #[prost(uint64, tag = "4")]
    pub(super) version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Workload;
    use crate::bench::choice::Choices;

    /// A14: what is patched together is what an encoder would have made.
    #[test]
    fn a_batch_is_a_request_of_the_contract() {
        let names = Names::new(50).expect("names");
        let choices = Choices::draw(&Workload::Uniform.mix(), 50, 9).expect("a table");
        let (mut steps, mut ids) = (choices.of_caller(3), names.transactions(3));
        let batch = Pattern::new(&names).expect("a pattern").batch(100, &names, &mut steps, &mut ids);
        let (mut steps, mut ids) = (choices.of_caller(3), names.transactions(3));
        let request = proto::ExecuteBatchRequest::decode(batch).expect("a request");
        assert_eq!(request.operations.len(), 100);
        for operation in request.operations {
            let step = steps.next();
            let expected = proto::TransferFundsRequest {
                from_account_id: names.account(step.account).to_string(),
                to_account_id: names.account(step.to).to_string(),
                amount: 1,
                transaction_id: ids.next_text().to_owned(),
            };
            assert_eq!(operation.operation, Some(OneOf::TransferFunds(expected)));
        }
    }

    #[test]
    fn an_answer_is_read_as_far_as_it_is_counted() {
        let account = proto::Account { account_id: "a".to_owned(), balance: 5, version: 2, sequence: 7 };
        let result = proto::OperationResult { code: 9, accounts: vec![account.clone()], ..Default::default() };
        let answer = proto::ExecuteBatchResponse { results: vec![result, Default::default()] };
        let read = Results::decode(answer.encode_to_vec().as_slice()).expect("results");
        assert_eq!(read.results.iter().map(|result| result.code).collect::<Vec<_>>(), [9, 0]);
        let page = proto::SnapshotBalancesResponse { sequence: 7, accounts: vec![account] };
        let page = Page::decode(page.encode_to_vec().as_slice()).expect("a page");
        assert_eq!((page.sequence, page.accounts[0].balance), (7, 5));
        let leg = proto::Leg { account_id: "a".to_owned(), delta: -1, balance: 4, version: 3 };
        let entry = proto::Transaction { sequence: 8, code: 9, legs: vec![leg], ..Default::default() };
        let watched = proto::WatchTransactionsResponse { transactions: vec![entry] };
        let entry = &Entries::decode(watched.encode_to_vec().as_slice()).expect("entries").transactions[0];
        let leg = &entry.legs[0];
        assert_eq!((entry.sequence, entry.code, leg.delta, leg.balance, leg.version), (8, 9, -1, 4, 3));
        assert_eq!(leg.account, "a");
    }
}
