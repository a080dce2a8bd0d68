//! No bank at all: what a machine does to threads that share nothing.

use std::hint::black_box;

use equipoise::{AccountId, AccountState, InvalidRequest, Request, TransactionId};
use smallvec::smallvec;

use super::{Answer, Bank, Limits};

/// Steps of arithmetic a call, to take about as long as a transfer.
const STEPS: u64 = 1000;

/// Computes for a moment, and touches nothing that anybody else does. So its longest call is the longest turn of the others on the processors.
pub struct Bare;

impl Bank for Bare {
    const NAME: &'static str = "bare threads";

    fn build(_: &[AccountId], _: i64, _: Limits) -> Self {
        Bare
    }

    fn read(&self, _: &AccountId) -> Option<AccountState> {
        None
    }

    fn submit(&self, _: &dyn Fn() -> Request) -> Result<Answer, InvalidRequest> {
        let mixed = (0..STEPS).fold(1_u64, |mixed, step| black_box(mixed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step);
        black_box(mixed);
        Ok(Answer { sequence: 0, replayed: false, result: Ok(smallvec![]) })
    }

    fn transfer(&self, from: &AccountId, to: &AccountId, amount: i64, id: &TransactionId) -> Answer {
        black_box((from, to, amount, id));
        self.submit(&|| unreachable!("it asks for nothing")).expect("it refuses nothing")
    }

    fn snapshot(&self) -> (usize, i128) {
        (0, 0)
    }
}
