//! The results of a batch, written as the message's bytes one by one.

use prost::Message;
use prost::bytes::BufMut;
use tonic::codec::EncodeBuf;

use super::codec::Encodes;
use super::proto::OperationResult;
use crate::AccountState;

/// What most results take, in bytes.
const USUAL: usize = 96;

/// The keys of the contract's fields: number and type.
mod key {
    pub(super) const RESULTS: u8 = 1 << 3 | 2;

    pub(super) const SEQUENCE: u8 = 3 << 3;
    pub(super) const REPLAYED: u8 = 4 << 3;
    pub(super) const ACCOUNTS: u8 = 5 << 3 | 2;

    pub(super) const ACCOUNT_ID: u8 = 1 << 3 | 2;
    pub(super) const BALANCE: u8 = 2 << 3;
    pub(super) const ACCOUNT_VERSION: u8 = 3 << 3;
    pub(super) const ACCOUNT_SEQUENCE: u8 = 4 << 3;
}

/// An ExecuteBatchResponse.
#[derive(Debug, Default)]
pub(super) struct Results(Vec<u8>);

impl Encodes for Results {
    fn put(self, into: &mut EncodeBuf<'_>) {
        into.reserve(self.0.len());
        into.put_slice(&self.0);
    }
}

impl Results {
    /// No results yet, with room for about `count`.
    pub(super) fn of(count: usize) -> Self {
        Results(Vec::with_capacity(count * USUAL))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds the result of an accepted operation, with the accounts as it left them.
    pub(super) fn accepted(&mut self, sequence: u64, replayed: bool, accounts: &[AccountState]) {
        self.delimited(key::RESULTS, |results| {
            results.number(key::SEQUENCE, sequence);
            results.number(key::REPLAYED, u64::from(replayed));
            for account in accounts {
                results.delimited(key::ACCOUNTS, |results| results.account(account));
            }
        });
    }

    /// Adds the result of a failed operation.
    pub(super) fn failed(&mut self, result: &OperationResult) {
        self.0.push(key::RESULTS);
        self.varint(result.encoded_len() as u64);
        result.encode_raw(&mut self.0);
    }

    fn account(&mut self, account: &AccountState) {
        self.delimited(key::ACCOUNT_ID, |results| results.0.extend_from_slice(account.id.as_str().as_bytes()));
        self.number(key::BALANCE, account.balance.cast_unsigned());
        self.number(key::ACCOUNT_VERSION, account.version);
        self.number(key::ACCOUNT_SEQUENCE, account.sequence);
    }

    /// Writes a field whose content `write` writes, behind its length.
    #[inline]
    fn delimited(&mut self, key: u8, write: impl FnOnce(&mut Self)) {
        self.0.extend_from_slice(&[key, 0]);
        let start = self.0.len();
        write(self);
        let length = self.0.len() - start;
        match u8::try_from(length) {
            Ok(short @ ..0x80) => self.0[start - 1] = short,
            _ => {
                // The length takes more than the byte that was left for it.
                let mut digits = Results(Vec::new());
                digits.varint(length as u64);
                self.0.splice(start - 1..start, digits.0);
            }
        }
    }

    /// A field, unless it has its default.
    #[inline]
    fn number(&mut self, key: u8, number: u64) {
        if number != 0 {
            self.0.push(key);
            self.varint(number);
        }
    }

    #[inline]
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AccountId;
    use crate::grpc::proto::{Account, ExecuteBatchResponse};

    /// A8, A14: what is written here is what prost would write.
    #[test]
    fn results_are_written_as_prost_does() {
        let (mut results, mut expected) = (Results::of(0), ExecuteBatchResponse::default());
        let numbers = [0, 1, 0x7f, 0x80, 300, u64::from(u32::MAX), i64::MAX as u64, u64::MAX];
        for (number, length) in numbers.into_iter().zip([1, 2, 16, 110, 111, 127, 128, 64]) {
            let state = AccountState {
                id: AccountId::new(&"x".repeat(length)).expect("short enough"),
                balance: number.cast_signed(),
                version: number,
                sequence: number,
            };
            let account =
                Account { account_id: state.id.to_string(), balance: state.balance, version: number, sequence: number };
            for count in 0..4 {
                results.accepted(number, count % 2 == 0, &vec![state.clone(); count]);
                expected.results.push(OperationResult {
                    sequence: number,
                    replayed: count % 2 == 0,
                    accounts: vec![account.clone(); count],
                    ..OperationResult::default()
                });
            }
            let failed = OperationResult { code: 9, message: "no".repeat(length), ..OperationResult::default() };
            results.failed(&failed);
            expected.results.push(failed);
        }
        assert_eq!(results.0, expected.encode_to_vec());
    }
}
