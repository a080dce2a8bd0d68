//! The operations of a batch: read from the message's bytes into the domain, in one pass.
//!
//! Encoders write the fields of a message in ascending order, each once and in its shortest form. Any other form, and
//! fields outside the contract, are legal and rare: prost reads such messages.

use std::ops::Range;

use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message};
use tonic::codec::DecodeBuf;

use super::audit::{About, Subject, Unanswered};
use super::codec::Decodes;
use super::status::Failure;
use super::{convert, proto};
use crate::{MAX_BATCH_OPERATIONS, Member};

/// What an ExecuteBatchRequest says.
#[derive(Debug, Default)]
pub(super) struct Operations {
    /// Each operation, or why it is invalid.
    pub(super) members: Vec<Result<Member, Box<Failure>>>,
    pub(super) spelling: Spelling,
    /// The number of operations; those past the most that a batch may have are only counted.
    pub(super) count: usize,
}

/// The operations as the request spelled them, for reports about those that fail.
#[derive(Debug, Default)]
pub(super) struct Spelling {
    message: Bytes,
    pub(super) operations: Vec<Spelled>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spelled {
    at: Range<usize>,
    /// Whether it is joined to the next one.
    pub(super) linked: bool,
}

impl Spelling {
    /// An operation as the request spelled it.
    pub(super) fn of(&self, operation: &Spelled) -> proto::Operation {
        let spelled = self.message.get(operation.at.clone()).map(proto::Operation::decode);
        // It was read once before.
        spelled.and_then(Result::ok).unwrap_or_default()
    }

    /// How many bytes are kept for that.
    pub(super) fn bytes(&self) -> usize {
        self.message.len()
    }

    /// Logs that all of them failed.
    pub(super) fn failed(&self, unanswered: &mut Unanswered) {
        for operation in unanswered.named(&self.operations) {
            let operation = self.of(operation);
            let (name, subject) = convert::subject(&operation);
            unanswered.log(name, subject);
        }
    }
}

impl About for Operations {
    fn failed(&self, operation: &'static str, unanswered: &mut Unanswered) {
        if self.spelling.operations.is_empty() {
            unanswered.log(operation, Subject::default());
        }
        self.spelling.failed(unanswered);
    }
}

impl Decodes for Operations {
    fn take(from: &mut DecodeBuf<'_>) -> Result<Self, DecodeError> {
        Operations::read(from.copy_to_bytes(from.remaining()))
    }
}

impl Operations {
    pub(super) fn read(message: Bytes) -> Result<Self, DecodeError> {
        match usual(&message) {
            Some(Parts { members, operations, count }) => {
                Ok(Operations { members, spelling: Spelling { message, operations }, count })
            }
            None => unusual(message),
        }
    }
}

struct Parts {
    members: Vec<Result<Member, Box<Failure>>>,
    operations: Vec<Spelled>,
    count: usize,
}

/// None unless the message has the usual form.
fn usual(message: &[u8]) -> Option<Parts> {
    // Nothing of a usual operation is shorter.
    const SHORTEST: usize = 24;
    let capacity = (message.len() / SHORTEST).min(MAX_BATCH_OPERATIONS);
    let (mut members, mut operations) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
    let mut count = 0;
    let mut rest = Reader(message);
    while !rest.0.is_empty() {
        let operation = rest.message(1)??;
        let end = message.len() - rest.0.len();
        let at = end - operation.0.len()..end;
        let (member, linked) = self::operation(operation)?;
        count += 1;
        if count <= MAX_BATCH_OPERATIONS {
            members.push(member.map_err(Box::new));
            operations.push(Spelled { at, linked });
        }
    }
    Some(Parts { members, operations, count })
}

/// One operation, and whether it is linked.
fn operation(mut from: Reader<'_>) -> Option<(Result<Member, Failure>, bool)> {
    let member = if let Some(mut it) = from.message(1)? {
        let (account, initial, id) = (it.text(1)?, it.number(2)?, it.text(3)?);
        it.end(convert::create(account, initial, id).map_err(Failure::from))?
    } else if let Some(mut it) = from.message(2)? {
        let (account, delta, id) = (it.text(1)?, it.number(2)?, it.text(3)?);
        it.end(convert::update(account, delta, id).map_err(Failure::from))?
    } else if let Some(mut it) = from.message(3)? {
        let (source, destination, amount, id) = (it.text(1)?, it.text(2)?, it.number(3)?, it.text(4)?);
        it.end(convert::transfer(source, destination, amount, id).map_err(Failure::from))?
    } else {
        Err(convert::missing())
    };
    let linked = from.number(15)? != 0;
    from.end((member, linked))
}

fn unusual(message: Bytes) -> Result<Operations, DecodeError> {
    let count = count(&message)?;
    if count > MAX_BATCH_OPERATIONS {
        return Ok(Operations { count, ..Operations::default() });
    }
    let proto::ExecuteBatchRequest { operations } = proto::ExecuteBatchRequest::decode(message)?;
    let (mut members, mut spelled, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for operation in operations {
        let start = bytes.len();
        operation.encode_raw(&mut bytes);
        members.push(convert::operation(&operation).map_err(Box::new));
        spelled.push(Spelled { at: start..bytes.len(), linked: operation.linked });
    }
    Ok(Operations { members, spelling: Spelling { message: bytes.into(), operations: spelled }, count })
}

/// Counts the operations before any is decoded: one takes as little as two bytes of a message, but a hundred once prost
/// has decoded it. For an invalid message, the operations before the place where prost would find that out.
fn count(mut message: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    while message.has_remaining() {
        let skipped = decode_key(&mut message).and_then(|(tag, wire_type)| {
            count += usize::from(tag == 1);
            skip_field(wire_type, tag, &mut message, DecodeContext::default())
        });
        match skipped {
            Err(error) if count > MAX_BATCH_OPERATIONS => return Err(error),
            Err(_) => break,
            Ok(()) => {}
        }
    }
    Ok(count)
}

/// The unread rest of a protobuf message. A field that is not next is absent, and has its default.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    const VARINT: u8 = 0;
    const DELIMITED: u8 = 2;

    /// Whether the next field has that number and type; if so, its key is consumed.
    #[inline]
    fn key(&mut self, field: u8, wire_type: u8) -> bool {
        match self.0.split_first() {
            Some((key, rest)) if *key == field << 3 | wire_type => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first()?;
        if *first < 0x80 {
            self.0 = rest;
            return Some(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Option<u64> {
        let length = 1 + self.0.iter().take(10).position(|byte| byte & 0x80 == 0)?;
        let (digits, rest) = self.0.split_at(length);
        // The tenth has room for the highest bit only.
        if length == 10 && digits[9] > 1 {
            return None;
        }
        self.0 = rest;
        Some(digits.iter().rev().fold(0, |number, digit| number << 7 | u64::from(digit & 0x7f)))
    }

    #[inline]
    fn bytes(&mut self, field: u8) -> Option<Option<&'a [u8]>> {
        if !self.key(field, Self::DELIMITED) {
            return Some(None);
        }
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(bytes))
    }

    #[inline]
    fn message(&mut self, field: u8) -> Option<Option<Reader<'a>>> {
        Some(self.bytes(field)?.map(Reader))
    }

    #[inline]
    fn text(&mut self, field: u8) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(field)?.unwrap_or_default()).ok()
    }

