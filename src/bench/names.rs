//! What a run calls its accounts and transactions: names that nobody else uses, each kind of one length.

use super::Error;
use crate::{AccountId, TransactionId};

/// Digits of an account's number.
const ACCOUNT_DIGITS: usize = 7;
/// The most accounts of a run.
pub const MAX_ACCOUNTS: u32 = 9_999_999;
/// Letters and digits that tell a run from others.
const RUN: usize = 8;
/// The length of a transaction's id: as long as one is kept without an allocation of its own.
pub(super) const TRANSACTION_BYTES: usize = 24;

/// The names of one run.
#[derive(Debug)]
pub(super) struct Names {
    run: String,
    prefix: String,
    accounts: Vec<AccountId>,
}

impl Names {
    /// For `accounts` accounts.
    pub(super) fn new(accounts: u32) -> Result<Self, Error> {
        let random = getrandom::u64().map_err(|error| Error::Other(format!("no random number: {error}")))?;
        Names::of_run(random, accounts)
    }

    fn of_run(mut random: u64, accounts: u32) -> Result<Self, Error> {
        const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut run = String::with_capacity(RUN);
        for _ in 0..RUN {
            run.push(char::from(LETTERS[(random % 32) as usize]));
            random /= 32;
        }
        let mut names = Names { prefix: format!("bench-{run}-"), run, accounts: Vec::new() };
        names.accounts = (0..accounts).map(|number| names.account_id(number)).collect::<Result<_, _>>()?;
        Ok(names)
    }

    /// What the accounts' ids begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The accounts that are opened before the run.
    pub(super) fn accounts(&self) -> &[AccountId] {
        &self.accounts
    }

    pub(super) fn account(&self, number: u32) -> &AccountId {
        &self.accounts[number as usize]
    }

    /// The id of any account, also of one that the run opens itself.
    pub(super) fn account_id(&self, number: u32) -> Result<AccountId, Error> {
        Ok(AccountId::new(&format!("{}{number:0ACCOUNT_DIGITS$}", self.prefix))?)
    }

    /// Which account of this run has that id.
    pub(super) fn number(&self, id: &[u8]) -> Option<u32> {
        let digits = id.strip_prefix(self.prefix.as_bytes())?;
        digits.iter().try_fold(0_u32, |number, digit| {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
            number.checked_mul(10)?.checked_add(u32::from(digit))
        })
    }

    /// The transaction ids of one caller; `caller` below 10,000.
    pub(super) fn transactions(&self, caller: u32) -> Transactions {
        let mut text = [b'0'; TRANSACTION_BYTES];
        let digits = TRANSACTION_BYTES - RUN - 1;
        let begin = format!("{}-{:0<digits$}", self.run, format!("{caller:04}"));
        text.copy_from_slice(&begin.as_bytes()[..TRANSACTION_BYTES]);
        Transactions(text)
    }
}

/// Ids, one after the other: the digits are counted up where they stand.
#[derive(Clone, Debug)]
pub(super) struct Transactions([u8; TRANSACTION_BYTES]);

impl Transactions {
    /// The next one, as bytes of ASCII.
    #[inline]
    pub(super) fn next_bytes(&mut self) -> &[u8; TRANSACTION_BYTES] {
        for digit in self.0.iter_mut().rev() {
            if *digit == b'9' {
                *digit = b'0';
            } else {
                *digit += 1;
                break;
            }
        }
        &self.0
    }

    #[inline]
    pub(super) fn next_text(&mut self) -> &str {
        std::str::from_utf8(self.next_bytes()).unwrap_or_default()
    }

    pub(super) fn next_id(&mut self) -> Result<TransactionId, Error> {
        Ok(TransactionId::new(self.next_text())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_and_all_of_one_length() {
        let names = Names::of_run(7, 2).expect("names");
        let mut ids = names.transactions(31);
        assert_eq!(ids.next_text(), "haaaaaaa-003100000000001");
        let many: Vec<_> = (0..1_200).map(|_| ids.next_text().to_owned()).collect();
        assert_eq!(many.last().map(String::as_str), Some("haaaaaaa-003100000001201"));
        assert!(many.is_sorted());
        assert_ne!(names.transactions(0).next_text(), names.transactions(1).next_text());
    }

    #[test]
    fn accounts_are_known_by_their_ids() {
        let names = Names::of_run(7, 2).expect("names");
        assert_eq!(names.account(1).as_str(), "bench-haaaaaaa-0000001");
        assert_eq!(names.number(names.account(1).as_str().as_bytes()), Some(1));
        assert_eq!(
            names.number(names.account_id(MAX_ACCOUNTS).expect("an id").as_str().as_bytes()),
            Some(MAX_ACCOUNTS)
        );
        let other = Names::of_run(8, 2).expect("names");
        for stranger in [other.account(1).as_str(), "alice", "bench-haaaaaaa-00000x1"] {
            assert_eq!(names.number(stranger.as_bytes()), None, "{stranger}");
        }
    }
}