    /// An int64 or a bool.
    #[inline]
    fn number(&mut self, field: u8) -> Option<i64> {
        if self.key(field, Self::VARINT) { Some(self.varint()?.cast_signed()) } else { Some(0) }
    }

    /// Returns `read` if nothing unread follows.
    fn end<T>(self, read: T) -> Option<T> {
        self.0.is_empty().then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::operation::Operation as Kind;
    use crate::grpc::proto::{CreateAccountRequest, ExecuteBatchRequest, TransferFundsRequest, UpdateBalanceRequest};

    fn requests() -> Vec<ExecuteBatchRequest> {
        let ids = ["", "a", "näme", "seventeen-letters", &"x".repeat(128), &"x".repeat(129), "tab\t"];
        let numbers = [0, 1, -1, 127, 128, i64::MAX, i64::MIN];
        let operation = |kind: usize, a: usize, b: usize| {
            let [account_id, transaction_id] = [ids[a % ids.len()], ids[b % ids.len()]].map(str::to_owned);
            let number = numbers[(a + b) % numbers.len()];
            let operation = match kind % 4 {
                0 => None,
                1 => Some(Kind::CreateAccount(CreateAccountRequest {
                    account_id,
                    initial_balance: number,
                    transaction_id,
                })),
                2 => Some(Kind::UpdateBalance(UpdateBalanceRequest { account_id, delta: number, transaction_id })),
                _ => Some(Kind::TransferFunds(TransferFundsRequest {
                    from_account_id: account_id,
                    to_account_id: ids[(a + 1 + b / 2) % ids.len()].to_owned(),
                    amount: number,
                    transaction_id,
                })),
            };
            proto::Operation { operation, linked: b.is_multiple_of(3) }
        };
        let batch = |length: usize| {
            let operations = (0..length).map(|number| operation(number, number / 4, number / 28));
            ExecuteBatchRequest { operations: operations.collect() }
        };
        [0, 1, 5, 300].map(batch).to_vec()
    }

    /// What the message says must be what prost reads there, however it is written.
    fn agree(message: Vec<u8>) {
        let ours = Operations::read(message.clone().into());
        match (ours, ExecuteBatchRequest::decode(&*message)) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours.count, theirs.operations.len());
                assert_eq!(ours.members.len(), theirs.operations.len());
                for ((member, spelled), operation) in
                    ours.members.iter().zip(&ours.spelling.operations).zip(&theirs.operations)
                {
                    assert_eq!(spelled.linked, operation.linked);
                    assert_eq!(ours.spelling.of(spelled), *operation);
                    match (member, convert::operation(operation)) {
                        (Ok(ours), Ok(theirs)) => assert_eq!(*ours, theirs),
                        (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
                        (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
                    }
                }
            }
            (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
            (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
        }
    }

    /// A14: a batch says what prost reads in it, and is read in one pass when prost wrote it.
    #[test]
    fn operations_are_read_as_prost_does() {
        for request in requests() {
            let message = request.encode_to_vec();
            assert!(usual(&message).is_some(), "{request:?}");
            agree(message);
        }
    }

    /// A14: fields in another order, twice, unknown, in a longer form: legal, and read as prost does.
    #[test]
    fn what_is_written_in_another_way_is_read_too() {
        let transfer = [0x0a, 1, b'a', 0x12, 1, b'b', 0x18, 5, 0x22, 1, b'x'];
        let nested = |key: u8, inner: &[u8]| [&[key, inner.len() as u8], inner].concat();
        let batch = |operation: &[u8]| nested(0x0a, operation);
        for operation in [
            nested(0x1a, &transfer),
            // The last field first; a field twice; one that nobody knows; numbers in more bytes than they need.
            nested(0x1a, &[&transfer[8..], &transfer[..8]].concat()),
            nested(0x1a, &[&transfer[..3], &transfer[..]].concat()),
            nested(0x1a, &[&transfer[..], &[0x7a, 2, 1, 2]].concat()),
            nested(0x1a, &[0x0a, 0x81, 0, b'a', 0x18, 0x85, 0x80, 0]),
            [&[0x78, 1], &*nested(0x1a, &transfer)].concat(),
            [nested(0x1a, &transfer), nested(0x12, &transfer[..3])].concat(),
            [nested(0x1a, &transfer[..3]), nested(0x1a, &transfer[3..])].concat(),
            nested(0x1a, &[0x0a, 1, 0xff]),
            nested(0x1a, &[0x0d, 1, 2, 3, 4]),
            nested(0x1a, &[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        ] {
            agree(batch(&operation));
            agree([batch(&operation), vec![0x10, 7], batch(&operation)].concat());
        }
    }

    /// A14: of an unusual message that has too many operations nothing is kept, and all are counted.
    #[test]
    fn too_many_operations_are_only_counted() {
        let unknown: &[u8] = &[0x10, 7];
        let many = [0x0a, 0].repeat(MAX_BATCH_OPERATIONS + 1);
        for message in [[unknown, &many].concat(), [&many, unknown].concat()] {
            let operations = Operations::read(message.into()).expect("a message");
            assert_eq!(operations.count, MAX_BATCH_OPERATIONS + 1);
            assert!(operations.members.is_empty() && operations.spelling.operations.is_empty());
        }
        let most = [unknown, &[0x0a, 0].repeat(MAX_BATCH_OPERATIONS)].concat();
        assert_eq!(Operations::read(most.into()).expect("a message").members.len(), MAX_BATCH_OPERATIONS);
        assert!(Operations::read([&many, &[0x10][..]].concat().into()).is_err());
    }

    /// A13: a batch that ends as one names its first operations in the log and counts the others, so that it does not
    /// crowd out whatever else is to be said.
    #[test]
    fn a_batch_that_ends_as_one_does_not_flood_the_log() {
        #[derive(Clone, Default)]
        struct Lines(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
        let log = tracing::Dispatch::from(log.finish());
        let end = |count: usize| {
            let update = |number: usize| proto::Operation {
                operation: Some(Kind::UpdateBalance(UpdateBalanceRequest {
                    account_id: "a".to_owned(),
                    delta: 1,
                    transaction_id: format!("t-{number}-"),
                })),
                linked: false,
            };
            let message = ExecuteBatchRequest { operations: (0..count).map(update).collect() }.encode_to_vec();
            let request = tonic::Request::new(Operations::read(message.into()).expect("a message"));
            let late = || crate::grpc::audit::Asked::new("ExecuteBatch", request).err().expect("too late");
            tracing::dispatcher::with_default(&log, || crate::grpc::deadline::begin_late(late));
            String::from_utf8(std::mem::take(&mut *lines.0.lock())).expect("text")
        };
        let log = end(100);
        assert_eq!(log.lines().count(), 100, "{log}");
        assert!((0..100).all(|number| log.contains(&format!("t-{number}-"))), "{log}");
        let log = end(MAX_BATCH_OPERATIONS);
        assert_eq!(log.lines().count(), 101);
        assert!((0..100).all(|number| log.contains(&format!("t-{number}-"))), "{log}");
        assert!(log.contains("9900 more operations"), "{log}");
    }

    /// A14: no message that was cut short or changed is read as something else than prost reads there.
    #[test]
    fn damaged_messages_are_read_as_prost_does() {
        let message = requests().swap_remove(2).encode_to_vec();
        for at in 0..message.len() {
            agree(message[..at].to_vec());
            for bit in 0..8 {
                let mut changed = message.clone();
                changed[at] ^= 1 << bit;
                agree(changed);
            }
        }
    }
}
